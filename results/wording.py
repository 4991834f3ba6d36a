"""Numbers as words, tables as people read them: never nan, a real minus sign, a dash for what is missing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.tidy import missing, rounded

DASH = "–"
MINUS = "\u2212"


def number(value: Any, digits: int = 3, sign: bool = False) -> str:
    """0.031; with sign +0.031; missing is a dash."""
    if absent(value):
        return DASH
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{float(value) + 0.0:{'+' if sign else ''}.{digits}f}"  # -0.000 is below nothing, and says so
    return text.replace("-", MINUS)


def significant(value: Any, digits: int = 3) -> str:
    """Three significant digits without an exponent where it can be: 1079, 0.0239, 12.3."""
    if absent(value):
        return DASH
    text = f"{float(value):#.{digits}g}".removesuffix(".")
    return (f"{float(value):.0f}" if "e" in text and abs(value) >= 1 else text).replace("-", MINUS)


def interval(low: Any, high: Any, digits: int = 3, sign: bool = False) -> str:
    """0.012 to 0.050; a dash where an end is missing."""
    if absent(low) or absent(high):
        return DASH
    return f"{number(low, digits, sign)} to {number(high, digits, sign)}"


def percent(share: Any, digits: int = 1) -> str:
    """0.05 -> 5 % with a space that does not break; no needless decimals."""
    if absent(share):
        return DASH
    text = f"{round(100 * float(share), digits) + 0.0:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}\u00a0%".replace("-", MINUS)


def p_text(p: Any) -> str:
    """0.013; < 0.001 below that."""
    if absent(p):
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(value: Any) -> str:
    """12,345; a dash where missing."""
    return DASH if absent(value) else f"{round(value):,}"


def duration(seconds: Any) -> str:
    """12 s, 3.4 min, 2.1 h."""
    if absent(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def absent(value: Any) -> bool:
    """None, NaN, NA or an empty text."""
    return value is None or value is pd.NA or value != value or (isinstance(value, str) and not value)


def listed(words: list[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


WORDS = (
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)


def counted(n: int, singular: str, plural: str = "") -> str:
    """one seed, three seeds, 27 images."""
    word = WORDS[n] if 0 <= n < len(WORDS) else f"{n:,}"
    return f"{word} {singular if n == 1 else plural or singular + 's'}"


def times(value: Any, censored: Any = 0) -> str:
    """2.4, '> 5.0' above the curve, '< 0.2' below it."""
    if absent(value):
        return DASH
    mark = {1: "> ", -1: "< "}.get(0 if absent(censored) else int(censored), "")
    return f"{mark}{float(value):.3g}" if value >= 10 else f"{mark}{float(value):.2g}"


def times_interval(low: Any, high: Any, low_censored: Any = 0, high_censored: Any = 0) -> str:
    """1.3 to more than 5; a dash where an end is missing."""
    if absent(low) or absent(high):
        return DASH
    left, right = times(low, low_censored), times(high, high_censored)
    swap = {"> ": "more than ", "< ": "less than "}
    for mark, words in swap.items():
        left, right = left.replace(mark, words), right.replace(mark, words)
    return f"{left} to {right}"


HEADINGS = {
    "arm": "arm", "auroc": "AUROC", "dataset": "data set", "image_type": "image type", "n": "test images",
    "n_train": "real images", "ms_ssim": "MS-SSIM", "p_holm": "p (Holm)", "p_equivalence": "p (equivalence)",
    "data_multiplier": "times the real data", "sd_seeds": "SD, all seeds",
    "sd_patients": "SD, patients", "sd_initialisation": "SD, initialisation",
    "sd_subset": "SD, subset", "sd_generator": "SD, generator", "delong_p": "p (DeLong)",
    "mcnemar_p": "p (McNemar)", "wilcoxon_p": "p (Wilcoxon)", "wilcoxon_p_holm": "p (Wilcoxon, Holm)",
    "auroc_difference_bootstrap": "difference, bootstrap", "text": "verdict", "peak_memory_mb": "peak memory (MB)",
    "frechet_efficientnet_lite0": "Fréchet, EfficientNet-Lite0",
    "kernel_efficientnet_lite0": "kernel, EfficientNet-Lite0",
    "frechet_inception": "FID (Inception, 299 px bilinear)", "kernel_inception": "KID (Inception, 299 px bilinear)",
    "two_sample_smallest": "two-sample accuracy noticed from", "probe_alignment": "share of a real probe in its span",
    "tile_max_power": "tile-max", "mirrored_power": "mirrored", "smoothed_power": "smoothed",
    "zoomed_power": "zoomed", "blended_power": "halves of a blend", "moved_power": "moved",
    "adaptive_power": "adaptive ratio", "second_ratio_power": "nearest over second nearest",
    "patch_power": "patch", "embedding_power": "embedding", "round_trip_power": "decoded bank",
    "excess_copies": "excess copies", "copies_called": "called by both controls",
    "tile_max_level": "level of the query control", "tile_max_excess_copies": "excess by the query control alone",
    "bank_share": "nearer to training than to held-out", "bank_p": "p (nearer to training)",
    "membership_auroc": "membership AUROC", "membership_blind_auroc": "blind, no model seen",
    "membership_calibrated_auroc": "membership AUROC, calibrated", "label_by_chance": "label consistency by chance",
    "membership_epsilon": "empirical epsilon, at least", "dp_epsilon": "epsilon promised", "dp_delta": "delta promised",
    "membership_epsilon_most": "that could be told, at most", "membership_void": "void", "most": "found best by",
}  # fmt: skip
PERCENT = ("flagged", "power", "excess_copies", "share", "level", "budget", "bank_share", "copies_called")
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "–": "--", "\u00a0": "~", "−": r"\ensuremath{-}", "±": r"\ensuremath{\pm}", "∞": r"\ensuremath{\infty}",
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """What `table.attrs["best"]` lists: a column whose best number in each group of keys is marked."""

    column: str
    keys: list[str]
    lower: bool = False  # whether the smallest is best
    rows: frozenset[int] | None = None  # positions that may be best; None = all


@dataclass(frozen=True)
class Printed:
    """Headings, rows of cells, which columns are numbers, and which (row, column) is best or tied with the best."""

    headings: list[str]
    rows: list[list[str]]
    numeric: list[bool]
    best: frozenset[tuple[int, int]]
    tied: frozenset[tuple[int, int]] = frozenset()
    note: str = ""  # what all rows have in common, where such columns were folded


KEPT = ("paper",)  # columns that are shown although they are empty: that the paper gives no number is worth telling
TIED = "versus_best_p"  # the column of p values against the best of a comparison
FOLDED = (
    "image_type", "generator", "exposure", "against", "budget", "ratio", "share", "backbone", "variant", "device",
)  # fmt: skip


def printed(table: pd.DataFrame, fold: bool = False) -> Printed:
    """Intervals merged into their number, empty columns dropped, a dash for what is missing.

    fold: a setting that is the same in all rows becomes a note.
    """
    names = [name for name in map(str, table.columns) if not _is_bound(name, table)]
    names = [name for name in names if name in KEPT or not _empty(table[name])]
    if "text" in names and "verdict" in names:
        names.remove("verdict")
    alike = [name for name in names if name in FOLDED and table[name].nunique(dropna=False) == 1]
    same = alike if fold and len(table) > 1 else []
    note = ", ".join(f"{heading(name)} {one(name, table[name].iloc[0])}" for name in same)
    names = [name for name in names if name not in same]
    rows = [[_cell(name, row) for name in names] for row in table.to_dict("records")]
    numeric = [pd.api.types.is_numeric_dtype(table[name]) and table[name].dtype != bool for name in names]
    best, tied = _marked(table, names)
    return Printed([heading(name, table) for name in names], rows, numeric, best, tied, note)


def heading(name: str, table: pd.DataFrame | None = None) -> str:
    """A column's name in words, with `(95 %)` where its cells carry intervals."""
    stem, _, kind = name.partition(":")
    text = HEADINGS.get(stem, stem.replace("_", " ")) + (f", {kind.replace('_', ' ')}" if kind else "")
    bounded = table is not None and (f"{name}_low" in table or (name == "difference" and "low" in table))
    return f"{text} (95 %)" if bounded else text


