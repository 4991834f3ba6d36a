"""Run the cells of a plan where a backend says, tell how far they are, and what is left."""

import importlib.metadata
import os
import shlex
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any, TextIO

import yaml
from pydantic import ValidationError

from benchmark.cache import BadInput, Cell, Record, Store, write_json
from benchmark.plan import ORDER
from benchmark.stages import Meter, forget_peak, peaks, repeatable, stage
from benchmark.study import Study

Job = tuple[int, tuple[Any, ...]]
Call = Callable[..., Any]


def local(call: Call, jobs: list[Job], workers: int) -> Iterator[Any]:
    """One after the other in this process."""
    for _, arguments in jobs:
        yield call(*arguments)


def pool(call: Call, jobs: list[Job], workers: int) -> Iterator[Any]:
    """Worker processes on this machine; jobs run side by side while their threads fit into `workers` cores."""
    waiting, busy, running = list(jobs), 0, dict[Future[Any], int]()
    while waiting or running:
        while waiting and (not running or busy + waiting[0][0] <= workers):
            threads, arguments = waiting.pop(0)
            running[_executor(workers).submit(call, *arguments)] = threads
            busy += threads
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            busy -= running.pop(future)
            yield future.result()


@cache
def _executor(workers: int) -> ProcessPoolExecutor:
    """Workers live as long as the command, for each takes seconds to import torch."""
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_die_with_parent)


def _die_with_parent() -> None:
    """Let a worker end at once when the command is killed: it would hold its cell's lock and use the cores."""
    parent = parent_process()
    assert parent is not None  # only workers are initialised

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


BACKENDS: dict[str, Callable[[Call, list[Job], int], Iterator[Any]]] = {"local": local, "pool": pool}


# Rough seconds a cell at 32 px on two cores, for a plan of which nothing has run yet; finished cells replace them.
TYPICAL = {
    "split": 4.0, "autoencoder": 240.0, "train": 160.0, "synthesize": 20.0, "features": 10.0, "classify": 18.0,
    "fidelity": 20.0, "audit": 60.0, "membership": 10.0,
}  # fmt: skip


SMALL, LARGE = 2.75e-3, 20.0  # seconds an image seen on two cores: recipe small at 32 px, stable-diffusion at 512
GPU = 700  # times as fast: 2 TFLOP an image seen at 512 px, two cores at .1 TFLOP/s, one H100 at 70
SET = 4000  # images of a set that has not been looked at


def _is_large(cell: Cell) -> bool:
    return cell.stage == "train" and cell.config.get("recipe") == "stable-diffusion"


def typical(cell: Cell, study: Study) -> float:
    """A guess in seconds on two cores, by images seen and size for training."""
    if cell.stage != "train" or not (config := cell.config).get("recipe"):
        return TYPICAL[cell.stage] * (study.size / 32) ** 2
    sets = sum(role.startswith("split") for role in cell.inputs)
    share = config.get("budget") or config.get("data_share") or 1.0
    seen = config.get("images_seen") or float(config.get("epochs") or 0) * SET * sets * share
    side = config.get("resolution") or (512 if _is_large(cell) else study.size)
    return float(seen) * (LARGE * (side / 512) ** 2 if _is_large(cell) else SMALL * (side / 32) ** 2)


class Told:
    """Called after every cell with (stage, name); a rich bar on a terminal, else one line a cell."""

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

    def __call__(self, stage: str, name: str) -> None:
        self.done += 1
        seconds = time.monotonic() - self.start
        if self.bar:
            self.bar.update(self.task, advance=1, description=f"{stage}  {60 * self.done / seconds:.0f} cells/min")
            return
        print(f"{seconds:7.0f} s  {self.done}/{self.todo}  {name}", file=self.stream, flush=True)


def estimate(study: Study, cells: list[Cell], store: Store) -> Iterator[str]:
    """Lines of `augury plan`: cells by stage, how many are done, and how long the rest may take."""
    cores, total, large = 2, 0.0, 0.0
    yield f"study {study.name}: {len(cells)} cells"
    for name in ORDER:
        mine = [cell for cell in cells if cell.stage == name]
        if not mine:
            continue
        records = [record for cell in mine if (record := store.record(cell))]
        left = [cell for cell in mine if store.record(cell) is None]
        guess = sum(typical(cell, study) for cell in left) / max(1, len(left))
        each = median(record["seconds"] for record in records) if records else guess
        total += len(left) * each * min(mine[0].threads, cores) / cores
        large += sum(typical(cell, study) for cell in left if _is_large(cell))
        source = "measured here" if records else "typical"
        counts = f"{len(mine):5} cells, {len(records):5} done, {len(left):5} left"
        yield f"  {name:12} {counts}, {each:6.1f} s each ({source})"
    hours = f", {total / 3600:,.0f} hours" if total > 36_000 else ""
    yield f"about {total / 60:,.0f} minutes{hours} left on {cores} cores"
    if large:
        yield f"of it recipe stable-diffusion {large / 3600:,.0f} hours; on one GPU about {large / GPU / 3600:,.1f}"


def progress_lines(cells: list[Cell], store: Store) -> Iterator[str]:
    """Lines of `augury status`: done, failed and left by stage, then why cells failed."""
    for name in ORDER:
        mine = [cell for cell in cells if cell.stage == name]
        done = sum(store.record(cell) is not None for cell in mine)
        bad = sum(store.record(cell) is None and store.error(cell) is not None for cell in mine)
        if mine:
            yield f"{name:12} {done}/{len(mine)} done" + (f", {bad} failed" if bad else "")
    for cell in cells:
        if store.record(cell) is None and (error := store.error(cell)):
            trace = store.folder(cell) / "traceback.txt"  # none where another cell failed first
            yield f"failed: {cell.name}: {error}" + (f" ({trace})" if trace.is_file() else "")


