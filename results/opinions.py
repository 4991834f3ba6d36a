"""Second opinions on a difference, and where its spread comes from: DeLong, McNemar, bootstrap, Wilcoxon, SDs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from results.pooling import SETTING, Load, Row, Setting, compare, counterpart, generators_of, settings
from results.statistics import (
    Floats,
    Jackknives,
    averaging,
    holm,
    off_diagonal_mean,
    one_vs_rest,
    p_value,
    patient_covariance,
    patients_of,
    placements,
)
from results.tidy import PLACEBOS

SETS = 6  # data sets below which the signed-rank test cannot reach 5 %
BOOTSTRAP_SEEDS = 10  # seeds below which a bootstrap over them covers far too little
RESAMPLES = 1000


def delong(truth: npt.ArrayLike, one: npt.ArrayLike, two: npt.ArrayLike) -> tuple[float, float]:
    """Binary truth [N] and two scores [N] -> AUROC one minus two, and the two-sided p of their difference.

    DeLong, DeLong and Clarke-Pearson 1988, equations 3 to 8. NaN where a class has fewer than two images; p is 1 where
    the scores order the images alike.
    """
    truth = np.asarray(truth).astype(bool)
    n1, n0 = int(truth.sum()), int((~truth).sum())
    if min(n1, n0) < 2:
        return float("nan"), float("nan")
    wins = np.stack([placements(truth, np.asarray(scores, dtype=np.float64)) for scores in (one, two)])
    theta = wins[:, truth].sum(axis=1) / (n1 * n0)
    covariance = np.cov(wins[:, truth] / n0) / n1 + np.cov(wins[:, ~truth] / n1) / n0
    difference = float(theta[0] - theta[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= 1e-18:
        return difference, 1.0 if abs(difference) < 1e-12 else float("nan")
    return difference, float(2 * stats.norm.sf(abs(difference) / np.sqrt(variance)))


def mcnemar(one: npt.ArrayLike, two: npt.ArrayLike) -> float:
    """Whether each image was judged right, bool [N], by two models -> exact two-sided p (McNemar 1947)."""
    one, two = np.asarray(one, dtype=bool), np.asarray(two, dtype=bool)
    only_one, only_two = int((one & ~two).sum()), int((two & ~one).sum())
    if only_one + only_two == 0:
        return 1.0
    return float(stats.binomtest(only_one, only_one + only_two).pvalue)


def wilcoxon(differences: npt.ArrayLike) -> float:
    """One difference a data set -> two-sided p of the signed-rank test; NaN below six sets or where all are 0."""
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < SETS or not values.any():
        return float("nan")
    return float(stats.wilcoxon(values).pvalue)


def bootstrap(
    kept: list[tuple[Mapping[str, Any], Mapping[str, Any]]], resamples: int = RESAMPLES, seed: int = 0,
    generators: Sequence[int] = (),
) -> tuple[float, float]:  # fmt: skip
    """Pairs of cells' labels, probabilities, groups, task, one a seed -> 95 % percentile interval of the difference.

    Patients are resampled within the class of their first image, so that no class vanishes, the same for all seeds;
    seeds are resampled too, averaged over those of one generator where there are several of each.
    """
    first = kept[0][0]
    labels, task, rng = np.asarray(first["labels"]), str(first["task"]), np.random.default_rng(seed)
    weights = _patient_weights(labels, patients_of(first.get("groups"), len(labels)), resamples, rng)
    by_seed = np.stack([_weighted(one, task, weights) - _weighted(two, task, weights) for one, two in kept])
    by_seed = averaging(generators or range(len(kept))) @ by_seed
    chosen = rng.integers(0, len(by_seed), (resamples, len(by_seed)))
    means = by_seed[chosen, np.arange(resamples)[:, None]].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _patient_weights(
    labels: npt.NDArray[Any], patients: npt.NDArray[np.int64], resamples: int, rng: np.random.Generator
) -> Floats:
    """How often each image is drawn, float64 [resamples, N]."""
    keys = labels if labels.ndim == 1 else np.unique(labels, axis=0, return_inverse=True)[1].ravel()
    _, first = np.unique(patients, return_index=True)
    strata, times = keys[first], np.zeros((resamples, len(first)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        times[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
    return times[:, patients]


def _weighted(kept: Mapping[str, Any], task: str, weights: Floats) -> Floats:
    """Macro AUROC under each row of weights."""
    scores = np.asarray(kept["probabilities"], dtype=np.float64)
    parts = [_weighted_auroc(truth, column, weights)
             for truth, column in one_vs_rest(np.asarray(kept["labels"]), scores, task)
             if truth.any() and not truth.all()]  # fmt: skip
    return np.asarray(np.nanmean(parts, axis=0))


def _weighted_auroc(truth: npt.NDArray[Any], scores: Floats, weights: Floats) -> Floats:
    _, group = np.unique(scores, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    positive = np.add.reduceat(weights[:, order] * truth[order], starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * ~np.asarray(truth[order], dtype=bool), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.asarray((positive * below).sum(axis=1) / np.where(pairs > 0, pairs, np.nan))


def opinion_rows(
    cells: pd.DataFrame, load: Load | Jackknives, claims: pd.DataFrame, generators: Mapping[str, int] | None = None
) -> list[Row]:
    """Per-seed AUROC rows -> `delong_p` a class and `mcnemar_p` of the first seed's pair; `sd_*`; `wilcoxon_p`.

    From ten seeds up the claimed contrasts also get `auroc_difference_bootstrap`. `versus_best_p`: of a paired
    difference from the best setting of the same data set, budget, backbone and variant, uncorrected.
    """
    found, jackknives = settings(cells), load if isinstance(load, Jackknives) else Jackknives(load)
    rows = [row for setting in found for row in _pair(setting, found, jackknives.load)]
    rows += [row for setting in found for row in _spread(setting, found, jackknives, generators)]
    rows += [row for setting in found for row in _resampled(setting, found, jackknives.load, claims, generators)]
    rows += _against_best(found, jackknives, generators)
    return rows + _over_sets(claims)


def _pair(setting: Setting, found: list[Setting], load: Load) -> list[Row]:
    """One pair of trained models; nothing where images share patients, whose dependence these tests do not know."""
    real = counterpart(setting, found, "real") if setting["arm"] != "real" else None
    shared = sorted(setting.cells.keys() & real.cells.keys()) if real else []
    if real is None or not shared:
        return []
    one, two = load(setting.cells[shared[0]]), load(real.cells[shared[0]])
    groups = one.get("groups")
    if groups is not None and len(set(groups)) < len(groups):
        return []
    labels, task = np.asarray(one["labels"]), str(one["task"])
    scores = [np.asarray(each["probabilities"], dtype=np.float64) for each in (one, two)]
    shared_keys = {**setting.columns, "seed": shared[0], "n": len(labels), "n_train": setting.n_train}
    columns = [one_vs_rest(labels, each, task) for each in scores]
    names = [str(name) for name in one.get("classes") or range(len(columns[0]))]
    names = names[-1:] if len(columns[0]) == 1 else names
    rows = [
        shared_keys | {"group": name, "metric": "delong_p", "value": delong(truth, mine, theirs)[1]}
        for name, (truth, mine), (_, theirs) in zip(names, *columns, strict=True)
    ]
    if labels.ndim == 2:  # a label at a time: labels of one image depend on each other
        right = [(each >= 0.5) == (labels > 0) for each in scores]
        pairs = {name: (right[0][:, k], right[1][:, k]) for k, name in enumerate(names)}
    else:
        pairs = {"all": (scores[0].argmax(axis=1) == labels, scores[1].argmax(axis=1) == labels)}
    return rows + [shared_keys | {"group": name, "metric": "mcnemar_p", "value": mcnemar(*pair)}
                   for name, pair in pairs.items()]  # fmt: skip


def _spread(
    setting: Setting, found: list[Setting], jackknives: Jackknives, generators: Mapping[str, int] | None
) -> list[Row]:
    """Standard deviations of one model's AUROC by source (Bouthillier 2021), those not told apart left out.

    patients: shared by all seeds; seeds: all that changes with the seed; initialisation: seeds of `real` at 100 %,
    where the subset is the whole; subset: what a smaller budget of `real` adds; generator: what a synthetic arm adds
    to `real`. By differences of variances, 0 where they are negative.
    """
    if len(setting.cells) < 2:
        return []
    whole = [each for each in found if each["arm"] == "real" and each["budget"] == 1 and _alike(each, setting)]
    real = counterpart(setting, found, "real") if setting["arm"] != "real" else None
    own, patients = _variances(setting, jackknives)
    sources = {"patients": patients, "seeds": own}
    if setting["arm"] == "real" and whole:
        start = _variances(whole[0], jackknives)[0]
        sources |= {"initialisation": start} | ({"subset": own - start} if setting["budget"] < 1 else {})
    name = setting["generator"]
    several = name not in ("", *PLACEBOS) and len(set(generators_of(setting, sorted(setting.cells), generators))) > 1
    if real and several and len(real.cells) > 1:
        sources["generator"] = own - _variances(real, jackknives)[0]
    keys = setting.columns | {"group": "all", "n_train": setting.n_train}
    return [
        keys | {"metric": f"sd_{name}", "value": float(np.sqrt(max(value, 0.0)))}
        for name, value in sources.items() if value == value
    ]  # fmt: skip


def _alike(one: Setting, two: Setting) -> bool:
    return all(one[name] == two[name] for name in ("dataset", "backbone", "variant"))


def _variances(setting: Setting, jackknives: Jackknives) -> tuple[float, float]:
    """Variance of the score between seeds, and the patients' that all seeds share."""
    scores = [jackknives(cell, "auroc") for _, cell in sorted(setting.cells.items())]
    if len(scores) < 2:
        return float("nan"), float("nan")
    covariance = patient_covariance(np.stack([score.replicates for score in scores]))
    return float(np.var([score.value for score in scores], ddof=1)), off_diagonal_mean(covariance)


