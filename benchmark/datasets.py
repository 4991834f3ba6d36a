"""The `Dataset` record, the registry, and `load()`: a name or a path -> images, labels, groups, captions."""

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmark.cache import BadInput, sha256

SPLITS = ("train", "validation", "test")
IMAGE_TYPES = (
    "CT", "X-ray", "MRI", "Ultrasound", "Endoscopy", "Microscopy", "Fundoscopy", "OCT", "Dermoscopy", "Clinical image",
)  # fmt: skip
TASKS = ("multiclass", "multilabel", "ordinal")

# name: (image type, specialty, anatomy); classes, licence and counts come from the medmnist package.
MEDMNIST: dict[str, tuple[str, str, str]] = {
    "bloodmnist": ("Microscopy", "Pathology", "blood"),
    "breastmnist": ("Ultrasound", "Radiology", "breast"),
    "chestmnist": ("X-ray", "Radiology", "chest"),
    "dermamnist": ("Dermoscopy", "Dermatology", "skin"),
    "octmnist": ("OCT", "Ophthalmology", "retina"),
    "organamnist": ("CT", "Radiology", "abdomen"),
    "organcmnist": ("CT", "Radiology", "abdomen"),
    "organsmnist": ("CT", "Radiology", "abdomen"),
    "pathmnist": ("Microscopy", "Pathology", "colon"),
    "pneumoniamnist": ("X-ray", "Radiology", "chest"),
    "retinamnist": ("Fundoscopy", "Ophthalmology", "retina"),
    "tissuemnist": ("Microscopy", "Pathology", "kidney cortex"),
}
RETINA = tuple(f"{grade} diabetic retinopathy" for grade in ("no", "mild", "moderate", "severe", "proliferative"))
PHANTOM_VERSION = 1  # raised when the same seed draws other pictures
PHANTOMS = tuple(
    f"phantom-{kind}"
    for kind in (
        "ct", "x-ray", "mri", "ultrasound", "endoscopy", "microscopy", "fundoscopy", "oct", "dermoscopy",
        "clinical-image",
    )
)  # fmt: skip
SITE_2 = tuple(f"{name}-site2" for name in PHANTOMS)  # another hospital's images of the same findings


@dataclass(frozen=True)
class Card:
    """What a data set says about itself; the keys of its JSON card."""

    name: str
    classes: tuple[str, ...]
    image_type: str
    specialty: str = ""
    captions: tuple[str, ...] = ()
    task: str = "multiclass"
    licence: str = "not stated"
    citation: str = ""
    caveats: str = ""
    split: str = ""
    image_types: tuple[str, ...] = ()
    anatomy: str = ""  # what the images show, for captions: chest, retina, ...
    phantom: bool = False

    @classmethod
    def of(cls, facts: dict[str, Any]) -> "Card":
        """From the keys of its JSON; keys that a card does not know (counts, md5, ...) are left out."""
        known = {key: facts[key] for key in cls.__dataclass_fields__ if key in facts}
        values: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in known.items()}
        return cls(**values)


