"""Score by budget, differences, distances, fidelity: pure functions -> Figure, None without data."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from results.tidy import (
    GREY,
    LINES,
    LOOKS,
    MARKERS,
    PLACEBOS,
    SERIES,
    SPARE,
    Results,
    highest_budget,
    label,
    line_styles,
    look,
    lowest_budget,
    one_a_set,
    placed,
    plain,
    real_images,
    span,
)
from results.wording import count, percent

BANDED = ("real", "augmented")  # the pair that matters has bands, the rest bars beside
DODGE = {"class_mean": 1.09, "copies": 1.18, "mixed": 1.035, "mixup": 1.28, "synthetic": 0.965}
WIDE = 9.6  # inches at most: 10 pt become 7.5 on a text width of 7.2
BOUNDED = ("auroc", "accuracy", "balanced_accuracy")


def panels(n: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of n panels in rows of `columns`, inches a panel; no wider than WIDE, so that it can be read when a page
    shrinks it to its own width."""
    columns = min(columns, n, max(1, int(WIDE / width + 1e-9)))
    rows = -(-n // columns)
    figure = Figure(figsize=(width * columns, height * rows + 0.5), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, hspace=0.04, wspace=0.04)  # type: ignore[union-attr, call-arg]
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in grid[n:]:
        spare.set_axis_off()
    return figure, list(grid[:n])


def metric_by_budget(results: Results, metric: str = "auroc") -> Figure | None:
    """A panel a data set and backbone, a line an arm with its 95 % band, x = share of the real training set (log)."""
    table = results.pooled("classify", metric)
    table = table[table["variant"] == ""]
    several = table["backbone"].nunique() > 1
    backbones = sorted(set(table["backbone"]), key=lambda name: (name != results.backbone, name))
    found = set(table[["dataset", "backbone"]].itertuples(index=False, name=None))
    shown = [(name, backbone) for backbone in backbones for name in results.names if (name, backbone) in found]
    if not shown:
        return None
    columns = min(len({name for name, _ in shown}), 3) if several else 2
    figure, axes = panels(len(shown), columns, 4.6 if columns < 3 else 3.2, 3.3)
    styles = line_styles(results, table)
    for axis, (name, backbone) in zip(axes, shown, strict=True):
        mine = table[(table["dataset"] == name) & (table["backbone"] == backbone)]
        for key, part in mine.groupby(SERIES, dropna=False, sort=True):
            _line(axis, part.sort_values("budget"), str(key[0]), str(key[1]), styles.get(tuple(key[1:4]), "-"))
        _budget_axis(axis, results, name, sorted(set(mine["budget"].dropna())))
        axis.set_title(f"{results.titled(name)}, {backbone}" if several else results.titled(name))
        axis.set_ylabel({"auroc": "test AUROC"}.get(metric, metric.replace("_", " ")))
        if metric in BOUNDED:
            low, high = axis.get_ylim()  # an interval from two seeds may leave the scale; the scale does not
            axis.set_ylim(max(low, 0.0), min(high, 1.005))
    _arm_legend(figure, table, styles)
    return figure


def _line(axis: Axes, part: pd.DataFrame, arm: str, generator: str, dashes: Any) -> None:
    shape = look(arm, generator)
    x, y = part["budget"].to_numpy(float), part["value"].to_numpy(float)
    low, high = part["low"].to_numpy(float), part["high"].to_numpy(float)
    bars = np.nan_to_num(np.abs(np.stack([y - low, high - y])))
    order = 4 if arm == "augmented" and generator not in PLACEBOS else 3
    style: dict[str, Any] = {"color": shape.colour, "marker": shape.marker, "zorder": order}
    style["mfc"] = shape.colour if shape.filled else "white"
    if len(x) == 1:
        x = x * DODGE.get(generator, 1.0) * 1.05 ** LINES.index(dashes)
        style["marker"] = MARKERS[LINES.index(dashes) % len(MARKERS)] if dashes != "-" else shape.marker
        axis.errorbar(x, y, yerr=bars, ls="none", elinewidth=1.2, **style)
        return
    if arm in BANDED and generator not in PLACEBOS and dashes == "-":
        axis.fill_between(x, low, high, color=shape.colour, alpha=0.16, lw=0, zorder=2)
    else:
        x = x * DODGE.get(generator, DODGE.get(arm, 1.02)) * 1.02 ** LINES.index(dashes)
        axis.errorbar(x, y, yerr=bars, ls="none", color=shape.colour, elinewidth=1.1, alpha=0.75, zorder=2)
    axis.plot(x, y, ls=dashes, **style)


def _budget_axis(axis: Axes, results: Results, name: str, budgets: list[float]) -> None:
    axis.set_xscale("log")
    labels = [f"{percent(b)}\n{count(real_images(results, name, b))}" for b in budgets]
    axis.set_xticks(budgets, labels)
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="x", which="minor", length=0)
    axis.set_xlabel("real data used (share, images)")
    axis.set_xlim(budgets[0] / 1.2, budgets[-1] * 1.4)
    axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _arm_legend(figure: Figure, table: pd.DataFrame, styles: dict[tuple[Any, ...], Any]) -> None:
    pairs = table[["arm", "generator"]].drop_duplicates().itertuples(index=False, name=None)
    keys = list(dict.fromkeys(generator if generator in PLACEBOS else arm for arm, generator in pairs))
    handles = [_handle(key) for key in sorted(keys, key=_legend_order)]
    points = table.groupby(["dataset", "backbone", *SERIES], dropna=False).size().eq(1).any()  # told apart by markers
    for place, ((generator, exposure, ratio), dashes) in enumerate(styles.items() if len(styles) > 1 else ()):
        text, marker = f"{generator}, {exposure or 'any'} exposure, ratio {ratio:g}", MARKERS[place % len(MARKERS)]
        handles.append(Line2D([], [], color="#444444", ls=dashes, marker=marker if points else "", label=text))
    longest = max(len(str(handle.get_label())) for handle in handles)
    figure.legend(handles=handles, loc="outside lower center", ncols=_columns(figure, longest, len(handles)))


