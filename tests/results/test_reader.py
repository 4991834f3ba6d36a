"""The reader study: blinded page, driven by keys in Chromium; scores against closed forms and statsmodels."""

import json
import re
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.inter_rater import aggregate_raters
from statsmodels.stats.inter_rater import fleiss_kappa as reference

from classifiers.metrics import quadratic_kappa
from results.reader import Item, check, fleiss_kappa, page, reader_rows, weighted_kappa
from results.rules import realistic
from results.tidy import frame
from tests.results.conftest import bare
from tests.results.test_browser import chromium


def items(n: int = 6) -> list[Item]:
    rng = np.random.default_rng(0)
    picture = lambda: rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)  # noqa: E731
    real = [Item(picture(), f"x-ray </script> {i}", "real", f"set{i % 2}") for i in range(n)]
    return real + [Item(picture(), f"made {i}", "synthetic", f"set{i % 2}", "generalist") for i in range(n)]


def reader(key: dict[str, Any], right: float, seed: int, lower: int = 0) -> dict[str, Any]:
    """Answers that are right with a probability, and mark synthetic pictures lower."""
    rng = np.random.default_rng(seed)
    answers = {}
    ordered = sorted(key["items"].items(), key=lambda pair: (pair[1]["source"], pair[1]["prompt"]))
    for name, item in ordered:  # the page's own order is never the same
        wrong = {"real": "synthetic", "synthetic": "real"}[item["source"]]
        mark = int(rng.integers(3, 6)) - (lower if item["source"] == "synthetic" else 0)
        source = item["source"] if rng.random() < right else wrong
        answers[name] = {"source": source, "realism": mark, "agreement": mark}
    return {"token": key["token"], "reader": f"Dr {seed}", "answers": answers}


def test_page_is_blinded_and_the_order_is_random() -> None:
    text, key = page("made-up", items())
    content = text[text.index('id="content"') :]
    assert "generalist" not in text and "set0" not in text and "</script> 1" not in content
    sources = [item["source"] for item in key["items"].values()]
    assert sorted(sources) != sources and sources.count("real") == 6
    _, other = page("made-up", items())
    assert not set(key["items"]) & set(other["items"]), "names cannot be worked out"
    lengths = {len(uri) for uri in re.findall(r"data:image/png;base64,[^\"]+", text)}
    assert len(lengths) == 1, "nor does the length of a picture say anything"
    assert not re.search(r"(src|href)=\"https?:", text)


def test_answers_must_be_complete_and_belong_to_the_key() -> None:
    _, key = page("made-up", items())
    given = reader(key, 1.0, 1)
    check(key, given)
    with pytest.raises(ValueError, match="another reader study"):
        check(key, given | {"token": "x"})
    first = next(iter(key["items"]))
    given["answers"][first]["realism"] = 9
    with pytest.raises(ValueError, match="realism 9 given"):
        check(key, given)
    del given["answers"][first]
    with pytest.raises(ValueError, match="11 of 12"):
        check(key, given)


def test_scores_of_readers_who_know_and_who_guess() -> None:
    _, key = page("made-up", items(50))
    known = frame(reader_rows(key, [reader(key, 1.0, 1, lower=2), reader(key, 0.95, 2, lower=2)]))
    whole = known[(known["dataset"] == "") & (known["group"] == "all")].set_index("metric")
    assert whole.loc["reader_accuracy", "value"] > 0.9 and whole.loc["reader_accuracy", "low"] > 0.5
    assert whole.loc["reader_realism_gap", "value"] < -1.5
    assert whole.loc["reader_fleiss_kappa", "value"] > 0.8
    guessed = frame(reader_rows(key, [reader(key, 0.5, seed) for seed in range(3)]))
    whole = guessed[(guessed["dataset"] == "") & (guessed["group"] == "all")].set_index("metric")
    accuracy = whole.loc["reader_accuracy"]
    assert accuracy["low"] < 0.5 < accuracy["high"] and accuracy["n"] == 100
    assert whole.loc["reader_fleiss_kappa", "low"] < 0 < whole.loc["reader_fleiss_kappa", "high"]
    assert set(guessed["dataset"]) == {"", "set0", "set1"} and "reader=Dr 2" in set(guessed["group"])


def test_one_reader_has_the_pictures_interval() -> None:
    """Binomial for each source."""
    _, key = page("made-up", items(20))
    given = reader(key, 0.7, 3)
    rows = frame(reader_rows(key, [given]))
    row = rows[(rows["metric"] == "reader_accuracy") & (rows["dataset"] == "")].iloc[0]
    right = {source: np.mean([given["answers"][name]["source"] == source for name, item in key["items"].items()
                              if item["source"] == source]) for source in ("real", "synthetic")}  # fmt: skip
    half = 1.959964 * np.sqrt(sum(p * (1 - p) / 19 for p in right.values())) / 2
    assert row["value"] == pytest.approx(np.mean(list(right.values())))
    assert row["high"] - row["value"] == pytest.approx(half, rel=0.03)
    assert not rows["metric"].str.endswith("kappa").any()


