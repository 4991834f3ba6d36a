"""Stages features and fidelity: images -> encoder features, once; features -> distances and diversity."""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.cache import Record, write_json
from benchmark.datasets import captions, label_codes, label_name
from benchmark.stages import device, split, synthesize
from benchmark.stages.train import read_autoencoder
from generators.baselines import BASELINES

INCEPTION = "inception-fid/inception_2015_12_05_fid.safetensors"  # under $AUGURY_WEIGHTS


def run_features(config: Record, inputs: dict[str, Path], folder: Path) -> None:
    """Writes features.npz: for each set its features float32 [n, D] and, as NAME_rows, which rows they are of."""
    from classifiers.features import embed

    model, side, mode = _encoder(config, inputs)
    model.to(device())
    arrays: dict[str, Any] = {}
    for name, (images, rows) in _sets(config, inputs).items():
        arrays[name] = embed(model, images, side, mode)
        arrays[f"{name}_rows"] = rows
    np.savez(folder / "features.npz", **arrays)


def _encoder(config: Record, inputs: dict[str, Path]) -> tuple[Any, int, str]:
    """The network, the side in pixels that its images are resized to, and how."""
    from classifiers.backbones import create
    from classifiers.features import LITE0_SIDE, SIDE, efficientnet_lite0, fid_inception, without_head

    if "side" in config:
        model: Any = create(config["encoder"], 1, config["side"], 0, config["weights"])
        settings = model.pretrained_cfg
        return without_head(model, settings["mean"], settings["std"]), config["side"], "bicubic"
    if config["encoder"] == "inception":
        return fid_inception(Path(os.environ["AUGURY_WEIGHTS"]) / INCEPTION), SIDE, "bilinear"
    if config["encoder"] == "real_classifier":
        from benchmark.stages.classify import read_classifier

        prepared = split.read(inputs["split"])
        own = read_classifier(inputs["judge"], len(prepared.card.classes))
        return without_head(own, (0.5,) * 3, (0.25,) * 3), prepared.test.images.shape[1], "bicubic"
    return efficientnet_lite0(), LITE0_SIDE, "bicubic"


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
    if config["of"] == "bank":
        banks = {"kept": prepared.kept, "heldout": prepared.heldout}
        return {name: (prepared.train.images[rows], rows) for name, rows in banks.items()}
    test, train = some(np.arange(len(prepared.test.images))), some(prepared.kept)
    if config["of"] == "round_trip":
        from generators.autoencoders import round_trip

        images = prepared.train.images[train]
        return {"round_trip": (round_trip(*read_autoencoder(inputs["autoencoder"]), images), train)}
    sets = {"test": (prepared.test.images[test], test), "real": (prepared.train.images[train], train)}
    return sets | {name: (images, train) for name, images in _controls(prepared, train).items()}


def _controls(prepared: split.Prepared, train: NDArray[np.int64]) -> dict[str, NDArray[np.uint8]]:
    """An image of each control for every train row, of its class, from all that is kept."""
    codes, _ = label_codes(prepared.train.labels[prepared.kept])
    wanted = codes[np.searchsorted(prepared.kept, train)]
    counts = np.bincount(wanted, minlength=codes.max() + 1)
    images = prepared.train.images[prepared.kept]
    found = {}
    for name, make in BASELINES.items():
        made, classes = make(images, codes, counts, 0)
        found[name] = np.empty_like(made)
        for code in np.unique(wanted):
            found[name][wanted == code] = made[classes == code]
    return found


Distance = Callable[[NDArray[Any], NDArray[Any]], float]
SUBSETS = 200  # halves of the patients, of an interval
PROBED = 20  # the same where each half takes a tenth of a second: probes, MS-SSIM
PAIRS = 300
NEIGHBOURS = 5
LEAST = 20  # images, and half as many patients, for measures that need neighbours or two halves
MOST = 2000  # images a judge looks at
ALIKE = 500  # images whose likeness is measured


