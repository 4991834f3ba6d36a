"""Every figure by name: how it is drawn, what it says in words made from the numbers, and how it is written."""

import io
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from results import charts, curves
from results.answers import distances
from results.cautions import place_of
from results.tidy import Results, headline, label, main_arm, records, styled, with_images
from results.wording import heading, listed, number, percent
from results.worth import predictors_table


def say_metric_by_budget(results: Results) -> str:
    """Where augmented lies above, below, or cannot be told from real data."""
    rows = with_images(results)
    text = "Test AUROC, macro one against rest, by the share of the real training images used. "
    arm = label(main_arm(rows["arm"])) if len(rows) else ""
    for budget in sorted(set(rows["budget"]))[:: max(len(set(rows["budget"])) - 1, 1)] if len(rows) else []:
        at = rows[rows["budget"] == budget]
        text += f"At {percent(budget)}, {arm} against real only: {_tally(at)}. "
    return f"{text}Bands and bars are 95 % intervals over seeds and test patients."


def say_differences(results: Results) -> str:
    """Count of intervals above, below and across zero for the headline contrasts."""
    rows = headline(results)
    words = list(rows[rows["claim"]]["verdict"]) if len(rows) else []
    counts = listed([f"{word} {words.count(word)}" for word in dict.fromkeys(words)])
    lead = f"Arm minus real only. Contrasts that may be claimed (filled): {counts}. " if counts else ""
    margin = number(results.study.get("margin", 0.01), 3)
    return f"{lead}Lines are 95 % intervals. Hollow markers are exploratory; the grey band is the margin of ±{margin}."


def _tally(rows: pd.DataFrame) -> str:
    """better on 1, worse on 0, not told apart on 3 data sets."""
    better, worse = int((rows["low"] > 0).sum()), int((rows["high"] < 0).sum())
    rest = len(rows) - better - worse
    return f"better on {better}, worse on {worse}, not told apart on {rest} data sets (uncorrected intervals)"


def say_predictors(results: Results) -> str:
    """The strongest rank correlation and what it rests on."""
    table = predictors_table(results).dropna(subset=["rho"])
    text = "Each point is a set, generator, exposure and sampling; rho is Spearman's; the table has p and regret."
    if table.empty:
        return text
    if not (table["p_holm"] < 0.05).any():
        return f"No measure's rank correlation with the gain can be told from chance ({len(table)} tried). {text}"
    table = table[table["p_holm"] < 0.05].assign(own=table["within"].fillna(table["rho"]))  # what the p belongs to
    best = max(records(table), key=lambda row: abs(float(row["own"])))
    strongest = f"Strongest: {heading(str(best['measure']))}, rank correlation {number(best['own'], 2, sign=True)}"
    wrong = "" if best["may_guide"] == "yes" else ", which is the wrong way round"
    return f"{strongest} over {int(best['pairs'])} pairs{wrong}. {text}"


def say_sample_grid(results: Results) -> str:
    """How the images were chosen."""
    sets = listed(list(dict.fromkeys(str(each["dataset"]) for each in results.samples)))
    filtered = any((results.study.get("sampling") or {}).get(key, [None])[0] for key in ("filter", "privacy"))
    chosen = "from those that the filter accepted where it did" if filtered else "none chosen or left out"
    return (
        f"Real images left, synthetic ones right, for {sets}; the caption asked for stands under each, and the real "
        f"image in its place has the same label. Drawn at random, {chosen}."
    )


def say_nearest_neighbours(results: Results) -> str:
    """How to read the pictures, and the closest pair of all."""
    rows = [each for each in results.neighbours if len(each["d_train"]) and each.get("search") != "patch"]
    text = (
        "Each synthetic image beside its nearest training image, where the two agree (tile by tile: dark = equal, "
        f"yellow = a difference of {HOT:.0%} of the range or more) and its nearest held-out image, closest first. By "
        "patch every tile may lie anywhere, in any training image; shown is the one that most of them come from. "
    )
    if not rows:
        return text
    closest = min(rows, key=lambda each: float(min(each["d_train"])))
    place = int(list(closest["d_train"]).index(min(closest["d_train"])))
    train, heldout = (number(closest[key][place]) for key in ("d_train", "d_heldout"))
    told = f"The closest of all ({place_of(results, closest)}, first seed) lies {train} from a training image and "
    return f"{text}{told}{heldout} from a held-out one (tile-max distance, 0 = a copy)."


