"""Contracts over every kind of planted copy, and the Wilson interval."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from statsmodels.stats.proportion import proportion_confint

from privacy.neighbours import tile_max_neighbours
from privacy.power import KINDS, plant, relatives, wilson_interval


def pictures(n: int, seed: int, channels: int = 3) -> NDArray[np.uint8]:
    x = gaussian_filter(np.random.default_rng(seed).normal(size=(n, 32, 32, channels)), (0, 3, 3, 0))
    made = np.clip(x / x.std() * 45 + 110, 0, 255).astype(np.uint8)
    return np.broadcast_to(made, (n, 32, 32, 3)).copy()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_its_contract(kind: str) -> None:
    images = pictures(6, 0)
    before = images.copy()
    made = plant(images, kind, 3)
    assert made.shape == images.shape and made.dtype == np.uint8 and made.flags.c_contiguous
    assert (images == before).all() and not np.shares_memory(made, images)
    assert (made == plant(images, kind, 3)).all()
    assert (made == images).all() == (kind == "exact")
    grey = plant(pictures(6, 0, 1), kind, 3)
    assert (grey == grey[..., :1]).all()


@pytest.mark.parametrize("kind", ["blurred", "brightness", "exact", "jpeg", "noise"])
def test_light_changes_stay_nearest_to_their_source(kind: str) -> None:
    bank = pictures(50, 0)
    distances, rows = tile_max_neighbours(plant(bank[:10], kind, 0), bank)
    assert rows[:, 0].tolist() == list(range(10)) and distances.max() < 0.15
    assert (distances == 0).all() == (kind == "exact")


def test_what_the_geometric_kinds_do() -> None:
    images = pictures(4, 0)
    assert (plant(images, "flipped", 0)[:, :, 0] == images[:, :, -1]).all()
    moves = set()
    for moved, image in zip(plant(pictures(200, 0), "shifted", 0), pictures(200, 0), strict=True):
        inner = image[4:-4, 4:-4]
        found = [(y, x) for y in range(-2, 3) for x in range(-2, 3)
                 if (moved[4 + y : moved.shape[0] - 4 + y, 4 + x : moved.shape[1] - 4 + x] == inner).all()]  # fmt: skip
        moves |= set(found)
        assert len(found) == 1 and 0 not in found[0]
    assert moves == {(y, x) for y in (-2, -1, 1, 2) for x in (-2, -1, 1, 2)}
    assert np.abs(plant(images, "cropped", 0).mean((1, 2)) - images[:, 2:-2, 2:-2].mean((1, 2))).max() < 3
    half = (images[0].astype(float) + images[3]) / 2
    assert np.abs(plant(images, "blended", 0)[0] - half).max() <= 0.5


def test_bad_kinds() -> None:
    assert list(KINDS) == sorted(KINDS)
    with pytest.raises(ValueError, match="allowed: blended, blurred"):
        plant(pictures(2, 0), "rotated", 0)
    with pytest.raises(ValueError, match="at least 2"):
        plant(pictures(1, 0), "blended", 0)
    with pytest.raises(ValueError, match="expected uint8"):
        plant(pictures(1, 0).astype(np.float32), "exact", 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("k", "n"), [(0, 60), (1, 1), (7, 60), (60, 60)])
def test_wilson_agrees_with_statsmodels(k: int, n: int) -> None:
    value, low, high = wilson_interval(k, n)
    assert 0 <= low <= value <= high <= 1
    expected = proportion_confint(k, n, method="wilson")
    assert wilson_interval(k, n) == pytest.approx((k / n, *expected), abs=1e-12)
    with pytest.raises(ValueError, match="0 <= k <= n"):
        wilson_interval(n + 1, n)
    with pytest.raises(ValueError, match="0 of 0"):
        wilson_interval(0, 0)


def test_relatives_have_another_image_there_and_near_copies_stand_apart() -> None:
    patients = [f"p{i // 2}" for i in range(40)] + [f"alone {i}" for i in range(20)]
    looks = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0][:60]
    looks[1:10:2] = looks[0:10:2]  # the first five patients' images are alike, the next five's mirrored
    looks[11:20:2] = looks[10:20:2].reshape(5, 8, 8)[:, :, ::-1].reshape(5, 64)
    found = relatives(patients, looks)
    assert found["same_patient_near_copy"].tolist() == list(range(20))
    assert found["same_patient"].tolist() == list(range(20, 40))
    assert relatives(patients[40:], looks[40:]) == {}
    assert len(relatives(patients, looks, most=15)["same_patient"]) == 15
