"""How often the interval of a difference in AUROC holds the truth: the table of docs/protocol.md; `make study`.

Two arms whose classifiers are equally good on average, so that the true difference is 0: each patient is easier or
harder for both arms and, less so, for each; seeds differ in skill. spread: the seeds' SD over the patients' SD.
"""

from functools import cache

import numpy as np
import pytest

from results.statistics import jackknife, paired

PATIENTS, SKILL = 120, 1.5
LABELS = np.arange(PATIENTS) % 2


def difference(rng: np.random.Generator, seeds: int, skill_sd: float) -> tuple[list[float], np.ndarray]:
    """One study: theta_s and the differences without each patient."""
    hard, own = rng.normal(size=PATIENTS), 0.5 * rng.normal(size=(2, PATIENTS))
    thetas, left = [], []
    for _ in range(seeds):
        scores = hard + own + 0.3 * rng.normal(size=(2, PATIENTS))
        scores += (SKILL + skill_sd * rng.normal(size=(2, 1))) * LABELS
        (one, lefts_one), (two, lefts_two) = (
            jackknife(LABELS, 1 / (1 + np.exp(-arm)), None, "auroc", "multiclass") for arm in scores
        )
        thetas.append(one - two)
        left.append(lefts_one - lefts_two)
    return thetas, np.stack(left)


@cache
def unit() -> float:
    """The SD of skill at which seeds spread theta as much as patients do."""
    rng = np.random.default_rng(0)
    patients = np.std([difference(rng, 1, 0.0)[0] for _ in range(1000)])
    seeds = np.std([difference(rng, 1, 1.0)[0] for _ in range(1000)])
    return float(patients / np.sqrt(seeds**2 - patients**2))


def coverage(seeds: int, spread: float, runs: int) -> float:
    rng, hit = np.random.default_rng([seeds, int(10 * spread)]), 0
    for _ in range(runs):
        estimate = paired(*difference(rng, seeds, spread * unit()))
        hit += estimate.low <= 0 <= estimate.high
    return hit / runs


@pytest.mark.study
@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize(("seeds", "wanted"), [(3, 0.915), (5, 0.935), (10, 0.935)])
def test_coverage(seeds: int, wanted: float, spread: float, capsys: pytest.CaptureFixture[str]) -> None:
    runs = 2000
    found = coverage(seeds, spread, runs)
    with capsys.disabled():
        print(f"\n{seeds} seeds, spread {spread:g}: coverage {found:.3f}, false positives {1 - found:.3f}")
    assert found >= wanted - 1.96 * np.sqrt(wanted * (1 - wanted) / runs)


def test_coverage_on_a_small_scale() -> None:
    assert coverage(5, 1.0, 150) >= 0.89
