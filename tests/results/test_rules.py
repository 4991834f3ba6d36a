"""Claims judged by rule on planted tables."""

import dataclasses
from typing import Any

import pandas as pd
import pytest

from results import answers, cautions, rules
from results.figures import caption, draw
from results.tidy import Results, frame
from results.worth import predictors_table

GENERATORS = {"all": {"train_on": "all", "images_seen": 100}, "own": {"train_on": "each", "images_seen": 50},
              "blind": {"train_on": "each", "unconditional": True}}  # fmt: skip


def made(results: Results, rows: list[dict[str, Any]], costs: list[dict[str, Any]] | None = None) -> Results:
    return dataclasses.replace(
        results, study={"name": "x", "generators": GENERATORS, "seeds": 5}, table=frame(rows),
        claims=results.claims[:0],
        costs=pd.DataFrame(costs or [], columns=["stage", "generator", "seconds", "cell", "exposure"]), datasets=[],
    )  # fmt: skip


def fidelity(mine: float, spaces: tuple[str, ...] = ("a", "b"), kernel: float | None = None) -> list[dict[str, Any]]:
    return [
        {"stage": "fidelity", "dataset": "d", "generator": name, "exposure": "full", "group": "all",
         "metric": f"{kind}_{space}", "value": value, "low": value - 2, "high": value + 2}
        for space in spaces for kind in ("frechet", "kernel")
        for name, value in (("all", kernel if kernel and kind == "kernel" else mine), ("own", 100.0))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (fidelity(80), "supported"), (fidelity(104), "supported"), (fidelity(140), "contradicted"),
        (fidelity(110), "undecided"), (fidelity(80, kernel=150), "undecided"),
        (fidelity(80, spaces=("a",)), "undecided: one feature space"),
    ],
)  # fmt: skip
def test_generalist_against_specialists(results: Results, rows: list[dict[str, Any]], verdict: str) -> None:
    assert rules.generalist(made(results, rows), "own").verdict == verdict


def test_distances_of_unequal_numbers_are_not_set_against_each_other(results: Results) -> None:
    rows = [row | {"n": 60 if row["generator"] == "all" else 38} for row in fidelity(80)]
    claim = rules.generalist(made(results, rows), "own")
    assert claim.verdict == "undecided" and "from 60 and 38 images, which cannot be compared" in claim.estimate
    assert rules.generalist(made(results, [row | {"n": 60} for row in rows]), "own").verdict == "supported"


@pytest.mark.parametrize(("seeds", "verdict"), [(1, "undecided: one generator of each was trained"),
                                                (3, "supported, provisional"), (5, "supported")])  # fmt: skip
def test_a_claim_on_generators_needs_several_of_each(results: Results, seeds: int, verdict: str) -> None:
    some = made(results, fidelity(80))
    some = dataclasses.replace(some, study=some.study | {"seeds": seeds})
    assert rules.generalist(some, "own").verdict == verdict
    kinds = {"all": {}, "own": {"train_on": {"by": "image_type"}}}
    by_type = dataclasses.replace(some, study=some.study | {"generators": kinds})
    assert rules.generalist(by_type, "own").verdict == verdict, "a specialist of each image type is one"


@pytest.mark.parametrize(("mine", "verdict"), [((0, 0.01), "supported"), ((0.3, 0.5), "contradicted"),
                                               ((0, 0.2), "undecided")])  # fmt: skip
