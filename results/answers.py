"""The answer: five sentences made from the numbers by rule; help, harm, tie and no decision alike."""

from typing import Any

import pandas as pd

from results.cautions import LISTED, privacy, realism
from results.statistics import PROVISIONAL
from results.tidy import (
    PLACEBOS,
    Results,
    headline,
    highest_budget,
    label,
    main_arm,
    one_a_set,
    placebos,
    plain,
    rank,
    real_images,
    records,
    with_images,
)
from results.wording import (
    DASH,
    absent,
    count,
    counted,
    duration,
    interval,
    listed,
    number,
    percent,
    significant,
    times,
    times_interval,
)

VERDICTS = {
    "helped": "helped on",
    "harmed": "did harm on",
    "equivalent": "was a tie, within the margin, on",
    "undecided": "was undecided on",
}
Row = dict[str, Any]
OWN_ONLY = "Of each set that it learnt, the generator saw only the images of this budget."
OTHERS_FIRST = "The generator had seen images of the other sets, and of each set only the classifier's own."
UNKNOWN = "The images came from a model made elsewhere: what it had seen is not known, so a gain may come from that."
LIMITS = {"budget": "limited to this budget's", "transfer": "trained on other sets and then on this budget's"}
NOT_LIMITED = "no run limited it to those of a budget, so a gain may come from the others."
NO_GENERATOR = "No generator was trained in this study, so there is no exposure to account for."


def answers(results: Results) -> list[str]:
    """Five sentences: utility at low data and what it was worth, at full data, privacy, exposure, cost; where nothing
    stands beside real data, how near and how real the images look instead."""
    last = [privacy(results), exposure(results), cost(results)]
    if headline(results).empty and (seen := realism(results)):
        return [f"{utility(results)} {nearness(results)}".strip(), seen, *last]
    return [f"{utility(results)} {worth(results)}", full_data(results), *last]


def utility(results: Results) -> str:
    """Did adding synthetic images help where data is scarce?"""
    rows = records(headline(results))
    if not rows:
        return "This study sets no arm with synthetic images against real ones, so it cannot say if they help."
    lead = _provisional(rows)
    body = _one(rows[0], results) if len(rows) == 1 else _many(rows, results) + _short_of_placebos(rows, results)
    return lead + body + _placebos(rows, results)


def _short_of_placebos(rows: list[Row], results: Results) -> str:
    """Gains over real data that some placebo matched: what keeps them undecided."""
    names = [f"{row['dataset']} ({_rival(row, results)})" for row in rows if _unbeaten(row)]
    text = "the gain over real data alone could not be told from that of a placebo"
    return f"; on {listed(names)} {text}" if names else ""


def _rival(row: Row, results: Results) -> str:
    """The placebo that came nearest to a contrast's gain, and its own."""
    mine = placebos(results)
    for name, value in (("generator", row["worst_placebo"]), ("against", "real"), ("dataset", row["dataset"]),
                        ("budget", row["budget"])):  # fmt: skip
        mine = mine[mine[name] == value]
    return f"{label(str(row['worst_placebo']))}: {number(mine['difference'].iloc[0], sign=True) if len(mine) else DASH}"


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
    if not absent(row["n_train"]) and row["n_train"] == 0:  # of a classifier that saw none
        images = f"With {share} of the real images of {row['dataset']} at hand, {_doing(row)}"
    evidence = f"{counted(int(row['seeds']), 'seed')}, {count(row['n'])} test images"
    bounds = "" if absent(row["low"]) else f"95 % interval {interval(row['low'], row['high'], sign=True)}; "
    size = f"by {number(abs(row['difference']))} ({bounds}{evidence})"
    change = "raised" if row["difference"] > 0 else "lowered"
    margin = number(results.study.get("margin", 0.01), 3)
    return {
        "helped": f"{images} raised AUROC {size}",
        "harmed": f"{images} lowered AUROC {size}: they did harm",
        "equivalent": f"{images} {change} AUROC {size}, inside the margin of ±{margin}: a tie",
    }.get(row["verdict"], f"{images} {change} AUROC {size}, which decides nothing either way{_why(row, results)}")


def _doing(row: Row) -> str:
    ways = {"augmented": "adding synthetic ones", "mixed": "replacing half by synthetic ones",
            "pretrained": "training on synthetic ones first", "synthetic": "using synthetic ones instead"}  # fmt: skip
    return ways.get(str(row["arm"]), f"the arm {row['arm']}")


