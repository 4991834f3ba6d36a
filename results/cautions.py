"""Is it safe, and what limits what may be concluded: a sentence of the answer, and the warnings before the evidence."""

from typing import Any

import pandas as pd

from results.statistics import PROVISIONAL
from results.tidy import (
    PLACEBOS,
    Results,
    headline,
    highest_budget,
    lowest_budget,
    nearer,
    plain,
    real_images,
    records,
)
from results.wording import absent, counted, heading, listed, number, percent

Row = dict[str, Any]
NO_ALTERED = ("planted=exact", "planted=round_trip", "planted=same_patient_near_copy")  # told before, or no copies
REPEATS = 0.05  # share of a set above which images that stand in it twice are told
LISTED = 4  # data sets named one by one; beyond that the extremes
EASY = 0.9  # accuracy, by its lower end, above which a linear classifier tells synthetic from real


def warnings(results: Results) -> list[str]:
    """Everything that limits what may be concluded, worst first; empty when nothing does."""
    found = [*failures(results), *data_cautions(results), *signatures(results)]
    found += [*_repeated(results), *_filtered(results)]
    return [*found, *_elsewhere(results), *_doubled(results), *strength(results)]


def failures(results: Results) -> list[str]:
    """Failed or unfinished cells, by stage, and why the first of them failed."""
    failed = results.failed
    rows = [
        f"{stage} of {name or 'all data sets'}" + (f", arm {arm}" if arm else "") + f" ({counted(len(part), 'cell')})"
        for (stage, name, arm), part in failed.groupby(["stage", "dataset", "arm"], sort=True)
    ]
    why = sorted({str(each) for each in (results.manifest.get("missing") or {}).values()} - {"not run"})
    first = f" The first error: {why[0]}" if why else ""
    return [f"Failed or unfinished cells leave holes in what follows: {'; '.join(rows)}.{first}"] if rows else []


def data_cautions(results: Results) -> list[str]:
    """Phantoms, waivers, leakage and what the cards warn of."""
    phantoms = [str(card["name"]) for card in results.datasets if card.get("phantom")]
    text = f"Phantoms: no clinical claim. {listed(phantoms)} are procedural images, not patients."
    found = [text] if phantoms else []
    waived = [str(name) for name in results.study.get("waive") or []]
    found += [f"Leaks were waived by name for {listed(waived)}."] if waived else []
    shared = [str(each) for each in results.manifest.get("shared_images") or []]
    text = f"Sets share pictures, so a generator of both may have met test images: {listed(shared)}."
    found += [text] if shared else []
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
    found += _diversity(results) + _labels(results) + _told_apart(results)
    claims = results.claims
    claims = claims if claims.empty else plain(results, claims)
    harmed = claims[(claims["against"] == "real") & (claims["verdict"] == "harmed")]
    harmed = harmed[~harmed["generator"].isin(PLACEBOS) & (harmed["claim"] | (harmed["arm"] == "augmented"))]
    harmed = harmed[harmed["difference"] < -float(results.study.get("margin", 0.01))].sort_values("difference")
    for row in records(harmed.drop_duplicates(["dataset", "arm"])):
        found.append(
            f"Domain shift or mode collapse: on {place_of(results, row)} the arm {row['arm']} at "
            f"{percent(row['budget'])}, ratio {row['ratio']:g}, scored {number(abs(row['difference']))} below "
            "real data alone."
        )
    return found


