"""The tidy table, one row a number; all that a report is made from; the slices that figures and sentences share."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd

TEXT = (
    "study", "stage", "dataset", "image_type", "specialty", "generator", "exposure", "arm", "backbone",
    "variant", "group", "metric", "cell", "status",
)  # fmt: skip
FLOATS = ("budget", "ratio", "share", "value", "low", "high")
COUNTS = ("seed", "n", "n_train")
COLUMNS = (
    "study", "stage", "dataset", "image_type", "specialty", "generator", "exposure", "arm", "budget", "ratio",
    "share", "backbone", "variant", "seed", "group", "metric", "value", "low", "high", "n", "n_train", "cell",
    "status",
)  # fmt: skip
KEYS = [name for name in COLUMNS if name not in ("value", "low", "high", "n", "n_train", "cell", "status")]


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows with any of COLUMNS -> the tidy table: typed, ordered, sorted, floats of 10 significant digits.

    Left out: text is '', a number is missing, status is 'ok'. An unknown column is an error.
    """
    rows = list(rows)
    unknown = {key for row in rows for key in row} - set(COLUMNS)
    if unknown:
        raise ValueError(f"unknown columns {sorted(unknown)}; allowed are {', '.join(COLUMNS)}")
    columns = {name: _column(name, rows) for name in COLUMNS}
    table = pd.DataFrame(columns, columns=list(COLUMNS))
    order = [*KEYS, "cell", "status", "value"]
    return table.sort_values(order, kind="stable", na_position="last", ignore_index=True)


def join(*tables: pd.DataFrame) -> pd.DataFrame:
    """Several tidy tables as one, sorted again."""
    return frame(row for table in tables for row in records(table))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts with plain string keys."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def write(table: pd.DataFrame, folder: Path) -> None:
    """results.parquet and results.csv; no clock and no machine in either."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "results.parquet", engine="pyarrow", index=False)
    table.to_csv(folder / "results.csv", index=False, lineterminator="\n")


def read(file: Path) -> pd.DataFrame:
    """results.parquet or results.csv -> the tidy table."""
    if file.suffix == ".parquet":
        return frame(records(pd.read_parquet(file)))
    text = dict.fromkeys(TEXT, str) | dict.fromkeys(COUNTS, "Int64") | dict.fromkeys(FLOATS, "float64")
    table = pd.read_csv(file, dtype=text, keep_default_na=False, na_values={name: [""] for name in (*FLOATS, *COUNTS)})
    return frame(records(table))


def _column(name: str, rows: list[Mapping[str, Any]]) -> "pd.Series[Any]":
    if name in TEXT:
        empty = "ok" if name == "status" else ""
        text = [empty if missing(row.get(name)) else str(row[name]) for row in rows]
        return pd.Series(text, dtype="str")
    if name in COUNTS:
        counts = [pd.NA if missing(row.get(name)) else int(row[name]) for row in rows]
        return pd.Series(counts, dtype="Int64")
    numbers = [float("nan") if missing(row.get(name)) else rounded(row[name]) for row in rows]
    return pd.Series(numbers, dtype="float64")


def missing(value: Any) -> bool:
    """None, NaN or NA."""
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def rounded(value: float) -> float:
    """Ten significant digits, minus zero made zero."""
    return float(f"{float(value):.10g}") + 0.0


@dataclass(frozen=True)
class Results:
    """Everything that tables, figures and the page show. Any list or table may be empty."""

    study: dict[str, Any]  # the resolved study
    table: pd.DataFrame  # the tidy table with pooled rows
    claims: pd.DataFrame  # of results.claims.contrasts
    datasets: list[dict[str, Any]]  # cards: name, image_type, specialty, classes, licence, citation, caveats, ...
    costs: pd.DataFrame  # a row a cell: what it was, and its seconds, images, peak memory in MB, device
    # dataset, image_type, specialty, generator, captions, real and synthetic uint8 [n, H, W, 3], seed
    samples: list[dict[str, Any]]
    # dataset, generator, seed, search, tiles, synthetic, nearest_train, nearest_heldout, d_train, d_heldout
    neighbours: list[dict[str, Any]]
    # dataset, generator, seed, synthetic [M], heldout [n], planted {kind: [..]}, threshold
    distances: list[dict[str, Any]]
    manifest: dict[str, Any]  # versions, commands, seeds, digests of cells
    # dataset, arm, generator, budget, confidence and accuracy by bin
    calibration: list[dict[str, Any]] = field(default_factory=list)

    def pooled(self, stage: str, metric: str, group: str | None = "all") -> pd.DataFrame:
        """Finished rows pooled over seeds of one metric, one group or (None) all groups."""
        table = self.table
        kept = (table["stage"] == stage) & (table["metric"] == metric) & table["seed"].isna()
        kept &= (table["status"] == "ok") & ((table["dataset"] != "") | (stage != "fidelity"))  # not means over sets
        return table[kept if group is None else kept & (table["group"] == group)]

    @property
    def failed(self) -> pd.DataFrame:
        """The rows of failed cells."""
        return self.table[self.table["status"] == "failed"]

    @property
    def names(self) -> list[str]:
        """Data sets in the study's order: the cards', then any that only the table knows."""
        known = [str(card["name"]) for card in self.datasets]
        return known + [name for name in sorted(set(self.table["dataset"])) if name and name not in known]

    @property
    def backbone(self) -> str:
        """The first backbone, that of headlines and figures."""
        for entry in self.study.get("backbones") or []:
            return str(entry["name"] if isinstance(entry, dict) else entry)
        return next((str(name) for name in self.table["backbone"] if name), "")

    @property
    def generators(self) -> list[str]:
        """The study's own generators, the first one that of headlines."""
        return [str(name) for name in self.study.get("generators") or {}]

    def titled(self, name: str) -> str:
        """A data set's name with its number of test images, where its card tells."""
        count = self.card(name).get("n_test")
        return f"{name} (n = {count})" if count else name

    def card(self, name: str) -> dict[str, Any]:
        """The card of a data set, or one with its name alone."""
        return next((card for card in self.datasets if card["name"] == name), {"name": name})


