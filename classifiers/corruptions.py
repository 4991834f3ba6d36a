"""Simple changes of test images that a classifier should survive: uint8 [N, H, W, 3] -> the same.

After Hendrycks & Dietterich 2019 (arXiv 1903.12261), one severity each, relative to the side of the image.
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Images = NDArray[np.uint8]


def blur(images: Images) -> Images:
    """Gaussian blur, standard deviation 1/40 of the side."""
    sigma = images.shape[1] / 40
    return np.asarray(np.rint(gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0))), np.uint8)


def contrast(images: Images) -> Images:
    """Half of the contrast around each image's mean."""
    mean = images.mean((1, 2, 3), keepdims=True)
    return np.asarray(np.rint(mean + 0.5 * (images - mean)), np.uint8)


def jpeg(images: Images) -> Images:
    """JPEG at quality 20."""
    out = np.empty_like(images)
    for place, image in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=20)
        out[place] = np.asarray(Image.open(buffer))
    return out


def noise(images: Images) -> Images:
    """Gaussian noise, standard deviation 20 grey levels, equal in the channels of a grey image; fixed seed."""
    grey = bool((images[..., :1] == images).all())
    shape = (*images.shape[:3], 1 if grey else 3)
    drawn = np.random.default_rng(0).normal(0, 20, shape)
    return np.clip(np.rint(images + drawn), 0, 255).astype(np.uint8)


CORRUPTIONS: dict[str, Callable[[Images], Images]] = {"blur": blur, "contrast": contrast, "jpeg": jpeg, "noise": noise}
