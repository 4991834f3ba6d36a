"""Draw a synthetic set: one image a real training row of the largest budget, times the ratio, with its caption."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.cache import Record
from benchmark.prompts import label_codes
from benchmark.stages import split


@dataclass(frozen=True)
class SyntheticSet:
    """images uint8 [M, H, W, 3]; labels as the data set's; image i is copy[i] for the rank[i]-th row of the budget."""

    images: NDArray[np.uint8]
    labels: NDArray[Any]
    rank: NDArray[np.int64]
    copy: NDArray[np.int64]
    captions: list[str]
    seeds: NDArray[np.int64]


def run_synthesize(config: Record, inputs: dict[str, Path], folder: Path) -> None:
    """Writes synthetic.npz."""
    prepared = split.read(inputs["split"])
    rows = prepared.budget(config["budget"], config["seed"])
    copies = -(-round(config["ratio"] * 1_000_000) // 1_000_000)
    rank = np.tile(np.arange(len(rows)), copies)
    copy = np.repeat(np.arange(copies), len(rows))
    labels = prepared.train.labels[rows[rank]]
    captions = [prepared.captions[i] for i in rows[rank]]
    seeds = (1 + config["seed"]) * 10_000_000 + np.arange(len(rank))
    if "baseline" in config:
        images = _baseline(config["baseline"], prepared, rows, labels, config["seed"])
    else:
        images = _drawn(inputs["train"] / "pipeline", captions, seeds.tolist(), config)
    np.savez(
        folder / "synthetic.npz", images=images, labels=labels, rank=rank, copy=copy, captions=np.array(captions),
        seeds=seeds,
    )  # fmt: skip


def read(folder: Path) -> SyntheticSet:
    """Read a finished synthetic set."""
    with np.load(folder / "synthetic.npz", allow_pickle=False) as arrays:
        return SyntheticSet(
            arrays["images"], arrays["labels"], arrays["rank"], arrays["copy"],
            [str(text) for text in arrays["captions"]], arrays["seeds"],
        )  # fmt: skip


def _drawn(pipeline: Path, captions: list[str], seeds: list[int], config: Record) -> NDArray[np.uint8]:
    from generators.latent_diffusion import load_pipeline
    from generators.sampling import sample

    return sample(
        load_pipeline(pipeline), captions, seeds, size=config["size"], steps=config["steps"],
        guidance=config["guidance"], batch=config["batch"],
    )  # fmt: skip


def _baseline(
    name: str, prepared: split.Prepared, rows: NDArray[np.int64], labels: NDArray[Any], seed: int
) -> NDArray[np.uint8]:
    """A control's images in the order of the labels asked for."""
    from generators.baselines import BASELINES

    codes, _ = label_codes(prepared.train.labels[rows])
    wanted = codes[: len(labels)] if len(labels) == len(rows) else np.tile(codes, len(labels) // len(rows))
    counts = np.bincount(wanted, minlength=codes.max() + 1)
    images, made = BASELINES[name](prepared.train.images[rows], codes, counts, seed)
    out = np.empty_like(images)
    for code in np.unique(wanted):
        out[wanted == code] = images[made == code]
    return out
