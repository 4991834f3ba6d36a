"""Slices of the tidy table that figures, sentences and the page share."""

from typing import Any

import numpy as np
import pandas as pd

from results.inputs import Results
from results.style import LINES, PLACEBOS

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


def with_images(results: Results, arm: str = "augmented") -> pd.DataFrame:
    """The contrasts of one arm with the study's first generator against real, first backbone and setting."""
    claims = results.claims
    if claims.empty:
        return claims
    kept = claims[(claims["arm"] == arm) & (claims["against"] == "real") & ~claims["generator"].isin(PLACEBOS)]
    return one_a_set(results, plain(results, kept))


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
    """One row a data set: the named contrast, else augmented against real at the lowest budget."""
    claims = results.claims
    if claims.empty:
        return claims
    named = claims[(claims["family"] != "") & (claims["against"] == "real")]
    named = named.drop_duplicates("dataset")
    rest = with_images(results)
    rest = rest[~rest["dataset"].isin(named["dataset"])].sort_values("budget", kind="stable")
    rest = rest.drop_duplicates("dataset")
    return pd.concat([named, rest], ignore_index=True) if len(rest) else named.reset_index(drop=True)


def line_styles(results: Results, table: pd.DataFrame) -> dict[tuple[Any, ...], str]:
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
