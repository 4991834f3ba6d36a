"""Finished cells -> tidy table -> tables, figures, report. Knows files; what is computed is computed by `results`."""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.cache import BadInput, Cell, Record, Store, write_json
from benchmark.datasets import class_counts
from benchmark.running import versions
from benchmark.splits import shared_images
from benchmark.stages import split, synthesize
from benchmark.stages.audit import by_search
from benchmark.stages.classify import attacked_rows
from benchmark.study import Study
from classifiers.metrics import per_class, reliability, score
from results.claims import contrasts, replicates
from results.figures import FIGURES, NEEDS, caption, command, draw, write_figure
from results.opinions import opinion_rows
from results.pooling import inside, pool_seeds, pool_sets, pooled_rows
from results.reader import reader_rows
from results.report import render
from results.statistics import Jackknives
from results.tidy import Results, frame, records, write
from results.worth import dose_rows, multiplier_rows

COSTS = (
    "stage", "dataset", "generator", "exposure", "arm", "budget", "seed", "cell", "seconds", "cpu_seconds",
    "images", "peak_memory_mb", "gpu_memory_mb", "device",
)  # fmt: skip
SHOWN = 6  # images of a set in the sample grid


def write_report(study: Study, store: Store, cells: list[Cell]) -> int:
    """Write everything under <home>/<study>/ from finished cells alone; returns how many cells are missing."""
    return Reporter(study, store, cells).write()


def redraw(name: str, study: Study, store: Store, cells: list[Cell]) -> Path:
    """Draw one figure again; returns the folder that holds it."""
    if name not in FIGURES:
        raise BadInput(f"figure {name!r} given; allowed: {', '.join(FIGURES)}")
    reporter = Reporter(study, store, cells)
    results = reporter.results()
    figure = draw(name, results)
    if figure is None:
        raise BadInput(f"figure {name}: the study has nothing to draw it from; it needs {NEEDS.get(name, 'cells')}")
    folder = reporter.folder / "report" / "figures"
    write_figure(figure, folder, name, command(name, study.name), caption(name, results))
    return folder


