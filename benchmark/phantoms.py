"""The embedded data: drawn, labelled phantoms of ten medical image types, to try Augury with no download.

    images = draw("phantom-ct", n=200, size=64, seed=7)

Each patient has an anatomy, a sex, a label and two to four images. The finding behind a label is graded: its
strength is normal around 0.2 where absent, 0.8 where present, so that classes overlap.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark import phantom_optics as optics
from benchmark import phantom_scenes as scans
from benchmark.phantom_canvas import Canvas, Floats

PATIENTS_AT_ONCE = 16  # 32 to 64 images: small enough for the cache, and draw(n) is a prefix of any longer draw
SMALLEST, LARGEST = 24, 256  # pixels


@dataclass(frozen=True)
class Phantom:
    """A phantom data set; `scene` draws a Canvas to uint8 [m, size, size, 3]; prevalence is by patient."""

    name: str
    image_type: str
    specialty: str
    task: str  # multiclass, multilabel or ordinal
    classes: tuple[str, ...]
    captions: tuple[str, ...]
    prevalence: tuple[float, ...]  # of each class at site 1; multilabel: of each finding, not summing to 1
    site2_prevalence: tuple[float, ...]
    overlap: float  # standard deviation of a finding's strength, in units where absent is 0.2 and present 0.8
    scene: Callable[[Canvas], npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class PhantomImages:
    """Drawn images and what is known of them; all images of a patient have one label and one sex."""

    images: npt.NDArray[np.uint8]  # [n, size, size, 3], 0..255
    labels: npt.NDArray[np.int64] | npt.NDArray[np.uint8]  # int64 [n] class numbers; multilabel: uint8 [n, K], 0 or 1
    patients: list[str]  # [n], such as phantom-ct/s1/7/p0012
    sex: list[str]  # [n], F or M


PHANTOMS: dict[str, Phantom] = {
    "phantom-clinical-image": Phantom(
        "phantom-clinical-image",
        "Clinical image",
        "Surgery",
        "multiclass",
        ("granulating", "sloughy", "necrotic"),
        (
            "clinical photograph of a wound with a red granulating bed",
            "clinical photograph of a wound with a yellow sloughy bed",
            "clinical photograph of a wound with a black necrotic bed",
        ),
        (0.40, 0.35, 0.25),
        (0.25, 0.35, 0.40),
        0.24,
        optics.wound,
    ),
    "phantom-ct": Phantom(
        "phantom-ct",
        "CT",
        "Radiology",
        "multiclass",
        ("no finding", "steatosis", "liver lesion"),
        (
            "axial CT image of the abdomen with no finding in the liver",
            "axial CT image of the abdomen with hepatic steatosis",
            "axial CT image of the abdomen with a focal liver lesion",
        ),
        (0.40, 0.30, 0.30),
        (0.55, 0.25, 0.20),
        0.22,
        scans.ct,
    ),
    "phantom-dermoscopy": Phantom(
        "phantom-dermoscopy",
        "Dermoscopy",
        "Dermatology",
        "multiclass",
        ("naevus", "melanoma"),
        ("dermoscopy image of a benign melanocytic naevus", "dermoscopy image of a melanoma"),
        (0.60, 0.40),
        (0.75, 0.25),
        0.16,
        optics.dermoscopy,
    ),
    "phantom-endoscopy": Phantom(
        "phantom-endoscopy",
        "Endoscopy",
        "Gastroenterology",
        "multiclass",
        ("no finding", "polyp", "colitis"),
        (
            "endoscopy image of the colon with no finding",
            "endoscopy image of the colon with a polyp",
            "endoscopy image of the colon with ulcerative colitis",
        ),
        (0.40, 0.30, 0.30),
        (0.50, 0.20, 0.30),
        0.20,
        optics.endoscopy,
    ),
    "phantom-fundoscopy": Phantom(
        "phantom-fundoscopy",
        "Fundoscopy",
        "Ophthalmology",
        "ordinal",
        ("none", "mild", "severe"),
        (
            "fundoscopy image of the retina with no diabetic retinopathy",
            "fundoscopy image of the retina with mild diabetic retinopathy",
            "fundoscopy image of the retina with severe diabetic retinopathy",
        ),
        (0.45, 0.30, 0.25),
        (0.60, 0.25, 0.15),
        0.10,
        optics.fundoscopy,
    ),
    "phantom-microscopy": Phantom(
        "phantom-microscopy",
        "Microscopy",
        "Pathology",
        "multiclass",
        ("benign", "malignant"),
        (
            "microscopy image of haematoxylin and eosin stained benign glandular tissue",
            "microscopy image of haematoxylin and eosin stained invasive carcinoma",
        ),
        (0.55, 0.45),
        (0.40, 0.60),
        0.22,
        optics.microscopy,
    ),
    "phantom-mri": Phantom(
        "phantom-mri",
        "MRI",
        "Radiology",
        "multiclass",
        ("no tumour", "glioma", "meningioma"),
        (
            "axial MRI image of the brain with no tumour",
            "axial MRI image of the brain with a glioma and surrounding oedema",
            "axial MRI image of the brain with a meningioma",
        ),
        (0.40, 0.35, 0.25),
        (0.30, 0.40, 0.30),
        0.22,
        scans.mri,
    ),
    "phantom-oct": Phantom(
        "phantom-oct",
        "OCT",
        "Ophthalmology",
        "multiclass",
        ("no finding", "drusen", "macular oedema", "neovascularisation"),
        (
            "OCT image of the macula with no finding",
            "OCT image of the macula with drusen",
            "OCT image of the macula with intraretinal fluid of macular oedema",
            "OCT image of the macula with choroidal neovascularisation",
        ),
        (0.35, 0.20, 0.25, 0.20),
        (0.25, 0.30, 0.25, 0.20),
        0.20,
        scans.oct_scan,
    ),
    "phantom-ultrasound": Phantom(
        "phantom-ultrasound",
        "Ultrasound",
        "Radiology",
        "multiclass",
        ("no lesion", "cyst", "solid mass"),
        (
            "ultrasound image of the liver with no focal lesion",
            "ultrasound image of the liver with a simple cyst",
            "ultrasound image of the liver with a solid mass",
        ),
        (0.40, 0.30, 0.30),
        (0.30, 0.30, 0.40),
        0.22,
        scans.ultrasound,
    ),
    "phantom-x-ray": Phantom(
        "phantom-x-ray",
        "X-ray",
        "Radiology",
        "multilabel",
        ("effusion", "nodule", "cardiomegaly"),
        (
            "frontal chest X-ray image with a pleural effusion",
            "frontal chest X-ray image with a pulmonary nodule",
            "frontal chest X-ray image with cardiomegaly",
        ),
        (0.35, 0.30, 0.35),
        (0.25, 0.40, 0.25),
        0.22,
        scans.x_ray,
    ),
}


def draw(name: str, n: int, size: int, seed: int, site: int = 1) -> PhantomImages:
    """Draw n images of size x size pixels; same arguments, same bytes, and a larger n only adds images."""
    phantom = _find(name)
    _check("n", n, 1, 10_000_000)
    _check("size", size, SMALLEST, LARGEST)
    _check("seed", seed, 0, 2**63)
    _check("site", site, 1, 2)

    # Draw whole groups of patients until there are enough images.
    images: list[npt.NDArray[np.uint8]] = []
    labels: list[npt.NDArray[Any]] = []
    patients: list[str] = []
    sex: list[str] = []
    while len(patients) < n:
        group = len(images)
        drawn, marks, owner, female = _draw_group(phantom, size, seed, site, group)
        images.append(drawn)
        labels.append(marks[owner])
        patients += [f"{name}/s{site}/{seed}/p{group * PATIENTS_AT_ONCE + who:04d}" for who in owner]
        sex += ["F" if flag else "M" for flag in female[owner]]
    return PhantomImages(np.concatenate(images)[:n], np.concatenate(labels)[:n], patients[:n], sex[:n])


def card(name: str) -> dict[str, object]:
    """The data set's card: what it shows, under which licence, and what it cannot support."""
    phantom = _find(name)
    return {
        "name": phantom.name,
        "image_type": phantom.image_type,
        "specialty": phantom.specialty,
        "classes": list(phantom.classes),
        "captions": list(phantom.captions),
        "task": phantom.task,
        "licence": "Apache-2.0, drawn by Augury",
        "citation": "Drawn by Augury (benchmark/phantoms.py); there is no publication to cite.",
        "caveats": "Phantoms: pictures computed from formulae, with no patient, scanner or physics behind. "
        "They serve to try out and test the benchmark. Results on them support no clinical claim.",
        "split": "By patient; each has two to four images with one label. Draws of other seeds or sites "
        "share no patient. Site 2 has other contrast, noise, colour and prevalence, for external validation.",
    }


