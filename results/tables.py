"""Every table by name: a pure function of the results -> DataFrame of numbers, ready for csv, md and tex."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results import rules
from results.tidy import Results, records
from results.wording import TIED, Comparison, heading, percent
from results.worth import predictors_table

SETTING = ["arm", "generator", "exposure", "budget", "ratio", "share", "backbone", "variant"]
BOUNDS = ("value", "low", "high")
SPREAD = ("sd_patients", "sd_seeds", "sd_initialisation", "sd_subset", "sd_generator")
OPINIONS = ("delong_p", "mcnemar_p", "auroc_difference_bootstrap", "wilcoxon_p", "wilcoxon_p_holm")
PLACES = {-1.0: "the least tried", 0.0: "inside the range", 1.0: "the most tried"}
FLAGS = {-1: "<", 0: "", 1: ">"}
CONTROLS = {
    "class_mean": "control to beat", "copies": "lower bound", "mixup": "lower bound", "real": "floor",
    "round_trip": "autoencoder",
}  # fmt: skip


def utility(results: Results) -> pd.DataFrame:
    """Scores pooled over seeds, one row a setting; the best AUROC of a data set and budget is marked,
    and those that do not differ from it at 5 %."""
    table = results.table[(results.table["stage"] == "classify") & (results.table["group"] == "all")]
    metrics = ("auroc", "balanced_accuracy", "accuracy", TIED)
    wide = widened(table, ["dataset", "image_type", *SETTING], metrics, ("n_train", "n"))
    order = ["dataset", "backbone", "variant", "budget", "_real", "arm", "generator", "exposure", "ratio", "share"]
    wide = wide.assign(_real=wide["arm"] != "real").sort_values(order, kind="stable", ignore_index=True)
    wide = wide.drop(columns="_real")
    keys = ["dataset", *SETTING]
    counted = table[(table["metric"] == "auroc") & (table["status"] == "ok") & table["seed"].notna()]
    counted = counted.groupby(keys, dropna=False)["seed"].nunique().rename("seeds").reset_index()
    wide = wide.merge(counted, on=keys, how="left") if len(wide) else wide
    wide = with_holes(wide, results.failed, "classify")
    group = ["dataset", "budget", "backbone", "variant"]
    wide.attrs["best"] = [Comparison(name, group) for name in ("auroc", "balanced_accuracy", "accuracy")]
    return wide


def with_holes(wide: pd.DataFrame, failed: pd.DataFrame, stage: str) -> pd.DataFrame:
    """A row of dashes for each setting all of whose cells of a stage failed or were not run."""
    keys = [name for name in ("dataset", "image_type", *SETTING) if name in wide]
    lost = failed.loc[failed["stage"] == stage, keys].drop_duplicates()
    if lost.empty or wide.empty:
        return wide if lost.empty else lost.reindex(columns=wide.columns)
    both = lost.merge(wide[keys], on=keys, how="left", indicator=True)
    lost = both[both["_merge"] == "left_only"].drop(columns="_merge")
    return pd.concat([wide, lost], ignore_index=True) if len(lost) else wide


def differences(results: Results) -> pd.DataFrame:
    """Every contrast with p values and verdict; the family that may be claimed comes first."""
    return results.claims.copy()


def multiplier(results: Results) -> pd.DataFrame:
    """How many times the real data each arm was worth; < and > where the curve does not reach."""
    keys = ["dataset", *SETTING]
    table = results.table[results.table["stage"] == "classify"]
    wide = widened(table, keys, ("data_multiplier",), ("n_train",))
    flags = widened(table, keys, ("data_multiplier_censored",), ())
    merged = wide.merge(flags, on=keys, how="left") if len(wide) else wide
    for bound, suffix in zip(BOUNDS, ("", "_low", "_high"), strict=True):
        name = f"data_multiplier_censored{suffix}"
        marks = merged[name] if name in merged else pd.Series(index=merged.index, dtype="float64")
        merged[f"censored_{bound}"] = [FLAGS[0 if pd.isna(flag) else int(flag)] for flag in marks]
        merged = merged.drop(columns=name, errors="ignore")
    known = (
        frozenset(int(i) for i in np.flatnonzero(merged["censored_value"] == "")) if len(merged) else frozenset[int]()
    )
    merged.attrs["best"] = [Comparison("data_multiplier", ["dataset", "budget", "backbone", "variant"], rows=known)]
    return merged


def dose(results: Results) -> pd.DataFrame:
    """The best share and ratio of each sweep, with those that do as well; the ratio worth twice the real data."""
    table = results.table[results.table["stage"] == "classify"]
    keys = ["dataset", "arm", "generator", "exposure", "budget", "ratio", "share", "backbone", "variant"]
    names = ("best_share", "best_ratio", "ratio_for_double")
    wide = widened(table, keys, (*names, "best_share_place", "best_ratio_place"), ())
    for name in names[:2]:
        places = wide.pop(f"{name}_place") if f"{name}_place" in wide else pd.Series(dtype="float64")
        if name in wide and not wide[name].isna().all():
            words = [PLACES.get(place, "cannot be told") for place in places]
            wide[f"{name}_is"] = ["" if pd.isna(value) else word for value, word in zip(wide[name], words, strict=True)]
    return wide.dropna(axis=1, how="all") if len(wide) else wide


def spread(results: Results) -> pd.DataFrame:
    """Standard deviations of one model's AUROC by source."""
    table = results.table[results.table["stage"] == "classify"]
    return widened(table, ["dataset", *SETTING], SPREAD, ("n_train",))


