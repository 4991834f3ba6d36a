"""Against naive loops, with planted copies, moved regions and excluded patients."""

import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy import neighbours
from privacy.neighbours import (
    cosine_neighbours,
    flat_index,
    patch_neighbours,
    patch_starts,
    patches,
    tile_max_matrix,
    tile_max_neighbours,
    tile_starts,
    tiles,
)

Images = NDArray[np.uint8]
Floats = NDArray[np.float64]


def noise(n: int, side: int, seed: int, grey: bool = False) -> Images:
    images = np.random.default_rng(seed).integers(0, 256, (n, side, side, 1 if grey else 3)).astype(np.uint8)
    return np.broadcast_to(images, (n, side, side, 3)).copy()


def naive_tile_max(a: Images, b: Images) -> float:
    starts, length = tile_starts(len(a))
    x, y = a.astype(np.float64) / 255, b.astype(np.float64) / 255
    cut = [(slice(r, r + length), slice(c, c + length)) for r in starts for c in starts]
    return float(max(np.sqrt(np.square(x[part] - y[part]).mean()) for part in cut))


def naive_patch(query: Images, bank: Images, stride: int) -> tuple[Floats, NDArray[np.int64]]:
    """RMS of each tile to its nearest patch, and that patch's image."""
    starts, length = tile_starts(len(query))
    places = patch_starts(len(query), length, stride)
    best, owner = [], []
    for r in starts:
        for c in starts:
            tile = query[r : r + length, c : c + length] / 255
            found = [
                min(
                    float(np.sqrt(np.square(tile - image[y : y + length, x : x + length] / 255).mean()))
                    for y in places
                    for x in places
                )
                for image in bank
            ]
            best.append(min(found))
            owner.append(int(np.argmin(found)))
    return np.array(best), np.array(owner)


@pytest.mark.parametrize(("side", "grid"), [(16, 4), (18, 4), (28, 4), (30, 4), (9, 2), (7, 1)])
def test_tiles_cover_the_image_with_one_size(side: int, grid: int) -> None:
    images = noise(2, side, 0)
    starts, length = tile_starts(side, grid)
    assert starts[0] == 0 and starts[-1] + length == side
    assert {p for start in starts for p in range(start, start + length)} == set(range(side))
    cut = tiles(images, grid)
    assert cut.shape == (2, grid * grid, length * length * 3) and cut.dtype == np.float32
    corner = images[1, starts[-1] :, :length].reshape(-1) / np.float32(255)
    assert (cut[1, grid * grid - grid] == corner).all()


@pytest.mark.parametrize(
    ("side", "stride", "count"), [(32, 2, 169), (64, 4, 169), (32, 8, 16), (30, 3, 100), (9, 3, 25)]
)
def test_patches_hold_every_tile(side: int, stride: int, count: int) -> None:
    images = noise(2, side, 0)
    length = tile_starts(side)[1]
    cut = patches(images, length, stride)
    assert cut.shape == (2, count, length * length * 3)
    for tile in tiles(images)[0]:
        assert (cut[0] == tile).all(1).any()