def test_the_gap_is_welchs() -> None:
    _, key = page("made-up", items(30))
    rows = frame(reader_rows(key, [reader(key, 0.7, 4)]))
    row = rows[(rows["metric"] == "reader_realism_gap") & (rows["dataset"] == "")].iloc[0]
    given = reader(key, 0.7, 4)["answers"]
    real, made = ([given[name]["realism"] for name, item in key["items"].items() if item["source"] == source]
                  for source in ("real", "synthetic"))  # fmt: skip
    assert row["value"] == pytest.approx(np.mean(made) - np.mean(real))
    error = np.sqrt(np.var(made, ddof=1) / 30 + np.var(real, ddof=1) / 30)
    assert row["high"] - row["value"] == pytest.approx(1.959964 * error, rel=0.03)


def test_kappas_equal_the_references() -> None:
    rng = np.random.default_rng(0)
    said = (rng.random((4, 60)) < rng.random(60)).astype(float)
    assert fleiss_kappa(said) == pytest.approx(reference(aggregate_raters(said.T.astype(int))[0]))
    marks = np.clip(np.round(3 + rng.normal(size=60) + 0.7 * rng.normal(size=(2, 60))), 1, 5)
    one, two = (row.astype(int) - 1 for row in marks)
    assert weighted_kappa(marks) == pytest.approx(quadratic_kappa(one, two, 5))


@pytest.mark.parametrize(
    ("right", "lower", "verdict"), [(0.5, 0, "supported"), (1.0, 0, "contradicted"), (0.5, 2, "contradicted")]
)
def test_h2_is_judged_by_rule(right: float, lower: int, verdict: str) -> None:
    _, key = page("made-up", items(150))
    study = bare()
    study.__dict__["table"] = frame(reader_rows(key, [reader(key, right, seed, lower) for seed in range(5)]))
    assert realistic(study).verdict == verdict
    assert realistic(bare()).verdict.startswith("not tested")


DRIVE = """
<script>
const press = key => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
addEventListener("load", () => {
  if (!sessionStorage.getItem("driven")) {
    sessionStorage.setItem("driven", "1");
    document.getElementById("reader").value = "Dr X";
    document.getElementById("reader").dispatchEvent(new Event("input"));
    for (let i = 0; i < items.length; i++) {
      press("Enter");  // refused: nothing answered yet
      press(i % 2 ? "r" : "s"); press(String(1 + i % 5)); press(String((6 + i % 5) % 10)); press("Enter");
    }
    press("ArrowLeft");
    setTimeout(() => location.reload(), 500);
  } else if (!Object.keys(state.answers).length && sessionStorage.getItem("driven").length < 10) {
    // Virtual time runs ahead of the process that keeps the storage: look again before it is called lost.
    sessionStorage.setItem("driven", sessionStorage.getItem("driven") + "1");
    setTimeout(() => location.reload(), 500);
  } else {
    document.documentElement.dataset.probe = JSON.stringify({ given: collect(), place: state.place,
      bar: document.getElementById("bar").value, checked: document.querySelectorAll(":checked").length,
      wide: document.documentElement.scrollWidth <= innerWidth });
  }
});
</script>
"""


@pytest.mark.browser
def test_driven_by_keys_and_kept_over_a_closed_tab(tmp_path: Path) -> None:
    browser = chromium()
    text, key = page("made-up", items())
    file = tmp_path / "study.html"
    file.write_text(text.replace("</body>", f"{DRIVE}</body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--window-size=390,900"]
    done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = json.loads(unescape(re.search(r'data-probe="([^"]*)"', done.stdout).group(1)))  # type: ignore[union-attr]
    given = found["given"]
    check(key, given)
    assert given["reader"] == "Dr X" and found["bar"] == 12 and found["place"] == 10 and found["checked"] == 3
    first = given["answers"][next(iter(key["items"]))]
    assert (first["source"], first["realism"], first["agreement"]) == ("synthetic", 1, 1)
    assert given["answers"][list(key["items"])[4]]["agreement"] == 5 and found["wide"]


def test_who_always_says_the_same_is_at_chance_whatever_the_counts() -> None:
    _, key = page("made-up", [*items(20)[:10], *items(20)[20:]])  # 10 real, 20 synthetic
    for word in ("real", "synthetic"):
        given = {"token": key["token"], "answers": {
            name: {"source": word, "realism": 3, "agreement": 3} for name in key["items"]}}  # fmt: skip
        rows = frame(reader_rows(key, [given]))
        row = rows[(rows["metric"] == "reader_accuracy") & (rows["dataset"] == "")].iloc[0]
        assert row["value"] == 0.5
