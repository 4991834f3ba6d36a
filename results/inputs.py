"""What a report is made from: finished numbers and pictures, no paths and no models."""

from dataclasses import dataclass
from typing import Any

import pandas as pd


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