def test_memorising(results: Results, mine: tuple[float, float], verdict: str) -> None:
    bounds = {"all": mine, "own": (0.1, 0.2), "blind": (0.15, 0.25)}
    rows = [{"stage": "audit", "dataset": "d", "generator": name, "exposure": "full", "group": "all",
             "metric": "excess_copies", "value": sum(ends) / 2, "low": ends[0], "high": ends[1]}
            for name, ends in bounds.items()]  # fmt: skip
    assert rules.memorising(made(results, rows)).verdict == verdict
    members = {"all": (0.5, 0.52), "own": (0.7, 0.8), "blind": (0.7, 0.8)}
    rows += [{"stage": "membership", "dataset": "d", "generator": name, "exposure": "full", "group": "all",
              "metric": "membership_auroc", "value": sum(ends) / 2, "low": ends[0], "high": ends[1]}
             for name, ends in members.items()]  # fmt: skip
    both = "contradicted" if verdict == "contradicted" else "supported"
    assert rules.memorising(made(results, rows)).verdict == both, "membership tells where copies do not, against none"
    assert rules.distinct(made(results, rows)).verdict == "contradicted"
    rows += [{"stage": "membership", "dataset": "d", "generator": "own", "exposure": "full", "group": "all",
              "metric": "membership_void", "value": 1.0},
             {"stage": "membership", "dataset": "d", "generator": "blind", "exposure": "full", "group": "all",
              "metric": "membership_void", "value": 1.0}]  # fmt: skip
    assert rules.memorising(made(results, rows)).verdict == verdict, "what anyone could tell says nothing"


def test_the_widest_interval_of_equal_excesses_is_quoted(results: Results) -> None:
    rows = [{"stage": "audit", "dataset": name, "generator": "all", "exposure": "full", "group": "all",
             "metric": "excess_copies", "value": 0.0, "low": 0.0, "high": high}
            for name, high in (("a", 0.02), ("b", 0.08))]  # fmt: skip
    assert "(b (all), interval to 8\u00a0%)" in rules.distinct(made(results, rows)).estimate
    assert "most on b (all)" in cautions.privacy(made(results, rows))


def test_the_audits_power_is_told_by_kind(results: Results) -> None:
    keys = {"stage": "audit", "dataset": "d", "generator": "all", "exposure": "full"}
    rows = [keys | {"metric": "excess_copies", "group": "all", "value": 0.0, "low": 0.0, "high": 0.01}]
    shares = {"exact": 1.0, "round_trip": 0.9, "blended": 0.4, "shifted": 0.7, "same_patient": 0.2,
              "same_patient_near_copy": 0.1}  # fmt: skip
    rows += [keys | {"metric": f"{search}_power", "group": f"planted={kind}", "value": share * part}
             for kind, share in shares.items() for search, part in (("tile_max", 1.0), ("patch", 0.5))]  # fmt: skip
    text = cautions.privacy(made(results, rows)).replace("\u00a0", " ")
    assert "100 % of exact copies and 90 % of round-trip copies" in text
    assert "at least 40 % (blended), of other images of patients that it learnt from 20 %" in text


def test_help_needs_a_placebo_and_harm_does_not() -> None:
    row = {"claim": True, "beats_placebos": "", "verdict": "helped"}
    assert rules._helped(row) == "undecided" and rules._helped(row | {"beats_placebos": "yes"}) == "supported"
    assert rules._helped(row | {"verdict": "harmed"}) == "contradicted"
    worth = {"low": 1.5, "high": 3.0}
    assert rules._twice(worth, {}, True) == "supported" and rules._twice(worth, {}, False) == "undecided"


def test_compute_adds_up_all_specialists(results: Results) -> None:
    costs = [{"stage": "train", "generator": name, "seconds": seconds, "cell": str(i), "exposure": "full"}
             for i, (name, seconds) in enumerate((("all", 100.0), ("own", 60.0), ("own", 60.0)))]  # fmt: skip
    claim = rules.compute(made(results, [], costs), "own")
    assert claim.verdict == "supported" and "1.7 min against 2.0 min" in claim.estimate


def test_compute_needs_a_suite_of_specialists(results: Results) -> None:
    costs = [{"stage": stage, "generator": name, "seconds": 9.0, "cell": str(i), "exposure": "full"}
             for i, (stage, name) in enumerate((("train", "all"), ("autoencoder", "")))]  # fmt: skip
    assert "needs a generator of all sets and one of each" in rules.compute(made(results, [], costs), "").verdict