def _labels(results: Results) -> list[str]:
    """Labels seen no more often than by chance, in real images (by a blind judge) or in synthetic ones; less often in
    synthetic than in real ones, in an unseen wording than in the first."""
    table, chance = (results.pooled("fidelity", name) for name in ("label_consistency", "label_by_chance"))
    filtered = ((results.study.get("sampling") or {}).get("filter") or [None])[0]  # which the unseen wording never is
    ours, real = table[table["generator"].isin(results.generators)], plain_rows(table[table["generator"] == "real"])
    unseen, plain = ours[(ours["variant"] == "phrasing=unseen") & (not filtered)], plain_rows(ours)
    keys = ["dataset", "generator", "exposure", "budget"]
    seen = "a classifier of real images sees the label asked for in"
    blind = _wrong(real, chance, keys[:2])
    dealt = _wrong(plain[~plain["dataset"].isin(blind["dataset"])], plain_rows(chance), keys)
    found = {
        "Judge: what tells labels is not shown to see them in real images more often than by chance": blind,
        f"Labels: {seen} no more synthetic images than by chance": dealt,
        f"Labels: {seen} fewer synthetic images than real ones": _wrong(plain.drop(dealt["index"]), real, keys[:1]),
        f"Wording: {seen} fewer images of a wording never trained on": _wrong(unseen, plain, keys),
    }
    told = {}
    for text, rows in found.items():
        places = [place_of(results, row, row["generator"] != "real") for row in records(rows)]
        shares = [f"{percent(row['value'], 0)} against {percent(row['value_other'], 0)}" for row in records(rows)]
        told[text] = "; ".join(dict.fromkeys(map(" ".join, zip(places, shares, strict=True))))
    return [f"{text} ({each})." for text, each in told.items() if each]


