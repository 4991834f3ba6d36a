"""Contrasts between arms, of which the few that a study names may be claimed; and between two runs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from results.pooling import Load, Row, Setting, compare, counterpart, generators_of, images, inside, settings
from results.statistics import (
    PROVISIONAL,
    Jackknives,
    difference_interval,
    holm,
    p_value,
    qualified,
    smallest_detectable,
    tost,
    verdict,
)
from results.tidy import KEYS, MAIN, PLACEBOS, main_arm
from results.wording import interval, number

COLUMNS = [
    "claim", "dataset", "image_type",
    "specialty", "arm", "generator", "exposure", "against", "budget", "ratio",
    "share", "backbone", "variant", "metric", "difference", "low", "high", "p", "p_holm", "p_equivalence",
    "smallest_detectable", "family", "seeds", "generators", "n", "n_train",
    "beats_placebos", "worst_placebo", "verdict", "text",
]  # fmt: skip


def replicates(study: Mapping[str, Any]) -> dict[str, int]:
    """How many trained replicates each generator has, where its `seeds` says fewer than all; 1 if it came ready."""
    found = {
        name: 1 if _field(each, "images") or _field(each, "checkpoint") else _field(each, "seeds")
        for name, each in (study.get("generators") or {}).items()
    }
    return {name: int(count) for name, count in found.items() if isinstance(count, int)}


def contrasts(cells: pd.DataFrame, load: Load | Jackknives, study: Mapping[str, Any]) -> pd.DataFrame:
    """Per-seed AUROC rows -> every arm against real, each placebo and as named; the family comes first.

    `claim` marks the family: Holm within it, p_equivalence by TOST, help must beat every placebo at 5 %.
    A contrast that rests on one trained generator stays outside.
    """
    jackknives = load if isinstance(load, Jackknives) else Jackknives(load)
    found, counts = settings(cells), replicates(study)
    named = _named(study, found)
    rows = [
        _row(one, two, against, jackknives, counts, float(study.get("margin", 0.01)))
        for one in found
        for against, two in _opponents(one, found, named)
    ]
    rows = [row for row in rows if row]
    _mark(rows, named, study)
    _decide(rows)
    table = pd.DataFrame(rows, columns=COLUMNS)
    order = [
        "claim",
        "dataset",
        "backbone",
        "variant",
        "budget",
        "arm",
        "generator",
        "exposure",
        "ratio",
        "share",
    ]
    table = table.sort_values([*order, "against"], ascending=[False] + [True] * 10, kind="stable", ignore_index=True)
    return table.astype({"claim": bool, "seeds": "Int64", "generators": "Int64", "n": "Int64", "n_train": "Int64"})


def _named(study: Mapping[str, Any], found: list[Setting]) -> list[Row]:
    """The study's claims, else its main arm at the lowest budget against real and, where it was run, real_double."""
    named = [dict(each) for each in study.get("claims") or []]
    budgets = [each["budget"] for each in found if each["arm"] == "real"]
    if named or not budgets:
        return named
    arms = [each["arm"] for each in found if each["generator"] not in PLACEBOS]
    claim = {"arm": main_arm(arms), "against": "real", "budget": min(budgets)}
    doubled = [each["budget"] for each in found if each["arm"] == "real_double"]
    return [claim] + ([claim | {"against": "real_double", "budget": min(doubled)}] if doubled else [])


def _opponents(one: Setting, found: list[Setting], named: list[Row]) -> list[tuple[str, Setting]]:
    """real, the placebos (for an arm with a generator that is none) and whatever a claim names."""
    if one["arm"] == "real":
        return []
    names = ["real", *(PLACEBOS if one["generator"] not in ("", *PLACEBOS) else ())]
    names += [each["against"] for each in named if each["arm"] == one["arm"]]
    pairs = [(name, counterpart(one, found, name)) for name in dict.fromkeys(names)]
    return [(name, two) for name, two in pairs if two is not None]


def _row(
    one: Setting, two: Setting, against: str, jackknives: Jackknives, counts: Mapping[str, int], margin: float
) -> Row:
    estimate = compare(one, two, jackknives, counts)
    if estimate is None:
        return {}
    seeds = sorted(one.cells.keys() & two.cells.keys())
    used = len(set(generators_of(one, seeds, counts)))
    return {
        **one.columns,
        "claim": False,
        "against": against,
        "metric": "auroc",
        "difference": estimate.value,
        "low": inside("auroc_difference", estimate.low),
        "high": inside("auroc_difference", estimate.high),
        "p": p_value(estimate),
        "p_holm": np.nan,
        "p_equivalence": tost(estimate, margin),
        "smallest_detectable": smallest_detectable(estimate.se, estimate.df),
        "family": "",
        "seeds": estimate.seeds,
        "generators": used if one["generator"] not in ("", *PLACEBOS) else pd.NA,
        "n": images(one, jackknives),
        "n_train": one.n_train if one.n_train is not None else pd.NA,
        "beats_placebos": "",
        "worst_placebo": "",
        "_se": estimate.se,
        "_df": estimate.df,
    }


