"""What a person is told while a long cell runs."""

import pytest

from benchmark import stages


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
