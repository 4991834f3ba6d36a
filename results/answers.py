"""The answer: five sentences made from the numbers by rule; help, harm, tie and no decision alike."""

from typing import Any

import pandas as pd

from results.statistics import PROVISIONAL
from results.tidy import (
    PLACEBOS,
    Results,
    headline,
    highest_budget,
    nearer,
    one_a_set,
    placebos,
    plain,
    real_images,
    records,
    with_images,
)
from results.wording import absent, count, counted, heading, interval, listed, number, percent, times, times_interval

LISTED = 4  # data sets named one by one; beyond that the extremes
VERDICTS = {
    "helped": "helped on",
    "harmed": "did harm on",
    "equivalent": "was a tie, within the margin, on",
    "undecided": "was undecided on",
}
Row = dict[str, Any]


def answers(results: Results) -> list[str]:
    """Utility at low data, its worth in real data, utility at full data, privacy, exposure; where nothing stands beside
    real data, how real the images look instead."""
    if headline(results).empty and (seen := realism(results)):
        return [utility(results), seen, privacy(results), exposure(results)]
    return [utility(results), worth(results), full_data(results), privacy(results), exposure(results)]


def utility(results: Results) -> str:
    """Did adding synthetic images help where data is scarce?"""
    rows = records(headline(results))
    if not rows:
        return "This study has no arm with synthetic images beside real ones, so it cannot say if they help."
    lead = _provisional(rows)
    body = _one(rows[0], results) if len(rows) == 1 else _many(rows, results) + _short_of_placebos(rows)
    return lead + body + _placebos(rows, results)


def _short_of_placebos(rows: list[Row]) -> str:
    """Gains over real data that some placebo matched: what keeps them undecided."""
    names = [str(row["dataset"]) for row in rows if _why(row)]
    return f"; on {listed(names)} that is better than real data alone, but not than every placebo" if names else ""


def _provisional(rows: list[Row]) -> str:
    """What must lead: few seeds, and contrasts that are no claim."""
    seeds = min(int(row["seeds"]) for row in rows)
    marks = [f"provisional, from {counted(seeds, 'seed')}"] if seeds < PROVISIONAL else []
    if not all(row["claim"] for row in rows):
        single = any(not absent(row["generators"]) and row["generators"] == 1 for row in rows)
        marks.append("exploratory, " + ("as one trained generator supports no claim" if single else "not corrected"))
    text = "; ".join(marks)
    return f"{text[0].upper()}{text[1:]}: " if text else ""


def _one(row: Row, results: Results) -> str:
    share = percent(row["budget"])
    images = f"With {count(row['n_train'])} real images of {row['dataset']} ({share}), {_doing(row)}"
    evidence = f"{counted(int(row['seeds']), 'seed')}, {count(row['n'])} test images"
    bounds = "" if absent(row["low"]) else f"95 % interval {interval(row['low'], row['high'], sign=True)}; "
    size = f"by {number(abs(row['difference']))} ({bounds}{evidence})"
    change = "raised" if row["difference"] > 0 else "lowered"
    margin = number(results.study.get("margin", 0.01), 3)
    return {
        "helped": f"{images} raised AUROC {size}",
        "harmed": f"{images} lowered AUROC {size}: they did harm",
        "equivalent": f"{images} {change} AUROC {size}, inside the margin of ±{margin}: a tie",
    }.get(row["verdict"], f"{images} {change} AUROC {size}, which decides nothing either way{_why(row)}")


def _doing(row: Row) -> str:
    ways = {"augmented": "adding synthetic ones", "mixed": "replacing half by synthetic ones"}
    return ways.get(str(row["arm"]), f"the arm {row['arm']}")


def _why(row: Row) -> str:
    text = str(row["text"])
    return " (better than real data alone, but not than every placebo)" if "placebo" in text else ""


