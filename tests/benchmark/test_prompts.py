"""Captions: levels of detail, phrasings, negatives spelled out, noise."""

import numpy as np
import pytest

from benchmark.datasets import DETAILS, PHRASINGS, UNSEEN, Card, captions, phrase

XRAY = Card("x", ("normal", "pneumonia"), "X-ray")
CHEST = Card("c", ("effusion", "mass", "nodule"), "X-ray", task="multilabel")


def test_three_levels_of_detail() -> None:
    assert phrase(XRAY, 1, "label") == "pneumonia"
    assert phrase(XRAY, 1, "type") == "x-ray image, pneumonia"
    assert phrase(XRAY, 1, "full") == "x-ray image, pneumonia"
    assert phrase(XRAY, 0, "full") == "normal x-ray image with no pneumonia"
    known = Card("k", ("a", "b"), "CT", captions=("abdominal CT with a", "abdominal CT with b"))
    assert phrase(known, 1) == "abdominal CT with b"


def test_labels_are_joined_and_none_is_spelled_out() -> None:
    assert phrase(CHEST, np.array([1, 0, 1])) == "x-ray image with effusion and nodule"
    assert phrase(CHEST, np.array([0, 0, 0])) == "x-ray image with no finding"
    assert phrase(CHEST, np.array([1, 1, 0]), "label") == "effusion and mass"


@pytest.mark.parametrize("detail", DETAILS)
def test_phrasings_differ_and_one_is_never_trained_on(detail: str) -> None:
    labels = np.arange(200) % 2
    drawn = captions(XRAY, labels, detail=detail, phrasings=3, seed=1)
    assert drawn == captions(XRAY, labels, detail=detail, phrasings=3, seed=1)
    assert len(set(drawn)) == 6
    assert phrase(XRAY, 0, detail, UNSEEN) not in drawn and len(PHRASINGS[detail]) == UNSEEN + 1


def test_noise_changes_the_share_asked_for() -> None:
    labels = np.arange(4000) % 2
    clean, noisy = captions(XRAY, labels), captions(XRAY, labels, noise=0.2)
    wrong = np.mean([a != b for a, b in zip(clean, noisy, strict=True)])
    assert wrong == pytest.approx(0.1, abs=0.02), "half of the exchanged captions are of the same class"


def test_own_captions_are_used_at_full_detail_alone() -> None:
    labels = np.array([0, 1])
    assert captions(XRAY, labels, ["one", "two"]) == ["one", "two"]
    assert captions(XRAY, labels, ["one", "two"], detail="label") == ["normal", "pneumonia"]
