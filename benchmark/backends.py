"""Where cells run: each backend is `(call, jobs, workers) -> results as they end`, a few lines.

A job is (threads, arguments). Threads belong to the cell, so every backend gives the same bytes.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cache
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

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
