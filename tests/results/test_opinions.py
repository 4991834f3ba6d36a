"""DeLong against pROC, McNemar against statsmodels, SDs and doses against planted ones."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.contingency_tables import mcnemar as reference

from results.claims import contrasts
from results.opinions import bootstrap, delong, mcnemar, opinion_rows, wilcoxon
from results.statistics import Jackknives, paired
from results.tidy import frame
from results.worth import dose_rows, multiplier_rows

TRUTH = np.array([0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1, 0, 1, 0, 0, 1, 0])
ONE = np.array([3, 8, 6, 5, 7, 2, 4, 9, 5, 1, 6, 5, 3, 2, 8, 4, 6, 7, 1, 9, 2, 3, 6, 4])
TWO = np.array([4, 7, 3, 6, 8, 3, 5, 6, 2, 2, 7, 4, 1, 5, 6, 5, 3, 9, 2, 8, 6, 1, 4, 3])


def test_delong_equals_proc() -> None:
    """R's pROC 1.18, roc.test(method = "delong", paired = TRUE): areas, z = 1.59901956857, p."""
    difference, p = delong(TRUTH, ONE, TWO)
    assert difference == pytest.approx(0.94755244755245 - 0.80769230769231)
    assert p == pytest.approx(0.10981625459377, abs=1e-12)
    assert delong(TRUTH, TWO, ONE) == (pytest.approx(-difference), pytest.approx(p))


def test_delong_where_there_is_nothing_to_tell() -> None:
    assert delong(TRUTH, ONE, 2 * ONE) == (0.0, 1.0)
    assert np.isnan(delong(np.eye(24)[0], ONE, TWO)).all()


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_equals_statsmodels(seed: int) -> None:
    one, two = np.random.default_rng(seed).random((2, 80)) < [[0.8], [0.65]]
    table = [[(one & two).sum(), (one & ~two).sum()], [(~one & two).sum(), (~one & ~two).sum()]]
    assert mcnemar(one, two) == pytest.approx(reference(table, exact=True).pvalue)
    assert mcnemar(one, one) == 1.0


def test_wilcoxon_needs_six_sets() -> None:
    assert np.isnan(wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5])) and np.isnan(wilcoxon(np.zeros(8)))
    assert wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 2**6)


class Grid:
    """Made-up binary classifiers: settings -> per-seed rows and predictions."""

    def __init__(self, images: int = 300, seeds: int = 5, groups: list[str] | None = None) -> None:
        self.rng, self.seeds, self.groups = np.random.default_rng(0), seeds, groups
        self.labels, self.hard = np.arange(images) % 2, self.rng.normal(size=images)
        self.rows: list[dict[str, Any]] = []
        self.kept: dict[str, dict[str, Any]] = {}

    def add(self, arm: str, strength: float, spread: float = 0.0, **setting: Any) -> None:
        generator = "g" if arm != "real" else ""
        keys = {"dataset": "d", "generator": generator, "budget": 0.1, "share": 0.5 if generator else 0.0}
        keys |= {"ratio": 1.0 if generator else 0.0} | setting
        for seed in range(self.seeds):
            logits = self.hard + 0.2 * self.rng.normal(size=len(self.hard))
            p = 1 / (1 + np.exp(-logits - (strength + spread * self.rng.normal()) * self.labels))
            cell = f"{arm}{keys}{seed}"
            self.kept[cell] = {"labels": self.labels, "probabilities": np.stack([1 - p, p], 1), "groups": self.groups,
                               "task": "multiclass", "classes": ("healthy", "ill")}  # fmt: skip
            self.rows.append({"stage": "classify", "arm": arm, "seed": seed, "backbone": "b", "group": "all",
                              "metric": "auroc", "value": 0.5, "cell": cell,
                              "n_train": round(1000 * keys["budget"])} | keys)  # fmt: skip

    def opinions(self) -> pd.DataFrame:
        cells, study = frame(self.rows), {"backbones": ["b"], "generators": {"g": {"seeds": "all"}}}
        return frame(opinion_rows(cells, self.kept.__getitem__, contrasts(cells, self.kept.__getitem__, study)))

    def doses(self) -> pd.DataFrame:
        cells, load = frame(self.rows), Jackknives(self.kept.__getitem__)
        return frame(dose_rows(cells, load, multiplier_rows(cells, load)))


def test_the_first_pair_of_models_has_a_second_opinion_unless_patients_repeat() -> None:
    grid = Grid()
    grid.add("real", 1.0)
    grid.add("augmented", 1.6)
    found = grid.opinions()
    p = found[found["metric"] == "delong_p"].iloc[0]
    one, two = (grid.kept[str(row["cell"])] for row in (grid.rows[5], grid.rows[0]))
    assert p["group"] == "ill" and p["seed"] == 0
    assert p["value"] == pytest.approx(delong(grid.labels, one["probabilities"][:, 1], two["probabilities"][:, 1])[1])
    assert (found["metric"] == "mcnemar_p").sum() == 1
    for each in grid.kept.values():
        each["groups"] = [f"p{i // 2}" for i in range(300)]
    assert not grid.opinions()["metric"].isin(["delong_p", "mcnemar_p"]).any()


