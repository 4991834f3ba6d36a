"""The stages: config -> arrays -> call a leaf -> files. Raise a version when a stage's meaning changes."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from benchmark.cache import Record

VERSIONS: dict[str, int] = {
    "split": 5,
    "autoencoder": 5,
    "train": 7,
    "synthesize": 7,
    "features": 2,
    "classify": 3,
    "fidelity": 9,
    "audit": 10,
    "membership": 3,
}


def device() -> str:
    """Where models run: the GPU where there is one (each cell's record names it), else the CPU."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


@contextmanager
def repeatable() -> Iterator[None]:
    """Kernels that give the same bits every time; where there are none, and for attention's gradients on a GPU, torch
    warns. A cell that was killed is to end as one that was not: by default several threads add up in any order."""
    import torch

    strict, gentle = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS would be among them
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=gentle)
        memory.fill_uninitialized_memory = filled


def spoken(what: str, total: int, every: float = 60.0) -> Callable[..., None]:
    """A callback (done, ...) that tells on stderr, once a minute, how far a long cell is, how fast, how long yet."""
    last, began = time.monotonic(), (-1, 0.0)  # of a resumed cell: what was done before

    def tell(done: int, *rest: float) -> None:
        nonlocal last, began
        now = time.monotonic()
        began = began if began[0] >= 0 else (done, now)
        before, start = began
        if now - last < every or done == before:
            return
        last = now
        rate = (done - before) / (now - start)
        left = max(0, total - done) / rate / 60
        print(f"{what}: {done:,} of {total:,} images, {rate:.0f}/s, {left:.0f} min left", file=sys.stderr, flush=True)

    return tell


# Config, folder of each input, folder to write; what it measured itself instead of the process that it runs in.
Stage = Callable[[dict[str, Any], dict[str, Path], Path], Record | None]


def stage(name: str) -> Stage:
    """The function that makes a cell of this stage; imported here, so that a plan needs none of it."""
    from benchmark.stages import audit, classify, fidelity, split, synthesize, train

    stages: dict[str, Stage] = {
        "split": split.run_split,
        "autoencoder": train.run_autoencoder,
        "train": train.run_train,
        "synthesize": synthesize.run_synthesize,
        "features": fidelity.run_features,
        "classify": classify.run_classify,
        "fidelity": fidelity.run_fidelity,
        "audit": audit.run_audit,
        "membership": audit.run_membership,
    }
    return stages[name]


def forget_peak() -> None:
    """Start measuring peak memory anew: a worker runs many cells."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux alone can
        Path("/proc/self/clear_refs").write_text("5")


def peaks() -> Record:
    """Peak resident and GPU memory in MiB since `forget_peak`; the first one of the process's whole life where that
    cannot be reset."""
    import resource

    import torch

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        most = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    gpu = round(torch.cuda.max_memory_allocated() / 2**20, 1) if torch.cuda.is_available() else None
    return {"peak_memory_mb": round(most, 1), "gpu_memory_mb": gpu}


class Meter:
    """Wall and CPU seconds of a cell, its children's and those of earlier tries that were killed: kept every few
    seconds beside the state from which the next try goes on, where there is one."""

    def __init__(self, folder: Path, every: float = 5.0) -> None:
        self.file, self.start, self.over = folder / "checkpoint" / "spent.json", self._now(), Event()
        self.before = json.loads(self.file.read_text()) if self.file.exists() else [0.0, 0.0]
        self.thread = Thread(target=self._keep, args=(every,), daemon=True)

    def __enter__(self) -> "Meter":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()

    def read(self) -> list[float]:
        """Wall seconds, CPU seconds."""
        return [round(b + n - s, 3) for b, n, s in zip(self.before, self._now(), self.start, strict=True)]

    def _keep(self, every: float) -> None:
        while not self.over.wait(every):
            if self.file.parent.is_dir():
                with suppress(OSError):  # the folder goes when the cell is finished
                    partial = self.file.with_suffix(".partial")
                    partial.write_text(json.dumps(self.read()))
                    os.replace(partial, self.file)

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.monotonic(), sum(os.times()[:4])
