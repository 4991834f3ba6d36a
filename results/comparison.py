"""Two runs of a study side by side: paired differences of the cells that both have."""

import numpy as np
import pandas as pd

from results.statistics import difference_interval
from results.tidy import KEYS
from results.wording import interval, number

LOWER_IS_BETTER = ("frechet", "kernel", "ms_ssim", "excess", "flagged", "copies", "calibration_error", "expected")
ENDS_LOWER = ("_error", "_loss", "_distance", "brier")
SETTING = [name for name in KEYS if name not in ("study", "seed", "metric")]


def compare(a: pd.DataFrame, b: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Tidy tables of two runs -> one row a shared setting: b minus a paired by seed, mean, t interval over seeds, n.

    Columns: the setting's, `a`, `b`, `difference`, `low`, `high`, `seeds`. The interval is missing for one seed and
    where all seeds differ by the same. Raises ValueError where the runs share no cell of this metric.
    """
    one, two = (_per_seed(table, metric) for table in (a, b))
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
    """The rows of `compare` in which b is worse than a by more than the tolerance and not by chance alone.

    By chance alone: the 95 % interval over seeds reaches to 0. Without an interval the difference itself decides.
    """
    sign = -1.0 if lower_is_better(metric) else 1.0
    loss = -sign * table["difference"]
    nearest = -sign * (table["high"] if sign > 0 else table["low"])
    return table[(loss > tolerance) & (nearest.isna() | (nearest > 0))]


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of this metric is the better one."""
    return metric.startswith(LOWER_IS_BETTER) or metric.endswith(ENDS_LOWER)


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
