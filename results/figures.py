"""Every figure by name: how it is drawn, what it says, and how it is written."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from results import charts, messages, pictures
from results.inputs import Results
from results.style import styled


class Entry(NamedTuple):
    """draw: Results -> Figure, None without data; message: what it shows; dense: a PNG on the page."""

    draw: Callable[[Results], Figure | None]
    message: Callable[[Results], str]
    title: str
    dense: bool = False


FIGURES: dict[str, Entry] = {
    "differences": Entry(charts.differences, messages.differences, "Differences from real data alone"),
    "distance_histogram": Entry(charts.distance_histogram, messages.distance_histogram, "Nearest-neighbour distances"),
    "fidelity": Entry(charts.fidelity, messages.fidelity, "Fidelity and diversity beside their controls"),
    "metric_by_budget": Entry(charts.metric_by_budget, messages.metric_by_budget, "Score against real data used"),
    "nearest_neighbours": Entry(pictures.nearest_neighbours, messages.nearest_neighbours, "Nearest neighbours", True),
    "sample_grid": Entry(pictures.sample_grid, messages.sample_grid, "Real and synthetic images", True),
}


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
    """NAME.png (150 dpi), .pdf and .svg with command and caption inside; reproducible bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in ("png", "pdf", "svg"):
        path = folder / f"{name}.{kind}"
        path.write_bytes(rendered(figure, kind, name, command, caption))
        written.append(path)
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
        return {
            "Title": name,
            "Subject": text,
            "Creator": "Augury",
            "Producer": "matplotlib",
            "CreationDate": None,
        }
    if kind == "svg":
        return {"Title": name, "Description": text, "Creator": "Augury", "Date": None}
    return {"Title": name, "Description": text, "Software": "Augury"}
