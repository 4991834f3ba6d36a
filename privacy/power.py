"""What an audit would find: copies of every kind, planted on purpose."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Images = NDArray[np.uint8]
Plant = Callable[[Images, np.random.Generator], NDArray[Any]]


def exact(images: Images, rng: np.random.Generator) -> Images:
    """The image itself."""
    return images


def flipped(images: Images, rng: np.random.Generator) -> Images:
    """Left and right exchanged."""
    return images[:, :, ::-1]


def shifted(images: Images, rng: np.random.Generator) -> Images:
    """Moved by a sixteenth of the side (at least one pixel) down and right, the edge repeated."""
    step = max(1, images.shape[1] // 16)
    return np.pad(images, ((0, 0), (step, 0), (step, 0), (0, 0)), mode="edge")[:, :-step, :-step]


def cropped(images: Images, rng: np.random.Generator) -> Images:
    """The central seven eighths, enlarged to the old side (bicubic)."""
    side, margin = images.shape[1], max(1, images.shape[1] // 16)
    cut = images[:, margin : side - margin, margin : side - margin]
    return np.stack([np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC)) for x in cut])


def brightness(images: Images, rng: np.random.Generator) -> NDArray[Any]:
    """Every level times 1.1 (0.9 where that would saturate a bright image)."""
    factor = np.where(images.mean((1, 2, 3), keepdims=True) < 140, 1.1, 0.9)
    return images * factor


def noise(images: Images, rng: np.random.Generator) -> NDArray[Any]:
    """Gaussian noise with a standard deviation of 8 grey levels."""
    return images + 8 * rng.standard_normal(images.shape)


def jpeg(images: Images, rng: np.random.Generator) -> Images:
    """Through JPEG at quality 50."""

    def press(image: Images) -> Images:
        stream = BytesIO()
        Image.fromarray(image).save(stream, "jpeg", quality=50)
        return np.asarray(Image.open(stream))

    return np.stack([press(image) for image in images])


def blurred(images: Images, rng: np.random.Generator) -> NDArray[Any]:
    """Gaussian blur with a sigma of one pixel."""
    return np.asarray(gaussian_filter(images.astype(np.float64), (0, 1, 1, 0)))


def blended(images: Images, rng: np.random.Generator) -> NDArray[Any]:
    """Half of it and half of another one."""
    return (images.astype(np.float64) + np.roll(images, 1, axis=0)) / 2


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
    """Copies of uint8 images [N, H, W, 3] of one kind of KINDS, uint8 of the same shape."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} given; allowed: {', '.join(KINDS)}")
    made = KINDS[kind](images, np.random.default_rng(seed))
    return np.ascontiguousarray(np.clip(np.rint(made), 0, 255).astype(np.uint8))


def wilson_interval(found: int, n: int) -> tuple[float, float, float]:
    """Share found/n with its 95 % Wilson score interval (Wilson 1927)."""
    if n < 1 or not 0 <= found <= n:
        raise ValueError(f"{found} of {n} given; expected 0 <= found <= n with n of at least 1")
    z, share = 1.959964, found / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return share, float(max(0.0, centre - half)), float(min(1.0, centre + half))
