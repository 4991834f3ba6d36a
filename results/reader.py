"""The reader study (MediSyn's H2): one offline page for physicians, and what their answers say."""

import base64
import hashlib
import io
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from scipy import stats

from results.pooling import Row
from results.statistics import Estimate, Floats, paired

SCALES = ("realism", "agreement")  # 1 to 5, better high
SOURCES = ("real", "synthetic")


@dataclass(frozen=True)
class Item:
    """One picture of the study: uint8 [H, W, 3], its prompt, where it came from."""

    image: npt.NDArray[np.uint8]
    prompt: str
    source: str  # real | synthetic
    dataset: str
    generator: str = ""


def page(study: str, items: Sequence[Item]) -> tuple[str, dict[str, Any]]:
    """The HTML for readers, and the key that stays with the investigator.

    Names and order come from the system's own randomness, so that nobody can work them out from the page; pictures are
    stored without compression, so that their length says nothing.
    """
    shown, key = [], {}
    for item in secrets.SystemRandom().sample(list(items), len(items)):
        name = secrets.token_hex(6)
        shown.append({"id": name, "prompt": item.prompt, "image": _png(item.image)})
        key[name] = {"source": item.source, "dataset": item.dataset, "generator": item.generator, "prompt": item.prompt}
    token = hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]
    environment = Environment(loader=PackageLoader("results", "."), autoescape=True, undefined=StrictUndefined)
    content = json.dumps({"token": token, "items": shown}).replace("<", "\\u003c")
    text = environment.get_template("reader.html.j2").render(study=study, content=content, n=len(items))
    return text, {"study": study, "token": token, "items": key}


def _png(image: npt.NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=0)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def check(key: Mapping[str, Any], answers: Mapping[str, Any]) -> None:
    """Raise ValueError, saying what is wrong, where a file of answers does not fit the key or is not complete."""
    if answers.get("token") != key["token"]:
        raise ValueError(
            f"it belongs to another reader study (token {answers.get('token')!r}, expected {key['token']!r})"
        )
    given = answers.get("answers", {})
    allowed: dict[str, tuple[Any, ...]] = {"source": SOURCES} | dict.fromkeys(SCALES, (1, 2, 3, 4, 5))
    for name, question in ((name, question) for name in key["items"] for question in allowed):
        value = given.get(name, {}).get(question)
        if value is None:
            done = sum(all(given.get(each, {}).get(q) is not None for q in allowed) for each in key["items"])
            raise ValueError(f"{done} of {len(key['items'])} images are answered in full; all are needed")
        if value not in allowed[question]:
            raise ValueError(f"{question} {value!r} given; allowed: {', '.join(map(str, allowed[question]))}")


