"""The laws' levels and coverage by simulation, and planted copies."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import betabinom, kstest

from privacy.audits import (
    adaptive_ratio,
    bank_control,
    call_copies,
    control_patients,
    control_rank,
    control_threshold,
    distance_ratio,
    excess_interval,
    matched_bank,
    query_control,
)
from privacy.neighbours import tile_max_matrix, tile_max_neighbours

Floats = NDArray[np.float64]


def test_the_rank_is_floor_of_one_percent() -> None:
    assert [control_rank(n) for n in (1, 50, 98, 99, 198, 199, 999)] == [1, 1, 1, 1, 1, 2, 10]
    with pytest.raises(ValueError, match="at least one"):
        control_rank(0)


def test_query_control_in_closed_form() -> None:
    control = np.arange(1.0, 200.0)  # 199 controls: k = 2, threshold 2, level 1 %
    found = query_control(np.array([0.0, 2.0, 2.5, 100.0]), control)
    assert (found["k"], found["level"], found["threshold"], found["flagged"]) == (2, 0.01, 2.0, 2)
    assert found["share"] == 0.5 and found["excess"] == pytest.approx((0.5 - 0.01) / 0.99)
    assert found["p_value"] == pytest.approx(betabinom.pmf([2, 3, 4], 4, 2, 198).sum())
    assert found["conformal"] == pytest.approx([1 / 200, 3 / 200, 3 / 200, 101 / 200])
    assert found["called"].tolist() == [True, True, True, False]
    assert found["low"] <= 0.5 <= found["high"]


def test_nothing_flagged_and_few_controls() -> None:
    found = query_control(np.array([5.0, 6.0]), np.array([1.0]))
    assert (found["k"], found["level"], found["flagged"], found["p_value"]) == (1, 0.5, 0, 1.0)
    assert found["excess"] == found["low"] == 0
    with pytest.raises(ValueError, match="synthetic"):
        query_control(np.zeros(0), np.ones(3))
    with pytest.raises(ValueError, match="control"):
        query_control(np.ones(3), np.zeros(0))


def test_ties_at_the_threshold_are_not_evidence() -> None:
    everything_equal = query_control(np.zeros(50), np.zeros(150))
    assert everything_equal["flagged"] == 0 and everything_equal["p_value"] == 1
    assert control_threshold(np.array([1.0, 1.0, 2.0])) < 1 <= control_threshold(np.array([1.0, 2.0, 2.0]))


def test_the_level_holds_without_copying() -> None:
    """Flagged share = level on average; P(p <= a) <= a, nearly equal."""
    rng = np.random.default_rng(0)
    found = [query_control(rng.random(100), rng.random(120)) for _ in range(1500)]
    shares = np.array([f["share"] for f in found])
    assert shares.mean() == pytest.approx(1 / 121, abs=4 * shares.std() / np.sqrt(1500))
    p = np.array([f["p_value"] for f in found])
    for a in (0.01, 0.05, 0.2):
        assert (p <= a).mean() <= a + 3 * np.sqrt(a * (1 - a) / 1500)
    called = np.array([f["called"].any() for f in found])
    assert called.mean() <= 0.1 + 3 * np.sqrt(0.09 / 1500)


@pytest.mark.parametrize("copies", [0, 3, 20])
@pytest.mark.parametrize("n", [60, 250])
def test_the_excess_interval_covers(copies: int, n: int) -> None:
    rng = np.random.default_rng(copies + n)
    m, k, hits = 80, control_rank(n), 0
    for _ in range(400):
        t = np.sort(rng.random(n))[k - 1]
        flagged = copies + int((rng.random(m - copies) <= t).sum())
        low, high = excess_interval(flagged, m, k, n)
        hits += low - 1e-12 <= copies / m <= high + 1e-12
    assert hits / 400 > 0.94


def test_planted_copies_are_found_and_held_out_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (520, 16, 16, 3)).astype(np.uint8)
    bank, control, held_out = images[:200], images[200:320], images[320:520]
    queries = np.concatenate([bank[:20], held_out])
    far = tile_max_neighbours(control, bank)[0][:, 0]
    found = query_control(tile_max_neighbours(queries, bank)[0][:, 0], far)
    flagged = tile_max_neighbours(queries, bank)[0][:, 0] <= found["threshold"]
    assert flagged[:20].all() and flagged[20:].mean() < 0.05
    assert found["p_value"] < 1e-4 and found["low"] > 0.05 and found["called"][:20].all()
    assert found["low"] <= 20 / 220 <= found["high"]
    ratio = distance_ratio(tile_max_matrix(queries, bank).min(1), tile_max_matrix(queries, control).min(1))
    theirs = distance_ratio(far, np.partition(tile_max_matrix(control, control), 1, axis=1)[:, 1])
    assert call_copies(flagged, ratio, theirs)[:20].all()


def test_a_call_needs_both() -> None:
    control = np.linspace(0.9, 1.1, 99)
    called = call_copies(np.array([True, True, False, False]), np.array([0.5, 1.0, 0.5, 1.0]), control)
    assert called.tolist() == [True, False, False, False]


def test_control_patients_takes_one_image_a_patient() -> None:
    groups = [str(i // 3) for i in range(30)]
    rows = control_patients(groups, 0)
    assert [groups[i] for i in rows] == sorted({*groups}, key=int) and (np.diff(rows) > 0).all()
    assert len({tuple(control_patients(groups, seed)) for seed in range(5)}) == 5
    drawn = np.bincount(np.concatenate([control_patients(groups, seed) for seed in range(300)]), minlength=30)
    assert drawn.min() > 60


def test_matched_bank_has_the_held_outs_size_and_mix() -> None:
    rng = np.random.default_rng(0)
    groups = [f"p{i // 4}" for i in range(400)]
    labels = rng.integers(0, 3, 100).repeat(4)
    held_out = np.array([0] * 10 + [1] * 40 + [2] * 17)
    rows = matched_bank(labels, groups, held_out, 1)
    assert np.bincount(labels[rows]).tolist() == [10, 40, 17] and (np.diff(rows) > 0).all()
    assert len({groups[i] for i in rows}) <= 3 + 10 + 5  # whole patients, but for the last of a class
    assert (rows == matched_bank(labels, groups, held_out, 1)).all()
    assert (rows != matched_bank(labels, groups, held_out, 2)).any()
    few = matched_bank(np.array([0, 1]), ["a", "b"], held_out, 0)
    assert few.tolist() == [0, 1]
    assert len(matched_bank(np.array([0, 1]), ["a", "b"], np.array([5]), 0)) == 0


def banks(seed: int, learnt: float = 0.0, m: int = 60, n: int = 24) -> tuple[Floats, list[str], Floats, list[str]]:
    """Distances to train and held-out images, two images a patient; `learnt` pulls towards train."""
    rng = np.random.default_rng(seed)
    groups = [str(i // 2) for i in range(n)]
    place = rng.normal(size=(2 * n, 3)) * 0.2 + rng.normal(size=(n, 3)).repeat(2, 0)
    made = rng.normal(size=(m, 3))
    made[: int(learnt * m)] = place[rng.integers(0, n, int(learnt * m))] + 0.02
    distances = np.linalg.norm(made[:, None] - place[None], axis=2)
    return distances[:, :n], groups, distances[:, n:], groups


def test_bank_control_is_a_half_without_learning() -> None:
    found = [bank_control(*banks(seed), seed) for seed in range(80)]
    shares = np.array([f["share"] for f in found])
    assert abs(shares.mean() - 0.5) < 4 * shares.std() / np.sqrt(80)
    p = np.array([f["p_value"] for f in found])
    assert kstest(p, "uniform").pvalue > 0.001 and (p <= 0.05).mean() < 0.15
    covered = [f["low"] <= 0.5 <= f["high"] for f in found]
    assert np.mean(covered) > 0.8


def test_bank_control_sees_learning() -> None:
    found = bank_control(*banks(0, learnt=0.8), 0)
    assert found["share"] > 0.7 and found["p_value"] < 0.01 and found["low"] > 0.5
    assert found["high"] <= 1 and found["ratio"].shape == (60,)
    again = bank_control(*banks(0, learnt=0.8), 0)
    assert (again["low"], again["p_value"]) == (found["low"], found["p_value"])


def test_flipping_the_coin_equals_recomputing_the_minima() -> None:
    train, groups, held_out, _ = banks(3, learnt=0.3, n=10)
    held_out[:, :2] = train[:, :2]  # ties
    found = bank_control(train, groups, held_out, groups, 7)
    a, b = (x.reshape(60, 5, 2).min(2) for x in (train, held_out))
    share = (a.min(1) < b.min(1)).mean() + 0.5 * (a.min(1) == b.min(1)).mean()
    assert found["share"] == share
    both, rng, shares = np.concatenate([a, b], 1), np.random.default_rng(0), []
    for _ in range(2000):
        order = rng.permutation(10)
        x, y = both[:, order[:5]].min(1), both[:, order[5:]].min(1)
        shares.append((x < y).mean() + 0.5 * (x == y).mean())
    assert found["p_value"] == pytest.approx(np.mean(np.array(shares) >= share - 1e-9), abs=0.06)


def test_ratios_of_zero() -> None:
    assert distance_ratio(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 2.0, 2.0, 0.0])).tolist() == [
        1,
        0,
        0.5,
        np.inf,
    ]
    near = np.ones((3, 50))
    near[1, 0], near[2] = 0, 0
    assert adaptive_ratio(near) == pytest.approx([2, 0, 2])
    with pytest.raises(ValueError, match="alpha 0"):
        adaptive_ratio(near, 0)


def test_bad_banks() -> None:
    with pytest.raises(ValueError, match="3 and 2 images"):
        bank_control(np.ones((3, 2)), ["a", "b"], np.ones((2, 2)), ["a", "b"], 0)
    with pytest.raises(ValueError, match="1 patients"):
        bank_control(np.ones((3, 2)), ["a"], np.ones((3, 2)), ["a", "b"], 0)
    with pytest.raises(ValueError, match="NaN"):
        query_control(np.array([np.nan]), np.ones(3))
