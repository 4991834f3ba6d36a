"""Audits with their controls: query control, bank control, and measures of over-fitting as a whole."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom, false_discovery_control

Distances = NDArray[np.float64]
Rows = NDArray[np.int64]
FLIPS = 1000
RESAMPLES = 1000
DEPTH = 64  # nearest patients kept: all are missing from a resample once in e^64


def control_rank(n: int) -> int:
    """k: the threshold is the k-th smallest of n control values, k = floor(0.01 (n + 1)), at least 1."""
    if n < 1:
        raise ValueError(f"{n} control values given; at least one held-out image is needed")
    return max(1, (n + 1) // 100)


def control_threshold(control: Distances) -> float:
    """t, flagged is <= t: the k-th smallest control value float64 [n].

    Where ties put more than k controls at or below it, the next number below: the law stays valid, on the safe side.
    """
    _finite("control", control)
    k = control_rank(len(control))
    t = float(np.sort(control)[k - 1])
    return t if (control <= t).sum() == k else float(np.nextafter(t, -np.inf))


def query_control(synthetic_distances: Distances, control_distances: Distances) -> dict[str, Any]:
    """Compare distances of m synthetic images [m] with those of n held-out ones [n], one a patient, to the same bank.

    Returns k, level p0 = k/(n + 1), threshold t, flagged F = how many lie at or below t, share F/m, p_value P(F' >= F)
    under F' ~ BetaBinomial(m, k, n + 1 - k), excess (F/m - p0)/(1 - p0) cut at 0 with its 95 % interval low, high,
    conformal p-values float64 [m] and called bool [m] (Benjamini-Hochberg at 10 %).
    """
    _finite("synthetic", synthetic_distances)
    t = control_threshold(control_distances)
    m, n = len(synthetic_distances), len(control_distances)
    k = control_rank(n)
    level, flagged = k / (n + 1), int((synthetic_distances <= t).sum())
    nearer = np.searchsorted(np.sort(control_distances), synthetic_distances, side="right")
    conformal = (1 + nearer) / (n + 1)
    low, high = excess_interval(flagged, m, k, n)
    return {
        "k": k, "level": level, "threshold": t, "flagged": flagged, "share": flagged / m,
        "p_value": float(betabinom.sf(flagged - 1, m, k, n + 1 - k)),
        "excess": max(0.0, (flagged / m - level) / (1 - level)), "low": low, "high": high,
        "conformal": conformal, "called": false_discovery_control(conformal) <= 0.1,
    }  # fmt: skip


def excess_interval(flagged: int, m: int, k: int, n: int) -> tuple[float, float]:
    """95 % interval of the share of copies among m images: all c for which both tails of
    F' = c + BetaBinomial(m - c, k, n + 1 - k) exceed 2.5 %, divided by m; covers 96 to 100 %.

    (0, 0) where even c = 0 expects more flagged images than there are.
    """
    c = np.arange(flagged + 1)
    upper = betabinom.sf(flagged - c - 1, m - c, k, n + 1 - k)
    lower = betabinom.cdf(flagged - c, m - c, k, n + 1 - k)
    kept = c[(upper > 0.025) & (lower > 0.025)]
    return (float(kept[0] / m), float(kept[-1] / m)) if len(kept) else (0.0, 0.0)


def control_patients(groups: list[str], seed: int) -> Rows:
    """One random image a patient: rows int64, ascending."""
    order = np.random.default_rng(seed).permutation(len(groups))
    _, first = np.unique(np.array(groups)[order], return_index=True)
    return np.sort(order[first])


def matched_bank(train_labels: Rows, train_groups: list[str], heldout_labels: Rows, seed: int) -> Rows:
    """Rows of train int64, ascending, of the held-out's size and class mix; labels int64 [N] and [H].

    Patients in random order give their images of each class that is still lacking, so that all but the last ones of
    a class are whole. Where train has fewer of a class, all of them: then match the held-out bank to these in turn.
    """
    if len(train_labels) != len(train_groups):
        raise ValueError(f"{len(train_labels)} labels and {len(train_groups)} patients given; one of each an image")
    _, patient = np.unique(np.array(train_groups), return_inverse=True)
    rank = np.random.default_rng(seed).permutation(int(patient.max(initial=-1)) + 1)
    order = np.argsort(rank[patient], kind="stable")
    taken = []
    for label, count in zip(*np.unique(heldout_labels, return_counts=True), strict=True):
        taken.append(order[train_labels[order] == label][:count])
    return np.sort(np.concatenate([np.zeros(0, np.int64), *taken]))


def bank_control(
    distances_train: NDArray[np.floating], groups_train: list[str],
    distances_heldout: NDArray[np.floating], groups_heldout: list[str], seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Are synthetic images nearer to the training bank than to an exchangeable held-out bank?

    Distances [M, N_train] and [M, N_heldout] to two banks of equal size and class mix, and the patient of each bank
    image. share: of images with d_train < d_heldout, ties half; 1/2 if nothing was learnt of individuals. low, high:
    share ± 1.96 SD over resampled patients of both banks, cut to [0, 1]. p_value: exact, one-sided, the coin is
    flipped again over the patients of both banks 1,000 times. ratio float64 [M]: d_train / d_heldout.
    """
    if len(distances_train) != len(distances_heldout):
        raise ValueError(
            f"{len(distances_train)} and {len(distances_heldout)} images given; both banks need the same ones"
        )
    _finite("train", distances_train)
    _finite("held-out", distances_heldout)
    train, heldout = _by_patient(distances_train, groups_train), _by_patient(distances_heldout, groups_heldout)
    d_train, d_heldout = train.min(1), heldout.min(1)
    share = _share(d_train, d_heldout)
    rng = np.random.default_rng(seed)
    near_train, near_heldout = _resampled(train, rng), _resampled(heldout, rng)
    spread = np.std([_share(next(near_train), next(near_heldout)) for _ in range(RESAMPLES)], ddof=1)
    flips = _flipped_shares(np.concatenate([train, heldout], 1), train.shape[1], rng)
    return {
        "share": share,
        "low": max(0.0, share - 1.96 * float(spread)),
        "high": min(1.0, share + 1.96 * float(spread)),
        "p_value": (1 + int((flips >= share - 1e-9).sum())) / (FLIPS + 1),
        "ratio": distance_ratio(d_train, d_heldout),
    }


def distance_ratio(d_train: NDArray[np.floating], d_heldout: NDArray[np.floating]) -> Distances:
    """d_train / d_heldout, float64 [M]; 0/0, a copy of an image in both banks, is 1."""
    safe = np.where(d_heldout > 0, d_heldout, 1)
    return np.where(d_heldout > 0, d_train / safe, np.where(d_train > 0, np.inf, 1.0)).astype(np.float64)


def call_copies(flagged: NDArray[np.bool_], ratio: Distances, control_ratio: Distances) -> NDArray[np.bool_]:
    """A copy needs both: below the query control's threshold (flagged bool [M]), and a ratio d_train/d_heldout [M] in
    the lowest 1 % of the held-out queries' own [n], by the same k rule. bool [M]."""
    if len(flagged) != len(ratio):
        raise ValueError(f"{len(flagged)} flags and {len(ratio)} ratios given; one of each a synthetic image")
    return np.asarray(flagged & (ratio <= control_threshold(control_ratio)))


def adaptive_ratio(neighbour_distances: Distances, alpha: float = 0.5) -> Distances:
    """Distances [Q, n] of each image's n = 50 nearest, ascending -> d_1 / (alpha mean d), float64 [Q] in [0, 1/alpha];
    low only when one neighbour stands out; 1/alpha where all distances are 0 (Carlini 2023)."""
    if neighbour_distances.ndim != 2 or not neighbour_distances.size or alpha <= 0:
        raise ValueError(
            f"distances {neighbour_distances.shape}, alpha {alpha} given; expected [Q, n] and alpha above 0"
        )
    mean = neighbour_distances.mean(1)
    return np.where(mean > 0, neighbour_distances[:, 0] / np.where(mean > 0, mean, 1), 1.0) / alpha


def _share(d_train: NDArray[np.floating], d_heldout: NDArray[np.floating]) -> float:
    return float((d_train < d_heldout).mean() + 0.5 * (d_train == d_heldout).mean())


def _by_patient(distances: NDArray[np.floating], groups: list[str]) -> Distances:
    """Distance to each patient [M, patients]: to the nearest of its images."""
    if distances.ndim != 2 or not distances.size or distances.shape[1] != len(groups):
        raise ValueError(
            f"distances {distances.shape} and {len(groups)} patients given; expected [M, N] and N, above 0"
        )
    names = np.array(groups)
    order = np.argsort(names, kind="stable")
    _, starts = np.unique(names[order], return_index=True)
    return np.asarray(np.minimum.reduceat(distances[:, order], starts, axis=1), np.float64)


def _resampled(by_patient: Distances, rng: np.random.Generator) -> Any:
    """Yields distances [M] to the nearest of as many patients, drawn with replacement, for ever."""
    patients = by_patient.shape[1]
    order = np.argsort(by_patient, axis=1)[:, :DEPTH]
    nearest = np.take_along_axis(by_patient, order, 1)
    while True:
        present = np.zeros(patients, bool)
        present[rng.integers(0, patients, patients)] = True
        first = present[order].argmax(1)
        yield nearest[np.arange(len(nearest)), first]


def _flipped_shares(both: Distances, count: int, rng: np.random.Generator) -> Distances:
    """The share under 1,000 new coins, `count` patients in train: the nearest patient stays, its side changes."""
    nearest = (both == both.min(1, keepdims=True)).astype(np.float32)
    coins = np.zeros((both.shape[1], FLIPS), np.float32)
    for flip in range(FLIPS):
        coins[rng.permutation(both.shape[1])[:count], flip] = 1
    in_train = nearest @ coins  # how many of the equally near patients
    tied = nearest.sum(1, keepdims=True)
    return np.asarray(np.where(in_train == 0, 0, np.where(in_train == tied, 1, 0.5)).mean(0), np.float64)


def _finite(name: str, values: NDArray[np.floating]) -> None:
    if not values.size or np.isnan(values).any():
        raise ValueError(f"{name} distances of shape {values.shape} given; at least one, and none NaN, is needed")


Features = NDArray[np.floating]
Floats = NDArray[np.float64]
BLOCK = 512


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

    if len(train) < 3:
        return {"c_t": float("nan"), "u_share": float("nan"), "p": float("nan")}
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
    train; the share whose mean likelihood is higher on train than on as many held-out images, minus one half.
    Features are standardised by both together: by train alone, train would look nearer.
    """
    n = min(len(train), len(heldout))
    rng = np.random.default_rng(seed)
    x, h = (np.asarray(each, np.float64)[rng.permutation(len(each))[:n]] for each in (train, heldout))
    both = np.concatenate([x, h])
    mean, deviation = both.mean(0), both.std(0) + 1e-8
    x, h, s = ((each - mean) / deviation for each in (x, h, np.asarray(synthetic, np.float64)))
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