PACKAGES = (
    "augury",
    "diffusers",
    "faiss-cpu",
    "faiss-gpu",
    "numpy",
    "scikit-learn",
    "scipy",
    "timm",
    "torch",
    "transformers",
)


def run_cells(
    cells: list[Cell], store: Store, backend: str, workers: int, told: Callable[[str, str], None]
) -> list[Cell]:
    """Finish the cells and return those that failed; bad input (leaks included) is raised as it comes.

    told(stage, name) is called after every cell.
    """
    failed: set[str] = set()
    todo = list({cell.digest: cell for cell in cells if store.record(cell) is None}.values())
    for cell in cells:
        if store.record(cell):  # a kill between its last two acts leaves a finished cell its checkpoint
            shutil.rmtree(store.folder(cell) / "checkpoint", ignore_errors=True)
    for level in sorted({cell.level for cell in todo}):
        ready = []
        for cell in (cell for cell in todo if cell.level == level):
            missing = [item for item in cell.inputs.values() if item.digest in failed]
            if missing:
                failed.add(cell.digest)
                store.fail(cell, f"needs {missing[0].name}, which failed")
            else:
                for item in cell.inputs.values():
                    store.verify(item)
                ready.append(cell)
        by_digest = {cell.digest: cell for cell in ready}
        jobs = [(min(cell.threads, workers), (str(store.home), cell)) for cell in ready]
        try:
            for digest, error, code in BACKENDS[backend](run_one, jobs, workers):
                if code:
                    raise BadInput(error, code)
                if error:
                    failed.add(digest)
                told(by_digest[digest].stage, by_digest[digest].name + (" FAILED" if error else ""))
        except BrokenProcessPool:
            _executor.cache_clear()
            raise BadInput("a worker was killed from outside, perhaps for memory; the same command goes on, "
                           "with fewer --workers it needs less", code=1) from None  # fmt: skip
    return [cell for cell in cells if cell.digest in failed]


def run_one(home: str, cell: Cell) -> tuple[str, str, int]:
    """Run one cell in this process: (digest, error or '', exit code of bad input or 0)."""
    store = Store(Path(home))
    with store.hold(cell) as folder:
        if store.record(cell) is not None:
            return cell.digest, "", 0
        _clear(folder)
        try:
            quiet()
            set_threads(cell.threads)
            forget_peak()
            inputs = {role: store.folder(item) for role, item in cell.inputs.items()}
            with Meter(folder) as meter, repeatable():
                measured = stage(cell.stage)(cell.config, inputs, folder)
            store.finish(cell, _facts(meter) | (measured or {}))
        except BadInput as error:
            return cell.digest, str(error), error.code
        except Exception as error:  # a failed cell is a row of the table, not the end of the study
            reason = f"{type(error).__name__}: {error}"
            (folder / "traceback.txt").write_text(traceback.format_exc())
            store.fail(cell, reason)
            return cell.digest, reason, 0
    return cell.digest, "", 0


def set_threads(threads: int) -> None:
    """Bind torch, faiss and BLAS to a number of threads; rounding depends on it, so it is the cell's."""
    import faiss
    import threadpoolctl
    import torch

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    threadpoolctl.threadpool_limits(threads)


def quiet() -> None:
    """Turn off the progress bars and notices of the model libraries; errors still speak."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def _clear(folder: Path) -> None:
    """Remove what an earlier try left, except the state that a stage can go on from."""
    for item in folder.iterdir():
        if item.is_dir() and item.name != "checkpoint":
            shutil.rmtree(item)
        elif item.is_file():
            item.unlink()


def _facts(meter: Meter) -> Record:
    import torch

    seconds, cpu_seconds = meter.read()
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        **peaks(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The versions of the packages that results depend on; those not installed are left out."""
    found: dict[str, Any] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def needed(cells: list[Cell], stage: str) -> list[Cell]:
    """The cells of one stage and all that they are made from."""
    wanted: dict[str, Cell] = {}

    def add(cell: Cell) -> None:
        for item in cell.inputs.values():
            add(item)
        wanted[cell.digest] = cell

    for cell in cells:
        if cell.stage == stage:
            add(cell)
    return list(wanted.values())


def claim_name(folder: Path, study: Study) -> None:
    """Refuse a study folder that holds a different study of the same name."""
    file = folder / "study.yaml"
    if file.exists() and not _same(yaml.safe_load(file.read_text()), study):
        raise BadInput(f"{folder} holds a different study named {study.name!r}; give this one another --name")


def save_study(folder: Path, study: Study, arguments: list[str] | None) -> None:
    """Write the resolved study, from which it can be run again, and the command that ran all of it (sys.argv)."""
    folder.mkdir(parents=True, exist_ok=True)
    if arguments is not None:
        write_json(folder / "command.json", {"command": shlex.join(["augury", *arguments[1:]])})
    partial = folder / "study.yaml.partial"
    partial.write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    os.replace(partial, folder / "study.yaml")


def _same(kept: Any, study: Study) -> bool:
    """Whether a kept study file means this study; fields that came later have their defaults."""
    try:
        return Study.model_validate(kept).model_dump(mode="json") == study.model_dump(mode="json")
    except ValidationError:
        return False