def opinions(results: Results) -> pd.DataFrame:
    """Second opinions on each contrast with real data: of one pair of models, by resampling, over data sets."""
    table = results.table[(results.table["stage"] == "classify") & results.table["metric"].isin(OPINIONS)]
    keys = ["dataset", *SETTING, "group"]
    return widened(table.assign(seed=pd.Series(pd.NA, index=table.index, dtype="Int64")), keys, OPINIONS, ("n",))


def fidelity(results: Results) -> pd.DataFrame:
    """Distances and diversity of generators and controls, pooled over seeds."""
    table = results.table[(results.table["stage"] == "fidelity") & (results.table["group"] == "all")]
    wide = widened(
        table, ["dataset", "image_type", "generator", "exposure", "budget", "variant"], _metrics(table), ("n",)
    )
    wide["dataset"] = wide["dataset"].replace("", "mean over sets")
    lost = results.failed
    wide = with_holes(wide, lost[lost["generator"] != ""], "fidelity").astype({"n": "Int64"})
    wide.insert(3, "role", [CONTROLS.get(name, "generator") for name in wide["generator"]])
    ours = frozenset(int(i) for i in np.flatnonzero(wide["role"] == "generator"))
    wide.attrs["best"] = [
        Comparison(name, ["dataset", "image_type"], name.startswith(LOWER), ours)
        for name in wide.columns if name.startswith(RANKED) and not name.endswith(("_low", "_high", "_scales"))
    ]  # fmt: skip
    return wide


LOWER = ("frechet", "kernel", "ms_ssim", "two_sample_a")
RANKED = (
    "frechet", "kernel", "precision", "recall", "density", "coverage", "ms_ssim", "vendi", "label_c", "two_sample_a",
)  # fmt: skip  # beginnings of measures of which one generator can be called best
AUDITED = ("excess_copies", "copies_called", "tile_max_level", "tile_max_excess_copies", "bank_share", "bank_p",
           "membership_auroc", "membership_calibrated_auroc", "membership_blind_auroc", "membership_void",
           "membership_epsilon", "membership_epsilon_most", "dp_epsilon", "dp_delta")  # fmt: skip
AUDIT_KEYS = ["dataset", "generator", "exposure", "budget", "variant"]


def privacy(results: Results) -> pd.DataFrame:
    """The audit: excess copies, called by both controls or by the query control alone, its level, the bank control,
    and membership beside what one tells who never saw the generator: it is void where the groups differ without it."""
    wide = widened(_audited(results, "all"), AUDIT_KEYS, AUDITED, ("n",)).rename(columns={"n": "images"})
    wide = wide.drop(columns=[f"membership_void{end}" for end in ("_low", "_high")], errors="ignore")
    wide["membership_void"] = (
        wide["membership_void"]
        .map({0.0: "no"})
        .where(wide["membership_void"] <= 0, "yes")
        .where(wide["membership_void"].notna())
    )
    wide = with_holes(wide, results.failed, "audit")
    wide.attrs["best"] = [Comparison("excess_copies", ["dataset"], True)]
    return wide


