"""Fidelity and diversity: arrays in, numbers out. docs/protocol.md has every formula.

Fréchet distance: Heusel 2017 (arXiv 1706.08500). Kernel distance: Bińkowski 2018 (arXiv 1801.01401). Precision and
recall: Kynkäänniemi 2019 (arXiv 1904.06991); density and coverage: Naeem 2020 (arXiv 2002.09797). MS-SSIM: Wang
2003. Vendi score: Friedman 2023 (arXiv 2210.02410).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]
Images = NDArray[np.uint8]
Floats = NDArray[np.float64]
Moments = tuple[int, Floats, Floats]
Estimate = tuple[float, float, float]

MS_SSIM_WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])  # Wang 2003
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
BLOCK = 512  # rows of a distance or kernel matrix at a time
IMAGES = 64  # pairs of images at a time


def moments(features: Features) -> Moments:
    """Features [N, D] -> (n, sum x float64 [D], sum x x^T float64 [D, D])."""
    x = _checked(features, least=1)
    return len(x), x.sum(0), x.T @ x


def combine(a: Moments, b: Moments) -> Moments:
    """Moments of the union of two disjoint sets: sums are added, so shards combine exactly."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def frechet_distance(features_a: Features, features_b: Features) -> float:
    """Fréchet distance of two Gaussians fitted to features [N, D] and [M, D]; 0 or more, better low.

    |mu_a - mu_b|^2 + tr C_a + tr C_b - 2 tr (C_a^1/2 C_b C_a^1/2)^1/2, covariances with ddof 1. With fewer images
    than dimensions the last trace is the nuclear norm of the centred A B^T / sqrt((n - 1)(m - 1)), else it comes
    from symmetric eigenvalues.
    """
    a, b = _pair(features_a, features_b)
    if min(len(a), len(b)) > a.shape[1]:
        return frechet_distance_from_moments(moments(a), moments(b))
    mean = a.mean(0) - b.mean(0)
    root_a, root_b = _root(a), _root(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(max(mean @ mean + np.square(root_a).sum() + np.square(root_b).sum() - 2 * cross, 0))


def frechet_distance_from_moments(a: Moments, b: Moments) -> float:
    """Fréchet distance from (n, sum x, sum x x^T) of either set, by symmetric eigenvalues in float64."""
    (mean_a, cov_a), (mean_b, cov_b) = _gaussian(a), _gaussian(b)
    if len(mean_a) != len(mean_b):
        raise ValueError(f"features of {len(mean_a)} and {len(mean_b)} dimensions given; both must be of one encoder")
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(np.maximum(values, 0))  # root^T C_b root has the eigenvalues of C_a^1/2 C_b C_a^1/2
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root.T @ cov_b @ root), 0)).sum()
    mean = mean_a - mean_b
    return float(max(mean @ mean + np.trace(cov_a) + np.trace(cov_b) - 2 * cross, 0))