def reader_rows(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The key and the complete answers of one or more readers -> tidy rows of stage `reader`, over all and by data set.

    `reader_accuracy` of each reader and of all: the mean of the shares right of either source, so that chance is .5;
    `reader_realism` and `reader_agreement` by source and their `_gap`, synthetic minus real; from two readers up
    `reader_fleiss_kappa` of real or synthetic and `reader_realism_kappa`, `reader_agreement_kappa` (quadratic weights,
    mean over pairs). Intervals: readers as seeds and images as patients (Obuchowski-Rockette-Hillis); of kappa from a
    jackknife over images.
    """
    datasets = sorted({item["dataset"] for item in key["items"].values()})
    rows: list[Row] = []
    for dataset in ["", *(datasets if len(datasets) > 1 else [])]:
        names = [name for name, item in key["items"].items() if dataset in ("", item["dataset"])]
        shared = {"stage": "reader", "dataset": dataset, "n": len(names)}
        rows += [shared | row for row in _rows(key, answers, names)]
    return rows


def _rows(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], names: list[str]) -> list[Row]:
    synthetic = np.array([key["items"][name]["source"] == "synthetic" for name in names])
    said = np.array([[each["answers"][name]["source"] == "synthetic" for name in names] for each in answers])
    rows = [_accuracy(said == synthetic, synthetic, "all")]
    for place, each in enumerate(answers if len(answers) > 1 else []):
        rows.append(_accuracy(said[[place]] == synthetic, synthetic, f"reader={each.get('reader') or place + 1}"))
    for scale in SCALES:
        marks = np.array([[float(each["answers"][name][scale]) for name in names] for each in answers])
        for source, chosen in (("real", ~synthetic), ("synthetic", synthetic)):
            if chosen.any():
                rows.append(_row(f"reader_{scale}", f"source={source}", _mean(marks, chosen)))
        if synthetic.any() and not synthetic.all():
            rows.append(_row(f"reader_{scale}_gap", "all", _sources(marks, synthetic, 1.0, -1.0)))
        if len(answers) > 1:
            rows.append({"metric": f"reader_{scale}_kappa", "group": "all"} | _jackknifed(weighted_kappa, marks))
    if len(answers) > 1:
        rows.append({"metric": "reader_fleiss_kappa", "group": "all"} | _jackknifed(fleiss_kappa, said.astype(float)))
    return rows


def _accuracy(right: npt.NDArray[np.bool_], synthetic: npt.NDArray[np.bool_], group: str) -> Row:
    """bool [readers, images]; where every answer is right, or every one wrong, Clopper and Pearson's over images."""
    row = _row("reader_accuracy", group, _sources(right.astype(np.float64), synthetic, 0.5, 0.5))
    if right.all() or not right.any():
        ends = stats.binomtest(right.shape[1] * int(right.all()), right.shape[1]).proportion_ci()
        row |= {"low": float(ends.low), "high": float(ends.high)}
    return row


def _row(metric: str, group: str, estimate: Estimate) -> Row:
    return {"metric": metric, "group": group, "value": estimate.value, "low": estimate.low, "high": estimate.high}


def _mean(marks: Floats, chosen: npt.NDArray[np.bool_]) -> Estimate:
    """Marks [readers, images] -> the mean over the chosen images."""
    kept = marks[:, chosen]
    left = (kept.sum(axis=1, keepdims=True) - kept) / max(1, kept.shape[1] - 1)
    return paired(kept.mean(axis=1), left)


def _sources(marks: Floats, synthetic: npt.NDArray[np.bool_], of_synthetic: float, of_real: float) -> Estimate:
    """Weighted sum of the means over either source; leaving an image out changes the mean of its own source."""
    if synthetic.all() or not synthetic.any():
        return _mean(marks, np.ones(len(synthetic), dtype=bool))
    made, real = (marks[:, chosen].mean(axis=1, keepdims=True) for chosen in (synthetic, ~synthetic))
    n = np.where(synthetic, synthetic.sum(), (~synthetic).sum())
    change = (np.where(synthetic, made, real) - marks) / np.maximum(1, n - 1)
    value = of_synthetic * made + of_real * real
    return paired(value[:, 0], value + np.where(synthetic, of_synthetic, of_real) * change)


def fleiss_kappa(said: Floats) -> float:
    """Two-way answers 0 or 1, [readers, images] -> Fleiss' kappa (1971); NaN where all said the same of everything."""
    readers = len(said)
    ones = said.sum(axis=0)
    agree = (ones * (ones - 1) + (readers - ones) * (readers - ones - 1)) / (readers * (readers - 1))
    share = float(said.mean())
    chance = share**2 + (1 - share) ** 2
    return float((agree.mean() - chance) / (1 - chance)) if chance < 1 else float("nan")


def weighted_kappa(marks: Floats) -> float:
    """Marks [readers, images] -> mean over pairs of readers of Cohen's kappa with quadratic weights (1968)."""
    found = []
    for a, b in combinations(marks, 2):
        expected = a.var() + b.var() + (a.mean() - b.mean()) ** 2
        found.append(1 - float(((a - b) ** 2).mean()) / expected if expected > 0 else float("nan"))
    return float(np.mean(found))


def _jackknifed(kappa: Any, marks: Floats) -> Row:
    n, value = marks.shape[1], kappa(marks)
    left = np.array([kappa(np.delete(marks, i, axis=1)) for i in range(n)])
    half = 1.959964 * float(np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum()))
    return {"value": value, "low": value - half, "high": min(1.0, value + half)}
