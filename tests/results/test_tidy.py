"""The tidy table: types, order, bytes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results import tidy

ROWS = [
    {"study": "a", "dataset": "z", "metric": "auroc", "value": 1 / 3, "seed": 1, "budget": 0.1},
    {"study": "a", "dataset": "b", "metric": "auroc", "value": -0.0, "seed": None, "n": 5.0, "low": np.nan},
    {"study": "a", "dataset": "b", "metric": "", "status": "failed", "seed": 0},
]


def test_columns_types_and_order() -> None:
    table = tidy.frame(ROWS)
    assert list(table.columns) == list(tidy.COLUMNS)
    assert str(table["seed"].dtype) == str(table["n"].dtype) == "Int64"
    assert {str(table[name].dtype) for name in tidy.FLOATS} == {"float64"}
    assert list(table["dataset"]) == ["b", "b", "z"]
    assert list(table["status"]) == ["failed", "ok", "ok"]
    assert table["value"].iloc[2] == 0.3333333333
    assert table.equals(tidy.frame(reversed(ROWS)))


def test_an_unknown_column_is_an_error() -> None:
    with pytest.raises(ValueError, match="valeu"):
        tidy.frame([{"valeu": 1.0}])


def test_files_round_trip_and_repeat_byte_for_byte(tmp_path: Path) -> None:
    table = tidy.frame(ROWS)
    for name in ("one", "two"):
        tidy.write(table, tmp_path / name)
    for file in ("results.csv", "results.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
        pd.testing.assert_frame_equal(tidy.read(tmp_path / "one" / file), table)
    text = (tmp_path / "one" / "results.csv").read_bytes()
    assert b"\r" not in text and b"nan" not in text.lower() and b"0.3333333333," in text


def test_no_rows(tmp_path: Path) -> None:
    table = tidy.frame([])
    tidy.write(table, tmp_path)
    assert list(tidy.read(tmp_path / "results.csv").columns) == list(tidy.COLUMNS)
