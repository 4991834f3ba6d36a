"""One self-contained HTML page with its tables and figures, from finished numbers alone."""

import base64
import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from results.answers import answers, distances, multiplier_of, verdict_of
from results.cautions import scope, warnings, worst_first
from results.figures import FIGURES, caption, command, draw, write_figure
from results.rules import hypotheses
from results.tables import TABLES, begun
from results.tidy import Results, missing, records
from results.wording import (
    DASH,
    Printed,
    absent,
    counted,
    duration,
    interval,
    listed,
    number,
    percent,
    printed,
    significant,
    write_table,
)

SHORT = [
    "dataset", "arm", "generator", "exposure", "against", "budget", "ratio", "backbone", "variant", "n_train",
    "difference", "low", "high", "p", "p_holm", "text", "beats_placebos", "smallest_detectable", "seeds",
]  # fmt: skip
INLINE_LIMIT = 400_000  # bytes of SVG above which a figure goes into the page as PNG
KINDS = ("png", "pdf", "svg")
PNG_LIMIT, PAGE_WIDTH = 2_000_000, 1400  # bytes of PNG above which it is a JPEG there, so many pixels wide


class Shown(NamedTuple):
    """A figure on the page."""

    name: str
    title: str
    message: str
    source: str  # data URI
    command: str
    wide: bool


def render(results: Results, folder: Path) -> None:
    """report/index.html, report/tables/* and report/figures/* under `folder`; reproducible bytes."""
    report = folder / "report"
    tables = {name: begun(results, make(results)) for name, make in TABLES.items()}
    for name, table in tables.items():
        write_table(table, report / "tables", name)
    figures = _figures(results, report / "figures")
    (report / "index.html").write_text(page(results, tables, figures), encoding="utf-8")


