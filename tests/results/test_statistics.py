"""Closed forms, reference libraries and coverage."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from results.statistics import (
    averaging,
    difference_interval,
    holm,
    p_value,
    paired,
    patient_covariance,
    qualified,
    smallest_detectable,
    tost,
    verdict,
)


@pytest.mark.parametrize("seeds", range(2, 11))
def test_without_shared_patients_it_is_students_interval(seeds: int) -> None:
    thetas = np.random.default_rng(seeds).normal(size=seeds)
    estimate = difference_interval(thetas, 0.0)
    low, high = stats.t.interval(0.95, seeds - 1, thetas.mean(), stats.sem(thetas))
    assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))
    assert p_value(estimate) == pytest.approx(stats.ttest_1samp(thetas, 0).pvalue)
    assert estimate.interval(0.95) == (pytest.approx(low), pytest.approx(high))


def test_the_formula_with_covariance() -> None:
    thetas, c = np.array([0.01, 0.03, 0.05]), 0.0004
    matrix = np.full((3, 3), c) + np.eye(3)  # the diagonal does not enter
    estimate = difference_interval(thetas, matrix)
    v = 0.0004
    assert estimate.se == pytest.approx(np.sqrt(v / 3 + c))
    assert estimate.df == pytest.approx((v + 3 * c) ** 2 / (v**2 / 2))
    assert difference_interval(thetas, -1.0).se == pytest.approx(np.sqrt(v / 3))


def test_limits() -> None:
    constant = difference_interval([0.2, 0.2, 0.2], 0.01)
    assert np.isinf(constant.df) and constant.high == pytest.approx(0.2 + 1.959964 * 0.1, abs=1e-6)
    nothing = difference_interval([0.2, 0.2], 0.0)
    assert nothing.value == 0.2 and np.isnan([nothing.low, nothing.high, p_value(nothing)]).all()
    one = difference_interval([0.2], [[0.01]])
    assert one.patients_only and one.low == pytest.approx(0.2 - 1.959964 * 0.1, abs=1e-6)


def test_the_jackknife_variance_of_a_mean_is_its_standard_error() -> None:
    sample = np.random.default_rng(0).normal(size=40)
    left = (sample.sum() - sample) / 39
    assert patient_covariance(left)[0, 0] == pytest.approx(stats.sem(sample) ** 2)


def test_seeds_of_one_generator_are_averaged_first() -> None:
    thetas = np.array([0.1, 0.3, 0.2, 0.6])
    left = np.random.default_rng(1).normal(size=(4, 30))
    assert paired(thetas, left, [0, 1, 0, 1]).value == pytest.approx(0.3)
    assert paired(thetas, left, [0, 1, 0, 1]).seeds == 2
    assert paired(thetas, left, [0, 0, 0, 0]).seeds == 4
    np.testing.assert_allclose(averaging([0, 1, 0]), [[0.5, 0, 0.5], [0, 1, 0]])


def test_holm_equals_statsmodels() -> None:
    p = [0.01, 0.04, 0.03, 0.005, 0.9]
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])
    assert np.isnan(holm([np.nan, 0.01])[0]) and holm([np.nan, 0.01])[1] == pytest.approx(0.02)


def test_tost_equals_statsmodels_and_the_90_percent_interval() -> None:
    thetas = np.array([0.001, -0.002, 0.003, 0.0])
    estimate = difference_interval(thetas, 0.0)
    assert tost(estimate, 0.01) == pytest.approx(DescrStatsW(thetas).ttost_mean(-0.01, 0.01)[0])
    for margin in np.linspace(0.001, 0.01, 10):
        low, high = estimate.interval(0.9)
        assert (tost(estimate, margin) < 0.05) == (-margin < low and high < margin)


def test_smallest_detectable_is_found_four_times_in_five() -> None:
    assert smallest_detectable(1.0, np.inf) == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    assert smallest_detectable(1.0, 4, m=5) == pytest.approx(stats.t.ppf(0.995, 4) + stats.t.ppf(0.8, 4))


@pytest.mark.parametrize(
    ("difference", "p", "p_equivalence", "beats", "word"),
    [
        (0.03, 0.01, 0.9, True, "helped"),
        (0.03, 0.01, 0.9, False, "undecided"),
        (-0.03, 0.01, 0.9, False, "harmed"),
        (0.001, 0.8, 0.01, True, "equivalent"),
        (0.03, 0.2, 0.9, True, "undecided"),
        (0.03, float("nan"), float("nan"), True, "undecided"),
    ],
)
def test_verdicts(difference: float, p: float, p_equivalence: float, beats: bool, word: str) -> None:
    assert verdict(difference, p, p_equivalence, beats) == word


def test_what_is_said_beside_a_verdict() -> None:
    assert qualified("helped", 5, 5) == "helped"
    assert qualified("helped", 3, 1) == "helped (provisional; conditional on this generator)"


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_coverage_over_seeds_and_patients(seeds: int) -> None:
    """theta_s = patients' mean shared by all seeds + a seed's own part."""
    rng = np.random.default_rng(seeds)
    patients, runs, hit = 60, 1000, 0
    for _ in range(runs):
        shared = rng.normal(size=patients)
        scores = shared + 0.5 * rng.normal(size=(seeds, patients)) + 0.1 * rng.normal(size=(seeds, 1))
        left = (scores.sum(axis=1, keepdims=True) - scores) / (patients - 1)
        estimate = paired(scores.mean(axis=1), left)
        hit += estimate.low <= 0 <= estimate.high
    assert 0.925 <= hit / runs <= 0.985
