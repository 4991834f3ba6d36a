"""Metrics of a classifier from labels and stored probabilities, and a classifier as judge of images; no torch."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Labels = NDArray[Any]  # int64 [N]; multi-label uint8 [N, K]
Probabilities = NDArray[np.float64]  # [N, K] in [0, 1]
Truth = NDArray[np.bool_]  # [N, K]
Features = NDArray[np.floating]
Estimate = tuple[float, float, float]  # value, low, high
TASKS = ("multiclass", "multilabel", "ordinal")
BINS = 15
PROBE = 64  # principal components
SMALLEST = float(np.finfo(np.float64).eps)  # a probability of 0 counts as this in the log loss, as in scikit-learn


def score(labels: Labels, probabilities: Probabilities, task: str) -> dict[str, float]:
    """All metrics of one set of predictions; NaN where one is undefined.

    labels int64 [N] ('multiclass', 'ordinal') or uint8 [N, K] ('multilabel'); probabilities float64 [N, K].
    Better high, in [0, 1]: `auroc` macro one-vs-rest (two classes: of class 1; classes without both kinds are left
    out), `average_precision` macro over the same classes (two: both), `accuracy`, `balanced_accuracy` mean recall of
    the classes present, `macro_f1` over the classes present or predicted; ordinal: `quadratic_kappa` in [-1, 1].
    Better low: `calibration_error` (see there), `brier` summed over classes in [0, 2], `log_loss` in nats.
    multilabel: each is the mean over labels of the binary metric, decisions at 0.5: `accuracy` share of right
    decisions, `balanced_accuracy` mean of sensitivity and specificity, `macro_f1` of the positives,
    `calibration_error` of the decision taken, `brier` (p - y)^2, `log_loss` binary cross-entropy.
    """
    truth = indicator(labels, probabilities, task)
    both = truth.any(0) & ~truth.all(0)
    columns = np.flatnonzero(both)
    if truth.shape[1] == 2 and task != "multilabel":
        columns = columns[columns == 1]
    found = {
        "auroc": _mean(_auroc(truth[:, k], probabilities[:, k]) for k in columns),
        "average_precision": _mean(_precision(truth[:, k], probabilities[:, k]) for k in np.flatnonzero(both)),
    }
    if task == "multilabel":
        return found | _multilabel(truth, probabilities)
    found |= _single(truth, probabilities)
    if task == "ordinal":
        found["quadratic_kappa"] = quadratic_kappa(labels, probabilities.argmax(1), truth.shape[1])
    return found


def per_class(labels: Labels, probabilities: Probabilities, task: str) -> dict[str, NDArray[np.float64]]:
    """`recall` and `auroc` (one against the rest) of each class, float64 [K]; NaN where the class has no image, and
    for the AUROC where no other class has one. multilabel: decisions at 0.5."""
    truth = indicator(labels, probabilities, task)
    chosen = _chosen(probabilities, task)
    hits, present = (truth & chosen).sum(0), truth.sum(0)
    recall = np.where(present > 0, hits / np.maximum(present, 1), np.nan)
    aurocs = [_auroc(truth[:, k], probabilities[:, k]) for k in range(truth.shape[1])]
    return {"recall": recall, "auroc": np.array(aurocs)}


def indicator(labels: Labels, probabilities: Probabilities, task: str) -> Truth:
    """Labels -> bool [N, K], after checking that they fit the probabilities and the task."""
    if task not in TASKS:
        raise ValueError(f"task {task!r} given; allowed: {', '.join(TASKS)}")
    if probabilities.ndim != 2 or not probabilities.size:
        raise ValueError(f"probabilities of shape {probabilities.shape} given; expected [N, K] with N and K above 0")
    if not (np.isfinite(probabilities) & (probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
        low, high = probabilities.min(), probabilities.max()
        raise ValueError(f"probabilities between {low} and {high} given; they must be finite and in [0, 1]")
    n, classes = probabilities.shape
    if labels.shape != ((n, classes) if task == "multilabel" else (n,)):
        raise ValueError(f"labels of shape {labels.shape} given for {task} probabilities of shape {(n, classes)}")
    allowed = 2 if task == "multilabel" else classes
    if not np.isin(labels, np.arange(allowed)).all():
        raise ValueError(f"labels {labels.min()} to {labels.max()} given; allowed: whole numbers 0 to {allowed - 1}")
    return labels.astype(bool) if task == "multilabel" else np.asarray(labels[:, None] == np.arange(classes))


def calibration_error(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Mean |accuracy - confidence| over 15 bins of equal mass, in [0, 1], better low (Nguyen & O'Connor 2015).

    right bool [N]; confidence float64 [N] of the decision. Equal confidences are split between bins in file order.
    """
    order = np.argsort(confidence, kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    return float(sum(abs(right[part].mean() - confidence[part].mean()) * len(part) for part in bins) / len(right))


def reliability(
    labels: Labels, probabilities: Probabilities, task: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean confidence of the decision and share right, each float64 [bins], in bins of equal mass, ascending."""
    truth, chosen = indicator(labels, probabilities, task), _chosen(probabilities, task)
    if task == "multilabel":
        right, confidence = (truth == chosen).ravel(), np.maximum(probabilities, 1 - probabilities).ravel()
    else:
        right, confidence = (truth & chosen).any(1), probabilities.max(1)
    bins = [part for part in np.array_split(np.argsort(confidence, kind="stable"), BINS) if len(part)]
    return np.array([confidence[part].mean() for part in bins]), np.array([right[part].mean() for part in bins])


def quadratic_kappa(labels: Labels, chosen: Labels, classes: int) -> float:
    """Cohen's kappa with weights (i - j)^2, in [-1, 1]; NaN where labels and decisions are all one class."""
    grades = np.arange(classes)
    p = np.bincount(labels, minlength=classes) / len(labels)
    q = np.bincount(chosen, minlength=classes) / len(labels)
    expected = float((np.square(grades[:, None] - grades) * np.outer(p, q)).sum())
    observed = float(np.square(labels - chosen).mean())
    return 1 - observed / expected if expected else float("nan")


def _chosen(probabilities: Probabilities, task: str) -> Truth:
    if task == "multilabel":
        return np.asarray(probabilities >= 0.5)
    return np.asarray(probabilities.argmax(1)[:, None] == np.arange(probabilities.shape[1]))


def _single(truth: Truth, probabilities: Probabilities) -> dict[str, float]:
    chosen = _chosen(probabilities, "multiclass")
    right = np.asarray((truth & chosen).any(1))
    hits, present = (truth & chosen).sum(0), truth.any(0)
    f1 = 2 * hits / np.maximum(truth.sum(0) + chosen.sum(0), 1)
    assigned = np.clip(probabilities[truth], SMALLEST, 1)
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float((hits[present] / truth.sum(0)[present]).mean()),
        "macro_f1": float(f1[present | chosen.any(0)].mean()),
        "calibration_error": calibration_error(right, probabilities.max(1)),
        "brier": float(np.square(probabilities - truth).sum(1).mean()),
        "log_loss": float(-np.log(assigned).mean()),
    }


def _multilabel(truth: Truth, probabilities: Probabilities) -> dict[str, float]:
    chosen = _chosen(probabilities, "multilabel")
    right, confidence = np.asarray(truth == chosen), np.maximum(probabilities, 1 - probabilities)
    hits, positives, rejects = (truth & chosen).sum(0), truth.sum(0), (~truth & ~chosen).sum(0)
    both = (positives > 0) & (positives < len(truth))
    balanced = (hits[both] / positives[both] + rejects[both] / (len(truth) - positives[both])) / 2
    alarms = positives + chosen.sum(0)
    assigned = np.clip(np.where(truth, probabilities, 1 - probabilities), SMALLEST, 1)
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": _mean(balanced),
        "macro_f1": _mean(2 * hits[alarms > 0] / alarms[alarms > 0]),
        "calibration_error": _mean(calibration_error(right[:, k], confidence[:, k]) for k in range(truth.shape[1])),
        "brier": float(np.square(probabilities - truth).mean()),
        "log_loss": float(-np.log(assigned).mean()),
    }


