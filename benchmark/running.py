"""Run a plan: every unfinished cell once, stage after stage, whatever was killed or failed before."""

import importlib
import importlib.metadata
import os
import shutil
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from benchmark.backends import BACKENDS
from benchmark.cache import BadInput, Cell, Record, Store
from benchmark.plan import ORDER
from benchmark.study import Study

PACKAGES = (
    "augury",
    "diffusers",
    "faiss-gpu",
    "numpy",
    "scikit-learn",
    "scipy",
    "timm",
    "torch",
    "transformers",
)
Told = Callable[[str, int, int, str], None]  # stage, cells done, cells to do, the cell's name


def run_cells(cells: list[Cell], store: Store, backend: str, workers: int, told: Told) -> list[Cell]:
    """Finish the cells and return those that failed; bad input (leaks included) is raised after its stage."""
    failed: dict[str, str] = {}
    for stage in ORDER:
        todo = [cell for cell in cells if cell.stage == stage and store.record(cell) is None]
        ready = []
        for cell in todo:
            missing = [item for item in cell.inputs.values() if item.digest in failed]
            if missing:
                failed[cell.digest] = f"needs {missing[0].name}, which failed"
                store.fail(cell, failed[cell.digest])
            else:
                for item in cell.inputs.values():
                    store.verify(item)
                ready.append(cell)
        by_digest = {cell.digest: cell for cell in ready}
        jobs = [(min(cell.threads, workers), (str(store.home), cell)) for cell in ready]
        for done, (digest, error, bad) in enumerate(BACKENDS[backend](run_one, jobs, workers), 1):
            if bad:
                raise (
                    BadInput(error)
                    if bad == "BadInput"
                    else importlib.import_module("benchmark.stages.split").Leak(error)
                )
            if error:
                failed[digest] = error
            told(stage, done, len(jobs), by_digest[digest].name + (" FAILED" if error else ""))
    return [cell for cell in cells if cell.digest in failed]


def run_one(home: str, cell: Cell) -> tuple[str, str, str]:
    """Run one cell in this process: (digest, error or '', kind of bad input or '')."""
    store = Store(Path(home))
    with store.hold(cell) as folder:
        if store.record(cell) is not None:
            return cell.digest, "", ""
        _clear(folder)
        start, cpu = time.monotonic(), time.process_time()
        try:
            quiet()
            set_threads(cell.threads)
            module = importlib.import_module(f"benchmark.stages.{cell.stage}")
            module.run(cell.config, {role: store.folder(item) for role, item in cell.inputs.items()}, folder)
            store.finish(cell, _facts(start, cpu))
        except BadInput as error:
            return cell.digest, str(error), type(error).__name__
        except Exception as error:  # a failed cell is a row of the table, not the end of the study
            reason = f"{type(error).__name__}: {error}"
            (folder / "traceback.txt").write_text(traceback.format_exc())
            store.fail(cell, reason)
            return cell.digest, reason, ""
    return cell.digest, "", ""


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


def _facts(start: float, cpu: float) -> Record:
    import resource

    import torch

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": round(time.monotonic() - start, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "peak_memory_mb": round(peak, 1),
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
    if file.exists() and yaml.safe_load(file.read_text()) != study.model_dump(mode="json"):
        raise BadInput(f"{folder} holds a different study named {study.name!r}; give this one another --name")


def save_study(folder: Path, study: Study) -> None:
    """Write the resolved study, from which it can be run again."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "study.yaml.partial"
    partial.write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    os.replace(partial, folder / "study.yaml")
