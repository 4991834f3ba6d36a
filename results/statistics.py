"""Estimates and intervals from seeds and patients: the jackknife, the t interval, Holm, equivalence."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]
PROVISIONAL = 5  # seeds below which a verdict is provisional


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error and interval; df infinite = normal; patients_only = one seed."""

    value: float
    se: float
    df: float
    low: float
    high: float
    seeds: int
    patients_only: bool = False

    def interval(self, level: float) -> tuple[float, float]:
        """Two-sided interval at a level in (0, 1); NaN where there is none."""
        half = quantile(0.5 + level / 2, self.df) * self.se
        return self.value - half, self.value + half


def difference_interval(thetas: npt.ArrayLike, covariance: npt.ArrayLike, level: float = 0.95) -> Estimate:
    """theta_s [S] and C (a number, or the patients' [S, S]) -> mean, SE^2 = V/S + max(C, 0), t interval.

    Obuchowski-Rockette-Hillis, seeds as readers and patients as cases. df = (V + S C)^2 / (V^2 / (S - 1)),
    infinite where V = 0; V = C = 0 has no interval; one seed has the patients' variance alone, normal.
    """
    thetas = np.atleast_1d(np.asarray(thetas, dtype=np.float64))
    shared = np.asarray(covariance, dtype=np.float64)
    count = len(thetas)
    value = float(thetas.mean())
    if count == 1:
        return _estimate(value, max(float(shared.ravel()[0]), 0.0), np.inf, 1, level)
    c = max(float(shared if shared.ndim == 0 else off_diagonal_mean(shared)), 0.0)
    v = 0.0 if np.ptp(thetas) == 0 else float(thetas.var(ddof=1))  # the same number S times has no variance
    df = (v + count * c) ** 2 / (v**2 / (count - 1)) if v > 0 and v**2 > 0 else np.inf
    return _estimate(value, v / count + c, df, count, level)


def _estimate(value: float, variance: float, df: float, seeds: int, level: float) -> Estimate:
    se = float(np.sqrt(variance)) if variance > 0 else float("nan")
    half = quantile(0.5 + level / 2, df) * se
    return Estimate(value, se, float(df), value - half, value + half, seeds, patients_only=seeds == 1)


def quantile(probability: float, df: float) -> float:
    """Of Student's t; of the normal where df is infinite."""
    return float(stats.norm.ppf(probability) if np.isinf(df) else stats.t.ppf(probability, df))


def patient_covariance(replicates: npt.ArrayLike) -> Floats:
    """Leave-one-patient-out values [S, patients] -> jackknife covariance [S, S]."""
    left = np.atleast_2d(np.asarray(replicates, dtype=np.float64))
    patients = left.shape[1]
    centred = left - left.mean(axis=1, keepdims=True)
    return np.asarray(centred @ centred.T * ((patients - 1) / patients))


def off_diagonal_mean(covariance: Floats) -> float:
    """C: the mean over pairs of different seeds."""
    count = len(covariance)
    return float((covariance.sum() - np.trace(covariance)) / (count * (count - 1)))


def paired(thetas: npt.ArrayLike, replicates: npt.ArrayLike, generators: Sequence[Hashable] = ()) -> Estimate:
    """theta_s [S] and its replicates [S, patients] -> estimate.

    generators: the one of each seed; with 1 < G < S of them theta is first averaged over each one's seeds.
    """
    values = np.asarray(thetas, dtype=np.float64)
    left = np.atleast_2d(np.asarray(replicates, dtype=np.float64))
    average = averaging(generators or range(len(values)))
    return difference_interval(average @ values, patient_covariance(average @ left))


def averaging(generators: Sequence[Hashable]) -> Floats:
    """The generator of each seed -> matrix [G, S] of means over its seeds; one alone averages nothing."""
    names = list(dict.fromkeys(generators))
    if len(names) in (1, len(generators)):
        return np.eye(len(generators))
    mine = np.array([[float(name == each) for each in generators] for name in names])
    return np.asarray(mine / mine.sum(axis=1, keepdims=True))