def _auroc(truth: NDArray[np.bool_], values: NDArray[np.float64]) -> float:
    """Share of (positive, negative) pairs in the right order, ties half: Mann-Whitney's U over its maximum."""
    positive = int(truth.sum())
    negative = len(truth) - positive
    if not positive or not negative:
        return float("nan")
    ranks = float(rankdata(values)[truth].sum())
    return (ranks - positive * (positive + 1) / 2) / (positive * negative)


def _precision(truth: NDArray[np.bool_], values: NDArray[np.float64]) -> float:
    """Average precision: precision at each threshold weighted by the recall it adds."""
    order = np.argsort(-values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)  # of each run of equal values
    hits = np.cumsum(truth[order])[last]
    gained = np.diff(hits, prepend=0) / truth.sum()
    return float((gained * hits / (last + 1)).sum())


def _mean(values: Iterable[float]) -> float:
    """Mean, NaN of nothing."""
    known = list(values)
    return float(np.mean(known)) if known else float("nan")


def two_sample(
    real: Features, other: Features, groups: list[str], other_groups: list[str], seed: int = 0
) -> dict[str, Estimate]:
    """Accuracy and AUROC of a linear classifier that tells real [N, D] from other [N, D]; 1/2 = it cannot.

    Lopez-Paz & Oquab 2017 (arXiv 1610.06545). Both sets are halved by their groups (patients): one half trains a
    logistic regression, the other is judged. The interval of the accuracy is binomial and exact (Clopper-Pearson);
    that of the AUROC is DeLong's, normal. `two_sample_smallest`: the smallest accuracy that would be noticed, 0.5 +
    1.24 / sqrt(n judged).
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
    unknown = float("nan")
    return {
        "two_sample_smallest": (0.5 + 1.24 / float(np.sqrt(len(truth))), unknown, unknown),
        "two_sample_accuracy": (right / len(truth), *binomial_interval(right, len(truth))),
        "two_sample_auroc": delong_auroc(chance[truth == 0], chance[truth == 1]),
    }


def probe_alignment(real: Features, real_truth: Truth, other: Features, other_truth: Truth) -> float:
    """Share of a real-data linear probe's weights that lies in the span of other images' differences between classes.

    In [0, 1]: about K / 64 by chance, 1 if the others separate the classes along the probe's directions; no classifier
    is trained on them. Features [N, D] on the real ones' first whitened components, classes bool [N, K]; classes
    that all or none of the others have are left out. Idea of arXiv 2605.09697 (its abstract); formula ours.
    """
    mean, deviation = real.mean(0), real.std(0) + 1e-8
    x, z = ((each.astype(np.float64) - mean) / deviation for each in (real, other))
    _, size, axes = np.linalg.svd(x, full_matrices=False)
    kept = min(PROBE, int((size > 1e-6 * size.max()).sum()))
    x, z = (each @ axes[:kept].T / size[:kept] * np.sqrt(len(real)) for each in (x, z))
    probe = x.T @ (real_truth - real_truth.mean(0))  # least squares, for x is white
    both, total = other_truth.any(0) & ~other_truth.all(0), float((probe**2).sum())
    if not both.any() or total == 0:
        return float("nan")
    gaps = [z[other_truth[:, k]].mean(0) - z[~other_truth[:, k]].mean(0) for k in np.flatnonzero(both)]
    directions, spread, _ = np.linalg.svd(np.stack(gaps, 1), full_matrices=False)
    directions = directions[:, spread > 1e-9 * spread.max()]
    return float(((directions.T @ probe) ** 2).sum()) / total


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


def delong_auroc(negative: NDArray[Any], positive: NDArray[Any]) -> Estimate:
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


def chance_consistency(labels: NDArray[Any], probabilities: NDArray[np.float64]) -> float:
    """What `label_consistency` would be of the same answers dealt to the same labels at random: Cohen's chance
    agreement (1960)."""
    if labels.ndim == 2:
        asked, seen = (labels > 0).mean(0), (probabilities > 0.5).mean(0)
        return float((asked * seen + (1 - asked) * (1 - seen)).mean())
    asked, seen = (np.bincount(each, minlength=probabilities.shape[1]) / len(labels)
                   for each in (labels, probabilities.argmax(1)))  # fmt: skip
    return float(asked @ seen)
