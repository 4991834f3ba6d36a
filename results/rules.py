"""MediSyn's claims H1 to H6 and our H7, each judged by a rule: supported, contradicted or undecided.

The paper's result tables are not known, so none of its numbers stands beside ours.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from results.answers import multiplier_of, multiplier_rows_of
from results.cautions import place_of, worst_first
from results.statistics import PROVISIONAL
from results.tidy import Results, headline, nearer, records
from results.wording import DASH, absent, duration, listed, number, percent, significant

TOLD = 0.6  # share of pictures that readers may tell apart
MARK = 0.5  # by which synthetic pictures may be marked lower, on scales from 1 to 5
UNTESTED = "not tested"
COPIES = 0.05  # excess of copies below which images are called distinct
MATCH = 0.1  # of the specialists' distance: no more than this above it is called as good


class Claim(NamedTuple):
    """A claim, the rule by which it is judged, our estimate, the verdict."""

    claim: str
    rule: str
    estimate: str
    verdict: str


def hypotheses(results: Results) -> list[Claim]:
    """H1 to H7 in order; H1 and H6 once for each suite of specialists."""
    suites = roles(results)[1] or [""]
    first, last = ([judge(results, name) for name in suites] for judge in (generalist, compute))
    middle = [realistic(results), *(_few(results, judge(results)) for judge in (distinct, scarce, double))]
    return [*first, *middle, *(_few(results, claim) for claim in last), memorising(results)]


def _few(results: Results, claim: Claim) -> Claim:
    """A claim that is settled by too few seeds is provisional."""
    settled = claim.verdict in ("supported", "contradicted")
    few = settled and int(results.study.get("seeds", 1)) < PROVISIONAL
    return claim._replace(verdict=f"{claim.verdict}, provisional") if few else claim


def table(results: Results) -> pd.DataFrame:
    """The claims as a table, the paper's own value empty where it is not known (everywhere)."""
    rows = [claim._asdict() | {"paper": ""} for claim in hypotheses(results)]
    return pd.DataFrame(rows, columns=["claim", "rule", "estimate", "paper", "verdict"])


def over_sets(words: dict[str, str]) -> str:
    """Verdict over data sets: supported or contradicted where all agree, else undecided."""
    found = set(words.values())
    if not found:
        return UNTESTED
    return found.pop() if len(found) == 1 else "undecided"


def told(words: dict[str, str]) -> str:
    """supported on a and b, undecided on c."""
    kinds = {word: [name for name, each in words.items() if each == word] for word in dict.fromkeys(words.values())}
    return ", ".join(f"{word} on {listed(names)}" for word, names in kinds.items())


def roles(results: Results) -> tuple[list[str], list[str], list[str]]:
    """The study's generators trained on all sets, on one (or one image type) at a time, and without text."""
    given = results.study.get("generators") or {}
    plain = {name: each for name, each in given.items() if not (each.get("images") or each.get("checkpoint"))}
    unconditional = [name for name, each in plain.items() if each.get("unconditional")]
    every = [name for name, each in plain.items() if each.get("train_on", "all") == "all"]
    single = [name for name, each in plain.items() if name not in unconditional and _apart(each.get("train_on"))]
    return every, single, unconditional


def _apart(train_on: Any) -> bool:
    return train_on == "each" or isinstance(train_on, dict)


def strong(results: Results, names: list[str], verdict: str) -> str:
    """A verdict on generators, weakened where few of each were trained: one supports no claim."""
    given, seeds = results.study.get("generators") or {}, results.study.get("seeds", 1)
    counts = [given[name].get("seeds", "all") for name in names]
    least = min(int(seeds) if count == "all" else int(count) for count in counts)
    if verdict == UNTESTED or least >= PROVISIONAL:
        return verdict
    return "undecided: one generator of each was trained" if least == 1 else f"{verdict}, provisional"