def test_each_suite_of_specialists_is_a_claim_of_its_own(results: Results) -> None:
    suites = {"all": {"images_seen": 300}, "own": {"train_on": "each", "images_seen": 300},
              "short": {"train_on": "each", "images_seen": 300 // len(results.names)}}  # fmt: skip
    some = dataclasses.replace(results, study=results.study | {"generators": suites})
    found = [claim.claim for claim in rules.hypotheses(some)]
    assert [claim[:2] for claim in found] == ["H1", "H1", "H2", "H3", "H4", "H5", "H6", "H6", "H7"]
    assert "own: equal steps" in found[0] and "short: equal images in all" in found[1]


@pytest.mark.parametrize("seeds", [3, 5])
def test_what_few_seeds_settle_is_provisional(results: Results, seeds: int) -> None:
    costs = [{"stage": "train", "generator": name, "seconds": seconds, "cell": name, "exposure": "full"}
             for name, seconds in (("all", 100.0), ("own", 120.0))]  # fmt: skip
    row = {"stage": "audit", "dataset": "d", "generator": "all", "exposure": "full", "group": "all",
           "metric": "excess_copies", "value": 0.2, "low": 0.1, "high": 0.3}  # fmt: skip
    few = made(results, [row], costs)
    few = dataclasses.replace(few, study=few.study | {"seeds": seeds})
    found = {claim.claim[:2]: claim.verdict for claim in rules.hypotheses(few)}
    ending = ", provisional" if seeds == 3 else ""
    assert (found["H3"], found["H6"]) == (f"contradicted{ending}", f"supported{ending}")


def test_table_leaves_the_papers_numbers_empty(results: Results) -> None:
    table = rules.table(results)
    assert [claim[:2] for claim in table["claim"]] == [f"H{i}" for i in range(1, 8)]
    assert set(table["paper"]) == {""}


def test_predictors_rest_on_pairs(results: Results) -> None:
    keys = {"generator": "all", "exposure": "full", "variant": ""}
    gains = [0.05, 0.03, 0.02, 0.01]
    claims = pd.DataFrame(
        [keys | {"dataset": f"d{i}", "arm": "augmented", "against": "real", "backbone": "", "budget": 0.1,
                 "ratio": 1.0, "share": 0.5, "difference": gain} for i, gain in enumerate(gains)]
    )  # fmt: skip
    rows = [keys | {"stage": "fidelity", "dataset": f"d{i}", "group": "all", "metric": metric, "value": value}
            for i in range(4) for metric, value in (("frechet_a", 10.0 * i), ("coverage_a", -1.0 * i))]  # fmt: skip
    found = dataclasses.replace(made(results, rows), claims=claims)
    table = predictors_table(found).set_index("measure")
    assert table.loc["frechet_a", "rho"] == pytest.approx(-1) and table.loc["coverage_a", "rho"] == pytest.approx(1)
    assert set(table["pairs"]) == {4} and set(table["sets"]) == {4}
    exact = 2 / 24  # of the 24 orders two are as extreme
    assert table["p"].tolist() == pytest.approx([exact, exact], abs=0.03) and (table["p_holm"] >= table["p"]).all()
    assert table["regret"].isna().all(), "each set has one generator: there is nothing to choose"
    assert predictors_table(dataclasses.replace(found, claims=claims[:3])).empty, "three pairs say nothing"


def test_regret_is_what_a_measure_costs_as_a_guide(results: Results) -> None:
    """Two generators a set; coverage prefers the one that helps less on one of them by .03, validation the other."""
    keys, claims, rows = {"exposure": "full", "variant": "", "budget": 0.1, "ratio": 1.0, "share": 0.5}, [], []
    given = {("d0", "a"): (0.05, 0.9), ("d0", "b"): (0.02, 0.5), ("d1", "a"): (0.01, 0.9), ("d1", "b"): (0.04, 0.5),
             ("d2", "a"): (0.03, 0.9), ("d2", "b"): (0.01, 0.5)}  # fmt: skip
    for (dataset, generator), (gain, value) in given.items():
        same = keys | {"dataset": dataset, "generator": generator}
        claims.append(same | {"arm": "augmented", "against": "real", "backbone": "", "difference": gain})
        measured = {key: same[key] for key in ("dataset", "generator", "exposure", "variant")}
        rows.append(measured | {"stage": "fidelity", "group": "all", "metric": "coverage_x", "value": value})
        rows += [same | {"stage": "classify", "arm": "augmented", "group": "all", "metric": "validation_auroc",
                         "value": 0.7 + gain + 0.001 * seed, "seed": seed} for seed in range(2)]  # fmt: skip
    found = dataclasses.replace(made(results, rows), claims=pd.DataFrame(claims))
    row = predictors_table(found).iloc[0]
    assert row["regret"] == pytest.approx(0.01) and row["pairs"] == 6 and row["sets"] == 3
    assert row["rho_low"] <= row["rho"] <= row["rho_high"]
    assert row["within"] == pytest.approx(1 / 3), "it ranks two sets rightly and one the wrong way round"


def test_a_measure_that_is_wrong_inside_every_set_is_told_so(results: Results) -> None:
    """Six easy and hard sets make rho .9; inside each set the measure points the wrong way."""
    keys, claims, rows = {"exposure": "full", "variant": ""}, [], []
    for place in range(6):
        for step in range(4):
            same = keys | {"dataset": f"d{place}", "generator": f"g{step}"}
            gain = {"arm": "augmented", "against": "real", "backbone": "", "budget": 0.1, "ratio": 1.0, "share": 0.5}
            claims.append(same | gain | {"difference": 0.1 * place - 0.01 * step})
            value = place + 0.1 * step
            rows.append(same | {"stage": "fidelity", "group": "all", "metric": "coverage_x", "value": value})
    found = dataclasses.replace(made(results, rows), claims=pd.DataFrame(claims))
    row = predictors_table(found).iloc[0]
    assert row["rho"] > 0.9 and row["within"] == pytest.approx(-1) and row["p"] < 0.01
    assert row["may_guide"] == "no" and "wrong way round" in caption("predictors", found)
    assert draw("predictors", found) is not None
    right = [row | {"metric": "frechet_x"} if row["metric"] == "coverage_x" else row for row in rows]
    lower = dataclasses.replace(made(results, right), claims=pd.DataFrame(claims).assign(arm="synthetic"))
    assert predictors_table(lower).iloc[0]["may_guide"] == "yes", "of the arm that the study has"


@pytest.mark.parametrize(("double", "told"), [(12, True), (20, False)])
def test_half_a_double_is_told(results: Results, double: int, told: bool) -> None:
    counts = {"real": 10, "real_double": double}
    rows = [{"stage": "classify", "dataset": "d", "arm": arm, "budget": 0.01, "seed": 0, "group": "all",
             "metric": "auroc", "value": 0.8, "n_train": n} for arm, n in counts.items()]  # fmt: skip
    text = " ".join(cautions.warnings(made(results, rows)))
    assert ("d at 1 % 12 images against 10" in text.replace("\u00a0", " ")) == told


@pytest.mark.parametrize(("p", "told"), [(0.001, True), (0.03, False)])
def test_what_one_search_alone_finds_is_told_and_leaves_h3_open(results: Results, p: float, told: bool) -> None:
    keys = {"stage": "audit", "dataset": "d", "generator": "all", "exposure": "full", "group": "all"}
    rows = [keys | {"metric": f"{name}_excess_copies", "value": value, "low": value / 2, "high": value + 0.001}
            for name, value in (("tile_max", 0.0), ("mirrored", 0.6))]  # fmt: skip
    rows += [keys | {"metric": "excess_copies", "value": 0.0, "low": 0.0, "high": 0.001}]
    rows += [keys | {"metric": f"{name}_p", "value": p} for name in ("tile_max", "mirrored")]
    rows += [keys | {"metric": "tile_max_power", "group": "planted=exact", "value": 1.0}]
    study = made(results, rows)
    assert rules.distinct(study).verdict == ("undecided" if told else "supported")
    assert ("d 60\u00a0% (mirrored)" in answers.privacy(study)) == told


def test_a_study_without_real_arms_says_how_real_the_images_look(results: Results) -> None:
    keys = {"stage": "fidelity", "dataset": "d", "exposure": "full", "group": "all", "metric": "two_sample_accuracy"}
    rows = [keys | {"generator": name, "value": value, "low": value - 0.02, "high": value + 0.02}
            for name, value in (("all", 0.96), ("real", 0.48), ("round_trip", 0.92))]  # fmt: skip
    rows += [keys | {"stage": "audit", "metric": "copies_called", "generator": "all", "value": 0.0}]
    found = [text.replace("\u00a0", " ") for text in answers.answers(made(results, rows))]
    assert len(found) == 5 and "real from synthetic images in 96 % of d (95 % interval 94 % to 98 %" in found[1]
    assert "real from real 48 %, the autoencoder's round trip 92 %" in found[1]
    assert found[3].startswith("The generator had seen all training images")


@pytest.mark.parametrize(("exposure", "words"), [("transfer", "images of the other sets"), ("external", "not known")])
def test_other_exposures_are_told(results: Results, exposure: str, words: str) -> None:
    row = {"stage": "audit", "dataset": "d", "exposure": exposure, "group": "all", "metric": "copies_called"}
    assert words in answers.exposure(made(results, [row | {"generator": "all", "value": 0.0}]))


def test_parts_that_were_begun_elsewhere_and_filters_are_warned_of(results: Results) -> None:
    study = {"name": "x", "autoencoder": "taesd", "generators": {"g": {"start": "hub/model"}}}
    study |= {"backbones": [{"name": "resnet18", "weights": "hub"}, {"name": "resnet10t", "weights": None}]}
    told = cautions.warnings(dataclasses.replace(made(results, []), study=study))
    assert any("the autoencoder (taesd), g (hub/model) and the classifier resnet18 (hub)" in text for text in told)
    for privacy, words in (([0.01], "Filtered: images near"), ([None, 0.01], "Filtered: in the variants")):
        study = {"name": "x", "generators": {"g": {}}, "sampling": {"privacy": privacy}}
        told = cautions.warnings(dataclasses.replace(made(results, []), study=study))
        assert any(text.startswith(words) for text in told) and not any("elsewhere" in text for text in told)


def test_repeats_of_a_filter_are_told(results: Results) -> None:
    row = {"stage": "synthesize", "dataset": "d", "generator": "own", "exposure": "budget", "group": "all", "seed": 0,
           "metric": "filter_replaced", "variant": ""}  # fmt: skip
    for value, told in ((0.38, True), (0.01, False)):
        text = " ".join(cautions.warnings(made(results, [row | {"value": value}]))).replace("\u00a0", " ")
        assert ("up to 38 % of a set (d (own, budget exposure)) repeat images of it" in text) == told


def test_a_privacy_filter_coarser_than_asked_is_told(results: Results) -> None:
    study = {"name": "x", "generators": {"g": {}}, "sampling": {"privacy": [0.2, None, 0.01]}}
    fine = "privacy=0.01;steps=50"
    for variant, level, told in (("privacy=0.01", 0.09, True), (fine, 0.012, False), ("", 0.2, False)):
        row = {"stage": "synthesize", "dataset": "d", "generator": "g", "group": "all", "metric": "filter_level",
               "value": level, "variant": variant}  # fmt: skip
        text = " ".join(cautions.warnings(dataclasses.replace(made(results, [row]), study=study)))
        assert ("level is 9 % where 1 % was asked" in text.replace("\u00a0", " ")) == told


def test_many_sets_are_told_by_their_extremes(results: Results) -> None:
    """Up to four one by one, for an answer of two hundred words is none."""

    def told(n: int) -> tuple[str, str]:
        rows = [
            {"stage": "fidelity", "dataset": f"d{i}", "generator": name, "exposure": "full" if name == "all" else "",
             "group": "all", "metric": metric, "value": value}
            for i in range(n) for metric, values in (
                ("frechet_a", {"all": 100.0 + 10 * i, "real": 50.0, "class_mean": 400.0}),
                ("two_sample_accuracy", {"all": 0.8 + 0.01 * i, "real": 0.5, "round_trip": 0.7}))
            for name, value in values.items()
        ]  # fmt: skip
        shown = made(results, rows)
        return answers.nearness(shown), cautions.realism(shown)

    near, real = told(4)
    assert near.count("real against real 50.0 and class means with noise 400") == 4 and "83\u00a0% of d3" in real
    near, real = told(5)
    assert "On five data sets" in near and "is 2.0 to 2.8 times that of real images from one another" in near
    assert "and 25\u00a0% to 35\u00a0% of that of class means" in near and "d3" not in near + real
    assert "in 80\u00a0% to 84\u00a0% on five data sets (real from real 50\u00a0%, the autoencoder" in real


def test_labels_no_better_than_chance_are_told(results: Results) -> None:
    """c: the judge is not shown to see in real images, yet sees less in synthetic ones; d: it sees, and the synthetic
    ones carry nothing; e: they do. Whatever interval chance has."""
    keys = {"stage": "fidelity", "exposure": "full", "budget": 1.0, "group": "all", "variant": ""}
    shares = {"c": (0.56, 0.55, 0.36, 0.36, 0.34), "d": (0.9, 0.5, 0.55, 0.52, 0.5), "e": (0.9, 0.5, 0.88, 0.5, 0.87)}
    rows = []
    for name, (real, dealt, ours, chance, unseen) in shares.items():
        found = [("real", "", real, dealt), ("all", "", ours, chance), ("all", "phrasing=unseen", unseen, 0.5)]
        for generator, variant, value, by_chance in found:
            row = keys | {"dataset": name, "generator": generator, "variant": variant}
            rows.append(
                row | {"metric": "label_consistency", "value": value, "low": value - 0.05, "high": value + 0.05}
            )
            rows.append(row | {"metric": "label_by_chance", "value": by_chance, "low": 0.0, "high": 1.0})
    judge, chance, fewer = (text.replace("\u00a0", " ") for text in cautions.signatures(made(results, rows)))
    assert judge.startswith("Judge:") and judge.endswith("by chance (c 56 % against 55 %).")
    assert chance.startswith("Labels:") and chance.endswith("than by chance (d (all) 55 % against 52 %).")
    assert fewer.startswith("Labels:") and fewer.endswith("than real ones (c (all) 36 % against 56 %).")


def test_labels_that_are_seen_less_often_are_told(results: Results) -> None:
    """In synthetic images than in real ones, and in an unseen wording than in the first; overlapping intervals no."""
    keys = {"stage": "fidelity", "exposure": "full", "budget": 1.0, "group": "all", "metric": "label_consistency"}
    rows = [
        keys | {"dataset": name, "generator": generator, "variant": variant, "value": value, "low": value - 0.05,
                "high": value + 0.05}
        for name, shares in {"a": (0.9, 0.7, 0.3), "b": (0.9, 0.85, 0.8)}.items()
        for (generator, variant), value in zip(
            (("real", ""), ("all", ""), ("all", "phrasing=unseen")), shares, strict=True
        )
    ]  # fmt: skip
    labels, wording = (text.replace("\u00a0", " ") for text in cautions.signatures(made(results, rows)))
    assert labels.startswith("Labels:") and labels.endswith("than real ones (a (all) 70 % against 90 %).")
    assert wording.startswith("Wording:") and wording.endswith("never trained on (a (all) 30 % against 70 %).")
    study = made(results, rows)
    study = dataclasses.replace(study, study=study.study | {"sampling": {"filter": [0.5]}})
    assert len(cautions.signatures(study)) == 1, "the first wording is filtered, the unseen one is not"
