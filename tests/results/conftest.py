"""A made-up study: simulated predictions through the real pooling, contrasts and multiplier."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from results.claims import contrasts, replicates
from results.pooling import pool_seeds, pooled_rows
from results.tidy import Results, frame, join
from results.worth import multiplier_rows

BUDGETS = (0.01, 0.1, 1.0)
PLACEBOS = ("copies", "class_mean", "mixup")
BAD = "<b>x"
SETS = {
    "busi": ("Ultrasound", "Radiology", 3, 0.72, 0.25),
    "oct_amd": ("OCT", "Ophthalmology", 2, 0.83, -0.2),
    BAD: ("X-ray", "Radiology", 2, 0.78, 0.0),
    "phantom-ct": ("CT", "Radiology", 4, 0.8, 0.01),
}


class Fake:
    """Rows and predictions of a study with one failed cell."""

    def __init__(self, sets: dict[str, Any], seeds: int, images: int = 120) -> None:
        self.sets, self.seeds, self.images = sets, seeds, images
        self.rows: list[dict[str, Any]] = []
        self.kept: dict[str, dict[str, Any]] = {}
        for place, name in enumerate(sets):
            self._classify(name, place)
            self._fidelity(name, place)
            self._audit(name, place)
        last = next(iter(sets))
        self.rows.append(
            self._base(last, "classify", 0) | {"arm": "mixed", "budget": 0.01, "status": "failed", "metric": ""}
        )

    def _base(self, name: str, stage: str, seed: int) -> dict[str, Any]:
        kind, specialty, *_ = self.sets[name]
        shared = {
            "study": "made-up",
            "stage": stage,
            "dataset": name,
            "image_type": kind,
            "specialty": specialty,
        }
        return shared | {"seed": seed, "group": "all"}

    def _classify(self, name: str, place: int) -> None:
        classes, base, gain = self.sets[name][2:]
        rng = np.random.default_rng(place)
        labels = rng.integers(0, classes, self.images)
        groups = [f"p{i // 2}" for i in range(self.images)]
        hard = rng.normal(size=(self.images, classes))
        for b, budget in enumerate(BUDGETS):
            arms = [
                ("real", "", 0.0),
                ("synthetic", "generalist", gain - 0.06 * b),
                ("mixed", "generalist", gain / 2),
            ]
            arms += [("augmented", "generalist", gain * (2 - b) / 2)]
            arms += [("augmented", each, 0.004) for each in PLACEBOS if b == 0]
            for arm, generator, shift in arms:
                for seed in range(self.seeds):
                    strength = 4 * (base + 0.07 * b + shift - 0.5) + 0.12 * rng.normal()
                    scores = hard + 0.7 * rng.normal(size=hard.shape) + strength * np.eye(classes)[labels]
                    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
                    self._cell(name, arm, generator, budget, seed, labels, probabilities, groups)

    def _cell(self, name: str, arm: str, generator: str, budget: float, seed: int, *kept: Any) -> None:
        digest = f"{name}-{arm}-{generator}-{budget}-{seed}"
        self.kept[digest] = dict(zip(("labels", "probabilities", "groups"), kept, strict=True)) | {"task": "multiclass"}
        setting = {"arm": arm, "generator": generator, "budget": budget, "backbone": "resnet18", "share": 0.5}
        if arm == "real":
            setting["share"] = None
        setting |= {
            "ratio": 0.0 if arm == "real" else 1.0,
            "exposure": "full" if generator == "generalist" else "",
        }
        n_train = round(2700 * budget)
        row = self._base(name, "classify", seed) | setting | {"cell": digest, "n": self.images, "n_train": n_train}
        self.rows.append(row | {"metric": "auroc", "value": 0.5})

    def _fidelity(self, name: str, place: int) -> None:
        rng = np.random.default_rng(100 + place)
        values = {
            "generalist": 700,
            "real": 260,
            "class_mean": 1400,
            "copies": 255,
            "mixup": 380,
            "round_trip": 520,
        }
        for generator, level in values.items():
            for seed in range(self.seeds if generator == "generalist" else 1):
                row = self._base(name, "fidelity", seed) | {"generator": generator, "n": 200, "cell": "f"}
                value = level * (1 + 0.2 * place) + 20 * rng.normal()
                bounds = {"value": value, "low": value - 30, "high": value + 30}
                self.rows.append(row | {"metric": "frechet_efficientnet_lite0"} | bounds)
                kernel = {key: number / 9000 for key, number in bounds.items()}
                self.rows.append(row | {"metric": "kernel_efficientnet_lite0"} | kernel)
                similar = 0.2 + level / 6000 + 0.01 * rng.normal()
                self.rows.append(
                    row | {"metric": "ms_ssim", "value": similar, "low": similar - 0.02, "high": similar + 0.02}
                )

    def _audit(self, name: str, place: int) -> None:
        excess = 0.08 if place == 1 else 0.001
        for seed in range(self.seeds):
            row = self._base(name, "audit", seed) | {"generator": "generalist", "exposure": "full", "n": 400}
            metrics: dict[str, Any] = {
                "excess_copies": (excess, max(0, excess - 0.02), excess + 0.015),
                "tile_max_flagged": excess + 0.01,
                "tile_max_p": 0.001 if place == 1 else 0.6,
                "tile_max_level": 0.0099,
                "tile_max_threshold": 0.11,
                "patch_excess_copies": (excess / 2, 0.0, excess + 0.02),
                "patch_p": 0.4,
                "bank_share": (0.51, 0.46, 0.56),
                "bank_p": 0.3,
                "copies_called": excess / 2,
            }
            for metric, value in metrics.items():
                self.rows.append(row | {"metric": metric} | _numbers(value))
            for kind, power in (("exact", 1.0), ("round_trip", 0.95), ("flipped", 0.3)):
                power_row = {"metric": "tile_max_power", "group": f"planted={kind}"}
                self.rows.append(row | power_row | _numbers((power, max(0, power - 0.05), min(1, power + 0.03))))

    def load(self, cell: str) -> dict[str, Any]:
        return self.kept[cell]


def _numbers(value: Any) -> dict[str, Any]:
    return dict(zip(("value", "low", "high"), value, strict=True)) if isinstance(value, tuple) else {"value": value}


def study_of(sets: dict[str, Any], seeds: int) -> dict[str, Any]:
    return {
        "name": "made-up", "size": 32, "seeds": seeds, "datasets": list(sets), "margin": 0.01, "claims": None,
        "generators": {"generalist": {"train_on": "all", "seeds": "all"}}, "placebos": list(PLACEBOS),
        "backbones": [{"name": "resnet18"}], "waive": [], "audit_pool": 0.3,
        "classifier": {"steps": 100, "batch": 64},
        "grid": [{"arms": ["real", "augmented"], "budgets": list(BUDGETS), "exposure": ["full"]}],
    }  # fmt: skip


def card(name: str, sets: dict[str, Any]) -> dict[str, Any]:
    kind, specialty, classes, *_ = sets[name]
    labels = [f"class {k} & more" for k in range(classes)]
    return {
        "name": name, "image_type": kind, "specialty": specialty, "classes": labels, "licence": "CC BY 4.0",
        "citation": f"Somebody et al. 2020, {name}", "caveats": "official test split from another source",
        "phantom": name.startswith("phantom"), "n_train": 2700, "n_test": 120,
        "counts": {split: dict.fromkeys(labels, 30) for split in ("train", "validation", "test")},
        "reported": ["8 exact duplicates between train and validation"] if name == "busi" else [],
    }  # fmt: skip


def make(sets: dict[str, Any], seeds: int) -> Results:
    """A full study."""
    fake = Fake(sets, seeds)
    study = study_of(sets, seeds)
    cells = frame(fake.rows)
    mine = cells[cells["stage"] == "classify"]
    counts = replicates(study)
    pooled = pooled_rows(mine, fake.load, counts) + multiplier_rows(mine, fake.load, counts)
    pooled += pool_seeds(cells[cells["stage"] != "classify"])
    rng = np.random.default_rng(5)
    return Results(
        study=study,
        table=join(cells, frame(pooled)),
        claims=contrasts(mine, fake.load, study),
        datasets=[card(name, sets) for name in sets],
        costs=costs(sets),
        samples=[sample(rng, name, sets) for name in sets],
        neighbours=[neighbour(rng, name) for name in sets],
        distances=[distance(rng, name) for name in sets],
        manifest={
            "versions": {"augury": "0.1.0", "torch": "2.9"}, "seeds": list(range(seeds)), "digest": "abc123",
            "commands": ["augury run made-up", "augury report made-up"], "error": None,
        },
    )  # fmt: skip


def costs(sets: dict[str, Any]) -> pd.DataFrame:
    rows = [
        {"stage": stage, "dataset": name, "generator": "generalist" if stage == "train" else "",
         "exposure": "full" if stage in ("autoencoder", "train", "synthesize") else "",
         "seconds": 30.0 * (1 + len(stage)),
         "cell": f"{stage}{name}", "peak_memory_mb": 800.0 if stage == "train" else np.nan, "device": "cpu"}
        for stage in ("train", "classify", "audit") for name in sets
    ]  # fmt: skip
    return pd.DataFrame(rows)


def pictures(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def sample(rng: np.random.Generator, name: str, sets: dict[str, Any]) -> dict[str, Any]:
    caption = f"{sets[name][0]} image of a made-up finding, with a caption $x_1$ that is rather long, as many are"
    images = {"real": pictures(rng, 5), "synthetic": pictures(rng, 5)}
    return {"dataset": name, "image_type": sets[name][0], "captions": [caption] * 6, "seed": 0,
            "specialty": "Radiology", "generator": "generalist", **images}  # fmt: skip


def neighbour(rng: np.random.Generator, name: str) -> dict[str, Any]:
    images = {key: pictures(rng, 4) for key in ("synthetic", "nearest_train", "nearest_heldout")}
    distances = {
        "d_train": np.array([0.1, 0.12, 0.13, 0.15]),
        "d_heldout": np.array([0.13, 0.14, 0.12, 0.16]),
    }
    return {"dataset": name, "generator": "generalist", **images, **distances}


def distance(rng: np.random.Generator, name: str) -> dict[str, Any]:
    planted = {
        "exact": np.zeros(20),
        "round_trip": rng.gamma(9, 0.006, 20),
        "flipped": rng.gamma(20, 0.01, 20),
    }
    arrays = {"synthetic": rng.gamma(20, 0.01, 300), "heldout": rng.gamma(20, 0.0105, 150)}
    return {"dataset": name, "generator": "generalist", "planted": planted, "threshold": 0.11, **arrays}


def bare(seeds: int = 1) -> Results:
    """A study of real data alone that nothing came of yet."""
    empty = pd.DataFrame(
        columns=["stage", "dataset", "generator", "exposure", "cell", "seconds", "peak_memory_mb", "device"]
    )
    nothing = frame([])
    claims = contrasts(nothing, lambda cell: {}, {})
    study = {"name": "empty", "seeds": seeds, "datasets": ["busi"], "generators": {}, "size": 32}
    return Results(study, nothing, claims, [], empty, [], [], [], {})


@pytest.fixture(scope="session")
def results() -> Results:
    """Four sets, three seeds, a failed cell, a name that is HTML."""
    return make(SETS, 3)


@pytest.fixture(scope="session")
def empty() -> Results:
    """No rows at all."""
    return bare()
