"""Which rows: patient-grouped splits, the audit's coin, nested budgets, leaks; and the arms that train a classifier."""

import hashlib
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.datasets import Dataset, Split

Rows = NDArray[np.int64]
NEAR = 0.98  # correlation at 16 x 16 pixels
SAME = 0.995  # of mirror images at full size; between data sets, whose pictures resemble each other anyway, at 16 x 16
BLOCK = 2**25  # bytes of images at a time


def patients_of(split: Split) -> list[str]:
    """The patient of each image [N]; images equal pixel for pixel, or each other's mirror image, are one patient, and
    so are their patients."""
    names = split.groups or [f"image {i}" for i in range(len(split.images))]
    parent = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    first: dict[bytes, str] = {}
    for name, key in zip(names, pixel_keys(split.images), strict=True):
        a, b = root(first.setdefault(key, name)), root(name)
        parent[max(a, b)] = min(a, b)
    for one, two in mirrored_pairs(split.images, split.images):
        a, b = root(names[one]), root(names[two])
        parent[max(a, b)] = min(a, b)
    return [root(name) for name in names]


def pixel_keys(images: NDArray[np.uint8]) -> list[bytes]:
    """A hash of each image's pixels [N]."""
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]


def mirrored_pairs(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> Rows:
    """Rows (i, j) int64 [P, 2] where image i, left and right exchanged, is image j but for compression.

    Correlation above .995 at full size of the five best that correlate above .98 at 16 x 16; an image that is its own
    mirror image is no pair. Augmented copies of this kind are in public sets (half of one brain MR set).
    """
    found, small, step = [], thumbnails(others), max(1, BLOCK // images[0].size)
    for start in range(0, len(images), step):
        mirrored = np.ascontiguousarray(images[start : start + step, :, ::-1])
        likeness = thumbnails(mirrored) @ small.T
        best = np.argpartition(-likeness, min(5, len(others) - 1), axis=1)[:, :5]
        one, place = np.nonzero(np.take_along_axis(likeness, best, 1) > NEAR)
        two = best[one, place]
        for part in np.array_split(np.arange(len(one)), -(-len(one) // step)) if len(one) else []:
            same = (_unit(mirrored[one[part]]) * _unit(others[two[part]])).sum(1) > SAME
            found.append(np.stack([start + one[part][same], two[part][same]], 1))
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *found])
    return np.asarray(pairs[pairs[:, 0] != pairs[:, 1]] if images is others else pairs, np.int64)


def _unit(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images as centred rows of unit length, so that a product is a correlation."""
    rows = images.reshape(len(images), -1).astype(np.float32)
    rows -= rows.mean(1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), np.float32)


def flip_coin(patients: list[str], pool: float, name: str) -> tuple[Rows, Rows]:
    """Draw the audit pool (a share of the patients) and put each of its patients into training or held-out.

    Returns the rows of members and of non-members; the latter are kept from every trained part. The draw depends
    on the data set's name and its patients, not on any seed of the study: one coin for all replicates.
    """
    unique = sorted(set(patients))
    rng = np.random.default_rng(list(hashlib.sha256(f"coin {name}".encode()).digest()))
    drawn = rng.permutation(len(unique))[: round(pool * len(unique))]
    heads = rng.random(len(drawn)) < 0.5
    member = {unique[i] for i in drawn[heads]}
    held_out = {unique[i] for i in drawn[~heads]}
    rows = np.arange(len(patients))
    return rows[[p in member for p in patients]], rows[[p in held_out for p in patients]]


def entry_budgets(labels: NDArray[Any], patients: list[str], seed: int) -> NDArray[np.float64]:
    """The smallest budget that holds each image, float64 [N] in [0, 1); budget b is every image with entry <= b.

    Patients are shuffled within their stratum (class; rarest label of a multi-label image) and enter one after the
    other, each at the budget from which the stratum is nearer to its share with them than without; the first enters
    at 0, so that every budget has every class. Nested by construction: 1 % inside 5 % inside 100 %.
    """
    strata = _strata(labels)
    order = {name: i for i, name in enumerate(dict.fromkeys(patients))}
    patient = np.array([order[name] for name in patients])
    home = np.zeros(len(order), np.int64)
    home[patient[::-1]] = strata[::-1]  # a patient's first image decides
    size = np.bincount(patient, minlength=len(order))
    entry = np.zeros(len(order))
    rng = np.random.default_rng([seed, 7])
    for stratum in np.unique(home):
        members = rng.permutation(np.flatnonzero(home == stratum))
        after = np.cumsum(size[members])
        entry[members] = (after - size[members] / 2) / after[-1]
        entry[members[0]] = 0.0
    return np.asarray(entry[patient])


def budget_rows(entry: NDArray[np.float64], budget: float) -> Rows:
    """Rows of a budget in the order in which they enter, so that a smaller budget is a prefix."""
    order = np.argsort(entry, kind="stable")
    return np.asarray(order[entry[order] <= budget], np.int64)


def _strata(labels: NDArray[Any]) -> NDArray[np.int64]:
    if labels.ndim == 1:
        return labels.astype(np.int64)
    by_rarity = np.argsort(labels.sum(0), kind="stable")
    rank = np.where(labels[:, by_rarity] > 0, np.arange(labels.shape[1]), labels.shape[1])
    return np.asarray(rank.min(1), np.int64)


@dataclass(frozen=True)
class Finding:
    """What the leakage check found: `stops` says whether a study refuses to run on it unless waived."""

    kind: str
    count: int
    text: str
    stops: bool = False


def leakage(data: Dataset) -> list[Finding]:
    """Of the images as given: patients that splits share, and duplicates between train and test, stop a study; the rest
    is told."""
    found = []
    names = ("train", "validation", "test")
    keys = {name: pixel_keys(data.splits[name].images) for name in names}
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        groups = data.splits[a].groups, data.splits[b].groups
        if groups[0] and groups[1] and (shared := set(groups[0]) & set(groups[1])):
            text = f"{len(shared)} patients are in {a} and in {b}, for example {sorted(shared)[0]}"
            found.append(Finding("shared patient", len(shared), text, stops=True))
        seen = set(keys[a])
        if count := sum(key in seen for key in keys[b]):
            text = f"{count} {b} images equal a {a} image pixel for pixel"
            found.append(Finding("exact duplicate", count, text, stops=(a, b) == ("train", "test")))
    found += [*_within(data, keys), *_near(data)]
    return found


def _within(data: Dataset, keys: dict[str, list[bytes]]) -> list[Finding]:
    found = []
    for name, split in data.splits.items():
        labels: dict[bytes, set[bytes]] = {}
        for key, label in zip(keys[name], split.labels, strict=True):
            labels.setdefault(key, set()).add(label.tobytes())
        if repeats := len(keys[name]) - len(labels):
            found.append(Finding("repeated image", repeats, f"{repeats} {name} images repeat another one of {name}"))
        constant = int((split.images.reshape(len(split.images), -1).std(1) == 0).sum())
        if constant:
            found.append(Finding("constant image", constant, f"{constant} {name} images have one grey level only"))
    everywhere: dict[bytes, set[bytes]] = {}
    for name, split in data.splits.items():
        for key, label in zip(keys[name], split.labels, strict=True):
            everywhere.setdefault(key, set()).add(label.tobytes())
    if conflicts := sum(len(kinds) > 1 for kinds in everywhere.values()):
        found.append(Finding("label conflict", conflicts, f"{conflicts} pictures occur with different labels"))
    return found


def _near(data: Dataset) -> list[Finding]:
    small = {name: thumbnails(split.images) for name, split in data.splits.items()}
    exact = set(pixel_keys(data.splits["train"].images))
    keys = pixel_keys(data.splits["test"].images)
    best = np.concatenate([(part @ small["train"].T).max(1) for part in np.array_split(small["test"], 16) if len(part)])
    count = sum(bool(c > NEAR) and key not in exact for c, key in zip(best, keys, strict=True))
    mirrored = len(np.unique(mirrored_pairs(data.splits["test"].images, data.splits["train"].images)[:, 0]))
    texts = {"near duplicate": f"correlate above {NEAR} with a train image at 16 x 16",
             "mirrored duplicate": "are a train image with left and right exchanged"}  # fmt: skip
    return [Finding(kind, n, f"{n} of {len(best)} test images {text}")
            for (kind, text), n in zip(texts.items(), (count, mirrored), strict=True) if n]  # fmt: skip


def shared_images(sets: dict[str, list[NDArray[np.uint8]]]) -> list[Finding]:
    """Pictures that two data sets have in common, whatever the split; told, for names alone do not show it.

    sets: name -> images uint8 [N, H, W, 3] of each split.
    """
    found = []
    keys = {name: {key for images in parts for key in pixel_keys(images)} for name, parts in sets.items()}
    small = {name: np.concatenate([thumbnails(images) for images in parts]) for name, parts in sets.items()}
    for a, b in combinations(sets, 2):
        if count := len(keys[a] & keys[b]):
            found.append(Finding("shared image", count, f"{count} pictures are in {a} and in {b}, pixel for pixel"))
        best = np.concatenate([(part @ small[b].T).max(1) for part in np.array_split(small[a], 32) if len(part)])
        if (near := int((best > SAME).sum()) - count) > 0:
            text = f"{near} pictures of {a} correlate above {SAME} with one of {b} at 16 x 16"
            found.append(Finding("shared image", near, text))
    return found


def thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey 16 x 16 pictures as centred rows of unit length, so that a product is a correlation."""
    from PIL import Image

    grey = [
        np.asarray(Image.fromarray(image).convert("L").resize((16, 16), Image.Resampling.BOX), np.float32)
        for image in images
    ]
    return _unit(np.stack(grey))


ARMS = ("augmented", "mixed", "pretrained", "real", "real_double", "real_oversampled", "real_strong", "synthetic")


@dataclass(frozen=True)
class Mixture:
    """Rows of train, rows of the synthetic set, and the synthetic share of each batch in [0, 1]."""

    real: Rows
    synthetic: Rows
    share: float


def mixture(
    arm: str, budget: Rows, labels: NDArray[Any], rank: Rows, copy: Rows, ratio: float, share: float
) -> Mixture:
    """The rows of an arm at a budget.

    budget: rows of the train pool in the order in which they enter it; labels of all train rows.
    real_double is given the rows of twice the budget; pretrained sees its synthetic rows first, then its real ones.
    rank, copy int64 [M]: synthetic image i is the copy[i]-th one made for the rank[i]-th row of that order, with that
    row's label, so that a synthetic set has the class mix of the budget whose size it matches.
    """
    none = np.zeros(0, np.int64)
    if arm == "real_oversampled":
        return Mixture(oversampled(budget, labels), none, 0.0)
    if arm in ("real", "real_double", "real_strong"):
        return Mixture(budget, none, 0.0)
    if arm == "mixed":
        # Every second image of each class is replaced by a synthetic one of its label; a class's only image stays
        # real, and odd classes take turns in which half is the larger, so that no class is of one source alone.
        _, codes = np.unique(labels[budget], axis=0, return_inverse=True)
        replaced, turn = np.zeros(len(budget), bool), 1
        for code in range(int(codes.max()) + 1):
            own = np.flatnonzero(codes.reshape(-1) == code)
            if len(own) > 1:
                replaced[own[turn::2]] = True
                turn = 1 - turn if len(own) % 2 else turn
        chosen = np.flatnonzero((copy == 0) & (rank < len(budget)))
        chosen = chosen[replaced[rank[chosen]]]
        return Mixture(budget[~replaced], chosen, share)
    if arm in ("synthetic", "augmented", "pretrained"):
        chosen = ratio_rows(len(budget), rank, copy, ratio)
        return Mixture(none, chosen, 1.0) if arm == "synthetic" else Mixture(budget, chosen, share)
    raise ValueError(f"arm {arm!r} given; allowed: {', '.join(ARMS)}")


def oversampled(rows: Rows, labels: NDArray[Any]) -> Rows:
    """The rows, those of rarer classes repeated until every class (or combination of labels) is as frequent."""
    _, codes = np.unique(labels[rows], axis=0, return_inverse=True)
    codes = codes.reshape(-1)
    most = int(np.bincount(codes).max())
    return np.concatenate([np.resize(rows[codes == code], most) for code in range(codes.max() + 1)])


def ratio_rows(n: int, rank: Rows, copy: Rows, ratio: float) -> Rows:
    """rN synthetic images for the first n rows, at least one; a fractional last copy takes evenly spaced rows."""
    whole = int(ratio)
    extra = max(round((ratio - whole) * n), int(whole == 0))
    spaced = np.zeros(n, bool)
    if extra:
        spaced[np.round(np.linspace(0, n - 1, extra)).astype(int)] = True
    inside = rank < n
    partial = (copy == whole) & inside & spaced[np.minimum(rank, n - 1)]
    return np.flatnonzero(inside & (copy < whole) | partial)
