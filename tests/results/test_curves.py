"""Figures that need more than one generator, readers or calibration: drawn where there is data, and with it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from classifiers.metrics import reliability
from results import curves
from results.figures import FIGURES, caption, draw, heat_map, rendered, tile_gaps, write_figure
from results.reader import page, reader_rows
from results.report import _source, render
from results.tables import TABLES
from results.tidy import Results, frame, join, records
from tests.results.test_reader import items, reader


@pytest.fixture(scope="module")
def rich(results: Results) -> Results:
    """The made-up study with a second generator that saw a quarter of the images, two readers and calibration."""
    given = results.study["generators"]["generalist"]
    generators = {"generalist": given | {"data_share": 1.0}, "quarter": given | {"data_share": 0.25}}
    table = results.table[results.table["generator"] == "generalist"]
    more = [row | {"generator": "quarter", "value": row["value"] * 1.2} for row in records(table)]
    _, key = page("made-up", items())
    read = frame(reader_rows(key, [reader(key, 0.7, seed) for seed in range(2)]))
    rng = np.random.default_rng(0)
    calibration = []
    for name in results.names:
        for arm, generator in (("real", ""), ("augmented", "generalist")):
            p = rng.dirichlet([1, 1, 1], 300)
            confidence, accuracy = reliability(rng.integers(0, 3, 300), p, "multiclass")
            keys = {"dataset": name, "arm": arm, "generator": generator, "budget": 0.01}
            calibration.append(keys | {"confidence": confidence, "accuracy": accuracy})
    costs = results.costs.assign(generator="generalist")
    costs = pd.concat([costs, costs.assign(generator="quarter", cell=costs["cell"] + "q")], ignore_index=True)
    return replace(
        results, study=results.study | {"generators": generators}, table=join(results.table, frame(more), read),
        calibration=calibration, costs=costs,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["ablations", "cost", "reader", "reliability"])
def test_drawn_only_where_there_is_data(name: str, rich: Results, results: Results, empty: Results) -> None:
    assert draw(name, results) is None and draw(name, empty) is None
    figure = draw(name, rich)
    assert figure is not None and len(rendered(figure, "png", name, "", caption(name, rich))) > 5000


def test_generators_are_compared_in_what_they_share(rich: Results) -> None:
    """Not by a class, nor by an exposure or a ratio that the other lacks."""
    every = rich.table["generator"].isin(["generalist", "quarter"])
    rich = replace(rich, table=rich.table.assign(exposure=rich.table["exposure"].where(~every, "full")))
    mine = rich.table[rich.table["generator"] == "generalist"]
    less = [row | {"exposure": "budget", "value": 9e9} for row in records(mine)]
    by_class = [row | {"group": "a class", "value": 9e9} for row in records(mine[mine["stage"] == "fidelity"])]
    more = [row | {"ratio": 4.0, "value": 9e9} for row in records(mine[mine["metric"] == "auroc_difference"])]
    for name in ("ablations", "cost"):
        found = [draw(name, replace(rich, table=join(frame([*less, *by_class, *more]), rich.table))), draw(name, rich)]
        shown = [[line.get_ydata() for axis in figure.axes for line in axis.lines] for figure in found if figure]
        assert len(shown) == 2 and all(np.array_equal(a, b) for a, b in zip(*shown, strict=True)), name


def test_bins_of_equal_mass_hold_everyone() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1], 3000)
    confidence, accuracy = reliability((rng.random(3000) < p[:, 1]).astype(np.int64), p, "multiclass")
    assert len(confidence) == 15 and (np.diff(confidence) >= 0).all()
    np.testing.assert_allclose(accuracy, confidence, atol=0.1)  # these probabilities are true


def test_the_page_holds_them(rich: Results, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("rich")
    render(rich, folder)
    text = (folder / "report" / "index.html").read_text()
    for name in ("ablations", "cost", "reader", "reliability"):
        assert FIGURES[name].title in text
    assert "What physicians saw" in text and (folder / "report" / "tables" / "readers.tex").stat().st_size > 100
    assert set(TABLES) == {file.stem for file in (folder / "report" / "tables").glob("*.csv")}


def test_the_page_stays_small_where_a_study_has_many_large_pictures(results: Results, tmp_path: Path) -> None:
    """Four sets, three generators, 224 px of noise, which nothing compresses."""
    rng = np.random.default_rng(0)
    rows = [{"dataset": f"d{i}", "generator": f"g{j}", "captions": ["a picture of noise"] * 4, "seed": 0,
             "real": rng.integers(0, 256, (4, 224, 224, 3), np.uint8), "image_type": "CT", "specialty": "radiology",
             "synthetic": rng.integers(0, 256, (4, 224, 224, 3), np.uint8)}
            for i in range(4) for j in range(3)]  # fmt: skip
    figure = draw("sample_grid", replace(results, samples=rows))
    assert figure is not None
    write_figure(figure, tmp_path, "sample_grid", "augury figure", "noise")
    source = _source(tmp_path, "sample_grid", dense=True)
    assert (tmp_path / "sample_grid.png").stat().st_size > 6_000_000, "ten would be more than a page may hold"
    assert source.startswith("data:image/jpeg") and len(source) < 2_500_000


def test_the_heat_map_is_dark_where_two_pictures_agree() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 100, (32, 32, 3), dtype=np.uint8)
    two = one.copy()
    two[:8, :8] = 255 - two[:8, :8]
    heat = heat_map(one, tile_gaps(one, two)).astype(int)
    assert heat.shape == (32, 32, 3) and heat[:8, :8].mean() > heat[8:, 8:].mean() + 60
    assert np.ptp(heat_map(one, tile_gaps(one, one))[..., 0] - 0.35 * one.mean(axis=2)) < 3


def test_a_sweep_of_sampling_is_drawn_with_a_line_for_each_number_of_steps(rich: Results) -> None:
    rows = [{"stage": "fidelity", "dataset": rich.names[0], "generator": "generalist", "exposure": "full",
             "group": "all", "metric": f"{metric}_x", "variant": variant, "value": value + place}
            for metric, value in (("frechet", 100.0), ("recall", 0.1))
            for place, variant in enumerate(("", "guidance=1", "guidance=5", "steps=5", "guidance=1;steps=5",
                                             "phrasing=unseen"))]  # fmt: skip
    study = rich.study | {"sampling": {"guidance": [2, 1, 5], "steps": [15, 5]}}
    figure = draw("sweep", replace(rich, table=frame(rows), study=study))
    assert figure is not None
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    assert [list(line.get_xdata()) for line in lines] == [[4.1, 3.1], [1.1, 0.1, 2.1]], "by guidance, at 5 and 15 steps"


def test_changes_of_another_generator_are_lines_of_their_own(rich: Results) -> None:
    given = rich.study["generators"]["generalist"]
    kinds: dict[str, dict[str, object]] = {"generalist": {}, "ten": {"caption_noise": 0.1}, "few": {"data_share": 0.25}}
    kinds |= {f"few-{noise}": {"data_share": 0.25, "caption_noise": noise} for noise in (0.1, 0.2)}
    study = rich.study | {"generators": {name: given | {"data_share": 1.0, "caption_noise": 0.0} | each
                                         for name, each in kinds.items()}}  # fmt: skip
    assert curves._ablated(replace(rich, study=study)) == {
        "caption_noise": [[("generalist", 0.0), ("ten", 0.1)], [("few", 0.0), ("few-0.1", 0.1), ("few-0.2", 0.2)]],
        "data_share": [[("few", 0.25), ("generalist", 1.0)]],
    }


def test_the_price_of_a_filter_is_drawn_for_a_sweep_of_it(rich: Results) -> None:
    table = rich.table[(rich.table["generator"] == "generalist") & rich.table["seed"].isna()]
    flagged = [row | {"stage": "audit", "metric": "embedding_flagged", "group": "all", "arm": "", "value": 0.05}
               for row in records(table.drop_duplicates("dataset"))]  # fmt: skip
    sweep = [row | {"variant": f"privacy={level}"} for row in [*records(table), *flagged] for level in (0.01, 0.2)]
    assert draw("strictness", rich) is None
    assert draw("strictness", replace(rich, table=join(rich.table, frame([*flagged, *sweep])))) is not None
