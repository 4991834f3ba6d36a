"""The audit as a measuring instrument, on real images: nothing to find, and copies planted in a known share.

Of one data set 600 images are the source of `synthetic` images that hold nothing of the rest; the rest is dealt anew
for every audit into bank and held-out, and for the kind "held out" into synthetic images too, so that all are
exchangeable. `make study` runs 500 audits at 73, 207 and 1,350 controls and prints what docs/results.md has; the small
test a few dozen.
"""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest

from privacy.audits import bank_control, call_copies, distance_ratio, query_control
from privacy.neighbours import tile_max_matrix

KINDS = ("held out", "held out, blurred", "mixup of held out", "class means")
M = 100  # synthetic images an audit


@dataclass(frozen=True)
class Sheet:
    """Distances float [images, rest] of each kind of synthetic images, and of the rest to itself."""

    kinds: dict[str, NDArray[np.float64]]
    rest: NDArray[np.float64]


@cache
def sheet(name: str, size: int) -> Sheet:
    from benchmark.datasets import Split, load
    from benchmark.splits import patients_of

    if not os.environ.get("AUGURY_DATA"):
        pytest.skip(f"needs $AUGURY_DATA/{name}")
    splits = load(name, 32).splits.values()
    images = np.concatenate([part.images for part in splits])
    labels = np.concatenate([part.labels for part in splits])
    patients = patients_of(Split(images, labels, None))  # a picture that occurs twice, or mirrored, is one patient
    _, first = np.unique(np.array(patients), return_index=True)
    order = np.random.default_rng(0).permutation(first)[: size + 600]
    images, labels = images[order], labels[order]
    source, rest = images[:600], images[600:]
    floats = source.astype(np.float64)
    pairs = np.random.default_rng(1).permutation(600)
    kinds = {
        "held out": source,
        "held out, blurred": np.rint(gaussian_filter(floats, (0, 1.2, 1.2, 0))),
        "mixup of held out": np.rint((floats + floats[pairs]) / 2),
        "class means": np.stack([floats[labels[:600] == label].mean(0) for label in labels[:600]])
        + np.random.default_rng(2).normal(0, 4, floats.shape),
    }
    as_images = {key: np.clip(np.rint(value), 0, 255).astype(np.uint8) for key, value in kinds.items()}
    return Sheet({key: tile_max_matrix(value, rest) for key, value in as_images.items()}, tile_max_matrix(rest, rest))


def audit(pages: Sheet, kind: str, controls: int, seed: int, planted: float = 0.0) -> dict[str, float]:
    """One audit: p of the query and of the bank control, share called by both, excess with its interval."""
    rng = np.random.default_rng([seed, controls])
    order = rng.permutation(len(pages.rest))
    fresh, heldout, bank = order[:M], order[M : M + controls], order[M + controls :]
    theirs = pages.kinds[kind]
    mine = pages.rest[fresh] if kind == "held out" else theirs[rng.permutation(len(theirs))[:M]]
    copies = rng.random(M) < planted
    originals = rng.choice(bank, M)
    mine = np.where(copies[:, None], pages.rest[originals], mine)  # a copy lies as its original does, at distance 0
    near, far = mine[:, bank].min(1), pages.rest[np.ix_(heldout, bank)].min(1)
    law = query_control(near, far)
    same = bank[rng.permutation(len(bank))[:controls]]
    groups = [f"{i}" for i in range(len(same))]
    bank_law = bank_control(mine[:, same], groups, mine[:, heldout], [f"h{i}" for i in range(controls)], seed)
    inside = pages.rest[np.ix_(heldout, heldout)].copy()
    np.fill_diagonal(inside, np.inf)
    ratios = distance_ratio(near, mine[:, heldout].min(1)), distance_ratio(far, inside.min(1))
    called = call_copies(near <= law["threshold"], *ratios)
    return {"p": law["p_value"], "bank_p": bank_law["p_value"], "called": float(called.mean()), "level": law["level"],
            "flagged": law["share"], "low": law["low"], "high": law["high"], "excess": law["excess"],
            "copies": float(copies.mean())}  # fmt: skip


def audits(
    name: str, kind: str, controls: int, runs: int, bank: int, planted: float = 0.0
) -> dict[str, NDArray[np.float64]]:
    pages = sheet(name, bank + controls + M)
    found = [audit(pages, kind, controls, seed, planted) for seed in range(runs)]
    return {key: np.array([each[key] for each in found]) for key in found[0]}