def _unbeaten(row: Row) -> bool:
    return "placebo" in str(row["text"])


def _why(row: Row, results: Results) -> str:
    text = f" (better than real data alone, but not than every placebo; {_rival(row, results)})"
    return text if _unbeaten(row) else ""


def _many(rows: list[Row], results: Results) -> str:
    budgets = sorted({float(row["budget"]) for row in rows})
    sizes = [row["n_train"] for row in rows if not absent(row["n_train"]) and row["n_train"]]
    images = f" ({count(min(sizes))} to {count(max(sizes))} images)" if sizes and min(sizes) < max(sizes) else ""
    images = images or (f" ({count(sizes[0])} images)" if sizes else "")
    parts = []
    for verdict, words in VERDICTS.items():
        mine = [row for row in rows if row["verdict"] == verdict]
        parts += [f"{words} {len(mine)} ({_named(mine)})"] if mine else []
    where = listed([percent(budget) for budget in budgets])
    doing = _doing(rows[0]).replace(" ones", " images")
    seeds = sorted({int(row["seeds"]) for row in rows})
    evidence = f" (95 % intervals over {counted(seeds[0], 'seed')} and all test patients)"
    sets = counted(len(rows), "data set")
    return f"With {where} of the real data{images}, over {sets}, {doing} {listed(parts)}{evidence}"


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
    told, open_ones = list[str](), list[str]()
    for row, text in shown:
        value, flags = multiplier_rows_of(results, row)
        nothing = value["low"] <= 1 or flags.get("low") == -1
        (open_ones if nothing else told).append(f"{text} times on {row['dataset']}")
    rest = f"cannot be told from 1, that is from nothing: {listed(open_ones)}" if open_ones else ""
    if not told:
        return f"What that was worth in real data {rest}."
    return f"In real data that was worth {listed(told)}" + (f"; the rest {rest}." if rest else ".")


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
        return "With synthetic images no larger share of the real data was tried, so whether the effect lasts is open."
    parts = []
    for verdict, words in VERDICTS.items():
        same = [row for row in mine if row["verdict"] == verdict]
        parts += [f"{words} {len(same)} ({_named(same)})"] if same else []
    sizes = sorted(float(row["smallest_detectable"]) for row in mine if not absent(row["smallest_detectable"]))
    seen = (
        f"; a difference of {number(sizes[-1])} would have been seen on each with a chance of 80\u00a0%"
        if sizes
        else ""
    )
    seen = "; on some no difference could have been seen with so few seeds" if sizes and sizes[-1] > 0.5 else seen
    sets, does = counted(len(mine), "data set"), f"{_doing(mine[0]).replace(' ones', ' images')} {listed(parts)}"
    return f"At {percent(top)} of the real data (exploratory), over {sets}, {does}{seen}."


def nearness(results: Results) -> str:
    """The first generator's Fréchet distance, beside floor and control; empty where none was measured."""
    parts, pairs = [], list[tuple[float, float, float]]()
    for name in results.names:
        values = distances(results, name)
        own = next((values[each] for each in results.generators if each in values), None)
        if own is not None:
            words = {"real": "real against real", "class_mean": "class means with noise"}
            controls = listed([f"{text} {significant(values[key])}" for key, text in words.items() if key in values])
            parts.append(f"{name} {significant(own)} ({controls})")
            pairs += [(own, values["real"], values["class_mean"])] if {"real", "class_mean"} <= values.keys() else []
    if len(pairs) == len(parts) > LISTED:
        floors, shares = sorted(own / real for own, real, _ in pairs), sorted(own / mean for own, _, mean in pairs)
        return (f"On {counted(len(pairs), 'data set')} the Fréchet distance to real images is {number(floors[0], 1)} "
                f"to {number(floors[-1], 1)} times that of real images from one another, and {percent(shares[0], 0)} "
                f"to {percent(shares[-1], 0)} of that of class means with noise.")  # fmt: skip
    return f"The Fréchet distance to real images, lower is closer: {listed(parts)}." if parts else ""