def _handle(key: str) -> Line2D:
    shape = look(key)
    line, face = "none" if key in PLACEBOS else "-", shape.colour if shape.filled else "white"
    return Line2D([], [], color=shape.colour, marker=shape.marker, mfc=face, ls=line, label=shape.label)


def _columns(figure: Figure, longest: int, entries: int) -> int:
    """Columns of a legend whose longest entry has so many letters, so that it is no wider than the figure."""
    return int(np.clip(figure.get_figwidth() / (0.075 * longest + 0.5), 1, min(4, entries)))


def _legend_order(key: str) -> tuple[bool, bool, str]:
    return key in PLACEBOS, key != "real", key


def differences(results: Results) -> Figure | None:
    """Forest: arms minus real with their 95 % intervals, at the lowest and the highest budget."""
    claims = results.claims
    if claims.empty:
        return None
    kept = plain(results, claims[claims["against"] == "real"])
    budgets = [b for b in dict.fromkeys([lowest_budget(results), highest_budget(results)]) if b in set(kept["budget"])]
    rows = _forest_rows(results, kept[kept["budget"].isin(budgets)])
    if rows.empty:
        return None
    labels = _forest_labels(results, rows)
    figure = Figure(figsize=(3.9 * len(budgets) + 1.8, 0.26 * len(labels) + 1.5), layout="constrained")
    axes = figure.subplots(1, len(budgets), sharey=True, squeeze=False).ravel()
    for axis, budget in zip(axes, budgets, strict=True):
        _forest(axis, rows[rows["budget"] == budget], labels, float(results.study.get("margin", 0.01)))
        axis.set_title(f"{percent(budget)} of the real data")
        axis.set_xlabel("AUROC minus real only")
    places = [place for place, _ in labels.values()]
    axes[0].set_yticks(places, [text for _, text in labels.values()])
    axes[0].set_ylim(max(places) + 0.8, -1.0)
    for text in axes[0].get_yticklabels():
        text.set_fontweight("bold" if not text.get_text().startswith("  ") else "normal")
    return figure