def _find(name: str) -> Phantom:
    if name not in PHANTOMS:
        raise ValueError(f"no phantom is named {name!r}; the phantoms are {', '.join(PHANTOMS)}")
    return PHANTOMS[name]


def _check(what: str, given: int, low: int, high: int) -> None:
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or not low <= given <= high:
        raise ValueError(f"{what} is {given!r}; it must be a whole number from {low} to {high}")


def _draw_group(
    phantom: Phantom,
    size: int,
    seed: int,
    site: int,
    group: int,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.generic], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Images of the group's patients, their labels, each image's patient number, and who is female."""
    root = np.random.SeedSequence([zlib.crc32(phantom.name.encode()), int(seed), int(site), group])
    cohort, *streams = root.spawn(4)
    rng = np.random.default_rng(cohort)
    female = rng.random(PATIENTS_AT_ONCE) < 0.5
    labels = _labels(phantom, female, site, rng)
    finding = _finding(phantom, labels, rng)
    patient = np.repeat(np.arange(PATIENTS_AT_ONCE), rng.integers(2, 5, PATIENTS_AT_ONCE))
    images = phantom.scene(Canvas(size, patient, female, finding, site, streams))
    return images, labels, patient, female


def _labels(
    phantom: Phantom, female: npt.NDArray[np.bool_], site: int, rng: np.random.Generator
) -> npt.NDArray[np.generic]:
    """Labels int64 [P], or uint8 [P, K] for multilabel; the last class is somewhat more frequent in men."""
    prevalence = np.tile(phantom.prevalence if site == 1 else phantom.site2_prevalence, (len(female), 1))
    prevalence[:, -1] *= np.where(female, 0.85, 1.15)
    if phantom.task == "multilabel":
        return np.asarray(rng.random(prevalence.shape) < prevalence, np.uint8)
    steps = np.cumsum(prevalence, axis=1)
    return np.asarray((rng.random((len(female), 1)) * steps[:, -1:] > steps).sum(axis=1), np.int64)


def _finding(phantom: Phantom, labels: npt.NDArray[np.generic], rng: np.random.Generator) -> Floats:
    """Strength of each class's finding, float32 [P, K] in 0..1.2; ordinal: one severity, [P, 1]."""
    count = len(phantom.classes)
    if phantom.task == "ordinal":
        present = np.asarray(labels, float)[:, None] / (count - 1)
    elif phantom.task == "multilabel":
        present = np.asarray(labels, float)
    else:
        present = np.eye(count)[np.asarray(labels, np.int64)]
    strength = 0.2 + 0.6 * present + phantom.overlap * rng.standard_normal(present.shape)
    return np.asarray(np.clip(strength, 0, 1.2), np.float32)
