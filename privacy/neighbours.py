"""Patch vectors, and the exact nearest neighbours of images, patches and features."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Vectors = NDArray[np.float32]
GRID = 4  # tiles a side


def tiles(images: Images, grid: int = GRID) -> Vectors:
    """Images uint8 [N, S, S, C] -> tiles float32 [N, grid * grid, P] in [0, 1], row by row; P = ceil(S / grid)^2 C.

    All tiles have one size: where grid does not divide the side, neighbours overlap by up to `grid` pixels in all.
    """
    return cut_tiles(images, grid).astype(np.float32) / np.float32(255)


def patches(images: Images, tile: int, stride: int) -> Vectors:
    """Images uint8 [N, S, S, C] -> square patches of `tile` pixels, float32 [N, M, P] in [0, 1], row by row.

    They start at every multiple of the stride, at the far edge, and, for patches of their size, where the 4 x 4 tiles
    start, so that an image's own tiles are among its patches at any stride.
    """
    return cut_patches(images, tile, stride).astype(np.float32) / np.float32(255)


def cut_tiles(images: Images, grid: int = GRID) -> Images:
    """`tiles` in grey levels, uint8 [N, grid * grid, P]."""
    side = _side(images)
    starts, length = tile_starts(side, grid)
    return _cut(images, starts, length)


def cut_patches(images: Images, tile: int, stride: int) -> Images:
    """`patches` in grey levels, uint8 [N, M, P]."""
    return _cut(images, patch_starts(_side(images), tile, stride), tile)


def tile_starts(side: int, grid: int = GRID) -> tuple[list[int], int]:
    """Where the tiles of a side start, evenly spread, and their length ceil(side / grid), in pixels."""
    if not 1 <= grid <= side:
        raise ValueError(f"{grid} tiles a side given for images of {side} px; allowed: 1 to {side}")
    length = -(-side // grid)
    return [round(i * (side - length) / max(grid - 1, 1)) for i in range(grid)], length


def patch_starts(side: int, tile: int, stride: int) -> list[int]:
    """Where patches start along a side, ascending, in pixels."""
    if not 1 <= tile <= side:
        raise ValueError(f"patches of {tile} px given for images of {side} px; allowed: 1 to {side}")
    if stride < 1:
        raise ValueError(f"a stride of {stride} given; at least 1 pixel")
    own, length = tile_starts(side, min(GRID, side))
    last = side - tile
    return sorted({*range(0, last + 1, stride), *(own if length == tile else []), last})


def is_grey(images: Images) -> bool:
    """Whether the channels of every image are equal."""
    return bool((images[..., :1] == images).all())


def _side(images: Images) -> int:
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1] != images.shape[2]:
        raise ValueError(f"images {images.dtype} {images.shape} given; expected uint8 [N, S, S, C]")
    return int(images.shape[1])


def _cut(images: Images, starts: list[int], length: int) -> Images:
    windows = sliding_window_view(images, (length, length), axis=(1, 2))  # [N, S', S', C, length, length]
    chosen = windows[:, starts][:, :, starts].transpose(0, 1, 2, 4, 5, 3)
    return np.ascontiguousarray(chosen).reshape(len(images), len(starts) ** 2, -1)


Distances = NDArray[np.float64]
Rows = NDArray[np.int64]
Levels = NDArray[np.float32]  # whole numbers -128 to 127
Exclude = tuple[list[str], list[str]]  # the patient of each query and of each bank image

EXACT = 1024  # products whose sum is exact in float32
QUERIES, BANK = 256, 512  # images at a time
HELD = 4096  # queries whose tiles are held
SHARD = 2**24  # floats of bank patches at a time, 64 MiB
GPU_NEIGHBOURS = 2048  # FAISS answers no more on a GPU
ANSWERS = 2**21  # neighbours asked for at a time
NEVER = np.iinfo(np.int64).max
FLAT = 4 / 255  # tiles with a smaller standard deviation match anything


def tile_max_matrix(queries: Images, bank: Images) -> Distances:
    """d(a, b) = max over 16 tiles of the tile's RMS difference, in [0, 1], float64 [Q, B]; exact.

    queries uint8 [Q, S, S, 3], bank uint8 [B, S, S, 3].
    """
    queries, bank = _channels(queries, bank)
    out = np.empty((len(queries), len(bank)))
    for part, there, worst in _worst_tiles(queries, bank):
        out[part, there] = worst
    return _rms(out, queries.shape)


def tile_max_neighbours(
    queries: Images, bank: Images, k: int = 1, exclude: Exclude | None = None
) -> tuple[Distances, Rows]:
    """The k nearest bank images of each query under `tile_max_matrix`: distances float64 [Q, k], rows int64 [Q, k].

    Nearest first, ties by row (after Carlini 2023, arXiv 2301.13188). exclude = (patients of the queries, patients
    of the bank): images of a query's own patient are left out.
    """
    own = _own(exclude, len(queries), len(bank))
    _enough(own, len(queries), len(bank), k)
    queries, bank = _channels(queries, bank)
    best = np.full((len(queries), k), NEVER)  # squared sum * B + row: one whole number orders both
    for part, there, worst in _worst_tiles(queries, bank):
        keys = worst.astype(np.int64) * len(bank)
        keys += np.arange(len(bank))[there]
        if own is not None:
            keys[own[0][part, None] == own[1][None, there]] = NEVER
        best[part] = np.partition(np.concatenate([best[part], keys], 1), k - 1, axis=1)[:, :k]
    best.sort(axis=1)
    return _rms((best // len(bank)).astype(np.float64), queries.shape), best % len(bank)


def patch_neighbours(
    queries: Images, bank: Images, stride: int | None = None, closest: int = 4, exclude: Exclude | None = None
) -> tuple[Distances, Rows, Distances]:
    """Search each of a query's 16 tiles among all bank patches cut at `stride` pixels (default a quarter of a tile).

    Exact L2 search by FAISS, the found ones measured again by subtraction: finds a copied region even if it moved.
    Returns the image score float64 [Q] = mean RMS of the `closest` tiles, the bank image that holds most of these
    int64 [Q] (equally many: the closest), and the RMS of every tile float64 [Q, 16]. Flat tiles (standard deviation
    below 4/255: black corners) match anything and do not compete while `closest` others do. exclude: as above.
    """
    if not 1 <= closest <= GRID * GRID:
        raise ValueError(f"closest = {closest} given; allowed: 1 to {GRID * GRID}")
    own = _own(exclude, len(queries), len(bank))
    _enough(own, len(queries), len(bank), 1)
    queries, bank = _channels(queries, bank)
    tile = tile_starts(queries.shape[1])[1]
    stride = max(1, round(tile / GRID)) if stride is None else stride
    cut = cut_tiles(queries)
    best, owner = _best_patches(_levels(cut).reshape(-1, cut.shape[2]), bank, tile, stride, own)
    by_tile = np.sqrt(best / cut.shape[2]).reshape(len(queries), -1) / 255
    return *_image_scores(by_tile, owner.reshape(by_tile.shape), cut.std(2) / 255, closest), by_tile


def _best_patches(
    flat: Levels, bank: Images, tile: int, stride: int, own: tuple[Rows, Rows] | None
) -> tuple[Distances, Rows]:
    """Of each query tile [Q * 16, P]: squared distance to its nearest bank patch and that patch's image."""
    per_image = len(patch_starts(bank.shape[1], tile, stride)) ** 2
    size = max(1, SHARD // (per_image * flat.shape[1]))
    best, owner = np.full(len(flat), np.inf), np.full(len(flat), -1, np.int64)
    patient = None if own is None else np.repeat(own[0], GRID * GRID)
    for start in range(0, len(bank), size):
        cut = cut_patches(bank[start : start + size], tile, stride)
        banned = None if own is None else np.repeat(own[1][start : start + size], per_image)
        squares, found = _search(flat, _levels(cut).reshape(-1, flat.shape[1]), patient, banned)
        closer = squares < best
        best[closer], owner[closer] = squares[closer], start + found[closer] // per_image
    return best, owner


def _search(flat: Levels, vectors: Levels, patient: Rows | None, banned: Rows | None) -> tuple[Distances, Rows]:
    """Nearest allowed vector of each row, exactly: squared distance (inf where none is allowed) and its place.

    More neighbours are asked for until the last of them is further away than the best allowed one by more than
    FAISS can round.
    """
    index = flat_index("L2", vectors)
    best, place = np.full(len(flat), np.inf), np.full(len(flat), -1, np.int64)
    slack = _faiss_rounding(vectors.shape[1])
    k = min(len(vectors), 1 if slack == 0 else 4)
    pending = np.arange(len(flat))
    while len(pending):
        if k > GPU_NEIGHBOURS:
            index = flat_index("L2", vectors, k)
        unproven = []
        for rows in np.array_split(pending, -(-len(pending) * k // ANSWERS)):
            rough, found = index.search(np.ascontiguousarray(flat[rows]), k)
            squares = _subtract(flat[rows], vectors, found)
            if patient is not None and banned is not None:
                squares[banned[found] == patient[rows, None]] = np.inf
            first = squares.argmin(1)[:, None]
            best[rows] = np.take_along_axis(squares, first, 1)[:, 0]
            place[rows] = np.take_along_axis(found, first, 1)[:, 0]
            unproven.append(rows[(rough[:, -1] < best[rows] + slack) & (k < len(vectors))])
        pending, k = np.concatenate(unproven), min(len(vectors), 4 * k)
    return best, place


def _faiss_rounding(size: int) -> float:
    """How far FAISS's |x|^2 + |y|^2 - 2 x.y in float32 may be from the truth, for levels of `size` dimensions.

    0 up to 256: no sum exceeds size * 2^16 <= 2^24. Above, the standard bound on three sums and their total.
    """
    unit = 2.0**-24
    return 0.0 if size <= 256 else 4 * (size + 3) * unit * size * 2.0**14


def _subtract(flat: Levels, vectors: Levels, found: Rows) -> Distances:
    """Squared distance of row i to vectors found[i], float64 [n, k], exact; in blocks."""
    out = np.empty(found.shape)
    step = max(1, SHARD // 4 // (found.shape[1] * flat.shape[1]))
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        difference = flat[part, None] - vectors[found[part]]
        out[part] = np.square(difference, out=difference).sum(2, dtype=np.float64)
    return out


def _image_scores(by_tile: Distances, owner: Rows, contrast: Distances, closest: int) -> tuple[Distances, Rows]:
    most = np.sort(contrast, axis=1)[:, [-closest]]
    competing = np.where((contrast >= FLAT) | (contrast >= most), by_tile, np.inf)
    order = np.argsort(competing, axis=1, kind="stable")[:, :closest]
    owners = np.take_along_axis(owner, order, 1)
    votes = (owners[:, :, None] == owners[:, None, :]).sum(2)
    holder = owners[np.arange(len(owners)), votes.argmax(1)]  # the first, that is the closest, of the most frequent
    return np.take_along_axis(by_tile, order, 1).mean(1), holder


def _worst_tiles(queries: Images, bank: Images) -> Iterator[tuple[slice, slice, Rows]]:
    """Blocks of queries and bank, and the largest over tiles of the sum of squared differences in grey levels [q, b].

    Whole numbers, and exact: products of levels within ±128 summed over at most EXACT of them fit float32's 24 bits.
    """
    for held, there in product(_parts(0, len(queries), HELD), _parts(0, len(bank), BANK)):
        if there.start == 0:
            mine = [(part, *_tiles(queries[part])) for part in _parts(held.start, held.stop, QUERIES)]
        y, y_norms = _tiles(bank[there])
        for part, x, x_norms in mine:
            worst = np.zeros((x.shape[0], y.shape[0]), x_norms.dtype)
            for t in range(x.shape[1]):
                squares = _products(x[:, t], y[:, t], worst.dtype)
                squares += x_norms[:, t, None]
                squares += y_norms[None, :, t]
                np.maximum(worst, squares, out=worst)
            yield part, there, worst


def _products(x: Levels, y: Levels, kind: Any) -> Rows:
    """-2 x y as whole numbers; doubling is exact, so it is left to the smaller factor."""
    double = -2 * x
    total = (double[:, :EXACT] @ y[:, :EXACT].T).astype(kind)
    for start in range(EXACT, x.shape[1], EXACT):
        total += (double[:, start : start + EXACT] @ y[:, start : start + EXACT].T).astype(kind)
    return np.asarray(total)


def _tiles(images: Images) -> tuple[Levels, Rows]:
    """Levels float32 [n, tiles, pixels] of each tile, and their squared norms in the narrowest whole numbers."""
    levels = _levels(cut_tiles(images))
    kind = np.int32 if levels.shape[2] * 255**2 < 2**31 else np.int64
    return levels, np.square(levels).sum(2, dtype=np.float64).astype(kind)


def _levels(cut: Images) -> Levels:
    return cut.astype(np.float32) - np.float32(128)


def _rms(squares: Distances, shape: tuple[int, ...]) -> Distances:
    """Sums of squared grey levels over a tile -> RMS in [0, 1]."""
    size = tile_starts(shape[1])[1] ** 2 * shape[3]
    return np.asarray(np.sqrt(squares / size) / 255)


def _parts(start: int, stop: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, stop)) for first in range(start, stop, size)]


def _channels(queries: Images, bank: Images) -> tuple[Images, Images]:
    """Where everything is grey one channel says all: the RMS over three equal channels is that over one."""
    if queries.ndim != 4 or queries.shape[1:] != bank.shape[1:]:
        raise ValueError(f"queries {queries.shape} and bank {bank.shape} given; expected [N, S, S, C] of one size")
    if not len(queries) or not len(bank):
        raise ValueError(f"{len(queries)} queries and {len(bank)} bank images given; at least one of each is needed")
    if queries.shape[-1] > 1 and is_grey(queries) and is_grey(bank):
        return queries[..., :1], bank[..., :1]
    return queries, bank


def _own(exclude: Exclude | None, queries: int, bank: int) -> tuple[Rows, Rows] | None:
    """Patients as whole numbers, of the queries and of the bank."""
    if exclude is None:
        return None
    if (len(exclude[0]), len(exclude[1])) != (queries, bank):
        raise ValueError(
            f"exclude names {len(exclude[0])} and {len(exclude[1])} patients for {queries} queries and {bank} bank "
            "images; one an image is needed"
        )
    _, codes = np.unique(np.array([*exclude[0], *exclude[1]]), return_inverse=True)
    return codes[:queries].astype(np.int64), codes[queries:].astype(np.int64)


def _enough(own: tuple[Rows, Rows] | None, queries: int, bank: int, k: int) -> None:
    left = bank
    if own is not None and queries:
        taken = np.bincount(own[1], minlength=int(own[0].max()) + 1)[own[0]]
        left = bank - int(taken.max())
    if not 1 <= k <= left:
        raise ValueError(f"k = {k} given; allowed: 1 to {left}, the bank images that every query may have")


def cosine_neighbours(
    queries: NDArray[np.floating], bank: NDArray[np.floating], itself: Rows | None = None
) -> tuple[Distances, Rows]:
    """Cosine distance 1 - cos in [0, 2] of each feature vector [M, D] to its nearest of the bank [N, D], and its row.

    By exact inner products; a copy's distance is 0 but for rounding of float64. itself int64 [M]: the bank's row that
    a query must not find, -1 for none.
    """
    a, b = (np.asarray(x, np.float64) for x in (queries, bank))
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    index = flat_index("IP", np.ascontiguousarray(b, np.float32))
    near = index.search(np.ascontiguousarray(a, np.float32), min(2, len(b)))[1]
    nearest = near[:, 0]
    if itself is not None and len(b) > 1:
        nearest = np.where(nearest == itself, near[:, 1], nearest)
    return np.maximum(1 - (a * b[nearest]).sum(1), 0), nearest.astype(np.int64)


def flat_index(kind: str, vectors: Vectors, k: int = 1) -> Any:
    """An exact FAISS index, "L2" or "IP", of vectors float32 [N, D], for k neighbours; sharded over all GPUs where
    there are any that can answer k."""
    import faiss

    index: Any = {"L2": faiss.IndexFlatL2, "IP": faiss.IndexFlatIP}[kind](vectors.shape[1])
    index.add(vectors)
    if k <= GPU_NEIGHBOURS and faiss.get_num_gpus():
        options = faiss.GpuMultipleClonerOptions()
        options.shard = True
        index = faiss.index_cpu_to_all_gpus(index, co=options)
    return index