def p_value(estimate: Estimate, null: float = 0.0) -> float:
    """Two-sided p of the value differing from `null`; NaN without a standard error."""
    if not estimate.se > 0:
        return float("nan")
    return float(2 * _survival(abs(estimate.value - null) / estimate.se, estimate.df))


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's step-down adjusted p values, in the order given; NaN stays NaN but counts in the family."""
    values = np.asarray(p, dtype=np.float64)
    m = len(values)
    adjusted = np.full(m, np.nan)
    running = 0.0
    for rank, index in enumerate(np.argsort(values, kind="stable")):
        if np.isnan(values[index]):
            continue
        running = max(running, min(1.0, (m - rank) * values[index]))
        adjusted[index] = running
    return adjusted


def tost(estimate: Estimate, margin: float) -> float:
    """p of equivalence within ±margin: the larger of two one-sided ones (< 0.05 = 90 % interval inside)."""
    if not estimate.se > 0:
        return float("nan")
    above = _survival((estimate.value + margin) / estimate.se, estimate.df)
    below = _survival((margin - estimate.value) / estimate.se, estimate.df)
    return float(max(above, below))


def smallest_detectable(se: float, df: float, m: int = 1, alpha: float = 0.05) -> float:
    """The difference that a family of m contrasts would find four times in five: (t_{1-a/2m} + t_0.8) SE."""
    return (quantile(1 - alpha / (2 * m), df) + quantile(0.8, df)) * se


def verdict(difference: float, p_family: float, p_equivalence: float, beats_placebos: bool = True) -> str:
    """One word for a contrast: helped, harmed, equivalent or undecided. Help must beat every placebo too."""
    if p_family < 0.05 and difference < 0:
        return "harmed"
    if p_family < 0.05 and difference > 0 and beats_placebos:
        return "helped"
    return "equivalent" if p_equivalence < 0.05 else "undecided"


def qualified(word: str, seeds: int, generators: int | None) -> str:
    """The verdict with what must be said beside it."""
    marks = ["provisional"] if seeds < PROVISIONAL else []
    marks += ["conditional on this generator"] if generators == 1 else []
    return f"{word} ({'; '.join(marks)})" if marks else word


def _survival(t: float, df: float) -> float:
    return float(stats.norm.sf(t) if np.isinf(df) else stats.t.sf(t, df))


Ints = npt.NDArray[np.int64]
METRICS = ("auroc", "accuracy", "balanced_accuracy")


@dataclass(frozen=True)
class Jackknife:
    """A score, the score without each patient float64 [patients], and the number of images."""

    value: float
    replicates: Floats
    images: int


class Jackknives:
    """Jackknives of cells, each computed once; load: digest -> labels, probabilities, groups, task."""

    def __init__(self, load: Callable[[str], Mapping[str, Any]]) -> None:
        self.load = load
        self._seen: dict[str, dict[str, Jackknife]] = {}

    def __call__(self, cell: str, metric: str) -> Jackknife:
        """The jackknife of one cell; NaN where the task does not have the metric."""
        if cell not in self._seen:
            kept = self.load(cell)
            labels, scores = np.asarray(kept["labels"]), kept["probabilities"]
            self._seen[cell] = {
                name: Jackknife(*jackknife(labels, scores, kept.get("groups"), name, str(kept["task"])), len(labels))
                for name in METRICS
            }
        return self._seen[cell][metric]


def jackknife(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    groups: Sequence[Hashable] | None,
    metric: str,
    task: str,
) -> tuple[float, Floats]:
    """Labels [N] or [N, K], probabilities [N, K], patients [N] or None -> score, and without each patient.

    Patients in order of first appearance; None = every image its own. Where leaving a patient out
    empties a class, that class keeps its value. Macro over the classes that the labels hold.
    """
    labels = np.asarray(labels)
    scores = np.asarray(probabilities, dtype=np.float64)
    scores = np.stack([1 - scores, scores], axis=1) if scores.ndim == 1 else scores
    patients = patients_of(groups, len(labels))
    if metric == "auroc":
        parts = [_auroc(truth, column, patients) for truth, column in one_vs_rest(labels, scores, task)]
        return _macro(parts, int(patients.max()) + 1)
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} has no jackknife; allowed are {', '.join(METRICS)}")
    if labels.ndim == 2:
        parts = [_hits(labels[:, k], scores[:, k] >= 0.5, patients, metric) for k in range(labels.shape[1])]
        return _macro(parts, int(patients.max()) + 1)
    return _hits(labels, scores.argmax(axis=1), patients, metric)