def say_distance_histogram(results: Results) -> str:
    """The share of synthetic images below the threshold, by data set."""
    found = [each for each in results.distances if len(each["synthetic"])]
    below = [float((np.asarray(each["synthetic"]) <= each["threshold"]).mean()) for each in found]
    shares = [f"{place_of(results, each)} {percent(share)}" for each, share in zip(found, below, strict=True)]
    level = " Held-out real images are the control; planted copies show what the audit would find."
    return f"Share of synthetic images at or below the threshold (first seed): {listed(shares)}.{level}"


def say_reader(results: Results) -> str:
    """Accuracy of all readers."""
    table = results.table[(results.table["metric"] == "reader_accuracy") & (results.table["dataset"] == "")]
    row = records(table[table["group"] == "all"])[0]
    return f"Readers told real from synthetic in {percent(row['value'], 0)} of {int(row['n'])} pictures. Bars are 95 %."


def say_fidelity(results: Results) -> str:
    """Where each generator stands between the floor and the control to beat."""
    parts = []
    for name in results.generators[:1]:
        found = [values for values in (distances(results, each) for each in results.names) if name in values]
        found = [values for values in found if "class_mean" in values]
        beaten = sum(values[name] < values["class_mean"] for values in found)
        if found:
            parts.append(f"{name} is closer than class means with noise on {beaten} of {len(found)} data sets.")
    return " ".join(
        ["Lower Fréchet distance is closer; real against real is the floor, class mean + noise the control;",
         "copies and mixup are lower bounds, not rivals. Budget exposure lies below, transfer above.", *parts]
    )  # fmt: skip


HOW_TO_READ = {
    "multiplier": (
        "How many times the real data would have been needed for the same score, adding synthetic images of the first "
        "generator; bars are 95 % intervals, the solid line is 1 (worth nothing more), the dotted 2. An open triangle "
        "is a bound: the curve of real data does not reach that score; an arrow at a bar's end: it may go on."
    ),
    "sweep": (
        "Fréchet distance (down is closer) against recall (right is more diverse) of every setting tried. Numbers "
        "are guidance, lines join those of one number of steps (dashed: another filter), the ring is as the study says."
    ),
    "reliability": (
        "Share of decisions that were right against the confidence in them, all seeds at the lowest budget and the "
        "first generator's least ratio, in fifteen bins of equal mass; below the dotted line it is over-confident."
    ),
    "ablations": (
        "Generators that differ from the first in one field alone: Fréchet distance (lower is closer) and, at the "
        "lowest budget, the gain in AUROC of adding their images; dashed: of another than the first. Means over seeds."
    ),
    "strictness": (
        "Images as near to training images as this share of validation images (tile-max distance) are redrawn. Judged "
        "by searches that the filter did not use: its own measure would show what is built in."
    ),
    "cost": "Minutes to train a generator and draw its sets, all seeds, against the gain at the lowest budget.",
}  # of figures whose words do not depend on the numbers


NEEDS = {
    "ablations": "two generators that differ in one field", "cost": "two generators beside real data",
    "predictors": "four data sets or generators", "reader": "answers of readers",
    "strictness": "several privacy levels", "sweep": "three settings of guidance or steps",
}  # fmt: skip


def fixed(name: str) -> Callable[[Results], str]:
    """The same words for every study."""
    return lambda results: HOW_TO_READ[name]


class Entry(NamedTuple):
    """draw: Results -> Figure, None without data; message: what it shows; dense: a PNG on the page."""

    draw: Callable[[Results], Figure | None]
    message: Callable[[Results], str]
    title: str
    dense: bool = False


def draw(name: str, results: Results) -> Figure | None:
    """A figure by name, in the house style; None where the study has no data for it."""
    if name not in FIGURES:
        raise ValueError(f"figure {name!r} is not known; there are {', '.join(FIGURES)}")
    with styled():
        return FIGURES[name].draw(results)


def caption(name: str, results: Results) -> str:
    """Title and message of a figure."""
    return f"{FIGURES[name].title}. {FIGURES[name].message(results)}"


def command(name: str, study: str) -> str:
    """The command that redraws a figure."""
    return f"augury figure {name} {study}"


