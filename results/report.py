"""One self-contained HTML page with its tables and figures, from finished numbers alone."""

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from results.answers import answers
from results.cautions import paper_claims, scope, warnings
from results.figures import FIGURES, caption, command, draw, write_figure
from results.glance import Glance, glance
from results.inputs import Results
from results.tables import TABLES
from results.tidy import missing
from results.wording import DASH, absent, counted, duration
from results.writing import Printed, printed, write_table

SHORT = [
    "dataset", "arm", "generator", "exposure", "against", "budget", "ratio", "backbone", "variant", "n_train",
    "difference", "low", "high", "p", "p_holm", "text", "beats_placebos", "smallest_detectable", "seeds",
]  # fmt: skip
INLINE_LIMIT = 400_000  # bytes of SVG above which a figure goes into the page as PNG


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
    tables = {name: make(results) for name, make in TABLES.items()}
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
        "warnings": warnings(results),
        "figures": figures,
        "missing_figures": [entry.title for name, entry in FIGURES.items() if name not in figures],
        "tables": {name: printed(table, fold=True) for name, table in tables.items()},
        "family": _contrasts(results.claims, claimed=True),
        "exploratory": _contrasts(results.claims, claimed=False),
        "claims": paper_claims(results),
        "cost": cost_sentence(results),
        "facts": facts(results),
        "commands": commands(results),
    }
    return environment.get_template("report.html.j2").render(context)


def _figures(results: Results, folder: Path) -> dict[str, Shown]:
    shown = {}
    study = str(results.study.get("name", "STUDY"))
    for name, entry in FIGURES.items():
        figure = draw(name, results)
        if figure is None:
            continue
        line, text = command(name, study), caption(name, results)
        write_figure(figure, folder, name, line, text)
        source = _source(folder, name, entry.dense)
        shown[name] = Shown(name, entry.title, entry.message(results), source, line, figure.get_figwidth() > 7)
    return shown


def _source(folder: Path, name: str, dense: bool) -> str:
    vector = (folder / f"{name}.svg").read_bytes()
    if dense or len(vector) > INLINE_LIMIT:
        return _uri("image/png", (folder / f"{name}.png").read_bytes())
    return _uri("image/svg+xml", vector)


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
    """The total, and what one more seed of every classifier would cost."""
    costs = results.costs
    if costs.empty or costs["seconds"].isna().all():
        return "No times were recorded."
    cells = costs.drop_duplicates("cell")
    classify = cells[cells["stage"] == "classify"]
    total = duration(cells["seconds"].sum())
    text = f"{counted(len(cells), 'cell').capitalize()} took {total} of computing in all."
    seeds = results.table.loc[results.table["stage"] == "classify", "seed"].dropna().nunique()
    if len(classify) and seeds:
        each = duration(classify["seconds"].sum() / seeds)
        text += f" One more seed of every classifier would cost about {each}."
    return text


def facts(results: Results) -> list[tuple[str, str]]:
    """Settings, seeds, versions and digest as name and text, without what is missing."""
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
    other = sorted(set(manifest) - {"versions", "seeds", "commands"})
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
    given = results.manifest.get("commands") or []
    study = results.study.get("name", "STUDY")
    return [str(each) for each in ([given] if isinstance(given, str) else given)] or [f"augury run {study}"]


def _shown(value: Any) -> str:
    return DASH if absent(value) else str(value)
