"""Closed forms, reference libraries, and the intervals' coverage."""

from collections.abc import Callable
from typing import Any

import numpy as np
import piq
import pytest
import torch
from numpy.typing import NDArray
from prdc import compute_prdc
from pytorch_fid.fid_score import calculate_frechet_distance

from generators import fidelity
from generators.fidelity import (
    combine,
    frechet_distance,
    frechet_distance_from_moments,
    frechet_infinity,
    kernel_distance,
    moments,
    ms_ssim,
    ms_ssim_diversity,
    precision_recall_density_coverage,
    subset_interval,
    vendi_score,
)

Floats = NDArray[np.float64]


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, d)) * np.linspace(0.5, 2, d) + shift


def reference(a: Floats, b: Floats) -> float:
    cov = [np.cov(x, rowvar=False) for x in (a, b)]
    return float(calculate_frechet_distance(a.mean(0), cov[0], b.mean(0), cov[1]))


def whitened(x: Floats) -> Floats:
    """Mean 0 and covariance 1 exactly."""
    x = x - x.mean(0)
    return np.asarray(x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T)


def test_frechet_of_gaussians_has_a_closed_form() -> None:
    a, b = whitened(normal(60, 5, 0)), whitened(normal(80, 5, 1))
    scale, shift = np.array([1, 2, 3, 0.5, 1]), np.array([1, 0, -2, 0, 0.5])
    expected = np.square(shift).sum() + np.square(scale - 1).sum()
    assert frechet_distance(a, b * scale + shift) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_frechet_agrees_with_pytorch_fid() -> None:
    a, b = normal(300, 64, 0), normal(250, 64, 1, 0.3)
    assert frechet_distance(a, b) == pytest.approx(reference(a, b), rel=1e-6)
    a, b = normal(60, 96, 0), normal(50, 96, 1, 0.3)  # fewer images than dimensions: its roots are singular
    assert frechet_distance(a, b) == pytest.approx(reference(a, b), abs=2e-4, rel=1e-5)


@pytest.mark.parametrize(("n", "m"), [(40, 50), (40, 300), (300, 40), (200, 210)])
def test_both_forms_of_frechet_agree(n: int, m: int) -> None:
    a, b = normal(n, 64, 0), normal(m, 64, 1, 0.3)
    expected = frechet_distance_from_moments(moments(a), moments(b))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [30, 200])
def test_frechet_of_identical_sets_is_zero(n: int) -> None:
    a = normal(n, 50, 0)
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-8)


def test_the_distance_without_end_is_that_of_the_laws() -> None:
    """Of equal laws it is 0, which the distance itself exceeds by the bias of a finite n."""
    a, b = np.random.default_rng(0).normal(size=(2, 2000, 16))
    assert abs(frechet_infinity(a, b)) < 0.4 * frechet_distance(a, b)
    assert frechet_infinity(a, b + 1) == pytest.approx(16, rel=0.05)
    assert np.isnan(frechet_infinity(a[:30], b)), "no line in 1/n with fewer images than twice the dimensions"


def test_shards_combine_exactly() -> None:
    a = np.random.default_rng(0).integers(-50, 50, (90, 8)).astype(np.float32)  # sums of whole numbers are exact
    whole, parts = moments(a), combine(combine(moments(a[:20]), moments(a[20:21])), moments(a[21:]))
    assert whole[0] == parts[0] and (whole[1] == parts[1]).all() and (whole[2] == parts[2]).all()
    assert whole[2].dtype == np.float64