def generalist(results: Results, specialist: str) -> Claim:
    """H1: Fréchet and kernel distance, in at least two feature spaces, of the first generalist and a suite."""
    claim = f"H1 A generalist matches or beats specialists in fidelity{_basis(results, specialist)}"
    rule = f"Fréchet and kernel distance at most {MATCH:.0%} above, in two feature spaces that agree"
    every = roles(results)[0]
    if not every or not specialist:
        return Claim(claim, rule, DASH, f"{UNTESTED}: it needs a generator of all sets and one of each")
    kept = results.table
    kept = kept[
        (kept["stage"] == "fidelity") & kept["seed"].isna() & (kept["group"] == "all") & (kept["variant"] == "")
    ]
    kept = kept[kept["metric"].str.startswith(("frechet_", "kernel_")) & kept["exposure"].isin(["full", ""])]
    spaces = {metric.partition("_")[2] for metric in kept["metric"]}
    words, texts = {}, []
    for dataset in results.names:
        (mine, one), (theirs, other) = (_values(kept, dataset, name) for name in (every[0], specialist))
        shared = sorted(mine.keys() & theirs.keys())
        if not shared:
            continue
        found = {_no_farther(mine[metric], theirs[metric]) for metric in shared}
        words[dataset] = found.pop() if len(found) == 1 and one == other else "undecided"
        first = next(metric for metric in shared if metric.startswith("frechet"))
        unequal = f", from {one} and {other} images, which cannot be compared" if one != other else ""
        texts.append(f"{dataset} {significant(mine[first][0])} against {significant(theirs[first][0])}{unequal}")
    text = f"{told(words)} (Fréchet: {'; '.join(texts)})" if words else DASH
    if len(spaces) < 2:
        return Claim(claim, rule, text, "undecided: one feature space")
    return Claim(claim, rule, text, strong(results, [every[0], specialist], over_sets(words)))


def _values(table: pd.DataFrame, dataset: str, generator: str) -> tuple[dict[str, tuple[float, float, float]], int]:
    """Each metric with its interval, and from how many images."""
    rows = records(table[(table["dataset"] == dataset) & (table["generator"] == generator)])
    sizes = [int(row["n"]) for row in rows if not absent(row["n"])]
    found = {str(row["metric"]): (float(row["value"]), float(row["low"]), float(row["high"])) for row in rows}
    return found, max(sizes, default=0)


def _no_farther(mine: tuple[float, float, float], theirs: tuple[float, float, float]) -> str:
    """Whether a distance is at most MATCH above another, by the interval of their difference."""
    error = sum(((high - low) / (2 * 1.959964)) ** 2 for _, low, high in (mine, theirs)) ** 0.5
    gap, margin = mine[0] - theirs[0], MATCH * abs(theirs[0])
    if not error == error:
        return "undecided"
    upper, lower = gap + 1.959964 * error, gap - 1.959964 * error
    return "supported" if upper <= margin else "contradicted" if lower > margin else "undecided"


def realistic(results: Results) -> Claim:
    """H2: readers' accuracy, and synthetic minus real in realism and in agreement with the text."""
    claim = "H2 Physicians find the images realistic and true to the text"
    rule = f"told from real ones in at most {TOLD:.0%}, both marks at most {MARK} of 4 lower, with 95 % confidence"
    table = results.table[(results.table["stage"] == "reader") & (results.table["dataset"] == "")]
    found = {str(row["metric"]): row for row in records(table[table["group"] == "all"])}
    gaps = [found[name] for name in ("reader_realism_gap", "reader_agreement_gap") if name in found]
    if "reader_accuracy" not in found or len(gaps) < 2:
        return Claim(claim, rule, DASH, f"{UNTESTED}: no reader study")
    accuracy = found["reader_accuracy"]
    marks = [f"{name} {number(row['value'], 2, sign=True)}" for name, row in
             zip(("realism", "agreement"), gaps, strict=True)]  # fmt: skip
    text = f"told apart in {percent(accuracy['value'], 0)} (to {percent(accuracy['high'], 0)}); {listed(marks)}"
    if accuracy["high"] <= TOLD and all(row["low"] >= -MARK for row in gaps):
        return Claim(claim, rule, text, "supported")
    wrong = accuracy["low"] > TOLD or any(row["high"] < -MARK for row in gaps)
    return Claim(claim, rule, text, "contradicted" if wrong else "undecided")