def power(results: Results) -> pd.DataFrame:
    """Share of planted copies of each kind that every measure finds at its level, and which finds most."""
    table = _audited(results, "planted=").assign(group=lambda rows: rows["group"].str.removeprefix("planted="))
    names = sorted(set(table["metric"]), key=lambda name: (name != "tile_max_power", name))  # of equals the main one
    wide = widened(table, [*AUDIT_KEYS, "group"], names, ("n",)).rename(columns={"group": "planted"})
    if len(wide):
        most = wide[names].fillna(-1.0).idxmax(axis=1)
        found = [f"{heading(str(name))} {percent(wide.at[i, name], 0)}" for i, name in most.items()]
        wide.insert(list(wide.columns).index("planted") + 1, "most", found)
    return wide.rename(columns={"n": "images"})


def measures(results: Results) -> pd.DataFrame:
    """Every other number of the audit and of membership, one a row."""
    table = _audited(results, "")
    table = table[~table["group"].str.startswith("planted=") & ~table["metric"].isin(AUDITED)]
    table = table[table["seed"].isna() & (table["status"] == "ok")]
    columns = [*AUDIT_KEYS, "metric", "group", "value", "low", "high", "n"]
    return table[columns].sort_values(columns[:7], kind="stable", ignore_index=True).rename(columns={"n": "images"})


def _audited(results: Results, group: str) -> pd.DataFrame:
    """Rows of the audit, of membership and of private training: overall, or of groups that begin so."""
    table = results.table[results.table["stage"].isin(["audit", "membership", "train"])]
    apart = table["group"].str.contains("=", regex=False) & table["group"].str.startswith(group)
    return table[(table["group"] == "all") if group == "all" else apart | ((table["group"] == "all") & (group == ""))]


def classes(results: Results) -> pd.DataFrame:
    """Distances to real images and copies called, class by class."""
    table = results.table[results.table["stage"].isin(["fidelity", "audit"])]
    table = table[(table["group"] != "all") & ~table["group"].str.contains("=", regex=False)]
    keys = ["dataset", "image_type", "generator", "exposure", "budget", "variant", "group"]
    return widened(table, keys, _metrics(table), ("n",)).rename(columns={"group": "class"})


def attacks(results: Results) -> pd.DataFrame:
    """Membership told from classifiers: does training on synthetic images protect the patients behind them?"""
    table = results.table[results.table["metric"].str.startswith("classifier_membership")]
    table = table.assign(metric=table["metric"] + table["group"].map(lambda name: "" if name == "all" else f":{name}"))
    return widened(table, ["dataset", *SETTING], _metrics(table), ("n",))


def robustness(results: Results) -> pd.DataFrame:
    """AUROC on corrupted and external test images and in subgroups, beside that of the whole test set."""
    table = results.table[(results.table["stage"] == "classify") & (results.table["metric"] == "auroc")]
    apart = table[table["group"].str.contains("=", regex=False)]
    keys = ["dataset", *SETTING]
    whole = table[table["dataset"].isin(set(apart["dataset"])) & (table["group"] == "all")]
    return widened(pd.concat([whole, apart]), [*keys, "group"], ("auroc",), ("n",))


def published(results: Results) -> pd.DataFrame:
    """Our classifiers of all real images beside MedMNIST v2's (Yang et al. 2023, table 3), where they apply.

    Theirs: from scratch, 100 epochs of Adam; at 224 px the images are enlarged ones of 28. The values were transcribed
    from third parties. An audit pool leaves ours fewer training images, which the last column tells.
    """
    theirs = pd.read_csv(Path(__file__).with_name("medmnist_v2.csv"))
    theirs = theirs[theirs["size"] == results.study.get("size")].rename(columns=lambda name: f"published_{name}")
    table = results.table[(results.table["stage"] == "classify") & (results.table["group"] == "all")]
    whole = table[(table["arm"] == "real") & (table["budget"] == 1) & (table["variant"] == "")]
    ours = widened(whole, ["dataset", "backbone"], ("auroc", "accuracy"), ("n_train", "n"))
    theirs = theirs.rename(columns={f"published_{key}": key for key in ("dataset", "backbone")})
    both = ours.merge(theirs.drop(columns="published_size"), on=["dataset", "backbone"])
    return both.assign(audit_pool=results.study.get("audit_pool"))


def readers(results: Results) -> pd.DataFrame:
    """What physicians answered: accuracy against one half, marks from 1 to 5 by source, agreement between readers."""
    table = results.table[results.table["stage"] == "reader"]
    return widened(table, ["dataset", "group"], _metrics(table), ("n",))