def judge(found: dict[str, NDArray[np.float64]], kind: str, runs: int) -> None:
    """Both conditions together call no more than the level; p values are uniform, or on the safe side of it."""
    noise = 3 * found["called"].std() / np.sqrt(runs)
    assert found["called"].mean() <= found["level"].mean() + noise
    assert kstest(found["bank_p"], "uniform", alternative="greater").pvalue > 0.001, "bank control too often small"
    if kind == "held out":  # uniform up to discreteness: at each p that occurs, just so many audits have it or less
        apart = [abs((found["p"] <= p).mean() - p) for p in np.unique(found["p"])]
        assert max(apart) < 1.95 / np.sqrt(runs), "Kolmogorov and Smirnov's distance at 0.1 %"


def drawn(found: dict[str, dict[str, NDArray[np.float64]]], name: str) -> None:
    """How often p lies below each level, for both controls, as a figure in $AUGURY_HOME/instrument."""
    from results.charts import panels
    from results.tidy import styled

    with styled():
        figure, axes = panels(2, 2, 4.2, 3.6)
        _curves(list(axes), found, name)
        folder = Path(os.environ["AUGURY_HOME"]) / "instrument"
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name.replace(' ', '-')}.png")


def _curves(axes: list[Any], found: dict[str, dict[str, NDArray[np.float64]]], name: str) -> None:
    from results.tidy import placed

    for axis, (key, title) in zip(axes, {"p": "query control", "bank_p": "bank control"}.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="#6b6f76", lw=1)
        for place, (kind, each) in enumerate(found.items()):
            heights, colour = [*np.linspace(0, 1, len(each[key]) + 1), 1], placed(place)[0]
            axis.step([0, *np.sort(each[key]), 1], heights, where="post", label=kind, color=colour)
        axis.set(title=f"{title}, {name}", xlabel="p", ylabel="share of audits with p or less")
    axes[1].legend()


@pytest.mark.study
@pytest.mark.parametrize(("controls", "bank"), [(73, 200), (207, 500), (1350, 3000)])
def test_nothing_to_find(controls: int, bank: int, capsys: pytest.CaptureFixture[str]) -> None:
    runs = 500
    found = {kind: audits("brain_mri", kind, controls, runs, bank) for kind in KINDS}
    with capsys.disabled():
        for kind, each in found.items():
            print(f"\n{kind}, {controls} controls, {runs} audits: level {each['level'].mean():.4f}, flagged "
                  f"{each['flagged'].mean():.4f}, called by both {each['called'].mean():.4f}; p <= .05: query "
                  f"{(each['p'] <= 0.05).mean():.3f}, bank {(each['bank_p'] <= 0.05).mean():.3f}")  # fmt: skip
    if os.environ.get("AUGURY_HOME"):
        drawn(found, f"{controls} controls")
    for kind, each in found.items():
        judge(each, kind, runs)


@pytest.mark.study
@pytest.mark.parametrize("planted", [0.01, 0.05, 0.2])
def test_a_planted_share_is_estimated(planted: float, capsys: pytest.CaptureFixture[str]) -> None:
    found = audits("brain_mri", "held out", 207, 500, 500, planted)
    covered = ((found["low"] <= found["copies"]) & (found["copies"] <= found["high"])).mean()
    with capsys.disabled():
        print(f"\nplanted {planted:.0%}: excess {found['excess'].mean():.4f}, interval covers {covered:.3f}, both "
              f"conditions call {found['called'].mean():.4f}")  # fmt: skip
    assert covered >= 0.94 and found["called"].mean() >= 0.9 * found["copies"].mean()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_find_on_a_small_scale(kind: str) -> None:
    judge(audits("bccd_cells", kind, 73, 40, 200), kind, 40)


def test_planted_copies_are_called_on_a_small_scale() -> None:
    found = audits("bccd_cells", "held out", 73, 30, 200, 0.2)
    assert ((found["low"] <= found["copies"]) & (found["copies"] <= found["high"])).mean() >= 0.85
    assert found["called"].mean() >= 0.9 * found["copies"].mean()


