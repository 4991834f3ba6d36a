"""Images -> patch vectors in [0, 1]."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Vectors = NDArray[np.float32]
GRID = 4  # tiles a side


def scaled(images: Images) -> Vectors:
    """uint8 [N, H, W, 3] -> float32 [N, H, W, C] in [0, 1]; one channel where all are grey (the RMS is the same)."""
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 [N, H, W, C]")
    return np.asarray(images.astype(np.float32) / np.float32(255), np.float32)


def is_grey(images: Images) -> bool:
    """Whether the three channels of every image are equal."""
    return bool((images[..., :1] == images).all())


def tile_starts(side: int, grid: int = GRID) -> tuple[list[int], int]:
    """Where the tiles of a side begin, and their length; a side that grid does not divide has overlapping ones."""
    length = -(-side // grid)
    return [round(i * (side - length) / (grid - 1)) for i in range(grid)], length


def tiles(images: Images, grid: int = GRID) -> Vectors:
    """Images [N, H, W, C] -> tiles float32 [N, grid * grid, P], row by row."""
    x = scaled(images)
    rows, height = tile_starts(x.shape[1], grid)
    columns, width = tile_starts(x.shape[2], grid)
    cut = [x[:, r : r + height, c : c + width].reshape(len(x), -1) for r in rows for c in columns]
    return np.stack(cut, 1)


def patches(images: Images, height: int, width: int, stride: int) -> Vectors:
    """Images [N, H, W, C] -> all patches of height x width at a stride, float32 [N, M, P], row by row."""
    if stride < 1:
        raise ValueError(f"stride {stride} given; at least 1 pixel")
    x = scaled(images)
    windows = sliding_window_view(x, (height, width), axis=(1, 2))[:, ::stride, ::stride]  # [N, a, b, C, h, w]
    n, a, b = windows.shape[:3]
    return np.ascontiguousarray(windows.transpose(0, 1, 2, 4, 5, 3)).reshape(n, a * b, -1)
