"""What it was worth, what it cost, what changed it, what readers saw: Results -> Figure, None without data."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN, CARETUP
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from results.charts import WIDE, panels
from results.tidy import (
    GREY,
    LINES,
    LOOKS,
    MARKERS,
    PLACEBOS,
    SPARE,
    Results,
    look,
    missing,
    placed,
    plain,
    rank,
    records,
    with_images,
)
from results.wording import heading, number, percent
from results.worth import measured_gains, spearman


def multiplier(results: Results) -> Figure | None:
    """A panel a data set: how many times the real data `augmented` was worth by budget, log both ways."""
    rows = plain(results, results.pooled("classify", "data_multiplier"))
    flags = plain(results, results.pooled("classify", "data_multiplier_censored"))
    rows, flags = (part[~part["generator"].isin(PLACEBOS)] for part in (rows, flags))
    first = with_images(results)
    if rows.empty or first.empty:
        return None
    keys = ["dataset", "arm", "budget", "generator", "exposure", "ratio", "share"]
    rows = rows.merge(flags[[*keys, "value", "low", "high"]], on=keys, suffixes=("", "_flag"), how="left")
    rows = rows.merge(first[keys].drop_duplicates(), on=keys)
    names = [name for name in results.names if name in set(rows["dataset"])]
    if not names:
        return None
    figure, axes = panels(len(names), 3, 3.1, 2.8)
    for axis, name in zip(axes, names, strict=True):
        _worth(axis, rows[rows["dataset"] == name].sort_values("budget"))
        axis.set_title(results.titled(name))
    ends = [axis.get_ylim() for axis in axes]
    for axis in axes:
        axis.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
    axes[0].set_ylabel("times the real data")
    return figure


def _worth(axis: Axes, rows: pd.DataFrame) -> None:
    """Points with intervals; an open triangle where the curve of real data does not reach, an arrow at an open end."""
    colour = LOOKS["augmented"].colour
    for row in records(rows):
        mark = {1.0: "^", -1.0: "v"}.get(row["value_flag"], "o")
        if not missing(row["low"]):
            axis.plot([row["budget"]] * 2, [row["low"], row["high"]], color=colour, lw=1.4)
            for end, sign, arrow in (("low", -1, CARETDOWN), ("high", 1, CARETUP)):
                if row[f"{end}_flag"] == sign:  # the bar goes on beyond what real data reach
                    axis.plot([row["budget"]], [row[end]], marker=arrow, color=colour, ms=5)
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
    kept = kept[~kept["variant"].str.contains("phrasing=")]  # other words, not another way to sample
    if not spaces or kept["variant"].nunique() < 3:
        return None
    wide = kept.pivot_table(index=["dataset", "variant"], columns="metric", values="value").reset_index()
    x, y = f"recall_{spaces[0]}", f"frechet_{spaces[0]}"
    if x not in wide or y not in wide:
        return None
    settings = results.study.get("sampling") or {}
    for key in ("guidance", "steps"):
        wide[key] = _setting(wide["variant"], key, (settings.get(key) or [None])[0])
    wide["other"] = wide["variant"].str.replace(r"(guidance|steps)=[0-9.]+;?", "", regex=True).str.strip(";")
    names = [name for name in results.names if name in set(wide["dataset"])]
    numbers = sorted(set(wide["steps"]))
    figure, axes = panels(len(names), 3, 3.2, 3.0)
    for axis, name in zip(axes, names, strict=True):
        for steps, line in wide[wide["dataset"] == name].sort_values("guidance").groupby("steps"):
            place = numbers.index(steps)
            colour, marker = placed(place)
            for other, part in line.groupby("other", sort=False):
                axis.plot(part[x], part[y], color=colour, marker=marker, ms=4.5, lw=1.1, ls="--" if other else "-",
                          label="" if other else f"{steps:g} steps")  # fmt: skip
            for row in records(line):
                told = ", ".join(filter(None, [f"{row['guidance']:g}", str(row["other"]).replace(";", ", ")]))
                axis.annotate(told, (row[x], row[y]), xytext=((4, 4), (5, -11), (-10, 4))[place % 3], fontsize=8,
                              color=colour, textcoords="offset points")  # fmt: skip
        asked = wide[(wide["dataset"] == name) & (wide["variant"] == "")]
        axis.plot(asked[x], asked[y], "o", ms=11, mfc="none", color=GREY, ls="none", label="as written")
        axis.margins(0.14)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set(title=name, xlabel="recall (higher = more diverse)")
    axes[0].set_ylabel("Fréchet distance (lower = closer)")
    shown: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=min(6, len(shown)))
    return figure


def _setting(variants: "pd.Series[str]", key: str, value: Any) -> "pd.Series[float]":
    """A sampling setting of each variant, `guidance=3;steps=5`; the study's own where a variant does not change it."""
    return variants.str.extract(rf"(?:^|;){key}=([0-9.]+)")[0].astype("float64").fillna(float(value or 0))


