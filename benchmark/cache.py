"""Content-addressed cells: one folder a unit of work, finished when its last file, `cell.json`, is there."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class BadInput(ValueError):
    """What the user gave cannot be used; the message says what was given and what is allowed; `code` = exit code."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Cell:
    """One unit of work: a stage's name and version, its config, the cells it reads by role.

    `about` holds the keys of the tidy table (dataset, arm, ...); it is told, not hashed.
    """

    stage: str
    version: int
    config: Record
    inputs: dict[str, "Cell"] = field(default_factory=dict)
    threads: int = 1
    about: Record = field(default_factory=dict, compare=False)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of the sha256 over stage, version, config, threads and the inputs' digests."""
        content = [
            self.stage, self.version, self.config, self.threads,
            {role: cell.digest for role, cell in self.inputs.items()},
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def level(self) -> int:
        """0 for a cell that reads none, else one more than its deepest input; cells of a level can run at once."""
        return max((1 + cell.level for cell in self.inputs.values()), default=0)

    @property
    def name(self) -> str:
        """What a person calls the cell: its stage and the keys that tell it from its neighbours."""
        keys = ("dataset", "generator", "arm", "exposure", "budget", "ratio", "seed")
        return " ".join([self.stage, *(f"{self.about[key]}" for key in keys if self.about.get(key) not in (None, ""))])


class Store:
    """The cells under one home. Several processes may share it; each unfinished cell is held by a file lock."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._verified: set[str] = set()

    def folder(self, cell: Cell) -> Path:
        """Where the cell's files lie, finished or not."""
        return self.home / "cells" / cell.stage / cell.digest

    def check_writable(self) -> None:
        """Make the home; raises BadInput where it cannot be written or has no room."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            probe = self.home / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise BadInput(f"home {self.home} cannot be written: {error.strerror}; give another --home") from None
        if shutil.disk_usage(self.home).free < 2**28:
            raise BadInput(f"home {self.home} has less than 256 MiB free; give another --home")

    def record(self, cell: Cell) -> Record | None:
        """The finished cell's `cell.json`, or None."""
        file = self.folder(cell) / "cell.json"
        return json.loads(file.read_text()) if file.exists() else None

    def error(self, cell: Cell) -> str | None:
        """Why the cell's last try failed, or None."""
        file = self.folder(cell) / "error.json"
        return json.loads(file.read_text())["error"] if file.exists() else None

    def verify(self, cell: Cell) -> Path:
        """Re-hash the cell's files and return its folder; raises BadInput naming the file that does not match."""
        folder = self.folder(cell)
        if cell.digest in self._verified:
            return folder
        record = self.record(cell)
        if record is None:
            raise BadInput(f"cell {cell.stage}/{cell.digest} is not finished; `augury run` finishes it")
        for name, digest in record["files"].items():
            if not (folder / name).is_file() or sha256(folder / name) != digest:
                raise BadInput(
                    f"{folder / name} does not match its record; delete the folder {folder} and run the study again"
                )
        self._verified.add(cell.digest)
        return folder

    @contextmanager
    def hold(self, cell: Cell) -> Iterator[Path]:
        """The cell's folder, locked against other processes; waits for whoever works on it."""
        from filelock import FileLock

        folder = self.folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            yield folder

    def finish(self, cell: Cell, facts: Record) -> None:
        """Write `cell.json` last and atomically: config, inputs, hashes of every file, and what the run cost."""
        folder, kept = self.folder(cell), self.folder(cell) / "checkpoint"
        (folder / "error.json").unlink(missing_ok=True)
        files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "cell.json")
        files = [file for file in files if kept not in file.parents]  # a kill in here must not lose hours of training
        record = {
            "stage": cell.stage,
            "version": cell.version,
            "config": cell.config,
            "threads": cell.threads,
            "inputs": {role: item.digest for role, item in cell.inputs.items()},
            "files": {str(file.relative_to(folder)): sha256(file) for file in files},
        }
        write_json(folder / "cell.json", record | facts)
        shutil.rmtree(kept, ignore_errors=True)

    def fail(self, cell: Cell, error: str) -> None:
        """Keep the reason, so that the table and `augury status` can tell it; the next run tries again."""
        self.folder(cell).mkdir(parents=True, exist_ok=True)
        write_json(self.folder(cell) / "error.json", {"error": error})


def sha256(file: Path) -> str:
    """The file's sha256 as hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(file: Path, content: Any) -> None:
    """Write JSON beside the file, flush it to the disk, then rename: a reader sees the old file or the new one."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    with partial.open("w") as stream:
        json.dump(content, stream, indent=1, sort_keys=True)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, file)
