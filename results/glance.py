"""One row a data set, worst news first."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from results.answers import multiplier_of, verdict_of
from results.inputs import Results
from results.tidy import records
from results.wording import DASH, absent, interval, number, percent, significant


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
    table = results.table
    table = table[(table["stage"] == "fidelity") & (table["dataset"] == name) & table["seed"].isna()]
    table = table[(table["group"] == "all") & (table["variant"] == "") & table["metric"].str.startswith("frechet")]
    values = table.drop_duplicates("generator").set_index("generator")["value"]
    own = next((values[each] for each in results.generators if each in values), None)
    floor, control = significant(_get(values, "real")), significant(_get(values, "class_mean"))
    return significant(own), f"floor {floor}, control {control}" if own is not None else ""


def _get(values: "pd.Series[Any]", name: str) -> Any:
    return values[name] if name in values else None


def _excess(results: Results, name: str) -> tuple[str, str, bool]:
    table = results.pooled("audit", "excess_copies")
    rows = records(table[table["dataset"] == name])
    if not rows:
        return DASH, "", False
    worst = max(rows, key=lambda row: float(row["value"]))
    text = percent(max(worst["value"], 0.0))
    if absent(worst["high"]):
        return text, "", False
    return text, f"at most {percent(worst['high'])}", bool(worst["low"] > 0)
