"""One look for every figure: a colour and a marker an arm, real data always the same grey."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl


class Look(NamedTuple):
    """Colour, marker and label of an arm or control."""

    colour: str
    marker: str
    label: str
    filled: bool = True


GREY = "#6b6f76"
LOOKS = {  # Okabe and Ito's palette, which colour-blind readers can tell apart; controls are hollow
    "augmented": Look("#0072b2", "o", "real + synthetic"),
    "class_mean": Look("#a6611a", "v", "class mean + noise", False),
    "copies": Look("#cc79a7", "D", "copies of real", False),
    "mixed": Look("#e69f00", "^", "half replaced by synthetic"),
    "mixup": Look("#7a5195", "P", "mixup of real", False),
    "pretrained": Look("#009e73", "X", "pretrained on synthetic"),
    "real": Look(GREY, "s", "real only"),
    "real_double": Look("#9aa0a8", "d", "twice the real data", False),
    "real_oversampled": Look("#9aa0a8", "h", "real, oversampled", False),
    "real_strong": Look("#9aa0a8", "p", "real, strong augmentation", False),
    "round_trip": Look("#009e73", "<", "autoencoder's round trip", False),
    "synthetic": Look("#d55e00", "*", "synthetic only"),
}
PLACEBOS = ("class_mean", "copies", "mixup")
SPARE = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7")
LINES = ("-", "--", ":", "-.")

RC: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a9099",
    "axes.grid": True,
    "axes.labelcolor": "#22262b",
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.8,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "pdf.fonttype": 42,
    "savefig.dpi": 150,
    "svg.fonttype": "path",
    "svg.hashsalt": "augury",
    "text.parse_math": False,
    "xtick.color": "#4a4f57",
    "xtick.labelsize": 9.5,
    "ytick.color": "#4a4f57",
    "ytick.labelsize": 9.5,
}


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib's defaults with RC on top, whatever the user's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def look(arm: str, generator: str = "") -> Look:
    """The look of an arm; a placebo (arm augmented, a baseline as generator) has its baseline's."""
    key = generator if generator in PLACEBOS else arm
    return LOOKS.get(key, Look("#444444", "o", key.replace("_", " ")))


def label(name: str) -> str:
    """Readable name of an arm, control or generator."""
    return LOOKS[name].label if name in LOOKS else name.replace("_", " ")
