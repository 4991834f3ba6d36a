"""Pooled rows, the data multiplier and contrasts on made-up cells."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from results.claims import contrasts, replicates
from results.pooling import inside, never_certain, pool_seeds, pool_sets, pooled_rows
from results.statistics import jackknife
from results.tidy import Results, frame
from results.worth import at, invert, isotonic_blocks, multiplier_rows, open_ends


def cells_of(scores: dict[tuple[str, str, float], float], seeds: int = 5) -> tuple[pd.DataFrame, Any]:
    """{(arm, generator, budget): strength} -> per-seed rows and their load."""
    kept, rows = {}, []
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    hard = rng.normal(size=200)
    for (arm, generator, budget), strength in scores.items():
        for seed in range(seeds):
            logits = hard + 0.3 * rng.normal(size=200) + strength * labels
            p = 1 / (1 + np.exp(-logits))
            cell = f"{arm}{generator}{budget}{seed}"
            kept[cell] = {
                "labels": labels,
                "probabilities": np.stack([1 - p, p], 1),
                "groups": None,
                "task": "multiclass",
            }
            rows.append({
                "stage": "classify", "dataset": "d", "arm": arm, "generator": generator, "budget": budget,
                "seed": seed,
                "backbone": "b", "group": "all", "metric": "auroc", "value": 0.5, "cell": cell,
                "n_train": 100 * budget,
                "ratio": 0.0 if arm == "real" else 1.0,
            })  # fmt: skip
    return frame(rows), kept.__getitem__


CURVE = {("real", "", 0.1): 0.5, ("real", "", 0.2): 1.0, ("real", "", 0.4): 2.0, ("real", "", 1.0): 3.0}


def test_levels_and_differences() -> None:
    cells, load = cells_of(CURVE | {("augmented", "g", 0.1): 1.0})
    table = frame(pooled_rows(cells, load))
    gap = table[table["metric"] == "auroc_difference"]
    assert len(gap) == 6 and gap["seed"].isna().sum() == 1
    pooled = gap[gap["seed"].isna()].iloc[0]
    assert pooled["value"] == pytest.approx(gap[gap["seed"].notna()]["value"].mean())
    assert pooled["low"] < pooled["value"] < pooled["high"] and pooled["n"] == 200
    level = table[(table["metric"] == "auroc") & (table["arm"] == "augmented")].iloc[0]
    kept = [load(f"augmentedg0.1{seed}") for seed in range(5)]
    values = [jackknife(k["labels"], k["probabilities"], None, "auroc", "multiclass")[0] for k in kept]
    assert level["value"] == pytest.approx(np.mean(values))
    assert not table.duplicated([c for c in table.columns if c not in ("value", "low", "high")]).any()


def test_fewer_generators_than_seeds() -> None:
    cells, load = cells_of(CURVE | {("augmented", "g", 0.1): 1.0})
    rows = contrasts(cells, load, {"generators": {"g": {"seeds": 2}}})
    assert replicates({"generators": {"g": {"seeds": 2}, "h": {"seeds": "all"}}}) == {"g": 2}
    assert rows.iloc[0]["seeds"] == 2 and rows.iloc[0]["claim"]
    single = contrasts(cells, load, {"generators": {"g": {"seeds": 1}}}).iloc[0]
    assert not single["claim"] and "conditional on this generator" in single["text"]


def test_a_variant_of_the_synthetic_images_is_compared_with_plain_real_data() -> None:
    cells, load = cells_of({("real", "", 0.1): 1.0, ("augmented", "g", 0.1): 1.5})
    cells.loc[cells["arm"] == "augmented", "variant"] = "guidance=3"
    assert len(pooled_rows(cells, load)) == 3 + 3 + 6
    cells.loc[cells["arm"] == "augmented", "variant"] = "validation=budget"
    assert len(pooled_rows(cells, load)) == 3 + 3


def test_isotonic_fit_and_its_inverse() -> None:
    fit = isotonic_blocks([0.5, 0.7, 0.6, 0.9], [1, 1, 3, 1]) @ np.array([0.5, 0.7, 0.6, 0.9])
    np.testing.assert_allclose(fit, [0.5, 0.625, 0.625, 0.9])
    x = np.log([0.1, 0.2, 0.4, 1.0])
    spot, censored = invert(0.7, x, fit)
    assert at(spot, x) @ fit == pytest.approx(0.7) and censored == 0
    assert invert(0.95, x, fit) == (x[-1], 1) and invert(0.4, x, fit) == (x[0], -1)


def test_an_interval_is_open_where_its_point_is() -> None:
    grid = np.array([0.0, 1.0, 2.0, 3.0])
    later = np.array([False, False, True, True])  # at few seeds the curve may agree later than where it starts
    assert open_ends(grid, later, 0.0, -1) == (0.0, 3.0, -1, 1)
    assert open_ends(grid, ~later, 3.0, 1) == (0.0, 3.0, -1, 1)
    assert open_ends(grid, np.array([False, True, True, False]), 1.5, 0) == (1.0, 2.0, 0, 0)


def test_twice_the_data_is_a_multiplier_of_two() -> None:
    cells, load = cells_of(
        CURVE | {("augmented", "g", 0.1): 1.0, ("mixed", "g", 0.1): 6.0, ("synthetic", "g", 0.4): 0.0}
    )
    table = frame(multiplier_rows(cells, load)).set_index(["metric", "arm"])
    twice = table.loc[("data_multiplier", "augmented")]
    assert twice["low"] <= 2 <= twice["high"] and 1.5 < twice["value"] < 2.7
    assert table.loc[("data_multiplier", "mixed"), "value"] == pytest.approx(10)
    assert table.loc[("data_multiplier_censored", "mixed"), "value"] == 1
    assert table.loc[("data_multiplier", "synthetic"), "value"] == pytest.approx(0.25)
    assert table.loc[("data_multiplier_censored", "synthetic"), "value"] == -1
    cells.loc[cells["budget"] == 0.1, "n_train"] = 20  # where every class needs an image 10 % may hold a fifth
    counted = frame(multiplier_rows(cells, load)).set_index(["metric", "arm"])
    assert counted.loc[("data_multiplier", "mixed"), "value"] == pytest.approx(5), (
        "five times 20 images is all there is"
    )
    twins, load = cells_of(CURVE | {("augmented", "g", 0.2): 2.0})
    twins["n_train"] = twins["budget"].map({0.1: 20, 0.2: 20, 0.4: 40, 1.0: 100}).astype("Int64")
    found = frame(multiplier_rows(twins, load)).set_index(["metric", "arm"])
    assert 1.7 < found.loc[("data_multiplier", "augmented"), "value"] < 2.4, "20 images at both budgets, worth 40"
    apart, load = cells_of({("real", "", 0.1): 1.0, ("real", "", 1.0): 3.0, ("augmented", "g", 0.01): 1.0})
    found = frame(multiplier_rows(apart, load)).set_index(["metric", "arm"])
    assert 8 < found.loc[("data_multiplier", "augmented"), "value"] < 14, "1 image worth 10"
    assert not multiplier_rows(*cells_of({("real", "", 0.1): 1.0, ("mixed", "g", 0.1): 1.0}))


def test_help_must_beat_every_placebo() -> None:
    base = {("real", "", 0.1): 0.5, ("augmented", "g", 0.1): 2.0}
    weak = contrasts(*cells_of(base | {("augmented", "copies", 0.1): 0.6}), {}).iloc[0]
    strong = contrasts(*cells_of(base | {("augmented", "copies", 0.1): 2.1}), {}).iloc[0]
    assert (weak["verdict"], weak["beats_placebos"], weak["text"]) == ("helped", "yes", "helped")
    assert (strong["verdict"], strong["beats_placebos"], strong["worst_placebo"]) == (
        "undecided",
        "no",
        "copies",
    )
    assert "not than every placebo" in strong["text"]


def test_only_the_named_contrasts_are_corrected(results: Results) -> None:
    claims = results.claims
    family = claims[claims["claim"]]
    assert len(family) == 4 and set(family["budget"]) == {0.01} and family["p_holm"].notna().all()
    assert (family["p_holm"] >= family["p"]).all() and claims[~claims["claim"]]["p_holm"].isna().all()
    assert family["text"].str.contains("provisional").all()
    assert claims[~claims["claim"]]["text"].str.endswith("exploratory").all()


def test_seeds_of_an_audit_are_pooled() -> None:
    shared = {"stage": "audit", "dataset": "d", "generator": "g", "group": "all", "n": 50}
    values = [("tile_max_flagged", 0.0), ("tile_max_p", 0.04), ("excess_copies", 0.01)]
    rows = [
        shared | {"metric": m, "value": v + 0.01 * s, "seed": s, "low": v - 0.02, "high": v + 0.05}
        for m, v in values for s in range(3)
    ]  # fmt: skip
    table = frame(pool_seeds(frame(rows))).set_index("metric")
    assert table["seed"].isna().all() and table.loc["tile_max_p", "value"] == pytest.approx(0.1)
    assert table.loc["excess_copies", "low"] >= 0
    one = frame(pool_seeds(frame(rows[:1]))).iloc[0]
    assert (one["value"], one["low"], one["high"]) == (0.0, -0.02, 0.05)
    flat = frame(pool_seeds(frame([{**rows[0], "seed": s, "low": None, "high": None} for s in range(2)]))).iloc[0]
    assert flat["value"] == 0.0 and np.isnan(flat["low"])


def test_no_copy_among_n_images_is_not_no_copy_at_all() -> None:
    rows = [{"stage": "audit", "dataset": "d", "generator": "g", "seed": seed, "group": "all", "n": 400,
             "metric": "excess_copies", "value": 0.0, "low": 0.0, "high": 0.0} for seed in range(5)]  # fmt: skip
    pooled = pool_seeds(frame(rows))[0]
    assert pooled["value"] == pooled["low"] == 0 and pooled["high"] == pytest.approx(1 - 0.05 ** (1 / 400))
    assert never_certain("excess_copies", 400, {"high": 0.02})["high"] == 0.02


def test_means_over_sets_of_all_and_of_each_image_type() -> None:
    shared = {
        "stage": "fidelity",
        "generator": "g",
        "exposure": "full",
        "group": "all",
        "metric": "frechet_x",
        "seed": 0,
    }
    rows = [shared | {"dataset": name, "image_type": kind, "value": value, "low": value - 6.0, "high": value + 6.0}
            for name, kind, value in (("a", "CT", 10.0), ("b", "CT", 20.0), ("c", "MRI", 60.0))]  # fmt: skip
    found = {row["image_type"]: row for row in pool_sets(pool_seeds(frame(rows)))}
    assert set(found) == {"", "CT"} and all(row["dataset"] == "" for row in found.values())
    assert (found[""]["value"], found["CT"]["value"]) == (30.0, 15.0)
    assert found["CT"]["high"] - 15.0 == pytest.approx(6 / 2**0.5)
    assert not pool_sets(pool_seeds(frame(rows[:1])))
    other = [row | {"generator": "h"} for row in rows[:2]]  # lacks a set that g has
    table = pool_sets(pool_seeds(frame([*rows, *other])))
    assert {(row["generator"], row["image_type"]) for row in table} == {("g", ""), ("g", "CT"), ("h", "CT")}


def test_intervals_stay_where_the_metric_can_lie() -> None:
    assert (inside("auroc", 1.64), inside("coverage_inception", -0.02), inside("auroc_difference", -1.2)) == (1, 0, -1)
    assert inside("density_x", 1.3) == 1.3 and inside("kernel_x", -0.1) == -0.1 and inside("frechet_x", -3.0) == 0
    assert np.isnan(inside("auroc", float("nan"))) and inside("overfit_gap", 67.0) == 67.0
    assert inside("probe_alignment", -0.1) == 0 and inside("calibration_error", -0.1) == 0 and inside("brier", -1) == 0
