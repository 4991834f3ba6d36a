"""Warnings that stand before the evidence, and the paper's claims with what this study can say about them."""

from typing import NamedTuple

from results.answers import multiplier_of, multiplier_rows_of
from results.statistics import PROVISIONAL
from results.tidy import Results, headline, highest_budget, lowest_budget, real_images, records
from results.wording import DASH, absent, counted, listed, number, percent, significant


class Claim(NamedTuple):
    """A claim of the paper, the rule, our estimate, the verdict."""

    claim: str
    rule: str
    estimate: str
    verdict: str


def warnings(results: Results) -> list[str]:
    """Everything that limits what may be concluded, worst first; empty when nothing does."""
    return [*failures(results), *data_cautions(results), *signatures(results), *strength(results)]


def failures(results: Results) -> list[str]:
    """Failed cells, by stage."""
    failed = results.failed
    rows = [
        f"{stage} of {name or 'all data sets'}" + (f", arm {arm}" if arm else "") + f" ({counted(len(part), 'cell')})"
        for (stage, name, arm), part in failed.groupby(["stage", "dataset", "arm"], sort=True)
    ]
    return [f"Failed cells leave holes in what follows: {'; '.join(rows)}."] if rows else []


def data_cautions(results: Results) -> list[str]:
    """Phantoms, waivers, leakage and what the cards warn of."""
    phantoms = [str(card["name"]) for card in results.datasets if card.get("phantom")]
    found = (
        [f"Phantoms: no clinical claim. {listed(phantoms)} are procedural images, not patients."] if phantoms else []
    )
    waived = [str(name) for name in results.study.get("waive") or []]
    found += [f"Leaks were waived by name for {listed(waived)}."] if waived else []
    for card in results.datasets:
        reported = [str(each) for each in card.get("reported") or []]
        found += [f"{card['name']}: the leakage check reports {listed(reported)}."] if reported else []
    return found


def signatures(results: Results) -> list[str]:
    """Memorising, little diversity, domain shift: each with the number that raised it."""
    found = []
    for row in records(results.pooled("audit", "excess_copies")):
        if not absent(row["low"]) and row["low"] > 0:
            found.append(
                f"Memorising: on {row['dataset']} an excess of {percent(row['value'])} of the images of "
                f"{row['generator']} is unusually near a training image "
                f"(95 % interval {percent(row['low'])} to {percent(row['high'])})."
            )
    found += _diversity(results)
    claims = results.claims
    harmed = claims[(claims["against"] == "real") & (claims["verdict"] == "harmed")]
    harmed = harmed[~harmed["generator"].isin(("copies", "class_mean", "mixup"))].drop_duplicates(["dataset", "arm"])
    for row in records(harmed[harmed["claim"] | (harmed["arm"] == "augmented")]):
        found.append(
            f"Domain shift or mode collapse: on {row['dataset']} the arm {row['arm']} at "
            f"{percent(row['budget'])} scored {number(abs(row['difference']))} below real data alone."
        )
    return found


def _diversity(results: Results) -> list[str]:
    """MS-SSIM among synthetic images above that among real ones, both intervals apart."""
    table = results.pooled("fidelity", "ms_ssim")
    real = {row["dataset"]: row for row in records(table[table["generator"] == "real"])}
    near: dict[str, list[str]] = {}
    for row in records(table[table["generator"].isin(results.generators)]):
        floor = real.get(row["dataset"])
        if floor and not absent(row["low"]) and not absent(floor["high"]) and row["low"] > floor["high"]:
            text = f"{row['dataset']} {number(row['value'])} against {number(floor['value'])}"
            near.setdefault(str(row["generator"]), []).append(text)
    return [
        f"Little diversity: the images of {name} resemble one another more than real ones do (MS-SSIM: "
        f"{'; '.join(dict.fromkeys(texts))})."
        for name, texts in near.items()
    ]


def strength(results: Results) -> list[str]:
    """Few seeds, one generator, nothing to claim."""
    rows = records(headline(results))
    found = []
    seeds = min((int(row["seeds"]) for row in rows), default=PROVISIONAL)
    if seeds == 1:
        found.append("One seed: intervals are the test patients' alone and leave out the variation of training.")
    if seeds < PROVISIONAL:
        found.append(f"Provisional: {counted(seeds, 'seed')} where {PROVISIONAL} are needed for a verdict to stand.")
    single = sorted({str(row["generator"]) for row in rows if not absent(row["generators"]) and row["generators"] == 1})
    if single:
        found.append(f"Conditional: {listed(single)} was trained once, so verdicts hold for that generator only.")
    return found


