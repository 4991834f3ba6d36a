"""Two runs: equal ones differ by nothing, a planted loss is found, noise is not."""

import numpy as np
import pandas as pd
import pytest

from results.claims import compare_runs, lines, lower_is_better, worse
from results.tidy import frame


def run(
    shift: float = 0.0, noise: float = 0.0, study: str = "a", arms: tuple[str, ...] = ("real", "augmented")
) -> pd.DataFrame:
    rng = np.random.default_rng(len(study))
    rows = [
        {"study": study, "stage": "classify", "dataset": "x", "arm": arm, "budget": 0.1, "seed": seed, "group": "all",
         "metric": "auroc", "value": 0.8 + 0.01 * seed + (shift if arm == "augmented" else 0) + noise * rng.normal()}
        for arm in ("real", "augmented") for seed in range(5)
    ]  # fmt: skip
    return frame(rows)


def test_equal_runs_differ_by_nothing() -> None:
    table = compare_runs(run(), run(study="b"), "auroc")
    assert len(table) == 2 and (table["difference"].abs() < 1e-9).all() and worse(table, "auroc", 0.0).empty


def test_planted_loss_is_found_where_it_is() -> None:
    lost = worse(compare_runs(run(), run(-0.05, study="b"), "auroc"), "auroc", 0.01)
    assert lost["arm"].tolist() == ["augmented"]
    assert worse(compare_runs(run(-0.05, study="b"), run(), "auroc"), "auroc", 0.01).empty, "better is not worse"
    assert worse(compare_runs(run(), run(-0.05, study="b"), "auroc"), "auroc", 0.06).empty


def test_noise_across_zero_is_not_called_worse() -> None:
    table = compare_runs(run(), run(-0.012, noise=0.1, study="bb"), "auroc")
    across = table[(table["low"] < 0) & (table["high"] > 0)]
    assert len(across) and not set(across.index) & set(worse(table, "auroc", 0.0).index)


def test_direction_of_metrics() -> None:
    assert all(
        map(
            lower_is_better,
            (
                "frechet_inception",
                "ms_ssim",
                "excess_copies",
                "calibration_error",
                "tile_max_excess_copies",
                "membership_auroc",
            ),
        )
    )
    assert not any(map(lower_is_better, ("auroc", "accuracy", "coverage_inception", "quadratic_kappa")))


def test_nothing_shared_names_what_is() -> None:
    with pytest.raises(ValueError, match="share no cell with metric 'f1'; metrics of both: auroc"):
        compare_runs(run(), run(study="b"), "f1")


def test_lines_are_readable() -> None:
    text = lines(compare_runs(run(), run(-0.05, noise=0.01, study="b"), "auroc"), "auroc")
    assert text[0].startswith("classify x augmented 0.1: auroc 0.820 -> 0.7") and "5 seeds" in text[0]
