"""Every way to bring data in, and what is refused, in one line that names the file."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark import datasets
from benchmark.cache import BadInput
from benchmark.cli import import_set
from benchmark.sources import read_image


def noise(n: int, side: int = 12) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def class_folder(root: Path, counts: dict[str, int], side: int = 12) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i, image in enumerate(noise(count, side)):
            Image.fromarray(image).save(root / name / f"{i}.png")
    return root


def write_npz(file: Path, card: dict[str, object] | None = None, **changes: object) -> Path:
    arrays: dict[str, object] = {}
    for split, n in (("train", 8), ("val", 4), ("test", 6)):
        arrays |= {f"{split}_images": noise(n)[..., 0], f"{split}_labels": np.arange(n)[:, None] % 2}
    arrays |= changes
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{key: value for key, value in arrays.items() if value is not None})
    if card is not None:
        file.with_suffix(".json").write_text(json.dumps(card))
    return file


def test_npz_with_card(tmp_path: Path) -> None:
    card = {"name": "mine", "image_type": "CT", "classes": ["no", "yes"], "captions": ["a", "b"], "md5": "x"}
    file = write_npz(tmp_path / "mine.npz", card, train_groups=np.array(["p", "q"] * 4))
    data = datasets.load(str(file), 16)
    train = data.splits["train"]
    assert train.images.shape == (8, 16, 16, 3) and train.images.dtype == np.uint8
    assert train.labels.dtype == np.int64 and train.groups == ["p", "q"] * 4
    assert data.card.captions == ("a", "b")
    assert datasets.identity(str(file)) == {"dataset": "mine", "image_type": "CT", "specialty": ""}


def test_grey_is_repeated_and_not_changed(tmp_path: Path) -> None:
    data = datasets.load(str(write_npz(tmp_path / "g.npz")))
    assert np.array_equal(data.splits["val" if "val" in data.splits else "validation"].images[..., 1], noise(4)[..., 0])


def test_name_under_augury_data_comes_before_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_npz(tmp_path / "breastmnist" / "breastmnist.npz")
    monkeypatch.setenv("AUGURY_DATA", str(tmp_path))
    assert datasets.locate("breastmnist") == tmp_path / "breastmnist" / "breastmnist.npz"


def test_folder_without_splits_is_split_by_class(tmp_path: Path) -> None:
    data = datasets.load(str(class_folder(tmp_path / "mine", {"cat": 20, "dog": 10})), 8)
    assert [len(data.splits[name].images) for name in datasets.SPLITS] == [21, 3, 6]
    assert data.card.classes == ("cat", "dog")


def test_folder_with_splits(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        class_folder(tmp_path / "mine" / split, {"cat": 3, "dog": 2})
    data = datasets.load(str(tmp_path / "mine"))
    assert [len(data.splits[name].images) for name in datasets.SPLITS] == [5, 5, 5]


def test_csv_with_patients_and_subgroups(tmp_path: Path) -> None:
    class_folder(tmp_path / "x", {"cat": 20, "dog": 20})
    rows = [
        f"x/{label}/{i}.png,{label},{label}{i // 2},{'F' if i % 2 else 'M'},{label} number {i}"
        for label in ("cat", "dog")
        for i in range(20)
    ]
    (tmp_path / "x.csv").write_text("\n".join(["path,label,patient,sex,caption", *rows]), encoding="utf-8-sig")
    data = datasets.load(str(tmp_path / "x.csv"))
    groups = [set(data.splits[name].groups or []) for name in datasets.SPLITS]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert set(data.splits["train"].columns) == {"sex"}

    # Imported under a name, nothing of it is lost.
    import_set(tmp_path / "x.csv", "again", 64, tmp_path)
    again = datasets.load(str(tmp_path / "again" / "again.npz"), 64)
    for name, part in datasets.load(str(tmp_path / "x.csv"), 64).splits.items():
        kept = again.splits[name]
        assert np.array_equal(kept.images, part.images) and np.array_equal(kept.labels, part.labels)
        assert (kept.groups, kept.columns, kept.captions) == (part.groups, part.columns, part.captions)


@pytest.mark.parametrize("card", ["{", "[1]", '{"classes": 3}', '{"captions": 3}', '{"image_types": [1, 2]}'])
def test_a_broken_card_is_one_line_wherever_it_lies(tmp_path: Path, card: str) -> None:
    folder = class_folder(tmp_path / "mine", {"cat": 5, "dog": 5})
    (folder / "card.json").write_text(card)
    listed = tmp_path / "x.csv"
    listed.write_text("\n".join(["path,label", *(f"mine/{c}/{i}.png,{c}" for c in ("cat", "dog") for i in range(5))]))
    listed.with_suffix(".json").write_text(card)
    for place in (folder, listed):
        with pytest.raises(BadInput, match=r"not JSON|not a data card"):
            datasets.load(str(place))


def test_a_table_without_rows_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("path,label\n")
    with pytest.raises(BadInput, match=r"x\.csv names no image"):
        datasets.load(str(tmp_path / "x.csv"))


def test_phantoms_are_drawn_at_some_sizes() -> None:
    with pytest.raises(BadInput, match="size: 512 given; allowed for phantoms: 24 to 256 px"):
        datasets.digest("phantom-ct", 100, 512)


def test_digest_follows_the_bytes(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "mine", {"cat": 5, "dog": 5})
    before = datasets.digest(str(folder), 0, 8)
    Image.fromarray(noise(1)[0]).save(folder / "cat" / "0.png")
    assert datasets.digest(str(folder), 0, 8) != before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_images": None}, "train_images is missing"),
        ({"train_labels": np.array([{}] * 8, dtype=object)}, "pickled"),
        ({"train_images": np.zeros((8, 4, 4), np.float32)}, "expected uint8"),
        ({"train_labels": np.zeros((7, 1), int)}, "8 train_images but train_labels has the shape"),
        ({"test_labels": np.full((6, 1), 5)}, "class 'class 2' has no training image"),
        ({"train_labels": np.zeros((8, 1), int)}, "class 'class 1' has no training image"),
        ({"train_labels": np.array([["a"], ["b"]] * 4)}, "train_labels are <U1; allowed: whole numbers"),
        ({"train_labels": np.arange(8)[:, None] % 2 + 0.5}, "train_labels are float64"),
        (
            {"val_images": np.zeros((0, 4, 4), np.uint8), "val_labels": np.zeros((0, 1), int)},
            "no validation images",
        ),
    ],
)
def test_bad_npz(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        datasets.load(str(write_npz(tmp_path / "bad.npz", **changes)))


def test_labels_of_several_columns_are_never_cut_to_one(tmp_path: Path) -> None:
    card: dict[str, object] = {"name": "m", "image_type": "CT", "classes": ["no", "yes"]}
    hot = {
        f"{split}_labels": np.eye(2, dtype=int)[np.arange(n) % 2]
        for split, n in (("train", 8), ("val", 4), ("test", 6))
    }
    with pytest.raises(BadInput, match=r"\(8, 2\) given; allowed with task multiclass: a class number each"):
        datasets.load(str(write_npz(tmp_path / "m.npz", card, **hot)))
    several = card | {"task": "multilabel"}
    written = {key: labels.astype(np.float32) for key, labels in hot.items()}  # as many write them
    for given in (hot, written):
        read = datasets.load(str(write_npz(tmp_path / "m.npz", several, **given))).splits["train"].labels
        assert read.dtype == np.uint8 and np.array_equal(read, hot["train_labels"])
    wide = {key: np.ones((len(labels), 3), int) for key, labels in hot.items()}
    for wrong in (hot | {"train_labels": hot["train_labels"] * 2}, wide):
        with pytest.raises(BadInput, match=r"allowed with task multilabel: 0 or 1, \[N, 2\]"):
            datasets.load(str(write_npz(tmp_path / "m.npz", several, **wrong)))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("x/dog/9.png,dog,", "line 11: no split given; allowed: one on every line"),
        ("x/dog/9.png,,test", "line 11: a blank path or label"),
        (",dog,test", "line 11: a blank path or label"),
    ],
)
def test_rows_that_say_half_are_refused(tmp_path: Path, row: str, words: str) -> None:
    class_folder(tmp_path / "x", {"dog": 10})
    rows = [f"x/dog/{i}.png,dog,train" for i in range(9)]
    (tmp_path / "x.csv").write_text("\n".join(["path,label,split", *rows, row]))
    with pytest.raises(BadInput, match=words):
        datasets.load(str(tmp_path / "x.csv"))


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ('{"task": "multilabel"}', "an npz, with labels"),
        ('{"task": "ordinal"}', "the grades in their order as classes"),
    ],
)
def test_tasks_that_folders_cannot_tell_are_refused(tmp_path: Path, card: str, words: str) -> None:
    folder = class_folder(tmp_path / "mine", {"mild": 5, "severe": 5, "none": 5})
    (folder / "card.json").write_text(card)
    with pytest.raises(BadInput, match=words):
        datasets.load(str(folder))
    (folder / "card.json").write_text('{"task": "ordinal", "classes": ["none", "mild", "severe"]}')
    assert datasets.load(str(folder)).card.classes == ("none", "mild", "severe")


def test_numbers_and_names_are_no_subgroups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class_folder(tmp_path / "x", {"cat": 20, "dog": 20})
    rows = [f"{i},x/{label}/{i}.png,{label},{label}{i},{i % 3}" for label in ("cat", "dog") for i in range(20)]
    (tmp_path / "x.csv").write_text("\n".join([",path,label,accession,site", *rows]))  # as pandas writes its index
    data = datasets.load(str(tmp_path / "x.csv"))
    assert set(data.splits["train"].columns) == {"site"}
    assert capsys.readouterr().err == f"{tmp_path / 'x.csv'}: accession with more than 20 values: no subgroups\n"


def test_class_without_images(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "mine", {"cat": 5, "dog": 5})
    (folder / "emu").mkdir()
    with pytest.raises(BadInput, match="class 'emu' has no image"):
        datasets.load(str(folder))


@pytest.mark.parametrize("content", [b"", b"not a png", None])
def test_broken_image_is_an_error_not_a_black_picture(tmp_path: Path, content: bytes | None) -> None:
    folder = class_folder(tmp_path / "mine", {"cat": 5, "dog": 5})
    file = folder / "cat" / "3.png"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content is None else content)
    with pytest.raises(BadInput, match=r"3\.png cannot be read"):
        datasets.load(str(folder), 8)


def test_sixteen_bit_image_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(BadInput, match="more than 8 bits"):
        read_image(tmp_path / "deep.png", 8)


@pytest.mark.parametrize("text", ["path\na.png", "path,label\na.png", "path,label,split\na.png,x,later", ""])
def test_bad_csv(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(BadInput):
        datasets.load(str(tmp_path / "bad.csv"))


def test_unknown_name_says_what_is_known() -> None:
    with pytest.raises(BadInput, match="phantom-ct"):
        datasets.locate("no-such-set")


def test_registry_is_complete() -> None:
    assert len(datasets.MEDMNIST) == 12
    kinds = {datasets.identity(name)["image_type"] for name in datasets.PHANTOMS}
    assert kinds == set(datasets.IMAGE_TYPES)
    for name in datasets.MEDMNIST:
        card = datasets._medmnist_card(name)
        assert len(card.classes) > 1 or card.task == "multilabel"
        assert card.image_type in datasets.IMAGE_TYPES