def auroc(truth: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve of binary truth [N]; ties count one half; NaN with one class only."""
    return _auroc(np.asarray(truth), np.asarray(scores, dtype=np.float64), np.arange(np.size(truth)))[0]


def patients_of(groups: Sequence[Hashable] | None, n: int) -> Ints:
    """Patient number of every image, in order of first appearance."""
    if n == 0:
        raise ValueError("no test images")
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups given for {n} images")
    order: dict[Hashable, int] = {}
    return np.array([order.setdefault(group, len(order)) for group in groups], dtype=np.int64)


def one_vs_rest(labels: npt.NDArray[Any], scores: Floats, task: str) -> list[tuple[npt.NDArray[Any], Floats]]:
    """The binary problems that macro AUROC is the mean of: truth [N] and score [N] of each; of class 1 for two."""
    if labels.ndim == 2:
        return [(labels[:, k] > 0, scores[:, k]) for k in range(labels.shape[1])]
    if task == "multilabel":
        raise ValueError(f"multilabel labels are [N, K]; given {labels.shape}")
    if scores.shape[1] == 2:
        return [(labels == 1, scores[:, 1])]
    return [(labels == k, scores[:, k]) for k in range(scores.shape[1])]


def _auroc(truth: npt.NDArray[Any], scores: Floats, patients: Ints) -> tuple[float, Floats]:
    """DeLong's placements: W = sum of psi over pairs; a patient takes its rows and columns of psi with it."""
    count = int(patients.max()) + 1
    positive = np.asarray(truth).astype(bool)
    n1, n0 = int(positive.sum()), int((~positive).sum())
    if n1 == 0 or n0 == 0:
        return float("nan"), np.full(count, np.nan)
    wins = placements(positive, scores)
    total = wins[positive].sum()
    left = total - np.bincount(patients, wins, count) + _inside(positive, scores, patients, count)
    pairs = (n1 - np.bincount(patients[positive], minlength=count)) * (
        n0 - np.bincount(patients[~positive], minlength=count)
    )
    value = float(total / (n1 * n0))
    return value, np.where(pairs > 0, left / np.maximum(pairs, 1), value)


def placements(positive: npt.NDArray[np.bool_], scores: Floats) -> Floats:
    """Of each positive the negatives below it, of each negative the positives above it, ties one half, float64 [N]."""
    ranks, wins = rankdata(scores), np.empty(len(scores))
    wins[positive] = ranks[positive] - rankdata(scores[positive])
    wins[~positive] = positive.sum() - (ranks[~positive] - rankdata(scores[~positive]))
    return wins


def _inside(positive: npt.NDArray[np.bool_], scores: Floats, patients: Ints, count: int) -> Floats:
    """Sum of psi over the pairs within each patient, which removal subtracts twice."""
    inside = np.zeros(count)
    order = np.argsort(patients, kind="stable")
    starts = np.searchsorted(patients[order], np.arange(count + 1))
    for patient in np.intersect1d(patients[positive], patients[~positive]):
        mine = order[starts[patient] : starts[patient + 1]]
        gaps = scores[mine[positive[mine]]][:, None] - scores[mine[~positive[mine]]][None, :]
        inside[patient] = (gaps > 0).sum() + 0.5 * (gaps == 0).sum()
    return inside


def _hits(labels: npt.NDArray[Any], guesses: npt.NDArray[Any], patients: Ints, metric: str) -> tuple[float, Floats]:
    """Accuracy, or the mean recall of the classes present."""
    count = int(patients.max()) + 1
    right = (labels == guesses).astype(np.float64)
    if metric == "accuracy":
        return _share(right, patients, count)
    parts = [_share(right[labels == k], patients[labels == k], count) for k in np.unique(labels)]
    return _macro(parts, count)


def _share(right: Floats, patients: Ints, count: int) -> tuple[float, Floats]:
    value = float(right.mean())
    rest = len(right) - np.bincount(patients, minlength=count)
    left = right.sum() - np.bincount(patients, right, count)
    return value, np.where(rest > 0, left / np.maximum(rest, 1), value)


def _macro(parts: list[tuple[float, Floats]], count: int) -> tuple[float, Floats]:
    known = [part for part in parts if not np.isnan(part[0])]
    if not known:
        return float("nan"), np.full(count, np.nan)
    return float(np.mean([value for value, _ in known])), np.mean([left for _, left in known], axis=0)
