"""The embedded phantoms: same bytes again, patients apart, findings there, site 2 shifted, cards complete."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmark.phantoms import PHANTOMS, PhantomImages, card, draw

IMAGE_TYPES = {
    "CT",
    "X-ray",
    "MRI",
    "Ultrasound",
    "Endoscopy",
    "Microscopy",
    "Fundoscopy",
    "OCT",
    "Dermoscopy",
    "Clinical image",
}
SPECIALTIES = {"Radiology", "Gastroenterology", "Surgery", "Pathology", "Ophthalmology", "Dermatology"}

every_phantom = pytest.mark.parametrize("name", PHANTOMS)


@pytest.fixture(scope="module")
def drawn() -> dict[str, PhantomImages]:
    return {name: draw(name, 360, 24, seed=5) for name in PHANTOMS}


def _grey(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return np.asarray(images.mean(axis=3).reshape(len(images), -1))


def _marks(name: str, labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Labels as 0 or 1 for each class, int64 [n, K]."""
    if PHANTOMS[name].task == "multilabel":
        return labels.astype(np.int64)
    return np.asarray(np.eye(len(PHANTOMS[name].classes), dtype=np.int64)[labels])


def test_registry_covers_every_type_and_specialty() -> None:
    assert list(PHANTOMS) == sorted(PHANTOMS)
    assert {phantom.image_type for phantom in PHANTOMS.values()} == IMAGE_TYPES
    assert {phantom.specialty for phantom in PHANTOMS.values()} == SPECIALTIES
    assert {phantom.task for phantom in PHANTOMS.values()} == {"multiclass", "multilabel", "ordinal"}


@every_phantom
def test_entry_is_consistent(name: str) -> None:
    phantom = PHANTOMS[name]
    count = len(phantom.classes)
    assert phantom.name == name and 2 <= count <= 4
    assert count == len(set(phantom.captions)) == len(phantom.prevalence) == len(phantom.site2_prevalence)
    assert all(
        phantom.image_type.lower() in caption.lower() or phantom.image_type == "Clinical image"
        for caption in phantom.captions
    )
    if phantom.task != "multilabel":
        assert sum(phantom.prevalence) == pytest.approx(1) and sum(phantom.site2_prevalence) == pytest.approx(1)


@every_phantom
@pytest.mark.parametrize("size", [24, 33, 96])
def test_shapes_and_types(name: str, size: int) -> None:
    data = draw(name, 5, size, seed=1)
    assert data.images.shape == (5, size, size, 3) and data.images.dtype == np.uint8
    multilabel = PHANTOMS[name].task == "multilabel"
    assert data.labels.shape == ((5, len(PHANTOMS[name].classes)) if multilabel else (5,))
    assert data.labels.dtype == (np.uint8 if multilabel else np.int64)
    assert len(data.patients) == len(data.sex) == 5 and set(data.sex) <= {"F", "M"}


@every_phantom
def test_same_arguments_same_bytes_and_prefix(name: str, drawn: dict[str, PhantomImages]) -> None:
    np.random.seed(0)  # must not matter
    again, whole = draw(name, 70, 24, seed=5), drawn[name]
    np.testing.assert_array_equal(again.images, whole.images[:70])
    np.testing.assert_array_equal(again.labels, whole.labels[:70])
    assert again.patients == whole.patients[:70] and again.sex == whole.sex[:70]
    assert not np.array_equal(draw(name, 70, 24, seed=6).images, again.images)


@every_phantom
def test_size_changes_resolution_alone(name: str, drawn: dict[str, PhantomImages]) -> None:
    """A picture at 72 pixels, averaged over 3 x 3, is the picture at 24 pixels but for noise."""
    fine, coarse = (
        _grey(draw(name, 12, 72, seed=5).images.reshape(12, 24, 3, 24, 3, 3).mean(axis=(2, 4))),
        _grey(drawn[name].images),
    )
    assert min(np.corrcoef(a, b)[0, 1] for a, b in zip(fine, coarse, strict=False)) > 0.8


@every_phantom
def test_patients_are_never_shared_between_draws(name: str, drawn: dict[str, PhantomImages]) -> None:
    others = draw(name, 60, 24, seed=6).patients + draw(name, 60, 24, seed=5, site=2).patients
    assert drawn[name].patients[0] == f"{name}/s1/5/p0000"
    assert not set(others) & set(drawn[name].patients)


