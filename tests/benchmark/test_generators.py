"""Generators in a study: what each may see, where it starts from, and that the folder it leaves is plain diffusers."""

import base64
import csv
import importlib
import io
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.cache import BadInput, Cell
from benchmark.exporting import export_sets
from benchmark.stages import split, synthesize
from benchmark.stages.train import seen
from benchmark.study import load_study
from tests.benchmark.test_sources import class_folder

SMALL = {"images_seen": 64, "transfer_images_seen": 32, "batch": 16, "channels": [32, 32], "text_width": 32}


def trained_parts(cell: Cell) -> list[Cell]:
    """Every cell with learnt weights from which this one comes."""
    above = [part for each in cell.inputs.values() for part in trained_parts(each)]
    return above + ([cell] if cell.stage in ("train", "autoencoder") or cell.config.get("keep") else [])


def of(cells: list[Cell], stage: str, **about: Any) -> list[Cell]:
    return [c for c in cells if c.stage == stage and all(c.about.get(key) == value for key, value in about.items())]


@pytest.mark.parametrize("exposure", ["budget", "transfer"])
def test_no_other_image_of_the_target_reaches_any_trained_part(
    tmp_path: Path, exposure: str, cells_of: Any, finish: Any
) -> None:
    cells = cells_of(
        tmp_path, generators={"g": SMALL}, exposure=exposure, budgets=[0.2, 0.5], sampling={"steps": 2, "filter": 0.1},
        seeds=2,
    )  # fmt: skip
    store = finish(cells, tmp_path / "home", "split")
    for drawn in of(cells, "synthesize"):
        own, budget, seed = drawn.inputs["split"], drawn.about["budget"], drawn.about["seed"]
        prepared = split.read(store.folder(own))
        allowed = {row.tobytes() for row in prepared.train.images[prepared.budget(budget, seed)]}
        parts = trained_parts(drawn)
        assert {part.stage for part in parts} == {"train", "autoencoder", "classify"}
        for part in parts:
            if own not in part.inputs.values():
                continue  # it cannot read this set
            if part.stage == "classify":
                told = {key: part.config[key] for key in ("budget", "seed", "arm", "by_budget", "select")}
                wanted = {"budget": budget, "seed": seed, "arm": "real", "by_budget": True, "select": "last"}
                assert told == wanted, "the filter's classifier"
                continue
            own_alone = {role: store.folder(each) for role, each in part.inputs.items() if each == own}
            images, _, _ = seen(part.config, own_alone)
            assert {row.tobytes() for row in images[:]} <= allowed
        assert exposure == "budget" or any(own not in part.inputs.values() for part in parts if part.stage == "train")


