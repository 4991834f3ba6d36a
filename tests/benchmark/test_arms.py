"""Every arm in one small study: equal steps, its own rows, further tests without further training."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmark.cache import BadInput, Cell, Store
from benchmark.plan import plan
from benchmark.reporting import Reporter
from benchmark.running import run_cells
from benchmark.splits import ARMS, mixture
from benchmark.stages import split
from benchmark.study import REAL_ARMS, SYNTHETIC_ARMS, Study, load_study

STUDY = """
name: arms
datasets: [phantom-oct]
phantom_images: 90
decoder_images_seen: 32
generators: {g: {images_seen: 32, batch: 16, channels: [32, 32], text_width: 32}}
sampling: {steps: 2}
arms: [real, real_double, real_oversampled, real_strong, synthetic, mixed, augmented, pretrained]
budgets: [0.2, 0.5, 1.0]
share: [0.5, 0.25]
placebos: [copies]
seeds: 2
backbones: [test_resnet]
classifier: {steps: 4, batch: 8, warmup: 1, evaluations: 1}
fidelity: {images: 20}
audit_pool: 0
budget_validation: true
corruptions: [blur, noise]
external: {phantom-oct: phantom-oct-site2}
threads: {generator: 1, classifier: 1}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Store, list[Cell]]:
    folder = tmp_path_factory.mktemp("arms")
    (folder / "arms.yaml").write_text(STUDY)
    study = load_study(str(folder / "arms.yaml"))
    store, cells = Store(folder / "home"), plan(study)
    assert not run_cells(cells, store, "local", 1, lambda *told: None)
    return study, store, cells


def test_every_arm_has_its_rows_and_equal_steps(done: tuple[Study, Store, list[Cell]]) -> None:
    _, store, cells = done
    classify = [cell for cell in cells if cell.stage == "classify"]
    assert {cell.about["arm"] for cell in classify} == {*REAL_ARMS, *SYNTHETIC_ARMS} == set(ARMS)
    assert len({json.dumps([cell.config[key] for key in ("steps", "batch", "warmup")]) for cell in classify}) == 1
    prepared = split.read(store.folder(classify[0].inputs["split"]))
    for cell in classify:
        facts = json.loads((store.folder(cell) / "training.json").read_text())
        n = len(prepared.budget(cell.about["budget"], cell.about["seed"]))
        arm = cell.about["arm"]
        if arm == "real_double":
            assert facts["n_real"] == len(prepared.budget(2 * cell.about["budget"], cell.about["seed"])) > n
        elif arm == "mixed":
            assert facts["n_real"] + facts["n_synthetic"] == n
        else:
            assert facts["n_real"] == (0 if arm == "synthetic" else n)
            assert facts["n_synthetic"] == (n if arm in SYNTHETIC_ARMS else 0)
    assert {c.about["budget"] for c in classify if c.about["arm"] == "real_double"} == {0.2, 0.5}
    assert {c.about["share"] for c in classify if c.about["arm"] == "augmented"} == {0.25, 0.5}


def test_budget_validation_is_a_variant_of_the_lowest_two_budgets(done: tuple[Study, Store, list[Cell]]) -> None:
    cut = [cell for cell in done[2] if cell.about.get("variant") == "validation=budget"]
    assert {cell.about["budget"] for cell in cut} == {0.2, 0.5}
    assert {cell.config["select"] for cell in cut} == {"last"}


def test_further_tests_and_claims_are_in_the_table(done: tuple[Study, Store, list[Cell]]) -> None:
    results = Reporter(*done).results()
    table = results.table
    groups = {"corruption=blur", "corruption=noise", "external=phantom-oct-site2"}
    assert groups <= set(table["group"])
    pooled = table[table["seed"].isna() & table["group"].isin(groups) & (table["metric"] == "auroc")]
    assert set(pooled["group"]) == groups
    keys = ["stage", "dataset", "generator", "exposure", "arm", "budget", "ratio", "share", "backbone", "variant",
            "seed", "group", "metric"]  # fmt: skip
    assert not table.duplicated(keys).any()
    family = results.claims[results.claims["claim"]]
    assert set(family["against"]) == {"real", "real_double"} and set(family["arm"]) == {"augmented"}


def test_oversampling_balances_classes() -> None:
    labels = np.array([0] * 8 + [1] * 2 + [0] * 5)
    none = np.zeros(0, np.int64)
    rows = mixture("real_oversampled", np.arange(10), labels, none, none, 0, 0.0).real
    assert np.bincount(labels[rows]).tolist() == [8, 8] and set(rows) == set(range(10))


def test_external_images_that_were_trained_on_or_have_other_classes_are_refused(tmp_path: Path) -> None:
    for folder, classes in (("mine", "ab"), ("other", "ac"), ("same", "ab")):
        rng = np.random.default_rng(0 if folder != "other" else 1)
        for name in classes:
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(12):
                picture = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(picture).save(tmp_path / folder / name / f"{i}.png")
    base = {"name": "x", "datasets": ["./mine"], "arms": ["real"], "budgets": [1.0], "seeds": 1, "audit_pool": 0}
    for other, words, code in (("./other", "has class 'c', which mine has not", 2), ("./same", "are in train of", 1)):
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(base | {"external": {"mine": other}}))
        cells = [cell for cell in plan(load_study(str(tmp_path / "s.yaml"))) if cell.stage == "split"]
        with pytest.raises(BadInput, match=words) as error:
            run_cells(cells, Store(tmp_path / "home"), "local", 1, lambda *told: None)
        assert error.value.code == code
