"""Procedural pictures that teach an autoencoder edges and textures without showing it any data set.

Dead leaves (Lee, Mumford & Huang 2001; used for learning features by Baradad et al. 2021, arXiv 2106.05963): random
ellipses that hide one another, here soft or sharp, textured with 1/f^b noise, tinted, shaded and speckled, some seen
through a round aperture, half of them grey.
"""

import numpy as np
from numpy.typing import NDArray

CHUNK = 256


def dead_leaves(n: int, size: int, rng: np.random.Generator, leaves: int = 36) -> NDArray[np.uint8]:
    """Draw n pictures, uint8 [n, size, size, 3]; the same rng state gives the same pictures."""
    chunks = [_draw(min(CHUNK, n - start), size, rng, leaves) for start in range(0, n, CHUNK)]
    return np.concatenate(chunks) if chunks else np.zeros((0, size, size, 3), np.uint8)


def power_noise(n: int, size: int, exponent: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise with amplitude spectrum 1/f^exponent, one exponent a picture, float32 [n, size, size], unit variance."""
    spectrum = np.fft.rfft2(rng.standard_normal((n, size, size), dtype=np.float32))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1.0
    noise = np.fft.irfft2(spectrum * frequency[None] ** -exponent[:, None, None], s=(size, size))
    noise -= noise.mean((1, 2), keepdims=True)
    return np.asarray(noise / (noise.std((1, 2), keepdims=True) + 1e-8), np.float32)


def _draw(n: int, size: int, rng: np.random.Generator, leaves: int) -> NDArray[np.uint8]:
    def uniform(low: float, high: float, *shape: int) -> NDArray[np.float32]:
        return rng.uniform(low, high, (n, *shape)).astype(np.float32)

    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size

    # Each picture has a palette: leaves vary around one colour, greys are made at the end.
    base, spread = uniform(0.05, 0.95, 3), uniform(0.05, 0.5, 1)
    picture = np.broadcast_to(base[:, None, None, :], (n, size, size, 3)).copy()
    softness = np.exp(uniform(np.log(0.01), np.log(0.25)))
    largest = uniform(0.08, 0.5)
    used = uniform(0.1, 1.0)

    # Paint the leaves from back to front.
    for leaf in range(leaves):
        radius = np.exp(rng.uniform(np.log(0.02), 0.0, n)).astype(np.float32) * largest
        angle, stretch = uniform(0, np.pi), uniform(0.25, 1.0)
        dx = x[None] - uniform(-0.1, 1.1)[:, None, None]
        dy = y[None] - uniform(-0.1, 1.1)[:, None, None]
        cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
        u, v = cos * dx + sin * dy, (cos * dy - sin * dx) / stretch[:, None, None]
        depth = 1 - np.sqrt(u * u + v * v) / radius[:, None, None]
        edge = np.clip(depth / softness[:, None, None] + 0.5, 0, 1) * (leaf < used * leaves)[:, None, None]
        colour = base + spread * rng.standard_normal((n, 3), dtype=np.float32)
        picture += edge[..., None] * (colour[:, None, None, :] - picture)

    # Texture, shading, speckle.
    for low, high, strength in ((0.3, 1.2, 0.15), (1.0, 2.2, 0.15)):
        noise = power_noise(n, size, uniform(low, high), rng) * (uniform(0, 1) ** 2 * strength)[:, None, None]
        picture += noise[..., None]
    slope = uniform(-0.5, 0.5, 2)
    picture *= (1 + slope[:, :1, None] * (x - 0.5) + slope[:, 1:, None] * (y - 0.5))[..., None]
    speckle = rng.standard_normal((n, size, size, 1), dtype=np.float32)
    picture *= 1 + speckle * ((uniform(0, 1) < 0.3) * uniform(0, 0.4))[:, None, None, None]

    # A round aperture in a quarter of them, half of them grey.
    centre, radius = uniform(0.4, 0.6, 2), uniform(0.35, 0.6)
    distance = np.hypot(x[None] - centre[:, :1, None], y[None] - centre[:, 1:, None])
    inside = (distance < radius[:, None, None]) | (uniform(0, 1) > 0.25)[:, None, None]
    picture *= inside[..., None]
    grey = (uniform(0, 1) < 0.5)[:, None, None, None]
    picture = np.where(grey, picture.mean(-1, keepdims=True), picture)
    return np.asarray(np.clip(picture * 255 + 0.5, 0, 255), np.uint8)
