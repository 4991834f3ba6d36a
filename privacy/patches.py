"""Images -> patch vectors. Tiles: a fixed 4 x 4 grid; patches: every place at a stride. PROTOCOL section 4."""

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