def distinct(results: Results) -> Claim:
    """H3: no excess of copies that both controls confirm; where one search alone finds some, it stays open."""
    claim = "H3 Synthetic images are distinct from real ones"
    rule = f"excess copies at most {COPIES:.0%} with 95 % confidence everywhere, no single search finds an excess, "
    rule += "exact copies found in 80 % or more"
    rows = records(results.pooled("audit", "excess_copies"))
    if not rows:
        return Claim(claim, rule, DASH, f"{UNTESTED}: no audit")
    most = max(rows, key=worst_first)
    high = percent(_or(most["high"], most["value"]))
    text = f"at most {percent(max(most['value'], 0))} ({place_of(results, most)}, interval to {high})"
    power = results.pooled("audit", "tile_max_power", "planted=exact")["value"].min()
    if any(_or(row["low"], row["value"]) > 0 for row in rows):  # no interval: all seeds agree
        return Claim(claim, rule, text, "contradicted")
    seen = all(_or(row["high"], row["value"]) <= COPIES for row in rows) and power >= 0.8 and nearer(results).empty
    return Claim(claim, rule, text, "supported" if seen else "undecided")


def _or(value: float, other: float) -> float:
    return other if absent(value) else value


def scarce(results: Results) -> Claim:
    """H4: the headline contrasts, by Holm and the placebo rule."""
    claim = "H4 With little data, adding synthetic images helps"
    rule = "positive after Holm's correction, and better than every placebo"
    rows = records(headline(results))
    words = {str(row["dataset"]): _helped(row) for row in rows}
    text = "; ".join(f"{row['dataset']} {number(row['difference'], sign=True)}" for row in rows)
    return Claim(claim, rule, f"{told(words)} ({text})" if rows else DASH, over_sets(words))


def _helped(row: dict[str, Any]) -> str:
    """Only what may be claimed decides, and help only beside a placebo."""
    if not row["claim"] or (row["verdict"] == "helped" and not row["beats_placebos"]):
        return "undecided"
    words = {"helped": "supported", "harmed": "contradicted", "equivalent": "contradicted"}
    return words.get(str(row["verdict"]), "undecided")


def double(results: Results) -> Claim:
    """H5: equivalence with twice the real data where it was run, else the multiplier."""
    claim = "H5 Real and synthetic data do about as well as twice the real data"
    claims = results.claims
    doubled = claims[claims["claim"] & (claims["against"] == "real_double")] if len(claims) else claims
    if len(doubled):
        rows = records(doubled)
        words = {str(row["dataset"]): _as_double(row) for row in rows}
        text = "; ".join(f"{row['dataset']} {number(row['difference'], sign=True)}" for row in rows)
        rule = "no worse than real_double: a tie within the margin, or better"
        return Claim(claim, rule, f"{told(words)} ({text})", over_sets(words))
    words, texts = {}, []
    for row in records(headline(results)):
        value, flags = multiplier_rows_of(results, row)
        texts += [f"{row['dataset']} {text} times"] if (text := multiplier_of(results, row)) else []
        if text and not absent(value.get("low")):
            words[str(row["dataset"])] = _twice(value, flags, row["beats_placebos"] == "yes")
    text = "; ".join(texts)
    rule = "the multiplier's interval lies above 1 and holds 2 or more, and every placebo is beaten"
    return Claim(claim, rule, f"{told(words)} ({text})" if words else DASH, over_sets(words))


def _as_double(row: dict[str, Any]) -> str:
    """A tie within the margin counts, also where the difference is not 0 by chance."""
    if row["p_equivalence"] < 0.05:
        return "supported"
    return {"helped": "supported", "harmed": "contradicted"}.get(str(row["verdict"]), "undecided")


