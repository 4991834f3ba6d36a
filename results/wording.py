"""Numbers as words: three decimals, a real minus sign, a dash for what is missing; never `nan`."""

from typing import Any

import pandas as pd

DASH = "–"
MINUS = "\u2212"


def number(value: Any, digits: int = 3, sign: bool = False) -> str:
    """0.031; with sign +0.031; missing is a dash."""
    if absent(value):
        return DASH
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{round(float(value), digits) + 0.0:{'+' if sign else ''}.{digits}f}"
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
