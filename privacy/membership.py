"""Membership inference from scores: can members of the training set be told from exchangeable non-members?

A score is higher for what looks more like a member (a generator's negative denoising error, a classifier's negative
loss). Every function takes the scores of members [n] and non-members [m] and the patient of each image.
"""

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Floats = NDArray[np.float64]
Estimate = tuple[float, float, float]
DRAWS = 500  # resamples of an interval
LEAST = 10  # patients a group, for five folds


def membership_auroc(members: Scores, others: Scores, member_patients: list[str], other_patients: list[str],
                     seed: int = 0) -> Estimate:  # fmt: skip
    """Area under the ROC curve, 1/2 = no leak, with the percentile interval over resampled patients of both groups."""
    value = _auroc(np.asarray(members, np.float64), np.asarray(others, np.float64))
    draws = [_auroc(one, two) for one, two in _resampled(members, others, member_patients, other_patients, seed)]
    return (value, *_percentiles(draws))


def true_positive_rate(members: Scores, others: Scores, member_patients: list[str], other_patients: list[str],
                       rate: float, seed: int = 0) -> Estimate | None:  # fmt: skip
    """Share of members found at a false-positive rate; None (not resolvable) where rate (m + 1) < 1.

    The threshold is the k-th most member-like non-member, k = floor(rate (m + 1)), recomputed in every resample.
    """
    if rate * (len(others) + 1) < 1:
        return None
    value = _found(np.asarray(members, np.float64), np.asarray(others, np.float64), rate)
    draws = [_found(one, two, rate) for one, two in _resampled(members, others, member_patients, other_patients, seed)]
    return (value, *_percentiles(draws))


