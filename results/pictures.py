"""The picture grids: samples beside real images, and synthetic images beside their nearest real ones."""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from results.tidy import Results
from results.wording import number

Images = npt.NDArray[np.uint8]
SHOWN = 5  # images a side of the sample grid
TRIPLES = 4  # triples a data set
GAP = 4  # white pixels between tiles
TILE = 128


def sample_grid(results: Results) -> Figure | None:
    """A row a data set: real left, synthetic right, the caption under it."""
    rows = [each for each in results.samples if len(each["real"]) and len(each["synthetic"])]
    if not rows:
        return None
    figure = Figure(figsize=(10.6, 1.2 * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        _strip(axes[0], row["real"])
        _strip(axes[1], row["synthetic"])
        kind = row.get("image_type") or ""
        axes[0].set_ylabel(
            _wrapped(row["dataset"], 22) + f"\n{kind}", rotation=0, ha="right", va="center", fontsize=9.5
        )
        axes[0].yaxis.set_label_coords(-0.02, 0.5)
        axes[1].set_xlabel(f"“{_wrapped(str(row['caption']), 70)}”", fontsize=8.5, style="italic", color="#4a4f57")
    grid[0][0].set_title("real")
    grid[0][1].set_title(f"synthetic (random draw, seed {rows[0].get('seed', 0)})")
    return figure


def _strip(axis: Axes, images: Images) -> None:
    tiles = [enlarged(image) for image in images[:SHOWN]]
    tiles += [np.full_like(tiles[0], 255)] * (SHOWN - len(tiles))
    gap = np.full((TILE, GAP, 3), 255, dtype=np.uint8)
    parts = [part for tile in tiles for part in (tile, gap)][:-1]
    _show(axis, np.concatenate(parts, axis=1))


def _show(axis: Axes, image: Images) -> None:
    axis.imshow(image, interpolation="antialiased")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def enlarged(image: Images, tile: int = TILE) -> Images:
    """uint8 [H, W, 3] -> [tile, tile, 3]: small ones by repetition of pixels, large ones by area."""
    if max(image.shape[:2]) > tile:
        return np.asarray(Image.fromarray(image).resize((tile, tile), Image.Resampling.BOX))
    y = np.arange(tile) * image.shape[0] // tile
    x = np.arange(tile) * image.shape[1] // tile
    return np.asarray(image[y][:, x], dtype=np.uint8)


def _wrapped(text: str, width: int) -> str:
    """Cut to one line of `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"


def nearest_neighbours(results: Results) -> Figure | None:
    """Synthetic | nearest training | nearest held-out, worst first, with their distances."""
    rows = [each for each in results.neighbours if len(each["synthetic"])]
    if not rows:
        return None
    count = min(TRIPLES, max(len(each["synthetic"]) for each in rows))
    figure = Figure(figsize=(2.72 * count + 1.5, 1.12 * len(rows) + 0.45), layout="constrained")
    grid = figure.subplots(len(rows), count, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        _triples(list(axes), row)
        name = f"{_wrapped(str(row['dataset']), 22)}\n{_wrapped(str(row['generator']), 22)}"
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9.5)
        axes[0].yaxis.set_label_coords(-0.03, 0.5)
    for axis in grid[0]:
        axis.set_title("synthetic | training | held-out", fontsize=9, fontweight="normal", loc="center")
    return figure


def _triples(axes: list[Axes], row: dict[str, Any]) -> None:
    d_train, d_heldout = np.asarray(row["d_train"], float), np.asarray(row["d_heldout"], float)
    worst = np.argsort(d_train, kind="stable")[: len(axes)]
    for axis in axes[len(worst) :]:
        axis.set_axis_off()
    gap = np.full((TILE, GAP, 3), 255, dtype=np.uint8)
    for axis, j in zip(axes, worst, strict=False):
        one, two, three = (enlarged(row[name][j]) for name in ("synthetic", "nearest_train", "nearest_heldout"))
        _show(axis, np.concatenate([one, gap, two, gap, three], axis=1))
        text = f"to training {number(d_train[j])}, held-out {number(d_heldout[j])}"
        axis.set_xlabel(text, fontsize=8.5, color="#4a4f57")
