"""Rows of the tidy table pooled over seeds, and differences from real data, each with its interval."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from results.statistics import METRICS, Estimate, Jackknives, difference_interval, paired
from results.tidy import missing, records

Row = dict[str, Any]
Load = Callable[[str], Mapping[str, Any]]
SETTING = ["dataset", "generator", "exposure", "arm", "budget", "ratio", "share", "backbone", "variant"]
SHARED = ["study", "stage", "image_type", "specialty"]
SHARES = (
    "below", "copies_called", "excess_copies", "flagged", "power", "probe_alignment", "share",
)  # fmt: skip  # endings of metrics that lie in [0, 1] and whose bounds rest on controls that seeds share
UNIT = (
    "accuracy", "auroc", "calibration_error", "coverage", "f1", "label_consistency", "ms_ssim", "precision",
    "probe_alignment", "recall",
)  # fmt: skip  # parts of the names of others that do


@dataclass(frozen=True)
class Setting:
    """One arm under one setting: its columns, the cell of each seed, the mean number of real images."""

    columns: Row
    cells: dict[int, str]
    n_train: int | None

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]


def settings(cells: pd.DataFrame) -> list[Setting]:
    """Per-seed rows of one metric -> the settings, in the table's order."""
    kept = cells[(cells["status"] == "ok") & (cells["group"] == "all") & (cells["metric"] == "auroc")]
    kept = kept[kept["seed"].notna() & (kept["stage"] == "classify")]
    found = []
    for _, part in kept.groupby(SETTING, dropna=False, sort=True):
        rows = records(part.sort_values("seed"))
        counts = [row["n_train"] for row in rows if not missing(row["n_train"])]
        columns = {name: rows[0][name] for name in [*SETTING, *SHARED]}
        seeds = {int(row["seed"]): str(row["cell"]) for row in rows}
        found.append(Setting(columns, seeds, round(float(np.mean(counts))) if counts else None))
    return found


def counterpart(setting: Setting, among: list[Setting], arm: str) -> Setting | None:
    """The setting of `arm` (or of a placebo, by its name) that `setting` is compared with, or None.

    Same data set, budget, backbone and variant (its classifier part for real data); the same
    generator and exposure where `arm` has them; then the nearest ratio.
    """
    same = [each for each in among if _comparable(setting, each, arm)]
    return min(same, key=lambda each: _distance(setting, each), default=None)


def _comparable(one: Setting, two: Setting, arm: str) -> bool:
    if (two["arm"] != arm and two["generator"] != arm) or one is two:
        return False
    if any(one[name] != two[name] for name in ("dataset", "budget", "backbone")):
        return False
    if two["generator"] in ("", arm):
        return bool(two["variant"] in (one["variant"], _classifier_part(one["variant"])))
    return all(one[name] == two[name] for name in ("generator", "exposure", "variant"))


def _classifier_part(variant: str) -> str:
    """What remains of a variant when the parts that only change synthetic images are dropped."""
    return ";".join(part for part in variant.split(";") if part.startswith("validation="))


def _distance(one: Setting, two: Setting) -> tuple[bool, bool, float, float]:
    gaps = [abs(one[name] - two[name]) for name in ("ratio", "share")]
    return (
        one["variant"] != two["variant"],
        one["exposure"] != two["exposure"],
        *(0.0 if np.isnan(gap) else gap for gap in gaps),
    )


def compare(
    one: Setting, two: Setting, jackknives: Jackknives, generators: Mapping[str, int] | None = None
) -> Estimate | None:
    """one minus two, paired by seed and test patient; None without a common seed."""
    seeds = sorted(one.cells.keys() & two.cells.keys())
    return combine([one, two], [1.0, -1.0], seeds, jackknives, "auroc", generators)


