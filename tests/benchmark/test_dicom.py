"""DICOM files: rescale, window, photometric interpretation; patients stay together and leave nothing behind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import datasets
from benchmark.cache import BadInput
from benchmark.sources import read_image

pydicom = pytest.importorskip("pydicom")
RAMP = np.arange(1024, dtype=np.uint16).reshape(32, 32)


def write(file: Path, pixels: np.ndarray, kind: str = "MONOCHROME2", **more: Any) -> Path:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        CTImageStorage,
        generate_uid(entropy_srcs=[str(file)]),
    )
    header = FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    header.Rows, header.Columns = pixels.shape[:2]
    header.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    bits = 8 * pixels.dtype.itemsize
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = bits, bits, bits - 1, 0
    header.PhotometricInterpretation = kind
    if pixels.ndim == 3:
        header.PlanarConfiguration = 0
    for key, value in more.items():
        setattr(header, key, value)
    header.PixelData = pixels.tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(file, enforce_file_format=True)
    return file


def test_without_a_window_least_to_greatest(tmp_path: Path) -> None:
    grey = read_image(write(tmp_path / "a.dcm", RAMP), None)
    assert grey.shape == (32, 32, 3) and grey.dtype == np.uint8
    np.testing.assert_array_equal(grey[..., 0].ravel(), np.rint(255 * np.arange(1024) / 1023))
    inverted = read_image(write(tmp_path / "b.dcm", RAMP, "MONOCHROME1"), None)
    np.testing.assert_array_equal(inverted, 255 - grey)


def test_rescale_then_window(tmp_path: Path) -> None:
    """Stored 0 to 1023, minus 512: Hounsfield units; a window of 400 around 40 (DICOM PS3.3 C.11.2.1.2)."""
    file = write(tmp_path / "a.dcm", RAMP, RescaleSlope=1, RescaleIntercept=-512, WindowCenter=40, WindowWidth=400)
    units = np.arange(1024) - 512.0
    wanted = np.clip((units - 39.5) / 399 + 0.5, 0, 1)
    np.testing.assert_allclose(read_image(file, None)[..., 0].ravel(), 255 * wanted, atol=0.51)


def test_colour(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_image(write(tmp_path / "a.dcm", colour, "RGB"), None), colour)


def test_what_cannot_be_read_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "broken.dcm").write_bytes(b"no dicom")
    with pytest.raises(BadInput, match=r"broken\.dcm cannot be read"):
        read_image(tmp_path / "broken.dcm", None)
    many = write(tmp_path / "many.dcm", np.zeros((32, 32), np.uint16), NumberOfFrames=2)
    with pytest.raises(BadInput, match=r"many\.dcm"):
        read_image(many, None)


def test_a_folder_keeps_patients_together_and_nothing_of_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("ill", "well"):
        for i in range(20):
            pixels = rng.integers(0, 1024, (32, 32)).astype(np.uint16)
            write(
                tmp_path / "set" / label / f"{i}.dcm", pixels, PatientID=f"secret-{label}-{i // 2}", PatientName="A^B"
            )
    data = datasets.load(str(tmp_path / "set"), 16)
    seen: dict[str, str] = {}
    for name, split in data.splits.items():
        assert split.groups is not None
        for group in split.groups:
            assert seen.setdefault(group, name) == name
            assert group.startswith("patient ")
    assert len(seen) == 20 and "secret" not in repr(data.splits) and "A^B" not in repr(data.card)


def test_colour_is_turned_once_and_never_wrapped(tmp_path: Path) -> None:
    from pydicom.pixels import convert_color_space

    colour = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    luma = convert_color_space(colour, "RGB", "YBR_FULL")
    found = read_image(write(tmp_path / "a.dcm", luma, "YBR_FULL"), None)
    assert np.abs(found.astype(int) - colour).mean() < 1.5
    with pytest.raises(BadInput, match="expected uint8"):
        read_image(write(tmp_path / "b.dcm", colour.astype(np.uint16) * 256, "RGB"), None)


@pytest.mark.parametrize(
    "empty", [{"WindowWidth": None, "WindowCenter": None}, {"WindowWidth": 400}, {"VOILUTSequence": []}]
)
def test_an_empty_window_is_no_window(tmp_path: Path, empty: dict[str, Any]) -> None:
    plain, found = (read_image(write(tmp_path / f"{i}.dcm", RAMP, **more), None) for i, more in enumerate(({}, empty)))
    np.testing.assert_array_equal(plain, found)
