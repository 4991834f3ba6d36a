"""Planted truths: copies are seen by each measure, fresh draws by none; small cases by hand."""

import numpy as np
import pytest

from privacy.audits import authentic_share, c_t, overfit_share
from privacy.neighbours import cosine_neighbours

RNG = np.random.default_rng(0)
TRAIN, HELD, FRESH = (RNG.normal(size=(300, 12)) for _ in range(3))
COPIES = TRAIN[:200] + 0.01 * RNG.normal(size=(200, 12))


def test_copies_are_seen_and_fresh_draws_are_not() -> None:
    assert authentic_share(TRAIN, COPIES) < 0.05 < 0.3 < authentic_share(TRAIN, FRESH)
    assert overfit_share(TRAIN, HELD, COPIES) > 0.4
    assert abs(overfit_share(TRAIN, HELD, FRESH)) < 0.1
    copied, fresh = c_t(TRAIN, HELD, COPIES), c_t(TRAIN, HELD, FRESH)
    assert copied["c_t"] < -5 and copied["p"] < 0.01 and copied["u_share"] < 0.01
    assert abs(fresh["c_t"]) < 2.5 and fresh["p"] > 0.02 and fresh["u_share"] == pytest.approx(0.5, abs=0.08)


def test_authentic_share_by_hand() -> None:
    train = np.array([[0.0], [1.0], [5.0]])
    assert authentic_share(train, np.array([[0.5], [10.0], [6.0]])) == pytest.approx(1 / 3), "5 is farther than 4"


def test_too_few_for_any_cell_is_missing() -> None:
    assert np.isnan(c_t(TRAIN[:30], HELD[:10], FRESH[:10])["c_t"])


def test_cosine_neighbour_is_exact_and_blind_to_length() -> None:
    distance, index = cosine_neighbours(3 * TRAIN[[5, 7]], TRAIN)
    assert index.tolist() == [5, 7] and distance.max() < 1e-12
    other, _ = cosine_neighbours(FRESH[:50], TRAIN)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (FRESH[:50], TRAIN)]
    assert np.allclose(other, (1 - unit[0] @ unit[1].T).min(1))
