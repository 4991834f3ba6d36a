"""What a newcomer does first with images of their own: a folder, a study of a few lines, a report."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

STUDY = """
name: mine
datasets: [./scans]
generators: {g: {images_seen: 64, batch: 16, channels: [32, 32], text_width: 32}}
decoder_images_seen: 32
sampling: {steps: 2}
budgets: [0.5, 1.0]
seeds: 2
backbones: [test_resnet]
classifier: {steps: 4, batch: 8, warmup: 1, evaluations: 1}
audit: {images: 20, stride: 1.0}
threads: {generator: 1, classifier: 1}
"""


def test_own_folder_from_files_to_report(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, level in (("healthy", 60), ("ill", 140)):
        (tmp_path / "scans" / label).mkdir(parents=True)
        for i in range(40):
            picture = np.clip(rng.normal(level, 40, (50, 44)), 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / "scans" / label / f"{i}.png")
    (tmp_path / "mine.yaml").write_text(STUDY)
    command = [sys.executable, "-m", "benchmark.cli", "run", "mine.yaml", "--backend", "local"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "runs" / "mine" / "results.csv", keep_default_na=False)
    assert set(table["dataset"]) == {"scans"} and set(table["status"]) == {"ok"}
    assert {"auroc", "membership_auroc", "excess_copies", "label_consistency"} <= set(table["metric"])
    page = (tmp_path / "runs" / "mine" / "report" / "index.html").read_text()
    assert "mine: does synthetic data help?" in page
