"""What a person sees of a run: a bar on a terminal, plain lines in a log, and an estimate before it starts."""

import time
from collections.abc import Iterator
from statistics import median
from typing import Any, TextIO

from benchmark.cache import Cell, Store
from benchmark.plan import ORDER
from benchmark.study import Study

# Rough seconds a cell at 32 px on two cores, for a plan of which nothing has run yet; finished cells replace them.
TYPICAL = {
    "split": 4.0, "autoencoder": 240.0, "train": 160.0, "synthesize": 20.0, "features": 10.0, "classify": 18.0,
    "fidelity": 20.0, "audit": 40.0,
}  # fmt: skip


class Told:
    """Called after every cell with (stage, done, of, name); a rich bar on a terminal, else one line a cell."""

    def __init__(self, todo: int, stream: TextIO) -> None:
        self.todo, self.stream, self.start, self.done = todo, stream, time.monotonic(), 0
        self.bar: Any = None

    def __enter__(self) -> "Told":
        if self.stream.isatty() and self.todo:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=Console(file=self.stream))
            self.bar.start()
            self.task = self.bar.add_task("cells", total=self.todo)
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

    def __call__(self, stage: str, done: int, total: int, name: str) -> None:
        self.done += 1
        seconds = time.monotonic() - self.start
        if self.bar:
            self.bar.update(
                self.task,
                advance=1,
                description=f"{stage} {done}/{total}  {60 * self.done / seconds:.0f}/min",
            )
            return
        print(f"{seconds:7.0f} s  {self.done}/{self.todo}  {name}", file=self.stream, flush=True)


def estimate(study: Study, cells: list[Cell], store: Store) -> Iterator[str]:
    """Lines of `augury plan`: cells by stage, how many are done, and how long the rest may take."""
    cores, total = 2, 0.0
    yield f"study {study.name}: {len(cells)} cells"
    for stage in ORDER:
        mine = [cell for cell in cells if cell.stage == stage]
        if not mine:
            continue
        records = [record for cell in mine if (record := store.record(cell))]
        each = median(record["seconds"] for record in records) if records else TYPICAL[stage]
        left = len(mine) - len(records)
        total += left * each * min(mine[0].threads, cores) / cores
        source = "measured here" if records else "typical"
        yield f"  {stage:12} {len(mine):5} cells, {len(records):5} done, {left:5} left, {each:6.1f} s each ({source})"
    yield f"about {total / 60:.0f} minutes left on {cores} cores"


def progress_lines(cells: list[Cell], store: Store) -> Iterator[str]:
    """Lines of `augury status`: done, failed and left by stage, then why cells failed."""
    for stage in ORDER:
        mine = [cell for cell in cells if cell.stage == stage]
        done = sum(store.record(cell) is not None for cell in mine)
        bad = sum(store.record(cell) is None and store.error(cell) is not None for cell in mine)
        if mine:
            yield f"{stage:12} {done}/{len(mine)} done" + (f", {bad} failed" if bad else "")
    for cell in cells:
        if store.record(cell) is None and (error := store.error(cell)):
            yield f"failed: {cell.name}: {error}"