def run_fidelity(config: Record, inputs: dict[str, Path], folder: Path) -> None:
    """Writes rows.json: tidy rows of each judged set; `generator` is the control's name, or empty for the study's."""
    prepared = split.read(inputs["split"])
    with np.load(inputs["real"] / "features.npz") as file:
        test, test_rows = file["test"], file["test_rows"]
    with np.load(inputs["judged"] / "features.npz") as file:
        judged = {name: file[name] for name in file.files if name != "test" and not name.endswith("_rows")}
        # Of synthetic images; of real ones, controls and round trip alike.
        train_rows = next(file[f"{name}_rows"] for name in judged)
    patients = prepared.test.groups or [str(i) for i in range(len(prepared.test.images))]
    rng = np.random.default_rng(0)
    rows = []
    for name, features in judged.items():
        # Equal n, drawn at random: stored sets are in order of rows or of classes.
        n = min(len(test), len(features), len(prepared.budget(config.get("share"), 0)))
        mine, other = (np.sort(rng.permutation(len(each))[:n]) for each in (test, features))
        other = rng.permutation(other)
        groups = [patients[i] for i in test_rows[mine]]
        measured = _distances(test[mine], features[other], groups, config["encoder"])
        if config["whole"] and name not in BASELINES and n >= LEAST and len(set(groups)) >= LEAST // 2:
            own = [str(i) for i in other] if name == "synthetic" else [prepared.patients[i] for i in train_rows[other]]
            measured += _two_sample(test[mine], features[other], groups, own)
        labels = synthesize.read(inputs["synthesize"]).labels if name == "synthetic" else prepared.train.labels
        if config["whole"] and name == "synthetic":
            measured += _probed(prepared, inputs, features[other], labels[train_rows[other]])
        elif config["whole"] and name == "real":
            measured += _probed(prepared, inputs, test[mine], prepared.test.labels[test_rows[mine]])
        measured += _by_class(prepared, test, test_rows, features, labels[train_rows], patients, config["encoder"])
        rows += [row | {"generator": "" if name == "synthetic" else name} for row in measured]
    if config["whole"]:
        rows += _diversity(prepared, inputs) + _consistency(prepared, inputs)
    if "image_text" in config and "autoencoder" not in inputs:
        rows += _alignment(prepared, inputs, config)
    write_json(folder / "rows.json", rows)


def _probed(
    prepared: split.Prepared, inputs: dict[str, Path], features: NDArray[Any], labels: NDArray[Any]
) -> list[Record]:
    """Whether differences between classes lie where a probe of real train images looks; the floor: test images."""
    from classifiers.metrics import probe_alignment
    from generators.fidelity import subset_interval

    with np.load(inputs["real"] / "features.npz") as file:
        train, rows = file["real"], file["real_rows"]
    task, classes = prepared.card.task, np.arange(len(prepared.card.classes))

    def truth(given: NDArray[Any]) -> NDArray[np.bool_]:
        return given.astype(bool) if task == "multilabel" else given[:, None] == classes

    theirs, own = truth(prepared.train.labels[rows]), truth(labels)

    def aligned(index: NDArray[np.int64]) -> float:
        return probe_alignment(train, theirs, features[index], own[index])

    every = np.arange(len(features))
    value, low, high = subset_interval(aligned, [str(i) for i in every], aligned(every), subsets=PROBED)
    return [{"metric": "probe_alignment", "value": value, "low": low, "high": high, "n": len(features)}]


def _by_class(
    prepared: split.Prepared, test: NDArray[Any], test_rows: NDArray[np.int64], features: NDArray[Any],
    labels: NDArray[Any], patients: list[str], encoder: str,
) -> list[Record]:  # fmt: skip
    """Distances, precision to coverage of each class (or combination of labels) with enough images of both, at equal
    n."""
    real = [label_name(prepared.card, label) for label in prepared.test.labels[test_rows]]
    other = np.array([label_name(prepared.card, label) for label in labels])
    rng, rows = np.random.default_rng(0), []
    for name in sorted(set(real) & set(other)):
        ours, theirs = np.flatnonzero(np.array(real) == name), np.flatnonzero(other == name)
        n = min(len(ours), len(theirs))
        mine, made = np.sort(rng.permutation(ours)[:n]), rng.permutation(theirs)[:n]
        groups = [patients[i] for i in test_rows[mine]]
        if n >= LEAST and len(set(groups)) >= LEAST // 2:
            found = _distances(test[mine], features[made], groups, encoder, of_class=True)
            rows += [row | {"group": name} for row in found]
    return rows