def page(results: Results, tables: dict[str, pd.DataFrame], figures: dict[str, Shown]) -> str:
    """The HTML."""
    environment = Environment(
        loader=PackageLoader("results", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"shown": _shown, "picture": picture}
    context = {
        "results": results,
        "name": results.study.get("name", "study"),
        "scope": scope(results),
        "answers": answers(results),
        "glance": glance(results),
        "columns": Glance._fields,
        "written": as_written(results),
        "warnings": warnings(results),
        "figures": figures,
        "missing_figures": [entry.title for name, entry in FIGURES.items() if name not in figures],
        "tables": {name: printed(table, fold=True) for name, table in tables.items()},
        "family": _contrasts(begun(results, results.claims), claimed=True),
        "exploratory": _contrasts(begun(results, results.claims), claimed=False),
        "claims": hypotheses(results),
        "cost": cost_sentence(results),
        "facts": facts(results),
        "commands": commands(results),
        "cells": results.manifest.get("cells") or {},
        "scales": next(s for s in (5, 4, 3, 2, 1) if s == 1 or int(results.study.get("size", 64)) > 10 * 2 ** (s - 1)),
    }
    return environment.get_template("report.html.j2").render(context)


def _figures(results: Results, folder: Path) -> dict[str, Shown]:
    """All figures that the study has data for; those that lie there are kept where nothing they come from changed."""
    shown, study, note = {}, str(results.study.get("name", "STUDY")), folder.parent / "drawn.json"
    known = json.loads(note.read_text()) if note.is_file() else {}
    key, widths = _origin(results), dict[str, float]()
    kept = known.get("key") == key and all(
        (folder / f"{n}.{kind}").is_file() for n in known["widths"] for kind in KINDS
    )
    for name, entry in FIGURES.items():
        figure = None if kept else draw(name, results)
        if figure is None and name not in (known["widths"] if kept else ()):
            continue
        line, text = command(name, study), caption(name, results)
        if figure is not None:
            write_figure(figure, folder, name, line, text)
        widths[name] = known["widths"][name] if figure is None else float(figure.get_figwidth())
        source = _source(folder, name, entry.dense)
        shown[name] = Shown(name, entry.title, entry.message(results), source, line, widths[name] > 7)
    if shown:
        note.write_text(json.dumps({"key": key, "widths": widths}))
    return shown


def _origin(results: Results) -> str:
    """A digest of all that figures come from: every number and picture, the code of this package, matplotlib."""
    seen = hashlib.sha256(matplotlib.__version__.encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        seen.update(file.read_bytes())

    def feed(value: Any) -> None:
        if isinstance(value, pd.DataFrame):
            seen.update(value.to_csv(index=False).encode())
        elif isinstance(value, np.ndarray):
            seen.update(f"{value.shape}{value.dtype}".encode() + value.tobytes())
        elif isinstance(value, dict | list | tuple):
            for each in value.items() if isinstance(value, dict) else value:
                feed(each)
        else:
            seen.update(repr(value).encode())

    for name in (each.name for each in dataclasses.fields(results) if each.name != "manifest"):
        feed(name)
        feed(getattr(results, name))
    return seen.hexdigest()


def _source(folder: Path, name: str, dense: bool) -> str:
    vector = (folder / f"{name}.svg").read_bytes()
    if not dense and len(vector) <= INLINE_LIMIT:
        return _uri("image/svg+xml", vector)
    dots = (folder / f"{name}.png").read_bytes()
    if len(dots) <= PNG_LIMIT:
        return _uri("image/png", dots)
    with Image.open(io.BytesIO(dots)) as opened:
        small = opened.convert("RGB")
    small.thumbnail((PAGE_WIDTH, 20 * PAGE_WIDTH), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=80)
    return _uri("image/jpeg", buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(image: npt.NDArray[np.uint8]) -> str:
    """uint8 [H, W, 3] -> PNG as a data URI, 64 px or less a side."""
    thumbnail = Image.fromarray(image)
    thumbnail.thumbnail((64, 64), Image.Resampling.BOX)
    buffer = io.BytesIO()
    thumbnail.save(buffer, format="PNG")
    return _uri("image/png", buffer.getvalue())


def _contrasts(claims: pd.DataFrame, claimed: bool) -> Printed:
    return printed(claims.loc[claims["claim"] == claimed, SHORT], fold=True)


def cost_sentence(results: Results) -> str:
    """The total, and what one more seed or budget of every classifier would cost."""
    costs = results.costs
    if costs.empty or costs["seconds"].isna().all():
        return "No times were recorded."
    cells = costs.drop_duplicates("cell")
    classify = cells[cells["stage"] == "classify"]
    total = duration(cells["seconds"].sum())
    text = f"{counted(len(cells), 'cell').capitalize()} took {total} of computing in all."
    seeds = results.table.loc[results.table["stage"] == "classify", "seed"].dropna().nunique()
    if len(classify) and seeds:
        budgets = results.table.loc[results.table["stage"] == "classify", "budget"].dropna().nunique()
        seed, budget = (duration(classify["seconds"].sum() / max(1, each)) for each in (seeds, budgets))
        text += f" One more seed of every classifier would cost about {seed}, one more budget about {budget}."
    return text


def as_written(results: Results) -> str:
    """How sets were drawn where a filter was on or a setting was swept: the first value of each."""
    given = results.study.get("sampling") or {}
    kept = {key: given.get(key) or [None] for key in ("filter", "privacy", "guidance", "steps")}
    told = [f"{key} {values[0]:g}" if values[0] else f"no {key}" for key, values in kept.items()
            if len(values) > 1 or (key in ("filter", "privacy") and values[0])]  # fmt: skip
    return listed(told)


def facts(results: Results) -> list[tuple[str, str]]:
    """Settings, seeds and versions as name and text, without what is missing."""
    study, manifest = results.study, results.manifest
    keys = (
        "size",
        "seeds",
        "margin",
        "autoencoder",
        "share",
        "audit_pool",
        "classifier",
        "sampling",
        "generators",
    )
    found = [(key.replace("_", " "), _plain(study[key])) for key in keys if key in study]
    found += [("versions", _plain(manifest.get("versions"))), ("seeds used", _plain(manifest.get("seeds")))]
    other = sorted(set(manifest) - {"versions", "seeds", "commands", "shared_images", "cells", "missing"})
    found += [(key.replace("_", " "), _plain(manifest[key])) for key in other]
    return [(key, text) for key, text in found if text not in (DASH, "")]


def _plain(value: Any) -> str:
    """Nested settings in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(each) for each in value)
    return DASH if missing(value) or absent(value) else str(value)


def commands(results: Results) -> list[str]:
    """The commands that repeat the study and redraw its report."""
    return [str(each) for each in results.manifest.get("commands") or []]


def _shown(value: Any) -> str:
    return DASH if absent(value) else str(value)


class Bar(NamedTuple):
    """A small interval plot, places in per cent of its width."""

    low: float
    high: float
    value: float
    zero: float
    text: str


class Glance(NamedTuple):
    """What a data set's row says."""

    dataset: str
    image_type: str
    real: Any  # uint8 [H, W, 3] or None
    synthetic: Any
    images: int | None  # real images used
    budget: str
    gain: str
    bar: Bar | None
    placebos: str
    multiplier: str
    fidelity: str
    controls: str
    excess: str
    most: str
    alarm: bool
    verdict: str
    word: str


def glance(results: Results) -> list[Glance]:
    """The headline contrasts' data sets, then those without one."""
    rows = records(verdict_of(results))
    scale = _scale(rows)
    shown = [_row(results, str(row["dataset"]), row, scale) for row in rows]
    known = {row.dataset for row in shown}
    return shown + [_row(results, name, None, scale) for name in results.names if name not in known]


def _scale(rows: list[dict[str, Any]]) -> tuple[float, float]:
    ends = [float(row[name]) for row in rows for name in ("low", "high", "difference") if not absent(row[name])]
    return min([*ends, -0.01]), max([*ends, 0.01])


def _row(results: Results, name: str, row: dict[str, Any] | None, scale: tuple[float, float]) -> Glance:
    card, pictures = (
        results.card(name),
        next((each for each in results.samples if each["dataset"] == name), None),
    )
    fidelity, controls = _fidelity(results, name)
    excess, most, alarm = _excess(results, name)
    return Glance(
        dataset=name,
        image_type=str(card.get("image_type", "")),
        real=pictures["real"][0] if pictures is not None and len(pictures["real"]) else None,
        synthetic=pictures["synthetic"][0] if pictures is not None and len(pictures["synthetic"]) else None,
        images=None if row is None or absent(row["n_train"]) else int(row["n_train"]),
        budget=percent(row["budget"]) if row else DASH,
        gain=number(row["difference"], sign=True) if row else DASH,
        bar=_bar(row, scale) if row else None,
        placebos=({"": DASH}.get(row["beats_placebos"], row["beats_placebos"])) if row else DASH,
        multiplier=_short(multiplier_of(results, row)) if row else DASH,
        fidelity=fidelity,
        controls=controls,
        excess=excess,
        most=most,
        alarm=alarm,
        verdict=str(row["text"]) if row else "no contrast",
        word=str(row["verdict"]) if row else "none",
    )


def _bar(row: dict[str, Any], scale: tuple[float, float]) -> Bar:
    low, high = (row["difference"] if absent(row[end]) else row[end] for end in ("low", "high"))
    places = np.interp([low, high, row["difference"], 0.0], scale, (4.0, 96.0)).round(2).tolist()
    text = interval(row["low"], row["high"], sign=True)
    return Bar(places[0], places[1], places[2], places[3], text)


def _short(multiplier: str) -> str:
    return multiplier.replace("more than ", "> ").replace("less than ", "< ") or DASH


def _fidelity(results: Results, name: str) -> tuple[str, str]:
    """The first generator's Fréchet distance, and floor and control beside it."""
    values = distances(results, name)
    own = next((values[each] for each in results.generators if each in values), None)
    floor, control = significant(values.get("real")), significant(values.get("class_mean"))
    return significant(own), f"floor {floor}, control {control}" if own is not None else ""


def _excess(results: Results, name: str) -> tuple[str, str, bool]:
    table = results.pooled("audit", "excess_copies")
    rows = records(table[table["dataset"] == name])
    if not rows:
        return DASH, "", False
    worst = max(rows, key=worst_first)
    text = percent(max(worst["value"], 0.0))
    if absent(worst["high"]):
        return text, "", False
    whose = f", {worst['generator']}" if len(results.generators) > 1 else ""
    return text, f"at most {percent(worst['high'])}{whose}", bool(worst["low"] > 0)