def _forest_rows(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """Every setting of `augmented`, the first generator, exposure and ratio of the other arms."""
    rest = rows[rows["arm"] != "augmented"]
    first = [one_a_set(results, part) for _, part in rest.groupby("arm", sort=True)]
    return pd.concat([rows[rows["arm"] == "augmented"], *first])


Place = tuple[float, str]


def _forest_labels(results: Results, rows: pd.DataFrame) -> dict[tuple[str, ...], Place]:
    """(data set, arm, generator, exposure, ratio) -> y and text; a data set's own row is its heading."""
    labels: dict[tuple[str, ...], Place] = {}
    y = -0.2
    for name in [each for each in results.names if each in set(rows["dataset"])]:
        labels[(name,)] = (y, results.titled(name))
        keys = sorted({_forest_key(row) for row in rows[rows["dataset"] == name].to_dict("records")}, key=_arm_order)
        several = len({key[2:] for key in keys if key[2] not in PLACEBOS}) > 1
        for key in keys:
            y += 1
            labels[key] = (y, "  " + _forest_text(key, several))
        y += 1.3
    return labels


def _forest_key(row: dict[Any, Any]) -> tuple[str, ...]:
    return (*(str(row[name]) for name in ("dataset", "arm", "generator", "exposure")), f"{row['ratio']:g}")


def _arm_order(key: tuple[str, ...]) -> tuple[bool, tuple[str, ...]]:
    return key[2] in PLACEBOS, key


def _forest_text(key: tuple[str, ...], several: bool) -> str:
    text = look(key[1], key[2]).label
    if not several or key[2] in ("", *PLACEBOS):
        return text
    return f"{text} ({', '.join(part for part in key[2:4] if part)}, {key[4]}:1)"


def _forest(axis: Axes, rows: pd.DataFrame, labels: dict[tuple[str, ...], Place], margin: float) -> None:
    axis.axvspan(-margin, margin, color="#eef0f2", zorder=0, lw=0)
    axis.axvline(0, color=GREY, lw=1.2, zorder=1)
    for row in rows.to_dict("records"):
        y = labels[_forest_key(row)][0]
        shape = look(str(row["arm"]), str(row["generator"]))
        axis.plot([row["low"], row["high"]], [y, y], color=shape.colour, lw=2.4 if row["claim"] else 1.3, zorder=2)
        face = shape.colour if row["claim"] else "white"
        size = 7.5 if row["claim"] else 6
        axis.plot(row["difference"], y, marker=shape.marker, color=shape.colour, mfc=face, ms=size, zorder=3)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_locator(MaxNLocator(6))
    ends = np.abs(span(rows[["low", "high", "difference"]].to_numpy(float)))
    axis.set_xlim(-ends[0] - 0.02 if ends[0] else -0.02, ends[1] + 0.02)


def distance_histogram(results: Results) -> Figure | None:
    """Nearest-training distances of synthetic, held-out real and planted images, with the threshold."""
    if not results.distances:
        return None
    figure, axes = panels(len(results.distances), 2, 4.6, 3.0)
    for axis, entry in zip(axes, results.distances, strict=True):
        _histogram(axis, entry)
        name = f"{entry['dataset']}, {entry['generator']}" if len(results.generators) > 1 else entry["dataset"]
        axis.set_title(f"{name} (n = {len(entry['synthetic'])} and {len(entry['heldout'])})")
    handles = [
        Line2D([], [], color=LOOKS["synthetic"].colour, lw=6, alpha=0.5, label="synthetic"),
        Line2D([], [], color=GREY, lw=2, label="held-out real"),
        Line2D([], [], color="black", ls="--", lw=1.3, label="threshold"),
        *(Line2D([], [], color=c, marker="|", ls="none", ms=10, mew=2,
                label=f"planted: {kind.replace('_', ' ')}")
          for kind, c in _planted(results.distances).items()),
    ]  # fmt: skip
    longest = max(len(str(handle.get_label())) for handle in handles)
    figure.legend(handles=handles, loc="outside lower center", ncols=_columns(figure, longest, len(handles)))
    return figure


def _planted(entries: list[dict[str, Any]]) -> dict[str, str]:
    kinds = dict.fromkeys(kind for entry in entries for kind in entry.get("planted", {}))
    shown = [kind for kind in ("exact", "round_trip") if kind in kinds]
    shown += [kind for kind in kinds if kind not in shown][: 2 - len(shown)]
    return {kind: SPARE[(0, 2, 3, 4)[i % 4]] for i, kind in enumerate(shown)}


def _histogram(axis: Axes, entry: dict[str, Any]) -> None:
    planted = {kind: np.asarray(entry["planted"][kind], dtype=float) for kind in entry.get("planted", {})}
    kinds = {kind: colour for kind, colour in _planted([entry]).items() if len(planted[kind])}
    main = [np.asarray(entry[name], dtype=float) for name in ("synthetic", "heldout")]
    bins = np.linspace(0, max(span(np.concatenate([*main, [entry["threshold"]]]))[1], 1e-6) * 1.02, 41)
    axis.hist(main[0], list(bins), density=True, color=LOOKS["synthetic"].colour, alpha=0.5, lw=0)
    axis.hist(main[1], list(bins), density=True, histtype="step", color=GREY, lw=1.8)
    top = axis.get_ylim()[1]
    for row, (kind, colour) in enumerate(kinds.items()):
        height = np.full(len(planted[kind]), top * (1.06 + 0.09 * row))
        axis.plot(planted[kind], height, "|", color=colour, ms=8, mew=1.4, alpha=0.7, clip_on=False)
    axis.set_ylim(0, top * (1.05 + 0.09 * len(kinds)))
    axis.axvline(float(entry["threshold"]), color="black", ls="--", lw=1.3)
    axis.set_yticks([])
    axis.set_xlim(-0.02 * bins[-1], bins[-1])
    axis.set_xlabel("distance to the nearest training image (tile-max)")


def fidelity(results: Results) -> Figure | None:
    """Generator, controls and the real-against-real floor on one line a data set, a panel a measure."""
    table = results.table
    table = table[(table["stage"] == "fidelity") & table["seed"].isna() & (table["group"] == "all")]
    table = table[(table["variant"] == "") & table["value"].notna() & (table["dataset"] != "")]
    metrics = [name for name in dict.fromkeys(table["metric"]) if name.startswith("frechet")]
    metrics += [name for name in dict.fromkeys(table["metric"]) if name.startswith("kernel")]
    metrics += [name for name in ("ms_ssim",) if name in set(table["metric"])]
    names = [name for name in results.names if name in set(table["dataset"])]
    if not metrics or not names:
        return None
    columns = min(len(metrics), 3)
    rows = -(-len(metrics) // columns)
    own = [name for name in results.generators if name in set(table["generator"])]
    size = (min(3.9 * columns + 1.6, WIDE), rows * ((0.38 + 0.07 * max(len(own), 1)) * len(names) + 1.0) + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axis, metric in zip(axes, metrics, strict=False):
        _dots(axis, table[table["metric"] == metric], names, results)
        axis.set_xlabel(metric_title(metric))
    for spare in axes[len(metrics) :]:
        spare.set_axis_off()
    sizes = {name: part["n"].dropna() for name, part in table[table["metric"] == metrics[0]].groupby("dataset")}
    ends = {name: sorted({int(n.min()), int(n.max())}) for name, n in sizes.items() if len(n)}
    told = [f"{name} (n = {' to '.join(map(str, ends[name]))})" if name in ends else name for name in names]
    axes[0].set_yticks(range(len(names)), told)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    keys = sorted(set(table["generator"]) - {""}, key=lambda name: (name in LOOKS, name != "real", name))
    handles = [_dot_handle(name, results) for name in keys]
    longest = max(len(str(handle.get_label())) for handle in handles)
    figure.legend(handles=handles, loc="outside lower center", ncols=_columns(figure, longest, len(handles)))
    return figure


OFFSET = {"budget": 0.16, "transfer": -0.16}  # of a row, that exposures of a generator stand apart; less for many


def metric_title(metric: str) -> str:
    """frechet_efficientnet_lite0 -> Fréchet distance, EfficientNet-Lite0 (lower = closer to real)."""
    head, _, encoder = metric.partition("_")
    space = {"efficientnet_lite0": "EfficientNet-Lite0", "inception": "Inception (FID)"}.get(encoder, encoder)
    named = {
        "frechet": f"Fréchet distance\n{space}, lower is closer",
        "kernel": f"kernel distance\n{space}, lower is closer",
    }
    return "MS-SSIM within a class\nlower is more diverse" if metric == "ms_ssim" else named.get(head, metric)


def _dot_look(generator: str, results: Results) -> tuple[str, str, bool]:
    """Controls have their own looks; generators take theirs by their place in the study."""
    if generator in LOOKS:
        shape = LOOKS[generator]
        return shape.colour, shape.marker, generator == "real"
    return *placed(results.generators.index(generator) if generator in results.generators else 0), True


def _dot_handle(generator: str, results: Results) -> Line2D:
    colour, marker, filled = _dot_look(generator, results)
    text = "real against real (floor)" if generator == "real" else label(generator)
    return Line2D([], [], color=colour, marker=marker, mfc=colour if filled else "white", ls="none", label=text)


def _dots(axis: Axes, table: pd.DataFrame, names: list[str], results: Results) -> None:
    for row in table.to_dict("records"):
        colour, marker, filled = _dot_look(str(row["generator"]), results)
        name, every = str(row["generator"]), results.generators
        own, many = name not in LOOKS, max(len(every), 1)
        spot = every.index(name) - (many - 1) / 2 if name in every else 0.0
        y = names.index(str(row["dataset"])) + min(0.16, 0.6 / many) * spot + OFFSET.get(row["exposure"], 0.0) / many
        axis.plot([row["low"], row["high"]], [y, y], color=colour, lw=2.6 if own else 1.2, alpha=0.8, zorder=2)
        face = colour if filled else "white"
        how: dict[str, Any] = {"marker": marker, "color": colour, "mfc": face, "ms": 9 if own else 7, "ls": "none"}
        axis.plot(row["value"], y, zorder=3 + own, **how)
    axis.grid(axis="x", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.set_xlim(min(0.0, span(table["value"])[0]), span(table[["value", "high"]].to_numpy(float))[1] * 1.06 + 1e-9)
    axis.xaxis.set_major_locator(MaxNLocator(5))