@every_phantom
def test_a_patient_has_one_label_sex_and_anatomy(name: str, drawn: dict[str, PhantomImages]) -> None:
    data = drawn[name]
    _, owner, count = np.unique(data.patients[:-4], return_inverse=True, return_counts=True)
    assert count.max() <= 4 and np.sort(count)[1] >= 2  # the last patient may be cut short
    first = {patient: index for index, patient in reversed(list(enumerate(data.patients)))}
    at = [first[patient] for patient in data.patients]
    np.testing.assert_array_equal(data.labels, data.labels[at])
    assert data.sex == [data.sex[index] for index in at]

    # Compare sorted brightness, which a pose does not change.
    alike = np.asarray(np.corrcoef(np.sort(_grey(data.images), axis=1)[: len(owner)]))
    same = (owner[:, None] == owner) & ~np.eye(len(owner), dtype=bool)
    assert alike[same].mean() > alike[owner[:, None] != owner].mean()


@every_phantom
def test_every_class_occurs_in_both_sexes(name: str, drawn: dict[str, PhantomImages]) -> None:
    marks, sex = _marks(name, drawn[name].labels), np.array(drawn[name].sex)
    assert all(marks[sex == which].any(axis=0).all() for which in "FM")


@every_phantom
def test_site_2_is_shifted(name: str, drawn: dict[str, PhantomImages]) -> None:
    phantom, other = PHANTOMS[name], draw(name, 360, 24, seed=5, site=2)
    assert phantom.prevalence != phantom.site2_prevalence
    means = [data.images.mean(axis=(1, 2)) for data in (drawn[name], other)]
    spread = np.hypot(*(mean.std(axis=0) for mean in means))
    assert np.max(np.abs(means[0].mean(axis=0) - means[1].mean(axis=0)) / spread) > 0.4
    assert np.abs(_marks(name, drawn[name].labels).mean(0) - _marks(name, other.labels).mean(0)).max() > 0.03


@every_phantom
def test_the_finding_is_there(name: str) -> None:
    """A linear model on grey pixels, colours and their spread does better than chance on other patients."""
    train, test = draw(name, 900, 24, seed=1), draw(name, 400, 24, seed=2)

    def features(data: PhantomImages) -> npt.NDArray[np.float64]:
        blocks = data.images.reshape(-1, 8, 3, 8, 3, 3).mean(axis=(2, 4)).reshape(len(data.images), -1)
        tones = np.percentile(data.images.reshape(len(data.images), -1, 3), [2, 10, 25, 50, 75, 90, 98], axis=1)
        return np.hstack([blocks, np.moveaxis(tones, 0, 1).reshape(len(blocks), -1)])

    truth, marks = _marks(name, train.labels), _marks(name, test.labels)
    scores = []
    for column in range(truth.shape[1]):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.001, max_iter=2000))
        model.fit(features(train), truth[:, column])
        scores.append(roc_auc_score(marks[:, column], model.decision_function(features(test))))
    assert np.mean(scores) > 0.6


@every_phantom
def test_card_is_complete(name: str) -> None:
    record = card(name)
    assert set(record) == {
        "name",
        "image_type",
        "specialty",
        "classes",
        "captions",
        "task",
        "licence",
        "citation",
        "caveats",
        "split",
    }
    assert all(record.values()) and record["licence"] == "Apache-2.0, drawn by Augury"
    assert "no clinical claim" in str(record["caveats"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("phantom-pet", 5, 32, 0, 1), "phantom-pet.*phantom-ct"),
        (("phantom-ct", 0, 32, 0, 1), "n is 0.*from 1"),
        (("phantom-ct", 5, 23, 0, 1), "size is 23.*24 to 256"),
        (("phantom-ct", 5, 257, 0, 1), "size is 257.*24 to 256"),
        (("phantom-ct", 5, 32, -1, 1), "seed is -1.*from 0"),
        (("phantom-ct", 5, 32, 0, 3), "site is 3.*1 to 2"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[str, int, int, int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        draw(*arguments)


def test_card_of_an_unknown_phantom_is_refused() -> None:
    with pytest.raises(ValueError, match="phantom-pet"):
        card("phantom-pet")
