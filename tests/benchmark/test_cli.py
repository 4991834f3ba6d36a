"""Bad input is one line on stderr and exit code 2, whoever finds it; help is fast and light."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark import cli


def run(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["augury", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0), capsys.readouterr().err


def images(folder: Path, n: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "no-such-study"], "quick"),
        (["run", "quick", "--set", "datasets=[no-such-set]"], "phantom-ct"),
        (["run", "quick", "--set", "backbones=[resnet81]"], "resnet18"),
        (["run", "quick", "--set", "fidelity.encoders=[{name: resnet81, weights: hub}]"], "resnet18"),
        (["run", "quick", "--set", "colour=red"], "colour: unknown key"),
        (["run", "quick", "--set", "budgets=[0]"], "greater than 0"),
        (["run", "quick", "--set", "budgets=[2]"], "less than or equal to 1"),
        (["run", "quick", "--name", "a/b"], "a/b"),
        (["run", "quick", "--home", "/proc/augury"], "/proc/augury"),
        (["run", "quick", "--backend", "cloud"], "local, pool"),
        (["run", "quick", "--only", "dance"], "classify"),
        (["run", "quick", "--workers", "0"], "0"),
        (["run", "quick", "--nonsense"], "--nonsense"),
        (["run", "quick", "experiment-3", "--name", "two"], "--name 'two' given for 2 studies"),
        (["run", "quick", "no-such-study"], "no-such-study"),
        (["report", "quick", "--home", "no-such-home"], "no finished cell of quick"),
        (["data", "show", "phantom-oct", "--picture", "oct"], "ends in .png or .jpg"),
        (["run"], "STUDY"),
        (["dance"], "dance"),
        (["plan", "quick", "--set", "autoencoder=nowhere"], "augury, taesd"),
        (["data", "show", "no-such-set"], "phantom-ct"),
        (["data", "download", "imagenet"], "pathmnist"),
        (["data", "import", "nowhere", "mine"], "does not exist"),
        (["data", "import", ".", "My Set"], "lower-case"),
        (["backbones", "no-such*"], "no timm backbone"),
        (["audit"], "--train"),
        (["audit", "quick", "--size", "64"], "are for folders"),
        (["synthesize", "quick", "--generator", "generalist"], "with --prompt or --prompts"),
        (["audit", "quick", "--train", "x"], "not both"),
        (["audit", "--train", "x", "--heldout", "y", "--synthetic", "z", "--out", "o"], "is not a folder"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("AUGURY_HOME", str(tmp_path))
    monkeypatch.delenv("AUGURY_DATA", raising=False)
    code, error = run(arguments, capsys, monkeypatch)
    assert code == 2, error
    assert error.count("\n") == 1 and error.startswith("augury: ") and words in error


def test_corrupt_image_stops_the_run_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for label in ("cat", "dog"):
        images(tmp_path / "mine" / label, 8)
    (tmp_path / "mine" / "cat" / "3.png").write_bytes(b"broken")
    (tmp_path / "s.yaml").write_text("{name: s, datasets: [./mine], arms: [real], audit_pool: 0, placebos: []}")
    monkeypatch.setenv("AUGURY_HOME", str(tmp_path / "home"))
    code, error = run(["run", str(tmp_path / "s.yaml"), "--backend", "local"], capsys, monkeypatch)
    assert code == 2 and "3.png cannot be read" in error.splitlines()[-1]


def test_leak_stops_with_code_one_unless_waived(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for split in ("train", "val", "test"):
        for label in ("cat", "dog"):
            images(tmp_path / "mine" / split / label, 8)
    (tmp_path / "s.yaml").write_text("{name: s, datasets: [./mine], arms: [real], audit_pool: 0, placebos: []}")
    monkeypatch.setenv("AUGURY_HOME", str(tmp_path / "home"))
    code, error = run(["run", str(tmp_path / "s.yaml"), "--only", "split", "--backend", "local"], capsys, monkeypatch)
    assert code == 1 and "waive: [mine]" in error
    waived = ["run", str(tmp_path / "s.yaml"), "--only", "split", "--backend", "local", "--set", "waive=[mine]"]
    assert run([*waived, "--name", "t"], capsys, monkeypatch)[0] == 0


def test_audit_of_folders_flags_the_planted_copy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("train", 30), ("heldout", 30), ("synthetic", 6)):
        (tmp_path / name / "nested").mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(
                tmp_path / name / "nested" / f"{i:02}.png"
            )
    (tmp_path / "synthetic" / "nested" / "03.png").write_bytes((tmp_path / "train" / "nested" / "17.png").read_bytes())
    folders = [f"--{name}={tmp_path / name}" for name in ("train", "heldout", "synthetic", "out")]
    code, error = run(["audit", *folders, "--size", "16"], capsys, monkeypatch)
    assert code == 0, error
    lines = (tmp_path / "out" / "images.csv").read_text().splitlines()
    assert lines[0].startswith("file,nearest,distance,threshold,flagged")
    assert len(lines) == 7
    copy = lines[4].split(",")
    with Image.open(tmp_path / "out" / "pairs.png") as pairs:
        assert pairs.width > 200
    assert copy[:3] == ["nested/03.png", "nested/17.png", "0.0"] and copy[4] == "True"


def folder_of(folder: Path, count: int, side: tuple[int, int], seed: int) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, side, dtype=np.uint8)).save(folder / f"{i:02}.png")
    return folder


def test_audit_of_folders_compares_at_their_own_size_and_drops_controls_that_were_trained_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for seed, (name, count) in enumerate((("train", 30), ("heldout", 30), ("synthetic", 3))):
        folder_of(tmp_path / name, count, (20, 24) if name == "train" else (20, 20), seed)
    shared = Image.open(tmp_path / "heldout" / "00.png")
    shared.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "train" / "mirrored.png")
    shared.save(tmp_path / "synthetic" / "00.png")
    folders = [f"--{name}={tmp_path / name}" for name in ("train", "heldout", "synthetic", "out")]
    monkeypatch.setattr("sys.argv", ["augury", "audit", *folders])
    with pytest.raises(SystemExit) as done:
        cli.main()
    said = capsys.readouterr().out
    assert done.value.code == 0
    assert "compared at 20 x 20 px; given: 20 x 20, 20 x 24; the central square was taken" in said
    assert "1 held-out images left out" in said and "1 pictures of" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"out": "synthetic/out"}, "lies in --synthetic"),
        ({"heldout": "train"}, "three folders"),
        ({"heldout": "same"}, "every image of it is in"),
        ({"synthetic": "gif"}, "is not read"),
        ({"out": "train/00.png"}, "lies in --train"),
    ],
)
def test_folders_that_cannot_be_audited_are_one_line(
    change: dict[str, str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    for name, seed in (("train", 0), ("heldout", 1), ("synthetic", 2), ("same", 0), ("gif", 3)):
        folder_of(tmp_path / name, 4, (16, 16), seed)
    Image.open(tmp_path / "gif" / "00.png").save(tmp_path / "gif" / "01.gif")
    given = {name: name for name in ("train", "heldout", "synthetic", "out")} | change
    folders = [f"--{name}={tmp_path / place}" for name, place in given.items()]
    code, error = run(["audit", *folders], capsys, monkeypatch)
    assert code == 2 and words in error and error.count("\n") == 1, error
    assert not list((tmp_path / "out").glob("*")), "nothing is left behind"


def test_help_and_report_do_not_import_torch() -> None:
    code = "import sys; import benchmark.cli, benchmark.reporting; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_works_without_heavy_modules() -> None:
    code = "import sys; import benchmark.cli; heavy = {'torch', 'pandas', 'matplotlib', 'timm', 'sklearn', 'numpy'};"
    code += "sys.exit(bool(heavy & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
