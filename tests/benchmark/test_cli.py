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
        (["run"], "STUDY"),
        (["dance"], "dance"),
        (["plan", "quick", "--set", "autoencoder=nowhere"], "augury, taesd"),
        (["data", "show", "no-such-set"], "phantom-ct"),
        (["data", "download", "imagenet"], "pathmnist"),
        (["data", "import", "nowhere", "mine"], "does not exist"),
        (["data", "import", ".", "My Set"], "lower-case"),
        (["backbones", "no-such*"], "no timm backbone"),
        (["audit"], "--train"),
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


def test_help_and_report_do_not_import_torch() -> None:
    code = "import sys; import benchmark.cli, benchmark.reporting; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_works_without_heavy_modules() -> None:
    code = "import sys; import benchmark.cli; heavy = {'torch', 'pandas', 'matplotlib', 'timm', 'sklearn', 'numpy'};"
    code += "sys.exit(bool(heavy & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
