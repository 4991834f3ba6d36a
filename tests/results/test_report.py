"""The page, its tables and figures: whole, escaped, without nan, and the same twice."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from results.answers import answers
from results.claims import contrasts
from results.figures import FIGURES, draw
from results.pooling import pooled_rows
from results.report import render
from results.tables import TABLES, begun
from results.tidy import Results, frame, join
from results.wording import Comparison, latex, markdown, printed, write_table
from tests.results.conftest import bare

VOID = {"meta", "img", "br", "line", "ellipse"}


class Balanced(HTMLParser):
    """Checks that tags close in order; collects text, alternatives, links and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.attributes: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self.open else ""


@pytest.fixture(scope="module")
def folder(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    render(results, place)
    return place


def parsed(page: Path) -> Balanced:
    parser = Balanced()
    parser.feed(page.read_text())
    assert not parser.open
    return parser


def test_the_page_is_whole(folder: Path) -> None:
    page = parsed(folder / "report/index.html")
    ids = [a["id"] for _, a in page.attributes if a.get("id")]
    assert len(ids) == len(set(ids))
    links = [a["href"] or "" for tag, a in page.attributes if tag == "a"]
    assert all((folder / "report" / link).is_file() for link in links if not link.startswith("#"))
    assert all(link[1:] in ids for link in links if link.startswith("#"))
    images = [a for tag, a in page.attributes if tag == "img"]
    assert all((a["src"] or "").startswith("data:image/") and a["alt"] for a in images)
    assert not re.search(r"(src|href)=.?https?:", (folder / "report/index.html").read_text())
    for words in ("no clinical claim", "Failed or unfinished cells", "exact duplicates", "Provisional", "Memorising"):
        assert words in page.text
    assert "classify of busi, arm mixed" in page.text


def test_nothing_prints_nan_and_everything_is_escaped(folder: Path) -> None:
    page = parsed(folder / "report/index.html")
    assert not re.search(r"\b(nan|None|NaT|inf)\b|<NA>", page.text)
    assert "<b>x" in page.text and "<b>" not in (folder / "report/index.html").read_text()
    for file in sorted((folder / "report/tables").iterdir()):
        text = file.read_text()
        assert text and not re.search(r"\b(nan|None|NaN)\b|<NA>", text), file.name
        assert file.suffix != ".md" or "<b>" not in text


def test_every_table_and_figure_is_there(folder: Path) -> None:
    tables = {path.name for path in (folder / "report/tables").iterdir()}
    figures = {path.name for path in (folder / "report/figures").iterdir()}
    assert tables == {f"{name}.{kind}" for name in TABLES for kind in ("csv", "md", "tex")}
    absent = ("sweep", "predictors", "ablations", "cost", "reader", "reliability", "strictness")  # see test_curves.py
    drawn = [name for name in FIGURES if name not in absent]
    assert figures == {f"{name}.{kind}" for name in drawn for kind in ("png", "pdf", "svg")}
    svg = (folder / "report/figures/differences.svg").read_text()
    assert "augury figure differences made-up" in svg and "<dc:date>" not in svg
    assert b"augury figure differences" in (folder / "report/figures/differences.png").read_bytes()


def test_the_same_results_give_the_same_bytes(folder: Path, results: Results, tmp_path: Path) -> None:
    render(results, tmp_path)
    for path in sorted(folder.rglob("*.*")):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes(), path.name


def test_figures_are_drawn_again_where_something_changed(results: Results, empty: Results, tmp_path: Path) -> None:
    real = results.table[results.table["arm"] == "real"]
    small = dataclasses.replace(empty, table=frame(real.to_dict("records")), datasets=results.datasets)

    def times() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in (tmp_path / "report" / "figures").glob("*.svg")}

    render(small, tmp_path)
    first, whole = times(), (tmp_path / "report" / "index.html").read_bytes()
    render(small, tmp_path)
    assert first and times() == first and (tmp_path / "report" / "index.html").read_bytes() == whole
    (tmp_path / "report" / "figures" / "metric_by_budget.pdf").unlink()
    render(small, tmp_path)
    assert (tmp_path / "report" / "figures" / "metric_by_budget.pdf").is_file() and times() != first
    second = times()
    other = dataclasses.replace(small, table=small.table.assign(value=small.table["value"] * 0.9))
    render(other, tmp_path)
    assert all(times()[name] > second[name] for name in second)