def _many(rows: list[Row], results: Results) -> str:
    budgets = sorted({float(row["budget"]) for row in rows})
    sizes = [row["n_train"] for row in rows if not absent(row["n_train"])]
    images = f" ({count(min(sizes))} to {count(max(sizes))} images)" if sizes and min(sizes) < max(sizes) else ""
    images = images or (f" ({count(sizes[0])} images)" if sizes else "")
    parts = []
    for verdict, words in VERDICTS.items():
        mine = [row for row in rows if row["verdict"] == verdict]
        parts += [f"{words} {len(mine)} ({_named(mine)})"] if mine else []
    where = listed([percent(budget) for budget in budgets])
    doing = _doing(rows[0])
    seeds = sorted({int(row["seeds"]) for row in rows})
    evidence = f" (95 % intervals over {counted(seeds[0], 'seed')} and all test patients)"
    sets = counted(len(rows), "data set")
    return f"With {where} of the real data{images}, of {sets} {doing} {listed(parts)}{evidence}"


def _named(rows: list[Row]) -> str:
    """Each with its difference and interval, or the range of many."""
    if len(rows) > LISTED:
        ranked = sorted(rows, key=lambda row: float(row["difference"]))
        return f"from {_with_interval(ranked[0])} to {_with_interval(ranked[-1])}"
    return "; ".join(_with_interval(row) for row in rows)


def _with_interval(row: Row) -> str:
    bounds = "" if absent(row["low"]) else f", {interval(row['low'], row['high'], sign=True)}"
    return f"{row['dataset']} {number(row['difference'], sign=True)}{bounds}"


def _placebos(rows: list[Row], results: Results) -> str:
    """What duplicates of the same real images did; the best placebo where there are no duplicates."""
    keys = {(row["dataset"], row["budget"]) for row in rows}
    mine = [row for row in records(placebos(results)) if row["against"] == "real"]
    mine = [row for row in mine if (row["dataset"], row["budget"]) in keys]
    copies = [row for row in mine if row["generator"] == "copies"] or mine
    if not copies:
        return "; no placebo was run beside it."
    what = "duplicates of the same real images" if copies[0]["generator"] == "copies" else "the placebos"
    changes = sorted(float(row["difference"]) for row in copies)
    if len(changes) == 1:
        verb = "raised" if changes[0] > 0 else "lowered"
        return f"; {what} {verb} it by {number(abs(changes[0]))}."
    return f"; {what} changed it by {number(changes[0], sign=True)} to {number(changes[-1], sign=True)}."


def worth(results: Results) -> str:
    """The data multiplier of the headline contrasts."""
    found = [(row, multiplier_of(results, row)) for row in records(headline(results))]
    known = [(row, text) for row, text in found if text]
    if not known:
        return "What that was worth in real data was not measured: it needs real-only scores at two budgets."
    if len(known) == 1:
        return f"That was worth {known[0][1]} times the real data."
    ranked = sorted(known, key=lambda pair: -float(pair[0]["difference"]))
    shown = ranked if len(ranked) <= LISTED else [ranked[0], ranked[-1]]
    text = "In real data that was worth " + listed([f"{text} times on {row['dataset']}" for row, text in shown])
    ends = [multiplier_rows_of(results, row) for row, _ in known]
    nothing = all(value["low"] <= 1 or flags.get("low") == -1 for value, flags in ends)
    return f"{text}; none of it can be told from 1, that is from nothing." if nothing else f"{text}."


def multiplier_of(results: Results, row: Row) -> str:
    """The multiplier of a contrast's setting, `2.4 (1.3 to more than 5)`; empty without one."""
    value, flags = multiplier_rows_of(results, row)
    if not value:
        return ""
    bounds = times_interval(value["low"], value["high"], flags.get("low"), flags.get("high"))
    text = times(value["value"], flags.get("value")).replace("> ", "more than ").replace("< ", "less than ")
    return text if bounds in ("–", f"{text} to {text}") else f"{text} ({bounds})"


