"""The tidy table, one row a number, the same bytes for the same study; and all that a report is made from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    costs: pd.DataFrame  # stage, dataset, generator, cell, seconds, peak_memory_mb, device
    samples: list[dict[str, Any]]  # dataset, image_type, caption, real and synthetic uint8 [n, H, W, 3], seed
    neighbours: list[
        dict[str, Any]
    ]  # dataset, generator, synthetic, nearest_train, nearest_heldout, d_train, d_heldout
    distances: list[dict[str, Any]]  # dataset, generator, synthetic [M], heldout [n], planted {kind: [..]}, threshold
    manifest: dict[str, Any]  # versions, commands, seeds, digest

    def pooled(self, stage: str, metric: str, group: str | None = "all") -> pd.DataFrame:
        """Finished rows pooled over seeds of one metric, one group or (None) all groups."""
        table = self.table
        kept = (table["stage"] == stage) & (table["metric"] == metric) & table["seed"].isna()
        kept &= table["status"] == "ok"
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

    def card(self, name: str) -> dict[str, Any]:
        """The card of a data set, or one with its name alone."""
        return next((card for card in self.datasets if card["name"] == name), {"name": name})