def datasets(results: Results) -> pd.DataFrame:
    """What went in: sizes of the splits, classes, licence, what the leakage check reported."""
    rows = [
        {
            "dataset": card["name"],
            "image_type": card.get("image_type", ""),
            "specialty": card.get("specialty", ""),
            "classes": "; ".join(map(str, card.get("classes") or [])),
            **{split: sum(counts.values()) for split, counts in (card.get("counts") or {}).items()},
            "train_pool": card.get("n_train"),
            "held_out": card.get("n_heldout"),
            "phantom": "yes" if card.get("phantom") else "no",
            "licence": card.get("licence", ""),
            "citation": card.get("citation", ""),
            "reported": "; ".join(map(str, card.get("reported") or [])),
        }
        for card in results.datasets
    ]
    return pd.DataFrame(rows, columns=list(dict.fromkeys(key for row in rows for key in row)) or ["dataset"])


def costs(results: Results) -> pd.DataFrame:
    """Time, memory and speed of every stage and generator; images: those that training saw. Energy is not metered."""
    names = ["stage", "generator", "device", "cells", "total_seconds", "cpu_seconds", "mean_seconds",
             "images_per_second", "peak_memory_mb", "gpu_memory_mb"]  # fmt: skip
    table = results.costs
    if table.empty:
        return pd.DataFrame(columns=names)
    filled = table.assign(**{name: table[name].fillna("") for name in ("stage", "generator", "device")})
    optional = ("images", "cpu_seconds", "gpu_memory_mb")
    filled = filled.assign(**{name: filled.get(name, float("nan")) for name in optional})
    grouped = filled.groupby(["stage", "generator", "device"], sort=True)
    summed = grouped.agg(
        cells=("cell", "nunique"),
        total_seconds=("seconds", "sum"),
        cpu_seconds=("cpu_seconds", "sum"),
        mean_seconds=("seconds", "mean"),
        images=("images", lambda values: values.sum(min_count=1)),
        peak_memory_mb=("peak_memory_mb", "max"),
        gpu_memory_mb=("gpu_memory_mb", "max"),
    ).reset_index()
    return summed.assign(images_per_second=summed["images"] / summed["total_seconds"])[names]


TABLES: dict[str, Callable[[Results], pd.DataFrame]] = {
    "attacks": attacks,
    "classes": classes,
    "claims": rules.table,
    "costs": costs,
    "datasets": datasets,
    "differences": differences,
    "dose": dose,
    "fidelity": fidelity,
    "measures": measures,
    "multiplier": multiplier,
    "opinions": opinions,
    "power": power,
    "predictors": predictors_table,
    "privacy": privacy,
    "published": published,
    "readers": readers,
    "robustness": robustness,
    "spread": spread,
    "utility": utility,
}


def begun(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """The table with its exposures marked where a trained part had seen other images before: `budget, begun from X`."""
    if not {"exposure", "generator"} <= set(table.columns):
        return table
    own, given = str(results.study.get("autoencoder", "augury")), results.study.get("generators") or {}

    def told(generator: str, exposure: str) -> str:
        start = (given.get(generator) or {}).get("start") or (own if own != "augury" else "")
        limited = generator in given and exposure in ("full", "budget", "transfer") and start
        return f"{exposure}, begun from {start}" if limited else exposure

    pairs = zip(table["generator"], table["exposure"], strict=True)
    return table.assign(exposure=pd.Series([told(*pair) for pair in pairs], table.index, dtype="object"))


def widened(table: pd.DataFrame, keys: Sequence[str], metrics: Sequence[str], counts: Sequence[str]) -> pd.DataFrame:
    """Pooled tidy rows -> one row a setting, columns METRIC, METRIC_low, METRIC_high, then the counts."""
    kept = table[table["seed"].isna() & (table["status"] == "ok") & table["metric"].isin(list(metrics))]
    columns = [*keys, *(f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high")), *counts]
    rows: dict[int, dict[str, Any]] = {}
    places = kept.groupby(list(keys), dropna=False, sort=True).ngroup()
    for place, each in zip(places, records(kept), strict=True):
        row = rows.setdefault(int(place), {name: each[name] for name in (*keys, *counts)})
        row |= {f"{each['metric']}{end}": each[b] for end, b in zip(("", "_low", "_high"), BOUNDS, strict=True)}
    wide = pd.DataFrame([rows[place] for place in sorted(rows)], columns=columns)
    bounds = [name for name in columns if name.endswith(("_low", "_high")) and wide[name].isna().all()]
    return wide.drop(columns=bounds)


def _metrics(table: pd.DataFrame) -> list[str]:
    known = table[table["seed"].isna() & (table["status"] == "ok")]["metric"]
    return [name for name in sorted(set(known)) if name]