def test_an_empty_study_says_so(empty: Results, tmp_path: Path) -> None:
    render(empty, tmp_path)
    page = parsed(tmp_path / "report/index.html")
    for words in (
        "No privacy audit was run",
        "cannot say if they help",
        "No times were recorded",
        "What it cost was not recorded",
    ):
        assert words in page.text
    assert not list((tmp_path / "report").glob("figures/*")) and not re.search(r"\bnan\b", page.text)
    assert all(draw(name, empty) is None for name in FIGURES)


def test_a_study_of_real_data_alone(results: Results, empty: Results, tmp_path: Path) -> None:
    real = results.table[results.table["arm"] == "real"]
    render(dataclasses.replace(empty, table=frame(real.to_dict("records")), datasets=results.datasets), tmp_path)
    assert {path.stem for path in (tmp_path / "report/figures").iterdir()} == {"metric_by_budget"}
    assert "no contrast" in parsed(tmp_path / "report/index.html").text


def test_five_sentences_for_each_outcome(results: Results) -> None:
    text = answers(results)
    assert len(text) == 5 and all(sentence.endswith(".") for sentence in text)
    outcomes = {
        "helped": "raised AUROC",
        "harmed": "they did harm",
        "equivalent": "a tie",
        "undecided": "decides nothing",
    }
    claims = results.claims[results.claims["dataset"] == "busi"]
    for verdict, words in outcomes.items():
        sentence = answers(dataclasses.replace(results, claims=claims.assign(verdict=verdict)))[0]
        assert words in sentence and "three seeds" in sentence and "27 real images" in sentence
        assert "duplicates of the same real images" in sentence


def test_exposure_is_told(results: Results) -> None:
    assert "no run limited it" in answers(results)[3]
    mine = results.claims[(results.claims["dataset"] == "busi") & (results.claims["budget"] == 0.01)]
    limited = mine[(mine["arm"] == "augmented") & (mine["generator"] == "generalist")].assign(
        exposure="budget", claim=False, family=""
    )
    claims = pd.concat([mine, limited])
    assert (
        "limited to this budget's images (here 27) the gain was"
        in answers(dataclasses.replace(results, claims=claims))[3]
    )


def test_another_dose_is_not_told_as_the_headlines(results: Results) -> None:
    mine = results.claims[(results.claims["dataset"] == "busi") & (results.claims["budget"] == 0.01)]
    own = mine[(mine["arm"] == "augmented") & (mine["generator"] == "generalist")]
    more = [own.assign(exposure=exposure, claim=False, family="", ratio=2.0, difference=gain, low=gain, high=gain)
            for exposure, gain in (("full", 0.031), ("budget", -0.005))]  # fmt: skip
    text = answers(dataclasses.replace(results, claims=pd.concat([mine, *more])))[3]
    assert "at ratio 2, the gain was busi \u22120.005" in text and "and busi +0.031" in text and "with all" in text


def test_a_setting_of_some_rows_is_no_setting_of_all() -> None:
    table = pd.DataFrame({"dataset": ["a", "b"], "budget": [0.1, float("nan")], "backbone": ["r", "r"], "n": [1, 2]})
    shown = printed(table, fold=True)
    assert shown.note == "backbone r" and "budget" in shown.headings


def test_a_row_says_where_a_part_had_seen_other_images(results: Results) -> None:
    table = TABLES["utility"](results)
    assert begun(results, table)["exposure"].tolist() == table["exposure"].tolist(), "ours has seen none"
    given = dataclasses.replace(results, study=results.study | {"autoencoder": "taesd"})
    found = set(begun(given, table)["exposure"])
    assert "full, begun from taesd" in found and found <= {"", "full, begun from taesd"}