def predictors(results: Results) -> Figure | None:
    """A panel a measure: its value against the gain of `augmented` at the lowest budget, a point a set."""
    pairs = measured_gains(results)
    if pairs.empty:
        return None
    measures = list(dict.fromkeys(pairs["measure"]))
    figure, axes = panels(len(measures), 3, 3.1, 2.7)
    looks = {name: placed(place) for place, name in enumerate(results.names)}
    for axis, measure in zip(axes, measures, strict=True):
        mine = pairs[pairs["measure"] == measure]
        for dataset, part in mine.groupby("dataset", sort=False):
            colour, marker = looks[str(dataset)]
            axis.plot(part["value"], part["gain"], marker, color=colour, ls="none", label=str(dataset))
        axis.axhline(0, color=GREY, lw=1)
        axis.set_title(f"{heading(measure)}\nrho {number(spearman(mine), 2, sign=True)}, n {len(mine)}", fontsize=9)
        axis.set_xlabel("measure")
    axes[0].set_ylabel("AUROC gain")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))
    return figure


def reader(results: Results) -> Figure | None:
    """How often readers were right, and their marks by source, with intervals."""
    table = results.table[(results.table["stage"] == "reader") & (results.table["dataset"] == "")]
    right = records(table[table["metric"] == "reader_accuracy"])
    if not right:
        return None
    marks = records(table[table["group"].str.startswith("source=")].sort_values(["metric", "group"], kind="stable"))
    figure, axes = panels(2, 2, 4.2, 0.9 + 0.35 * max(4, len(right)))
    for place, row in enumerate(right):
        _mark(axes[0], place, row, LOOKS["augmented"].colour)
    for place, row in enumerate(marks):
        _mark(axes[1], place, row, GREY if row["group"] == "source=real" else LOOKS["synthetic"].colour)
    names = [str(row["group"]).removeprefix("reader=") for row in right]
    axes[0].set_yticks(range(len(right)), ["all readers" if name == "all" else name for name in names])
    names = [f"{row['metric'].removeprefix('reader_')}, {row['group'].removeprefix('source=')}" for row in marks]
    axes[1].set_yticks(range(len(marks)), names)
    axes[0].axvline(0.5, color=GREY, lw=1, ls=":")
    axes[0].set(xlim=(0, 1), title="told real from synthetic", xlabel="share of pictures, chance 0.5")
    axes[1].set(xlim=(1, 5), title="marks", xlabel="1 = not at all, 5 = fully")
    for axis, shown in zip(axes, (right, marks), strict=True):
        axis.set_ylim(len(shown) - 0.5, -0.5)
    return figure


def reliability(results: Results) -> Figure | None:
    """A panel a data set at the lowest budget: share right against confidence, in bins of equal mass."""
    names = [name for name in results.names if any(each["dataset"] == name for each in results.calibration)]
    if not names:
        return None
    figure, axes = panels(len(names), 3, 3.1, 3.0)
    for axis, name in zip(axes, names, strict=True):
        axis.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
        for each in (each for each in results.calibration if each["dataset"] == name):
            found = look(each["arm"], each["generator"])
            face = found.colour if found.filled else "white"
            axis.plot(each["confidence"], each["accuracy"], color=found.colour, marker=found.marker, ms=4, mfc=face,
                      lw=1.4, label=found.label)  # fmt: skip
        low = min(float(min(each["confidence"])) for each in results.calibration)
        axis.set(xlim=(min(low, 0.5), 1.02), ylim=(0, 1.05), title=results.titled(name), xlabel="confidence")
    axes[0].set_ylabel("share right")
    axes[0].legend(loc="lower right", fontsize=8)
    return figure