def test_kernel_distance_is_the_mean_over_subsets() -> None:
    a, b = normal(24, 6, 0), normal(31, 6, 1, 0.5)

    def unbiased(x: Floats, y: Floats) -> float:
        xx, yy, xy = ((p @ q.T / 6 + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
        n = len(x)
        return float((xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (n * (n - 1)) - 2 * xy.mean())

    rng = np.random.default_rng(3)
    rows_a = [rng.permutation(24)[:12] for _ in range(100)]
    rows_b = [rng.permutation(31)[:12] for _ in range(100)]
    expected = np.mean([unbiased(a[i], b[j]) for i, j in zip(rows_a, rows_b, strict=True)])
    assert kernel_distance(a, b, seed=3) == pytest.approx(expected)


def test_kernel_distance_is_unbiased_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [kernel_distance(normal(40, 4, s), normal(40, 4, 1000 + s)) for s in range(150)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(150)
    assert min(found) < 0
    whole = kernel_distance(normal(40, 4, 0), normal(30, 4, 1))
    monkeypatch.setattr(fidelity, "BLOCK", 7)
    assert kernel_distance(normal(40, 4, 0), normal(30, 4, 1)) == pytest.approx(whole)


def test_precision_and_the_others_agree_with_prdc(monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = normal(70, 8, 0), normal(90, 8, 1, 0.4)
    expected = compute_prdc(real, made, nearest_k=5)
    assert precision_recall_density_coverage(real, made) == pytest.approx(expected)
    monkeypatch.setattr(fidelity, "BLOCK", 16)
    assert precision_recall_density_coverage(real, made) == pytest.approx(expected)


def test_coverage_and_density_of_equal_laws() -> None:
    n, m, k = 60, 90, 5
    found = [precision_recall_density_coverage(normal(n, 3, s), normal(m, 3, 999 + s), k) for s in range(120)]
    expected = 1 - np.prod([(n - i) / (m + n - i) for i in range(1, k + 1)])
    for key, value in (("coverage", expected), ("density", 1.0)):
        drawn = [f[key] for f in found]
        assert abs(np.mean(drawn) - value) < 4 * np.std(drawn) / np.sqrt(120)


def test_copies_sit_at_a_radius_and_strict_means_outside() -> None:
    real = normal(40, 8, 0) + 100
    found = precision_recall_density_coverage(real, real.copy(), 5)
    assert found["density"] == 1.0  # itself and four of five neighbours of each image lie inside its radius
    assert found["coverage"] == found["precision"] == found["recall"] == 1.0


@pytest.mark.parametrize("side", [11, 21, 28, 32, 45, 50, 64, 128, 162])
def test_ms_ssim_agrees_with_piq(side: int) -> None:
    rng = np.random.default_rng(side)
    a = rng.integers(0, 256, (3, side, side, 3)).astype(np.uint8)
    b = np.clip(a + rng.normal(0, [[[[5]]], [[[40]]], [[[300]]]], a.shape), 0, 255).astype(np.uint8)
    count = fidelity.scales(side)
    weights = torch.tensor(fidelity.MS_SSIM_WEIGHTS[:count])
    x, y = (torch.tensor(z).permute(0, 3, 1, 2).double() / 255 for z in (a, b))
    expected = piq.multi_scale_ssim(x, y, scale_weights=weights, reduction="none").numpy()
    assert ms_ssim(a, b) == pytest.approx(expected, abs=1e-9)
    assert ms_ssim(a, a) == pytest.approx(1)


def test_scales_by_side() -> None:
    assert [fidelity.scales(side) for side in (11, 20, 21, 28, 64, 128, 160, 161, 512)] == [1, 1, 2, 2, 3, 4, 4, 5, 5]
    with pytest.raises(ValueError, match="10 px"):
        fidelity.scales(10)


def test_diversity_pairs_images_of_one_class() -> None:
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 0])
    assert ms_ssim_diversity(faces[labels], labels, 30, 0) == pytest.approx(1)
    mixed = ms_ssim_diversity(faces[[0, 1, 2, 1, 2, 2]], labels, 30, 0)
    assert mixed < 0.5 and mixed == ms_ssim_diversity(faces[[0, 1, 2, 1, 2, 2]], labels, 30, 0)
    assert np.isnan(ms_ssim_diversity(faces, np.arange(3), 30, 0))


def test_vendi_counts_different_images() -> None:
    assert vendi_score(np.repeat(np.eye(6)[:4], 5, 0)) == pytest.approx(4)
    assert vendi_score(np.ones((7, 3))) == pytest.approx(1)
    x = normal(12, 30, 0)
    assert vendi_score(x) == pytest.approx(vendi_score(3 * x)) and 1 < vendi_score(x) < 12
    tall = x[:, :5]
    unit = tall / np.linalg.norm(tall, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / 12)
    values = values[values > 1e-12]
    assert vendi_score(tall) == pytest.approx(np.exp(-(values * np.log(values)).sum()))


def test_subset_interval_of_a_mean_is_its_standard_error() -> None:
    rng = np.random.default_rng(0)
    n = 400
    patients = [str(i // 2) for i in range(n)]  # both images of a patient are the same
    x = np.repeat(rng.normal(size=n // 2), 2)
    value, low, high = subset_interval(lambda rows: float(x[rows].mean()), patients, float(x.mean()), subsets=600)
    assert value == x.mean() and (low + high) / 2 == pytest.approx(value)
    assert (high - low) / 2 / 1.96 == pytest.approx(x[::2].std() / np.sqrt(n // 2), rel=0.1)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_subset_interval_of_a_distance_covers(distance: Callable[[Any, Any], float]) -> None:
    """What the distance is on average at this number of images lies inside about 95 % of 100 intervals."""
    rng, found = np.random.default_rng(0), []
    for _ in range(100):
        a, b = rng.normal(size=(60, 4)), rng.normal(size=(60, 4)) + 1
        names, value = [str(i) for i in range(60)], distance(a, b)
        found.append(subset_interval(lambda rows, a=a, b=b: distance(a[rows], b[rows]), names, value, subsets=40))
    values, lows, highs = np.array(found).T
    assert ((lows <= values) & (values <= highs)).all()
    assert 0.86 <= ((lows <= values.mean()) & (values.mean() <= highs)).mean() <= 0.99


def test_subset_interval_draws_whole_patients_once() -> None:
    seen: list[NDArray[np.int64]] = []
    groups = ["a", "b", "a", "c", "d", "d", "e"]
    subset_interval(lambda rows: float(seen.append(rows) or 0), groups, 0.0, subsets=20, seed=1)
    for rows in seen:
        inside = {groups[i] for i in rows}
        assert len(inside) == 2 and rows.tolist() == [i for i, name in enumerate(groups) if name in inside]
    assert np.isnan(subset_interval(lambda rows: 0.0, ["a", "b", "c"], 0.0)[1])


def test_bad_input() -> None:
    a = normal(10, 4, 0)
    for wrong in (lambda: frechet_distance(a, a[:, :3]), lambda: kernel_distance(a, a[:, :3])):
        with pytest.raises(ValueError, match="4 and 3 dimensions"):
            wrong()
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(a, a[:1])
    with pytest.raises(ValueError, match="finite"):
        moments(np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match="k = 10"):
        precision_recall_density_coverage(a, a, 10)
    with pytest.raises(ValueError, match="at least 4"):
        kernel_distance(a[:3], a)
    with pytest.raises(ValueError, match="uint8"):
        ms_ssim(np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 16, 17, 3), np.uint8))
    with pytest.raises(ValueError, match="rows of zeros"):
        vendi_score(np.zeros((3, 2)))