def _twice(value: dict[str, float], flags: dict[str, float], beaten: bool) -> str:
    """Censored ends are open; what a placebo brings too is no worth of synthetic images."""
    low = 0.0 if flags.get("low") == -1 else float(value["low"])
    high = float("inf") if flags.get("high") == 1 else float(value["high"])
    return "contradicted" if high < 2 else "supported" if low > 1 and beaten else "undecided"


def _basis(results: Results, specialist: str) -> str:
    """What a suite of specialists has in common with the generalist: steps, images in all, or neither."""
    given, every = results.study.get("generators") or {}, roles(results)[0]
    if not every or not specialist or given[specialist].get("train_on") != "each":
        return f" ({specialist})" if specialist else ""
    one, each = given[every[0]].get("images_seen") or 0, given[specialist].get("images_seen") or 0
    in_all = abs(each * len(results.names) - one) <= 0.01 * one
    return f" ({specialist}: {'equal steps' if each == one else 'equal images in all' if in_all else 'unequal steps'})"


def compute(results: Results, specialist: str) -> Claim:
    """H6: training time of the generalist against the sum of its specialists, autoencoders included."""
    claim = f"H6 One generalist costs less than a suite of specialists{_basis(results, specialist)}"
    rule, every = "a tenth less training time than all its specialists", roles(results)[0]
    costs = results.costs
    if len(costs):
        costs = costs[costs["stage"].isin(["train", "autoencoder"])]
        costs = costs[costs["exposure"].isin(["full", ""])]
    sums = {name: float(costs.loc[costs["generator"] == name, "seconds"].sum()) for name in (*every[:1], specialist)}
    if not every or not specialist or not all(sums.values()):
        return Claim(claim, rule, DASH, f"{UNTESTED}: it needs a generator of all sets and one of each")
    one, many = sums.values()
    seen = [(results.study.get("generators") or {})[name].get("images_seen") for name in sums]
    text = f"{duration(one)} against {duration(many)}; images seen {seen[0]} against {seen[1]} a set"
    verdict = "supported" if one < 0.9 * many else "contradicted" if one > 1.1 * many else "undecided"
    return Claim(claim, rule, text, verdict)


def memorising(results: Results) -> Claim:
    """H7: excess copies and membership AUROC of generalist, specialist and unconditional generator."""
    claim = "H7 More diverse data and text conditioning reduce memorising"
    rule = "excess copies or membership AUROC lower for the generalist, intervals apart, and neither higher"
    every, single, unconditional = roles(results)
    others = [*single[:1], *unconditional[:1]]
    if not every or not others:
        return Claim(claim, rule, DASH, f"{UNTESTED}: it needs a generalist beside specialists or no text")
    told_apart, void = results.pooled("membership", "membership_auroc"), results.pooled("membership", "membership_void")
    own = ["dataset", "generator", "exposure", "variant"]
    void = void[void["value"] > 0][own].drop_duplicates().assign(void=True)
    told_apart = told_apart.merge(void, on=own, how="left")  # groups that differ by themselves say nothing
    rows = pd.concat([results.pooled("audit", "excess_copies"), told_apart[told_apart["void"].isna()]])
    rows = rows[(rows["variant"] == "") & (rows["exposure"] == "full")]
    bounds: Callable[[str], dict[tuple[str, str], tuple[float, float]]] = lambda name: {  # noqa: E731
        (str(row["dataset"]), str(row["metric"])): (float(row["low"]), float(row["high"]))
        for row in records(rows[rows["generator"] == name]) if not absent(row["low"])
    }  # fmt: skip
    mine, found = bounds(every[0]), dict[str, set[str]]()
    for other in others:
        for key, (low, high) in bounds(other).items():
            if key in mine:
                less, more = mine[key][1] < low, mine[key][0] > high
                found.setdefault(f"{key[0]} ({other})", set()).add("less" if less else "more" if more else "")
    words = {name: "contradicted" if "more" in each else "supported" if "less" in each else "undecided"
             for name, each in found.items()}  # fmt: skip
    return Claim(claim, rule, told(words) if words else DASH, strong(results, [every[0], *others], over_sets(words)))