def _mark(rows: list[Row], named: list[Row], study: Mapping[str, Any]) -> None:
    """One contrast a named claim and data set: first backbone, generator, exposure, least ratio."""
    first = [_field(each, "name") or each for each in study.get("backbones") or []][:1]
    generators = list(study.get("generators") or {})
    for claim in named:
        fits = [row for row in rows if _fits(row, claim, first) and row["generator"] not in PLACEBOS]
        for dataset in dict.fromkeys(row["dataset"] for row in fits):
            mine = [row for row in fits if row["dataset"] == dataset]
            best = min(mine, key=lambda row: _precedence(row, generators))
            best["claim"] = not _is(best["generators"], 1)
            best["family"] = "named" if best["claim"] else "one generator"


def _fits(row: Row, claim: Row, backbones: list[Any]) -> bool:
    wanted = {"variant": "", **claim}
    wanted |= {} if "backbone" in claim or not backbones else {"backbone": backbones[0]}
    return all(row[key] == value for key, value in wanted.items() if key in row)


def _precedence(row: Row, generators: list[str]) -> tuple[int, int, float, float]:
    place = generators.index(row["generator"]) if row["generator"] in generators else len(generators)
    exposures = ("full", "budget", "transfer", "")
    exposure = exposures.index(row["exposure"]) if row["exposure"] in exposures else len(exposures)
    return place, exposure, float(np.nan_to_num(row["ratio"])), abs(float(np.nan_to_num(row["share"])) - 0.5)


def _decide(rows: list[Row]) -> None:
    family = [row for row in rows if row["claim"]]
    for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
        row["p_holm"] = p
        row["smallest_detectable"] = smallest_detectable(row["_se"], row["_df"], len(family))
    for row in rows:
        beaten = _placebos(row, rows)
        row["beats_placebos"] = "" if beaten is None else "yes" if beaten else "no"
        p = row["p_holm"] if row["claim"] else row["p"]
        row["verdict"] = verdict(row["difference"], p, row["p_equivalence"], beaten is not False)
        row["text"] = _text(row)


def _placebos(row: Row, rows: list[Row]) -> bool | None:
    """Whether every placebo is beaten at 5 %, uncorrected; None where there is none to beat."""
    if row["against"] in PLACEBOS or row["generator"] in PLACEBOS:
        return None
    same = [each for each in rows if each["against"] in PLACEBOS and _same(each, row)]
    if not same:
        return None
    row["worst_placebo"] = min(same, key=lambda each: float(each["difference"]))["against"]
    return all(each["difference"] > 0 and each["p"] < 0.05 for each in same)


def _same(one: Row, two: Row) -> bool:
    names = ("dataset", "generator", "exposure", "arm", "budget", "ratio", "share", "backbone", "variant")
    return all(one[name] == two[name] or (one[name] != one[name] and two[name] != two[name]) for name in names)


def _text(row: Row) -> str:
    generators = 1 if _is(row["generators"], 1) else None
    text = qualified(row["verdict"], int(row["seeds"]), generators)
    if row["verdict"] == "undecided" and row["beats_placebos"] == "no" and row["difference"] > 0:
        p = row["p_holm"] if row["claim"] else row["p"]
        text += "; better than real data, not than every placebo" if p < 0.05 else ""
    return text if row["claim"] else f"{text}; exploratory"


def _is(value: Any, number: int) -> bool:
    return bool(pd.notna(value) and value == number)


def _field(entry: Any, name: str) -> Any:
    return entry.get(name) if isinstance(entry, Mapping) else None


LOWER_IS_BETTER = (
    "frechet", "kernel", "ms_ssim", "excess", "flagged", "copies", "membership", "two_sample", "overfit", "bank_share",
)  # fmt: skip
ENDS_LOWER = ("_error", "_loss", "_distance", "brier")
SETTING = [name for name in KEYS if name not in ("study", "seed", "metric")]


