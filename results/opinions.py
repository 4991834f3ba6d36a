"""Second opinions on a difference, where its spread comes from, and which measure of the images foretells it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from results.claims import PLACEBOS, lower_is_better
from results.pooling import SETTING, Load, Row, Setting, compare, counterpart, settings
from results.statistics import (
    Floats,
    Jackknives,
    holm,
    off_diagonal_mean,
    one_vs_rest,
    p_value,
    patient_covariance,
    patients_of,
    placements,
)
from results.tidy import Results

SETS = 6  # data sets below which the signed-rank test cannot reach 5 %
BOOTSTRAP_SEEDS = 10  # seeds below which a bootstrap over them covers far too little
RESAMPLES = 1000
MEASURES = ("frechet", "kernel", "precision", "recall", "density", "coverage", "vendi", "ms_ssim", "label_consistency",
            "two_sample_auroc", "authentic_difference")  # fmt: skip
FACTORS = ["generator", "exposure", "variant"]


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
    kept: list[tuple[Mapping[str, Any], Mapping[str, Any]]], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Pairs of cells' labels, probabilities, groups, task, one a seed -> 95 % percentile interval of the difference.

    Patients are resampled within the class of their first image, so that no class vanishes, the same for all seeds;
    seeds are resampled too.
    """
    first = kept[0][0]
    labels, task, rng = np.asarray(first["labels"]), str(first["task"]), np.random.default_rng(seed)
    weights = _patient_weights(labels, patients_of(first.get("groups"), len(labels)), resamples, rng)
    by_seed = np.stack([_weighted(one, task, weights) - _weighted(two, task, weights) for one, two in kept])
    chosen = rng.integers(0, len(kept), (resamples, len(kept)))
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


def opinion_rows(cells: pd.DataFrame, load: Load, claims: pd.DataFrame) -> list[Row]:
    """Per-seed AUROC rows -> `delong_p` a class and `mcnemar_p` of the first seed's pair; `sd_*`; `wilcoxon_p`.

    From ten seeds up the claimed contrasts also get `auroc_difference_bootstrap`. `versus_best_p`: of a paired
    difference from the best setting of the same data set, budget, backbone and variant, uncorrected.
    """
    found, jackknives = settings(cells), Jackknives(load)
    rows = [row for setting in found for row in _pair(setting, found, load)]
    rows += [row for setting in found for row in _spread(setting, found, jackknives)]
    rows += [row for setting in found for row in _resampled(setting, found, load, claims)]
    rows += _against_best(found, jackknives)
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
    right = [(each >= 0.5) == (labels > 0) if labels.ndim == 2 else each.argmax(axis=1) == labels for each in scores]
    return [*rows, shared_keys | {"group": "all", "metric": "mcnemar_p", "value": mcnemar(*map(np.ravel, right))}]


def _spread(setting: Setting, found: list[Setting], jackknives: Jackknives) -> list[Row]:
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
    if real and setting["generator"] and len(real.cells) > 1:
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


def _resampled(setting: Setting, found: list[Setting], load: Load, claims: pd.DataFrame) -> list[Row]:
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
    low, high = bootstrap(kept)
    value = float(claims.loc[same, "difference"].iloc[0])
    numbers = {"metric": "auroc_difference_bootstrap", "value": value, "low": low, "high": high}
    return [setting.columns | {"group": "all", "n_train": setting.n_train} | numbers]


def _against_best(found: list[Setting], jackknives: Jackknives) -> list[Row]:
    groups: dict[tuple[str, ...], list[Setting]] = {}
    for each in found:
        keys = tuple(str(each[name]) for name in ("dataset", "budget", "backbone", "variant"))
        groups.setdefault(keys, []).append(each)
    rows = []
    for group in groups.values():
        best = max(group, key=lambda each: _mean(each, jackknives))
        for each in (each for each in group if each is not best):
            estimate = compare(each, best, jackknives)
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


def measured_gains(results: Results) -> pd.DataFrame:
    """measure, dataset, generator, exposure, variant, value, gain: every measure beside the gain of its own images."""
    claims, table = results.claims, results.table
    columns = ["measure", "dataset", "generator", "exposure", "variant", "value", "gain"]
    if claims.empty:
        return pd.DataFrame(columns=columns)
    gains = claims[(claims["arm"] == "augmented") & (claims["against"] == "real") & ~claims["generator"].isin(PLACEBOS)]
    gains = gains[(gains["backbone"] == results.backbone) & (gains["budget"] == gains["budget"].min())]
    keys = ["dataset", "generator", "exposure", "variant"]
    gains = gains.drop_duplicates(keys)[[*keys, "difference"]]
    kept = table[table["seed"].isna() & (table["group"] == "all") & table["stage"].isin(["fidelity", "audit"])]
    kept = kept[kept["metric"].str.startswith(MEASURES)].drop_duplicates([*keys, "metric"])
    pairs = kept.merge(gains, on=keys).rename(columns={"metric": "measure", "difference": "gain"})
    pairs = pairs.dropna(subset=["value", "gain"])
    enough = pairs.groupby("measure")["gain"].transform("size") >= 4
    return pairs.loc[enough, columns].sort_values(["measure", *keys], ignore_index=True)


