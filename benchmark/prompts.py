"""Class label and image type -> captions, at three levels of detail and in several phrasings."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.datasets import Card

DETAILS = ("label", "type", "full")
NOTHING = "no finding"
NEGATIVE = ("normal", "healthy", "negative", "none")
# {label} = the class, {type} = the image type, {full} = a sentence with anatomy and finding. The first of each is the
# one that sets are drawn with, the last is never trained on: it asks whether the text is understood or learnt by heart.
PHRASINGS: dict[str, tuple[str, ...]] = {
    "label": ("{label}", "a case of {label}", "finding: {label}", "an example of {label}"),
    "type": ("{type} image, {label}", "{label} in a {type} image", "{type}: {label}", "a {type} picture of {label}"),
    "full": ("{full}", "{type}: {full}", "{full}, {label}", "a picture, {full}, from one patient"),
}
UNSEEN = 3  # place of the phrasing that no generator is trained on


def phrase(card: Card, label: Any, detail: str = "full", phrasing: int = 0) -> str:
    """The caption of one image; label: a class number, or the 0/1 vector [K] of a multi-label set."""
    chosen = [int(label)] if np.ndim(label) == 0 else [int(i) for i in np.flatnonzero(label)]
    names = [card.classes[i] for i in chosen] or [NOTHING]
    kind = card.image_types[chosen[0]] if card.image_types and chosen else card.image_type
    words = {"label": " and ".join(names), "type": kind.lower(), "full": sentence(card, chosen)}
    return PHRASINGS[detail][phrasing].format(**words)


def sentence(card: Card, chosen: list[int]) -> str:
    """The card's own caption, further labels joined; else image type and finding, negatives spelled out."""
    if not chosen:
        return f"{card.image_type.lower()} image with {NOTHING}"
    kind = (card.image_types[chosen[0]] if card.image_types else card.image_type).lower()
    names = [card.classes[i] for i in chosen]
    if card.captions:
        return " and ".join([card.captions[chosen[0]], *names[1:]])
    if names[0].lower() in NEGATIVE and len(card.classes) == 2:
        other = next(name for name in card.classes if name != names[0])
        return f"{names[0].lower()} {kind} image with no {other}"
    return f"{kind} image with {' and '.join(names)}" if card.task == "multilabel" else f"{kind} image, {names[0]}"


def captions(
    card: Card, labels: NDArray[Any], own: list[str] | None = None, *, detail: str = "full", phrasings: int = 1,
    noise: float = 0.0, seed: int = 0,
) -> list[str]:  # fmt: skip
    """One caption an image [N].

    own: captions that the source gave each image, used where detail is full. phrasings: how many of PHRASINGS are
    drawn from. noise: share of images whose caption is that of another random image's label.
    """
    rng = np.random.default_rng([seed, len(labels)])
    which = rng.integers(0, phrasings, len(labels))
    source = np.where(rng.random(len(labels)) < noise, rng.integers(0, max(1, len(labels)), len(labels)), -1)
    made = []
    for i, label in enumerate(labels):
        place = i if source[i] < 0 else int(source[i])
        made.append(own[place] if own and detail == "full" else
                    phrase(card, label if place == i else labels[place], detail, int(which[i])))  # fmt: skip
    return made


def label_name(card: Card, label: Any) -> str:
    """The class of a label, or its classes joined by ` + `; `no finding` where a multi-label image has none."""
    chosen = [int(label)] if np.ndim(label) == 0 else np.flatnonzero(label).tolist()
    return " + ".join(card.classes[i] for i in chosen) or NOTHING


def label_codes(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Labels [N] or [N, K] -> (code int64 [N], the label of each code), so that combinations act as classes."""
    kinds, codes = np.unique(labels, axis=0, return_inverse=True)
    return codes.reshape(-1).astype(np.int64), kinds