@pytest.mark.parametrize(("side", "grey"), [(16, False), (19, True), (80, False)])
def test_tile_max_equals_a_naive_loop(side: int, grey: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BANK", 4)
    monkeypatch.setattr(neighbours, "QUERIES", 3)
    queries, bank = noise(5, side, 0, grey), noise(11, side, 1, grey)
    expected = np.array([[naive_tile_max(q, b) for b in bank] for q in queries])
    matrix = tile_max_matrix(queries, bank)
    assert matrix == pytest.approx(expected, abs=1e-12)
    distances, rows = tile_max_neighbours(queries, bank, k=3)
    assert (rows == np.argsort(expected, axis=1)[:, :3]).all() and rows.dtype == np.int64
    assert (distances == np.take_along_axis(matrix, rows, 1)).all()


@pytest.mark.parametrize("side", [32, 90])
def test_a_copy_has_distance_zero_and_a_near_copy_has_not(side: int) -> None:
    bank = noise(40, side, 0)
    queries = bank[[7, 7, 30]].copy()
    queries[1, 3, 3, 0] ^= 1  # one grey level of one channel of one pixel
    distances, rows = tile_max_neighbours(queries, bank, k=2)
    assert rows[:, 0].tolist() == [7, 7, 30]
    assert distances[0, 0] == distances[2, 0] == 0
    length = tile_starts(side)[1]
    assert distances[1, 0] == pytest.approx(1 / 255 / np.sqrt(3 * length**2))


def test_equal_distances_are_ordered_by_row() -> None:
    bank = noise(3, 16, 0)[[2, 0, 1, 0, 0]]
    _, rows = tile_max_neighbours(bank[1:2], bank, k=3)
    assert rows.tolist() == [[1, 3, 4]]


def test_excluded_patients_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BANK", 4)
    bank = noise(9, 16, 0)
    groups = list("aabbbccdd")
    matrix = tile_max_matrix(bank, bank)
    matrix[np.array(groups)[:, None] == np.array(groups)[None]] = np.inf
    distances, rows = tile_max_neighbours(bank, bank, k=2, exclude=(groups, groups))
    assert (rows == np.argsort(matrix, axis=1)[:, :2]).all()
    assert (distances == np.sort(matrix, axis=1)[:, :2]).all()
    with pytest.raises(ValueError, match="k = 7 given; allowed: 1 to 6"):
        tile_max_neighbours(bank, bank, k=7, exclude=(groups, groups))


@pytest.mark.parametrize(("side", "grey", "stride"), [(16, False, None), (18, True, 2), (40, False, 5)])
def test_patch_search_equals_brute_force(
    side: int, grey: bool, stride: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "SHARD", 20_000)
    queries, bank = noise(2, side, 0, grey), noise(5, side, 1, grey)
    score, index, by_tile = patch_neighbours(queries, bank, stride)
    for i, query in enumerate(queries):
        expected, owner = naive_patch(query, bank, stride or round(tile_starts(side)[1] / 4))
        assert by_tile[i] == pytest.approx(expected, abs=1e-12)
        closest = np.argsort(expected)[:4]
        assert score[i] == pytest.approx(expected[closest].mean())
        votes = np.bincount(owner[closest])
        assert votes[index[i]] == votes.max()


@pytest.mark.parametrize("side", [32, 64])
def test_patch_search_finds_a_moved_region(side: int) -> None:
    bank, queries = noise(20, side, 0), noise(3, side, 1)
    tile = side // 4
    queries[1, :, : 2 * tile] = 0  # black tiles match anything and must not decide
    queries[1, tile : 3 * tile, 2 * tile :] = bank[
        13, tile // 4 : tile // 4 + 2 * tile, tile // 2 : tile // 2 + 2 * tile
    ]
    score, index, by_tile = patch_neighbours(queries, np.concatenate([bank, np.zeros_like(bank[:1])]))
    assert score[1] == 0 and index[1] == 13
    assert (score[[0, 2]] > 0.2).all()
    assert tile_max_neighbours(queries[1:2], bank)[0] > 0.2
    assert (by_tile[1] == 0).sum() == 12


@pytest.mark.parametrize("side", [16, 40])
def test_patch_search_leaves_excluded_patients_out(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "SHARD", 30_000)
    bank = noise(6, side, 0)
    groups = list("abacbc")
    stride = tile_starts(side)[1] // 2
    score, index, by_tile = patch_neighbours(bank[:3], bank, stride, exclude=(groups[:3], groups))
    for i in range(3):
        allowed = [j for j in range(6) if groups[j] != groups[i]]
        expected, _ = naive_patch(bank[i], bank[allowed], stride)
        assert by_tile[i] == pytest.approx(expected, abs=1e-12)
        assert index[i] in allowed and score[i] > 0.1
    assert (patch_neighbours(bank[:3], bank, stride)[0] == 0).all()


def test_memory_is_bounded() -> None:
    queries, bank = noise(4, 32, 0), noise(900, 32, 1)  # 117 MB of patches in float32
    tracemalloc.start()
    patch_neighbours(queries, bank)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 220e6


def test_bad_input() -> None:
    images = noise(3, 16, 0)
    with pytest.raises(ValueError, match="k = 4 given; allowed: 1 to 3"):
        tile_max_neighbours(images, images, k=4)
    with pytest.raises(ValueError, match="of one size"):
        tile_max_matrix(images, noise(3, 20, 0))
    with pytest.raises(ValueError, match="0 bank images"):
        tile_max_matrix(images, images[:0])
    with pytest.raises(ValueError, match="uint8"):
        tiles(images.astype(np.float32))
    with pytest.raises(ValueError, match="closest = 17"):
        patch_neighbours(images, images, closest=17)
    with pytest.raises(ValueError, match="stride of 0"):
        patch_neighbours(images, images, stride=0)
    with pytest.raises(ValueError, match="names 1 and 3 patients"):
        tile_max_neighbours(images, images, exclude=(["a"], ["a", "b", "c"]))
    with pytest.raises(ValueError, match="allowed: 1 to 0"):
        patch_neighbours(images, images, exclude=(["a"] * 3, ["a"] * 3))


def test_a_query_may_leave_its_own_row_out() -> None:
    bank = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    distance, row = cosine_neighbours(bank[:3], bank, np.array([0, -1, 2]))
    assert row[1] == 1 and distance[1] == pytest.approx(0) and row[0] != 0 and row[2] != 2
    unit = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    assert distance[0] == pytest.approx(1 - np.delete(unit @ unit[0], 0).max(), abs=1e-6)


def test_the_search_goes_to_all_gpus_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU here: the clone is watched, and answers from the CPU, so the results must be the same."""
    import faiss

    queries, bank = (np.random.default_rng(i).integers(0, 256, (6, 16, 16, 3), np.uint8) for i in range(2))
    plain = patch_neighbours(queries, bank)
    asked = []

    def clone(index: Any, co: Any) -> Any:
        asked.append(bool(co.shard))
        return index

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", clone)
    monkeypatch.setattr(faiss, "GpuMultipleClonerOptions", SimpleNamespace)
    for one, two in zip(plain, patch_neighbours(queries, bank), strict=True):
        assert np.array_equal(one, two)
    assert asked and all(asked)
    asked.clear()
    flat_index("L2", np.zeros((3000, 4), np.float32), k=2049)
    assert not asked, "FAISS answers at most 2,048 neighbours on a GPU"
