"""What a person is told while a long cell runs."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark import running, stages
from benchmark.cache import Cell


def test_long_cells_speak_once_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(stages.time, "monotonic", lambda: now[0])
    tell = stages.spoken("generator", 1000)
    for done in range(100, 1001, 100):
        now[0] += 20
        tell(done, 0.5)
    assert capsys.readouterr().err.splitlines() == [
        "generator: 300 of 1,000 images, 5/s, 2 min left",
        "generator: 600 of 1,000 images, 5/s, 1 min left",
        "generator: 900 of 1,000 images, 5/s, 0 min left",
    ]

    # A resumed cell: what was done before the kill took none of this process's time.
    tell = stages.spoken("generator", 100_000)
    for done in range(40_000, 40_301, 100):
        now[0] += 20
        tell(done)
    assert capsys.readouterr().err.splitlines() == ["generator: 40,200 of 100,000 images, 5/s, 199 min left"]


def test_a_meter_counts_what_a_killed_try_spent(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    first = stages.Meter(tmp_path, every=0.02)
    first.thread.start()  # and never stopped: the process was killed
    while not first.file.exists():
        time.sleep(0.02)
    first.over.set()
    first.thread.join()
    first.file.write_text(json.dumps([100.0, 50.0]))
    with stages.Meter(tmp_path) as second:
        time.sleep(0.05)
    wall, cpu = second.read()
    assert 100.05 <= wall < 110 and 50 <= cpu < 60
    with stages.Meter(tmp_path / "none", every=0.01) as without:
        time.sleep(0.05)
    assert without.read()[0] < 10 and not (tmp_path / "none").exists(), "kept beside a state alone"


def test_cells_run_on_kernels_that_give_the_same_bits_every_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By default threads add up the gradients of a caption that several images share in any order, now and then."""
    strict, memory = list[tuple[bool, bool]](), torch.utils.deterministic

    def flags() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), bool(memory.fill_uninitialized_memory)  # type: ignore[attr-defined]

    def looking(config: Any, inputs: Any, folder: Path) -> None:
        strict.append(flags())

    monkeypatch.setattr(running, "stage", lambda name: looking)
    threads = torch.get_num_threads()
    assert running.run_one(str(tmp_path), Cell("train", 1, {}, threads=threads))[1:] == ("", 0)
    assert strict == [(True, False)] and flags() == (False, True)
