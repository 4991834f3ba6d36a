"""Stages features and fidelity: images -> encoder features, once; features -> distances and diversity."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.cache import Record, write_json
from benchmark.prompts import label_codes
from benchmark.stages import split, synthesize
from benchmark.stages.train import read_autoencoder


def run_features(config: Record, inputs: dict[str, Path], folder: Path) -> None:
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
        from generators.autoencoders import round_trip

        images = prepared.train.images[train]
        return {"round_trip": (round_trip(*read_autoencoder(inputs["autoencoder"]), images), train)}
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


Distance = Callable[[NDArray[Any], NDArray[Any]], float]
SUBSETS = 100
PAIRS = 300


def run_fidelity(config: Record, inputs: dict[str, Path], folder: Path) -> None:
    """Writes rows.json: tidy rows of each judged set; `generator` is the control's name, or empty for the study's."""
    prepared = split.read(inputs["split"])
    with np.load(inputs["real"] / "features.npz") as file:
        test, test_rows = file["test"], file["test_rows"]
    with np.load(inputs["judged"] / "features.npz") as file:
        judged = {name: file[name] for name in file.files if name != "test" and not name.endswith("_rows")}
    patients = prepared.test.groups or [str(i) for i in range(len(prepared.test.images))]
    groups = [patients[i] for i in test_rows]
    rows = []
    for name, features in judged.items():
        n = min(len(test), len(features))
        distances = _distances(test[:n], features[:n], groups[:n], config["encoder"])
        rows += [row | {"generator": "" if name == "synthetic" else name} for row in distances]
    rows += _diversity(prepared, inputs)
    write_json(folder / "rows.json", rows)


def _distances(real: NDArray[Any], other: NDArray[Any], groups: list[str], encoder: str) -> list[Record]:
    """Fréchet and kernel distance at equal n, with the interval of PROTOCOL section 3."""
    from generators.fidelity import frechet_distance, kernel_distance, subset_interval

    rows = []
    for metric, distance in (("frechet", frechet_distance), ("kernel", kernel_distance)):

        def half(index: NDArray[np.int64], distance: Distance = distance) -> float:
            return distance(real[index], other[index])

        value, low, high = subset_interval(half, groups, distance(real, other), subsets=SUBSETS)
        rows.append({"metric": f"{metric}_{encoder}", "value": value, "low": low, "high": high, "n": len(real)})
    return rows


def _diversity(prepared: split.Prepared, inputs: dict[str, Path]) -> list[Record]:
    """MS-SSIM between random pairs of one class: of the synthetic set, or of the real train images."""
    from generators.fidelity import ms_ssim_diversity, subset_interval

    if "synthesize" in inputs:
        drawn = synthesize.read(inputs["synthesize"])
        images, labels, name = drawn.images, label_codes(drawn.labels)[0], ""
    elif "autoencoder" in inputs:
        return []
    else:
        images, labels, name = (
            prepared.train.images[prepared.kept],
            prepared.train.labels[prepared.kept],
            "real",
        )
        labels = label_codes(labels)[0]
    if min(images.shape[1:3]) < 11:
        return []
    some = np.sort(np.random.default_rng(0).permutation(len(images))[:500])
    images, labels = images[some], labels[some]
    value = ms_ssim_diversity(images, labels, PAIRS, 0)
    groups = [str(i) for i in range(len(images))]
    value, low, high = subset_interval(
        lambda index: ms_ssim_diversity(images[index], labels[index], PAIRS, 0), groups, value, subsets=20
    )
    return [{"metric": "ms_ssim", "value": value, "low": low, "high": high, "n": len(images), "generator": name}]
