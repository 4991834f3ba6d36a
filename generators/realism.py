"""Can real and synthetic be told apart, and is what was asked for there: on arrays, with exact intervals."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]
Estimate = tuple[float, float, float]


def two_sample(
    real: Features, other: Features, groups: list[str], other_groups: list[str], seed: int = 0
) -> dict[str, Estimate]:
    """Accuracy and AUROC of a linear classifier that tells real [N, D] from other [N, D]; 1/2 = it cannot.

    Lopez-Paz & Oquab 2017 (arXiv 1610.06545). Both sets are halved by their groups (patients): one half trains a
    logistic regression, the other is judged. The interval of the accuracy is binomial and exact (Clopper-Pearson);
    that of the AUROC is DeLong's, normal. The smallest accuracy that would be noticed is 0.5 + 1.24 / sqrt(n).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n = min(len(real), len(other))
    rng = np.random.default_rng(seed)
    in_real, in_other = _half(groups[:n], rng), _half(other_groups[:n], rng)
    x = np.concatenate([real[:n], other[:n]]).astype(np.float64)
    y = np.repeat([0, 1], n)
    train = np.concatenate([in_real, in_other])
    if train.all() or not train.any():
        raise ValueError(f"{len(set(groups[:n]))} patients given; at least two are needed to train and to judge")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    model.fit(x[train], y[train])
    chance = np.asarray(model.predict_proba(x[~train])[:, 1])
    truth = y[~train]
    right = int(((chance > 0.5) == truth).sum())
    return {
        "two_sample_accuracy": (right / len(truth), *binomial_interval(right, len(truth))),
        "two_sample_auroc": auroc(chance[truth == 0], chance[truth == 1]),
    }


def _half(groups: list[str], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Images of a random half of the groups."""
    names = sorted(set(groups))
    first = {names[i] for i in rng.permutation(len(names))[: len(names) // 2]}
    return np.array([group in first for group in groups])


def binomial_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper & Pearson's interval of a share."""
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = float(beta.ppf(tail, successes, n - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, n - successes)) if successes < n else 1.0
    return low, high


def auroc(negative: NDArray[Any], positive: NDArray[Any]) -> Estimate:
    """Area under the ROC curve with DeLong's interval (DeLong 1988), cut to [0, 1]."""
    above = (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])
    value = float(above.mean())
    if min(len(negative), len(positive)) < 2:
        return value, float("nan"), float("nan")
    variance = above.mean(1).var(ddof=1) / len(positive) + above.mean(0).var(ddof=1) / len(negative)
    reach = 1.959964 * float(np.sqrt(variance))
    return value, max(0.0, value - reach), min(1.0, value + reach)


def label_consistency(labels: NDArray[Any], probabilities: NDArray[np.float64]) -> Estimate:
    """Share of images to which a classifier of real data gives the label asked for, exact binomial interval.

    labels int64 [N], or uint8 [N, K]: then the mean share of an image's labels that are right at 1/2, with a normal
    interval over images. Ravuri & Vinyals 2019.
    """
    if labels.ndim == 2:
        share = ((probabilities > 0.5) == (labels > 0)).mean(1)
        value, reach = float(share.mean()), 1.959964 * float(share.std(ddof=1) / np.sqrt(len(share)))
        return value, max(0.0, value - reach), min(1.0, value + reach)
    right = probabilities.argmax(1) == labels
    return (float(right.mean()), *binomial_interval(int(right.sum()), right.size))