def test_one_seed_has_the_patients_interval_and_says_so(results: Results) -> None:
    rows = results.table[(results.table["stage"] == "classify") & (results.table["seed"] == 0)]
    rows = rows[(rows["metric"] == "auroc") & (rows["dataset"] == "busi")]

    def load(cell: str) -> dict[str, object]:
        probabilities = [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]
        return {"labels": [0, 0, 1, 1], "probabilities": probabilities, "groups": None, "task": "multiclass"}

    claims = contrasts(rows, load, results.study)
    table = join(rows, frame(pooled_rows(rows, load)))
    one = dataclasses.replace(results, claims=claims, table=table)
    sentence = answers(one)[0]
    assert "one seed" in sentence and "one trained generator supports no claim" in sentence


def test_tables_in_words(tmp_path: Path) -> None:
    columns = ["dataset", "auroc", "auroc_low", "auroc_high", "budget", "variant"]
    rows = [["a_b|c", 0.91234, 0.9, 0.92, 0.01, ""], ["d", None, None, None, 1.0, ""]]
    table = pd.DataFrame(rows, columns=columns)
    cells = printed(table)
    assert cells.headings == ["data set", "AUROC (95 %)", "budget"]
    assert cells.rows == [["a_b|c", "0.912 (0.900 to 0.920)", "1\u00a0%"], ["d", "–", "100\u00a0%"]]
    assert "a_b\\|c" in markdown(cells) and r"a\_b|c" in latex(cells) and r"1~\%" in latex(cells)
    assert r"\toprule" in latex(cells) and "--" in latex(cells)
    paths = write_table(table, tmp_path, "t")
    assert paths[0].read_text().splitlines()[2] == "d,,,,1.0,"


def test_the_best_is_bold(results: Results) -> None:
    table = TABLES["utility"](results)
    text = markdown(printed(table))
    assert text.count("**") == 2 * 3 * len(table[table["auroc"].notna()].groupby(["dataset", "budget"]))


def test_ties_are_told_by_intervals_where_there_is_no_p() -> None:
    rows = [["d", "a", 5.0, 4.0, 6.0], ["d", "b", 5.5, 4.5, 6.5], ["d", "c", 9.0, 8.0, 10.0], ["d", "real", 1.0, 1, 1]]
    table = pd.DataFrame(rows, columns=["dataset", "generator", "frechet", "frechet_low", "frechet_high"])
    table.attrs["best"] = [Comparison("frechet", ["dataset"], True, frozenset({0, 1, 2}))]
    found = printed(table)
    assert found.best == {(0, 2)} and found.tied == {(1, 2)}


def test_a_setting_that_failed_is_a_row_of_dashes(results: Results) -> None:
    assert len(results.failed) == 1
    lost = TABLES["utility"](results).iloc[-1]
    assert (lost["dataset"], lost["arm"]) == ("busi", "mixed") and pd.isna(lost["auroc"])
    assert (TABLES["utility"](results)["seeds"].dropna() == 3).all()


def test_the_paper_column_stays_although_it_is_empty(results: Results) -> None:
    assert "paper" in printed(TABLES["claims"](results)).headings


@pytest.mark.parametrize(("arm", "words"), [("mixed", "replacing half by synthetic"), ("synthetic", "instead")])
def test_another_arm_answers_where_augmented_is_missing(results: Results, arm: str, words: str) -> None:
    claims = results.claims[results.claims["arm"] == arm].assign(family="", claim=False)
    found = answers(dataclasses.replace(results, claims=claims))
    assert words in found[0] and "had seen all training images" in found[3]


def test_published_values_stand_beside_ours_of_the_same_network_and_size() -> None:
    shared = {"stage": "classify", "dataset": "pneumoniamnist", "arm": "real", "budget": 1.0, "group": "all"}
    rows = [shared | {"backbone": name, "metric": metric, "value": 0.9}
            for name in ("resnet18", "resnet10t") for metric in ("auroc", "accuracy")]  # fmt: skip
    study = dataclasses.replace(bare(), study={"size": 28, "audit_pool": 0.0}, table=frame(rows))
    found = TABLES["published"](study)
    assert len(found) == 1
    assert found.iloc[0][["published_auroc", "published_accuracy", "auroc"]].tolist() == [0.944, 0.854, 0.9]
    assert TABLES["published"](dataclasses.replace(study, study={"size": 32})).empty
