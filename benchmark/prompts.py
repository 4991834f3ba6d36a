"""Class label and image type -> caption."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.datasets import Card, Split

NOTHING = "no finding"


def caption(card: Card, label: Any) -> str:
    """The caption of one image: the card's own for its class, else label and image type; labels are joined.

    label: a class number, or the 0/1 vector [K] of a multi-label set (all zeros is spelled out).
    """
    if np.ndim(label) == 0:
        chosen = [int(label)]
    else:
        chosen = [int(i) for i in np.flatnonzero(label)]
    if not chosen:
        return f"{card.image_type.lower()} image with {NOTHING}"
    if card.captions:
        if len(chosen) == 1:
            return card.captions[chosen[0]]
        return f"{card.captions[chosen[0]]} and {' and '.join(card.classes[i] for i in chosen[1:])}"
    kind = card.image_types[chosen[0]] if card.image_types else card.image_type
    return f"{kind.lower()} image, {' and '.join(card.classes[i] for i in chosen)}"


def captions(card: Card, split: Split) -> list[str]:
    """One caption an image [N]: its own where the source gave one, else from its class."""
    return split.captions or [caption(card, label) for label in split.labels]


def label_codes(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Labels [N] or [N, K] -> (code int64 [N], the label of each code), so that combinations act as classes."""
    kinds, codes = np.unique(labels, axis=0, return_inverse=True)
    return codes.reshape(-1).astype(np.int64), kinds
