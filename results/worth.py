"""What synthetic images are worth in real data (the multiplier), how many do best (the dose), what foretells it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from results.claims import lower_is_better
from results.pooling import SETTING, Load, Row, Setting, combine, counterpart, generators_of, images, settings
from results.statistics import Estimate, Floats, Jackknives, averaging, difference_interval, holm, patient_covariance
from results.tidy import PLACEBOS, Results, main_arm

Trained = Mapping[str, int] | None  # how often each generator was trained, where less than seeds
POINTS = 241  # of the grid over log m that the interval is read from


@dataclass(frozen=True)
class Multiplier:
    """m and its interval; *_censored: -1 below the curve, 0 inside, 1 above (the number is then the edge)."""

    value: float
    low: float
    high: float
    value_censored: int
    low_censored: int
    high_censored: int


def isotonic_blocks(scores: npt.ArrayLike, weights: npt.ArrayLike) -> Floats:
    """Pool adjacent violators: the matrix [B, B] that maps scores (ascending budgets) to their isotonic fit.

    Given its blocks the fit is linear, so the same matrix applies to each seed and to each patient left out.
    """
    values, mass = np.asarray(scores, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    blocks: list[list[int]] = []

    def mean(block: list[int]) -> float:
        return float(np.average(values[block], weights=mass[block]))

    for index in range(len(values)):
        blocks.append([index])
        while len(blocks) > 1 and mean(blocks[-2]) > mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    fit = np.zeros((len(values), len(values)))
    for block in blocks:
        fit[np.ix_(block, block)] = mass[block] / mass[block].sum()
    return fit


def at(log_budget: float, log_budgets: Floats) -> Floats:
    """Weights [B] of linear interpolation in log b."""
    return np.array([np.interp(log_budget, log_budgets, unit) for unit in np.eye(len(log_budgets))])


def invert(score: float, log_budgets: Floats, curve: Floats) -> tuple[float, int]:
    """The first log b at which a rising curve reaches the score; -1 if that is below it, 1 above."""
    if score > curve[-1]:
        return float(log_budgets[-1]), 1
    if score < curve[0]:
        return float(log_budgets[0]), -1
    right = int(np.searchsorted(curve, score))
    if right == 0:
        return float(log_budgets[0]), 0
    share = (score - curve[right - 1]) / (curve[right] - curve[right - 1])
    return float(log_budgets[right - 1] + share * (log_budgets[right] - log_budgets[right - 1])), 0


def multiplier(
    arm: Setting, curve: list[Setting], jackknives: Jackknives, generators: Trained = None
) -> Multiplier | None:
    """The arm's score read off the real-only curve (ascending budgets); None without two budgets.

    In real images, not in nominal budgets: where every class needs one image, 1 % may hold twice as many.
    """
    own = _own_size(arm, curve)
    curve = [each for i, each in enumerate(curve) if i == 0 or _size(each) > _size(curve[i - 1])]  # no images twice
    seeds = sorted(set(arm.cells).intersection(*(set(each.cells) for each in curve))) if curve else []
    if len(curve) < 2 or not seeds:
        return None
    levels = [combine([each], [1.0], seeds, jackknives) for each in curve]
    known = [level for level in levels if level is not None]
    thetas, covariance = _joint([arm, *curve], seeds, jackknives, generators)
    if len(known) < len(curve) or np.isnan(thetas).any():
        return None
    fit = isotonic_blocks([level.value for level in known], _weights(known))
    sizes = np.log([_size(each) for each in curve])
    spot, censored = invert(float(thetas[0].mean()), sizes, fit @ np.array([level.value for level in known]))
    grid = np.linspace(sizes[0], sizes[-1], POINTS)
    inside = [_agrees(np.append(1.0, -(at(x, sizes) @ fit)), thetas, covariance) for x in grid]
    ends = open_ends(grid, np.array(inside), spot, censored)
    m = np.exp(np.array([spot, ends[0], ends[1]])) / own
    return Multiplier(float(m[0]), float(m[1]), float(m[2]), censored, ends[2], ends[3])


def _size(setting: Setting) -> float:
    """Real images of a setting; its budget where the table does not count them."""
    return float(setting.n_train or setting["budget"])


def _own_size(arm: Setting, curve: list[Setting]) -> float:
    """Real images at the arm's budget: the real-only setting's there, else in proportion to the nearest one's."""
    budget = float(arm["budget"])
    near = min(curve, key=lambda each: abs(np.log(float(each["budget"]) / budget)), default=arm)
    return _size(near) * budget / float(near["budget"])


def _weights(levels: list[Estimate]) -> Floats:
    """1/SE^2; equal where a standard error is not known."""
    errors = np.array([level.se for level in levels])
    return np.ones(len(levels)) if not (errors > 0).all() else errors**-2.0


