"""What docs/extending.md tells works: its code is run as it stands."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image

import privacy.neighbours
from benchmark.datasets import load
from benchmark.plan import plan
from benchmark.study import load_study
from classifiers.backbones import create
from generators import baselines
from privacy.audits import query_control
from results import tidy
from results.charts import panels
from results.tidy import LOOKS, Results, headline

PAGE = (Path(__file__).parents[1] / "docs/extending.md").read_text()
NAMES: dict[str, Any] = {
    "Callable": Callable, "Distances": np.ndarray, "Exclude": privacy.neighbours.Exclude,
    "Figure": Figure, "Image": Image, "Images": np.ndarray,
    "LOOKS": LOOKS, "Labels": np.ndarray, "Path": Path, "Probabilities": np.ndarray, "Results": Results,
    "_by_class": baselines._by_class, "headline": headline, "np": np, "panels": panels, "pd": pd,
    "tile_max_neighbours": privacy.neighbours.tile_max_neighbours,
}  # fmt: skip


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    names = dict(NAMES)
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(block, names)
    return names


def pictures(n: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), np.uint8)


def test_backbones_of_a_study_file(tmp_path: Path) -> None:
    text = re.search(r"```yaml\n(.*?)```", PAGE, re.S)
    assert text
    (tmp_path / "s.yaml").write_text(text[1])
    study = load_study(str(tmp_path / "s.yaml"))
    assert [backbone.name for backbone in study.backbones] == ["resnet18", "convnext_atto"]
    create("convnext_atto", 2, 32, 0, options=study.backbones[1].options)


def test_a_data_set_and_a_finished_generator_enter_a_study(page: dict[str, Any], tmp_path: Path) -> None:
    names, patients = ["a", "b"] * 30, [f"p{i // 2}" for i in range(60)]
    (tmp_path / "mine").mkdir()
    file = page["as_table"](pictures(60), names, patients, tmp_path / "mine")
    data = load(str(file))
    assert data.card.classes == ("a", "b") and data.splits["train"].groups
    entry = page["drawn_elsewhere"](lambda label, n: pictures(n, len(label)), ["a", "b"], 5, tmp_path / "gan")
    study = {"name": "s", "datasets": [str(file)], "generators": {"gan": entry}, "size": 16, "budgets": [0.5]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study))
    cells = plan(load_study(str(tmp_path / "s.yaml")))
    assert any(cell.about.get("exposure") == "external" and cell.stage == "classify" for cell in cells)


def test_a_placebo_and_a_metric(page: dict[str, Any]) -> None:
    images, labels = pictures(20), np.repeat([0, 1], 10)
    made, theirs = page["shuffled"](images, labels, np.array([3, 4]), 0)
    assert made.shape == (7, 16, 16, 3) and theirs.tolist() == [0] * 3 + [1] * 4
    p = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3]])
    assert page["top_two_accuracy"](np.array([1, 0]), p) == 0.5


def test_a_privacy_measure_has_its_control(page: dict[str, Any]) -> None:
    bank, heldout = pictures(30), pictures(150, 1)
    copies = np.ascontiguousarray(np.rot90(bank[:5], axes=(1, 2)))
    law = query_control(page["turned"](copies, bank), page["turned"](heldout, bank))
    assert law["flagged"] == 5


def test_a_table_and_a_figure(page: dict[str, Any]) -> None:
    claims = pd.DataFrame({"dataset": ["d"], "difference": [0.1], "low": [0.0], "high": [0.2]})
    assert page["gain_bars"].__globals__ is page
    page["headline"] = lambda results: claims
    results: Any = object()
    assert len(page["gains"](results)) == 1 and isinstance(page["gain_bars"](results), Figure)
    page["headline"] = tidy.headline
