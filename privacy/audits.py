"""Audits with their controls. PROTOCOL section 4; the query control's law after Bates 2023 (arXiv 2104.08279)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom, false_discovery_control

Distances = NDArray[np.float64]
Rows = NDArray[np.int64]
LEVEL = 0.01
FLIPS = 1000


def control_rank(n: int) -> int:
    """k: the threshold is the k-th smallest control distance, floor(0.01 (n + 1)), at least 1."""
    if n < 1:
        raise ValueError("no held-out control image given; at least one is needed")
    return max(1, int(LEVEL * (n + 1) + 1e-9))


def query_control(synthetic: Distances, control: Distances) -> dict[str, Any]:
    """Compare distances of m synthetic images [m] with those of n held-out ones [n] to the same bank.

    Returns level k/(n+1), threshold t (k-th smallest control), flagged F, share F/m, p_value P(F' >= F) under
    F' ~ BetaBinomial(m, k, n+1-k), excess (F/m - p0)/(1 - p0) with its 95 % interval low, high (inverting the law),
    conformal float64 [m] p-values and called bool [m] (Benjamini-Hochberg at 10 %).
    """
    m, n = len(synthetic), len(control)
    if m < 1:
        raise ValueError("no synthetic image given; at least one is needed")
    k = control_rank(n)
    level, threshold = k / (n + 1), float(np.sort(control)[k - 1])
    flagged = int((synthetic <= threshold).sum())
    conformal = (1 + np.searchsorted(np.sort(control), synthetic, side="right")) / (n + 1)
    low, high = excess_interval(flagged, m, k, n)
    return {
        "k": k,
        "level": level,
        "threshold": threshold,
        "flagged": flagged,
        "share": flagged / m,
        "p_value": float(betabinom.sf(flagged - 1, m, k, n + 1 - k)),
        "excess": max(0.0, (flagged / m - level) / (1 - level)),
        "low": low,
        "high": high,
        "conformal": conformal,
        "called": false_discovery_control(conformal) <= 0.1,
    }


def excess_interval(flagged: int, m: int, k: int, n: int) -> tuple[float, float]:
    """95 % interval of the share of copies: all c for which both tails of F' = c + BetaBinomial(m - c, k, n + 1 - k)
    exceed 2.5 %, divided by m; covers 96 to 100 %."""
    c = np.arange(flagged + 1)
    upper = betabinom.sf(flagged - c - 1, m - c, k, n + 1 - k)
    lower = betabinom.cdf(flagged - c, m - c, k, n + 1 - k)
    kept = c[(upper > 0.025) & (lower > 0.025)]
    if not len(kept):
        return flagged / m, flagged / m
    return float(kept[0] / m), float(kept[-1] / m)


def control_patients(groups: list[str], seed: int) -> Rows:
    """One random image a patient, ascending rows int64."""
    order = np.random.default_rng(seed).permutation(len(groups))
    _, first = np.unique(np.array(groups)[order], return_index=True)
    return np.sort(order[first])


def matched_bank(train_labels: Rows, train_groups: list[str], heldout_labels: Rows, seed: int) -> Rows:
    """Rows of train, whole patients, of about the held-out's size and class mix: patients in random order are taken
    while their class still lacks images."""
    wanted = dict(zip(*(part.tolist() for part in np.unique(heldout_labels, return_counts=True)), strict=True))
    members: dict[str, list[int]] = {}
    for row, name in enumerate(train_groups):
        members.setdefault(name, []).append(row)
    names = sorted(members)
    taken: list[int] = []
    for i in np.random.default_rng(seed).permutation(len(names)):
        rows = members[names[i]]
        label = int(train_labels[rows[0]])
        if wanted.get(label, 0) > 0:
            wanted[label] -= len(rows)
            taken += rows
    return np.sort(np.array(taken, np.int64))


def bank_control(
    train: NDArray[np.floating], train_groups: list[str],
    heldout: NDArray[np.floating], heldout_groups: list[str], seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Are synthetic images nearer to the training bank than to an exchangeable held-out bank?

    Distances [M, N_train] and [M, N_heldout] to two banks of equal size. share: of images with d_train < d_heldout,
    ties half (1/2 if nothing was learnt of individuals), ± 1.96 SD over resampled patients of both banks, cut to
    [0, 1]; p_value, one-sided: the coin is flipped again over all patients 1,000 times; ratio float64 [M] =
    d_train/d_heldout.
    """
    a, b = _by_patient(train, train_groups), _by_patient(heldout, heldout_groups)
    d_train, d_heldout = a.min(1), b.min(1)
    share = _share(d_train, d_heldout)
    rng = np.random.default_rng(seed)
    resampled = [
        _share(
            a[:, rng.integers(0, a.shape[1], a.shape[1])].min(1),
            b[:, rng.integers(0, b.shape[1], b.shape[1])].min(1),
        )
        for _ in range(200)
    ]
    both, count = np.concatenate([a, b], 1), a.shape[1]
    flips = []
    for _ in range(FLIPS):
        order = rng.permutation(both.shape[1])
        flips.append(_share(both[:, order[:count]].min(1), both[:, order[count:]].min(1)))
    error = 1.96 * float(np.std(resampled, ddof=1))
    return {
        "share": share,
        "low": max(0.0, share - error),
        "high": min(1.0, share + error),
        "p_value": (1 + int((np.array(flips) >= share).sum())) / (FLIPS + 1),
        "ratio": d_train / np.maximum(d_heldout, 1e-12),
    }


def call_copies(flagged: NDArray[np.bool_], ratio: Distances, control_ratio: Distances) -> NDArray[np.bool_]:
    """A copy needs both: below the query control's threshold, and a ratio d_train/d_heldout in the lowest 1 % of the
    held-out queries' own, by the same k rule. bool [M]."""
    limit = np.sort(control_ratio)[control_rank(len(control_ratio)) - 1]
    return np.asarray(flagged & (ratio <= limit))


def adaptive_ratio(distances: Distances, alpha: float = 0.5) -> Distances:
    """Distances [M, n] of each image's n nearest, ascending -> d_1 / (alpha mean d), low only when one stands out."""
    return np.asarray(distances[:, 0] / np.maximum(alpha * distances.mean(1), 1e-12))


def _share(d_train: NDArray[np.floating], d_heldout: NDArray[np.floating]) -> float:
    return float((d_train < d_heldout).mean() + 0.5 * (d_train == d_heldout).mean())


def _by_patient(distances: NDArray[np.floating], groups: list[str]) -> Distances:
    """Distance to each patient [M, patients]: to the nearest of its images."""
    order = np.argsort(np.array(groups), kind="stable")
    _, starts = np.unique(np.array(groups)[order], return_index=True)
    return np.asarray(np.minimum.reduceat(distances[:, order], starts, axis=1), np.float64)
