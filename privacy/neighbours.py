"""Exact nearest neighbours: whole images by their worst tile, and tiles among all patches of a bank."""

import numpy as np
from numpy.typing import NDArray

from privacy.patches import GRID, is_grey, patches, tile_starts, tiles

Images = NDArray[np.uint8]
Distances = NDArray[np.float64]
Rows = NDArray[np.int64]
ROUNDING = 2e-3  # more than the rounding of an RMS in [0, 1] taken from a float32 matrix product
BLOCK = 256  # queries at a time
SHARD = 2**27  # floats of bank patches at a time


def tile_max_matrix(queries: Images, bank: Images) -> NDArray[np.float32]:
    """d(a, b) = max over 16 tiles of the tile's RMS difference, float32 [Q, B], by one matrix product a tile.

    Rounding may hide a copy (up to 5e-4); `tile_max_neighbours` is exact.
    """
    queries, bank = _channels(queries, bank)
    a, b = tiles(queries), tiles(bank)
    worst = np.zeros((len(a), len(b)), np.float32)
    for t in range(a.shape[1]):
        x, y = np.ascontiguousarray(a[:, t]), np.ascontiguousarray(b[:, t])
        square = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None, :] - 2 * (x @ y.T)
        np.maximum(worst, square / x.shape[1], out=worst)
    return np.sqrt(np.maximum(worst, 0))


def tile_max_neighbours(queries: Images, bank: Images, k: int = 1) -> tuple[Distances, Rows]:
    """The k nearest bank images of each query under tile-max: (distances float64 [Q, k], rows int64 [Q, k]).

    After Carlini 2023 (arXiv 2301.13188). Candidates within rounding of the k-th are compared by subtraction, so that
    an exact copy has distance exactly 0 and the answer is the true one.
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k = {k} given; allowed: 1 to {len(bank)}, the images in the bank")
    queries, bank = _channels(queries, bank)
    bank_tiles = tiles(bank)
    distances, rows = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        rough, query_tiles = tile_max_matrix(block, bank), tiles(block)
        limit = np.partition(rough, k - 1, axis=1)[:, k - 1] + 2 * ROUNDING
        for i in range(len(block)):
            candidates = np.flatnonzero(rough[i] <= limit[i])
            exact = _tile_max(query_tiles[i], bank_tiles[candidates])
            best = np.lexsort((candidates, exact))[:k]
            distances[start + i], rows[start + i] = exact[best], candidates[best]
    return distances, rows


def patch_neighbours(
    queries: Images, bank: Images, stride: int | None = None, closest: int = 4
) -> tuple[Distances, Rows, Distances]:
    """Search each query's 16 tiles among all bank patches cut at `stride` pixels (default a quarter of a tile).

    Exact L2 search by FAISS, the nearest re-measured by subtraction. Returns the image score float64 [Q] (mean RMS
    of its `closest` best-matching tiles), the bank image of the best tile int64 [Q], and all tile distances [Q, 16].
    """
    import faiss

    queries, bank = _channels(queries, bank)
    height, width = tile_starts(queries.shape[1])[1], tile_starts(queries.shape[2])[1]
    step = stride or max(1, height // GRID)
    flat = tiles(queries).reshape(len(queries) * GRID * GRID, -1)
    best = np.full(len(flat), np.inf)
    owner = np.zeros(len(flat), np.int64)
    per_image = patches(bank[:1], height, width, step).shape[1]
    shard = max(1, SHARD // (per_image * flat.shape[1]))
    for start in range(0, len(bank), shard):
        cut = patches(bank[start : start + shard], height, width, step)
        vectors = cut.reshape(-1, flat.shape[1])
        index = faiss.IndexFlatL2(vectors.shape[1])
        index.add(vectors)
        _, found = index.search(np.ascontiguousarray(flat), min(4, len(vectors)))
        exact = np.sqrt(np.square(flat[:, None].astype(np.float64) - vectors[found]).mean(2))
        nearest = exact.argmin(1)
        value = exact[np.arange(len(flat)), nearest]
        closer = value < best
        best[closer] = value[closer]
        owner[closer] = start + found[np.arange(len(flat)), nearest][closer] // per_image
    by_tile = best.reshape(len(queries), -1)
    first = by_tile.argmin(1)
    score = np.sort(by_tile, axis=1)[:, :closest].mean(1)
    return score, owner.reshape(len(queries), -1)[np.arange(len(queries)), first], by_tile


def _channels(queries: Images, bank: Images) -> tuple[Images, Images]:
    """Where everything is grey one channel says all: the RMS over three equal channels is that over one."""
    if queries.shape[1:] != bank.shape[1:]:
        raise ValueError(f"queries of {queries.shape[1:]} and a bank of {bank.shape[1:]}; they must be of one size")
    if not len(queries) or not len(bank):
        raise ValueError(f"{len(queries)} queries and {len(bank)} bank images given; at least one of each is needed")
    if queries.shape[-1] > 1 and is_grey(queries) and is_grey(bank):
        return queries[..., :1], bank[..., :1]
    return queries, bank


def _tile_max(query: NDArray[np.float32], others: NDArray[np.float32]) -> Distances:
    return np.asarray(np.sqrt(np.square(others.astype(np.float64) - query).mean(2)).max(1))