def spearman(pairs: pd.DataFrame) -> float:
    """Rank correlation of measure and gain; NaN where either does not vary."""
    return _rho(pairs["value"].to_numpy(dtype=np.float64), pairs["gain"].to_numpy(dtype=np.float64))


def _rho(values: Floats, gains: Floats) -> float:
    if len(values) < 2 or np.ptp(values) == 0 or np.ptp(gains) == 0:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(values), stats.rankdata(gains))[0, 1])


def predictors_table(results: Results) -> pd.DataFrame:
    """Which measure predicts utility: one row a measure.

    rho: Spearman's over all data sets and generators, with a percentile interval from resampling both (from three sets
    up); within: its mean inside the data sets that have three generators or more; p: gains permuted inside each set
    (among all where each set has one generator), with Holm over measures; regret: AUROC lost on average where each
    set's generator is chosen by this measure instead of by its gain (sets with two generators or more).
    """
    pairs = measured_gains(results)
    rows = [_predicts(str(measure), part) for measure, part in pairs.groupby("measure")]
    columns = ["measure", "rho", "rho_low", "rho_high", "within", "p", "p_holm", "regret", "pairs", "sets"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=holm(table["p"].to_numpy(dtype=np.float64))) if len(table) else table


def _predicts(measure: str, pairs: pd.DataFrame) -> Row:
    rng, groups = np.random.default_rng(0), [part for _, part in pairs.groupby("dataset")]
    rho, within = spearman(pairs), [spearman(part) for part in groups if len(part) >= 3]
    low, high = _both_resampled(pairs, rng) if len(groups) >= 3 else (float("nan"), float("nan"))
    sign = -1.0 if lower_is_better(measure) else 1.0
    several = [part for part in groups if len(part) > 1]
    lost = [part["gain"].max() - part["gain"].iloc[int(np.argmax(sign * part["value"]))] for part in several]
    return {
        "measure": measure, "rho": rho, "rho_low": low, "rho_high": high, "pairs": len(pairs), "sets": len(groups),
        "within": float(np.nanmean(within)) if np.isfinite(within).any() else float("nan"),
        "p": _permuted(pairs, rho, rng), "regret": float(np.mean(lost)) if lost else float("nan"),
    }  # fmt: skip


def _permuted(pairs: pd.DataFrame, rho: float, rng: np.random.Generator) -> float:
    """Two-sided p: gains change places inside their set, or among all sets where each has one."""
    if rho != rho:
        return rho
    sets = pairs["dataset"].to_numpy() if pairs["dataset"].duplicated().any() else np.zeros(len(pairs))
    values, gains = (stats.rankdata(pairs[name]) for name in ("value", "gain"))
    drawn = np.tile(gains, (RESAMPLES, 1))
    for name in np.unique(sets):
        mine = np.flatnonzero(sets == name)
        drawn[:, mine] = rng.permuted(drawn[:, mine], axis=1)
    found = np.corrcoef(values, drawn)[0, 1:]
    return float((1 + (np.abs(found) >= abs(rho) - 1e-12).sum()) / (1 + RESAMPLES))


def _both_resampled(pairs: pd.DataFrame, rng: np.random.Generator) -> tuple[float, float]:
    """Percentile interval of rho over data sets and generators drawn anew."""
    sets = pairs["dataset"].astype("category").cat.codes.to_numpy()
    kinds = pairs[FACTORS].agg("|".join, axis=1).astype("category").cat.codes.to_numpy()
    values, gains = (pairs[name].to_numpy(dtype=np.float64) for name in ("value", "gain"))
    drawn = []
    for _ in range(RESAMPLES // 2):
        times = [np.bincount(rng.integers(0, n, n), minlength=n) for n in (sets.max() + 1, kinds.max() + 1)]
        rows = np.repeat(np.arange(len(pairs)), times[0][sets] * times[1][kinds])
        drawn.append(_rho(values[rows], gains[rows]))
    known = np.array(drawn)[np.isfinite(drawn)]
    if len(known) < RESAMPLES // 10:
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
