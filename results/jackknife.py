"""Scores of stored probabilities with the patients left out one by one, in closed form."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]
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
        self._load = load
        self._seen: dict[str, dict[str, Jackknife]] = {}

    def __call__(self, cell: str, metric: str) -> Jackknife:
        """The jackknife of one cell; NaN where the task does not have the metric."""
        if cell not in self._seen:
            kept = self._load(cell)
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
    patients = _patients(groups, len(labels))
    if metric == "auroc":
        parts = [_auroc(truth, column, patients) for truth, column in _one_vs_rest(labels, scores, task)]
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


def _patients(groups: Sequence[Hashable] | None, n: int) -> Ints:
    """Patient number of every image, in order of first appearance."""
    if n == 0:
        raise ValueError("no test images")
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups given for {n} images")
    order: dict[Hashable, int] = {}
    return np.array([order.setdefault(group, len(order)) for group in groups], dtype=np.int64)


def _one_vs_rest(labels: npt.NDArray[Any], scores: Floats, task: str) -> list[tuple[npt.NDArray[Any], Floats]]:
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
    ranks = rankdata(scores)
    wins = np.empty(len(scores))
    wins[positive] = ranks[positive] - rankdata(scores[positive])  # negatives below, ties one half
    wins[~positive] = n1 - (ranks[~positive] - rankdata(scores[~positive]))  # positives above
    total = wins[positive].sum()
    left = total - np.bincount(patients, wins, count) + _inside(positive, scores, patients, count)
    pairs = (n1 - np.bincount(patients[positive], minlength=count)) * (
        n0 - np.bincount(patients[~positive], minlength=count)
    )
    value = float(total / (n1 * n0))
    return value, np.where(pairs > 0, left / np.maximum(pairs, 1), value)


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
