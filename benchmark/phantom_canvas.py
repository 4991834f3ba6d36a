"""The canvas on which phantoms are drawn: a normalised pixel grid, soft shapes, smooth random fields.

Coordinates run from -1 (left, top) to 1 (right, bottom) whatever the picture's size, edges are a pixel soft,
and anatomy, view and grain come from three random streams, so a phantom looks alike at 24 and at 256 pixels.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.interpolate import BSpline

Floats = npt.NDArray[np.floating]
Number = float | np.floating | Floats


@lru_cache(maxsize=64)
def _spline(size: int, cells: int) -> Floats:
    """Cubic B-spline weights float32 [size, cells + 3], pixel averages; normal knots give unit variance."""
    knots = np.arange(-3, cells + 4, dtype=float)
    middles = (np.arange(4 * size) + 0.5) * cells / (4 * size)
    weights = BSpline.design_matrix(middles, knots, 3).toarray().reshape(size, 4, -1).mean(1)
    return np.asarray(weights / np.sqrt(151 / 315), np.float32)  # 151/315 is the integral of the squared spline


def ridge(field: Floats, width: float) -> Floats:
    """The zero lines of a smooth field as a network of threads: 1 on the line, 0 from `width` away."""
    return np.clip(1 - np.abs(field) / width, 0, 1)


def paint(picture: Floats, colour: Sequence[Number], mask: Floats) -> Floats:
    """Picture [3, m, size, size] with `colour` (three numbers or arrays in 0..1) laid on where mask is 1."""
    return np.stack([plane + mask * (tone - plane) for plane, tone in zip(picture, colour, strict=True)])


class Canvas:
    """A batch of m images of P patients: posed coordinates x, y float32 [m, size, size], random streams."""

    def __init__(
        self,
        size: int,
        patient: npt.NDArray[np.int64],
        female: npt.NDArray[np.bool_],
        finding: Floats,
        site: int,
        seeds: Sequence[np.random.SeedSequence],
    ) -> None:
        """Patient int64 [m] in 0..P-1, female bool [P], finding float32 [P, K] in 0..1.2, three seeds."""
        self.size, self.site, self.patient, self.count = size, site, patient, len(patient)
        self.anatomy, self.view, self.grain = (np.random.default_rng(seed) for seed in seeds)
        self.female = np.asarray(female, np.float32)[patient, None, None]
        self.finding = [column[patient, None, None] for column in finding.T]
        axis = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1).astype(np.float32)
        self.axis, self.pixel = axis, 2 / size
        self.x = np.broadcast_to(axis, (self.count, size, size))
        self.y = np.broadcast_to(axis[:, None], (self.count, size, size))
        self.cos = self.zoom = self.mirror = np.ones((self.count, 1, 1), np.float32)
        self.sin = self.shift_x = self.shift_y = np.zeros((self.count, 1, 1), np.float32)

    def trait(self, low: float, high: float) -> Floats:
        """A property of the patient: float32 [m, 1, 1], uniform, the same in all images of a patient."""
        drawn = self.anatomy.uniform(low, high, len(self.patient))[self.patient]
        return drawn.astype(np.float32)[:, None, None]

    def traits(self, low: float, high: float, count: int) -> Floats:
        """Several properties of the patient: float32 [m, count], uniform."""
        return self.anatomy.uniform(low, high, (len(self.patient), count))[self.patient].astype(np.float32)

    def shot(self, low: float, high: float) -> Floats:
        """A property of the single image: float32 [m, 1, 1], uniform."""
        return self.view.uniform(low, high, self.count).astype(np.float32)[:, None, None]

    def tissue(self, cells_x: int, cells_y: int = 0) -> Floats:
        """A smooth field of the patient, float32 [m, size, size], mean 0, variance 1, `cells` across."""
        return self._field(self.anatomy, cells_x, cells_y or cells_x)[self.patient]

    def speckle(self, cells_x: int, cells_y: int = 0) -> Floats:
        """A smooth field of the single image, otherwise as `tissue`."""
        return self._field(self.view, cells_x, cells_y or cells_x)

    def _field(self, stream: np.random.Generator, cells_x: int, cells_y: int) -> Floats:
        knots = stream.standard_normal((self.count, cells_y + 3, cells_x + 3), np.float32)
        return np.asarray(_spline(self.size, cells_y) @ knots @ _spline(self.size, cells_x).T, np.float32)

    def pose(self, shift: float, turn: float, zoom: float, mirror: bool = False) -> None:
        """Shift each image by up to `shift`, turn by `turn` radians, zoom by 1 +- `zoom`, perhaps flip."""
        self.shift_x, self.shift_y = self.shot(-shift, shift), self.shot(-shift, shift)
        angle = self.shot(-turn, turn)
        self.cos, self.sin, self.zoom = np.cos(angle), np.sin(angle), self.shot(1 - zoom, 1 + zoom)
        if mirror:
            self.mirror = np.sign(self.shot(-1, 1))
        x, y = (self.x - self.shift_x) / self.zoom, (self.y - self.shift_y) / self.zoom
        self.x, self.y = (self.cos * x + self.sin * y) * self.mirror, self.cos * y - self.sin * x

    def edge(self, distance: Floats, soft: float = 0.0) -> Floats:
        """1 where the signed distance is below zero, 0 above; the edge is a pixel and `soft` wide."""
        return np.asarray(np.clip(0.5 - distance / (1.3 * self.pixel + soft), 0, 1))

    def radius(self, x: Number, y: Number, a: Number, b: Number, turn: Number = 0.0) -> Floats:
        """Elliptic radius [m, size, size] around (x, y) with half axes a, b: 1 on the outline."""
        dx, dy = self.x - x, self.y - y
        if isinstance(turn, float) and turn == 0.0:
            return np.asarray(np.sqrt((dx / a) ** 2 + (dy / b) ** 2), np.float32)
        cos, sin = np.float32(1) * np.cos(turn), np.float32(1) * np.sin(turn)
        u, v = (dx * cos + dy * sin) / a, (dy * cos - dx * sin) / b
        return np.asarray(np.sqrt(u * u + v * v), np.float32)

    def ellipse(
        self,
        x: Number,
        y: Number,
        a: Number,
        b: Number,
        turn: Number = 0.0,
        soft: float = 0.0,
        wobble: Number = 0.0,
    ) -> Floats:
        """Soft mask of an ellipse; `wobble` (a field times an amplitude) makes its outline irregular."""
        return self.edge((self.radius(x, y, a, b, turn) - 1 + wobble) * np.minimum(a, b), soft)

    def segment(self, x0: Number, y0: Number, x1: Number, y1: Number, width: float, soft: float = 0.0) -> Floats:
        """Soft mask of a straight stroke of half width `width` from (x0, y0) to (x1, y1)."""
        along_x, along_y = np.float32(1) * (x1 - x0), np.float32(1) * (y1 - y0)
        dx, dy = self.x - x0, self.y - y0
        share = np.clip((dx * along_x + dy * along_y) / (along_x**2 + along_y**2), 0, 1)
        away = np.asarray(np.hypot(dx - share * along_x, dy - share * along_y))
        return self.edge(away - width, soft)

    def blobs(self, x: Floats, y: Floats, a: Floats, b: Floats, weight: Floats) -> Floats:
        """Sum [m, size, size] of Gaussian blobs; centres, standard deviations and weights are [m, count]."""
        cos, sin, zoom, mirror = (part[:, :, 0] for part in (self.cos, self.sin, self.zoom, self.mirror))
        x = x * mirror
        place_x = (cos * x - sin * y) * zoom + self.shift_x[:, :, 0]
        place_y = (sin * x + cos * y) * zoom + self.shift_y[:, :, 0]
        across = np.exp(-0.5 * ((self.axis - place_x[..., None]) / (a * zoom)[..., None]) ** 2)
        down = np.exp(-0.5 * ((self.axis - place_y[..., None]) / (b * zoom)[..., None]) ** 2) * weight[..., None]
        return np.asarray(np.swapaxes(down, 1, 2) @ across, np.float32)

    def grey(self, picture: Floats, noise: float) -> npt.NDArray[np.uint8]:
        """Window a grey picture [m, size, size] in about 0..1, add noise: uint8 [m, size, size, 3]."""
        return self._expose(picture[None], noise, (1.0,)).repeat(3, axis=-1)

    def colour(self, picture: Floats, noise: float, cast: tuple[float, float, float]) -> npt.NDArray[np.uint8]:
        """Expose a picture [3, m, size, size], site 2 with a colour cast: uint8 [m, size, size, 3]."""
        return self._expose(picture, noise, cast)

    def _expose(self, picture: Floats, noise: float, cast2: tuple[float, ...]) -> npt.NDArray[np.uint8]:
        """Uint8 [m, size, size, C] from [C, m, size, size]: the shot's gain, gamma, white balance, noise."""
        gain, gamma = self.shot(0.86, 1.12), self.shot(0.85, 1.18)
        balance = self.view.uniform(0.95, 1.05, (3, self.count, 1, 1)).astype(np.float32)
        balance = balance if len(picture) == 3 else np.ones_like(balance[:1])
        if self.site == 2:  # a flatter, brighter, noisier machine with its own colours
            gain, gamma, noise = gain * 0.9, gamma * 0.68, noise * 2
            balance = balance * np.asarray(cast2, np.float32)[:, None, None, None]
        bright = np.clip(picture, 0, 1) ** gamma * gain * balance
        bright += noise * self.grain.standard_normal(bright.shape, np.float32)
        return np.asarray(np.moveaxis(np.clip(bright, 0, 1) * 255 + 0.5, 0, -1), np.uint8)