@pytest.mark.parametrize("exposure", ["full", "budget", "transfer"])
def test_what_training_reads_is_what_may_be_seen(
    tmp_path: Path, exposure: str, cells_of: Any, finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pixels that reach the decoder's and the generator's training, taken from the running cells."""
    from benchmark.running import run_one
    from generators import autoencoders, teaching

    read: set[bytes] = set()

    def reading(real: Any) -> Any:
        def call(model: Any, images: Any, *rest: Any, **more: Any) -> Any:
            read.update(image.tobytes() for image in images[:])
            return real(model, images, *rest, **more)

        return call

    for module, name in ((teaching, "tune_decoder"), (autoencoders, "encode")):
        monkeypatch.setattr(module, name, reading(getattr(module, name)))
    cells = cells_of(tmp_path, generators={"g": SMALL}, exposure=exposure)
    store = finish(cells, tmp_path / "home", "split")
    drawn = of(cells, "synthesize")[0]

    def bytes_of(images: Any) -> set[bytes]:
        return {image.tobytes() for image in images}

    sets = {c.digest: split.read(store.folder(c)) for c in of(cells, "split")}
    own, mine = drawn.inputs["split"].digest, sets[drawn.inputs["split"].digest]
    target = bytes_of(mine.train.images) | bytes_of(mine.validation.images) | bytes_of(mine.test.images)
    parts = {part.digest: part for part in trained_parts(drawn)}
    assert len(parts) == (4 if exposure == "transfer" else 2)
    for part in parts.values():
        read.clear()
        assert run_one(str(tmp_path / "home"), part)[1:] == ("", 0)
        given = [sets[each.digest] for each in part.inputs.values() if each.digest in sets]
        everything = part.config["exposure"] == "full"
        allowed = [each.train.images[each.kept if everything else each.budget(0.2, 0)] for each in given]
        assert read == set().union(*map(bytes_of, allowed)), "of no set what is held out, validated or tested on"
        before = exposure == "transfer" and everything  # the other sets alone
        assert bool(read & target) != before and (own in {each.digest for each in part.inputs.values()}) != before


@pytest.mark.parametrize("module", ["generators.teaching", "generators.training"])
def test_a_cell_that_is_killed_goes_on_from_its_state(
    tmp_path: Path, module: str, cells_of: Any, finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = cells_of(tmp_path, generators={"g": SMALL}, datasets=["phantom-oct"], decoder_images_seen=128)
    whole = finish(cells, tmp_path / "whole", "train")
    part, saves, now = importlib.import_module(module), list[int](), itertools.count(step=1000)
    keep = part.save_state

    def kept_until_killed(*given: Any) -> None:
        keep(*given)
        saves.append(len(given[-1]))
        if len(saves) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(part, "time", SimpleNamespace(monotonic=lambda: float(next(now))))
    monkeypatch.setattr(part, "save_state", kept_until_killed)
    with pytest.raises(KeyboardInterrupt):
        finish(cells, tmp_path / "killed", "train")
    killed = finish(cells, tmp_path / "killed", "train")
    assert saves == [1, 2, 3, 4], "each step is made once"
    for cell in (*of(cells, "autoencoder"), *of(cells, "train")):
        files = [file.relative_to(whole.folder(cell)) for file in whole.folder(cell).rglob("*.safetensors")]
        assert files and all(
            (whole.folder(cell) / file).read_bytes() == (killed.folder(cell) / file).read_bytes() for file in files
        )


def test_work_that_two_generators_share_is_told_for_both(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    generators = {"all": SMALL, "own": SMALL | {"train_on": "each"}}
    cells = cells_of(tmp_path, datasets=["phantom-oct"], generators=generators)
    for stage in ("classify", "fidelity", "audit", "membership"):
        one, two = (of(cells, stage, generator=name) for name in generators)
        assert len(one) == len(two) >= 1 and {c.digest for c in one} == {c.digest for c in two}
    store = finish(cells, tmp_path / "home", "classify")
    assert all(store.record(cell) for cell in of(cells, "classify"))


def test_filter_sees_no_more_than_the_generator(tmp_path: Path, cells_of: Any) -> None:
    generators = {"g": SMALL | {"data_share": 0.25}}
    cells = cells_of(tmp_path, generators=generators, sampling={"steps": 2, "filter": 0.5})
    assert {c.inputs["filter"].config["budget"] for c in of(cells, "synthesize")} == {0.25}


def test_sets_are_as_large_as_the_blocks_that_draw(tmp_path: Path, cells_of: Any) -> None:
    grid = [{"arms": ["real"], "budgets": [0.2, 1.0], "ratios": [5]}, {"arms": ["augmented"], "budgets": [0.2]}]
    cells = cells_of(tmp_path, generators={"g": SMALL}, grid=grid, datasets=["phantom-oct"])
    assert {(c.config["budget"], c.config["ratio"]) for c in of(cells, "synthesize")} == {(0.2, 1.0)}


def test_sets_of_one_source_do_not_meet_in_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells_of: Any
) -> None:
    from benchmark import lineage

    monkeypatch.setattr(lineage, "SHARED_SOURCES", ({"phantom-x-ray", "phantom-fundoscopy"},))
    with pytest.raises(BadInput, match="no other data set to learn from before phantom-x-ray"):
        cells_of(tmp_path, generators={"g": SMALL}, exposure="transfer")


def test_sweep_filter_and_groups_are_variants_of_one_study(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    generators = {
        "types": SMALL | {"train_on": {"by": "image_type"}, "detail": "label", "caption_noise": 0.5, "data_share": 0.5},
        "blind": SMALL | {"train_on": "each", "unconditional": True},
    }
    cells = cells_of(tmp_path, generators=generators, sampling={"steps": [2, 3], "filter": [None, 0.5]})
    assert {c.about["variant"] for c in of(cells, "synthesize", generator="types")} == {
        "", "steps=3", "filter=0.5", "filter=0.5;steps=3",
    }  # fmt: skip
    assert {c.about["variant"] for c in of(cells, "synthesize", generator="blind")} == {"", "steps=3"}
    assert not of(cells, "classify", generator="blind") and of(cells, "audit", generator="blind")
    assert len(of(cells, "train")) == 4, "each kind learns from one set at a time here"
    store = finish(cells, tmp_path / "home", "synthesize")
    filtered = of(cells, "synthesize", generator="types", variant="filter=0.5", dataset="phantom-x-ray")[0]
    facts = json.loads((store.folder(filtered) / "facts.json").read_text())
    assert 0 <= facts["accepted_at_once"] <= facts["accepted"] <= 1 and facts["tries"] >= 12
    blind = of(cells, "synthesize", generator="blind", variant="")[0]
    assert set(synthesize.read(store.folder(blind)).captions) == {""}
    list(export_sets([blind], store, tmp_path / "out"))
    (folder,) = {file.parent for file in (tmp_path / "out").glob("*/*/*.png")}
    with (folder.parent / "metadata.csv").open() as stream:
        assert folder.name == "unlabelled" and {row["class"] for row in csv.DictReader(stream)} == {""}
    assert "no label was asked for" in (folder.parent / "README.md").read_text()


def test_unseen_phrasing_is_judged_and_feeds_nothing(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    changes: Any = {"datasets": ["phantom-oct"], "generators": {"g": SMALL}, "unseen_phrasing": True, "audit_pool": 0}
    cells = cells_of(tmp_path, **changes)
    drawn = of(cells, "synthesize", variant="phrasing=unseen")
    assert len(drawn) == 1 and not of(cells, "classify", variant="phrasing=unseen")
    store = finish(cells, tmp_path / "home", "fidelity")
    captions = synthesize.read(store.folder(drawn[0])).captions
    assert all(text.startswith("one patient's ") for text in captions)
    rows = json.loads((store.folder(of(cells, "fidelity", variant="phrasing=unseen")[0]) / "rows.json").read_text())
    assert {"label_consistency", "label_by_chance"} <= {row["metric"] for row in rows}


def test_privacy_filter_redraws_what_is_too_near(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    """At 0.9 nearly every image of an untrained generator is refused or far; the unfiltered cell is as it was."""
    from benchmark.stages import split, synthesize
    from privacy.audits import control_patients
    from privacy.neighbours import tile_max_neighbours

    sampling = {"steps": 2, "privacy": [None, 0.9], "redraws": 2}
    cells = cells_of(tmp_path, generators={"g": SMALL}, sampling=sampling, datasets=["phantom-oct"])
    drawn = {c.about["variant"]: c for c in of(cells, "synthesize", generator="g")}
    assert set(drawn) == {"", "privacy=0.9"} and "privacy" not in drawn[""].config
    store = finish(cells, tmp_path / "home", "synthesize")
    prepared = split.read(store.folder(drawn[""].inputs["split"]))
    bank = prepared.train.images[prepared.kept]
    rows = control_patients(prepared.validation.groups, 0)  # one image a patient
    control = np.sort(tile_max_neighbours(prepared.validation.images[rows], bank, k=1)[0][:, 0])
    threshold = control[int(0.9 * (len(control) + 1)) - 1]
    near = {key: tile_max_neighbours(synthesize.read(store.folder(cell)).images, bank, k=1)[0][:, 0] <= threshold
            for key, cell in drawn.items()}  # fmt: skip
    facts = json.loads((store.folder(drawn["privacy=0.9"]) / "facts.json").read_text())
    assert facts["accepted_at_once"] == pytest.approx(1 - near[""].mean())
    assert facts["accepted"] + facts["replaced"] == pytest.approx(1 - near["privacy=0.9"].mean())
    assert facts["level"] == pytest.approx(int(0.9 * (len(control) + 1)) / (len(control) + 1))


def test_an_image_that_replaces_another_brings_its_seed_and_caption() -> None:
    images, seeds = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(3, 3), np.arange(5)
    texts, labels = [f"caption {i}" for i in range(5)], np.array([0, 0, 1, 1, 2])
    accepted = np.array([True, False, False, True, False])
    assert synthesize._replace(images, seeds, texts, labels, accepted) == 2 / 5, "of class 2 none was accepted"
    assert images[:, 0, 0, 0].tolist() == seeds.tolist() == [0, 0, 3, 3, 4]
    assert texts == [f"caption {i}" for i in seeds]


def test_a_privacy_filter_of_a_budget_sees_a_budget_of_validation(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    changes: Any = {"generators": {"g": SMALL}, "datasets": ["phantom-oct"], "exposure": "budget"}
    cells = cells_of(tmp_path, sampling={"steps": 2, "privacy": 0.01, "redraws": 1}, **changes)
    drawn = of(cells, "synthesize", generator="g")[0]
    store = finish(cells, tmp_path / "home", "synthesize")
    prepared = split.read(store.folder(drawn.inputs["split"]))
    cut = prepared.validation_budget(0.2, 0)
    assert 0 < len(cut) < len(prepared.validation.images) / 2
    assert set(prepared.validation.labels[cut]) == set(prepared.validation.labels)
    patients = {(prepared.validation.groups or [])[i] for i in cut}
    facts = json.loads((store.folder(drawn) / "facts.json").read_text())
    assert facts["level"] == pytest.approx(1 / (len(patients) + 1)), "1 % cannot be told by so few"


def test_reader_study_shows_the_study_as_written(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    """Not the set of an unseen wording, which is planned first, and not that of the second generator."""
    from benchmark.exporting import reader_page

    generators = {"g": SMALL, "other": SMALL | {"detail": "label"}}
    cells = cells_of(tmp_path, generators=generators, unseen_phrasing=True, datasets=["phantom-oct"])
    store = finish(cells, tmp_path / "home", "synthesize")
    drawn = [c for c in cells if c.stage == "synthesize"]
    assert drawn[0].about["variant"] == "phrasing=unseen", "or this test proves nothing"
    out, study = tmp_path / "page.html", load_study(str(tmp_path / "study.yaml"))
    key, _ = reader_page(study, cells, store, 3, 3, 0, out)
    items = json.loads(key.read_text())["items"]
    shown = json.loads(out.read_text().split('id="content">')[1].split("</script>")[0])["items"]
    made = {each["id"]: each["image"] for each in shown if items[each["id"]]["source"] == "synthetic"}
    written = next(c for c in drawn if not c.about["variant"] and c.about["generator"] == "g")
    greys = np.rint(synthesize.read(store.folder(written)).images.mean(3)).astype(np.uint8)  # real ones are grey
    for uri in made.values():
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
        assert (greys == picture[..., 0]).all((1, 2)).any()
    assert len(made) == 3 and {items[name]["generator"] for name in made} == {"g"}


def test_images_that_are_mapped_give_the_same_weights(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    weights = []
    for limit in (4096, 0):
        cells = cells_of(tmp_path, generators={"g": SMALL}, image_memory_mb=limit)
        store = finish(cells, tmp_path / "home", "train")
        own = split.read(store.folder(of(cells, "split")[0]))
        assert isinstance(own.train.images, np.memmap) == (limit == 0)
        folder = store.folder(of(cells, "train")[0])
        weights.append((folder / "pipeline/unet/diffusion_pytorch_model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_finished_cell_keeps_no_checkpoint(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    cells = cells_of(tmp_path, generators={}, datasets=["phantom-oct"], arms=["real"])
    kept = finish(cells, tmp_path / "home", "split").folder(of(cells, "split")[0]) / "checkpoint"
    kept.mkdir()
    (kept / "secret.json").write_text("1")  # as a kill leaves it between the last two acts
    finish(cells, tmp_path / "home", "split")
    assert kept.parent.exists() and not kept.exists()


def test_a_set_holds_what_some_arm_uses_and_no_more(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    grid = [{"budgets": [1.0], "ratios": [1]}, {"budgets": [0.2], "ratios": [3]}]
    cells = cells_of(tmp_path, generators={"g": SMALL}, grid=grid, datasets=["phantom-oct"])
    drawn = of(cells, "synthesize", generator="g")[0]
    store = finish(cells, tmp_path / "home", "synthesize")
    prepared, made = split.read(store.folder(drawn.inputs["split"])), synthesize.read(store.folder(drawn))
    few, many = len(prepared.budget(0.2, 0)), len(prepared.budget(1.0, 0))
    assert len(made.images) == many + 2 * few and (made.rank[made.copy > 0] < few).all()
    assert len(set(made.seeds.tolist())) == len(made.seeds)
    half = cells_of(tmp_path, generators={"g": SMALL}, ratios=[0.5], budgets=[1.0], datasets=["phantom-oct"])
    drawn = of(half, "synthesize", generator="g")[0]
    made = synthesize.read(finish(half, tmp_path / "home", "synthesize").folder(drawn))
    assert len(made.images) == round(many / 2)


def test_sets_of_one_source_do_not_meet_in_one_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells_of: Any
) -> None:
    from benchmark import lineage

    both = ["phantom-fundoscopy", "phantom-x-ray"]
    monkeypatch.setattr(lineage, "SHARED_SOURCES", (set(both),))
    for exposure in ("full", "budget"):
        with pytest.raises(BadInput, match="phantom-fundoscopy and phantom-x-ray, made from the same images"):
            cells_of(tmp_path, generators={"g": SMALL}, exposure=exposure)
    assert cells_of(tmp_path, generators={"g": SMALL | {"train_on": "each"}})
    with pytest.raises(BadInput, match="made from the same images"):
        cells_of(tmp_path, generators={"g": SMALL}, waive=both[:1])
    assert cells_of(tmp_path, generators={"g": SMALL}, waive=both)


def test_label_consistency_is_told_by_a_classifier_that_no_filter_used(tmp_path: Path, cells_of: Any) -> None:
    sampling = {"steps": 2, "filter": 0.5}
    cells = cells_of(tmp_path, generators={"g": SMALL, "blind": SMALL | {"train_on": "each", "unconditional": True}},
                     sampling=sampling, unseen_phrasing=True)  # fmt: skip
    used = {c.inputs["filter"].digest for c in of(cells, "synthesize") if "filter" in c.inputs}
    judges = {c.inputs["judge"].digest for c in of(cells, "fidelity") if "judge" in c.inputs}
    assert used and judges and not used & judges
    unseen = of(cells, "synthesize", variant="phrasing=unseen", generator="g")
    assert unseen and all("filter" not in c.inputs for c in unseen)
    blind = of(cells, "synthesize", generator="blind")
    assert blind and all(c.about["variant"] == "" and "filter" not in c.inputs for c in blind)


def test_a_list_of_sets_is_what_a_generator_learns_from(tmp_path: Path, cells_of: Any) -> None:
    names = ["phantom-x-ray", "phantom-oct"]
    cells = cells_of(tmp_path, generators={"two": SMALL | {"train_on": names}}, datasets=[*names, "phantom-ct"])
    (part,) = of(cells, "train")
    assert {role for role in part.inputs if role != "autoencoder"} == {f"split {name}" for name in names}
    assert {c.about["dataset"] for c in of(cells, "synthesize", generator="two")} == set(names)


def test_sets_of_different_size_reach_training_balanced(
    tmp_path: Path, cells_of: Any, finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from generators import teaching, training

    given: dict[str, np.ndarray] = {}

    def tune(*arguments: Any, **named: Any) -> list[float]:
        given["decoder"] = named["weights"]
        return []

    def fit(pipeline: Any, latents: Any, captions: Any, weights: np.ndarray, *rest: Any, **named: Any) -> list[float]:
        given["generator"] = weights
        return []

    monkeypatch.setattr(teaching, "tune_decoder", tune)
    monkeypatch.setattr(training, "train", fit)
    small = str(class_folder(tmp_path / "mine", {"cat": 16, "dog": 14}))
    cells = cells_of(tmp_path, generators={"g": SMALL | {"balance": 0.0}}, datasets=["phantom-oct", small])
    store = finish(cells, tmp_path / "home", "train")
    (own,) = of(cells, "split", dataset="mine")
    n = len(split.read(store.folder(own)).kept)
    for weights in given.values():  # sets come in the order of their names
        assert n < 0.4 * len(weights) and weights[:n].sum() == pytest.approx(0.5) and weights.sum() == pytest.approx(1)
    assert set(given) == {"decoder", "generator"}


def test_a_page_shows_the_fullest_exposure() -> None:
    from benchmark.reporting import Reporter

    def made(exposure: str, seed: int, budget: float | None) -> Any:
        about = {"dataset": "d", "generator": "g", "exposure": exposure, "seed": seed, "budget": budget}
        return SimpleNamespace(about=about, inputs={"train": 1})

    cells = [made("budget", 0, 0.01), made("budget", 0, 0.5), made("full", 1, None), made("full", 0, None)]
    for some, best in ((cells, 3), (cells[:3], 2), (cells[:2], 1)):
        assert Reporter.first(SimpleNamespace(of=lambda stage, some=some: some), "audit") == [cells[best]]  # type: ignore[arg-type]
