"""What real data it was worth, and what fidelity cost and brought: pure functions -> Figure, None without data."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from results.charts import panels
from results.tidy import GREY, LOOKS, PLACEBOS, SPARE, Results, missing, plain, records, with_images
from results.wording import heading, number, percent

MEASURES = ("frechet", "kernel", "precision", "recall", "density", "coverage", "vendi", "ms_ssim", "label_consistency",
            "two_sample_auroc", "authentic_difference")  # fmt: skip


def multiplier(results: Results) -> Figure | None:
    """A panel a data set: how many times the real data `augmented` was worth by budget, log both ways."""
    rows = plain(results, results.pooled("classify", "data_multiplier"))
    flags = plain(results, results.pooled("classify", "data_multiplier_censored"))
    rows, flags = (part[(part["arm"] == "augmented") & ~part["generator"].isin(PLACEBOS)] for part in (rows, flags))
    first = with_images(results)
    if rows.empty or first.empty:
        return None
    keys = ["dataset", "budget", "generator", "exposure", "ratio", "share"]
    rows = rows.merge(flags[[*keys, "value", "low", "high"]], on=keys, suffixes=("", "_flag"), how="left")
    rows = rows.merge(first[keys].drop_duplicates(), on=keys)
    names = [name for name in results.names if name in set(rows["dataset"])]
    if not names:
        return None
    figure, axes = panels(len(names), 4, 2.9, 2.8)
    for axis, name in zip(axes, names, strict=True):
        _worth(axis, rows[rows["dataset"] == name].sort_values("budget"))
        axis.set_title(name)
    ends = [axis.get_ylim() for axis in axes]
    for axis in axes:
        axis.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
    axes[0].set_ylabel("times the real data")
    return figure


def _worth(axis: Axes, rows: pd.DataFrame) -> None:
    """Points with intervals; a triangle where the curve of real data does not reach."""
    colour = LOOKS["augmented"].colour
    for row in records(rows):
        mark = {1.0: "^", -1.0: "v"}.get(row["value_flag"], "o")
        if not missing(row["low"]):
            axis.plot([row["budget"]] * 2, [row["low"], row["high"]], color=colour, lw=1.4)
        axis.plot([row["budget"]], [row["value"]], mark, color=colour, mfc="white" if mark != "o" else colour)
    axis.axhline(1, color=GREY, lw=1)
    axis.axhline(2, color=GREY, lw=1, ls=":")
    axis.set_xscale("log")
    axis.set_yscale("log")
    budgets = sorted(set(rows["budget"]))
    axis.set_xticks(budgets, [percent(budget).replace("\u00a0%", "") for budget in budgets])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("real data used (%)")


def sweep(results: Results) -> Figure | None:
    """A panel a data set: Fréchet distance against recall of every sampling variant of the first generator."""
    table = results.table
    kept = table[(table["stage"] == "fidelity") & table["seed"].isna() & (table["group"] == "all")]
    kept = kept[kept["generator"].isin(results.generators[:1]) & kept["metric"].str.startswith(("frechet", "recall"))]
    spaces = sorted({str(metric).partition("_")[2] for metric in kept["metric"]})
    if not spaces or kept["variant"].nunique() < 3:
        return None
    wide = kept.pivot_table(index=["dataset", "variant"], columns="metric", values="value").reset_index()
    x, y = f"recall_{spaces[0]}", f"frechet_{spaces[0]}"
    if x not in wide or y not in wide:
        return None
    names = [name for name in results.names if name in set(wide["dataset"])]
    figure, axes = panels(len(names), 3, 3.6, 3.2)
    for axis, name in zip(axes, names, strict=True):
        for row in wide[wide["dataset"] == name].to_dict("records"):
            axis.plot([row[x]], [row[y]], "o" if row["variant"] else "s", color=LOOKS["augmented"].colour)
            axis.annotate(row["variant"] or "as written", (row[x], row[y]), xytext=(4, 4), fontsize=7.5,
                          textcoords="offset points")  # fmt: skip
        axis.set_title(name)
        axis.set_xlabel("recall (higher = more diverse)")
        axis.margins(0.18)
    axes[0].set_ylabel("Fréchet distance (lower = closer)")
    return figure


def predictors(results: Results) -> Figure | None:
    """A panel a measure: its value against the gain of `augmented` at the lowest budget, a point a set."""
    pairs = measured_gains(results)
    if pairs.empty:
        return None
    measures = list(dict.fromkeys(pairs["measure"]))
    figure, axes = panels(len(measures), 4, 2.9, 2.7)
    colours = {name: SPARE[place % len(SPARE)] for place, name in enumerate(dict.fromkeys(pairs["dataset"]))}
    for axis, measure in zip(axes, measures, strict=True):
        mine = pairs[pairs["measure"] == measure]
        for dataset, part in mine.groupby("dataset", sort=False):
            axis.plot(part["value"], part["gain"], "o", color=colours[str(dataset)], label=str(dataset))
        axis.axhline(0, color=GREY, lw=1)
        axis.set_title(f"{heading(measure)}\nrho {number(spearman(mine), 2, sign=True)}, n {len(mine)}", fontsize=9)
        axis.set_xlabel("measure")
    axes[0].set_ylabel("AUROC gain")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))
    return figure


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
    ranks = pairs[["value", "gain"]].rank()
    if (ranks.nunique() < 2).any():
        return float("nan")
    return float(np.corrcoef(ranks["value"], ranks["gain"])[0, 1])


def predictors_table(results: Results) -> pd.DataFrame:
    """Which measure predicts utility: Spearman's rho over data sets and generators, and how many pairs it rests on."""
    pairs = measured_gains(results)
    parts = pairs.groupby("measure")
    rows = [{"measure": measure, "rho": spearman(part), "pairs": len(part)} for measure, part in parts]
    return pd.DataFrame(rows, columns=["measure", "rho", "pairs"])