def frechet_infinity(features_a: Features, features_b: Features, seed: int = 0, sizes: int = 10) -> float:
    """The Fréchet distance for n without end: its line in 1/n, at `sizes` random sizes from n/2 up, read at 0.

    Chong & Forsyth 2020 (arXiv 1911.07023). Float arrays [N, D]; NaN where n/2, n the lesser number of images, does not
    exceed D: there the distance is no line in 1/n.
    """
    a, b = _pair(features_a, features_b)
    n, rng = min(len(a), len(b)), np.random.default_rng(seed)
    if n // 2 <= a.shape[1]:
        return float("nan")
    counts = np.linspace(n // 2, n, sizes).astype(int)
    found = [frechet_distance(a[rng.permutation(len(a))[:m]], b[rng.permutation(len(b))[:m]]) for m in counts]
    return float(np.polyfit(1 / counts, found, 1)[1])


def kernel_distance(features_a: Features, features_b: Features, seed: int = 0, subsets: int = 100) -> float:
    """Unbiased MMD^2 with kernel (x.y/d + 1)^3 of features [N, D] and [M, D]; better low.

    Mean over subsets of size min(1000, n/2), n the smaller set, drawn without replacement. 0 in expectation for
    equal laws, so it may be negative.
    """
    a, b = _pair(features_a, features_b)
    size = min(1000, min(len(a), len(b)) // 2)
    if size < 2:
        raise ValueError(f"{len(a)} and {len(b)} images given; at least 4 of each are needed")
    rng = np.random.default_rng(seed)
    in_a, in_b = (_memberships(len(x), size, subsets, rng) for x in (a, b))
    within = (_kernel_sum(x, x, s, s) - _kernel_trace(x, s) for x, s in ((a, in_a), (b, in_b)))
    between = _kernel_sum(a, b, in_a, in_b)
    return float((sum(within) / (size * (size - 1)) - 2 * between / size**2) / subsets)


def precision_recall_density_coverage(real: Features, synthetic: Features, k: int = 5) -> dict[str, float]:
    """Precision, recall, coverage in [0, 1] and density >= 0, better high; real [N, D], synthetic [M, D].

    A radius reaches to the k-th neighbour in the same set, itself not counted; inside is strict <, and distances
    that differ by rounding alone are equal. Equal laws: density 1, coverage 1 - prod_{i=1..k} (N - i) / (M + N - i).
    """
    x, y = _pair(real, synthetic)
    if not 1 <= k < min(len(x), len(y)):
        raise ValueError(f"k = {k} given for {len(x)} real and {len(y)} synthetic images; allowed: 1 to one less")
    centre = x.mean(0)
    x, y = x - centre, y - centre
    rounding = 1e-12 * float(max(np.square(x).sum(1).max(), np.square(y).sum(1).max()))
    reach_x, reach_y = _reach(x, k) - rounding, _reach(y, k) - rounding
    inside, covered, recalled = np.zeros(len(y), np.int64), 0, np.zeros(len(x), bool)
    for start in range(0, len(x), BLOCK):
        part = slice(start, start + BLOCK)
        square = _squares(x[part], y)
        hit = square < reach_x[part, None]
        inside += hit.sum(0)
        covered += int(hit.any(1).sum())
        recalled[part] = (square < reach_y[None, :]).any(1)
    return {
        "precision": float((inside > 0).mean()),
        "recall": float(recalled.mean()),
        "density": float(inside.mean() / k),
        "coverage": covered / len(x),
    }


def vendi_score(features: Features) -> float:
    """Effective number of different images, 1 to N, better high: exp of the entropy of the eigenvalues of X X^T / n.

    Features [N, D]; rows are scaled to unit length.
    """
    x = _checked(features, least=1)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    if not length.all():
        raise ValueError(f"{int((length == 0).sum())} rows of zeros given; every feature vector needs a direction")
    x = x / length
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    values = np.linalg.eigvalsh(gram / len(x))
    values = values[values > 1e-14]
    return float(np.exp(-(values * np.log(values)).sum()))


def scales(side: int) -> int:
    """How many scales MS-SSIM has at a side in pixels: the largest S <= 5 with side >= 10 * 2^(S-1) + 1."""
    if side < WINDOW:
        raise ValueError(f"images of {side} px given; MS-SSIM needs at least {WINDOW}")
    return max(s for s in range(1, 6) if side >= 10 * 2 ** (s - 1) + 1)


def ms_ssim(images_a: Images, images_b: Images) -> Floats:
    """Multi-scale structural similarity of pairs, uint8 [N, H, W, 3] each -> float64 [N] in [0, 1], 1 = the same.

    Weights renormalised over the scales that fit the smaller side, negative terms clipped to 0, valid windows only
    (as piq). Mean of the channels.
    """
    if images_a.shape != images_b.shape or images_a.ndim != 4 or images_a.dtype != np.uint8:
        raise ValueError(
            f"{images_a.dtype} {images_a.shape} and {images_b.shape} given; expected uint8 [N, H, W, 3] twice"
        )
    count = scales(min(images_a.shape[1:3]))
    weights = MS_SSIM_WEIGHTS[:count] / MS_SSIM_WEIGHTS[:count].sum()
    out = np.empty(len(images_a))
    for start in range(0, len(images_a), IMAGES):
        part = slice(start, start + IMAGES)
        out[part] = _ms_ssim(_planes(images_a[part]), _planes(images_b[part]), weights)
    return out


def ms_ssim_diversity(images: Images, labels: NDArray[np.int64], pairs: int, seed: int) -> float:
    """Mean MS-SSIM of random pairs of different images of one class, in [0, 1]; lower = more diverse.

    Images uint8 [N, H, W, 3], labels [N]. A pair: a random image whose class has another, and one of those.
    NaN where no class has two images.
    """
    if pairs < 1 or len(labels) != len(images):
        raise ValueError(
            f"{pairs} pairs, {len(images)} images, {len(labels)} labels given; expected >= 1 and equal lengths"
        )
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    start, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)  # of the class at each place in `order`
    able = np.flatnonzero(size > 1)
    if not len(able):
        return float("nan")
    rng = np.random.default_rng(seed)
    first = rng.choice(able, pairs)
    step = rng.integers(1, size[first])
    second = start[first] + (first - start[first] + step) % size[first]
    return float(ms_ssim(images[order[first]], images[order[second]]).mean())


def subset_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    groups: list[str],
    value: float,
    subsets: int = 200,
    seed: int = 0,
) -> Estimate:
    """(value, low, high): value ± 1.96 SE, SE = SD of the statistic over subsets of m = n/2 patients drawn without
    replacement, times sqrt(m / (n - m)).

    statistic takes ascending image rows int64; groups: the patient of each image; value: the statistic of all
    images. The bounds are NaN with fewer than 4 patients, or where the statistic of a subset is NaN.
    """
    if subsets < 2:
        raise ValueError(f"{subsets} subsets given; at least 2 are needed for a spread")
    _, patient = np.unique(np.array(groups), return_inverse=True)
    n = int(patient.max()) + 1 if len(patient) else 0
    m = n // 2
    if n < 4:
        return value, float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(subsets):
        inside = np.zeros(n, bool)
        inside[rng.permutation(n)[:m]] = True
        drawn.append(statistic(np.flatnonzero(inside[patient])))
    error = float(np.std(drawn, ddof=1)) * np.sqrt(m / (n - m))
    return value, value - 1.96 * error, value + 1.96 * error


