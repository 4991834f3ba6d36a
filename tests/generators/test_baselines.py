"""Contracts over every baseline, and what each promises."""

import numpy as np
import pytest

from generators.baselines import BASELINES, Images, Labels, class_mean, copies, mixup

COUNTS = np.array([7, 0, 12])


def real(n: int = 30, side: int = 12, channels: int = 3) -> tuple[Images, Labels]:
    rng = np.random.default_rng(0)
    images = rng.integers(60, 190, (n, side, side, channels)).astype(np.uint8)
    return np.broadcast_to(images, (n, side, side, 3)).copy(), np.arange(n) % 3


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_keeps_its_contract(name: str) -> None:
    images, labels = real()
    made, wanted = BASELINES[name](images, labels, COUNTS, 1)
    assert made.shape == (19, 12, 12, 3) and made.dtype == np.uint8
    assert wanted.tolist() == [0] * 7 + [2] * 12 and wanted.dtype == np.int64
    assert (made == BASELINES[name](images, labels, COUNTS, 1)[0]).all()
    assert (made != BASELINES[name](images, labels, COUNTS, 2)[0]).any()
    other = BASELINES[name](images, labels, np.array([0, 3, 12]), 1)[0]
    assert (made[7:] == other[3:]).all(), "a class depends on its own count alone"


@pytest.mark.parametrize("name", BASELINES)
def test_a_class_without_images(name: str) -> None:
    images, labels = real()
    with pytest.raises(ValueError, match="4 images of class 3 asked for"):
        BASELINES[name](images, labels, np.array([1, 1, 1, 4]), 0)
    with pytest.raises(ValueError, match="0 or more"):
        BASELINES[name](images, labels, np.array([-1, 1, 1]), 0)
    assert len(BASELINES[name](images, labels, np.array([0, 0]), 0)[0]) == 0


@pytest.mark.parametrize("name", BASELINES)
def test_grey_stays_grey_and_one_image_is_returned(name: str) -> None:
    images, labels = real(channels=1)
    made, _ = BASELINES[name](images, labels, COUNTS, 0)
    assert (made == made[..., :1]).all()
    assert (BASELINES[name](images[:1], labels[:1], np.array([3]), 0)[0] == images[0]).all()


def test_copies_are_real_images_in_equal_numbers() -> None:
    images, labels = real()
    made, wanted = copies(images, labels, np.array([25, 0, 0]), 0)
    hits = (made[:, None] == images[None]).all((2, 3, 4))
    assert (hits.sum(1) == 1).all() and (labels[hits.argmax(1)] == wanted).all()
    assert set(hits.sum(0)[labels == 0]) == {2, 3}


def test_class_mean_has_the_classs_mean_and_deviation() -> None:
    images, labels = real()
    made, _ = class_mean(images, labels, np.array([4000, 0, 0]), 0)
    members = images[labels == 0].astype(float)
    assert made.mean(0) == pytest.approx(members.mean(0), abs=5)
    inside = np.abs(members.mean(0) - 127) < 20  # clipping at 0 and 255 is far away
    assert (made.std(0) / members.std(0, ddof=1))[inside] == pytest.approx(1, abs=0.08)


def test_mixup_lies_between_two_different_images() -> None:
    images = np.stack([np.full((8, 8, 3), level, np.uint8) for level in (0, 200)])
    made, _ = mixup(images, np.zeros(2, np.int64), np.array([500]), 0)
    levels = made[:, 0, 0, 0]
    assert levels.min() >= 40 and levels.max() <= 160
    assert levels.min() < 45 and levels.max() > 155
    assert (made == levels[:, None, None, None]).all()