def multiplier_rows_of(results: Results, row: Row) -> tuple[Row, Row]:
    """The tidy rows of the multiplier and of its censoring; empty where there is none."""
    found: list[Row] = []
    for metric in ("data_multiplier", "data_multiplier_censored"):
        table = results.pooled("classify", metric)
        for name in ("dataset", "arm", "generator", "exposure", "budget", "ratio", "backbone", "variant"):
            table = table[table[name] == row[name]]
        found += (records(table[:1]) or [{}])[:1]
    return found[0], found[1]


def full_data(results: Results) -> str:
    """The same arm at the highest budget, and what would have been seen."""
    top = highest_budget(results)
    rows = with_images(results)
    mine = records(rows[rows["budget"] == top]) if len(rows) else []
    if rows.empty:
        return "Nothing can be said of larger shares of the real data either."
    if not mine or {row["budget"] for row in records(headline(results))} == {top}:
        return "No larger share of the real data was tried, so whether the effect lasts is open."
    parts = []
    for verdict, words in VERDICTS.items():
        same = [row for row in mine if row["verdict"] == verdict]
        parts += [f"{words} {len(same)} ({_named(same)})"] if same else []
    sizes = sorted(float(row["smallest_detectable"]) for row in mine if not absent(row["smallest_detectable"]))
    seen = f"; a difference of {number(sizes[-1])} would have been seen on each" if sizes else ""
    sets, does = counted(len(mine), "data set"), f"{_doing(mine[0])} {listed(parts)}"
    return f"At {percent(top)} of the real data (exploratory), of {sets} {does}{seen}."


def realism(results: Results) -> str:
    """How often a linear classifier tells synthetic images from real ones, beside its controls; empty if unknown."""
    table = results.pooled("fidelity", "two_sample_accuracy")
    table, parts = table[table["variant"] == ""], []
    for row in records(table[table["generator"].isin(results.generators)].drop_duplicates("dataset")):
        own = table[table["dataset"] == row["dataset"]].drop_duplicates("generator").set_index("generator")["value"]
        words = {"real": "real from real", "round_trip": "the autoencoder's round trip"}
        controls = [f"{text} {percent(own[name], 0)}" for name, text in words.items() if name in own]
        told = ", ".join([_percents(row), *controls])
        parts.append(f"{percent(row['value'], 0)} of {row['dataset']} ({told})")
    lead = "A linear classifier of features told real from synthetic images in"
    return f"{lead} {listed(parts)}; 50\u00a0% would be chance." if parts else ""


def privacy(results: Results) -> str:
    """Excess copies and the audit's power."""
    rows = records(results.pooled("audit", "excess_copies"))
    if not rows:
        return "No privacy audit was run, so nothing is known about copies of training images."
    found = [row for row in rows if not absent(row["low"]) and row["low"] > 0]
    worst = max(rows, key=lambda row: float(row["value"]))
    most = (
        f"{percent(max(worst['value'], 0))}, {_percents(worst)}"
        if not absent(worst["low"])
        else percent(worst["value"])
    )
    where = f"most on {worst['dataset']}: " if len({row["dataset"] for row in rows}) > 1 else ""
    if found:
        sets = listed(list(dict.fromkeys(str(row["dataset"]) for row in found)))
        lead = f"The audit found an excess of copies on {sets} ({where}{most})"
    else:
        lead = f"The audit called no excess of copies ({where}{most}{_one_control(results)})"
    last = "do not release these images unfiltered" if found else "finding none is no guarantee of privacy"
    return f"{lead}{_power(results)}; {last}."


def _one_control(results: Results) -> str:
    """Sets whose images lie nearer to training images than held-out ones do, by any search of the audit, without the
    bank control's agreement: the search that finds most."""
    most: dict[str, tuple[float, str]] = {}
    for row in records(nearer(results)):
        name = heading(str(row["metric"]).replace("_excess_copies", "_power"))
        most[row["dataset"]] = max(most.get(row["dataset"], (0.0, "")), (float(row["value"]), name))
    near = [f"{dataset} {percent(value)} ({name})" for dataset, (value, name) in most.items()]
    return f"; nearer than held-out images are, which no second control confirms: {listed(near)}" if near else ""