def _distances(
    real: NDArray[Any], other: NDArray[Any], groups: list[str], encoder: str, *, of_class: bool = False
) -> list[Record]:
    """Fréchet and kernel distance, precision to coverage at equal n, with the interval of docs/protocol.md; of a whole
    set also the Vendi score."""
    from generators.fidelity import (
        frechet_distance,
        frechet_infinity,
        kernel_distance,
        precision_recall_density_coverage,
        subset_interval,
        vendi_score,
    )  # fmt: skip

    rows = []
    for metric, distance in (("frechet", frechet_distance), ("kernel", kernel_distance)):

        def half(index: NDArray[np.int64], distance: Distance = distance) -> float:
            return distance(real[index], other[index])

        if len(real) < 4:
            continue  # the unbiased distance needs two halves of two
        value, low, high = distance(real, other), float("nan"), float("nan")
        if len(real) >= LEAST and len(set(groups)) >= LEAST // 2:
            value, low, high = subset_interval(half, groups, value, subsets=SUBSETS)
        rows.append({"metric": f"{metric}_{encoder}", "value": value, "low": low, "high": high, "n": len(real)})
    if (whole := frechet_infinity(real, other)) == whole:
        rows.append({"metric": f"asymptotic_frechet_{encoder}", "value": whole, "n": len(real)})
    if len(real) < LEAST or len(set(groups)) < LEAST // 2:
        return rows  # half of them would not have enough neighbours for an interval

    @lru_cache(maxsize=SUBSETS + 1)
    def neighbours(index: bytes) -> Mapping[str, float]:
        chosen = np.frombuffer(index, np.int64)
        if len(chosen) <= NEIGHBOURS:  # half of few patients, each with one image
            return defaultdict(lambda: float("nan"))
        found = precision_recall_density_coverage(real[chosen], other[chosen], NEIGHBOURS)
        return found if of_class else found | {"vendi": vendi_score(other[chosen])}

    for metric, value in neighbours(np.arange(len(real)).tobytes()).items():

        def part(index: NDArray[np.int64], metric: str = metric) -> float:
            return neighbours(index.astype(np.int64).tobytes())[metric]

        _, low, high = subset_interval(part, groups, value, subsets=SUBSETS)
        rows.append({"metric": f"{metric}_{encoder}", "value": value, "low": low, "high": high, "n": len(real)})
    return rows


def _two_sample(real: NDArray[Any], other: NDArray[Any], groups: list[str], others: list[str]) -> list[Record]:
    """Can a linear classifier tell them apart?"""
    from classifiers.metrics import two_sample

    found = two_sample(real, other, groups, others)
    return [{"metric": metric, "value": value, "low": low, "high": high, "n": len(real)}
            for metric, (value, low, high) in found.items()]  # fmt: skip


def _consistency(prepared: split.Prepared, inputs: dict[str, Path]) -> list[Record]:
    """Whether a classifier of real images sees in each image the label asked for; beside it real test images, and what
    its answers would come to at random."""
    if "judge" not in inputs:
        return []
    from benchmark.stages.classify import read_classifier
    from classifiers.metrics import chance_consistency, label_consistency
    from classifiers.training import predict

    images, labels, name = prepared.test.images, prepared.test.labels, "real"
    if "synthesize" in inputs:
        drawn = synthesize.read(inputs["synthesize"])
        images, labels, name = drawn.images[:MOST], drawn.labels[:MOST], ""
        if not any(drawn.captions):
            return []  # it was asked for no label
    model = read_classifier(inputs["judge"], len(prepared.card.classes))
    probabilities = predict(model, images, prepared.card.task)
    names = np.array([label_name(prepared.card, label) for label in labels])
    chance = chance_consistency(labels, probabilities)
    rows: list[Record] = [{"metric": "label_by_chance", "group": "all", "value": chance, "low": float("nan"),
                           "high": float("nan"), "n": len(labels), "generator": name}]  # fmt: skip
    for group in ("all", *sorted(set(names))):
        mine = np.flatnonzero((names == group) | (group == "all"))
        if group == "all" or len(mine) >= LEAST:
            value, low, high = label_consistency(labels[mine], probabilities[mine])
            rows.append({"metric": "label_consistency", "group": group, "value": value, "low": low, "high": high,
                         "n": len(mine), "generator": name})  # fmt: skip
    return rows


