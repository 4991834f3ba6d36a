"""The arms: which real and which synthetic rows train one classifier, and what share of a batch is synthetic."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
ARMS = ("augmented", "mixed", "pretrained", "real", "real_double", "real_oversampled", "real_strong", "synthetic")


@dataclass(frozen=True)
class Mixture:
    """Rows of the train pool, rows of the synthetic set, and the synthetic share of each batch in [0, 1]."""

    real: Rows
    synthetic: Rows
    share: float


def mixture(
    arm: str, budget: Rows, labels: NDArray[Any], rank: Rows, copy: Rows, ratio: float, share: float
) -> Mixture:
    """The rows of an arm at a budget.

    budget: rows of the train pool in the order in which they enter it; labels of all train rows.
    real_double is given the rows of twice the budget; pretrained sees its synthetic rows first, then its real ones.
    rank, copy int64 [M]: synthetic image i is the copy[i]-th one made for the rank[i]-th row of that order, with that
    row's label, so that a synthetic set has the class mix of the budget whose size it matches.
    """
    none = np.zeros(0, np.int64)
    if arm == "real_oversampled":
        return Mixture(oversampled(budget, labels), none, 0.0)
    if arm in ("real", "real_double", "real_strong"):
        return Mixture(budget, none, 0.0)
    if arm == "mixed":
        # Every second image within a class is replaced by a synthetic one of its label.
        order = np.lexsort((np.arange(len(budget)), *np.atleast_2d(labels[budget].T)))
        replaced = np.zeros(len(budget), bool)
        replaced[order[1::2]] = True
        chosen = np.flatnonzero((copy == 0) & (rank < len(budget)))
        chosen = chosen[replaced[rank[chosen]]]
        return Mixture(budget[~replaced], chosen, share)
    if arm in ("synthetic", "augmented", "pretrained"):
        chosen = _ratio_rows(len(budget), rank, copy, ratio)
        return Mixture(none, chosen, 1.0) if arm == "synthetic" else Mixture(budget, chosen, share)
    raise ValueError(f"arm {arm!r} given; allowed: {', '.join(ARMS)}")


def oversampled(rows: Rows, labels: NDArray[Any]) -> Rows:
    """The rows, those of rarer classes repeated until every class (or combination of labels) is as frequent."""
    _, codes = np.unique(labels[rows], axis=0, return_inverse=True)
    codes = codes.reshape(-1)
    most = int(np.bincount(codes).max())
    return np.concatenate([np.resize(rows[codes == code], most) for code in range(codes.max() + 1)])


def _ratio_rows(n: int, rank: Rows, copy: Rows, ratio: float) -> Rows:
    """rN synthetic images for the first n rows; a fractional last copy takes evenly spaced rows."""
    whole = int(ratio)
    extra = round((ratio - whole) * n)
    spaced = np.zeros(n, bool)
    if extra:
        spaced[np.round(np.linspace(0, n - 1, extra)).astype(int)] = True
    inside = rank < n
    partial = (copy == whole) & inside & spaced[np.minimum(rank, n - 1)]
    return np.flatnonzero(inside & (copy < whole) | partial)
