"""Two runs: equal ones differ by nothing, a planted loss is found, noise is not."""

import numpy as np
import pandas as pd
import pytest

from results.claims import compare_runs, comparison, lines, lower_is_better, matched, worse
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


def test_generators_of_other_names_stand_beside_each_other() -> None:
    one, two = (run(shift, study=name) for shift, name in ((0.0, "a"), (-0.2, "b")))
    one.loc[one["arm"] == "augmented", "generator"] = "old"
    two.loc[two["arm"] == "augmented", "generator"] = "new"
    assert compare_runs(one, two, "auroc")["arm"].tolist() == ["real"]
    assert matched(one, two) == {"old": "new"}
    table, told, lost = comparison(one, two, "auroc", 0.01, {"old": "new"})
    assert lost and sorted(table["arm"]) == ["augmented", "real"] and told[0] == "generator old stands beside new"


def test_two_seeds_are_judged_by_the_difference() -> None:
    one, two = (table[table["seed"] < 2].copy() for table in (run(), run(study="b")))
    two.loc[two["arm"] == "augmented", "value"] -= [0.05, 0.07]
    assert worse(compare_runs(one, two, "auroc"), "auroc", 0.01)["arm"].tolist() == ["augmented"]


def test_a_cell_that_failed_in_the_second_run_is_worse() -> None:
    two = run(study="b")
    lost = two["seed"].eq(1) & two["arm"].eq("augmented")
    two = two[~lost]
    assert not comparison(run(), two, "auroc", 0.01, {})[2], "what B never planned is only told"
    failed = frame([{"study": "b", "stage": "classify", "dataset": "x", "arm": "augmented", "budget": 0.1, "seed": 1,
                     "group": "all", "status": "failed"}])  # fmt: skip
    _, told, worse_ = comparison(run(), pd.concat([two, failed]), "auroc", 0.01, {})
    assert worse_ and told[-1] == "1 cells only in A (1 of them failed or unfinished in B), 0 only in B"


def test_a_generator_of_the_old_name_does_not_hide_the_new_one() -> None:
    one, two = run(), run(study="b")
    both = pd.concat([two, two[two["arm"] == "augmented"]], ignore_index=True)
    both.loc[both["arm"] == "augmented", "generator"] = ["old"] * 5 + ["new"] * 5
    both.loc[both["generator"] == "new", "value"] -= 0.1
    one.loc[one["arm"] == "augmented", "generator"] = "old"
    assert comparison(one, both, "auroc", 0.01, {"old": "new"})[2]
    assert not comparison(one, both, "auroc", 0.01, {})[2]


def test_a_run_of_which_nothing_came_is_worse() -> None:
    lost = run(study="b").assign(status="failed", metric="", value=float("nan"))
    assert comparison(run(), lost, "auroc", 0.01, {})[1:] == (["all 10 cells of A failed or are unfinished in B"], True)


def test_unknown_generators_are_named() -> None:
    with pytest.raises(ValueError, match="generator 'x' given for A; allowed, once each: "):
        comparison(run(), run(study="b"), "auroc", 0.01, {"x": "y"})
