"""Captions: levels of detail, phrasings, negatives spelled out, noise."""

import numpy as np
import pytest

from benchmark.datasets import DETAILS, PHRASINGS, UNSEEN, Card, captions, phrase, wordings

XRAY = Card("x", ("normal", "pneumonia"), "X-ray", anatomy="chest")
CHEST = Card("c", ("effusion", "mass", "nodule"), "X-ray", task="multilabel")


def test_three_levels_of_detail() -> None:
    assert phrase(XRAY, 1, "label") == "pneumonia"
    assert phrase(XRAY, 1, "type") == "x-ray image, pneumonia"
    assert phrase(XRAY, 1, "full") == "x-ray image of the chest showing pneumonia"
    assert phrase(XRAY, 0, "full") == "normal x-ray image of the chest with no pneumonia"
    known = Card("k", ("a", "b"), "CT", captions=("abdominal CT with a", "abdominal CT with b"))
    assert phrase(known, 1) == "abdominal CT with b"


def test_labels_are_joined_and_none_is_spelled_out() -> None:
    assert phrase(CHEST, np.array([1, 0, 1])) == "x-ray image showing effusion and nodule"
    assert phrase(CHEST, np.array([0, 0, 0])) == "x-ray image with no finding"
    assert phrase(CHEST, np.array([1, 1, 0]), "label") == "effusion and mass"


@pytest.mark.parametrize("detail", DETAILS)
def test_phrasings_differ_and_one_is_never_trained_on(detail: str) -> None:
    labels = np.arange(200) % 2
    drawn = captions(XRAY, labels, detail=detail, phrasings=3, seed=1)
    assert drawn == captions(XRAY, labels, detail=detail, phrasings=3, seed=1)
    assert len(set(drawn)) == 6 and drawn != captions(XRAY, labels, detail=detail, phrasings=3, seed=2)
    normal, ill = wordings(XRAY, labels, detail=detail, phrasings=UNSEEN)[:2]
    assert (
        len({*normal, *ill}) == 2 * UNSEEN and set(drawn[::2]) == set(normal[:3]) and set(drawn[1::2]) == set(ill[:3])
    )
    assert phrase(XRAY, 0, detail, UNSEEN) not in normal and len(PHRASINGS[detail]) == UNSEEN + 1


@pytest.mark.parametrize("detail", DETAILS)
def test_a_label_stands_at_every_place(detail: str) -> None:
    """First, last and between: at one place alone the whole sentence is learnt instead of the word."""
    places = [text.index("{label}") for text in PHRASINGS[detail][1:UNSEEN] if "{label}" in text]
    ends = [text.endswith("{label}") for text in PHRASINGS[detail][1:UNSEEN] if "{label}" in text]
    assert len(places) >= UNSEEN - 2 and sum(place == 0 for place in places) >= 2
    assert sum(ends) >= 2 and sum(place > 0 and not end for place, end in zip(places, ends, strict=True)) >= 1


def test_what_a_normal_image_lacks_is_spelled_out() -> None:
    breast = Card("b", ("benign", "malignant", "normal"), "Ultrasound", captions=("x", "y", "normal breast ultrasound"))
    assert phrase(breast, 2) == "normal breast ultrasound with no benign or malignant"
    said = Card("s", ("none", "mild"), "Fundoscopy", captions=("retina with no retinopathy", "retina with mild"))
    assert phrase(said, 0) == "retina with no retinopathy", "said once"
    many = Card("m", ("normal", *"abcdefg"), "CT")
    assert phrase(many, 0) == "normal ct image with no finding"


def test_the_unseen_wording_does_not_hold_the_known_one() -> None:
    known, unseen = phrase(XRAY, 1), phrase(XRAY, 1, "full", UNSEEN)
    assert known not in unseen and "pneumonia" in unseen and "chest" in unseen


def test_noise_changes_the_share_asked_for() -> None:
    labels = np.arange(4000) % 2
    clean, noisy = wordings(XRAY, labels), wordings(XRAY, labels, noise=0.2)
    wrong = np.mean([a != b for a, b in zip(clean, noisy, strict=True)])
    assert wrong == pytest.approx(0.2, abs=0.02), "an exchanged caption is of another class"


def test_own_captions_are_used_at_full_detail_alone() -> None:
    labels = np.array([0, 1])
    assert captions(XRAY, labels, ["one", "two"]) == ["one", "two"]
    assert captions(XRAY, labels, ["one", "two"], detail="label") == ["normal", "pneumonia"]
    both = wordings(XRAY, labels, ["one", " "], phrasings=2)
    assert both == [("one",), (phrase(XRAY, 1), phrase(XRAY, 1, "full", 1))]


def test_what_is_called_nothing_spells_out_the_rest() -> None:
    card = Card("x", ("No finding", "pneumonia"), "X-ray", anatomy="chest")
    assert phrase(card, 0).endswith("with no pneumonia") and "no finding" not in phrase(card, 1).lower()
    assert phrase(Card("x", ("normal, benign", "malignant"), "Ultrasound"), 0).endswith("with no malignant")
    brain = Card("x", ("normal pressure hydrocephalus", "healthy", "normal-tension glaucoma"), "MRI")
    assert phrase(brain, 0) == "mri image showing normal pressure hydrocephalus"
    assert phrase(brain, 1).endswith("no normal pressure hydrocephalus or normal-tension glaucoma")
    lung = Card("x", ("non-small cell carcinoma", "nodule"), "CT")
    assert phrase(lung, 0) == "ct image showing non-small cell carcinoma", "a finding, though it begins with non"


def test_grades_of_retinamnist_have_words() -> None:
    from benchmark.datasets import _medmnist_card

    texts = [phrase(_medmnist_card("retinamnist"), i) for i in range(5)]
    assert texts[0] == "fundoscopy image of the retina with no diabetic retinopathy" and len(set(texts)) == 5
    unseen = phrase(_medmnist_card("retinamnist"), 1, "full", UNSEEN)
    assert unseen == "one patient's fundoscopy picture of the retina, read as mild diabetic retinopathy"


def test_a_blank_caption_is_that_of_the_class() -> None:
    assert captions(XRAY, np.array([1, 1]), ["own words", " "]) == ["own words", phrase(XRAY, 1)]


def test_captions_that_are_cut_are_counted() -> None:
    from generators.latent_diffusion import cut_short, tokenizer

    long = "chest radiograph " * 20
    assert cut_short(tokenizer(), ["short", "short", long + "with effusion", long + "with nodule"]) == (2, 1)
