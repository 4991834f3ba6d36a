"""Train one classifier on one arm and keep its probabilities for every validation and test image."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.cache import Record, write_json
from benchmark.mixing import mixture
from benchmark.stages import device, split, synthesize


def run_classify(config: Record, inputs: dict[str, Path], folder: Path) -> None:
    """Writes predictions.npz (test and validation probabilities and labels) and training.json."""
    from safetensors.torch import save_file

    from classifiers.backbones import DEFAULTS, create
    from classifiers.training import Pool, Settings, fit, predict

    # Choose the arm's rows.
    prepared = split.read(inputs["split"])
    budget = prepared.budget(config["budget"], config["seed"])
    none = np.zeros(0, np.int64)
    drawn = synthesize.read(inputs["synthesize"]) if "synthesize" in inputs else None
    rank, copy = (drawn.rank, drawn.copy) if drawn else (none, none)
    rows = mixture(config["arm"], budget, prepared.train.labels, rank, copy, config["ratio"], config["share"])
    pools = []
    if len(rows.real):
        pools.append(Pool(prepared.train.images[rows.real], prepared.train.labels[rows.real], 1 - rows.share))
    if drawn is not None and len(rows.synthetic):
        pools.append(Pool(drawn.images[rows.synthetic], drawn.labels[rows.synthetic], rows.share))

    # Train and predict.
    task, seed = prepared.card.task, config["seed"]
    own = DEFAULTS.get(config["backbone"], {}).get("learning_rate", Settings.learning_rate)
    names = (
        "steps",
        "batch",
        "weight_decay",
        "warmup",
        "shift",
        "flip",
        "precision",
        "select",
        "evaluations",
    )
    settings = Settings(learning_rate=config["learning_rate"] or own, **{name: config[name] for name in names})
    model = create(config["backbone"], len(prepared.card.classes), config["size"], seed)
    validation = Pool(prepared.validation.images, prepared.validation.labels, 1.0)
    model = model.to(device())
    curve = fit(model, pools, validation, task, settings, seed=seed)
    np.savez(
        folder / "predictions.npz",
        test=predict(model, prepared.test.images, task),
        validation=predict(model, prepared.validation.images, task),
    )
    if config.get("keep"):
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    real_epochs = settings.steps * settings.batch * (1 - rows.share) / max(1, len(rows.real))
    facts = {"n_real": len(rows.real), "n_synthetic": len(rows.synthetic), "epochs_over_real": real_epochs}
    write_json(folder / "training.json", facts | {"curve": curve})


def read_classifier(folder: Path, classes: int) -> Any:
    """The model of a finished classify cell that kept it."""
    from safetensors.torch import load_file

    from classifiers.backbones import create

    config = json.loads((folder / "cell.json").read_text())["config"]
    model = create(config["backbone"], classes, config["size"], config["seed"])
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.to(device()).eval()
