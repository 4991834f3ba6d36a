"""Features of one image set in one encoder: computed once, used by every measure."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.cache import Record
from benchmark.prompts import label_codes
from benchmark.stages import split, synthesize


def run(config: Record, inputs: dict[str, Path], folder: Path) -> None:
    """Writes features.npz: for each set its features float32 [n, D] and, as NAME_rows, which rows they are of."""
    from classifiers.features import LITE0_SIDE, efficientnet_lite0, embed

    encoder = efficientnet_lite0()
    arrays: dict[str, Any] = {}
    for name, (images, rows) in _sets(config, inputs).items():
        arrays[name] = embed(encoder, images, LITE0_SIDE)
        arrays[f"{name}_rows"] = rows
    np.savez(folder / "features.npz", **arrays)


def _sets(config: Record, inputs: dict[str, Path]) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """The image sets of a features cell: name -> (images, rows)."""
    rng, limit = np.random.default_rng(0), config["images"]

    def some(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.sort(rng.permutation(rows)[:limit])

    if config["of"] == "synthetic":
        drawn = synthesize.read(inputs["synthesize"])
        rows = some(np.arange(len(drawn.images)))
        return {"synthetic": (drawn.images[rows], rows)}
    prepared = split.read(inputs["split"])
    test, train = some(np.arange(len(prepared.test.images))), some(prepared.kept)
    if config["of"] == "round_trip":
        from generators.autoencoders import load_autoencoder, round_trip, working_resolution

        images = prepared.train.images[train]
        model = load_autoencoder(inputs["autoencoder"] / "vae")
        return {"round_trip": (round_trip(model, images, working_resolution(images.shape[1])), train)}
    sets = {"test": (prepared.test.images[test], test), "real": (prepared.train.images[train], train)}
    return sets | {name: (images, train) for name, images in _controls(prepared, train).items()}


def _controls(prepared: split.Prepared, train: NDArray[np.int64]) -> dict[str, NDArray[np.uint8]]:
    """As many images of each control as there are train rows, from all that is kept."""
    from generators.baselines import BASELINES

    codes, _ = label_codes(prepared.train.labels[prepared.kept])
    wanted = codes[np.searchsorted(prepared.kept, train)]
    counts = np.bincount(wanted, minlength=codes.max() + 1)
    images = prepared.train.images[prepared.kept]
    return {name: make(images, codes, counts, 0)[0] for name, make in BASELINES.items()}
