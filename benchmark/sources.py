"""Readers: npz with its card, image folder, CSV of paths; images may be DICOM. All give a card and splits of uint8 RGB.

A file that cannot be read is an error that names it; nothing is ever replaced by a black picture.
"""

import csv
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.cache import BadInput
from benchmark.datasets import TASKS, Card, Split

DICOM = (".dcm", ".dicom")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", *DICOM)
ALIASES = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
TAKEN = ("path", "label", "split", "patient", "caption", "")  # columns that are no subgroup; "" is pandas' index
MOST_GROUPS = 20  # values of a column beyond which it is a number or a name, not a subgroup
Read = tuple[Card, dict[str, Split]]


def read_npz(file: Path, size: int | None, card: Card | None = None) -> Read:
    """MedMNIST's layout: {train,val,test}_images uint8 [N, H, W(, 3)], _labels [N, 1] or [N, K], perhaps _groups,
    _captions and, of each subgroup column, _column_NAME, [N] each."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except ValueError as error:
        reason = "holds pickled objects, which are never read" if "allow_pickle" in str(error) else str(error)
        raise BadInput(f"{file}: {reason}") from None
    except Exception as error:  # zipfile, EOF and zlib errors: whatever makes the archive unreadable
        raise BadInput(f"{file} is not a readable npz: {error}") from None
    for key in (f"{split}_{part}" for split in ("train", "val", "test") for part in ("images", "labels")):
        if key not in arrays:
            raise BadInput(f"{file}: array {key} is missing; it has {', '.join(sorted(arrays)) or 'none'}")
        if key.endswith("labels") and (arrays[key].dtype.kind not in "iubf" or (arrays[key] % 1).any()):
            raise BadInput(f"{file}: {key} are {arrays[key].dtype}; allowed: whole numbers")
    if card is None:
        given = [np.atleast_2d(arrays[f"{split}_labels"].T).T for split in ("train", "val", "test")]
        if len({part.shape[1] for part in given}) > 1:
            raise BadInput(f"{file}: labels of train, val and test have {[part.shape[1] for part in given]} columns")
        card = read_card(file.with_suffix(".json"), file.stem, np.concatenate(given))
    splits = {}
    for short, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        images = _stack(arrays[f"{short}_images"], size, file)
        labels = _labels(arrays[f"{short}_labels"], card, file)
        texts = {key.removeprefix(f"{short}_"): values for key, values in arrays.items()
                 if key.startswith((f"{short}_groups", f"{short}_captions", f"{short}_column_"))}  # fmt: skip
        for key, values in ({"labels": labels} | texts).items():
            if values.shape[:1] != (len(images),):
                raise BadInput(f"{file}: {len(images)} {short}_images but {short}_{key} has the shape {values.shape}")
        told = {key: [str(value) for value in values] for key, values in texts.items()}
        columns = {key.removeprefix("column_"): values for key, values in told.items() if key.startswith("column_")}
        splits[name] = Split(images, labels, told.get("groups"), columns, told.get("captions"))
    return card, splits


def read_card(file: Path, name: str, labels: NDArray[Any]) -> Card:
    """The JSON card beside a data set; without one the classes are numbered and the image type is unknown."""
    if not file.is_file():
        count = labels.shape[1] if labels.ndim == 2 and labels.shape[1] > 1 else int(labels.max()) + 1
        task = "multilabel" if labels.ndim == 2 and labels.shape[1] > 1 else "multiclass"
        return Card(name, tuple(f"class {i}" for i in range(count)), "Clinical image", task=task)
    return card_from(card_facts(file), file)


def card_facts(file: Path) -> dict[str, Any]:
    """The keys of a JSON card; none where there is no file. Raises BadInput where it is no JSON object."""
    try:
        facts = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:
        raise BadInput(f"{file} is not JSON: {error}") from None
    if not isinstance(facts, dict):
        raise BadInput(f"{file} is not a data card: a mapping of keys to values is expected")
    return facts


def card_from(facts: dict[str, Any], file: Path) -> Card:
    """A card from the keys of its JSON file, checked; only what Augury draws itself is called a phantom."""
    try:
        card = Card.of({key: value for key, value in facts.items() if key != "phantom"})
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file} is not a data card: {error}") from None
    for key in ("classes", "captions", "image_types"):
        if not isinstance(given := getattr(card, key), tuple) or not all(isinstance(name, str) for name in given):
            raise BadInput(f"{file} is not a data card: {key} {given!r} given; allowed: a list of texts")
    if card.task not in TASKS:
        raise BadInput(f"card of {card.name}: task {card.task!r} given; allowed: {', '.join(TASKS)}")
    for key in ("captions", "image_types"):
        if getattr(card, key) and len(getattr(card, key)) != len(card.classes):
            raise BadInput(f"card of {card.name}: {len(getattr(card, key))} {key} for {len(card.classes)} classes")
    return card


def read_folder(folder: Path, size: int | None) -> Read:
    """[train|val|validation|test/]CLASS/*.png|jpg; without split folders 70/10/20 a class, seed 0."""
    parts = {ALIASES[item.name]: item for item in sorted(folder.iterdir()) if item.is_dir() and item.name in ALIASES}
    roots = parts if "train" in parts else {"": folder}
    classes = sorted({item.name for root in roots.values() for item in root.iterdir() if item.is_dir()})
    if not classes:
        raise BadInput(f"{folder}: no class folders; expected [train|validation|test/]CLASS/*.png")
    rows = []
    for split, root in roots.items():
        for label in classes:
            files = image_files(root / label) if (root / label).is_dir() else []
            if not files and split in ("", "train"):
                raise BadInput(f"{folder}: class {label!r} has no image ({', '.join(SUFFIXES)})")
            rows += [{"path": str(file), "label": label, "split": split} for file in files]
    return _from_rows(rows, folder, size)


def read_csv(file: Path, size: int | None) -> Read:
    """`path,label`, perhaps `patient,split,caption`, further columns are subgroups; paths are relative to the file."""
    rows: list[dict[str, Any]] = [*table_rows(file)]
    if not rows:
        raise BadInput(f"{file} names no image")
    for number, row in enumerate(rows, 2):
        if row.get("split") and row["split"] not in ALIASES:
            raise BadInput(f"{file}, line {number}: split {row['split']!r} given; allowed: {', '.join(ALIASES)}")
        row["path"] = str(file.parent / row["path"])
        row["split"] = ALIASES.get(row.get("split") or "", "")
    return _from_rows(rows, file, size)


def table_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV that names images by path and label, each with all its columns. Raises BadInput, with the line
    where there is one."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{file} is not a folder, an npz or a CSV: {error}") from None
    for needed in ("path", "label"):
        if needed not in columns:
            raise BadInput(f"{file}: column {needed!r} is missing; it has {', '.join(columns) or 'none'}")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise BadInput(f"{file}, line {number}: expected {len(columns)} fields")
        if not row["path"].strip() or not row["label"].strip():
            raise BadInput(f"{file}, line {number}: a blank path or label; allowed: a text each")
    return rows


def files_of(path: Path) -> list[Path]:
    """Every file whose bytes a data set at `path` (folder or CSV) consists of, in a fixed order."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file() and file.name[0] != ".")
    named = [path.parent / row["path"] for row in table_rows(path)]
    card = [path.with_suffix(".json")] if path.with_suffix(".json").is_file() else []
    return [path, *card, *sorted({file for file in named if file.is_file()})]


def image_files(folder: Path) -> list[Path]:
    """Images directly in the folder, by name; other visible files are an error."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name[0] != ".")
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            raise BadInput(f"{file} is not an image ({', '.join(SUFFIXES)})")
    return files


def folder_name(label: str) -> str:
    """A label as the name of a folder."""
    return "".join(letter if letter.isalnum() or letter in " +-_." else "_" for letter in label).strip(". ") or "_"


def labelled_files(place: Path, labels: list[str]) -> dict[str, list[Path]]:
    """Image files of each label, from folders of that name or a CSV of path,label."""
    if place.is_dir():
        present = {folder.name for folder in place.iterdir() if folder.is_dir()}
        folders = {label: label if label in present else folder_name(label) for label in labels}
        for name in folders.values():
            if len(both := [label for label in labels if folders[label] == name]) > 1:
                raise BadInput(f"{place}: classes {', '.join(both)} share the folder {name!r}; name them as they are")
        return {label: image_files(place / name) if name in present else [] for label, name in folders.items()}
    found: dict[str, list[Path]] = {label: [] for label in labels}
    for number, row in enumerate(table_rows(place), 2):
        file = place.parent / row["path"]
        if row["label"] not in found:
            continue
        if file in found[row["label"]] or not file.is_file():
            wrong = "does not exist" if not file.is_file() else "is listed twice"
            raise BadInput(f"{place}, line {number}: {row['path']} {wrong}")
        found[row["label"]].append(file)
    return found


def read_image(file: Path, size: int | None) -> NDArray[np.uint8]:
    """One image as uint8 RGB [H, W, 3]; with a size, cut to the central square and resized (bicubic)."""
    try:
        if file.suffix.lower() in DICOM:
            return resize(_from_dicom(file), size)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                image.load()
                picture = _to_rgb(image)
    except FileNotFoundError:
        raise BadInput(f"image {file} does not exist") from None
    except BadInput:
        raise
    except Exception as error:  # Pillow raises many kinds for a broken file; each is the same to the user
        raise BadInput(f"image {file} cannot be read: {error}") from None
    return resize(np.asarray(picture), size)


def _from_dicom(file: Path) -> NDArray[np.uint8]:
    """One frame as uint8 RGB: modality rescale, VOI window or LUT (else least to greatest), MONOCHROME1 inverted."""
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

    header = _pydicom(file).dcmread(file)
    pixels, kind = header.pixel_array, str(header.PhotometricInterpretation)
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise ValueError(f"it has {header.NumberOfFrames} frames; expected one")
    if kind == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, header)
        return np.asarray(pixels >> 8 if pixels.dtype == np.uint16 else pixels, np.uint8)
    if not kind.startswith("MONOCHROME"):
        if pixels.dtype != np.uint8:
            raise ValueError(f"its {kind} pixels are {pixels.dtype}; expected uint8")
        return np.asarray(pixels)  # pydicom has turned YBR into RGB
    values = np.asarray(apply_modality_lut(pixels, header), np.float64)
    ends = np.array([values.min(), values.max()])
    window = header.get("WindowWidth") is not None and header.get("WindowCenter") is not None
    if window or header.get("VOILUTSequence"):
        ends = np.sort(apply_voi_lut(np.array([-1e7, 1e7]), header))  # what it makes of the darkest and the brightest
        values = np.asarray(apply_voi_lut(values, header), np.float64)
    grey = np.clip((values - ends[0]) / max(float(ends[1] - ends[0]), 1e-9), 0, 1)
    grey = 1 - grey if kind == "MONOCHROME1" else grey
    return np.repeat(np.rint(255 * grey).astype(np.uint8)[..., None], 3, 2)


def _pydicom(file: Path) -> Any:
    try:
        import pydicom
    except ImportError:
        raise BadInput(f"{file} is a DICOM file; reading it needs the extra: pip install 'augury[dicom]'") from None
    return pydicom


def _number_patients(rows: list[dict[str, Any]]) -> None:
    """Images of one PatientID belong together; they get a number, and nothing of the patient is kept."""
    numbers: dict[str, str] = {}
    for row in rows:
        file = Path(row["path"])
        try:
            found = str(_pydicom(file).dcmread(file, stop_before_pixels=True).get("PatientID") or file)
        except BadInput:
            raise
        except Exception as error:  # whatever pydicom finds wrong with the file
            raise BadInput(f"image {file} cannot be read: {error}") from None
        row["patient"] = numbers.setdefault(found, f"patient {len(numbers) + 1}")


def resize(image: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] -> the central square at size x size, bicubic with anti-aliasing; None leaves it."""
    if size is None or image.shape[:2] == (size, size):
        return image
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = Image.fromarray(np.ascontiguousarray(image[top : top + side, left : left + side]))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        raise ValueError(f"{image.mode} has more than 8 bits a channel; window it to 8 bits first")
    return image.convert("RGB")


def _stack(images: NDArray[Any], size: int | None, file: Path) -> NDArray[np.uint8]:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise BadInput(f"{file}: images are {images.dtype} {images.shape}; expected uint8 [N, H, W] or [N, H, W, 3]")
    images = images[..., None] if images.ndim == 3 else images
    images = np.repeat(images, 3, 3) if images.shape[3] == 1 else images
    if size is None or images.shape[1:3] == (size, size) or len(images) == 0:
        return images
    return np.stack([resize(image, size) for image in images])


def _labels(labels: NDArray[Any], card: Card, file: Path) -> NDArray[Any]:
    """int64 [N], or of a multi-label set uint8 [N, K]; an array that the card does not fit is never cut to fit it."""
    shape, many = labels.shape[1:], card.task == "multilabel"
    wanted = f"0 or 1, [N, {len(card.classes)}]" if many else "a class number each, [N] or [N, 1]"
    fits = shape == (len(card.classes),) and np.isin(labels, (0, 1)).all() if many else shape in ((), (1,))
    if not fits:
        raise BadInput(f"{file}: labels of shape {labels.shape} given; allowed with task {card.task}: {wanted}")
    return labels.astype(np.uint8) if many else labels.reshape(-1).astype(np.int64)


def _from_rows(rows: list[dict[str, Any]], source: Path, size: int | None) -> Read:
    """Rows with path, label, split and more -> card and splits."""
    card_file = source / "card.json" if source.is_dir() else source.with_suffix(".json")
    classes = sorted({row["label"] for row in rows})
    told = card_facts(card_file)
    card = card_from({"name": source.stem, "image_type": "Clinical image", "classes": classes} | told, card_file)
    if card.task == "multilabel" or (card.task == "ordinal" and "classes" not in told):
        needs = "the grades in their order as classes" if card.task == "ordinal" else "an npz, with labels [N, K]"
        raise BadInput(f"{card_file}: task {card.task!r} given; it needs {needs}")
    if unknown := set(classes) - set(card.classes):
        raise BadInput(f"{source}: label {sorted(unknown)[0]!r} is not a class of its card")
    if all(Path(row["path"]).suffix.lower() in DICOM for row in rows) and "patient" not in rows[0]:
        _number_patients(rows)
    if blank := [number for number, row in enumerate(rows, 2) if not row["split"]]:
        if len(blank) < len(rows):
            raise BadInput(f"{source}, line {blank[0]}: no split given; allowed: one on every line, or on none")
        _draw_splits(rows)
    side = size or min(read_image(Path(rows[0]["path"]), None).shape[:2])
    groups = [key for key in rows[0] if key not in TAKEN and len({row[key] for row in rows}) <= MOST_GROUPS]
    if left := [key for key in rows[0] if key not in (*TAKEN, *groups)]:
        print(f"{source}: {', '.join(left)} with more than {MOST_GROUPS} values: no subgroups", file=sys.stderr)
    splits = {}
    for name in ("train", "validation", "test"):
        part = [row for row in rows if row["split"] == name]
        if not part:
            raise BadInput(f"{source}: no {name} images")
        splits[name] = Split(
            np.stack([read_image(Path(row["path"]), side) for row in part]),
            np.array([card.classes.index(row["label"]) for row in part], np.int64),
            [row["patient"] or f"{name} image {i}" for i, row in enumerate(part)] if "patient" in part[0] else None,
            {key: [row[key] for row in part] for key in groups},
            [row["caption"] for row in part] if "caption" in part[0] else None,
        )
    return card, splits


def _draw_splits(rows: list[dict[str, Any]]) -> None:
    """Give every row a split, 70/10/20 within each class, whole patients together, seed 0."""
    rng = np.random.default_rng(0)
    patients: dict[str, str] = {}
    for number, row in enumerate(rows):
        patients.setdefault(row.get("patient") or f"row {number}", row["label"])
    chosen: dict[str, str] = {}
    for label in sorted(set(patients.values())):
        names = [name for name, first in patients.items() if first == label]
        names = [names[i] for i in rng.permutation(len(names))]
        if len(names) < 3:
            raise BadInput(f"class {label!r} has {len(names)} patients or images; at least 3 are needed to split them")
        test, validation = max(1, round(0.2 * len(names))), max(1, round(0.1 * len(names)))
        for i, name in enumerate(names):
            chosen[name] = "test" if i < test else "validation" if i < test + validation else "train"
    for number, row in enumerate(rows):
        row["split"] = chosen[row.get("patient") or f"row {number}"]