def distances(results: Results, dataset: str) -> dict[str, float]:
    """Fréchet distance by generator or control, in the study's first feature space, fullest exposure first."""
    table = results.table
    table = table[(table["stage"] == "fidelity") & (table["dataset"] == dataset) & table["seed"].isna()]
    table = table[(table["group"] == "all") & (table["variant"] == "") & table["metric"].str.startswith("frechet")]
    ranked = sorted(records(table), key=lambda row: rank(results, str(row["generator"]), str(row["exposure"])))
    spaces = [str(each["name"] if isinstance(each, dict) else each)
              for each in (results.study.get("fidelity") or {}).get("encoders") or []]  # fmt: skip
    metrics = {str(row["metric"]) for row in ranked}
    metric = next((f"frechet_{space}" for space in spaces if f"frechet_{space}" in metrics), min(metrics, default=""))
    found: dict[str, float] = {}
    for row in (row for row in ranked if row["metric"] == metric):
        found.setdefault(str(row["generator"]), float(row["value"]))
    return found


def cost(results: Results) -> str:
    """The computing time of all cells, and the generators' part of it."""
    costs = results.costs
    if costs.empty or costs["seconds"].isna().all():
        return "What it cost was not recorded."
    cells = costs.drop_duplicates("cell")
    made = cells[cells["stage"].isin(["autoencoder", "train", "synthesize"])]["seconds"].sum()
    part = f", of which {duration(made)} went into the generators and their images" if made else ""
    return f"It cost {duration(cells['seconds'].sum())} of computing{part}."


def exposure(results: Results) -> str:
    """What the generator had seen, and the gain where it saw the budget's images alone, or after those of others."""
    rows = headline(results)
    seen = set(rows["exposure"]) if len(rows) else set()
    lead = "The generator had seen all training images"
    if not seen:  # nothing stands beside real data: what was audited tells
        audited = results.pooled("audit", "copies_called")
        seen = set(audited[audited["generator"].isin(results.generators)]["exposure"])
        measured = results.table[(results.table["stage"] == "fidelity") & (results.table["status"] == "ok")]
        seen = seen or set(measured[measured["generator"].isin(results.generators)]["exposure"])
    if "full" not in seen:
        words = (("budget", OWN_ONLY), ("transfer", OTHERS_FIRST), ("external", UNKNOWN))
        return next((text for kind, text in words if kind in seen), NO_GENERATOR)
    texts = [text for kind in LIMITS if (text := _limited(results, records(rows), kind))]
    return f"{lead}; {'; '.join(texts)}." if texts else f"{lead}; {NOT_LIMITED}"


def _limited(results: Results, rows: list[Row], kind: str) -> str:
    """The headline's gain under a limited exposure; at another dose beside what all images gave at that one."""
    doses = {(row["dataset"], row["budget"]): _dose(row) for row in rows}
    claims = plain(results, results.claims)
    claims = claims[(claims["arm"] == main_arm(claims["arm"])) & (claims["against"] == "real")]
    claims = claims[~claims["generator"].isin(PLACEBOS)]
    every = records(claims[claims["exposure"] == "full"])
    full = {(row["dataset"], row["budget"], *_dose(row)): row for row in every}
    some = claims[claims["exposure"] == kind]
    alike = [doses.get((row["dataset"], row["budget"])) == _dose(row) for row in records(some)]
    mine = records(one_a_set(results, some[alike] if any(alike) else some))
    mine = [row for row in mine if (row["dataset"], row["budget"]) in doses]
    if mine and not any(alike):
        twins = [full.get((row["dataset"], row["budget"], *_dose(row))) for row in mine]
        beside = f", and {_named([twin for twin in twins if twin])} with all" if any(twins) else ""
        return f"{LIMITS[kind]} images, at ratio {mine[0]['ratio']:g}, the gain was {_named(mine)}{beside}"
    if len(mine) == 1:
        images = count(real_images(results, mine[0]["dataset"], mine[0]["budget"]))
        gain = f"{number(mine[0]['difference'], sign=True)} ({interval(mine[0]['low'], mine[0]['high'], sign=True)})"
        return f"{LIMITS[kind]} images (here {images}) the gain was {gain}"
    return f"{LIMITS[kind]} images the gain was {_named(mine)}" if mine else ""


def _dose(row: Row) -> tuple[Any, ...]:
    return row["generator"], row["ratio"], row["share"]


def verdict_of(results: Results) -> pd.DataFrame:
    """The headline contrasts, worst news first."""
    rank = {"harmed": 0, "undecided": 1, "equivalent": 2, "helped": 3}
    rows = headline(results)
    if rows.empty:
        return rows
    ranked = rows.assign(_rank=[rank.get(str(word), 1) for word in rows["verdict"]])
    return ranked.sort_values(["_rank", "difference"], kind="stable").drop(columns="_rank")
