"""The audit as a measuring instrument: what it says of copies, of blur, and of nothing."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmark.cache import Cell
from benchmark.exporting import audit_lines
from benchmark.phantoms import draw
from benchmark.splits import thumbnails
from privacy.battery import Bank, Result, _called_rows, _moved
from privacy.battery import audit as whole_audit
from privacy.power import plant, resized


def bank(seed: int, n: int = 120) -> Bank:
    drawn = draw("phantom-microscopy", n, 32, seed)
    return Bank(drawn.images, drawn.labels, drawn.patients)


def cheap(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features that cost nothing: the pictures at 8 px. EfficientNet's are used where studies run."""
    return resized(images, 8, Image.Resampling.BOX).reshape(len(images), -1).astype(np.float32)


def audit(synthetic: NDArray[np.uint8], own: Bank, heldout: Bank) -> Result:
    return whole_audit(synthetic, own, heldout, stride=1.0, embed=cheap, looks=thumbnails(own.images))


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
    result = audit(synthetic, *banks)
    found = measured(result)
    assert result.columns["copy"][:30] == [True] * 30 and result.columns["distance"][:30] == [0.0] * 30
    assert sum(result.columns["copy"][30:]) <= 2
    assert found["low"] > 0.4 and found["bank_p"] < 0.05


def test_copies_of_one_class_are_told_of_that_class(banks: tuple[Bank, Bank]) -> None:
    fresh = draw("phantom-microscopy", 30, 32, 3).images
    names = ["seen"] * 30 + ["new"] * 30
    looks = thumbnails(banks[0].images)
    rows = whole_audit(np.concatenate([banks[0].images[::4], fresh]), *banks, stride=1.0, embed=cheap, looks=looks,
                       classes=names).rows  # fmt: skip
    found = {row["group"]: row for row in rows if row["metric"] == "excess_copies" and "group" in row}
    assert found["seen"]["low"] > 0.8 and found["seen"]["n"] == 30
    assert found["new"]["low"] == 0 and found["new"]["value"] < 0.1


def test_every_search_measures_training_and_held_out_images_alike(banks: tuple[Bank, Bank]) -> None:
    """The gallery's pairs by patch: a fresh image is about as far from either bank, an image of one is in it."""
    fresh = draw("phantom-microscopy", 40, 32, 3).images
    pairs, known = audit(fresh, *banks).pairs, audit(banks[1].images[:20], *banks).pairs
    for kind in ("", "patch_"):
        train, heldout = pairs[f"{kind}d_train"], pairs[f"{kind}d_heldout"]
        assert 0.4 < train.mean() / heldout.mean() < 1.3, "nearest first by training images"
        assert (known[f"{kind}d_heldout"] == 0).all()


