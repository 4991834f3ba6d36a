"""Membership told from generators, and from the classifiers of every arm; differential privacy beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.cache import BadInput, Cell
from benchmark.datasets import UNSEEN
from benchmark.stages import split
from benchmark.stages.train import seen
from benchmark.study import load_study

SMALL = {"images_seen": 64, "transfer_images_seen": 32, "batch": 16, "channels": [32, 32], "text_width": 32}


def of(cells: list[Cell], stage: str, name: str) -> list[Cell]:
    return [c for c in cells if c.stage == stage and c.about.get("generator") == name]


def test_a_private_generator_tells_its_epsilon_and_its_decoder_learns_nothing(
    tmp_path: Path, cells_of: Any, finish: Any
) -> None:
    from benchmark.reporting import Reporter

    pytest.importorskip("opacus")
    generators = {"open": SMALL, "private": SMALL | {"dp_epsilon": 4.0, "dp_delta": 1e-5}}
    cells = cells_of(tmp_path, generators=generators, datasets=["phantom-oct"])
    assert [c.config["images_seen"] for c in of(cells, "autoencoder", "private")] == [0]
    assert "dp_epsilon" not in of(cells, "train", "open")[0].config
    assert [of(cells, "train", name)[0].config["phrasings"] for name in generators] == [UNSEEN, 3]
    store = finish(cells, tmp_path / "home", "membership")
    trained = of(cells, "train", "private")[0]
    facts = json.loads((store.folder(trained) / "loss.json").read_text())
    study = load_study(str(next(tmp_path.glob("*.yaml"))))
    found = {row["metric"]: row["value"] for row in Reporter(study, store, cells).private_rows()}
    assert found == {"dp_epsilon": facts["dp_epsilon"], "dp_delta": 1e-5} and 0 < found["dp_epsilon"] <= 4.0
    judged = of(cells, "membership", "private")[0]
    rows = {row["metric"]: row["value"] for row in json.loads((store.folder(judged) / "rows.json").read_text())}
    assert rows["membership_epsilon"] <= rows["membership_epsilon_most"]
    beside = of(cells, "membership", "open")[0]
    assert beside.config["delta"] == judged.config["delta"] == 1e-5, "both are measured alike"
    theirs = {row["metric"]: row["value"] for row in json.loads((store.folder(beside) / "rows.json").read_text())}
    assert theirs["membership_epsilon_most"] == rows["membership_epsilon_most"]


@pytest.mark.parametrize("wrong", [{"lora_rank": 4}, {"recipe": "stable-diffusion"}, {"processes": 2}])
def test_private_training_is_for_the_small_recipe_alone(tmp_path: Path, wrong: dict[str, Any], cells_of: Any) -> None:
    with pytest.raises(BadInput, match="dp_epsilon is for recipe small"):
        cells_of(tmp_path, generators={"g": SMALL | wrong | {"dp_epsilon": 4.0}})


def test_classifiers_of_every_arm_are_attacked_where_it_is_asked(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    from benchmark.reporting import Reporter

    changes = {"attack": True, "seeds": 2, "budgets": [0.5], "datasets": ["phantom-oct"], "phantom_images": 160}
    changes |= {"arms": ["real", "synthetic"]}
    cells = cells_of(tmp_path, generators={"g": SMALL}, **changes)
    store = finish(cells, tmp_path / "home", "classify")
    rows = list(Reporter(load_study(str(tmp_path / "study.yaml")), store, cells).attack_rows())
    found = {(row["arm"], row["metric"], row["seed"]): row for row in rows}
    for arm, seed in (("real", 0), ("real", 1), ("synthetic", 0)):
        row = found[arm, "classifier_membership_auroc", seed]
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    assert ("real", "classifier_membership_calibrated_auroc", 0) in found, "seeds leave out different images"
    assert ("real", "classifier_membership_epsilon", 0) not in found, "a budget is no coin"
    assert ("synthetic", "classifier_membership_epsilon", 0) in found, "its generator saw the coin's members"
    assert ("synthetic", "classifier_membership_calibrated_auroc", 0) not in found, "the generators saw the same"
    assert all("attacked" not in c.config for c in cells_of(tmp_path, generators={"g": SMALL}) if c.stage == "classify")


def test_a_reference_model_sees_no_patient_of_the_pool_and_calibrates(
    tmp_path: Path, cells_of: Any, finish: Any
) -> None:
    changes: dict[str, Any] = {"audit": {"images": 10, "stride": 1.0, "reference": True}, "datasets": ["phantom-oct"]}
    cells = cells_of(tmp_path, generators={"g": SMALL}, **changes)
    store = finish(cells, tmp_path / "home", "membership")
    judged = of(cells, "membership", "g")[0]
    reference, trained = judged.inputs["reference"], judged.inputs["train"]
    prepared = split.read(store.folder(judged.inputs["split"]))
    folders = {role: store.folder(each) for role, each in reference.inputs.items() if role.startswith("split")}
    learnt = {row.tobytes() for row in seen(reference.config, folders)[0][:]}
    pool = {row.tobytes() for row in prepared.train.images[prepared.pool]}
    assert learnt and not learnt & pool
    assert pool & {row.tobytes() for row in seen(trained.config, folders)[0][:]}, "the generator itself saw the members"
    assert reference.inputs["autoencoder"] == trained.inputs["autoencoder"], "one latent space"
    rows = {row["metric"]: row for row in json.loads((store.folder(judged) / "rows.json").read_text())}
    assert 0 <= rows["membership_calibrated_auroc"]["value"] <= 1
    with np.load(store.folder(judged) / "scores.npz", allow_pickle=False) as scores:
        assert not np.allclose(scores["members"], scores["members_calibrated"])
    plain = cells_of(tmp_path, generators={"g": SMALL}, datasets=["phantom-oct"])
    assert all("reference" not in cell.inputs for cell in plain)
    assert {c.digest for c in plain if c.stage == "audit"} == {c.digest for c in cells if c.stage == "audit"}
