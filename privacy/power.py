"""What an audit would find: copies of every kind, planted on purpose. docs/protocol.md.

The round trip through a generator's autoencoder needs that autoencoder: those images come from the caller.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Images = NDArray[np.uint8]
Plant = Callable[[Images, np.random.Generator], NDArray[Any]]


def blended(images: Images, rng: np.random.Generator) -> NDArray[np.floating]:
    """Half of it and half of another one."""
    if len(images) < 2:
        raise ValueError(f"{len(images)} image given; blending needs at least 2")
    return (images.astype(np.float64) + np.roll(images, 1, axis=0)) / 2


def blurred(images: Images, rng: np.random.Generator) -> NDArray[np.floating]:
    """Gaussian blur with a sigma of one pixel."""
    return np.asarray(gaussian_filter(images.astype(np.float64), (0, 1, 1, 0)))


def brightness(images: Images, rng: np.random.Generator) -> NDArray[np.floating]:
    """Every level times 1.1, or 0.9 for images with a mean of 140 or more, which would saturate."""
    factor = np.where(images.mean((1, 2, 3), keepdims=True) < 140, 1.1, 0.9)
    return images.astype(np.float64) * factor


def cropped(images: Images, rng: np.random.Generator) -> Images:
    """The central seven eighths, enlarged to the old size (bicubic)."""
    return resized(centres(images), images.shape[1])


def centres(images: Images) -> Images:
    """The central seven eighths of square images."""
    edge = max(1, images.shape[1] // 16)
    return np.ascontiguousarray(images[:, edge:-edge, edge:-edge])


def resized(images: Images, side: int, how: Image.Resampling = Image.Resampling.BICUBIC) -> Images:
    """Images of another side in pixels."""
    return np.stack([np.asarray(Image.fromarray(image).resize((side, side), how)) for image in images])


def exact(images: Images, rng: np.random.Generator) -> Images:
    """The image itself."""
    return images


def flipped(images: Images, rng: np.random.Generator) -> Images:
    """Left and right exchanged."""
    return images[:, :, ::-1]


def jpeg(images: Images, rng: np.random.Generator) -> Images:
    """Through JPEG at quality 50."""

    def press(image: Images) -> Images:
        stream = BytesIO()
        Image.fromarray(image).save(stream, "jpeg", quality=50)
        return np.asarray(Image.open(stream))

    return np.stack([press(image) for image in images])


def noise(images: Images, rng: np.random.Generator) -> NDArray[np.floating]:
    """Gaussian noise with a standard deviation of 8 grey levels, the same in all channels if they are equal."""
    grey = bool((images[..., :1] == images).all())
    return images + 8 * rng.standard_normal((*images.shape[:3], 1 if grey else images.shape[3]))


def shifted(images: Images, rng: np.random.Generator) -> Images:
    """Each moved by one pixel to a sixteenth of the side, down or up and right or left, the edge repeated."""
    most = [max(1, side // 16) for side in images.shape[1:3]]
    moves = np.stack([rng.integers(1, each + 1, len(images)) * rng.choice([-1, 1], len(images)) for each in most], 1)
    wide = np.pad(images, ((0, 0), (most[0],) * 2, (most[1],) * 2, (0, 0)), mode="edge")
    starts = np.array(most) - moves
    height, width = images.shape[1:3]
    return np.stack([each[y : y + height, x : x + width] for each, (y, x) in zip(wide, starts, strict=True)])


KINDS: dict[str, Plant] = {
    "blended": blended,
    "blurred": blurred,
    "brightness": brightness,
    "cropped": cropped,
    "exact": exact,
    "flipped": flipped,
    "jpeg": jpeg,
    "noise": noise,
    "shifted": shifted,
}


def plant(images: Images, kind: str, seed: int) -> Images:
    """Copies of images uint8 [N, H, W, 3] of one kind of KINDS, same shape and dtype."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} given; allowed: {', '.join(KINDS)}")
    if images.ndim != 4 or images.dtype != np.uint8 or not len(images) or min(images.shape[1:3]) < 4:
        raise ValueError(f"images {images.dtype} {images.shape} given; expected uint8 [N, H, W, 3], N >= 1, H, W >= 4")
    made = KINDS[kind](images, np.random.default_rng(seed))
    return np.array(np.clip(np.rint(made), 0, 255), np.uint8)


def relatives(
    patients: list[str], looks: NDArray[np.floating], near: float = 0.98, most: int = 60, least: int = 10
) -> dict[str, NDArray[np.int64]]:
    """Images of patients who have another one there: rows int64, ascending, near copies and video neighbours apart.

    Searched for with themselves left out they tell whether an audit finds a new image of a patient whom the model
    saw. patients [N]; looks [N, s * s]: small square pictures of unit length; a product with another, or with its
    mirror image, above `near` is a near copy. A kind with fewer than `least` images is left out.
    """
    _, patient, count = np.unique(np.array(patients), return_inverse=True, return_counts=True)
    rows = np.random.default_rng(1).permutation(np.flatnonzero(count[patient] > 1))[: 4 * most]
    side = round(looks.shape[1] ** 0.5)
    mirrored = looks[rows].reshape(-1, side, side)[:, :, ::-1].reshape(-1, side * side)
    alike = np.maximum(looks[rows] @ looks.T, mirrored @ looks.T)
    alike[(patient[rows, None] != patient[None, :]) | (rows[:, None] == np.arange(len(patient))[None, :])] = -1
    copies = alike.max(1, initial=-1) > near
    kinds = {"same_patient": rows[~copies], "same_patient_near_copy": rows[copies]}
    return {kind: np.sort(mine[:most]) for kind, mine in kinds.items() if len(mine) >= least}


def wilson_interval(k: int, n: int) -> tuple[float, float, float]:
    """(share k/n, low, high): 95 % Wilson score interval (Wilson 1927)."""
    if n < 1 or not 0 <= k <= n:
        raise ValueError(f"{k} of {n} given; expected 0 <= k <= n with n of at least 1")
    z, share = 1.959963984540054, k / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
