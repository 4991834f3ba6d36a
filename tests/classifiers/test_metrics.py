"""Against scikit-learn, and closed forms."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as oracle

from classifiers.metrics import calibration_error, per_class, score


def predictions(n: int, classes: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + 1.2 * (labels[:, None] == np.arange(classes))
    values = np.exp(np.round(logits, 1))  # rounding makes ties
    return labels, values / values.sum(1, keepdims=True)


def test_multiclass_agrees_with_scikit_learn() -> None:
    labels, p = predictions(300, 4)
    found, chosen = score(labels, p, "multiclass"), p.argmax(1)
    one_hot = np.eye(4)[labels]
    expected = {
        "auroc": oracle.roc_auc_score(labels, p, multi_class="ovr"),
        "average_precision": oracle.average_precision_score(one_hot, p, average="macro"),
        "accuracy": oracle.accuracy_score(labels, chosen),
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, chosen),
        "macro_f1": oracle.f1_score(labels, chosen, average="macro"),
        "brier": np.square(p - one_hot).sum(1).mean(),
        "log_loss": oracle.log_loss(labels, p),
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    assert set(found) == {*expected, "calibration_error"}


def test_two_classes_take_the_auroc_of_class_one() -> None:
    labels, p = predictions(200, 2)
    assert score(labels, p, "multiclass")["auroc"] == pytest.approx(oracle.roc_auc_score(labels, p[:, 1]))


def test_ordinal_adds_quadratic_kappa() -> None:
    labels, p = predictions(300, 5)
    found = score(labels, p, "ordinal")
    assert found["quadratic_kappa"] == pytest.approx(oracle.cohen_kappa_score(labels, p.argmax(1), weights="quadratic"))
    assert np.isnan(score(np.zeros(3, np.int64), np.eye(5)[[0, 0, 0]], "ordinal")["quadratic_kappa"])


def test_multilabel_is_the_mean_over_labels() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((250, 3)) < [0.5, 0.2, 0.7]).astype(np.uint8)
    p = np.clip(0.3 * labels + 0.7 * rng.random(labels.shape), 0, 1)
    chosen = p >= 0.5
    found = score(labels, p, "multilabel")
    columns = range(3)
    expected = {
        "auroc": oracle.roc_auc_score(labels, p, average="macro"),
        "average_precision": oracle.average_precision_score(labels, p, average="macro"),
        "accuracy": (chosen == labels).mean(),
        "balanced_accuracy": np.mean([oracle.balanced_accuracy_score(labels[:, k], chosen[:, k]) for k in columns]),
        "macro_f1": oracle.f1_score(labels, chosen, average="macro"),
        "brier": np.mean([oracle.brier_score_loss(labels[:, k], p[:, k]) for k in columns]),
        "log_loss": np.mean([oracle.log_loss(labels[:, k], p[:, k]) for k in columns]),
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    recall = per_class(labels, p, "multilabel")["recall"]
    assert recall == pytest.approx(oracle.recall_score(labels, chosen, average=None))


def test_per_class() -> None:
    labels, p = predictions(200, 3)
    labels[labels == 2] = 1
    found = per_class(labels, p, "multiclass")
    assert found["recall"][:2] == pytest.approx(oracle.recall_score(labels, p.argmax(1), average=None, labels=[0, 1]))
    assert found["auroc"][0] == pytest.approx(oracle.roc_auc_score(labels == 0, p[:, 0]))
    assert np.isnan(found["recall"][2]) and np.isnan(found["auroc"][2])


def test_columns_without_both_values_are_left_out() -> None:
    labels, p = predictions(100, 3)
    labels[labels == 2] = 1
    expected = np.mean([oracle.roc_auc_score(labels == k, p[:, k]) for k in (0, 1)])
    assert score(labels, p, "multiclass")["auroc"] == pytest.approx(expected)
    alone = score(np.zeros(4, np.int64), p[:4], "multiclass")
    assert np.isnan(alone["auroc"]) and np.isnan(alone["average_precision"]) and np.isfinite(alone["accuracy"])
    nothing = score(np.zeros((4, 3), np.uint8), p[:4], "multilabel")
    assert np.isnan(nothing["auroc"]) and np.isnan(nothing["balanced_accuracy"])


def test_calibration_error() -> None:
    right = np.array([True] * 8 + [False] * 2)
    assert calibration_error(right, np.full(10, 1.0)) == pytest.approx(0.2)
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 40_000)
    assert calibration_error(rng.random(40_000) < confidence, confidence) < 0.01
    # 30 images, 15 bins of two: |mean right - mean confidence| of each
    confidence = np.sort(rng.random(30))
    right = rng.random(30) < 0.5
    expected = np.abs(right.reshape(15, 2).mean(1) - confidence.reshape(15, 2).mean(1)).mean()
    assert calibration_error(right, confidence) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("labels", "p", "task", "words"),
    [
        ([0, 1], [[0.5, 0.5]] * 2, "binary", "allowed: multiclass, multilabel, ordinal"),
        ([0, 2], [[0.5, 0.5]] * 2, "multiclass", "allowed: whole numbers 0 to 1"),
        ([0], [[0.5, 0.5]] * 2, "multiclass", r"labels of shape \(1,\)"),
        ([0, 1], [[np.nan, 0.5]] * 2, "multiclass", "finite"),
        ([0, 1], [[1.5, 0.5]] * 2, "multiclass", "in \\[0, 1\\]"),
        ([0, 1], [[0.5, 0.5]] * 2, "multilabel", "labels of shape"),
    ],
)
def test_bad_input(labels: list[int], p: list[list[float]], task: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        score(np.array(labels), np.array(p), task)
