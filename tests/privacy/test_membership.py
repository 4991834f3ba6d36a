"""Nothing to find: chance; everything: certainty; epsilon stays below a mechanism whose epsilon is known."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from privacy.membership import (
    blind_auroc,
    calibrated,
    empirical_epsilon,
    greatest_epsilon,
    membership_auroc,
    true_positive_rate,
)

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 200))
PATIENTS = [f"p{i // 2}" for i in range(200)], [f"q{i // 2}" for i in range(200)]


def test_no_leak_is_chance_and_a_leak_is_found() -> None:
    value, low, high = membership_auroc(A, B, *PATIENTS)
    assert value == pytest.approx(roc_auc_score(np.repeat([1, 0], 200), np.concatenate([A, B])))
    assert low < 0.5 < high
    value, low, _ = membership_auroc(A + 3, B, *PATIENTS)
    assert low > 0.9 and value > 0.97


def test_rate_that_cannot_be_resolved_is_missing() -> None:
    assert true_positive_rate(A, B[:50], PATIENTS[0], PATIENTS[1][:50], 0.01) is None
    found = true_positive_rate(A + 10, B, *PATIENTS, 0.01)
    assert found is not None and found[0] == 1
    chance = true_positive_rate(A, B, *PATIENTS, 0.1)
    assert chance is not None and chance[1] <= 0.1 <= chance[2] + 0.05


def test_epsilon_stays_below_a_known_mechanism() -> None:
    # Randomised response: each patient's bit is told rightly with probability e^eps / (1 + e^eps).
    epsilon, above = 1.0, 0
    rng = np.random.default_rng(1)
    for _ in range(300):
        bits = rng.random(200) < 0.5
        told = np.where(rng.random(200) < np.exp(epsilon) / (1 + np.exp(epsilon)), bits, ~bits)
        scores = told + 1e-3 * rng.random(200)
        names = [f"{i}" for i in range(200)]
        members, others = np.flatnonzero(bits), np.flatnonzero(~bits)
        bound = empirical_epsilon(
            scores[members], scores[others], [names[i] for i in members], [names[i] for i in others], 100,
            confidence=0.999,
        )  # fmt: skip
        above += bound > epsilon
    assert above <= 3
    assert empirical_epsilon(A + 10, B, *PATIENTS, 100) > 2.5, "all of 100 right"
    assert empirical_epsilon(A, B, *PATIENTS, 100) < 0.5


def test_delta_takes_its_part_of_epsilon() -> None:
    """Against the p value of Steinke et al., written out as their theorem 5.2 has it."""
    from scipy.stats import binom

    scores = np.arange(200.0)
    people = [f"{i}" for i in range(200)]
    bounds = [empirical_epsilon(scores[100:], scores[:100], people[100:], people[:100], 60, delta=delta)
              for delta in (0.0, 1e-9, 1e-5, 1e-3)]  # fmt: skip
    assert bounds[0] == pytest.approx(bounds[1], abs=1e-3) and bounds[0] > bounds[2] > bounds[3] > 0
    epsilon, v, r, m, delta = bounds[2], 60, 60, 200, 1e-5
    chance = 1 / (1 + np.exp(-epsilon))
    slack = max(sum(binom.pmf(v - j, r, chance) for j in range(1, i + 1)) / i for i in range(1, v + 1))
    assert binom.sf(v - 1, r, chance) + 2 * m * delta * slack == pytest.approx(0.05, abs=1e-6)


def test_the_greatest_bound_is_that_of_right_guesses_alone() -> None:
    scores, people = np.arange(140.0), [f"{i}" for i in range(140)]
    for delta in (0.0, 1e-5, 1e-3):
        leaky = empirical_epsilon(scores[70:], scores[:70], people[70:], people[:70], 100, 0.999, delta)
        assert leaky == greatest_epsilon(140, 100, 0.999, delta)
    assert greatest_epsilon(140, 100, 0.999, 1e-5) > 1.5, "a leak of so many patients can be seen"
    assert greatest_epsilon(140, 100, 0.999, 1e-3) == 0.0, "beside so large a delta nothing can, which is told"


def test_blind_baseline_sees_a_difference_of_the_groups_alone() -> None:
    features = RNG.normal(size=(400, 8))
    value, p = blind_auroc(features[:200] + 1, features[200:], *PATIENTS)
    assert value > 0.8 and p == 0.01
    assert np.isnan(blind_auroc(features[:4], features[4:8], list("abcd"), list("efgh"))[0])
    void = sum(
        blind_auroc(drawn[:40], drawn[40:], PATIENTS[0][:40], PATIENTS[1][:40], flips=19)[1] <= 0.05
        for drawn in RNG.normal(size=(100, 80, 8))
    )
    assert void <= 12, "5 of 100 are expected"


def test_calibration_removes_what_is_easy_for_every_model() -> None:
    """Images differ far more in difficulty than by being a member; other models that did not see them tell how hard."""
    rng = np.random.default_rng(3)
    hard, inside = 5 * rng.normal(size=400), rng.random((6, 400)) < 0.5
    inside[:, 200:] = False  # held out
    losses = hard + 0.5 * rng.normal(size=(6, 400)) - 1.0 * inside
    names = [f"m{i}" for i in range(400)]
    chosen = np.flatnonzero(inside[0])
    plain = membership_auroc(-losses[0][chosen], -losses[0][200:], [names[i] for i in chosen], names[200:])
    scores = calibrated(losses, inside, 0)
    assert np.isfinite(scores[200:]).all()
    kept = chosen[np.isfinite(scores[chosen])]
    better = membership_auroc(scores[kept], scores[200:], [names[i] for i in kept], names[200:])
    assert plain[0] < 0.65 and better[0] > 0.85
    assert np.isnan(calibrated(losses, np.ones_like(inside), 0)).all()