def _percents(row: Row) -> str:
    return f"95 % interval {percent(row['low'])} to {percent(row['high'])}"


def _power(results: Results) -> str:
    table = results.pooled("audit", "tile_max_power", group=None)
    parts = []
    for kind, words in (("exact", "exact"), ("round_trip", "round-trip")):
        values = table.loc[table["group"] == f"planted={kind}", "value"].dropna()
        if len(values):
            low, high = percent(values.min(), 0), percent(values.max(), 0)
            parts.append(f"{low if low == high else f'{low} to {high}'} of {words} copies")
    if not parts:
        return "; its power was not measured, so this says little"
    return f" and would have found by its main search {listed(parts)}{_other_kinds(results)}"


def _other_kinds(results: Results) -> str:
    """The kind of planted copies that is found least, each by the search that suits it best."""
    table = results.table
    rows = table[table["metric"].str.endswith("_power") & table["seed"].isna() & (table["status"] == "ok")]
    rows = rows[rows["group"].str.startswith("planted=") & ~rows["group"].str.contains("exact|round_trip|same_patient")]
    keys = ["dataset", "generator", "exposure", "budget", "variant", "group"]
    least = rows.groupby(keys, dropna=False)["value"].max().groupby("group").min().sort_values(kind="stable")
    if least.empty:
        return ""
    kind = str(least.index[0]).removeprefix("planted=")
    return f", and of any other kind, by the search that suits it, at least {percent(least.iloc[0], 0)} ({kind})"


def exposure(results: Results) -> str:
    """What the generator had seen, and the gain where it saw the classifier's own images alone, or after others."""
    rows = headline(results)
    seen = set(rows["exposure"]) if len(rows) else set()
    lead = "The generator had seen all training images"
    if not seen:  # nothing stands beside real data: what was audited tells
        audited = results.pooled("audit", "copies_called")
        seen = set(audited[audited["generator"].isin(results.generators)]["exposure"])
    if "full" not in seen:
        return "The generator saw only the classifier's own real images." if "budget" in seen else (
            "No generator was trained in this study, so there is no exposure to account for.")  # fmt: skip
    limited = plain(results, results.claims)
    keys = {(row["dataset"], row["budget"]) for row in records(rows)}
    limited = limited[(limited["arm"] == "augmented") & (limited["against"] == "real")]
    limited = limited[~limited["generator"].isin(PLACEBOS)]
    found = []
    words = {
        "budget": "limited to the classifier's own",
        "transfer": "trained on other sets and then on the classifier's own",
    }
    for kind, text in words.items():
        one = one_a_set(results, limited[limited["exposure"] == kind])
        mine = [row for row in records(one) if (row["dataset"], row["budget"]) in keys]
        if len(mine) == 1:
            images = count(real_images(results, mine[0]["dataset"], mine[0]["budget"]))
            bounds = interval(mine[0]["low"], mine[0]["high"], sign=True)
            found.append(f"{text} {images} the gain was {number(mine[0]['difference'], sign=True)} ({bounds})")
        elif mine:
            found.append(f"{text} the gain was {_named(mine)}")
    if not found:
        return f"{lead}; no run limited it to the classifier's own, so a gain may come from the others."
    return f"{lead}; {'; '.join(found)}."


def verdict_of(results: Results) -> pd.DataFrame:
    """The headline contrasts, worst news first."""
    rank = {"harmed": 0, "undecided": 1, "equivalent": 2, "helped": 3}
    rows = headline(results)
    if rows.empty:
        return rows
    ranked = rows.assign(_rank=[rank.get(str(word), 1) for word in rows["verdict"]])
    return ranked.sort_values(["_rank", "difference"], kind="stable").drop(columns="_rank")