def empirical_epsilon(members: Scores, others: Scores, member_patients: list[str], other_patients: list[str],
                      guesses: int, confidence: float = 0.95, delta: float = 0.0) -> float:  # fmt: skip
    """Lower bound of epsilon from one run (Steinke, Nasr & Jagielski 2023, arXiv 2305.08846), 0 or more.

    The `guesses` patients with the most extreme mean scores are guessed, half as members and half as not; with v of r
    right, epsilon >= logit of the one-sided Clopper-Pearson lower bound of v/r; delta > 0 takes its part of the
    confidence (theorem 5.2). guesses is fixed beforehand. The audit's coin makes each patient a member with probability
    1/2, which the bound rests on.
    """
    one, two = _by_patient(members, member_patients), _by_patient(others, other_patients)
    scores = np.concatenate([one, two])
    truth = np.repeat([True, False], [len(one), len(two)])
    half = min(guesses // 2, len(scores) // 2)
    if half < 1:
        return float("nan")
    order = np.argsort(scores, kind="stable")
    right = int(truth[order[-half:]].sum() + (~truth[order[:half]]).sum())
    return _bound(right, 2 * half, len(scores), confidence, delta)


def greatest_epsilon(patients: int, guesses: int, confidence: float = 0.95, delta: float = 0.0) -> float:
    """The bound if every guess were right: more than this `empirical_epsilon` cannot find. patients: of both groups."""
    half = min(guesses // 2, patients // 2)
    return _bound(2 * half, 2 * half, patients, confidence, delta) if half else float("nan")


def _bound(right: int, guessed: int, patients: int, confidence: float, delta: float) -> float:
    """Epsilon's lower bound from so many right guesses."""
    from scipy.stats import beta

    if delta > 0:
        return _bound_with_delta(right, guessed, patients, delta, 1 - confidence)
    low = float(beta.ppf(1 - confidence, right, guessed - right + 1)) if right else 0.0
    return max(0.0, float(np.log(low / (1 - low)))) if 0 < low < 1 else (0.0 if low <= 0 else float("inf"))


def _bound_with_delta(right: int, guessed: int, patients: int, delta: float, error: float) -> float:
    """The largest epsilon whose p value, of so many right guesses, is at most `error`; by bisection."""
    from scipy.stats import binom

    def p_value(epsilon: float) -> float:
        chance = 1 / (1 + np.exp(-epsilon))
        below = np.cumsum(binom.pmf(np.arange(right)[::-1], guessed, chance))  # of v - 1, v - 2, ... right guesses
        slack = float((below / np.arange(1, right + 1)).max()) if right else 0.0
        return min(1.0, float(binom.sf(right - 1, guessed, chance)) + slack * 2 * patients * delta)

    if p_value(0.0) > error:
        return 0.0
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle) <= error else (low, middle)
    return low


def calibrated(losses: Floats, inside: NDArray[np.bool_], place: int) -> Floats:
    """Losses [S, N] of S models and whether each saw each image -> scores [N] of model `place`.

    How far its loss lies below the mean of the other models that did not see the image (offline reference models as in
    RMIA, Zarifzadeh 2024, arXiv 2312.03262, in its simplest form); NaN where there is none.
    """
    others = ~inside.copy()
    others[place] = False
    counts = others.sum(0)
    mean = np.where(others, losses, 0.0).sum(0) / np.maximum(counts, 1)
    return np.where(counts > 0, mean - losses[place], np.nan)


def blind_auroc(members: Scores, others: Scores, member_patients: list[str], other_patients: list[str],
                seed: int = 0, flips: int = 99) -> tuple[float, float]:  # fmt: skip
    """What one that never saw the model achieves on features [n, D] and [m, D], and a one-sided p that it is chance.

    Das, Zhang & Tramèr 2024 (arXiv 2406.16201): ridge regression on 32 principal components, five folds by patient;
    p from flipping the coin over the patients again and fitting anew. Where p is small the groups differ by themselves
    and a membership result is void. NaN with fewer than ten patients in either group.
    """
    from sklearn.decomposition import PCA

    patients = np.array([*member_patients, *other_patients])
    names, which = np.unique(patients, return_inverse=True)
    truth = np.isin(names, member_patients)
    if min(int(truth.sum()), int((~truth).sum())) < LEAST:
        return float("nan"), float("nan")
    x = np.concatenate([members, others]).astype(np.float64)
    x = (x - x.mean(0)) / (x.std(0) + 1e-8)
    x = PCA(min(32, *x.shape), random_state=seed).fit_transform(x)
    rng = np.random.default_rng(seed)
    folds = rng.permutation(len(names)) % 5
    value = _folded(x, truth[which], folds[which])
    above = sum(_folded(x, rng.permutation(truth)[which], folds[which]) >= value for _ in range(flips))
    return value, (1 + above) / (1 + flips)


def _folded(x: Floats, y: NDArray[np.bool_], folds: NDArray[np.int64]) -> float:
    """AUROC of ridge scores, each from the other four folds."""
    scores = np.zeros(len(x))
    for fold in range(5):
        train = folds != fold
        a = np.column_stack([x[train], np.ones(int(train.sum()))])
        weights = np.linalg.solve(a.T @ a + len(a) * 0.1 * np.eye(a.shape[1]), a.T @ (2.0 * y[train] - 1))
        inside = ~train
        raw = np.column_stack([x[inside], np.ones(int(inside.sum()))]) @ weights
        scores[inside] = raw - raw.mean()  # folds differ in their share of members, which no score may use
    return _auroc(scores[y], scores[~y])


def _auroc(members: Floats, others: Floats) -> float:
    """Mann-Whitney's share of pairs, ties half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([members, others]))[: len(members)]
    n, m = len(members), len(others)
    return float((ranks.sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def _found(members: Floats, others: Floats, rate: float) -> float:
    k = max(1, int(rate * (len(others) + 1)))
    threshold = np.sort(others)[::-1][k - 1]
    return float((members > threshold).mean())


def _resampled(
    members: Scores, others: Scores, member_patients: list[str], other_patients: list[str], seed: int
) -> list[tuple[Floats, Floats]]:
    rng = np.random.default_rng(seed)
    parts = [_rows_of(names) for names in (member_patients, other_patients)]
    drawn = []
    for _ in range(DRAWS):
        pair = []
        for scores, rows in zip((members, others), parts, strict=True):
            chosen = rng.integers(0, len(rows), len(rows))
            pair.append(np.asarray(scores, np.float64)[np.concatenate([rows[i] for i in chosen])])
        drawn.append((pair[0], pair[1]))
    return drawn


def _rows_of(patients: list[str]) -> list[NDArray[np.int64]]:
    _, which = np.unique(np.array(patients), return_inverse=True)
    order = np.argsort(which, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(which[order])) + 1)


def _by_patient(scores: Scores, patients: list[str]) -> Floats:
    values = np.asarray(scores, np.float64)
    return np.array([values[rows].mean() for rows in _rows_of(patients)])


def _percentiles(draws: list[float]) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
