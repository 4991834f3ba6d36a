"""Train one classifier on one arm and keep its probabilities for every validation and test image."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.cache import Record, write_json
from benchmark.splits import mixture
from benchmark.stages import device, split, synthesize
from benchmark.stages.audit import blind, told


def run_classify(config: Record, inputs: dict[str, Path], folder: Path) -> None:
    """Writes predictions.npz (probabilities of test, validation, corrupted and external images) and training.json."""
    from classifiers.training import Pool, fit, predict, pretrain_and_tune

    # Choose the arm's rows.
    prepared = split.read(inputs["split"])
    arm, task, seed = config["arm"], prepared.card.task, config["seed"]
    budget = prepared.budget(config["budget"] * (2 if arm == "real_double" else 1), seed)
    none = np.zeros(0, np.int64)
    drawn = synthesize.read(inputs["synthesize"]) if "synthesize" in inputs else None
    rank, copy = (drawn.rank, drawn.copy) if drawn else (none, none)
    rows = mixture(arm, budget, prepared.train.labels, rank, copy, config["ratio"], config["share"])
    pools = []
    if len(rows.real):
        pools.append(Pool(prepared.train.images[rows.real], prepared.train.labels[rows.real], 1 - rows.share))
    if drawn is not None and len(rows.synthetic):
        pools.append(Pool(drawn.images[rows.synthetic], drawn.labels[rows.synthetic], rows.share))

    # Train and predict.
    settings = _settings(config)
    model = _model(config, len(prepared.card.classes)).to(device())
    chosen = np.arange(len(prepared.validation.labels))
    if config.get("by_budget"):
        chosen = prepared.validation_budget(config["budget"], seed)
    validation = Pool(prepared.validation.images[chosen], prepared.validation.labels[chosen], 1.0)
    if arm == "pretrained":
        curve = pretrain_and_tune(model, pools[1], pools[0], validation, task, settings, seed=seed)
    else:
        curve = fit(model, pools, validation, task, settings, seed=seed)
    tests = {"validation": prepared.validation.images, "test": prepared.test.images} | _further(
        config, inputs, prepared
    )
    if config.get("attacked"):
        tests["pool"] = prepared.train.images[prepared.pool]
    found: Record = {name: predict(model, images, task) for name, images in tests.items()}
    np.savez(folder / "predictions.npz", **found)
    if config.get("keep"):
        _save(model, folder / "model.safetensors")
    real_epochs = settings.steps * settings.batch * (1 - rows.share) / max(1, len(rows.real))
    facts = {"n_real": len(np.unique(rows.real)), "n_synthetic": len(rows.synthetic), "epochs_over_real": real_epochs}
    write_json(folder / "training.json", facts | {"curve": curve})


def _settings(config: Record) -> Any:
    """The loop's settings: the study's, with the backbone's own rate and optimiser unless the study gives them."""
    from classifiers.backbones import DEFAULTS
    from classifiers.training import Settings

    own = DEFAULTS.get(config["backbone"], {})
    rate = config["learning_rate"] or own.get("learning_rate", Settings.learning_rate)
    optimiser = config.get("optimiser") or own.get("optimiser", Settings.optimiser)
    names = ("steps", "batch", "weight_decay", "warmup", "shift", "flip", "precision", "select", "evaluations")
    given = {name: config[name] for name in names}
    return Settings(learning_rate=rate, optimiser=optimiser, strong=config["arm"] == "real_strong", **given)


def _model(config: Record, classes: int) -> Any:
    from classifiers.backbones import create

    return create(config["backbone"], classes, config["size"], config["seed"], config.get("weights"), config["options"])


def _further(config: Record, inputs: dict[str, Path], prepared: split.Prepared) -> dict[str, NDArray[np.uint8]]:
    """Test images that were changed, and those of another site."""
    from classifiers.training import CORRUPTIONS

    found = {f"corruption={name}": CORRUPTIONS[name](prepared.test.images) for name in config.get("corruptions", [])}
    if "external" in inputs:
        name, other = split.read_external(inputs["external"])
        found[f"external={name}"] = other.images
    return found


def _save(model: Any, file: Path) -> None:
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file)


def read_classifier(folder: Path, classes: int) -> Any:
    """The model of a finished classify cell that kept it."""
    from safetensors.torch import load_file

    config = json.loads((folder / "cell.json").read_text())["config"]
    model = _model(config, classes)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.to(device()).eval()


def attacked_rows(
    prepared: split.Prepared, probabilities: dict[int, NDArray[Any]], used: dict[int, NDArray[np.int64]],
    bank: Path | None = None,
) -> dict[int, list[Record]]:  # fmt: skip
    """The attack on one arm's classifiers: seed -> tidy rows of `classifier_membership_*`.

    probabilities: of prepared.pool, by seed; used: rows of train that the classifier of this seed, or the generator
    behind its images, saw; bank: the cell with the features of real images, for the blind baseline. The score is the
    negative loss and, calibrated, how far it lies below the mean loss of the other seeds' classifiers that did not see
    the image, where every image has one.
    """
    from privacy.membership import calibrated

    pool, labels = prepared.pool, prepared.train.labels[prepared.pool]
    seeds = sorted(probabilities)
    losses = np.stack([_losses(labels, probabilities[seed]) for seed in seeds])
    inside = np.stack([np.isin(pool, used[seed]) for seed in seeds])
    patients = np.array([prepared.patients[i] for i in pool])
    out = ~np.isin(pool, prepared.members)
    found: dict[int, list[Record]] = {}
    for place, seed in enumerate(seeds):
        scores = {"": -losses[place], "_calibrated": calibrated(losses, inside, place)}
        found[seed] = []
        for name, values in scores.items():
            one, two = inside[place] & np.isfinite(values), out & np.isfinite(values)
            if one.sum() < 2 or two.sum() < 2:
                continue
            given = (values[one], values[two], patients[one].tolist(), patients[two].tolist())
            coin = bool((inside[place] == np.isin(pool, prepared.members)).all())  # a budget's are a choice by class
            found[seed] += [{"group": "all"} | row for row in told(f"classifier_membership{name}", *given, coin=coin)]
        found[seed] += _untold(prepared, bank, inside[place].tobytes()) if bank else []
    return found


@lru_cache(maxsize=256)
def _untold(prepared: split.Prepared, bank: Path, inside: bytes) -> list[Record]:
    """The blind baseline of members, a bool for each of prepared.pool, against held-out images; arms share it."""
    mine = prepared.pool[np.frombuffer(inside, bool)]
    with np.load(bank / "features.npz", allow_pickle=False) as arrays:
        features = arrays["kept"][np.searchsorted(arrays["kept_rows"], np.sort(mine))], arrays["heldout"]
    patients = [[prepared.patients[i] for i in rows] for rows in (np.sort(mine), prepared.heldout)]
    return [{"group": "all"} | row for row in blind(*features, *patients, name="classifier_membership")]


def _losses(labels: NDArray[Any], probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Cross-entropy of each image in nats; of multi-label ones the sum over labels."""
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    if labels.ndim == 2:
        return np.asarray(-np.where(labels > 0, np.log(p), np.log1p(-p)).sum(1))
    return np.asarray(-np.log(p[np.arange(len(labels)), labels]))