def _wrong(rows: pd.DataFrame, others: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Rows whose interval is not above what chance gives under the same keys, or is below another interval there."""
    other = others[[*keys, "metric", "value", "low"]]
    both = rows[rows["high"].notna()].reset_index().merge(other, on=keys, suffixes=("", "_other"))
    dealt = both["metric_other"] == "label_by_chance"
    return both[(dealt & (both["low"] <= both["value_other"])) | (~dealt & (both["high"] < both["low_other"]))]


def _told_apart(results: Results) -> list[str]:
    """Synthetic images that a linear classifier tells from real ones nearly always."""
    table = plain_rows(results.pooled("fidelity", "two_sample_accuracy"))
    table = table[table["generator"].isin(results.generators) & (table["low"] > EASY)]
    table = table.drop_duplicates(["dataset", "generator", "exposure"])
    told = [f"{place_of(results, row)} {percent(row['value'], 0)}" for row in records(table)]
    text = f"Told apart: a linear classifier of features tells synthetic from real ({'; '.join(told)})."
    return [text] if told else []


def realism(results: Results) -> str:
    """How often a linear classifier tells synthetic images from real ones, beside its controls; empty if unknown."""
    table = plain_rows(results.pooled("fidelity", "two_sample_accuracy"))
    mine = table[table["generator"].isin(results.generators)].drop_duplicates("dataset")
    words = {"real": "real from real", "round_trip": "the autoencoder's round trip"}
    several = [list(mine["dataset"])] if len(mine) > LISTED else [[name] for name in mine["dataset"]]
    parts = []
    for names in several:
        own = table[table["dataset"].isin(names)].drop_duplicates(["dataset", "generator"])
        controls = [f"{text} {_span(values)}" for name, text in words.items()
                    if len(values := own.loc[own["generator"] == name, "value"])]  # fmt: skip
        row = mine[mine["dataset"].isin(names)]
        told = controls if len(names) > 1 else [percents(records(row)[0]), *controls]
        where = f"on {counted(len(names), 'data set')}" if len(names) > 1 else f"of {names[0]}"
        parts.append(f"{_span(row['value'])} {where}" + (f" ({', '.join(told)})" if told else ""))
    lead = "A linear classifier of features told real from synthetic images in"
    return f"{lead} {listed(parts)}; 50\u00a0% would be chance." if parts else ""


def _span(values: "pd.Series[float]") -> str:
    low, high = percent(values.min(), 0), percent(values.max(), 0)
    return low if low == high else f"{low} to {high}"


def place_of(results: Results, row: Row, several: bool = True) -> str:
    """A data set, the generator where the study has several, and an exposure other than full."""
    told = [str(row["generator"])] if several and len(results.generators) > 1 else []
    told += [f"{row['exposure']} exposure"] if row.get("exposure") in ("budget", "transfer") else []
    return f"{row['dataset']} ({', '.join(told)})" if told else str(row["dataset"])


def plain_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the study as written."""
    return table[table["variant"] == ""]


def _diversity(results: Results) -> list[str]:
    """MS-SSIM among synthetic images above that among real ones, both intervals apart."""
    table = plain_rows(results.pooled("fidelity", "ms_ssim"))
    real = {row["dataset"]: row for row in records(table[table["generator"] == "real"])}
    near: dict[str, list[str]] = {}
    for row in records(table[table["generator"].isin(results.generators)]):
        floor = real.get(row["dataset"])
        if floor and not absent(row["low"]) and not absent(floor["high"]) and row["low"] > floor["high"]:
            text = f"{place_of(results, row, False)} {number(row['value'])} against {number(floor['value'])}"
            near.setdefault(str(row["generator"]), []).append(text)
    much = {name: f"more than real ones do (MS-SSIM: {'; '.join(dict.fromkeys(each))})" for name, each in near.items()}
    return [f"Little diversity: the images of {name} resemble one another {text}." for name, text in much.items()]


def _repeated(results: Results) -> list[str]:
    """Sets in which many images stand twice, because the filters refused what was drawn in their place."""
    table = results.table[(results.table["metric"] == "filter_replaced") & results.table["seed"].notna()]
    rows = sorted(records(plain_rows(table)), key=lambda row: -float(row["value"]))
    if not rows or rows[0]["value"] < REPEATS:
        return []
    where, text = place_of(results, rows[0]), "that the filters accepted in the place of those that they refused"
    return [f"Repeats: up to {percent(rows[0]['value'])} of a set ({where}) repeat images of it {text}."]


def _filtered(results: Results) -> list[str]:
    """A privacy filter by tile-max distance makes the audit's own search by it find nothing."""
    levels = (results.study.get("sampling") or {}).get("privacy") or []
    if not any(levels):
        return []
    table = results.table[results.table["metric"].isin(["filter_accepted", "filter_replaced"])]
    sums = table[table["seed"].notna()].groupby("cell")["value"].agg(["sum", "size"])
    short = sums[(sums["size"] == 2) & (sums["sum"] < 0.9995)]["sum"]
    text = "refused images in a set, for of their labels it accepted none"
    left = [f"The privacy filter left up to {percent(1 - short.min())} {text}."] if len(short) else []
    reached = records(results.table[results.table["metric"] == "filter_level"])
    coarse = [(row["value"], _asked(row["variant"], levels)) for row in reached]
    coarse = [(value, asked) for value, asked in coarse if value > 1.5 * asked]
    if coarse:
        value, asked = max(coarse, key=lambda pair: pair[0] / pair[1])
        left.append(f"So few validation images set the privacy filter's threshold that its level is {percent(value)} "
                    f"where {percent(asked)} was asked: it redraws more.")  # fmt: skip
    where = "" if levels[0] else "in the variants with a privacy filter, "
    return [
        *left,
        f"Filtered: {where}images near to training ones by tile-max distance were redrawn before the audit, so that "
        "search and the share called copies count for little there; look at the searches that the filter did not use.",
    ]


def _asked(variant: Any, levels: list[Any]) -> float:
    """The level of a variant, `privacy=0.05;steps=50`; where it does not name one, the study's first."""
    named = [part.removeprefix("privacy=") for part in str(variant or "").split(";") if part.startswith("privacy=")]
    return float(named[0] if named else levels[0])


def _elsewhere(results: Results) -> list[str]:
    """Trained parts that were begun elsewhere: an exposure counts only what they have seen since."""
    study = results.study
    own = study.get("autoencoder", "augury")
    begun = [f"the autoencoder ({own})"] if own != "augury" and study.get("generators") else []
    given = study.get("generators") or {}
    begun += [
        f"{name} ({each['start']})" for name, each in given.items() if isinstance(each, dict) and each.get("start")
    ]
    ready = [each for each in study.get("backbones") or [] if isinstance(each, dict) and each.get("weights")]
    begun += [f"the classifier {each['name']} ({each['weights']})" for each in ready]
    text = "on images that are not known here; exposures count only what was seen since"
    return [f"Begun elsewhere, {text}: {listed(begun)}."] if begun else []


def _doubled(results: Results) -> list[str]:
    """Where `real_double` has far from twice the images, because each class needs one at least."""
    table = results.table[(results.table["stage"] == "classify") & results.table["n_train"].notna()]
    pairs = table.pivot_table(values="n_train", index=["dataset", "budget"], columns="arm", aggfunc="mean")
    pairs = pairs.reindex(columns=["real", "real_double"]).dropna().astype("float64").reset_index()
    found = [
        f"{row['dataset']} at {percent(row['budget'])} {row['real_double']:.0f} images against {row['real']:.0f}"
        for row in records(pairs[pairs["real_double"] < 1.5 * pairs["real"]])
    ]
    text = "Twice the real data is less where every class needs an image, so H5 is compared with too little"
    return [f"{text}: {'; '.join(found)}."] if found else []


def strength(results: Results) -> list[str]:
    """Few seeds, one generator, nothing to claim."""
    rows, found = records(headline(results)), []
    seeds = min((int(row["seeds"]) for row in rows), default=PROVISIONAL)
    if seeds == 1:
        found.append("One seed: intervals are the test patients' alone and leave out the variation of training.")
    if seeds < PROVISIONAL:
        found.append(f"Provisional: {counted(seeds, 'seed')} where {PROVISIONAL} are needed for a verdict to stand.")
    single = sorted({str(row["generator"]) for row in rows if not absent(row["generators"]) and row["generators"] == 1})
    if single:
        found.append(f"Conditional: {listed(single)} was trained once, so verdicts hold for that generator only.")
    return found


def worst_first(row: Row) -> tuple[bool, float, float]:
    """By which an audit's rows are ranked: an excess that is shown, then how large, then how large it may be."""
    high = row["value"] if absent(row["high"]) else row["high"]
    return bool(not absent(row["low"]) and row["low"] > 0), round(float(row["value"]), 3), float(high)


def privacy(results: Results) -> str:
    """Excess copies and the audit's power."""
    rows = records(results.pooled("audit", "excess_copies"))
    if not rows:
        return "No privacy audit was run, so nothing is known about copies of training images."
    found = [row for row in rows if not absent(row["low"]) and row["low"] > 0]
    worst = max(rows, key=worst_first)
    known = not absent(worst["low"])
    most = f"{percent(max(worst['value'], 0))}, {percents(worst)}" if known else percent(worst["value"])
    where = f"most on {place_of(results, worst)}: " if len({row["dataset"] for row in rows}) > 1 else ""
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


def percents(row: Row) -> str:
    """The interval of a share in words."""
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
    """The kind of altered copies that is found least, each by the search that suits it best; and, no copies at all, new
    images of patients that are in the bank."""
    table = results.table
    rows = table[table["metric"].str.endswith("_power") & table["seed"].isna() & (table["status"] == "ok")]
    rows = rows[rows["group"].str.startswith("planted=") & ~rows["group"].isin(NO_ALTERED)]
    keys = ["dataset", "generator", "exposure", "budget", "variant", "group"]
    least = rows.groupby(keys, dropna=False)["value"].max().groupby("group").min().sort_values(kind="stable")
    patient, least = least.get("planted=same_patient"), least.drop("planted=same_patient", errors="ignore")
    text = "" if patient is None else f", of other images of patients that it learnt from {percent(patient, 0)}"
    if least.empty:
        return text
    kind, share = str(least.index[0]).removeprefix("planted="), percent(least.iloc[0], 0)
    return f"; of other altered copies, by the search that suits each, at least {share} ({kind}){text}"


def scope(results: Results) -> str:
    """One line under the title: what was compared on what."""
    seeds = results.study.get("seeds")
    parts = [counted(len(results.names), "data set"), counted(seeds, "seed") if isinstance(seeds, int) else ""]
    parts += [f"{results.study['size']} px images"] if results.study.get("size") else []
    low, high = lowest_budget(results), highest_budget(results)
    if low == low:
        first = real_images(results, results.names[0], low) if len(results.names) == 1 else None
        parts.append(
            (f"{percent(low)} to " if low < high else "")
            + f"{percent(high)} of the real data"
            + (f" (from {first} images)" if first and low < high else "")
        )
    others = [str(each["name"]) for each in results.study.get("backbones") or [] if isinstance(each, dict)][1:]
    backbones = f"{results.backbone} (answers and figures), {listed(others)}" if others else results.backbone
    return " · ".join(part for part in [*parts, backbones] if part)