@dataclass(frozen=True)
class Split:
    """images uint8 [N, H, W, 3]; labels int64 [N] or uint8 [N, K]; groups, columns, captions: list[str] [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[Any]
    groups: list[str] | None = None
    columns: dict[str, list[str]] = field(default_factory=dict)
    captions: list[str] | None = None


@dataclass(frozen=True)
class Dataset:
    """A card, its splits (train, validation, test), where it came from and the sha256 of that."""

    card: Card
    splits: dict[str, Split]
    origin: str
    digest: str


def at_hand(reference: str) -> tuple[str, str]:
    """`a|b|c` -> the first of them that is here, and a line that says so where it is not the first; else ''.

    Raises BadInput where none is.
    """
    names = [name.strip() for name in reference.split("|")]
    for place, name in enumerate(names):
        try:
            locate(name) if name != "phantoms" else None
        except BadInput:
            if place == len(names) - 1:
                raise
            continue
        return name, f"{', '.join(names[:place])} not at hand; {name} stands for it" if place else ""
    raise AssertionError


def expand(references: list[str]) -> list[str]:
    """`phantoms` stands for the ten phantom sets; a set named twice is an error."""
    names = [name for ref in references for name in (PHANTOMS if ref == "phantoms" else (ref,))]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise BadInput(f"datasets: {sorted(twice)[0]!r} is named twice")
    return names


def locate(reference: str) -> Path | None:
    """The file or folder behind a reference, or None for a phantom. Raises BadInput for what is nowhere."""
    root = os.environ.get("AUGURY_DATA")
    if root and "/" not in reference and (Path(root) / reference / f"{reference}.npz").is_file():
        return Path(root) / reference / f"{reference}.npz"
    if reference in PHANTOMS or reference in SITE_2:
        return None
    if reference in MEDMNIST:
        file = medmnist_root() / f"{reference}.npz"
        if not file.is_file():
            raise BadInput(
                f"data set {reference!r} is not at {file}; `augury data download {reference}` fetches it "
                "from the MedMNIST project, or set MEDMNIST_ROOT to a folder that has it"
            )
        return file
    path = Path(reference)
    if path.exists():
        return path
    known = ", ".join(["phantoms", *PHANTOMS, *MEDMNIST])
    raise BadInput(f"data set {reference!r} is neither a path nor a name under $AUGURY_DATA nor one of: {known}")


def medmnist_root() -> Path:
    """Where MedMNIST files lie: $MEDMNIST_ROOT or ~/.medmnist."""
    return Path(os.environ.get("MEDMNIST_ROOT") or Path.home() / ".medmnist")


def digest(reference: str, phantom_images: int, size: int) -> str:
    """A fingerprint of the bytes behind a reference; for phantoms of what is drawn."""
    path = locate(reference)
    if path is None:
        from benchmark.phantoms import LARGEST, SMALLEST

        if not SMALLEST <= size <= LARGEST:
            raise BadInput(f"size: {size} given; allowed for phantoms: {SMALLEST} to {LARGEST} px")
        return f"phantom-{PHANTOM_VERSION}-{phantom_images}-{size}"
    if path.is_file() and path.suffix == ".npz":
        card = path.with_suffix(".json")
        return sha256(path) + (sha256(card) if card.is_file() else "")
    return fingerprint(path)


def fingerprint(path: Path, files: list[Path] | None = None) -> str:
    """The sha256 over relative names and contents of these files, by default all that a folder or CSV consists of."""
    from benchmark.sources import files_of

    total, root = hashlib.sha256(), path if path.is_dir() else path.parent
    for file in files_of(path) if files is None else files:
        total.update(f"{os.path.relpath(file, root)} {sha256(file)}".encode())
    return total.hexdigest()


def load(reference: str, size: int | None = None, phantom_images: int = 2000) -> Dataset:
    """Load a data set by name or path; images become uint8 RGB, square and of `size` pixels a side when given."""
    path = locate(reference)
    if path is None:
        return _phantom(reference, size or 64, phantom_images)
    from benchmark import sources

    card = _medmnist_card(reference) if reference in MEDMNIST and not path.with_suffix(".json").is_file() else None
    if path.is_dir():
        read = sources.read_folder(path, size)
    elif path.suffix == ".csv":
        read = sources.read_csv(path, size)
    elif path.suffix == ".npz":
        read = sources.read_npz(path, size, card)
    else:
        raise BadInput(f"data set {reference!r}: expected a folder, a .csv or a .npz file")
    _check(*read)
    return Dataset(*read, origin=str(path), digest=digest(reference, phantom_images, size or 0))


def _phantom(name: str, size: int, images: int) -> Dataset:
    """Train, validation (a tenth) and test (a quarter, at least 200) of a phantom, from three disjoint draws."""
    from benchmark import phantoms

    kind, site = name.removesuffix("-site2"), 2 if name in SITE_2 else 1
    card = Card.of(phantoms.card(kind) | {"phantom": True, "name": name})
    splits = {}
    for seed, (split, n) in enumerate(
        {"train": images, "validation": max(100, images // 10), "test": max(200, images // 4)}.items()
    ):
        drawn = phantoms.draw(kind, n, size, seed, site)
        splits[split] = Split(drawn.images, drawn.labels, drawn.patients, {"sex": drawn.sex})
    return Dataset(card, splits, "phantoms", digest(name, images, size))


def _medmnist_card(name: str) -> Card:
    from medmnist import INFO

    info, (image_type, specialty, anatomy) = INFO[name], MEDMNIST[name]
    kind = info["task"]
    task = "multilabel" if "multi-label" in kind else "ordinal" if "ordinal" in kind else "multiclass"
    graded = RETINA if name == "retinamnist" else ()  # which medmnist calls 0 to 4
    return Card(
        name=name,
        classes=graded or tuple(info["label"][key] for key in sorted(info["label"], key=int)),
        image_type=image_type,
        specialty=specialty,
        anatomy=anatomy,
        captions=tuple(f"fundoscopy image of the retina with {grade}" for grade in graded),
        task=task,
        licence=info["license"],
        citation="Yang J. et al., MedMNIST v2, Scientific Data 10:41, 2023",
        split="official MedMNIST v2",
    )


def _check(card: Card, splits: dict[str, Split]) -> None:
    """Every class has a training image, labels fit the classes, no split is empty."""
    for name in SPLITS:
        if name not in splits or len(splits[name].images) == 0:
            raise BadInput(f"data set {card.name}: no {name} images")
        split = splits[name]
        if split.labels.ndim == 1 and (split.labels.min() < 0 or split.labels.max() >= len(card.classes)):
            low, high = split.labels.min(), split.labels.max()
            raise BadInput(
                f"data set {card.name}: {name} labels run from {low} to {high}, "
                f"but there are {len(card.classes)} classes"
            )
    for label, count in class_counts(card, splits["train"].labels).items():
        if count == 0:
            raise BadInput(f"data set {card.name}: class {label!r} has no training image")
    if len(card.classes) < 2 and card.task != "multilabel":
        raise BadInput(f"data set {card.name}: one class ({card.classes[0]!r}); at least two are needed")


def identity(reference: str) -> dict[str, str]:
    """dataset, image_type and specialty as the tidy table has them, without reading any image."""
    from benchmark.sources import card_facts

    path = locate(reference)
    if path is None:
        from benchmark.phantoms import PHANTOMS as phantoms

        kind = phantoms[reference.removesuffix("-site2")]
        return {"dataset": reference, "image_type": kind.image_type, "specialty": kind.specialty}
    beside = path / "card.json" if path.is_dir() else path.with_suffix(".json")
    facts = card_facts(beside)
    if not beside.is_file() and reference in MEDMNIST:
        facts = dict(zip(("image_type", "specialty", "anatomy"), MEDMNIST[reference], strict=True))
    return {
        "dataset": facts.get("name", path.stem),
        "image_type": facts.get("image_type", "Clinical image"),
        "specialty": facts.get("specialty", ""),
    }


DETAILS = ("label", "type", "full")
NOTHING = "no finding"
NEGATIVE = re.compile(
    r"normal\b(?![ -](pressure|tension)).*|healthy\b.*|negative|none|no[ _].*|notumou?r"
)  # what a class of nothing is called
SPELLED = 4  # other classes at most that a class without a finding names as absent
PHRASINGS: dict[str, list[str]] = yaml.safe_load((Path(__file__).parent / "phrasings.yaml").read_text("utf-8"))
UNSEEN = len(PHRASINGS["full"]) - 1  # place of the phrasing that no generator is trained on


def phrase(card: Card, label: Any, detail: str = "full", phrasing: int = 0) -> str:
    """The caption of one image; label: a class number, or the 0/1 vector [K] of a multi-label set."""
    chosen = [int(label)] if np.ndim(label) == 0 else [int(i) for i in np.flatnonzero(label)]
    names = [card.classes[i] for i in chosen] or [NOTHING]
    kind = card.image_types[chosen[0]] if card.image_types and chosen else card.image_type
    place = f"{kind.lower()} picture of the {card.anatomy}" if card.anatomy else f"{kind.lower()} picture"
    words = {"label": " and ".join(names), "type": kind.lower(), "place": place, "full": sentence(card, chosen)}
    return PHRASINGS[detail][phrasing].format(**words)


def sentence(card: Card, chosen: list[int]) -> str:
    """The card's own caption, further labels joined; else image type, anatomy and finding. What a class that means
    nothing was found lacks is spelled out."""
    kind = card.image_types[chosen[0]] if card.image_types and chosen else card.image_type
    names = [card.classes[i] for i in chosen]
    lead = f"{kind.lower()} image" + (f" of the {card.anatomy}" if card.anatomy else "")
    text = f"{lead} showing {' and '.join(names)}" if names else f"{lead} with {NOTHING}"
    if names and card.captions:
        text = " and ".join([card.captions[chosen[0]], *names[1:]])
    spelled = any(word in f" {text.lower()} " for word in (" no ", " without "))
    if len(names) != 1 or not NEGATIVE.fullmatch(names[0].lower()) or (card.captions and spelled):
        return text
    others = [name for name in card.classes if not NEGATIVE.fullmatch(name.lower())]
    absent = f"no {' or '.join(others)}" if 0 < len(others) <= SPELLED else NOTHING
    return f"{text} with {absent}" if card.captions else f"{names[0].lower()} {lead} with {absent}"


def wordings(
    card: Card, labels: NDArray[Any], own: list[str] | None = None, *, detail: str = "full", phrasings: int = 1,
    noise: float = 0.0, seed: int = 0,
) -> list[tuple[str, ...]]:  # fmt: skip
    """Of each image [N] the first `phrasings` of PHRASINGS, of which training draws one whenever it sees the image.

    own: the source's captions, alone where full and not blank. noise: share of images with a caption of another label.
    """
    rng, (codes, kinds) = np.random.default_rng([seed, len(labels)]), label_codes(labels)
    source = np.arange(len(labels))
    for code in np.unique(codes[wrong := rng.random(len(labels)) < noise]):
        mine, others = np.flatnonzero(wrong & (codes == code)), np.flatnonzero(codes != code)
        source[mine] = rng.choice(others, len(mine)) if len(others) else mine
    known = [tuple(phrase(card, kind, detail, place) for place in range(phrasings)) for kind in kinds]
    said = [own[place] if own and detail == "full" else "" for place in source.tolist()]
    return [(text,) if text.strip() else known[code] for text, code in zip(said, codes[source], strict=True)]


def captions(
    card: Card, labels: NDArray[Any], own: list[str] | None = None, *, detail: str = "full", phrasings: int = 1,
    seed: int = 0,
) -> list[str]:  # fmt: skip
    """One of the wordings of each image [N], drawn by seed."""
    which = np.random.default_rng([seed, len(labels), 1]).integers(0, phrasings, len(labels))
    found = wordings(card, labels, own, detail=detail, phrasings=phrasings)
    return [texts[place % len(texts)] for texts, place in zip(found, which.tolist(), strict=True)]


def label_name(card: Card, label: Any) -> str:
    """The class of a label, or its classes joined by ` + `; `no finding` where a multi-label image has none."""
    chosen = [int(label)] if np.ndim(label) == 0 else np.flatnonzero(label).tolist()
    return " + ".join(card.classes[i] for i in chosen) or NOTHING


def label_codes(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Labels [N] or [N, K] -> (code int64 [N], the label of each code), so that combinations act as classes."""
    kinds, codes = np.unique(labels, axis=0, return_inverse=True)
    return codes.reshape(-1).astype(np.int64), kinds


def class_counts(card: Card, labels: NDArray[Any]) -> dict[str, int]:
    """How many images have each class; labels as a Split's."""
    counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(card.classes))
    return dict(zip(card.classes, counts.tolist(), strict=True))