def _alignment(prepared: split.Prepared, inputs: dict[str, Path], config: Record) -> list[Record]:
    """Cosine of image and caption in a CLIP model's space; beside it with the captions of other images, at random."""
    from benchmark.recipes import local_folder
    from classifiers.features import image_text_similarity
    from generators.fidelity import subset_interval

    rng = np.random.default_rng(0)
    if "synthesize" in inputs:
        drawn = synthesize.read(inputs["synthesize"])
        images, texts, name, groups = drawn.images, list(drawn.captions), "", [str(i) for i in range(len(drawn.images))]
        if not any(texts):
            return []  # it was asked for nothing
    else:
        kept, name = prepared.kept, "real"
        own = prepared.captions(kept)
        images, groups = prepared.train.images[kept], [prepared.patients[i] for i in kept]
        texts = captions(prepared.card, prepared.train.labels[kept], own)
    some = np.sort(rng.permutation(len(images))[: config["images"]])
    distinct, which = np.unique(np.array(texts, dtype=object)[some].astype(str), return_inverse=True)
    cosines = image_text_similarity(local_folder(config["image_text"]), images[some], distinct.tolist())
    patients, rows = [groups[i] for i in some], []
    for metric, chosen in (("text_alignment", which), ("text_alignment_shuffled", rng.permutation(which))):
        values = cosines[np.arange(len(some)), chosen].astype(np.float64)
        mean, low, high = float(values.mean()), float("nan"), float("nan")
        if len(set(patients)) >= LEAST // 2:

            def part(index: NDArray[np.int64], values: NDArray[np.float64] = values) -> float:
                return float(values[index].mean())

            mean, low, high = subset_interval(part, patients, mean, subsets=SUBSETS)
        rows.append({"metric": metric, "value": mean, "low": low, "high": high, "n": len(some), "generator": name})
    return rows


def _diversity(prepared: split.Prepared, inputs: dict[str, Path]) -> list[Record]:
    """MS-SSIM between random pairs of one class: of the synthetic set, or of real train images and of each control."""
    if min(prepared.train.images.shape[1:3]) < 11 or ("autoencoder" in inputs and "synthesize" not in inputs):
        return []
    if "synthesize" in inputs:
        drawn = synthesize.read(inputs["synthesize"])
        some = np.sort(np.random.default_rng(0).permutation(len(drawn.images))[:ALIKE])
        return _alike(prepared, "", drawn.images[some], drawn.labels[some], [str(i) for i in some])
    some = np.sort(np.random.default_rng(0).permutation(prepared.kept)[:ALIKE])
    real, given = prepared.train.images[some], prepared.train.labels[some]
    rows = _alike(prepared, "real", real, given, [prepared.patients[i] for i in some])
    for name, images in _controls(prepared, some).items():
        rows += _alike(prepared, name, images, given, None)
    return rows


def _alike(
    prepared: split.Prepared, name: str, images: NDArray[np.uint8], given: NDArray[Any], patients: list[str] | None
) -> list[Record]:
    """MS-SSIM of one set: of all pairs of one class, with an interval where it has patients; and class by class."""
    from generators.fidelity import ms_ssim_diversity, subset_interval

    (labels, kinds), rows = label_codes(given), []
    for group in ("all", *np.unique(labels)):
        mine = np.flatnonzero((labels == group) | (group == "all"))
        if group != "all" and len(mine) < LEAST:
            continue
        seen, codes = images[mine], labels[mine]
        value = ms_ssim_diversity(seen, codes, PAIRS, 0)
        low, high = float("nan"), float("nan")
        if group == "all" and patients:  # of a class the value alone: a tenth of a second for each half

            def part(index: NDArray[np.int64], seen: Any = seen, codes: Any = codes) -> float:
                return ms_ssim_diversity(seen[index], codes[index], PAIRS, 0)

            _, low, high = subset_interval(part, [patients[i] for i in mine], value, subsets=PROBED)
        told = group if group == "all" else label_name(prepared.card, kinds[group])
        rows.append({"metric": "ms_ssim", "group": told, "value": value, "low": low, "high": high, "n": len(mine),
                     "generator": name})  # fmt: skip
    return rows