def _fullest(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of the study's generators, each in its fullest exposure alone."""
    places = [rank(results, *map(str, pair)) for pair in rows[["generator", "exposure"]].itertuples(index=False)]
    ranked = rows.assign(_own=[own for own, _ in places], _seen=[seen for _, seen in places])
    least = ranked.groupby("generator")["_seen"].transform("min")
    kept = ranked[ranked["_seen"] == least].sort_values("_own", kind="stable")
    return kept.drop(columns=["_own", "_seen"])


def _gains(results: Results) -> pd.DataFrame:
    """Gains of `augmented` at the lowest budget: each generator's fullest exposure, at the ratio that most have."""
    rows = results.table[(results.table["metric"] == "auroc_difference") & results.table["seed"].isna()]
    rows = plain(results, rows[(rows["arm"] == "augmented") & (rows["variant"] == "")])
    rows = _fullest(results, rows[(rows["budget"] == rows["budget"].min()) & ~rows["generator"].isin(PLACEBOS)])
    many = rows.groupby("ratio")["generator"].nunique()
    return rows if rows.empty else rows[rows["ratio"] == many.idxmax()]


ABLATED = {"data_share": "share of the images seen", "sets": "data sets seen", "detail": "detail of captions",
           "phrasings": "phrasings", "caption_noise": "share of wrong captions", "images_seen": "images seen",
           "balance": "balance of sets"}  # fmt: skip


def ablations(results: Results) -> Figure | None:
    """A column a field in which generators differ from the first alone: Fréchet distance above, gain below; dashed,
    where three or more differ in it from another generator, those."""
    swept = _ablated(results)
    table = results.table[results.table["seed"].isna() & (results.table["variant"] == "")]
    fidelity = table[(table["stage"] == "fidelity") & table["metric"].str.startswith("frechet")]
    fidelity = _fullest(results, fidelity[fidelity["group"] == "all"])
    gains = _gains(results)
    if not swept or fidelity.empty:
        return None
    figure, axes = panels(2 * len(swept), len(swept), min(3.4, WIDE / len(swept)), 2.7)
    first_space = fidelity["metric"].iloc[0]
    rows = ((fidelity[fidelity["metric"] == first_space], "Fréchet distance"), (gains, "gain in AUROC"))
    for place, (values, label) in enumerate(rows):
        for column, (field, lines) in enumerate(swept.items()):
            axis = axes[place * len(swept) + column]
            ticks = sorted({value for line in lines for _, value in line}, key=_order)
            for spot, name in enumerate(results.names):
                mine = values[values["dataset"] == name].drop_duplicates("generator").set_index("generator")["value"]
                colour, marker = placed(spot)
                for number_of_line, line in enumerate(lines):
                    shown = [(ticks.index(value), mine[key]) for key, value in line if key in mine]
                    how: dict[str, Any] = {"ls": LINES[min(number_of_line, len(LINES) - 1)], "lw": 1.2, "ms": 4}
                    told = name if not number_of_line else None
                    if shown:
                        axis.plot(*zip(*shown, strict=True), color=colour, marker=marker, label=told, **how)
            axis.set_xticks(range(len(ticks)), [str(value) for value in ticks])
            axis.set_xlim(-0.2, len(ticks) - 0.8)
            axis.set_xlabel(ABLATED[field])
            if place:
                axis.axhline(0, color=GREY, lw=1)
        axes[place * len(swept)].set_ylabel(label)
    axes[0].legend(fontsize=7.5)
    return figure


Line = list[tuple[str, Any]]  # generators and their values of a field, ascending


def _ablated(results: Results) -> dict[str, list[Line]]:
    """Field -> generators that differ from the first in it alone, then those of another with three values or more."""
    given = {
        name: {key: value for key, value in each.items() if key not in ("train_on", "seeds")}
        | {"sets": _sets(each.get("train_on"), len(results.names))}
        for name, each in (results.study.get("generators") or {}).items()
        if isinstance(each, dict) and not (each.get("images") or each.get("checkpoint"))
        and not isinstance(each.get("train_on"), dict)
    }  # fmt: skip
    swept: dict[str, list[Line]] = {}
    for place, (base_name, base) in enumerate(given.items()):
        mine: dict[str, Line] = {}
        for name, fields in given.items():
            changed = [key for key in {**base, **fields} if fields.get(key) != base.get(key)]
            if len(changed) == 1 and changed[0] in ABLATED:
                mine.setdefault(changed[0], [(base_name, base[changed[0]])]).append((name, fields[changed[0]]))
        for field, found in mine.items():
            line, known = sorted(found, key=lambda item: _order(item[1])), swept.get(field, [])
            if not place or (len(line) > 2 and known and line not in known):
                swept.setdefault(field, []).append(line)
    return swept


def _order(value: Any) -> tuple[str, Any]:
    return str(type(value)), value


def _sets(train_on: Any, whole: int) -> int:
    return len(train_on) if isinstance(train_on, list) else 1 if train_on == "each" else whole


def strictness(results: Results) -> Figure | None:
    """What a stricter privacy filter costs: a line a data set over its levels; flagged by the measures it did not use,
    Fréchet, gain at the lowest budget."""
    table = results.table[results.table["seed"].isna() & results.table["generator"].isin(results.generators[:1])]
    base = ((results.study.get("sampling") or {}).get("privacy") or [None])[0] or 0.0
    named = table["variant"].str.extract(r"^privacy=([0-9.]+|none)$")[0].replace("none", "0")
    table = table.assign(level=named.astype(float).where(table["variant"] != "", base))
    table = table[table["level"].notna() & (table["group"] == "all")]
    if table["level"].nunique() < 2:
        return None
    gains = table[(table["metric"] == "auroc_difference") & (table["arm"] == "augmented")]
    gains = gains[(gains["budget"] == gains["budget"].min()) & (gains["backbone"] == results.backbone)]
    by = {name: table[table["metric"] == f"{name}_flagged"] for name in ("patch", "embedding")}
    distance = table[table["metric"].str.startswith("frechet")]
    shown = [(rows, f"share flagged by {name}") for name, rows in by.items()]
    shown += [(distance, "Fréchet distance"), (gains, "gain in AUROC")]
    figure, axes = panels(4, 2, 4.6, 3.0)
    levels = sorted(set(table["level"]))
    for axis, (rows, label) in zip(axes, shown, strict=True):
        for spot, name in enumerate(results.names):
            mine = rows[rows["dataset"] == name].drop_duplicates("level").sort_values("level")
            x = [levels.index(value) for value in mine["level"]]
            errors = np.nan_to_num(np.abs(mine[["low", "high"]].to_numpy(float).T - mine["value"].to_numpy(float)))
            colour, marker = placed(spot)
            axis.errorbar(x, mine["value"], yerr=errors, color=colour, marker=marker, ms=4, lw=1.2, label=name)
        axis.set_xticks(range(len(levels)), ["none" if value == 0 else percent(value) for value in levels])
        axis.set(xlabel="share of validation images as near", title=label)
    axes[0].legend(fontsize=8)
    return figure


def cost(results: Results) -> Figure | None:
    """Time of a generator and its sets against the gain that they brought at the lowest budget, of two or more."""
    costs = results.costs
    gains = _gains(results)
    if costs.empty or gains["generator"].nunique() < 2:
        return None
    spent = costs[costs["stage"].isin(["autoencoder", "train", "synthesize"])]
    spent = _fullest(results, spent.assign(exposure=spent["exposure"].fillna("")))
    seconds = spent.groupby("generator")["seconds"].sum()
    figure, (axis,) = panels(1, 1, 6.4, 3.4)
    names = [name for name in results.names if name in set(gains["dataset"])]
    generators = [name for name in results.generators if name in seconds and name in set(gains["generator"])]
    for row in records(gains[gains["generator"].isin(generators)]):
        colour, marker = names.index(row["dataset"]) % len(SPARE), generators.index(row["generator"]) % len(MARKERS)
        axis.plot(seconds[row["generator"]] / 60, row["value"], MARKERS[marker], color=SPARE[colour])
    for place, name in enumerate(names):
        axis.plot([], [], "o", color=SPARE[place % len(SPARE)], label=name)
    for place, name in enumerate(generators):
        axis.plot([], [], MARKERS[place % len(MARKERS)], color=GREY, mfc="white", label=name)
    axis.axhline(0, color=GREY, lw=1)
    axis.set(xlabel="minutes of computing, all seeds", ylabel="gain in AUROC", xlim=(0, None))
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _mark(axis: Axes, place: int, row: dict[str, Any], colour: str) -> None:
    if not missing(row["low"]):
        axis.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.6)
    axis.plot([row["value"]], [place], "o", color=colour)