def paper_claims(results: Results) -> list[Claim]:
    """H1 to H7; the paper's own result tables are not known, so none of its numbers is printed."""
    untested = "not tested by this study"
    return [
        _generalist(results),
        Claim("H2 Physicians find the images realistic", "a reader study", DASH, untested),
        _distinct(results),
        _scarce(results),
        _double(results),
        _compute(results),
        Claim(
            "H7 Diverse data and text conditioning reduce memorising",
            "excess copies by generator",
            DASH,
            untested,
        ),
    ]


def _generalist(results: Results) -> Claim:
    claim, rule = (
        "H1 A generalist matches or beats specialists in fidelity",
        "kernel and Fréchet distance agree",
    )
    if len(results.generators) < 2:
        return Claim(claim, rule, DASH, "not tested: one generator")
    table = results.table
    metric = next((name for name in sorted(set(table["metric"])) if name.startswith("frechet")), "")
    rows = results.pooled("fidelity", metric)
    means = rows[rows["generator"].isin(results.generators)].groupby("generator")["value"].mean()
    text = "; ".join(f"{name} {significant(value)}" for name, value in means.items())
    return Claim(claim, rule, text or DASH, "undecided: see the fidelity table")


def _distinct(results: Results) -> Claim:
    rows = results.pooled("audit", "excess_copies")["value"].dropna()
    text = f"excess copies {percent(max(rows.min(), 0))} to {percent(max(rows.max(), 0))}" if len(rows) else DASH
    return Claim("H3 Synthetic images are distinct from real ones", "excess copies include 0", text, _copies(results))


def _copies(results: Results) -> str:
    rows = results.pooled("audit", "excess_copies")
    if rows.empty:
        return "not tested: no audit"
    return "contradicted" if (rows["low"] > 0).any() else "no contradiction found"


def _scarce(results: Results) -> Claim:
    rows = records(headline(results))
    claim, rule = "H4 With little data, adding synthetic images helps", "Holm, and better than every placebo"
    if not rows:
        return Claim(claim, rule, DASH, "not tested")
    words = [str(row["verdict"]) for row in rows]
    text = "; ".join(f"{row['dataset']} {number(row['difference'], sign=True)}" for row in rows)
    if "harmed" in words and "helped" not in words:
        return Claim(
            claim,
            rule,
            text,
            "contradicted" if words.count("harmed") == len(words) else "contradicted on some",
        )
    helped = words.count("helped")
    return Claim(claim, rule, text, "supported" if helped == len(words) else f"supported on {helped} of {len(words)}")


def _double(results: Results) -> Claim:
    found = [(str(row["dataset"]), multiplier_of(results, row)) for row in records(headline(results))]
    text = "; ".join(f"{name} {value}" for name, value in found if value)
    rule = "interval of the multiplier holds 2 and not 1"
    return Claim("H5 That is worth about twice the real data", rule, text or DASH, _twice(results))


def _twice(results: Results) -> str:
    """By data set: supported where the interval holds 2 and lies above 1; censored ends are open."""
    words = []
    for row in records(headline(results)):
        value, flags = multiplier_rows_of(results, row)
        if not value or absent(value["low"]):
            continue
        low = 0.0 if flags.get("low") == -1 else float(value["low"])
        high = float("inf") if flags.get("high") == 1 else float(value["high"])
        inside = "supported" if low > 1 else "undecided"
        words.append("exceeded" if low > 2 else "contradicted" if high < 2 else inside)
    parts = [f"{word} on {words.count(word)}" for word in dict.fromkeys(sorted(words))]
    return f"{', '.join(parts)} of {len(words)}" if words else "not tested"


def _compute(results: Results) -> Claim:
    claim, rule = "H6 One generalist costs less than specialists", "seconds of training"
    costs = results.costs
    train = costs[(costs["stage"] == "train") & costs["generator"].isin(results.generators)]
    if len(results.generators) < 2 or train.empty:
        return Claim(claim, rule, DASH, "not tested: one generator")
    sums = train.groupby("generator")["seconds"].sum()
    text = "; ".join(f"{name} {significant(value)} s" for name, value in sums.items())
    return Claim(claim, rule, text, "see the cost table")


def scope(results: Results) -> str:
    """One line under the title: what was compared on what."""
    sets, seeds = counted(len(results.names), "data set"), results.study.get("seeds")
    total = len(seeds) if isinstance(seeds, list) else seeds
    parts = [sets, counted(int(total), "seed") if isinstance(total, int) else ""]
    parts += [f"{results.study['size']} px images"] if results.study.get("size") else []
    low, high = lowest_budget(results), highest_budget(results)
    if low == low:
        first = real_images(results, results.names[0], low) if len(results.names) == 1 else None
        parts.append(
            f"{percent(low)} to {percent(high)} of the real data" + (f" (from {first} images)" if first else "")
        )
    return " · ".join(part for part in [*parts, results.backbone] if part)