@pytest.mark.study
def test_every_kind_of_copy_is_found_by_some_measure(capsys: pytest.CaptureFixture[str]) -> None:
    """brain_mri at 64 px, 3,000 images in the bank: each kind found in at least 95 % at the 1 % level."""
    from functools import partial

    from benchmark.datasets import load
    from benchmark.splits import patients_of, thumbnails
    from benchmark.stages.audit import embedded
    from benchmark.stages.train import named_autoencoder
    from generators.autoencoders import round_trip
    from privacy.battery import Bank, audit

    if not os.environ.get("AUGURY_DATA"):
        pytest.skip("needs $AUGURY_DATA/brain_mri")
    train = load("brain_mri", 64).splits["train"]
    patients = np.array(patients_of(train))  # half of the images have a mirror image there
    place = {name: i for i, name in enumerate(np.random.default_rng(0).permutation(np.unique(patients)))}
    rows = np.argsort([place[name] for name in patients], kind="stable")

    def part(rows: NDArray[np.int64]) -> Bank:
        return Bank(train.images[rows], train.labels[rows], patients[rows].tolist())

    edge = 3000 + int((patients[rows[3000:]] == patients[rows[2999]]).sum())  # a patient stays whole
    bank, heldout, fresh = part(rows[:edge]), part(rows[edge:-200]), train.images[rows[-200:]]
    trip = partial(round_trip, named_autoencoder("augury"), 64)
    result = audit(fresh, bank, heldout, stride=0.25, embed=embedded, looks=thumbnails(bank.images), trip=trip)
    found: dict[str, dict[str, float]] = {}
    for row in result.rows:
        if row["metric"].endswith("_power"):
            found.setdefault(row["group"], {})[row["metric"].removesuffix("_power")] = row["value"]
    level = next(row["value"] for row in result.rows if row["metric"] == "tile_max_level")
    with capsys.disabled():
        print(f"\npower at level {level:.4f}, {len(set(heldout.patients))} held-out patients, bank {len(bank.images)}")
        for kind, by in found.items():
            print(f"{kind:26}", "  ".join(f"{name} {value:.0%}" for name, value in by.items()))
    copies = {kind: max(by.values()) for kind, by in found.items() if "same_patient" not in kind}  # those are no copies
    assert len(copies) == 10 and min(copies.values()) >= 0.95, copies


@pytest.mark.study
def test_everything_to_find(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A generator trained on 100 radiographs for 1,500 epochs: every measure must say so."""
    import json

    import yaml

    from benchmark.cache import Store
    from benchmark.plan import plan
    from benchmark.running import needed, run_cells
    from benchmark.study import load_study

    if not os.environ.get("AUGURY_DATA"):
        pytest.skip("needs $AUGURY_DATA/pneumoniamnist")
    study = {"name": "caught", "datasets": ["pneumoniamnist"], "arms": ["synthetic"], "budgets": [0.025], "seeds": 1,
             "exposure": ["budget"], "placebos": [], "generators": {"overfitted": {"images_seen": 150_000}},
             "grid": [{"ratios": [4]}]}  # fmt: skip
    (tmp_path / "caught.yaml").write_text(yaml.safe_dump(study))
    cells = plan(load_study(str(tmp_path / "caught.yaml")))
    store = Store(Path(os.environ.get("AUGURY_HOME") or tmp_path / "home"))  # so that a study of minutes resumes
    wanted = [*needed(cells, "audit"), *needed(cells, "membership")]
    assert not run_cells(list({cell.digest: cell for cell in wanted}.values()), store, "local", 1, lambda *told: None)
    found = {}
    for cell in (c for c in cells if c.stage in ("audit", "membership")):
        rows = json.loads((store.folder(cell) / "rows.json").read_text())
        found |= {row["metric"]: row for row in rows if row.get("group", "all") == "all"}
    with capsys.disabled():
        print()
        for name, row in found.items():
            print(f"{name:34} {row['value']:.4f}", f"({row['low']:.3f} to {row['high']:.3f})" if "low" in row else "")
    value = {name: row["value"] for name, row in found.items()}
    assert value["tile_max_p"] < 0.05 and found["excess_copies"]["low"] > 0, "query control, and both"
    assert value["bank_p"] < 0.05 and found["bank_share"]["low"] > 0.5, "bank control"
    assert value["authentic_difference"] < -0.05, "AuthPct"
    assert value["c_t_p"] < 0.05 and value["c_t"] < -2, "C_T"
    assert value["overfit_share"] > 0.05 + abs(value["overfit_share_heldout"]), "FLD"
    assert found["membership_auroc"]["low"] > 0.5, "membership; no coin made a budget's members, so there is no epsilon"