def _joint(
    parts: list[Setting], seeds: list[int], jackknives: Jackknives, generators: Trained
) -> tuple[Floats, Floats]:
    """Scores [parts, S], covariance [parts, S, parts, S]; averaged over each generator's seeds."""
    scores = [[jackknives(part.cells[seed], "auroc") for seed in seeds] for part in parts]
    average = averaging(generators_of(parts[0], seeds, generators))
    thetas = np.array([[score.value for score in row] for row in scores]) @ average.T
    left = np.einsum("gs,ksp->kgp", average, np.array([[score.replicates for score in row] for row in scores]))
    flat = patient_covariance(left.reshape(-1, left.shape[2]))
    return thetas, flat.reshape(*thetas.shape, *thetas.shape)


def _agrees(weights: Floats, thetas: Floats, covariance: Floats) -> bool:
    """Whether arm_s - curve_s(m) does not differ from 0."""
    gap = difference_interval(weights @ thetas, np.einsum("a,asbt,b->st", weights, covariance, weights))
    return bool(gap.low <= 0 <= gap.high)


def open_ends(grid: Floats, inside: npt.NDArray[np.bool_], spot: float, censored: int) -> tuple[float, float, int, int]:
    """Interval in log b and its censoring; where nothing agrees it is the point."""
    if not inside.any():
        return spot, spot, censored, censored
    low, high = float(grid[inside][0]), float(grid[inside][-1])
    below, above = inside[0] or censored == -1, inside[-1] or censored == 1  # as open as the point is
    return min(low, spot), max(high, spot), -1 if below else 0, 1 if above else 0


def multiplier_rows(cells: pd.DataFrame, load: Load | Jackknives, generators: Trained = None) -> list[Row]:
    """Per-seed AUROC rows -> `data_multiplier` rows, and `data_multiplier_censored`: 1 where the number beside it is a
    lower bound, -1 where it is an upper one, else 0."""
    jackknives, rows = load if isinstance(load, Jackknives) else Jackknives(load), []
    found = settings(cells)
    for arm in found:
        curve = _curve(arm, found)
        result = multiplier(arm, curve, jackknives, generators) if arm["arm"] != "real" else None
        if result is None:
            continue
        shared = {**arm.columns, "group": "all", "n": images(arm, jackknives), "n_train": arm.n_train}
        censored = result.value_censored, result.low_censored, result.high_censored
        for name, three in (("", (result.value, result.low, result.high)), ("_censored", censored)):
            ends = dict(zip(("value", "low", "high"), three, strict=True))
            rows.append(shared | {"metric": f"data_multiplier{name}"} | ends)
    return rows


def _curve(arm: Setting, found: list[Setting]) -> list[Setting]:
    """Real-only settings of the same data set and backbone, ascending; the arm's variant if real has it."""
    real = [each for each in found if each["arm"] == "real"]
    real = [each for each in real if all(each[name] == arm[name] for name in ("dataset", "backbone"))]
    same = [each for each in real if each["variant"] == arm["variant"]] or [r for r in real if r["variant"] == ""]
    return sorted(same, key=lambda each: float(each["budget"]))


DOSED = ("augmented", "pretrained", "synthetic")
DOUBLE = 2.0  # times the real data, of the converse


def dose_rows(cells: pd.DataFrame, load: Load | Jackknives, worth: list[Row], generators: Trained = None) -> list[Row]:
    """Per-seed AUROC rows -> `best_share`, `best_ratio` (each with `_place`) and `ratio_for_double` of each sweep.

    A sweep: settings that differ in share or ratio alone; a share of 0 is the real images. low and high: the doses
    that do not differ from the best by the t interval. place: -1 and 1 the ends of the range tried, 0 inside, missing
    where that cannot be told: several doses do as well and reach an end. worth: the rows of `multiplier_rows`.
    """
    jackknives = load if isinstance(load, Jackknives) else Jackknives(load)
    found = settings(cells)
    rows: list[Row] = []
    for dose in ("share", "ratio"):
        for sweep in _sweeps(found, dose):
            rows += _best(sweep, dose, jackknives, generators)
            if dose == "ratio":
                rows += _for_double(sweep, worth)
    return rows


def _sweeps(found: list[Setting], dose: str) -> list[list[Setting]]:
    """Groups of settings that differ in the dose alone, ascending; with real images as share 0."""
    groups: dict[tuple[str, ...], list[Setting]] = {}
    for each in found:
        if each["arm"] in (DOSED if dose == "ratio" else ("augmented",)) and each["generator"]:
            groups.setdefault(tuple(str(each[name]) for name in SETTING if name != dose), []).append(each)
    sweeps = [sorted(group, key=lambda each: float(each[dose])) for group in groups.values() if len(group) > 1]
    if dose == "ratio":
        return sweeps
    zero = [counterpart(sweep[0], found, "real") if sweep[0]["share"] else None for sweep in sweeps]
    return [[real, *sweep] if real else sweep for real, sweep in zip(zero, sweeps, strict=True)]


