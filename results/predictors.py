"""Which measure of synthetic images foretells the gain that they bring. PROTOCOL section 5."""

import numpy as np
import pandas as pd
from scipy import stats

from results.claims import PLACEBOS, lower_is_better
from results.pooling import Row
from results.statistics import Floats, holm
from results.tidy import Results

RESAMPLES = 1000
MEASURES = ("frechet", "kernel", "precision", "recall", "density", "coverage", "vendi", "ms_ssim", "label_consistency",
            "two_sample_auroc", "authentic_difference")  # fmt: skip
FACTORS = ["generator", "exposure", "variant"]


def measured_gains(results: Results) -> pd.DataFrame:
    """measure, dataset, generator, exposure, variant, value, gain, validation: every measure beside what its own images
    gained on test, and the mean validation AUROC that they led to."""
    claims, table = results.claims, results.table
    columns = ["measure", "dataset", "generator", "exposure", "variant", "value", "gain", "validation"]
    if claims.empty:
        return pd.DataFrame(columns=columns)
    gains = claims[(claims["arm"] == "augmented") & (claims["against"] == "real") & ~claims["generator"].isin(PLACEBOS)]
    gains = gains[(gains["backbone"] == results.backbone) & (gains["budget"] == gains["budget"].min())]
    keys = ["dataset", "generator", "exposure", "variant"]
    gains = gains.drop_duplicates(keys)[[*keys, "difference", "budget", "ratio", "share"]]
    judged = table[(table["metric"] == "validation_auroc") & (table["arm"] == "augmented")]
    same = [*keys, "budget", "ratio", "share"]
    seeds = judged[judged["backbone"] == results.backbone].groupby(same, as_index=False)
    gains = gains.merge(seeds.agg(validation=("value", "mean")), on=same, how="left")
    gains = gains[[*keys, "difference", "validation"]]
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
    up); within: the same of ranks inside each set that has two or more; p: of it, gains permuted inside sets (of rho
    where each set has one), with Holm over measures; regret: test AUROC lost on average where a set's generator is
    chosen by this measure instead of by validation AUROC, under one exposure (sets with two generators or more).
    """
    pairs = measured_gains(results)
    rows = [_predicts(str(measure), part) for measure, part in pairs.groupby("measure")]
    columns = ["measure", "rho", "rho_low", "rho_high", "within", "p", "p_holm", "regret", "pairs", "sets"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=holm(table["p"].to_numpy(dtype=np.float64))) if len(table) else table


def _predicts(measure: str, pairs: pd.DataFrame) -> Row:
    rng, rho = np.random.default_rng(0), spearman(pairs)
    within, p = _permuted(pairs, rng)
    low, high = _both_resampled(pairs, rng) if pairs["dataset"].nunique() >= 3 else (float("nan"), float("nan"))
    sign, lost = -1.0 if lower_is_better(measure) else 1.0, []
    for _, part in pairs.groupby(["dataset", "exposure"]):
        if len(part) > 1 and part["validation"].notna().all():
            chosen = (int(np.argmax(part["validation"])), int(np.argmax(sign * part["value"])))
            lost.append(float(part["gain"].iloc[chosen[0]] - part["gain"].iloc[chosen[1]]))
    return {
        "measure": measure, "rho": rho, "rho_low": low, "rho_high": high, "within": within, "p": p,
        "regret": float(np.mean(lost)) if lost else float("nan"), "pairs": len(pairs),
        "sets": pairs["dataset"].nunique(),
    }  # fmt: skip


def _permuted(pairs: pd.DataFrame, rng: np.random.Generator) -> tuple[float, float]:
    """Correlation of ranks inside sets, and its two-sided p from gains that change places there; with one generator a
    set of ranks among all."""
    alone = not pairs["dataset"].duplicated().any()
    sets = np.zeros(len(pairs)) if alone else pairs["dataset"].to_numpy()
    values, gains = np.zeros(len(pairs)), np.zeros((RESAMPLES + 1, len(pairs)))
    for name in np.unique(sets):
        mine = np.flatnonzero(sets == name)
        ranks = [stats.rankdata(pairs[key].to_numpy()[mine]) - (len(mine) + 1) / 2 for key in ("value", "gain")]
        values[mine], gains[0, mine] = ranks
        gains[1:, mine] = rng.permuted(np.tile(ranks[1], (RESAMPLES, 1)), axis=1)
    size = np.sqrt((values**2).sum() * (gains[0] ** 2).sum())
    if size == 0:
        return float("nan"), float("nan")
    found = gains @ values / size
    p = float((1 + (np.abs(found[1:]) >= abs(found[0]) - 1e-12).sum()) / (1 + RESAMPLES))
    return float("nan") if alone else float(found[0]), p


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
