"""The audit as a measuring instrument: what it says of copies, of blur, and of nothing."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from benchmark.phantoms import draw
from benchmark.stages.audit import Bank, Result, audit


def bank(seed: int, n: int = 120) -> Bank:
    drawn = draw("phantom-microscopy", n, 32, seed)
    return Bank(drawn.images, drawn.labels, drawn.patients)


def measured(result: Result) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in result.rows if "group" not in row} | {
        "low": next(row["low"] for row in result.rows if row["metric"] == "excess_copies")
    }


@pytest.fixture(scope="module")
def banks() -> tuple[Bank, Bank]:
    return bank(1), bank(2)


def test_copies_are_called_and_bounded_from_below(banks: tuple[Bank, Bank]) -> None:
    fresh = draw("phantom-microscopy", 20, 32, 3).images
    synthetic = np.concatenate([banks[0].images[::4], fresh])  # 30 copies, of most patients
    result = audit(synthetic, *banks, stride=1.0)
    found = measured(result)
    assert result.columns["copy"][:30] == [True] * 30 and result.columns["distance"][:30] == [0.0] * 30
    assert sum(result.columns["copy"][30:]) <= 2
    assert found["low"] > 0.4 and found["bank_p"] < 0.05


def test_blur_is_near_to_everything_and_no_copy(banks: tuple[Bank, Bank]) -> None:
    fresh = draw("phantom-microscopy", 60, 32, 3).images
    blurred = gaussian_filter(fresh.astype(float), (0, 2, 2, 0)).astype(np.uint8)
    found = measured(audit(blurred, *banks, stride=1.0))
    assert found["tile_max_flagged"] > 0.1, "the query control alone would call this copying"
    assert found["copies_called"] < 0.1 and found["low"] < 0.05


def test_fresh_images_are_not_called(banks: tuple[Bank, Bank]) -> None:
    result = audit(draw("phantom-microscopy", 60, 32, 3).images, *banks, stride=1.0)
    found = measured(result)
    assert found["copies_called"] <= 0.05 and found["low"] == 0 and 0.05 < found["bank_share"] < 0.95
    power = {row["group"]: row["value"] for row in result.rows if row["metric"] == "tile_max_power"}
    assert power["planted=exact"] == 1.0