def compare_runs(
    a: pd.DataFrame, b: pd.DataFrame, metric: str, renamed: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Tidy tables of two runs -> one row a shared setting: b minus a paired by seed, mean, t interval over seeds, n.

    renamed: generators of a -> those of b that stand beside them. Columns: the setting's, `a`, `b`, `difference`,
    `low`, `high`, `seeds`. The interval is missing for one seed and where all seeds differ by the same.
    Raises ValueError where the runs share no cell of this metric.
    """
    one, two = (_per_seed(table, metric) for table in (a, b))
    two = _renamed(two, renamed or {})
    both = one.merge(two, on=[*SETTING, "seed"], suffixes=("_a", "_b"))
    if both.empty:
        known = sorted(set(a["metric"]) & set(b["metric"]))
        raise ValueError(
            f"the runs share no cell with metric {metric!r}; metrics of both: {', '.join(known) or 'none'}"
        )
    rows = []
    for key, part in both.groupby(SETTING, dropna=False, sort=True):
        difference = difference_interval((part["value_b"] - part["value_a"]).to_numpy(dtype=np.float64), 0.0)
        means = {"a": part["value_a"].mean(), "b": part["value_b"].mean()}
        found = {"difference": difference.value, "low": difference.low, "high": difference.high, "seeds": len(part)}
        rows.append(dict(zip(SETTING, key, strict=True)) | means | found)
    return pd.DataFrame(rows)


def worse(table: pd.DataFrame, metric: str, tolerance: float) -> pd.DataFrame:
    """The rows of `compare_runs` in which b is worse than a by more than the tolerance and not by chance alone.

    By chance alone: the 95 % interval over seeds reaches to 0. It says little of few seeds: below PROVISIONAL of them,
    and without an interval, the difference itself decides.
    """
    sign = -1.0 if lower_is_better(metric) else 1.0
    loss = -sign * table["difference"]
    nearest = -sign * (table["high"] if sign > 0 else table["low"])
    return table[(loss > tolerance) & ((table["seeds"] < PROVISIONAL) | nearest.isna() | (nearest > 0))]


def _renamed(b: pd.DataFrame, renamed: Mapping[str, str]) -> pd.DataFrame:
    """Generators of b under the names of those of a that they stand beside; b's own of these names are left out."""
    kept = b[~b["generator"].isin([old for old, new in renamed.items() if old != new])]
    return kept.assign(generator=kept["generator"].replace({new: old for old, new in renamed.items()}))


def matched(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, str]:
    """The generator that only run a has -> the one that only b has, where each has one such; else nothing."""
    one, two = (set(table.loc[table["arm"].isin(MAIN), "generator"]) - {"", *PLACEBOS} for table in (a, b))
    alone = [sorted(names) for names in (one - two, two - one)]
    return {alone[0][0]: alone[1][0]} if len(alone[0]) == len(alone[1]) == 1 else {}


def comparison(
    a: pd.DataFrame, b: pd.DataFrame, metric: str, tolerance: float, renamed: Mapping[str, str]
) -> tuple[pd.DataFrame, list[str], bool]:
    """The rows of `compare_runs`, what to print, and whether b is worse, or failed or unfinished where a is not."""
    for names, run, table in ((list(renamed), "A", a), (list(renamed.values()), "B", b)):
        known = sorted(set(table["generator"]) - {""})
        if unknown := [name for name in names if name not in known or names.count(name) > 1]:
            raise ValueError(f"generator {unknown[0]!r} given for {run}; allowed, once each: {', '.join(known)}")
    gone, new, failed = unpaired(a, b, metric, renamed)
    if failed and failed == len(_per_seed(a, metric)):
        return pd.DataFrame(), [f"all {failed} cells of A failed or are unfinished in B"], True
    table = compare_runs(a, b, metric, renamed)
    lost = worse(table, metric, tolerance)
    told = [f"generator {old} stands beside {new}" for old, new in renamed.items()] + lines(table, metric)
    told += [f"{len(table)} shared settings; {metric} is worse by more than {tolerance:g} in {len(lost)}"]
    told += [f"{gone} cells only in A ({failed} of them failed or unfinished in B), {new} only in B"]
    return table, told, bool(len(lost) or failed)


def unpaired(a: pd.DataFrame, b: pd.DataFrame, metric: str, renamed: Mapping[str, str]) -> tuple[int, int, int]:
    """Cells that only a has, that only b has, and of the former those that failed or are unfinished in b."""
    b = _renamed(b, renamed)
    keys = [name for name in SETTING if name != "group"] + ["seed"]
    one, two = (set(_per_seed(table, metric)[keys].fillna(-1).itertuples(index=False, name=None)) for table in (a, b))
    failed = set(b.loc[b["status"] == "failed", keys].fillna(-1).itertuples(index=False, name=None))
    return len(one - two), len(two - one), len((one - two) & failed)


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of this metric is the better one."""
    return any(part in metric for part in LOWER_IS_BETTER) or metric.endswith(ENDS_LOWER)


def lines(table: pd.DataFrame, metric: str) -> list[str]:
    """One line a setting, for a terminal."""
    shown = []
    for row in table.to_dict("records"):
        keys = ("stage", "dataset", "arm", "generator", "exposure", "budget", "ratio", "backbone", "variant", "group")
        name = " ".join(f"{row[key]:g}" if isinstance(row[key], float) else str(row[key]) for key in keys
                        if row[key] == row[key] and row[key] not in ("", "all"))  # fmt: skip
        bounds = f" ({interval(row['low'], row['high'], sign=True)})" if row["low"] == row["low"] else ""
        change = number(row["difference"], sign=True)
        shown.append(
            f"{name}: {metric} {number(row['a'])} -> {number(row['b'])}, {change}{bounds}, {row['seeds']} seeds"
        )
    return shown


def _per_seed(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    kept = table[(table["metric"] == metric) & table["seed"].notna() & (table["status"] == "ok")]
    return kept[[*SETTING, "seed", "value"]].dropna(subset=["value"])