def write_figure(figure: Figure, folder: Path, name: str, command: str, caption: str) -> list[Path]:
    """NAME.png (200 dpi), .pdf and .svg with command and caption inside; reproducible bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    with styled():
        for _ in range(2 if any(axis.images for axis in figure.axes) else 1):  # then it knows how large pictures became
            figure.get_layout_engine().execute(figure)  # type: ignore[union-attr]
    figure.set_layout_engine("none")  # laid out once for all three
    written = [folder / f"{name}.{kind}" for kind in ("png", "pdf", "svg")]
    for path in written:
        path.write_bytes(rendered(figure, path.suffix[1:], name, command, caption))
    return written


def rendered(figure: Figure, kind: str, name: str, command: str, caption: str) -> bytes:
    """The bytes of a figure as png, pdf or svg, without a date."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format=kind, metadata=_metadata(kind, name, command, caption))
    return buffer.getvalue()


def _metadata(kind: str, name: str, command: str, caption: str) -> dict[str, Any]:
    text = f"{caption} Redraw: {command}"
    if kind == "pdf":
        return {"Title": name, "Subject": text, "Creator": "Augury", "Producer": "matplotlib", "CreationDate": None}
    if kind == "svg":
        return {"Title": name, "Description": text, "Creator": "Augury", "Date": None}
    return {"Title": name, "Description": text, "Software": "Augury"}


Images = npt.NDArray[np.uint8]
SHOWN, TRIPLES = 4, 2  # images a side of the sample grid; synthetic images a row of the gallery
TILES = 4  # a side, of the tile-max distance
HOT = 0.2  # root mean square difference, of the range, that is shown brightest
GAP, TILE = 4, 128  # pixels: white ones between tiles, a tile's side


