"""Fidelity and diversity of one image set, or of the controls, against the real test images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.cache import Record, write_json
from benchmark.prompts import label_codes
from benchmark.stages import split, synthesize

Distance = Callable[[NDArray[Any], NDArray[Any]], float]
SUBSETS = 100
PAIRS = 300


def run(config: Record, inputs: dict[str, Path], folder: Path) -> None:
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