def _best(sweep: list[Setting], dose: str, jackknives: Jackknives, generators: Trained) -> list[Row]:
    """The dose with the highest mean score, and those that do as well."""
    seeds = sorted(set.intersection(*(set(each.cells) for each in sweep)))
    if len(seeds) < 2:
        return []
    doses = [0.0 if each["arm"] == "real" else float(each[dose]) for each in sweep]
    levels = [np.mean([jackknives(each.cells[seed], "auroc").value for seed in seeds]) for each in sweep]
    if np.isnan(levels).any():
        return []
    best = int(np.argmax(levels))
    gaps = [combine([each, sweep[best]], [1.0, -1.0], seeds, jackknives, "auroc", generators) for each in sweep]
    equal = [place == best or gap is None or not gap.high < 0 for place, gap in enumerate(gaps)]
    kept = [each for each, same in zip(doses, equal, strict=True) if same]
    keys = {**sweep[-1].columns, dose: None, "group": "all", "n_train": sweep[-1].n_train}
    edge = min(kept) == min(doses) or max(kept) == max(doses)  # a tie that reaches the range's end may go on beyond it
    place = None if edge and len(kept) > 1 else -1 if best == 0 else 1 if best == len(sweep) - 1 else 0
    rows: list[Row] = [keys | {"metric": f"best_{dose}", "value": doses[best], "low": min(kept), "high": max(kept)}]
    return [*rows, keys | {"metric": f"best_{dose}_place", "value": place}]


def _for_double(sweep: list[Setting], worth: list[Row]) -> list[Row]:
    """The converse: the least ratio at which images are worth as much real data again; missing where none is."""
    values = {_key(row): row for row in worth if row["metric"] == "data_multiplier"}
    if DOUBLE * float(sweep[-1]["budget"]) > 1:
        return []  # there is no as much again
    mine = [(float(each["ratio"]), values[_key(each.columns)]) for each in sweep if _key(each.columns) in values]
    if not mine:
        return []
    reached = {end: [ratio for ratio, row in mine if float(row[end]) >= DOUBLE] for end in ("value", "low", "high")}
    ends = {"value": "value", "low": "high", "high": "low"}  # the optimistic end of m gives the smaller ratio
    numbers = {end: min(reached[of], default=None) for end, of in ends.items()}
    keys = {**sweep[-1].columns, "ratio": None, "group": "all", "n_train": sweep[-1].n_train}
    return [keys | {"metric": "ratio_for_double"} | numbers]


def _key(row: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in SETTING)


RESAMPLES = 1000
MEASURES = ("frechet", "kernel", "precision", "recall", "density", "coverage", "vendi", "ms_ssim", "label_consistency",
            "two_sample_auroc", "probe_alignment", "authentic_difference")  # fmt: skip
FACTORS = ["generator", "exposure", "variant"]


def measured_gains(results: Results) -> pd.DataFrame:
    """measure, dataset, generator, exposure, variant, value, gain, validation: every measure beside what its own images
    gained on test, and the mean validation AUROC that they led to."""
    claims, table = results.claims, results.table
    keys = ["dataset", "generator", "exposure", "variant"]
    columns = ["measure", *keys, "value", "gain", "validation"]
    if claims.empty:
        return pd.DataFrame(columns=columns)
    gains = claims[(claims["against"] == "real") & ~claims["generator"].isin(PLACEBOS)]
    arm = main_arm(gains["arm"])
    gains = gains[(gains["arm"] == arm) & (gains["backbone"] == results.backbone)]
    gains = gains[gains["budget"] == gains["budget"].min()]
    same = [*keys, "budget", "ratio", "share"]
    gains = gains.drop_duplicates(keys)[[*same, "difference"]].rename(columns={"difference": "gain"})
    judged = table[(table["metric"] == "validation_auroc") & (table["arm"] == arm)]
    seeds = judged[judged["backbone"] == results.backbone].groupby(same, as_index=False)
    gains = gains.merge(seeds.agg(validation=("value", "mean")), on=same, how="left")
    kept = table[table["seed"].isna() & (table["group"] == "all") & table["stage"].isin(["fidelity", "audit"])]
    kept = kept[kept["metric"].str.startswith(MEASURES)].drop_duplicates([*keys, "metric"])
    pairs = kept.merge(gains, on=keys, suffixes=("", "_of_gain")).rename(columns={"metric": "measure"})
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
    may_guide: whether p_holm is under 5 % and the correlation has the sign that it should.
    """
    pairs = measured_gains(results)
    rows = [_predicts(str(measure), part) for measure, part in pairs.groupby("measure")]
    columns = ["measure", "rho", "rho_low", "rho_high", "within", "p", "p_holm", "may_guide", "regret", "pairs", "sets"]
    table = pd.DataFrame(rows, columns=columns)
    right = table["within"].fillna(table["rho"]) * [-1 if lower_is_better(name) else 1 for name in table["measure"]] > 0
    table["p_holm"] = holm(table["p"].to_numpy(dtype=np.float64))
    return table.assign(may_guide=np.where((table["p_holm"] < 0.05) & right, "yes", "no"))


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
    low, high = np.percentile(known, [2.5, 97.5]).tolist() if len(known) >= RESAMPLES // 10 else [float("nan")] * 2
    return low, high