def combine(
    parts: list[Setting],
    weights: list[float],
    seeds: list[int],
    jackknives: Jackknives,
    metric: str = "auroc",
    generators: Mapping[str, int] | None = None,
) -> Estimate | None:
    """The weighted sum of settings, by seed and patient -> estimate; parts[0] names the generator."""
    if not seeds:
        return None
    thetas, lefts = [], []
    for seed in seeds:
        scores = [jackknives(part.cells[seed], metric) for part in parts]
        thetas.append(sum(weight * score.value for weight, score in zip(weights, scores, strict=True)))
        lefts.append(sum(weight * score.replicates for weight, score in zip(weights, scores, strict=True)))
    if np.isnan(thetas).any():
        return None
    return paired(thetas, np.stack(lefts), generators_of(parts[0], seeds, generators))


def generators_of(setting: Setting, seeds: list[int], generators: Mapping[str, int] | None) -> list[int]:
    """Which generator each seed used: seed modulo the number of generators; by default its own."""
    count = (generators or {}).get(str(setting["generator"]))
    return [seed % count if count else seed for seed in seeds]


def pooled_rows(cells: pd.DataFrame, load: Load | Jackknives, generators: Mapping[str, int] | None = None) -> list[Row]:
    """Per-seed AUROC rows -> rows pooled over seeds, and `auroc_difference` from real per seed and pooled.

    load: cell digest -> labels, probabilities, groups (or None), task. generators: how many trained
    replicates a generator has, where fewer than seeds (seed s used s modulo that).
    """
    jackknives = load if isinstance(load, Jackknives) else Jackknives(load)
    found = settings(cells)
    rows: list[Row] = []
    for setting in found:
        rows += _levels(setting, jackknives, generators)
        real = counterpart(setting, found, "real") if setting["arm"] != "real" else None
        if real is not None:
            rows += _differences(setting, real, jackknives, generators)
    return rows


def _levels(setting: Setting, jackknives: Jackknives, generators: Mapping[str, int] | None) -> list[Row]:
    seeds = sorted(setting.cells)
    rows = []
    for metric in METRICS:
        estimate = combine([setting], [1.0], seeds, jackknives, metric, generators)
        if estimate is not None:
            rows.append(row_of(setting, metric, estimate, images(setting, jackknives)))
    return rows


def _differences(
    setting: Setting, real: Setting, jackknives: Jackknives, generators: Mapping[str, int] | None
) -> list[Row]:
    seeds = sorted(setting.cells.keys() & real.cells.keys())
    rows: list[Row] = []
    for chosen in [*([seed] for seed in seeds), seeds]:
        estimate = combine([setting, real], [1.0, -1.0], chosen, jackknives, "auroc", generators)
        if estimate is not None:
            row = row_of(setting, "auroc_difference", estimate, images(setting, jackknives))
            rows.append(row | ({"seed": chosen[0]} if len(rows) < len(seeds) else {}))
    return rows


def images(setting: Setting, jackknives: Jackknives) -> int:
    """Number of test images."""
    return jackknives(next(iter(setting.cells.values())), "auroc").images


def row_of(setting: Setting, metric: str, estimate: Estimate, n: int) -> Row:
    """A tidy row; an interval that cannot be told is missing."""
    low, high = (inside(metric, end) for end in (estimate.low, estimate.high))
    numbers = {"value": estimate.value, "low": low, "high": high}
    return {
        **setting.columns,
        "group": "all",
        "metric": metric,
        "n": n,
        "n_train": setting.n_train,
        **numbers,
    }


def pool_seeds(table: pd.DataFrame) -> list[Row]:
    """Per-seed rows (fidelity, audit) -> one row each with `seed` empty: the mean, SE^2 = V/S + mean(SE_s^2).

    SE_s from the row's own 95 % interval; one seed keeps its interval. Of p values (metric `*_p`) twice
    the median, which is a valid p whatever the dependence. Shares are cut to [0, 1].
    """
    keys = [*SHARED, *SETTING, "group", "metric"]
    kept = table[(table["status"] == "ok") & table["seed"].notna() & (table["metric"] != "") & table["value"].notna()]
    parts: dict[int, list[Row]] = {}
    for place, row in zip(kept.groupby(keys, dropna=False, sort=True).ngroup(), records(kept), strict=True):
        parts.setdefault(int(place), []).append(row)
    rows: list[Row] = []
    for _, part in sorted(parts.items()):
        shared = {name: part[0][name] for name in [*keys, "n", "n_train"]}
        bounds = _pooled(str(shared["metric"]), part)
        rows.append(shared | never_certain(str(shared["metric"]), shared["n"], bounds))
    return rows