def test_features_that_are_there_are_not_computed_again(banks: tuple[Bank, Bank]) -> None:
    fresh, asked = draw("phantom-microscopy", 20, 32, 3).images, list[NDArray[np.uint8]]()

    def embed(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        asked.append(images)
        return cheap(images)

    known, own = (cheap(banks[0].images), cheap(banks[1].images)), cheap(fresh)
    given = {"stride": 1.0, "looks": thumbnails(banks[0].images), "embed": embed}
    known_rows = whole_audit(fresh, *banks, **given, known=known, own=own).rows  # type: ignore[arg-type]
    seen = {image.tobytes() for images in asked for image in images}
    assert asked and not seen & {image.tobytes() for image in [*fresh, *banks[1].images]}, "planted copies alone"
    rows = audit(fresh, *banks).rows
    assert [row["metric"] for row in known_rows] == [row["metric"] for row in rows]
    values = [row["value"] for row in rows]
    assert [row["value"] for row in known_rows] == pytest.approx(values, abs=1e-3, nan_ok=True)


def test_blur_is_near_to_everything_and_no_copy(banks: tuple[Bank, Bank]) -> None:
    fresh = draw("phantom-microscopy", 60, 32, 3).images
    blurred = gaussian_filter(fresh.astype(float), (0, 2, 2, 0)).astype(np.uint8)
    found = measured(audit(blurred, *banks))
    assert found["tile_max_flagged"] > 0.1, "the query control alone would call this copying"
    assert found["copies_called"] < 0.1 and found["low"] < 0.05


def test_fresh_images_are_not_called(banks: tuple[Bank, Bank]) -> None:
    result = audit(draw("phantom-microscopy", 60, 32, 3).images, *banks)
    found = measured(result)
    assert found["copies_called"] <= 0.05 and found["low"] == 0 and 0.05 < found["bank_share"] < 0.95
    power = {(row["metric"], row["group"]): row["value"] for row in result.rows if row["metric"].endswith("_power")}
    for measure in ("tile_max", "mirrored", "adaptive", "second_ratio", "patch", "embedding"):
        assert power[f"{measure}_power", "planted=exact"] == 1.0
        assert 0 <= found[f"{measure}_level"] <= 1
    assert power["mirrored_power", "planted=flipped"] == 1.0, "mirrored queries find what is flipped"
    assert {len(column) for column in result.columns.values()} == {60}, "planted copies never appear"
    assert next(row["group"] for row in result.rows if row["metric"] == "tile_max_below") == "distance=0.05"


def test_a_new_image_of_a_known_patient_is_a_kind_of_its_own() -> None:
    drawn = draw("phantom-microscopy", 60, 32, 1)
    again = np.clip(drawn.images.astype(int) + 1, 0, 255).astype(np.uint8)  # a second, nearly equal image of each
    images = np.concatenate([drawn.images, again])
    alone = [f"p{i}" for i in range(60)]
    pairs = Bank(images, np.tile(drawn.labels, 2), alone * 2)
    rows = audit(draw("phantom-microscopy", 20, 32, 3).images, pairs, bank(2, 60)).rows
    power = {row["group"]: row["value"] for row in rows if row["metric"] == "tile_max_power"}
    assert power["planted=same_patient_near_copy"] == 1.0 and "planted=same_patient" not in power
    others = Bank(drawn.images, drawn.labels, [f"p{i // 2}" for i in range(60)])  # different images of one patient
    rows = audit(draw("phantom-microscopy", 20, 32, 3).images, others, bank(2, 60)).rows
    power = {row["group"]: row["value"] for row in rows if row["metric"] == "tile_max_power"}
    assert power["planted=same_patient"] < 0.5, "found only because it is itself in the bank"


def test_a_bank_of_one_image_and_images_of_odd_sides_are_audited() -> None:
    own, heldout = bank(1, 40), bank(2, 40)
    one = audit(draw("phantom-microscopy", 12, 32, 3).images, Bank(own.images[:1], own.labels[:1], ["p"]), heldout)
    assert "planted=blended" not in {row.get("group") for row in one.rows}
    for side in (18, 30):
        cut = [Bank(np.ascontiguousarray(each.images[:, :side, :side]), each.labels, each.patients)
               for each in (own, heldout)]  # fmt: skip
        found = measured(audit(cut[0].images[:12], *cut))
        assert found["excess_copies"] > 0.5


@pytest.mark.parametrize(("p", "told"), [(0.001, True), (0.04, False)])
def test_a_card_tells_what_one_search_alone_finds(p: float, told: bool) -> None:
    """Corrected over the searches, as on the page."""
    rows = [{"metric": "excess_copies", "value": 0.0, "low": 0.0, "high": 0.0, "n": 100}]
    rows += [{"metric": f"{name}_excess_copies", "value": 0.6, "low": 0.1, "high": 0.7, "n": 100}
             for name in ("tile_max", "mirrored")]  # fmt: skip
    rows += [{"metric": "tile_max_p", "value": 1.0}, {"metric": "mirrored_p", "value": p}]
    lines = audit_lines(rows, Cell("synthesize", 1, {}, {}, 1, {}))
    assert any("mirrored 60.0%" in line for line in lines) == told and not any("tile max" in line for line in lines)


@pytest.mark.parametrize(("copies", "false"), [(0, 0), (0, 5), (50, 0), (50, 2), (50, 10), (200, 0), (200, 8)])
def test_the_interval_of_called_copies_holds_the_truth_whatever_the_false_calls(copies: int, false: int) -> None:
    called = np.zeros(1000, bool)
    called[: copies + false] = True
    law = {"level": 13 / 1351, "k": 13}
    excess = _called_rows(called, law, 1350)[1]
    assert excess["low"] <= copies / 1000 <= excess["high"]


@pytest.mark.parametrize("side", [28, 32, 64])
def test_copies_that_were_moved_are_found_wherever_they_went(side: int) -> None:
    images = draw("phantom-mri", 60, side, 1).images
    fresh, nowhere = draw("phantom-mri", 60, side, 2).images, np.full(60, -1)
    assert (_moved(plant(images, "shifted", 0), images, nowhere) == 0).all()
    assert (_moved(images, images, nowhere) == 0).all() and (_moved(images, images, np.arange(60)) > 0).all()
    assert _moved(fresh, images, nowhere).min() > 0