class Reporter:
    """Collects one study's finished cells."""

    def __init__(self, study: Study, store: Store, cells: list[Cell]) -> None:
        self.study, self.store, self.cells = study, store, cells
        self.folder = store.home / study.name
        cells = [cell for cell in cells if not cell.config.get("keep")]  # a filter's judge is no arm of the study
        self.done = [cell for cell in cells if store.record(cell) is not None]
        self.missing = [cell for cell in cells if store.record(cell) is None]
        self.by_digest = {cell.digest: cell for cell in cells}
        self.prepared = lru_cache(None)(lambda digest: split.read(store.verify(self.by_digest[digest])))

    def write(self) -> int:
        results = self.results()
        self.folder.mkdir(parents=True, exist_ok=True)
        write(results.table, self.folder)
        results.costs.to_csv(self.folder / "costs.csv", index=False, lineterminator="\n")
        write_json(self.folder / "manifest.json", results.manifest)
        render(results, self.folder)
        return len(self.missing)

    def results(self) -> Results:
        """Everything that tables, figures and the page show."""
        own = frame([*self.cell_rows(), *self.failed_rows()])
        cells, load = own[own["metric"] == "auroc"], Jackknives(self.load)
        resolved = self.study.model_dump(mode="json")
        generators = replicates(resolved)
        claims = contrasts(cells, load, resolved)
        pooled = [*pooled_rows(cells, load, generators), *multiplier_rows(cells, load, generators)]
        pooled += [*dose_rows(cells, load, pooled, generators), *opinion_rows(cells, load, claims, generators)]
        others = own["stage"].isin(["synthesize", "train", "fidelity", "audit", "membership"])
        others |= own["metric"].str.startswith("classifier_membership")
        alike = pool_seeds(own[others | own["group"].str.contains("=", regex=False)])
        pooled += [*alike, *pool_sets(alike)]
        return Results(
            study=resolved,
            table=frame([*records(own), *(row | {"study": self.study.name} for row in pooled), *self.reader_rows()]),
            claims=claims,
            datasets=list(self.datasets()),
            costs=pd.DataFrame(self.costs(), columns=[*COSTS]),
            samples=list(self.samples()),
            neighbours=list(self.neighbours()),
            distances=list(self.distances()),
            manifest=self.manifest(),
            calibration=list(self.calibration()),
        )

    def of(self, stage: str) -> list[Cell]:
        return [cell for cell in self.done if cell.stage == stage]

    def keys(self, cell: Cell) -> Record:
        about = {key: value for key, value in cell.about.items() if value is not None}
        return about | {"study": self.study.name, "stage": cell.stage, "cell": cell.digest}

    def cell_rows(self) -> Iterator[Record]:
        for cell in self.of("classify"):
            yield from self.classifier_rows(cell)
        for cell in self.of("synthesize"):
            facts = json.loads((self.store.verify(cell) / "facts.json").read_text())
            for name, value in facts.items():
                yield self.keys(cell) | {"group": "all", "metric": f"filter_{name}", "value": value}
        yield from self.private_rows()
        yield from self.attack_rows()
        for cell in (*self.of("fidelity"), *self.of("audit"), *self.of("membership")):
            for row in json.loads((self.store.verify(cell) / "rows.json").read_text()):
                keys = self.keys(cell) | {key: value for key, value in row.items() if value != ""}
                ends = [end for end in ("low", "high") if keys.get(end) is not None]
                yield {"group": "all"} | keys | {end: inside(row["metric"], keys[end]) for end in ends}

    def private_rows(self) -> Iterator[Record]:
        """The accountant's epsilon and delta of generators trained with differential privacy."""
        for cell in (cell for cell in self.of("train") if not cell.config.get("outside_pool")):
            facts = json.loads((self.store.verify(cell) / "loss.json").read_text())
            for name in ("dp_epsilon", "dp_delta"):
                if name in facts:
                    yield self.keys(cell) | {"group": "all", "metric": name, "value": facts[name]}

    def attack_rows(self) -> Iterator[Record]:
        """Membership of the coin's patients, told from the classifiers of every arm that kept what it needs."""
        arms: dict[str, dict[int, Cell]] = {}
        for cell in (cell for cell in self.of("classify") if cell.config.get("attacked")):
            own = {key: value for key, value in cell.about.items() if key != "seed"}
            arms.setdefault(json.dumps(own, sort_keys=True), {})[int(cell.about["seed"])] = cell
        features = [cell for cell in self.of("features") if cell.config["of"] == "bank"]
        banks = {cell.inputs["split"].digest: self.store.verify(cell) for cell in features}
        for cells in arms.values():
            digest = next(iter(cells.values())).inputs["split"].digest
            prepared, used, pools = self.prepared(digest), {}, {}
            for seed, cell in cells.items():
                with np.load(self.store.verify(cell) / "predictions.npz", allow_pickle=False) as arrays:
                    pools[seed] = arrays["pool"]
                share = cell.config["budget"] * (2 if cell.config["arm"] == "real_double" else 1)
                used[seed] = prepared.budget(share, seed)
                if cell.about.get("exposure") == "full":
                    trained = cell.inputs["synthesize"].inputs["train"]
                    used[seed] = np.union1d(used[seed], split.seen_rows(prepared, trained.config))
            for seed, rows in attacked_rows(prepared, pools, used, banks.get(digest)).items():
                yield from (self.keys(cells[seed]) | row for row in rows)

    def reader_rows(self) -> list[Record]:
        """What physicians answered, where they were asked."""
        kept = self.folder / "readers"
        if not (kept / "key.json").is_file():
            return []
        answers = [json.loads(file.read_text()) for file in sorted(kept.glob("answers-*.json"))]
        rows = reader_rows(json.loads((kept / "key.json").read_text()), answers)
        return [row | {"study": self.study.name} for row in rows]

    def classifier_rows(self, cell: Cell) -> Iterator[Record]:
        """All metrics over the test set, by class, and AUROC by every column of the data set."""
        prepared = self.prepared(cell.inputs["split"].digest)
        labels, task, probabilities = prepared.test.labels, prepared.card.task, self.probabilities(cell)
        facts = json.loads((self.store.folder(cell) / "training.json").read_text())
        keys = self.keys(cell) | {"n_train": facts["n_real"], "n": len(labels)}
        for metric, value in score(labels, probabilities, task).items():
            yield keys | {"group": "all", "metric": metric, "value": value}
        for metric, values in per_class(labels, probabilities, task).items():
            for name, value in zip(prepared.card.classes, values, strict=True):
                yield keys | {"group": name, "metric": metric, "value": float(value)}
        with np.load(self.store.verify(cell) / "predictions.npz", allow_pickle=False) as arrays:
            value = score(prepared.validation.labels, arrays["validation"], task)["auroc"]
        yield keys | {"group": "all", "metric": "validation_auroc", "value": value}
        for group, truth, found in self.further_tests(cell):
            for metric, value in score(truth, found, task).items():
                yield keys | {"group": group, "metric": metric, "value": value, "n": len(truth)}
        for column, entries in prepared.test.columns.items():
            for entry in sorted(set(entries)):
                rows = np.flatnonzero(np.array(entries) == entry)
                value = score(labels[rows], probabilities[rows], task)["auroc"]
                yield keys | {"group": f"{column}={entry}", "metric": "auroc", "value": value, "n": len(rows)}

    def further_tests(self, cell: Cell) -> Iterator[tuple[str, NDArray[Any], NDArray[np.float64]]]:
        """Corrupted and external test images: group, labels, probabilities."""
        labels = self.prepared(cell.inputs["split"].digest).test.labels
        with np.load(self.store.verify(cell) / "predictions.npz", allow_pickle=False) as arrays:
            for group in (name for name in arrays.files if "=" in name):
                if group.startswith("external="):
                    labels = split.read_external(self.store.verify(cell.inputs["external"]))[1].labels
                yield group, labels, np.asarray(arrays[group], np.float64)

    def failed_rows(self) -> Iterator[Record]:
        for cell in self.missing:
            if cell.stage in ("classify", "fidelity", "audit", "membership"):
                yield self.keys(cell) | {"group": "all", "status": "failed"}

    def probabilities(self, cell: Cell) -> NDArray[np.float64]:
        with np.load(self.store.verify(cell) / "predictions.npz", allow_pickle=False) as arrays:
            return np.asarray(arrays["test"], np.float64)

    def load(self, digest: str) -> Record:
        """What the statistics need of one classifier: labels, probabilities, groups, task, classes."""
        cell = self.by_digest[digest]
        prepared = self.prepared(cell.inputs["split"].digest)
        return {
            "labels": prepared.test.labels, "probabilities": self.probabilities(cell),
            "groups": prepared.test.groups, "task": prepared.card.task, "classes": prepared.card.classes,
        }  # fmt: skip

    def costs(self) -> Iterator[Record]:
        """A row a cell, a filter's judge too; a decoder that generators share is a row of each that needs it."""
        told: set[tuple[str, str]] = set()
        for cell in self.cells:
            about = {key: cell.about.get(key, "") for key in COSTS[1:7]}
            for part in (cell, cell.inputs["autoencoder"]) if cell.stage == "train" else (cell,):
                record, key = self.store.record(part), (part.digest, str(about["generator"]))
                if record is not None and key not in told:
                    told.add(key)
                    yield {key: record.get(key) for key in COSTS} | about | {
                        "stage": part.stage, "cell": part.digest, "images": self.images_trained_on(part),
                    }  # fmt: skip

    def images_trained_on(self, cell: Cell) -> int | None:
        """Images that training saw, repeats counted; None for a stage that trains nothing."""
        if cell.stage == "train":
            seen = json.loads((self.store.verify(cell) / "loss.json").read_text()).get("images_seen")
            return None if seen is None else int(seen)
        if cell.stage == "classify":
            return int(cell.config["steps"] * cell.config["batch"])
        return int(cell.config.get("images_seen") or 0) or None if cell.stage == "autoencoder" else None

    def manifest(self) -> Record:
        return {
            "study": self.study.name,
            "commands": self.commands(),
            "seeds": list(range(self.study.seeds)),
            "versions": versions(),
            "cells": {cell.digest: cell.stage for cell in self.cells},
            "shared_images": self.shared_images(),
            "finished": len({cell.digest for cell in self.cells if self.store.record(cell)}),
            "missing": {cell.digest: self.store.error(cell) or "not run" for cell in self.missing},
        }

    def commands(self) -> list[str]:
        """The command by which the study was run last, and the one that redraws its report."""
        file = self.folder / "command.json"
        given = json.loads(file.read_text())["command"] if file.is_file() else f"augury run {self.study.name}"
        return [given, f"augury report {self.study.name}"]

    def shared_images(self) -> list[str]:
        """Pictures that sets have in common, where a generator learns from several; phantoms share none."""
        if not any(each.trained and each.train_on != "each" for each in self.study.generators.values()):
            return []
        own = {str(cell.about["dataset"]): cell for cell in self.of("split") if not cell.config.get("external")}
        parts = {name: self.prepared(cell.digest) for name, cell in own.items() if not name.startswith("phantom-")}
        found = shared_images({key: [p.train.images, p.validation.images, p.test.images] for key, p in parts.items()})
        return [finding.text for finding in found]

    def datasets(self) -> Iterator[Record]:
        for cell in (cell for cell in self.of("split") if not cell.config.get("external")):
            folder, prepared = self.store.verify(cell), self.prepared(cell.digest)
            card = json.loads((folder / "card.json").read_text())
            leaks = json.loads((folder / "leaks.json").read_text())
            parts = ("train", "validation", "test")
            counts = {name: class_counts(prepared.card, getattr(prepared, name).labels) for name in parts}
            yield card | {
                "counts": counts,
                "reported": [leak["text"] + (" (waived)" if leak["stops"] else "") for leak in leaks],
                "n_train": len(prepared.kept),
                "n_heldout": len(prepared.heldout),
                "n_test": len(prepared.test.images),
            }

    def first(self, stage: str) -> list[Cell]:
        """An audit, or a set of a generator trained here, each data set and generator: of the fullest exposure."""
        found: dict[tuple[str, str], Cell] = {}
        for cell in self.of(stage):
            if (stage == "audit" or "train" in cell.inputs) and not cell.about.get("variant"):
                key = (cell.about["dataset"], cell.about["generator"])
                found[key] = min(found.get(key, cell), cell, key=synthesize.fullest_first)
        return list(found.values())

    def calibration(self) -> Iterator[Record]:
        """Confidence and share right of real and augmented at the lowest budget, first backbone, over all seeds."""
        arms: dict[tuple[str, str, str], dict[tuple[float, float], list[Cell]]] = {}
        first = next(iter(self.study.generators), "")
        for cell in self.of("classify"):
            about = cell.about
            plain = about["backbone"] == self.study.backbones[0].name and not about.get("variant")
            own = about["arm"] == "real" or (about["arm"] == "augmented" and about.get("generator") == first)
            if plain and own and about["budget"] == self.study.budgets[0] and about.get("exposure") in (None, "full"):
                key = (str(about["dataset"]), str(about["arm"]), str(about.get("generator") or ""))
                dose = (about.get("ratio") or 0.0, about.get("share") or 0.0)
                arms.setdefault(key, {}).setdefault(dose, []).append(cell)
        for (dataset, arm, generator), doses in arms.items():
            kept = [self.load(cell.digest) for cell in doses[min(doses)]]  # one dose, as in the headline
            labels, found = (np.concatenate([each[key] for each in kept]) for key in ("labels", "probabilities"))
            confidence, accuracy = reliability(labels, found, str(kept[0]["task"]))
            yield {"dataset": dataset, "arm": arm, "generator": generator, "budget": self.study.budgets[0],
                   "confidence": confidence, "accuracy": accuracy}  # fmt: skip

    def samples(self) -> Iterator[Record]:
        for cell in self.first("synthesize"):
            prepared, drawn = self.prepared(cell.inputs["split"].digest), synthesize.read(self.store.verify(cell))
            rng = np.random.default_rng(0)
            chosen = rng.permutation(len(drawn.images))[:SHOWN]
            real = [_like(prepared, drawn.labels[i], rng) for i in chosen]
            yield {
                "dataset": cell.about["dataset"], "image_type": cell.about["image_type"],
                "specialty": cell.about["specialty"], "generator": cell.about["generator"],
                "captions": [drawn.captions[i] for i in chosen], "real": prepared.train.images[real],
                "synthetic": drawn.images[chosen], "seed": cell.about["seed"],
            }  # fmt: skip

    def neighbours(self) -> Iterator[Record]:
        for cell in self.first("audit"):
            with np.load(self.store.verify(cell) / "pairs.npz", allow_pickle=False) as arrays:
                for each in by_search({key: arrays[key] for key in arrays.files}):
                    yield _about(cell) | each

    def distances(self) -> Iterator[Record]:
        for cell in self.first("audit"):
            with np.load(self.store.verify(cell) / "distances.npz", allow_pickle=False) as arrays:
                planted = {key: arrays[key] for key in arrays.files if key.startswith("planted_")}
                yield _about(cell) | {
                    "synthetic": arrays["synthetic"], "heldout": arrays["heldout"],
                    "threshold": float(arrays["threshold"][0]),
                    "planted": {key.removeprefix("planted_"): values for key, values in planted.items()},
                }  # fmt: skip


def _about(cell: Cell) -> Record:
    return {name: cell.about[name] for name in ("dataset", "generator", "seed")}


def _like(prepared: split.Prepared, label: Any, rng: np.random.Generator) -> int:
    """A random kept train row with this label."""
    labels = prepared.train.labels[prepared.kept]
    same = (labels == label).all(1) if labels.ndim == 2 else labels == label
    return int(rng.choice(prepared.kept[same]))