class Look(NamedTuple):
    """Colour, marker and label of an arm or control."""

    colour: str
    marker: str
    label: str
    filled: bool = True


GREY = "#6b6f76"
LOOKS = {  # Okabe and Ito's palette, which colour-blind readers can tell apart; controls are hollow
    "augmented": Look("#0072b2", "o", "real + synthetic"),
    "class_mean": Look("#a6611a", "v", "class mean + noise", False),
    "copies": Look("#cc79a7", "D", "copies of real", False),
    "mixed": Look("#e69f00", "^", "half replaced by synthetic"),
    "mixup": Look("#7a5195", "P", "mixup of real", False),
    "pretrained": Look("#009e73", "X", "pretrained on synthetic"),
    "real": Look(GREY, "s", "real only"),
    "real_double": Look("#9aa0a8", "d", "twice the real data", False),
    "real_oversampled": Look("#9aa0a8", "h", "real, oversampled", False),
    "real_strong": Look("#9aa0a8", "p", "real, strong augmentation", False),
    "round_trip": Look("#009e73", "<", "autoencoder's round trip", False),
    "synthetic": Look("#d55e00", "*", "synthetic only"),
}
PLACEBOS = ("class_mean", "copies", "mixup")
SPARE = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: Any = ("-", "--", ":", "-.", (0, (5, 1)), (0, (9, 3)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 2, 2)))
RC: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a9099",
    "axes.grid": True,
    "axes.labelcolor": "#22262b",
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.8,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "augury",
    "text.parse_math": False,
    "xtick.color": "#4a4f57",
    "xtick.labelsize": 9.5,
    "ytick.color": "#4a4f57",
    "ytick.labelsize": 9.5,
}


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib's defaults with RC on top, whatever the user's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def look(arm: str, generator: str = "") -> Look:
    """The look of an arm; a placebo (arm augmented, a baseline as generator) has its baseline's."""
    key = generator if generator in PLACEBOS else arm
    return LOOKS.get(key, Look("#444444", "o", key.replace("_", " ")))