def _resampled(
    setting: Setting, found: list[Setting], load: Load, claims: pd.DataFrame, generators: Mapping[str, int] | None
) -> list[Row]:
    """The claimed contrast against real again, by resampling."""
    if claims.empty or setting["arm"] == "real" or len(setting.cells) < BOOTSTRAP_SEEDS:
        return []
    same = claims["claim"] & (claims["against"] == "real")
    for name in SETTING:
        same &= (claims[name] == setting[name]) | (claims[name].isna() & (setting[name] != setting[name]))
    real = counterpart(setting, found, "real")
    if real is None or not same.any():
        return []
    seeds = sorted(setting.cells.keys() & real.cells.keys())
    kept = [(load(setting.cells[seed]), load(real.cells[seed])) for seed in seeds]
    low, high = bootstrap(kept, generators=generators_of(setting, seeds, generators))
    value = float(claims.loc[same, "difference"].iloc[0])
    numbers = {"metric": "auroc_difference_bootstrap", "value": value, "low": low, "high": high}
    return [setting.columns | {"group": "all", "n_train": setting.n_train} | numbers]


def _against_best(found: list[Setting], jackknives: Jackknives, generators: Mapping[str, int] | None) -> list[Row]:
    groups: dict[tuple[str, ...], list[Setting]] = {}
    for each in found:
        keys = tuple(str(each[name]) for name in ("dataset", "budget", "backbone", "variant"))
        groups.setdefault(keys, []).append(each)
    rows = []
    for group in groups.values():
        best = max(group, key=lambda each: _mean(each, jackknives))
        for each in (each for each in group if each is not best):
            estimate = compare(each, best, jackknives, generators)
            if estimate is not None:
                columns = each.columns | {"group": "all", "n_train": each.n_train}
                rows.append(columns | {"metric": "versus_best_p", "value": p_value(estimate)})
    return rows


def _mean(setting: Setting, jackknives: Jackknives) -> float:
    return float(np.nan_to_num(np.mean([jackknives(cell, "auroc").value for cell in setting.cells.values()])))


def _over_sets(claims: pd.DataFrame) -> list[Row]:
    """Every arm at every budget over at least six data sets: `wilcoxon_p` (n = sets) and `wilcoxon_p_holm`."""
    if claims.empty:
        return []
    keys = [name for name in SETTING if name != "dataset"]
    rows: list[Row] = []
    for key, part in claims[claims["against"] == "real"].groupby(keys, dropna=False, sort=True):
        p = wilcoxon(part["difference"])
        if p == p:
            shared = dict(zip(keys, key, strict=True)) | {"stage": "classify", "group": "all", "n": len(part)}
            rows.append(shared | {"metric": "wilcoxon_p", "value": p})
    adjusted = holm([float(row["value"]) for row in rows])
    return rows + [row | {"metric": "wilcoxon_p_holm", "value": p} for row, p in zip(rows, adjusted, strict=True)]
