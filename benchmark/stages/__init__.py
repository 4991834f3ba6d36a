"""The stages: config -> arrays -> call a leaf -> files. Raise a version when a stage's meaning changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

VERSIONS: dict[str, int] = {
    "split": 1,
    "autoencoder": 1,
    "train": 1,
    "synthesize": 1,
    "features": 1,
    "classify": 1,
    "fidelity": 1,
    "audit": 2,
}

Stage = Callable[[dict[str, Any], dict[str, Path], Path], None]  # config, folder of each input, folder to write


def stage(name: str) -> Stage:
    """The function that makes a cell of this stage; imported here, so that a plan needs none of it."""
    from benchmark.stages import audit, classify, fidelity, split, synthesize, train

    stages: dict[str, Stage] = {
        "split": split.run_split,
        "autoencoder": train.run_autoencoder,
        "train": train.run_train,
        "synthesize": synthesize.run_synthesize,
        "features": fidelity.run_features,
        "classify": classify.run_classify,
        "fidelity": fidelity.run_fidelity,
        "audit": audit.run_audit,
    }
    return stages[name]
