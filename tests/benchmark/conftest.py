"""Studies small enough for a test: planned from a file, run in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.cache import Cell, Store
from benchmark.plan import plan
from benchmark.running import needed, run_cells
from benchmark.study import load_study

BASE = {
    "datasets": ["phantom-x-ray", "phantom-fundoscopy"], "phantom_images": 60, "decoder_images_seen": 32, "seeds": 1,
    "placebos": [], "backbones": [{"name": "test_resnet"}], "sampling": {"steps": 2}, "fidelity": {"images": 20},
    "classifier": {"steps": 2, "batch": 8, "warmup": 1, "evaluations": 1}, "audit": {"images": 10, "stride": 1.0},
    "threads": {"generator": 1, "classifier": 1}, "budgets": [0.2], "arms": ["real", "augmented"],
}  # fmt: skip


@pytest.fixture
def cells_of() -> Callable[..., list[Cell]]:
    """(folder, **changes of the study) -> its cells."""

    def make(folder: Path, **changes: Any) -> list[Cell]:
        file = folder / "study.yaml"
        grid = changes.get("grid", [{}])
        base = {key: value for key, value in BASE.items() if not all(key in block for block in grid)}
        file.write_text(yaml.safe_dump({"name": "s"} | base | changes))
        return plan(load_study(str(file)))

    return make


@pytest.fixture
def finish() -> Callable[..., Store]:
    """(cells, home, *stages) -> the store, once the cells of these stages and what they need have run."""

    def run(cells: list[Cell], home: Path, *stages: str) -> Store:
        store = Store(home)
        wanted = {cell.digest: cell for stage in stages for cell in needed(cells, stage)}
        assert not run_cells(list(wanted.values()), store, "local", 1, lambda *told: None)
        return store

    return run
