"""The main job end to end on a study of seconds: killed and resumed, in one process and in several, by exit code."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmark.stages.synthesize import read

STUDY = Path(__file__).parent / "tiny.yaml"
AUGURY = [sys.executable, "-m", "benchmark.cli"]


def augury(*arguments: object, home: Path) -> subprocess.CompletedProcess[str]:
    command = [*AUGURY, *map(str, arguments), "--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=home.parent)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the study run in one process."""
    home = tmp_path_factory.mktemp("local") / "home"
    done = augury("run", STUDY, "--backend", "local", home=home)
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the study run by the pool, killed twice on the way."""
    home = tmp_path_factory.mktemp("pool") / "home"
    for cells in (4, 30):
        process = subprocess.Popen(
            [*AUGURY, "run", str(STUDY), "--home", str(home)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=home.parent,
        )  # fmt: skip
        while len(list(home.glob("cells/*/*/cell.json"))) < cells and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (home / "tiny" / "results.csv").exists(), "it was killed too late to prove anything"
    done = augury("run", STUDY, home=home)
    assert done.returncode == 0, done.stderr
    return home


def test_killed_pool_gives_the_bytes_of_an_undisturbed_process(local: Path, killed: Path) -> None:
    assert (local / "tiny" / "results.csv").read_bytes() == (killed / "tiny" / "results.csv").read_bytes()


def test_second_run_computes_nothing(local: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in local.glob("cells/*/*/*")}
    done = augury("run", STUDY, home=local)
    assert done.returncode == 0
    assert {file: file.stat().st_mtime_ns for file in local.glob("cells/*/*/*")} == before
    assert "index.html" in done.stdout


def test_tidy_table_holds_the_study(local: Path) -> None:
    table = pd.read_csv(local / "tiny" / "results.csv", keep_default_na=False)
    assert set(table["status"]) == {"ok"}
    assert set(table["dataset"]) == {"", "phantom-x-ray", "phantom-fundoscopy"}
    assert set(table.loc[table["dataset"] == "", "stage"]) == {"fidelity"}, "means over both sets"
    seeds = table[(table["metric"] == "auroc") & (table["group"] == "all") & (table["seed"] != "")]
    arms = seeds.groupby(["arm", "exposure", "generator"]).size().to_dict()
    both = 2 * 2 * 2  # sets, seeds, budgets
    assert arms == {
        ("real", "", ""): both,
        ("synthetic", "full", "generalist"): both,
        ("mixed", "full", "generalist"): both,
        ("augmented", "full", "generalist"): both,
        ("augmented", "budget", "generalist"): both // 2,
        ("augmented", "", "copies"): both // 2,
    }
    wanted = {"auroc_difference", "frechet_efficientnet_lite0", "ms_ssim", "bank_share", "data_multiplier"}
    wanted |= {f"{measure}_excess_copies" for measure in ("tile_max", "patch", "round_trip")} | {"excess_copies"}
    assert wanted <= set(table["metric"])
    assert {"sex=F", "sex=M", "planted=exact", "planted=round_trip"} <= set(table["group"])
    keys = [name for name in table.columns if name not in ("value", "low", "high", "n", "n_train", "cell", "status")]
    assert not table.duplicated(keys).any()


def test_exact_planted_copies_are_found(local: Path) -> None:
    table = pd.read_csv(local / "tiny" / "results.csv")
    power = table[(table["metric"] == "tile_max_power") & (table["group"] == "planted=exact")]
    assert len(power) and (power["value"] == 1).all()


def test_report_has_its_pictures_and_tables(local: Path) -> None:
    report = local / "tiny" / "report"
    page = (report / "index.html").read_text()
    assert "no clinical claim" in page and "rovisional" in page
    assert len(list((report / "figures").glob("*.png"))) >= 4
    for suffix in ("csv", "md", "tex"):
        assert len(list((report / "tables").glob(f"*.{suffix}"))) >= 5


def test_generator_sees_exactly_its_exposure(local: Path) -> None:
    """`full` sees what is kept, `budget` the budget's rows, and neither an image of the audit's held-out patients."""
    from benchmark.stages import split

    exposures = set()
    for folder in (file.parent for file in local.glob("cells/train/*/cell.json")):
        record, loss = (json.loads((folder / name).read_text()) for name in ("cell.json", "loss.json"))
        config, seen = record["config"], 0
        for role, digest in record["inputs"].items():
            if role.startswith("split"):
                prepared = split.read(local / "cells" / "split" / digest)
                rows = prepared.budget(config["budget"], config["seed"])
                assert len(prepared.heldout) and not set(rows) & set(prepared.heldout)
                assert config["exposure"] == "full" or len(rows) < len(prepared.kept) / 2
                seen += len(rows)
        assert loss["images"] == seen
        exposures.add(config["exposure"])
    assert exposures == {"full", "budget"}


def test_checkpoint_loads_in_plain_diffusers(local: Path) -> None:
    from diffusers import StableDiffusionPipeline

    folder = next(local.glob("cells/train/*/pipeline"))
    code = (
        "import sys; from diffusers import StableDiffusionPipeline as P; p = P.from_pretrained(sys.argv[1]);"
        "import numpy; x = numpy.array(p('x-ray', num_inference_steps=2, guidance_scale=7.5).images[0]);"
        "assert x.shape == (64, 64, 3), x.shape"
    )
    assert StableDiffusionPipeline.__name__
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_commands_on_a_finished_study(local: Path, tmp_path: Path) -> None:
    assert "cells are finished; `augury report` shows" in augury("train", STUDY, home=local).stdout
    assert "0 left" in augury("plan", STUDY, home=local).stdout
    assert "done" in augury("status", STUDY, home=local).stdout
    assert "match their records" in augury("verify", STUDY, home=local).stdout
    drawn = local / "tiny" / "report" / "figures" / "sample_grid.svg"
    before = drawn.read_bytes()
    drawn.unlink()
    assert augury("figure", "sample_grid", STUDY, home=local).returncode == 0 and drawn.read_bytes() == before
    assert "metric_by_budget" in augury("figure", "no-such-figure", STUDY, home=local).stderr
    done = augury("export", STUDY, tmp_path / "out", home=local)
    assert done.returncode == 0, done.stderr
    metadata = next((tmp_path / "out").glob("phantom-x-ray-generalist-full-*/metadata.csv"))
    assert (metadata.parent / "LICENCE.txt").exists()
    rows = list(csv.DictReader(metadata.read_text().splitlines()))
    (generator,) = {row["generator"] for row in rows}
    kept = {file.parent: json.loads(file.read_text())["inputs"] for file in local.glob("cells/synthesize/*/cell.json")}
    drawn = [read(place) for place, inputs in kept.items() if inputs.get("train") == generator]
    (own,) = (each for each in drawn if rows[0]["caption"] in each.captions)
    place = {seed: i for i, seed in enumerate(own.seeds.tolist())}
    for row in rows:
        i = place[int(row["seed"])]
        with Image.open(metadata.parent / row["file_name"]) as image:
            assert np.array_equal(np.asarray(image), own.images[i])
        assert row["caption"] == own.captions[i] and row["class"] in row["file_name"] and row["guidance"] == "2.0"
    (tmp_path / "some.txt").write_text("retina\n\n" + "chest x-ray " * 40, encoding="utf-8-sig")
    given = ["--prompt", "chest x-ray", "--prompts", tmp_path / "some.txt", "--seed", 5, "--out", tmp_path / "x"]
    done = augury("synthesize", STUDY, *given, home=local)
    assert done.returncode == 0 and len(list((tmp_path / "x").glob("*.png"))) == 3, done.stderr
    told = list(csv.DictReader((tmp_path / "x" / "metadata.csv").read_text().splitlines()))
    assert [(row["caption"][:11].strip(), row["seed"]) for row in told] == [
        ("chest x-ray", "5"), ("retina", "6"), ("chest x-ray", "7"),
    ]  # fmt: skip
    assert "prompts: 1 are longer than the 32 tokens that the text encoder reads and are cut" in done.stderr
    (tmp_path / "none.txt").write_text("\n")
    for wrong, words in ((["--prompts", tmp_path / "none.txt"], "holds no prompt"), (["--prompt", " "], "is blank"),
                         (["--prompts", tmp_path / "no.txt"], "no.txt given; allowed: a text file in UTF-8"),
                         (["--prompt", "x", "--out", tmp_path / "x"], "x given, which is not empty"),
                         (["--prompt", "x", "--generator", "y"], "'y' given; allowed: generalist")):  # fmt: skip
        done = augury("synthesize", STUDY, *wrong, home=local)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib", "ignore:ConjunctiveGraph:DeprecationWarning")
def test_exported_sets_and_generators_carry_their_cards(local: Path, tmp_path: Path) -> None:
    from mlcroissant import Dataset

    assert augury("export", STUDY, tmp_path / "out", home=local).returncode == 0
    folder = next((tmp_path / "out").glob("phantom-x-ray-generalist-full-*"))
    card = (folder / "README.md").read_text()
    for words in (
        "Excess of copies",
        "of exact copies",
        "guidance: 2.0",
        "no patient",
        "Limits",
        "licence",
        "phantom-fundoscopy",
    ):
        assert words in card, words
    described = Dataset(jsonld=str(folder / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    rows = list(described.records("images"))
    assert len(rows) == len(list(folder.glob("*/*.png")))
    assert (folder / rows[0]["images/file_name"].decode()).is_file()
    generators = list((tmp_path / "out" / "generators").iterdir())
    assert len(generators) == 4  # one a seed, under full and under budget exposure
    text = (generators[0] / "README.md").read_text()
    assert "phantom-x-ray" in text and "images seen: 128" in text and (generators[0] / "model_index.json").is_file()
    assert "of exact copies" in text and "guidance: 2.0" in text
    assert not Dataset(jsonld=str(generators[0] / "croissant.json")).metadata.ctx.issues.errors


def test_a_reader_study_from_page_to_report(local: Path, tmp_path: Path) -> None:
    out, key = tmp_path / "study.html", tmp_path / "study.key.json"
    asked = ("reader-study", "export", STUDY, "--real", 5, "--synthetic", 5, "--out", out)
    done = augury(*asked, home=local)
    assert done.returncode == 0 and "2 data sets" in done.stdout, done.stderr
    assert augury(*asked, home=local).returncode == 2  # neither page nor key is overwritten
    items = json.loads(key.read_text())["items"]
    given = {name: {"source": item["source"], "realism": 3, "agreement": 4} for name, item in items.items()}
    answers = [tmp_path / f"{place}.json" for place in range(2)]
    for file in answers:
        file.write_text(
            json.dumps({"token": json.loads(key.read_text())["token"], "reader": file.stem, "answers": given})
        )
    answers[1].write_text(answers[1].read_text().replace('"realism": 3', '"realism": 7'))
    done = augury("reader-study", "score", STUDY, *answers, "--key", key, home=local)
    assert done.returncode == 2 and "realism 7 given" in done.stderr and "Traceback" not in done.stderr
    answers[1].write_text(answers[0].read_text())
    done = augury("reader-study", "score", STUDY, *answers, "--key", key, home=local)
    assert done.returncode == 0 and "reader_accuracy all: 1.000" in done.stdout, done.stderr
    assert "What physicians saw" in (local / "tiny" / "report" / "index.html").read_text()


def test_another_study_of_the_same_name_is_refused(local: Path) -> None:
    done = augury("run", STUDY, "--set", "seeds=1", home=local)
    assert done.returncode == 2 and "another --name" in done.stderr and "Traceback" not in done.stderr


def test_damaged_artefact_is_refused_by_name(killed: Path) -> None:
    file = next(killed.glob("cells/classify/*/predictions.npz"))
    kept = file.read_bytes()
    file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    done = augury("verify", STUDY, home=killed)
    file.write_bytes(kept)
    assert done.returncode == 2 and "predictions.npz does not match" in done.stderr


def test_failed_cell_is_a_hole_and_exit_code_one(tmp_path: Path) -> None:
    changes = ["--set", "backbones=[{name: test_resnet, lr: 0.5}]", "--set", "arms=[real]", "--set", "grid=[]"]
    home = tmp_path / "home"
    code = (
        "import sys, benchmark.stages.classify as c\n"
        "def fail(*a): raise RuntimeError('broken on purpose')\n"
        "c.run_classify = fail\n"
        "from benchmark.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "run", str(STUDY), "--home", str(home), "--backend", "local", *changes]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "broken on purpose" in done.stderr
    table = pd.read_csv(home / "tiny" / "results.csv", keep_default_na=False)
    assert (table[table["stage"] == "classify"]["status"] == "failed").all()
    assert (home / "tiny" / "report" / "index.html").exists()


def test_commands_know_a_study_by_the_name_under_which_it_was_run(local: Path) -> None:
    """The report prints commands with the study's name, which is neither a preset nor a file."""
    printed = json.loads((local / "tiny" / "manifest.json").read_text())["commands"]
    assert printed[0].startswith("augury run ") and printed[1] == "augury report tiny"
    assert augury("report", "tiny", home=local).returncode == 0
    assert augury("figure", "sample_grid", "tiny", home=local).returncode == 0
    other = augury("figure", "sample_grid", STUDY, "--set", "margin=0.02", home=local)
    assert other.returncode == 2 and "holds a different study" in other.stderr
