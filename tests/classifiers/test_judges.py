"""Telling real from synthetic, label consistency: chance level, certainty, intervals as in other libraries."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from classifiers.metrics import (
    binomial_interval,
    chance_consistency,
    delong_auroc,
    label_consistency,
    probe_alignment,
    two_sample,
)


def test_equal_laws_cannot_be_told_apart_and_shifted_ones_can() -> None:
    rng = np.random.default_rng(0)
    real, same = rng.normal(size=(2, 300, 20))
    groups = [f"p{i // 3}" for i in range(300)]
    found = two_sample(real, same, groups, groups)
    assert found.pop("two_sample_smallest")[0] == pytest.approx(0.5 + 1.24 / np.sqrt(300))
    for value, low, high in found.values():
        assert low < 0.5 < high and low < value < high
    assert two_sample(real, same + 2, groups, groups)["two_sample_auroc"][0] > 0.99


def test_binomial_interval_is_clopper_and_pearsons() -> None:
    for right, n in ((0, 20), (7, 20), (20, 20), (133, 500)):
        expected = proportion_confint(right, n, method="beta")
        assert binomial_interval(right, n) == pytest.approx(tuple(np.nan_to_num(expected, nan=0)), abs=1e-9)


def test_auroc_counts_ties_half() -> None:
    value, low, high = delong_auroc(np.array([0.1, 0.5, 0.5]), np.array([0.5, 0.9]))
    assert value == pytest.approx((1 + 0.5 + 0.5 + 3) / 6) and low <= value <= high


def test_label_consistency_of_classes_and_of_labels() -> None:
    chance = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    assert label_consistency(np.array([0, 1, 1]), chance)[0] == pytest.approx(2 / 3)
    assert label_consistency(np.array([[1, 0], [0, 1], [0, 1]], np.uint8), chance)[0] == pytest.approx(4 / 6)


def test_consistency_by_chance_is_that_of_answers_in_any_order() -> None:
    """Of one class and of several labels; of a judge that always says the same, its own consistency."""
    rng = np.random.default_rng(0)
    labels, answers = rng.choice(3, 300, p=[0.6, 0.3, 0.1]), rng.dirichlet([2.0, 1.0, 1.0], 300)
    several = (rng.random((300, 4)) < [0.1, 0.3, 0.5, 0.7]).astype(np.uint8)
    marks = rng.random((300, 4)) * [0.6, 1.0, 1.2, 1.6]
    for asked, given in ((labels, answers), (several, marks)):
        shuffled = [label_consistency(rng.permutation(asked), given)[0] for _ in range(400)]
        assert chance_consistency(asked, given) == pytest.approx(np.mean(shuffled), abs=0.005)
    always = np.tile([0.0, 1.0, 0.0], (300, 1))
    assert chance_consistency(labels, always) == pytest.approx(label_consistency(labels, always)[0])


def test_a_probe_lies_where_the_classes_differ() -> None:
    """Three classes that differ along two of 200 directions: the same differences span the probe, others do not."""
    rng = np.random.default_rng(0)
    truth = np.arange(600)[:, None] % 3 == np.arange(3)
    means = np.zeros((3, 200))
    means[1, 0] = means[2, 1] = 4

    def draw(centres: np.ndarray, n: int = 600) -> np.ndarray:
        return rng.normal(size=(n, 200)) + truth[:n].astype(float) @ centres

    real = draw(means)
    same, other = (probe_alignment(real, truth, draw(each), truth) for each in (means, np.roll(means, 5, axis=1)))
    assert same > 0.5 and other < 0.1
    assert probe_alignment(real, truth, real * 3 + 1, truth) == pytest.approx(probe_alignment(real, truth, real, truth))
    assert np.isnan(probe_alignment(real, truth, draw(means)[:5], np.tile(truth[:1], (5, 1)))), (
        "one class: no difference"
    )
