"""Is synthetic nearer to train than to held-out as a whole: AuthPct, C_T and FLD's over-fit share, on features.

Each takes features float [N, D] of one encoder, and is read beside the same measure of held-out real images.
"""

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]
Floats = NDArray[np.float64]
BLOCK = 1024


def authentic_share(train: Features, synthetic: Features) -> float:
    """AuthPct: share of synthetic images farther from their nearest train image than that one is from its own.

    Alaa 2022 (arXiv 2102.08921). No absolute meaning: an ideal generator scores 38 % in two dimensions and 82 % in 64.
    """
    distance, index = _nearest(synthetic, train)
    own, _ = _nearest(train, train, skip_self=True)
    return float((distance > own[index]).mean())


def c_t(
    train: Features, heldout: Features, synthetic: Features, seed: int = 0, permutations: int = 200
) -> dict[str, float]:
    """Meehan 2020 (arXiv 2004.05675): far below 0 = copying; no z-score, so `u_share` (1/2 = none) and a permutation p.

    PCA to 64 dimensions and three k-means cells on train; within each cell Mann-Whitney's U of the distances to train
    of synthetic against held-out, with continuity 0.5; cells with at most 20 synthetic or fewer than 20 held-out are
    left out; weights are held-out shares. All NaN where no cell is left.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    pca = PCA(min(64, *np.shape(train)), random_state=seed).fit(train)
    x, h, s = (pca.transform(each).astype(np.float64) for each in (train, heldout, synthetic))
    cells = KMeans(3, n_init=10, random_state=seed).fit(x)
    parts = []
    for cell in range(3):
        inside = [each[cells.predict(each) == cell] for each in (x, h, s)]
        if len(inside[2]) > 20 and len(inside[1]) >= 20 and len(inside[0]):
            parts.append((_nearest(inside[2], inside[0])[0], _nearest(inside[1], inside[0])[0]))
    if not parts:
        return {"c_t": float("nan"), "u_share": float("nan"), "p": float("nan")}
    weights = np.array([len(held) for _, held in parts], np.float64)
    weights /= weights.sum()
    value = float(weights @ [_z(one, two) for one, two in parts])
    share = float(weights @ [_u(one, two) / (len(one) * len(two)) for one, two in parts])
    rng, below = np.random.default_rng(seed), 1
    for _ in range(permutations):
        mixed = [rng.permutation(np.concatenate(pair)) for pair in parts]
        drawn = [(each[: len(one)], each[len(one) :]) for each, (one, _) in zip(mixed, parts, strict=True)]
        below += float(weights @ [_z(one, two) for one, two in drawn]) <= value
    return {"c_t": value, "u_share": share, "p": below / (permutations + 1)}


def overfit_share(train: Features, heldout: Features, synthetic: Features, steps: int = 50, seed: int = 0) -> float:
    """FLD's over-fit share (Jiralerspong 2023, arXiv 2302.04440): in [-1/2, 1/2], above 0 = nearer to train.

    An isotropic Gaussian stands on each synthetic image, its variance fitted so that the mixture is likeliest on
    train; the share whose mean log-likelihood is higher on train than on as many held-out images, minus one half.
    """
    n = min(len(train), len(heldout))
    rng = np.random.default_rng(seed)
    mean, deviation = np.mean(train, 0), np.std(train, 0) + 1e-8
    x, h, s = ((np.asarray(each, np.float64) - mean) / deviation for each in (
        np.asarray(train)[rng.permutation(len(train))[:n]], np.asarray(heldout)[rng.permutation(len(heldout))[:n]],
        synthetic,
    ))  # fmt: skip
    d, to_train, to_held = x.shape[1], _squares(s, x), _squares(s, h)
    log_variance = np.log(np.maximum(to_train.min(1) / d, 1e-6))
    for _ in range(steps):
        # Expectation: how much of each train image stands on each Gaussian; maximisation: its variance.
        log_density = -0.5 * (to_train / np.exp(log_variance)[:, None] + d * log_variance[:, None])
        weight = np.exp(log_density - log_density.max(0))
        weight /= weight.sum(0)
        mass = weight.sum(1)
        fitted = (weight * to_train).sum(1) / np.maximum(mass * d, 1e-12)
        log_variance = np.where(mass > 1e-8, np.log(np.maximum(fitted, 1e-6)), log_variance)
    variance = np.exp(log_variance)[:, None]
    mine, other = (_log_mean(-0.5 * squares / variance) for squares in (to_train, to_held))
    return float((mine > other).mean() + 0.5 * (mine == other).mean() - 0.5)


def _log_mean(values: Floats) -> Floats:
    most = values.max(1)
    return np.asarray(most + np.log(np.exp(values - most[:, None]).mean(1)))


def _squares(a: Floats, b: Floats) -> Floats:
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T
    return np.asarray(np.maximum(squares, 0))


def _nearest(queries: Features, bank: Features, skip_self: bool = False) -> tuple[Floats, NDArray[np.int64]]:
    """Distance and row of the nearest of the bank; skip_self: queries are the bank itself."""
    a, b = np.asarray(queries, np.float64), np.asarray(bank, np.float64)
    distance, index = np.empty(len(a)), np.empty(len(a), np.int64)
    for start in range(0, len(a), BLOCK):
        squares = _squares(a[start : start + BLOCK], b)
        if skip_self:
            squares[np.arange(len(squares)), start + np.arange(len(squares))] = np.inf
        index[start : start + BLOCK] = squares.argmin(1)
        distance[start : start + BLOCK] = np.linalg.norm(
            a[start : start + BLOCK] - b[index[start : start + BLOCK]], axis=1
        )
    return distance, index


def _u(one: Floats, two: Floats) -> float:
    """Pairs in which `one` is larger, ties half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([one, two]))[: len(one)]
    return float(ranks.sum() - len(one) * (len(one) + 1) / 2)


def _z(one: Floats, two: Floats) -> float:
    n, m = len(one), len(two)
    gap = _u(one, two) - n * m / 2
    gap -= 0.5 * np.sign(gap)
    return float(gap / np.sqrt(n * m * (n + m + 1) / 12))