def pool_sets(rows: list[Row]) -> list[Row]:
    """Fidelity rows of `pool_seeds` -> their mean over data sets, `dataset` empty: of all, and of each image type that
    has two. Every set counts alike; SE from the sets' own intervals, so it speaks of these sets alone. A generator that
    lacks a set which another has is left out: means over other sets are no comparison."""
    keys = [name for name in SETTING if name != "dataset"] + ["study", "stage", "metric"]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in (row for row in rows if row["stage"] == "fidelity" and row["group"] == "all" and row["dataset"]):
        own = tuple("" if missing(row[name]) else row[name] for name in keys)
        for kind in sorted({"", str(row["image_type"])}):
            groups.setdefault((kind, *own), []).append(row)
    every: dict[tuple[Any, ...], set[str]] = {}
    for (kind, *own_keys), mine in groups.items():
        every.setdefault((kind, own_keys[-1]), set()).update(str(row["dataset"]) for row in mine)
    found = []
    for (kind, *own_keys), mine in groups.items():
        if 1 < len(mine) == len(every[kind, own_keys[-1]]):
            value = float(np.mean([row["value"] for row in mine]))
            errors = [(row["high"] - row["low"]) / 2 if "low" in row else np.nan for row in mine]
            reach = float(np.sqrt(np.square(errors).sum()) / len(mine))
            bounds = {"low": inside(mine[0]["metric"], value - reach), "high": inside(mine[0]["metric"], value + reach)}
            keep = {name: mine[0][name] for name in (*keys, "group")}
            found.append(keep | {"dataset": "", "image_type": kind, "specialty": "", "value": value} | bounds)
    return found


def never_certain(metric: str, n: Any, bounds: Row) -> Row:
    """No copy among n images leaves up to 3/n possible (exact one-sided 95 % bound), however many seeds agree."""
    if metric.endswith("excess_copies") and bounds.get("high") == 0 and not missing(n):
        return bounds | {"high": 1 - 0.05 ** (1 / int(n))}
    return bounds


def _pooled(metric: str, part: list[Row]) -> Row:
    values, lows, highs = (np.array([row[end] for row in part], dtype=np.float64) for end in ("value", "low", "high"))
    if len(values) == 1:
        return {"value": part[0]["value"], "low": inside(metric, lows[0]), "high": inside(metric, highs[0])}
    if metric == "label_by_chance":
        return {"value": float(values.mean())}  # what it is beside, no estimate of its own
    if metric == "p" or metric.endswith("_p"):
        return {"value": min(1.0, 2 * float(np.median(values)))}
    errors = (highs - lows) / (2 * 1.959964)
    known = errors[~np.isnan(errors)]
    pooled = difference_interval(values, float((known**2).mean()) if len(known) else 0.0)
    low, high = pooled.low, pooled.high
    if metric in ("membership_epsilon", "membership_calibrated_epsilon"):
        return {"value": float(values.min())}  # a lower bound: that which holds for every seed
    if metric.endswith(SHARES) and not metric.startswith("overfit"):
        # One-sided intervals must not shrink: seeds share the held-out controls that their bounds rest on.
        ends = [float(pd.Series(end).mean()) for end in (lows, highs)]  # of those that are known
        low, high = (float(np.clip(end, 0, 1)) for end in (np.fmin(low, ends[0]), np.fmax(high, ends[1])))
    return {"value": pooled.value, "low": inside(metric, low), "high": inside(metric, high)}


def inside(metric: str, end: float) -> float:
    """The end of an interval cut to where the metric can lie: shares in [0, 1], their differences in [-1, 1], distances
    from 0 up."""
    if metric.endswith("_difference"):
        return float(np.clip(end, -1, 1))
    if metric.startswith(("density", "frechet", "vendi", "brier", "log_loss")):
        return float(np.maximum(end, 0))
    return float(np.clip(end, 0, 1)) if any(part in metric for part in UNIT) else end
