"""Controls that a generator must beat, made from the same real images without learning anything.

All take images uint8 [N, H, W, 3], labels int64 [N], counts int64 [K] (images asked for a class) and a seed, and
return images uint8 [M, H, W, 3] and labels int64 [M], class after class. What a class gets depends on the seed and
on that class alone.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Baseline = Callable[[Images, Labels, Labels, int], tuple[Images, Labels]]
BLOCK = 256  # images in float at a time


def class_mean(images: Images, labels: Labels, counts: Labels, seed: int) -> tuple[Images, Labels]:
    """The class's mean picture plus Gaussian noise with each pixel's standard deviation (ddof 1) in that class.

    Grey images (three equal channels) get grey noise. A class of one image has no residual: that image is returned.
    """

    def draw(members: Images, count: int, rng: np.random.Generator) -> Images:
        mean, deviation = _mean_and_deviation(members)
        grey = bool((members[..., :1] == members).all())
        shape = (*mean.shape[:2], 1 if grey else mean.shape[2])
        made = np.empty((count, *mean.shape), np.uint8)
        for start in range(0, count, BLOCK):
            noise = rng.standard_normal((min(BLOCK, count - start), *shape), dtype=np.float32)
            made[start : start + BLOCK] = _to_uint8(mean + noise * deviation)
        return made

    return _by_class(images, labels, counts, seed, draw)


def copies(images: Images, labels: Labels, counts: Labels, seed: int) -> tuple[Images, Labels]:
    """The real images themselves, each as often as any other (differing by one at most), in random order."""

    def draw(members: Images, count: int, rng: np.random.Generator) -> Images:
        rounds = -(-count // len(members))
        rows = np.concatenate([rng.permutation(len(members)) for _ in range(rounds)])
        return np.asarray(members[rows[:count]])

    return _by_class(images, labels, counts, seed, draw)


def mixup(images: Images, labels: Labels, counts: Labels, seed: int) -> tuple[Images, Labels]:
    """w a + (1 - w) b of two different random images of a class, w uniform in [0.2, 0.8].

    After Zhang 2018 (arXiv 1710.09412), who mixes across classes with Beta weights: there most w lie near 0 or 1,
    which would make copies. A class of one image has nothing to mix: that image is returned.
    """

    def draw(members: Images, count: int, rng: np.random.Generator) -> Images:
        n = len(members)
        first = rng.integers(0, n, count)
        second = (first + rng.integers(1, n, count)) % n if n > 1 else first
        weight = rng.uniform(0.2, 0.8, (count, 1, 1, 1)).astype(np.float32)
        made = np.empty((count, *members.shape[1:]), np.uint8)
        for start in range(0, count, BLOCK):
            part = slice(start, start + BLOCK)
            made[part] = _to_uint8(weight[part] * members[first[part]] + (1 - weight[part]) * members[second[part]])
        return made

    return _by_class(images, labels, counts, seed, draw)


BASELINES: dict[str, Baseline] = {"class_mean": class_mean, "copies": copies, "mixup": mixup}


def _by_class(
    images: Images, labels: Labels, counts: Labels, seed: int,
    draw: Callable[[Images, int, np.random.Generator], Images],
) -> tuple[Images, Labels]:  # fmt: skip
    if images.ndim != 4 or images.dtype != np.uint8 or labels.shape != (len(images),):
        raise ValueError(
            f"images {images.dtype} {images.shape} and labels {labels.shape} given; expected uint8 [N, H, W, C] and [N]"
        )
    if min(counts, default=0) < 0:
        raise ValueError(f"{min(counts)} images of a class asked for; allowed: 0 or more")
    made = [images[:0]]
    for label in np.flatnonzero(counts):
        members = images[labels == label]
        if not len(members):
            raise ValueError(f"{counts[label]} images of class {label} asked for, but no image given has that class")
        made.append(draw(members, int(counts[label]), np.random.default_rng([seed, int(label)])))
    return np.concatenate(made), np.repeat(np.arange(len(counts)), counts).astype(np.int64)


def _mean_and_deviation(members: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of each pixel, float32 [H, W, C], grey levels; sums of whole numbers are exact in float64."""
    n = len(members)
    total, square = np.zeros(members.shape[1:]), np.zeros(members.shape[1:])
    for start in range(0, n, BLOCK):
        part = members[start : start + BLOCK].astype(np.float64)
        total += part.sum(0)
        square += np.square(part).sum(0)
    variance = (square - total * total / n) / max(n - 1, 1)
    return (total / n).astype(np.float32), np.sqrt(np.maximum(variance, 0)).astype(np.float32)


def _to_uint8(values: NDArray[np.float32]) -> Images:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