def _checked(features: Features, least: int = 2) -> Floats:
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) < least or not np.isfinite(x).all():
        raise ValueError(f"features of shape {x.shape} given; expected finite [N, D] with N of at least {least}")
    return x


def _pair(features_a: Features, features_b: Features) -> tuple[Floats, Floats]:
    a, b = _checked(features_a), _checked(features_b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of {a.shape[1]} and {b.shape[1]} dimensions given; both must be of one encoder")
    return a, b


def _gaussian(m: Moments) -> tuple[Floats, Floats]:
    n, total, square = m
    if n < 2:
        raise ValueError(f"{n} images given; at least 2 are needed")
    mean = total / n
    return mean, (square - n * np.outer(mean, mean)) / (n - 1)


def _root(x: Floats) -> Floats:
    """R of at most D rows with R^T R = covariance, ddof 1."""
    centred = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(x) > x.shape[1] else centred


def _memberships(n: int, size: int, subsets: int, rng: np.random.Generator) -> Floats:
    """0 or 1 float64 [n, subsets]: who is in which subset."""
    inside = np.zeros((n, subsets))
    for column in range(subsets):
        inside[rng.permutation(n)[:size], column] = 1
    return inside


def _kernel_sum(x: Floats, y: Floats, in_x: Floats, in_y: Floats) -> float:
    """Sum over subsets s and over pairs (i, j) inside s of k(x_i, y_j)."""
    total = 0.0
    for start in range(0, len(x), BLOCK):
        part = slice(start, start + BLOCK)
        kernel = (x[part] @ y.T / x.shape[1] + 1) ** 3
        total += float((in_x[part] * (kernel @ in_y)).sum())
    return total


def _kernel_trace(x: Floats, inside: Floats) -> float:
    """The same for i = j."""
    return float(((np.square(x).sum(1) / x.shape[1] + 1) ** 3 @ inside).sum())


def _squares(x: Floats, y: Floats) -> Floats:
    return np.asarray(np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * (x @ y.T))


def _reach(x: Floats, k: int) -> Floats:
    """Squared distance of each row to its k-th neighbour, float64 [N]."""
    reach = np.empty(len(x))
    for start in range(0, len(x), BLOCK):
        square = _squares(x[start : start + BLOCK], x)
        square[np.arange(len(square)), start + np.arange(len(square))] = -1  # itself comes first
        reach[start : start + BLOCK] = np.partition(square, k, axis=1)[:, k]
    return reach


def _planes(images: Images) -> Floats:
    """uint8 [N, H, W, C] -> float64 [N, C, H, W] in [0, 1]."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) / 255.0


def _ms_ssim(a: Floats, b: Floats, weights: Floats) -> Floats:
    product = np.ones(a.shape[:2])
    for scale, weight in enumerate(weights):
        if scale:
            a, b = _halve(a), _halve(b)
        ssim, contrast = _ssim(a, b)
        product *= np.maximum(ssim if scale == len(weights) - 1 else contrast, 0) ** weight
    return np.asarray(product.mean(1))


def _ssim(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """SSIM and its contrast-structure part, mean over valid windows, [N, C] each."""
    rows, columns = _gaussian_windows(a.shape[2]), _gaussian_windows(a.shape[3]).T
    mean_a, mean_b, square, product = (rows @ x @ columns for x in (a, b, a * a + b * b, a * b))
    means = mean_a**2 + mean_b**2
    contrast = (2 * (product - mean_a * mean_b) + C2) / (square - means + C2)
    luminance = (2 * mean_a * mean_b + C1) / (means + C1)
    return (luminance * contrast).mean((2, 3)), contrast.mean((2, 3))


def _gaussian_windows(side: int) -> Floats:
    """Matrix [side - 10, side] that takes the Gaussian mean of every valid window of 11 pixels."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    kernel = np.exp(-(offsets**2) / (2 * SIGMA**2))
    matrix = np.zeros((side - WINDOW + 1, side))
    for row in range(len(matrix)):
        matrix[row, row : row + WINDOW] = kernel / kernel.sum()
    return matrix


def _halve(x: Floats) -> Floats:
    """Mean of 2 x 2 blocks; as piq, an odd side first repeats its first row or column."""
    odd = max(x.shape[2] % 2, x.shape[3] % 2)
    x = np.pad(x, ((0, 0), (0, 0), (odd, 0), (odd, 0)), mode="edge")
    n, channels, height, width = x.shape
    x = x[:, :, : height // 2 * 2, : width // 2 * 2]
    return np.asarray(x.reshape(n, channels, height // 2, 2, width // 2, 2).mean((3, 5)))