def test_spread_is_told_apart_by_its_source() -> None:
    grid = Grid(seeds=200)
    grid.add("real", 1.0, spread=0.1, budget=1.0)
    grid.add("real", 1.0, spread=0.3, budget=0.1)
    grid.add("augmented", 1.0, spread=0.5, budget=0.1)
    found = grid.opinions()
    low = found[found["budget"] == 0.1].set_index(["arm", "metric"])["value"]
    whole = found[found["budget"] == 1.0].set_index(["arm", "metric"])["value"]
    assert whole["real", "sd_initialisation"] == whole["real", "sd_seeds"] == low["real", "sd_initialisation"]
    assert low["real", "sd_subset"] / whole["real", "sd_seeds"] == pytest.approx(np.sqrt(0.09 - 0.01) / 0.1, rel=0.25)
    assert low["augmented", "sd_generator"] / low["real", "sd_seeds"] == pytest.approx(4 / 3, rel=0.25)
    assert 0.01 < low["real", "sd_patients"] < 0.05  # Hanley and McNeil's for 150 against 150 at .75: .03


def test_the_bootstrap_agrees_with_the_t_interval_where_seeds_are_many() -> None:
    grid = Grid(seeds=12)
    grid.add("real", 1.0, spread=0.2)
    grid.add("augmented", 1.4, spread=0.2)
    found = grid.opinions()
    row = found[found["metric"] == "auroc_difference_bootstrap"].iloc[0]
    load = Jackknives(grid.kept.__getitem__)
    pairs = [(load(str(a["cell"]), "auroc"), load(str(b["cell"]), "auroc"))
             for a, b in zip(grid.rows[12:], grid.rows[:12], strict=True)]  # fmt: skip
    t = paired([a.value - b.value for a, b in pairs], np.stack([a.replicates - b.replicates for a, b in pairs]))
    assert row["value"] == pytest.approx(t.value)
    assert (row["low"], row["high"]) == (pytest.approx(t.low, abs=0.01), pytest.approx(t.high, abs=0.01))


def test_a_bootstrap_keeps_every_class() -> None:
    labels = np.array([0] * 58 + [1, 1])
    p = np.linspace(0.1, 0.9, 60)
    kept = {"labels": labels, "probabilities": np.stack([1 - p, p], 1), "groups": None, "task": "multiclass"}
    other = kept | {"probabilities": kept["probabilities"][::-1]}
    assert np.isfinite(bootstrap([(kept, other)] * 3, 200)).all()


def test_six_sets_are_judged_together() -> None:
    grid = Grid(seeds=2)
    for name in "abcdef":
        grid.add("real", 1.0, dataset=name)
        grid.add("augmented", 1.5, dataset=name)
    found = grid.opinions().set_index("metric")
    assert found.loc["wilcoxon_p", "value"] == pytest.approx(2 / 2**6) and found.loc["wilcoxon_p", "n"] == 6
    assert found.loc["wilcoxon_p_holm", "dataset"] == ""


@pytest.mark.parametrize(
    ("strengths", "place"), [((1.5, 2.5, 1.5), 0.0), ((1.5, 2.0, 2.5), 1.0), ((0.5, 0.4, 0.3), -1.0)]
)
def test_the_best_share_and_where_it_lies(strengths: tuple[float, ...], place: float) -> None:
    grid = Grid()
    grid.add("real", 1.0)
    for share, strength in zip((0.25, 0.5, 0.75), strengths, strict=True):
        grid.add("augmented", strength, share=share)
    found = grid.doses().set_index("metric")
    best = found.loc["best_share"]
    assert best["value"] == {0.0: 0.5, 1.0: 0.75, -1.0: 0.0}[place]
    assert best["low"] <= best["value"] <= best["high"] and found.loc["best_share_place", "value"] == place


def test_a_flat_sweep_has_no_best() -> None:
    grid = Grid()
    grid.add("real", 1.0)
    for ratio in (0.5, 1.0, 2.0):
        grid.add("augmented", 1.0, ratio=ratio)
    found = grid.doses().set_index("metric")
    assert np.isnan(found.loc["best_ratio_place", "value"])
    assert (found.loc["best_ratio", "low"], found.loc["best_ratio", "high"]) == (0.5, 2.0)


def test_the_least_ratio_that_is_worth_as_much_real_data_again() -> None:
    grid = Grid()
    for budget, strength in ((0.1, 0.5), (0.2, 1.0), (0.4, 1.5), (1.0, 2.0)):
        grid.add("real", strength, budget=budget)
    for ratio, strength in ((1.0, 0.7), (2.0, 1.2), (4.0, 1.6)):
        grid.add("augmented", strength, ratio=ratio, budget=0.1)
    row = grid.doses().set_index("metric").loc["ratio_for_double"]
    assert row["value"] == 2.0 and row["low"] <= 2.0 <= row["high"]
