"""Cells: what their digest depends on, what counts as finished, what is refused."""

import json
import multiprocessing
from pathlib import Path

import pytest

from benchmark.cache import BadInput, Cell, Store, write_json


def cell(seed: int = 0, **inputs: Cell) -> Cell:
    return Cell("classify", 1, {"seed": seed}, inputs)


def finish(store: Store, item: Cell, text: str = "x") -> Path:
    with store.hold(item) as folder:
        (folder / "a.txt").write_text(text)
        store.finish(item, {})
    return folder


def test_digest_depends_on_all_that_matters_and_on_nothing_else() -> None:
    base = cell()
    assert base.digest == cell().digest == Cell("classify", 1, {"seed": 0}, about={"dataset": "x"}).digest
    others = [
        cell(1), Cell("classify", 2, {"seed": 0}), Cell("split", 1, {"seed": 0}),
        Cell("classify", 1, {"seed": 0}, threads=2), cell(a=cell(1)), cell(a=cell(2)), cell(b=cell(1)),
    ]  # fmt: skip
    assert len({base.digest, *(other.digest for other in others)}) == len(others) + 1


def test_cell_without_its_last_file_is_unfinished(tmp_path: Path) -> None:
    store, item = Store(tmp_path), cell()
    with store.hold(item) as folder:
        (folder / "a.txt").write_text("half")
        (folder / "cell.json.123.partial").write_text("{")
    assert store.record(item) is None
    with pytest.raises(BadInput, match="not finished"):
        store.verify(item)
    finish(store, item)
    assert store.record(item) is not None
    assert store.verify(item) == store.folder(item)


def test_a_kill_while_a_cell_is_closed_keeps_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, item = Store(tmp_path), cell()
    state = store.folder(item) / "checkpoint" / "state.pt"
    state.parent.mkdir(parents=True)
    state.write_text("hours")

    def killed(file: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("benchmark.cache.sha256", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(store, item)
    assert state.exists() and store.record(item) is None
    finish(store, item)
    record = store.record(item)
    assert record is not None and set(record["files"]) == {"a.txt"} and not state.exists()


def test_changed_and_lost_files_are_refused_by_name(tmp_path: Path) -> None:
    folder = finish(Store(tmp_path), cell())
    (folder / "a.txt").write_text("y")
    with pytest.raises(BadInput, match=r"a\.txt does not match"):
        Store(tmp_path).verify(cell())
    (folder / "a.txt").unlink()
    with pytest.raises(BadInput, match=r"a\.txt does not match"):
        Store(tmp_path).verify(cell())


def test_failure_is_told_until_the_cell_is_finished(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.fail(cell(), "ValueError: no")
    assert store.error(cell()) == "ValueError: no" and store.record(cell()) is None
    finish(store, cell())
    assert store.error(cell()) is None


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "f.json", {"b": 1, "a": [1]})
    write_json(tmp_path / "f.json", {"a": 2})
    assert json.loads((tmp_path / "f.json").read_text()) == {"a": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["f.json"]


def _add_one(home: str) -> None:
    store = Store(Path(home))
    with store.hold(cell()) as folder:
        file = folder / "count.txt"
        file.write_text(str(int(file.read_text()) + 1 if file.exists() else 1))


def test_two_processes_do_not_work_on_one_cell_at_once(tmp_path: Path) -> None:
    workers = [multiprocessing.get_context("spawn").Process(target=_add_one, args=(str(tmp_path),)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (Store(tmp_path).folder(cell()) / "count.txt").read_text() == "3"
