"""Study files: defaults, overrides, and one line for everything that is wrong."""

from collections import Counter
from pathlib import Path

import pytest

from benchmark.cache import BadInput, Store
from benchmark.plan import dry_plan, plan
from benchmark.running import estimate
from benchmark.study import Block, Study, load_study, presets


def write(folder: Path, text: str) -> str:
    (folder / "s.yaml").write_text(text)
    return str(folder / "s.yaml")


@pytest.mark.parametrize("name", presets())
def test_presets_are_valid(name: str) -> None:
    assert load_study(name).name == name


def test_name_and_datasets_are_enough(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, "{name: a, datasets: [phantom-ct]}"))
    assert study.budgets == [0.01, 0.05, 0.1, 0.25, 0.5, 1.0]
    assert study.seeds == 3 and study.audit_pool == 0.3 and study.lowest == [0.01]
    assert study.generators["generalist"].images_seen == 40_000 and study.classifier.steps == 100


def test_top_level_keys_are_defaults_of_the_blocks(tmp_path: Path) -> None:
    text = "{name: a, datasets: [phantom-ct], budgets: [0.5], grid: [{arms: [real]}, {budgets: [1], exposure: budget}]}"
    study = load_study(write(tmp_path, text))
    assert [block.budgets for block in study.grid] == [[0.5], [1.0]]
    assert study.grid[1].exposure == ["budget"]


def test_overrides_reach_nested_keys() -> None:
    study = load_study("quick", ["seeds=5", "classifier.steps=7", "backbones=[resnet18]"], "other")
    assert (study.seeds, study.classifier.steps, study.backbones[0].name, study.name) == (
        5,
        7,
        "resnet18",
        "other",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{name: a, datasets: [x], colour: red}", "colour: unknown key"),
        ("{name: a, datasets: [x], budgets: [0]}", "greater than 0"),
        ("{name: a, datasets: [x], budgets: [2]}", "less than or equal to 1"),
        ("{name: a/b, datasets: [x]}", "'a/b' given"),
        ("{name: cells, datasets: [x]}", "take another name"),
        ("{name: a}", "datasets"),
        ("{name: a, datasets: []}", "at least 1"),
        ("{name: a, datasets: [x], arms: [reel]}", "'real'"),
        ("{name: a, datasets: [x], size: 30}", "multiple of 8"),
        ("{name: a, datasets: [x], grid: [{generators: [b]}]}", "not one of generalist"),
        ("{name: a, datasets: [x], backbones: [resnet18, {name: resnet18, lr: 0.1}]}", "'resnet18' is named twice"),
        ("{name: a, datasets: [x], backbones: 4}", "backbones"),
        ("{name: a, datasets: [x], sampling: {scheduler: Nonsense}}", "scheduler of diffusers by class name"),
        ("{name: a, datasets: [x], sampling: {scheduler: NoSuchScheduler}}", "scheduler of diffusers by class name"),
        ("{name: a, datasets: [x], generators: {g: {start: b, decoder_images_seen: 5}}}", "decoder is tuned"),
        ("{name: a, datasets: [x], sampling: {scheduler: EDMEulerScheduler}}", "scheduler of diffusers by class name"),
        ("{name: a, datasets: [x], generators: {g: {batch: 2, processes: 4}}}", "batch 2 and processes 4 given"),
        (
            "{name: a, datasets: [x], budgets: [0.5], grid: [{budgets: [1]}]}",
            "budgets given at the top",
        ),
        (
            "{name: a, datasets: [x], budgets: [0.5], claims: [{arm: augmented, budget: 1}]}",
            "augmented at budget 1",
        ),
        (
            "{name: a, datasets: [x], budgets: [0.5], arms: [real, mixed], claims: [{arm: augmented, budget: 0.5}]}",
            "claims: augmented at budget 0.5 given, which the grid does not run",
        ),
        ("{name: a, datasets: [x], budgets: [0.5], placebo_budgets: [0.1]}", "placebo_budgets: 0.1 given"),
        ("{name: a, datasets: [x], sampling: {scheduler: DDIMScheduler, steps: 1000}}", "steps: 1000 given"),
        ("{name: a, datasets: [x], sampling: {scheduler: PNDMScheduler, steps: [15, 600]}}", "steps: 600 given"),
        ("[1, 2]", "mapping"),
        ("{name: [", "not YAML"),
    ],
)
def test_bad_studies_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        load_study(write(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["seeds", "=3", "name.x=3", "seeds=[", "seeds=0", "nonsense=1"])
def test_bad_overrides(override: str) -> None:
    with pytest.raises(BadInput):
        load_study("quick", [override])


def test_unknown_study_names_the_presets() -> None:
    with pytest.raises(BadInput, match="quick"):
        load_study("nothing-here")


def test_the_first_set_at_hand_stands_for_those_before_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUGURY_DATA", "/nowhere")
    study = load_study("quick", ["datasets=[no-such-set|phantom-oct, phantom-ct|phantom-mri]"])
    assert study.datasets == ["phantom-oct", "phantom-ct"]
    assert "no-such-set not at hand; phantom-oct stands for it" in capsys.readouterr().err
    with pytest.raises(BadInput, match="neither-here"):
        load_study("quick", ["datasets=[no-such-set|neither-here]"])


def test_the_whole_paper_is_planned_with_its_cost_and_without_its_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AUGURY_DATA", "AUGURY_WEIGHTS"):
        monkeypatch.setenv(name, str(tmp_path))
    study = load_study("paper")
    cells, absent = dry_plan(study)
    assert len(cells) > 10_000 and any("stable-diffusion-v1-4" in line for line in absent)
    assert any("on one GPU about" in line for line in estimate(study, cells, Store(tmp_path)))
    with pytest.raises(BadInput, match="hf download"):
        plan(study)


def test_blocks_narrow_sets_backbones_and_seeds() -> None:
    study = Study.model_validate({
        "name": "x", "datasets": ["phantom-ct", "phantom-mri"], "seeds": 3, "generators": {},
        "backbones": ["resnet18", {"name": "resnet10t", "seeds": 2}],
        "grid": [{"arms": ["real"], "budgets": [0.1]},
                 {"arms": ["real_strong"], "budgets": [0.1], "datasets": ["phantom-ct"], "backbones": ["resnet10t"]}],
    })  # fmt: skip
    found = [cell.about for cell in plan(study) if cell.stage == "classify"]
    kinds = Counter((each["dataset"], each["arm"], each["backbone"]) for each in found)
    assert kinds == {
        ("phantom-ct", "real", "resnet18"): 3, ("phantom-ct", "real", "resnet10t"): 2,
        ("phantom-mri", "real", "resnet18"): 3, ("phantom-mri", "real", "resnet10t"): 2,
        ("phantom-ct", "real_strong", "resnet10t"): 2,
    }  # fmt: skip
    with pytest.raises(BadInput, match=r"grid\.datasets: 'phantom-oct' given"):
        plan(study.model_copy(update={"grid": [Block(datasets=["phantom-oct"])]}))


def test_weights_and_autoencoder_lie_beside_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "w.safetensors").touch()
    text = "name: x\ndatasets: [phantom-ct]\nautoencoder: ./vae\nbackbones: [{name: resnet18, weights: w.safetensors}]"
    monkeypatch.chdir("/")
    study = load_study(write(tmp_path, text))
    assert study.autoencoder == str(tmp_path / "vae") and study.backbones[0].weights == str(tmp_path / "w.safetensors")
    assert load_study("quick").autoencoder == "augury" and load_study("quick").backbones[0].weights is None