def placed(place: int) -> tuple[str, str]:
    """Colour and marker of the n-th of several sets or generators: 40 pairs before one comes twice."""
    return SPARE[place % len(SPARE)], MARKERS[(place + place // len(SPARE)) % len(MARKERS)]


def label(name: str) -> str:
    """Readable name of an arm, control or generator."""
    return LOOKS[name].label if name in LOOKS else name.replace("_", " ")


SERIES = ["arm", "generator", "exposure", "ratio", "share"]


def plain(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the first backbone and of the study as written (no variant)."""
    return table[(table["backbone"] == results.backbone) & (table["variant"] == "")]


def lowest_budget(results: Results) -> float:
    """The smallest budget at which real data was used; NaN where there is none."""
    budgets = results.table.loc[results.table["arm"] == "real", "budget"].dropna()
    return float(budgets.min()) if len(budgets) else float("nan")


def highest_budget(results: Results) -> float:
    """The largest such budget."""
    budgets = results.table.loc[results.table["arm"] == "real", "budget"].dropna()
    return float(budgets.max()) if len(budgets) else float("nan")


MAIN = ("augmented", "mixed", "pretrained", "synthetic")  # the arms that may carry a study's answer, the first it has


def main_arm(found: Iterable[str]) -> str:
    """The arm with synthetic images that stands for a study; augmented where it has none at all."""
    return next((arm for arm in MAIN if arm in set(found)), MAIN[0])


def with_images(results: Results) -> pd.DataFrame:
    """The contrasts of the main arm with the study's first generator against real, first backbone and setting."""
    claims = results.claims
    if claims.empty:
        return claims
    kept = plain(results, claims[(claims["against"] == "real") & ~claims["generator"].isin(PLACEBOS)])
    return one_a_set(results, kept[kept["arm"] == main_arm(kept["arm"])])


def placebos(results: Results) -> pd.DataFrame:
    """The contrasts of the placebos against real."""
    claims = results.claims
    return claims if claims.empty else plain(results, claims[claims["generator"].isin(PLACEBOS)])


def one_a_set(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """One row a data set and budget: named first, then by generator, exposure full first, least ratio."""
    if rows.empty:
        return rows
    places = [rank(results, str(row.generator), str(row.exposure)) for row in rows.itertuples()]
    ranked = rows.assign(
        _named=(rows["family"] == "").astype(int),
        _generator=[place for place, _ in places],
        _exposure=[place for _, place in places],
    )
    ranked = ranked.sort_values(["_named", "_generator", "_exposure", "ratio", "share"], kind="stable")
    kept = ranked.drop_duplicates(["dataset", "budget"]).sort_values(["dataset", "budget"], kind="stable")
    return kept.drop(columns=["_named", "_generator", "_exposure"])


def headline(results: Results) -> pd.DataFrame:
    """One row a data set: the named contrast, else the main arm against real at the lowest budget."""
    claims = results.claims
    if claims.empty:
        return claims
    named = claims[(claims["family"] != "") & (claims["against"] == "real")]
    named = named.drop_duplicates("dataset")
    rest = with_images(results)
    rest = rest[~rest["dataset"].isin(named["dataset"])].sort_values("budget", kind="stable")
    rest = rest.drop_duplicates("dataset")
    return pd.concat([named, rest], ignore_index=True) if len(rest) else named.reset_index(drop=True)


def line_styles(results: Results, table: pd.DataFrame) -> dict[tuple[Any, ...], Any]:
    """A dash pattern a (generator, exposure, ratio); solid is the study's first generator, full exposure."""
    mine = table[(table["generator"] != "") & ~table["generator"].isin(PLACEBOS)]
    keys = set(mine[["generator", "exposure", "ratio"]].itertuples(index=False, name=None))
    ranked = sorted(keys, key=lambda key: (*rank(results, str(key[0]), str(key[1])), float(key[2])))
    return {key: LINES[place % len(LINES)] for place, key in enumerate(ranked)}


def rank(results: Results, generator: str, exposure: str) -> tuple[int, int]:
    """Place of a generator in the study and of an exposure: full, budget, transfer."""
    names, exposures = results.generators, ("full", "budget", "transfer")
    place = names.index(generator) if generator in names else len(names)
    return place, exposures.index(exposure) if exposure in exposures else len(exposures)


def span(values: Any) -> tuple[float, float]:
    """Least and greatest of the finite values; (0, 1) where there is none."""
    array = np.asarray(values, dtype=np.float64)
    array = array[np.isfinite(array)]
    return (float(array.min()), float(array.max())) if len(array) else (0.0, 1.0)


def real_images(results: Results, dataset: str, budget: float) -> int | None:
    """Real training images of a data set at a budget."""
    table = results.table
    rows = table[(table["dataset"] == dataset) & (table["arm"] == "real") & (table["budget"] == budget)]
    counts = rows["n_train"].dropna()
    return round(float(counts.mean())) if len(counts) else None


def nearer(results: Results) -> pd.DataFrame:
    """Rows `*_excess_copies` of the study as written where one search's query control alone finds an excess, p at most
    5 % over all searches."""
    table = results.table
    table = table[(table["stage"] == "audit") & (table["group"] == "all") & (table["variant"] == "")]
    table = table[table["seed"].isna() & (table["status"] == "ok")]
    keys = ["dataset", "generator", "exposure", "budget", "metric"]
    found = table[table["metric"].str.endswith("_excess_copies")]
    chance = table[table["metric"].str.endswith("_p")][[*keys, "value"]].rename(columns={"value": "p"})
    chance = chance.assign(metric=chance["metric"].str.removesuffix("_p") + "_excess_copies")
    found = found.merge(chance, on=keys, how="left")
    return found[(found["low"] > 0) & ~(found["p"] > 0.05 / max(1, found["metric"].nunique()))]
