"""Load one data set at the study's size, check it for leaks, flip the audit's coin."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import datasets
from benchmark.cache import BadInput, Record, write_json
from benchmark.datasets import Card, Split
from benchmark.splits import Finding, Rows, budget_rows, entry_budgets, flip_coin, leakage, patients_of


@dataclass(frozen=True, eq=False)
class Prepared:
    """A finished split cell: card, splits, and the rows of train that are kept, members, held out."""

    card: Card
    train: Split
    validation: Split
    test: Split
    kept: Rows
    members: Rows
    heldout: Rows
    patients: list[str]  # of train

    @property
    def pool(self) -> Rows:
        """Rows of train of the patients for whom the coin was flipped."""
        return np.union1d(self.members, self.heldout)

    def budget(self, budget: float | None, seed: int | None) -> Rows:
        """Rows of train in the order in which they enter the budget; None = all that are kept."""
        if budget is None:
            return self.kept
        labels, patients = self.train.labels[self.kept], [self.patients[i] for i in self.kept]
        return self.kept[budget_rows(entry_budgets(labels, patients, seed or 0), budget)]

    def captions(self, rows: Rows) -> list[str] | None:
        """The source's own captions of rows of train, where it has them."""
        given = self.train.captions
        return [given[i] for i in rows] if given else None

    def validation_budget(self, budget: float, seed: int) -> Rows:
        """Rows of validation as small a share of it as the budget is of train, at least one image a class."""
        labels = self.validation.labels
        patients = self.validation.groups or [str(i) for i in range(len(labels))]
        return budget_rows(entry_budgets(labels, patients, seed), budget)


def seen_rows(prepared: Prepared, config: Record) -> Rows:
    """Rows of train that a generator of this config may see: a budget, a share of all that is kept, or all; a
    reference model's without the audit's members."""
    if config.get("outside_pool"):
        seen = seen_rows(prepared, {key: value for key, value in config.items() if key != "outside_pool"})
        return np.asarray(seen[~np.isin(seen, prepared.members)])
    if config["budget"] is None and config.get("data_share", 1.0) < 1:
        return prepared.budget(config["data_share"], config["seed_of_model"])
    return prepared.budget(config["budget"], config["seed"])


def run_split(config: Record, inputs: dict[str, Path], folder: Path) -> None:
    """Writes arrays.npz, train_images.npy (which may be memory-mapped), card.json, leaks.json."""
    if config.get("external"):
        return _external(config, read(inputs["split"]), folder)
    reference = config["reference"]
    path = datasets.locate(reference)
    native = datasets.load(reference, config["size"] if path is None else None, config["phantom_images"])
    found = leakage(native)
    stops = [finding for finding in found if finding.stops]
    if stops and not config["waived"]:
        raise BadInput(
            f"data set {native.card.name}: {stops[0].text}; `waive: [{native.card.name}]` runs it all the same", code=1
        )
    # Patients come from the pixels as given: two pictures must not become one by being made smaller.
    patients, data = patients_of(native.splits["train"]), native
    if path is not None:
        side = min(native.splits["train"].images.shape[1:3])
        if side < config["size"]:
            found.append(Finding("enlarged", side, f"pictures of {side} px, which were enlarged to {config['size']}"))
        del native, data  # large, and not needed beside the smaller ones
        data = datasets.load(reference, config["size"])
    members, heldout = flip_coin(patients, config["audit_pool"], data.card.name)
    kept = np.setdiff1d(np.arange(len(patients)), heldout)
    left = datasets.class_counts(data.card, data.splits["train"].labels[kept])
    if lost := next((name for name, count in left.items() if count == 0), None):
        raise BadInput(
            f"data set {data.card.name}: holding out an audit pool of {config['audit_pool']:.0%} leaves class {lost!r} "
            "without a training image; lower audit_pool (0 turns the audit off)"
        )
    arrays: dict[str, Any] = {
        "kept": kept,
        "members": members,
        "heldout": heldout,
        "patients": np.array(patients),
    }
    for name, split in data.splits.items():
        arrays |= {f"{name}_labels": split.labels} | ({} if name == "train" else {f"{name}_images": split.images})
        if split.captions:
            arrays[f"{name}_captions"] = np.array(split.captions)
        if split.groups:
            arrays[f"{name}_groups"] = np.array(split.groups)
        arrays |= {f"{name}_column_{key}": np.array(values) for key, values in split.columns.items()}
    np.savez(folder / "arrays.npz", **arrays)
    np.save(folder / "train_images.npy", data.splits["train"].images)
    facts = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(data.card).items()}
    mapped = data.splits["train"].images.nbytes > config["image_memory_mb"] * 2**20
    write_json(folder / "card.json", facts | {"origin": path.name if path else "phantoms", "mapped": mapped})
    write_json(folder / "leaks.json", [asdict(finding) for finding in found])


def read(folder: Path) -> Prepared:
    """Read a finished split cell."""
    facts = json.loads((folder / "card.json").read_text())
    card = Card.of(facts)
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        mode: Any = "r" if facts["mapped"] else None
        images = {"train": np.load(folder / "train_images.npy", mmap_mode=mode, allow_pickle=False)}
        images |= {name: arrays[f"{name}_images"] for name in ("validation", "test")}
        splits = {name: _read_split(arrays, name, each) for name, each in images.items()}
        return Prepared(
            card, splits["train"], splits["validation"], splits["test"], arrays["kept"], arrays["members"],
            arrays["heldout"], [str(name) for name in arrays["patients"]],
        )  # fmt: skip


def _external(config: Record, own: Prepared, folder: Path) -> None:
    """Every image of another site, labelled by the classes of the set that it tests; none of them may be in train."""
    path = datasets.locate(config["reference"])
    other = datasets.load(config["reference"], config["size"], config["phantom_images"])
    missing = set(other.card.classes) - set(own.card.classes)
    if missing or other.card.task != own.card.task:
        raise BadInput(
            f"external: {other.card.name} has class {sorted(missing)[0]!r}, which {own.card.name} has not"
            if missing else f"external: {other.card.name} is {other.card.task}, {own.card.name} {own.card.task}"
        )  # fmt: skip
    splits = list(other.splits.values()) if path else [other.splits["test"]]
    images, labels = np.concatenate([s.images for s in splits]), np.concatenate([s.labels for s in splits])
    place = [own.card.classes.index(name) for name in other.card.classes]
    if labels.ndim == 2:
        moved = np.zeros((len(labels), len(own.card.classes)), np.uint8)
        moved[:, place] = labels
    else:
        moved = np.array(place, np.int64)[labels]
    shared = {image.tobytes() for image in own.train.images} & {image.tobytes() for image in images}
    if shared:
        raise BadInput(f"external: {len(shared)} images of {other.card.name} are in train of {own.card.name}", code=1)
    np.savez(folder / "arrays.npz", images=images, labels=moved)
    write_json(folder / "card.json", {"name": other.card.name})


def read_external(folder: Path) -> tuple[str, Split]:
    """Another site's name and its images and labels."""
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        return json.loads((folder / "card.json").read_text())["name"], Split(arrays["images"], arrays["labels"])


def _read_split(arrays: Any, name: str, images: NDArray[np.uint8]) -> Split:
    groups, captions = (
        arrays[f"{name}_{key}"].tolist() if f"{name}_{key}" in arrays else None for key in ("groups", "captions")
    )
    prefix = f"{name}_column_"
    columns = {key.removeprefix(prefix): arrays[key].tolist() for key in arrays.files if key.startswith(prefix)}
    return Split(images, arrays[f"{name}_labels"], groups, columns, captions)
