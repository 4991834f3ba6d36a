"""The closed form equals leaving each patient out and starting again."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from results.statistics import METRICS, auroc, jackknife


def example(classes: int, n: int = 60, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    scores = rng.normal(size=(n, classes)).round(1) + 0.8 * np.eye(classes)[labels]  # rounding makes ties
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return labels, probabilities, [f"p{g}" for g in rng.integers(0, n // 3, n)]


def reference(labels: Any, probabilities: Any, metric: str) -> float:
    if metric == "accuracy":
        return float(accuracy_score(labels, probabilities.argmax(1)))
    if metric == "balanced_accuracy":
        return float(balanced_accuracy_score(labels, probabilities.argmax(1)))
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    parts = [roc_auc_score(labels == k, probabilities[:, k]) for k in range(probabilities.shape[1])]
    return float(np.mean(parts))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("grouped", [False, True])
def test_equals_brute_force_and_scikit_learn(metric: str, classes: int, grouped: bool) -> None:
    labels, probabilities, groups = example(classes)
    value, left = jackknife(labels, probabilities, groups if grouped else None, metric, "multiclass")
    assert value == pytest.approx(reference(labels, probabilities, metric), abs=1e-12)
    patients = list(dict.fromkeys(groups)) if grouped else range(len(labels))
    names = np.array(groups if grouped else range(len(labels)))
    brute = [reference(labels[names != p], probabilities[names != p], metric) for p in patients]
    np.testing.assert_allclose(left, brute, atol=1e-12)


def test_multilabel_is_the_mean_over_labels() -> None:
    rng = np.random.default_rng(1)
    labels, probabilities = rng.integers(0, 2, (50, 3)).astype(np.uint8), rng.random((50, 3))
    value, left = jackknife(labels, probabilities, None, "auroc", "multilabel")
    assert value == pytest.approx(roc_auc_score(labels, probabilities, average="macro"))
    keep = np.arange(50) != 7
    assert left[7] == pytest.approx(roc_auc_score(labels[keep], probabilities[keep], average="macro"))


def test_a_patient_who_is_a_whole_class_leaves_its_value() -> None:
    labels = np.array([0, 0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.5, 0.5], [0.2, 0.8]])
    value, left = jackknife(labels, probabilities, ["a", "b", "c", "d", "d"], "auroc", "multiclass")
    assert left[3] == value == pytest.approx(5 / 6)


def test_ties_count_one_half_and_one_class_is_undefined() -> None:
    assert auroc([0, 1], [0.5, 0.5]) == 0.5
    assert np.isnan(auroc([1, 1], [0.1, 0.2]))


def test_unknown_metric_and_wrong_groups_are_errors() -> None:
    labels, probabilities, _ = example(2)
    with pytest.raises(ValueError, match="f1"):
        jackknife(labels, probabilities, None, "f1", "multiclass")
    with pytest.raises(ValueError, match="3 groups"):
        jackknife(labels, probabilities, ["a"] * 3, "auroc", "multiclass")
