"""What each arm trains on."""

import numpy as np
import pytest

from benchmark.splits import ARMS, mixture

N = 40
LABELS = np.repeat([0, 1], 50)
BUDGET = np.random.default_rng(0).permutation(100)[:N]
RANK, COPY = np.tile(np.arange(60), 3), np.repeat(np.arange(3), 60)  # a set made for 60 rows, three times


def arm(name: str, ratio: float = 1.0) -> tuple[int, int, float]:
    rows = mixture(name, BUDGET, LABELS, RANK, COPY, ratio, 0.5)
    assert (RANK[rows.synthetic] < N).all(), "only images made for this budget's rows"
    assert set(rows.real) <= set(BUDGET)
    assert len(set(rows.synthetic.tolist())) == len(rows.synthetic)
    return len(rows.real), len(rows.synthetic), rows.share


def test_sizes_of_the_arms() -> None:
    assert arm("real") == (N, 0, 0.0)
    assert arm("synthetic") == (0, N, 1.0)
    assert arm("augmented") == (N, N, 0.5)
    assert arm("augmented", 3) == (N, 3 * N, 0.5)
    assert arm("synthetic", 0.25) == (0, N // 4, 1.0)
    assert arm("synthetic", 1.5) == (0, 3 * N // 2, 1.0)


def test_mixed_replaces_half_and_keeps_total_and_class_mix() -> None:
    rows = mixture("mixed", BUDGET, LABELS, RANK, COPY, 1, 0.5)
    assert len(rows.real) + len(rows.synthetic) == N
    labels = np.concatenate([LABELS[rows.real], LABELS[BUDGET[RANK[rows.synthetic]]]])
    assert np.bincount(labels).tolist() == np.bincount(LABELS[BUDGET]).tolist()
    assert not set(rows.real) & set(BUDGET[RANK[rows.synthetic]]), "no row both real and replaced"


def test_unknown_arm_names_the_allowed() -> None:
    with pytest.raises(ValueError, match=ARMS[0]):
        mixture("reel", BUDGET, LABELS, RANK, COPY, 1, 0.5)