def write_table(table: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    """NAME.csv with the numbers (missing = empty), NAME.md and NAME.tex as printed."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = printed(table)
    floats = {key: [rounded(x) if not missing(x) else x for x in table[key]] for key in _floats(table)}
    files = {
        "csv": table.assign(**floats).to_csv(index=False, lineterminator="\n"),
        "md": markdown(shown),
        "tex": latex(shown),
    }
    for kind, text in files.items():
        (folder / f"{name}.{kind}").write_text(text, encoding="utf-8")
    return [folder / f"{name}.{kind}" for kind in files]


def markdown(table: Printed) -> str:
    """A pipe table; the best number of each comparison bold, those tied with it underlined."""
    if not table.rows:
        return "No rows.\n"
    marks = [" --: " if numeric else " --- " for numeric in table.numeric]
    cells = [[_escaped(cell) for cell in row] for row in table.rows]
    for row, column in table.best:
        cells[row][column] = f"**{cells[row][column]}**"
    for row, column in table.tied:
        cells[row][column] = f"<u>{cells[row][column]}</u>"
    lines = [[_escaped(text) for text in table.headings], *cells]
    text = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([text[0], f"|{'|'.join(marks)}|", *text[1:]]) + "\n"


def latex(table: Printed) -> str:
    """A booktabs tabular, escaped; needs \\usepackage{booktabs}."""
    if not table.rows:
        return "% No rows.\n"
    cells = [[tex(cell) for cell in row] for row in table.rows]
    for row, column in table.best:
        cells[row][column] = rf"\textbf{{{cells[row][column]}}}"
    for row, column in table.tied:
        cells[row][column] = rf"\underline{{{cells[row][column]}}}"
    columns = "".join("r" if numeric else "l" for numeric in table.numeric)
    head = " & ".join(tex(text) for text in table.headings)
    body = [" & ".join(row) + r" \\" for row in cells]
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head + r" \\", r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def tex(text: str) -> str:
    """Text for LaTeX."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def _escaped(text: str) -> str:
    for old, new in (("|", "\\|"), ("<", "&lt;"), (">", "&gt;"), ("\n", " "), ("*", "\\*")):
        text = text.replace(old, new)
    return text


def _is_bound(name: str, table: pd.DataFrame) -> bool:
    stem, _, end = name.rpartition("_")
    if name in ("low", "high"):
        return "difference" in table
    return (end in ("low", "high") and stem in table) or name.startswith("censored_") or name == TIED


def _empty(column: "pd.Series[Any]") -> bool:
    return len(column) > 0 and all(missing(value) or value == "" for value in column)


def _floats(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table.columns if pd.api.types.is_float_dtype(table[name])]


def _cell(name: str, row: dict[Any, Any]) -> str:
    value = row[name]
    low, high = (row.get(f"{name}_{end}", row.get(end) if name == "difference" else None) for end in ("low", "high"))
    if name == "data_multiplier":
        flags = [{"<": -1, ">": 1}.get(row.get(f"censored_{each}", ""), 0) for each in ("value", "low", "high")]
        text, ends = times(value, flags[0]), [times(low, flags[1]), times(high, flags[2])]
        return text if DASH in ends else f"{text} ({ends[0]} to {ends[1]})"
    text = one(name, value)
    if missing(low) and missing(high):
        return text
    bounds = interval(low, high, sign=True) if name == "difference" else f"{one(name, low)} to {one(name, high)}"
    return f"{text} ({bounds})"


def one(name: str, value: Any) -> str:
    """A single value in the manner of its column."""
    stem = name.partition(":")[0]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if missing(value) or value == "":
        return DASH
    if isinstance(value, str):
        return value
    if stem in ("p", "p_holm", "p_equivalence") or stem.endswith(("_p", "_p_holm")):
        return p_text(value)
    if stem.endswith(PERCENT):
        return percent(value)
    if stem.endswith("seconds"):
        return duration(value)
    if stem in ("n", "n_train", "cells", "seeds", "generators", "peak_memory_mb") or isinstance(value, int):
        return count(value)
    if stem == "difference":
        return number(value, sign=True)
    if stem in ("ratio", "best_ratio", "ratio_for_double"):
        return f"{value:g}" if stem == "ratio" else f"{round(value, 2):g}"
    return significant(value) if stem.startswith(("frechet", "kernel")) else number(value)


Cells = frozenset[tuple[int, int]]


def _marked(table: pd.DataFrame, names: list[str]) -> tuple[Cells, Cells]:
    """(row, column) of the best of each comparison and of those tied with it: p of 5 % or more where the table has it,
    else an interval that meets the best one's."""
    best: set[tuple[int, int]] = set()
    tied: set[tuple[int, int]] = set()
    flat = table.reset_index(drop=True)
    for each in (each for each in table.attrs.get("best", []) if each.column in names):
        place, values = names.index(each.column), flat[each.column].to_numpy(dtype=np.float64)
        for rows in flat.groupby(each.keys, dropna=False).indices.values():
            mine = [int(i) for i in rows if values[i] == values[i] and (each.rows is None or int(i) in each.rows)]
            if len(mine) > 1:
                top = (min if each.lower else max)(values[mine])
                first = [i for i in mine if values[i] == top]
                best |= {(i, place) for i in first}
                tied |= {(i, place) for i in _ties(flat, each.column, mine, first[0])}
    return frozenset(best), frozenset(tied - best)


def _ties(flat: pd.DataFrame, column: str, mine: list[int], best: int) -> list[int]:
    """Those of the rows that do not differ from the best one."""
    if column == "auroc" and TIED in flat:
        p = flat[TIED].to_numpy(dtype=np.float64)[mine]
        return [i for i, value in zip(mine, p, strict=True) if value >= 0.05]
    if f"{column}_low" not in flat or f"{column}_high" not in flat:
        return []
    low, high = (flat[f"{column}_{end}"].to_numpy(dtype=np.float64) for end in ("low", "high"))
    return [i for i in mine if low[i] <= high[best] and low[best] <= high[i]]  # NaN is no tie