def sample_grid(results: Results) -> Figure | None:
    """A row a data set and generator: real left, synthetic right, the caption of each under it."""
    rows = [each for each in results.samples if len(each["real"]) and len(each["synthetic"])]
    if not rows:
        return None
    several = len({each["generator"] for each in rows}) > 1
    figure = Figure(figsize=(9.6, 1.5 * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        _strip(axes[0], row["real"], [])
        _strip(axes[1], row["synthetic"], [str(text) for text in row["captions"]])
        told = [_wrapped(row["dataset"], 22), row.get("image_type") or "", row.get("specialty") or ""]
        told += [str(row["generator"])] if several else []
        axes[0].set_ylabel("\n".join(filter(None, told)), rotation=0, ha="right", va="center", fontsize=9)
        axes[0].yaxis.set_label_coords(-0.02, 0.5)
    grid[0][0].set_title("real")
    grid[0][1].set_title(f"synthetic (random draw, seed {rows[0].get('seed', 0)})")
    return figure


def _strip(axis: Axes, images: Images, captions: list[str]) -> None:
    tiles = [enlarged(image) for image in images[:SHOWN]]
    tiles += [np.full_like(tiles[0], 255)] * (SHOWN - len(tiles))
    gap = np.full((TILE, GAP, 3), 255, dtype=np.uint8)
    parts = [part for tile in tiles for part in (tile, gap)][:-1]
    _show(axis, np.concatenate(parts, axis=1))
    places = [place * (TILE + GAP) + TILE / 2 for place in range(min(len(captions), SHOWN))]
    under = [textwrap.fill(text, 17, max_lines=5, placeholder="…") or "no caption" for text in captions[:SHOWN]]
    axis.set_xticks(places, under, fontsize=7)
    axis.tick_params(length=0)


def _show(axis: Axes, image: Images) -> None:
    axis.imshow(image, interpolation="antialiased")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def enlarged(image: Images, tile: int = TILE) -> Images:
    """uint8 [H, W, 3] -> [tile, tile, 3]: small ones by repetition of pixels, large ones by area."""
    if max(image.shape[:2]) > tile:
        return np.asarray(Image.fromarray(image).resize((tile, tile), Image.Resampling.BOX))
    y = np.arange(tile) * image.shape[0] // tile
    x = np.arange(tile) * image.shape[1] // tile
    return np.asarray(image[y][:, x], dtype=np.uint8)


def _wrapped(text: str, width: int) -> str:
    """Cut to one line of `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"


def gallery(entries: list[dict[str, Any]]) -> Figure | None:
    """Synthetic | nearest training | nearest held-out, worst first, with their distances; entries as `neighbours`."""
    rows = [each for each in entries if len(each["synthetic"])]
    if not rows:
        return None
    count = min(TRIPLES, max(len(each["synthetic"]) for each in rows))
    figure = Figure(figsize=(4.0 * count + 1.5, 1.25 * len(rows) + 0.45), layout="constrained")
    grid = figure.subplots(len(rows), count, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        _triples(list(axes), row)
        told = [_wrapped(str(row["dataset"]), 22), _wrapped(str(row["generator"]), 22), row.get("search", "")]
        axes[0].set_ylabel("\n".join(filter(None, told)), rotation=0, ha="right", va="center", fontsize=9.5)
        axes[0].yaxis.set_label_coords(-0.03, 0.5)
    for axis in grid[0]:
        axis.set_title("synthetic | training | agreement | held-out", fontsize=8.5, fontweight="normal", loc="center")
    return figure


def tile_gaps(one: Images, two: Images) -> npt.NDArray[np.float64]:
    """RMS differences of the 4 x 4 tiles of two pictures uint8 [H, W, 3], of the range."""
    side = one.shape[0] // TILES * TILES
    gap = (one[:side, :side].astype(np.float64) - two[:side, :side]) / 255
    squares = (gap**2).reshape(TILES, side // TILES, TILES, side // TILES, 3).mean(axis=(1, 3, 4))
    return np.asarray(squares**0.5)


def heat_map(one: Images, tiles: npt.NDArray[np.float64]) -> Images:
    """A picture's greys under the colours of its tiles' distances [4, 4]: dark = equal."""
    side = one.shape[0] // TILES * TILES
    colour = mpl.colormaps["inferno"](np.clip(tiles / HOT, 0, 1))[..., :3]
    colour = np.kron(colour, np.ones((side // TILES, side // TILES, 1)))
    grey = one[:side, :side].mean(axis=2, keepdims=True) / 255
    return np.asarray(np.rint(255 * (0.65 * colour + 0.35 * grey)), np.uint8)


def _triples(axes: list[Axes], row: dict[str, Any]) -> None:
    d_train, d_heldout = np.asarray(row["d_train"], float), np.asarray(row["d_heldout"], float)
    worst = np.argsort(d_train, kind="stable")[: len(axes)]
    for axis in axes[len(worst) :]:
        axis.set_axis_off()
    gap = np.full((TILE, GAP, 3), 255, dtype=np.uint8)
    for axis, j in zip(axes, worst, strict=False):
        one, two, three = (enlarged(row[name][j]) for name in ("synthetic", "nearest_train", "nearest_heldout"))
        patch = row["tiles"][j].reshape(TILES, TILES) if "tiles" in row else None
        gaps = tile_gaps(row["synthetic"][j], row["nearest_train"][j]) if patch is None else patch
        heat = enlarged(heat_map(row["synthetic"][j], gaps))
        _show(axis, np.concatenate([one, gap, two, gap, heat, gap, three], axis=1))
        text = f"to training {number(d_train[j])}, held-out {number(d_heldout[j])}"
        axis.set_xlabel(text, fontsize=8.5, color="#4a4f57")


FIGURES: dict[str, Entry] = {
    "ablations": Entry(curves.ablations, fixed("ablations"), "What changes of the generator did"),
    "cost": Entry(curves.cost, fixed("cost"), "Cost against utility"),
    "differences": Entry(charts.differences, say_differences, "Differences from real data alone"),
    "distance_histogram": Entry(charts.distance_histogram, say_distance_histogram, "Nearest-neighbour distances"),
    "fidelity": Entry(charts.fidelity, say_fidelity, "Fidelity and diversity beside their controls"),
    "metric_by_budget": Entry(charts.metric_by_budget, say_metric_by_budget, "Score against real data used"),
    "multiplier": Entry(curves.multiplier, fixed("multiplier"), "What it was worth in real data"),
    "nearest_neighbours": Entry(
        lambda results: gallery(results.neighbours), say_nearest_neighbours, "Nearest neighbours", True
    ),
    "predictors": Entry(curves.predictors, say_predictors, "Which measure predicts utility"),
    "reader": Entry(curves.reader, say_reader, "What readers saw"),
    "reliability": Entry(curves.reliability, fixed("reliability"), "Reliability of the classifiers"),
    "sample_grid": Entry(sample_grid, say_sample_grid, "Real and synthetic images", True),
    "strictness": Entry(curves.strictness, fixed("strictness"), "The price of a stricter privacy filter"),
    "sweep": Entry(curves.sweep, fixed("sweep"), "Sampling settings: fidelity against diversity"),
}