def test_a_model_begun_from_another_takes_the_papers_recipe(tmp_path: Path) -> None:
    text = "{name: a, datasets: [x], generators: {one: {start: m}, two: {start: m, recipe: small}, three: {}}}"
    given = load_study(write(tmp_path, text)).generators
    assert (given["one"].recipe, given["one"].learning_rate, given["one"].epochs) == ("stable-diffusion", 5e-5, 15)
    assert {given[name].learning_rate for name in ("two", "three")} == {1e-3}


def test_finished_images_alone_need_no_side_of_an_autoencoder(tmp_path: Path) -> None:
    text = "{name: a, datasets: [x], size: 28, generators: {gan: {images: b}}}"
    assert load_study(write(tmp_path, text)).size == 28


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_any_scheduler_of_diffusers_by_name(name: str, tmp_path: Path) -> None:
    text = f"{{name: a, datasets: [x], sampling: {{scheduler: {name}}}}}"
    assert load_study(write(tmp_path, text)).sampling.scheduler == name


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # diffusers' own, with NumPy 2
@pytest.mark.parametrize(
    "name",
    ["DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler",
     "UniPCMultistepScheduler", "DEISMultistepScheduler"],
)  # fmt: skip
def test_schedulers_begin_where_we_think_they_do(name: str) -> None:
    """Steps with which one would not begin at noise, or beyond its own table, are refused by this."""
    import diffusers

    from benchmark.study import first_time

    for steps in (2, 5, 10, 15, 50, 111, 150, 200, 333, 500):
        scheduler = getattr(diffusers, name)(
            timestep_spacing="leading", steps_offset=1, **({"skip_prk_steps": True} if name[0] == "P" else {})
        )
        scheduler.set_timesteps(steps)
        assert int(scheduler.timesteps.max()) == first_time(name, steps)


def test_paths_are_beside_the_study_or_where_the_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "scans").mkdir(parents=True)
    (tmp_path / "study" / "mine").mkdir(parents=True)
    file = tmp_path / "study" / "s.yaml"
    file.write_text("{name: s, datasets: [./mine]}")
    monkeypatch.chdir(tmp_path / "here")
    assert load_study(str(file)).datasets == [str(tmp_path / "study" / "mine")]
    assert load_study("quick", ["datasets=[./scans]"]).datasets == [str(tmp_path / "here" / "scans")]


def test_all_of_a_batch_in_memory_can_be_asked_of_the_papers_recipe() -> None:
    from benchmark.recipes import Generator

    assert Generator.model_validate({"start": "m"}).micro_batch == 8
    whole = Generator.model_validate({"start": "m", "micro_batch": None, "epochs": None})
    assert whole.micro_batch is None and whole.epochs == 15
    assert Generator.model_validate(whole.model_dump()) == whole
