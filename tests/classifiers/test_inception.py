"""The FID network: known activations, and FID of a known pair of sets (pytorch-fid's value)."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from benchmark.stages.fidelity import INCEPTION
from classifiers import features
from classifiers.features import SIDE, embed, fid_inception


def file() -> Path:
    place = Path(os.environ.get("AUGURY_WEIGHTS", "")) / INCEPTION
    if not os.environ.get("AUGURY_WEIGHTS") or not place.is_file():
        pytest.skip(f"needs $AUGURY_WEIGHTS/{INCEPTION}")
    return place


def test_known_activations() -> None:
    from skimage.data import astronaut

    picture = torch.from_numpy(astronaut()).permute(2, 0, 1)[None].float() / 255
    resized = F.interpolate(picture, (SIDE, SIDE), mode="bilinear", align_corners=False) * 2 - 1
    first = fid_inception(file())(resized)[0, :5]
    assert first.tolist() == pytest.approx([1.0512, 0.5008, 0.2425, 0.3486, 0.1761], abs=1e-4)


def test_other_weights_under_the_same_names_are_refused(tmp_path: Path) -> None:
    state = load_file(file())
    state["Conv2d_1a_3x3.conv.weight"] *= 1.1
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors holds other weights"):
        fid_inception(tmp_path / "other.safetensors")


@pytest.mark.study
def test_fid_of_brain_mri_is_that_of_pytorch_fid() -> None:
    from benchmark.datasets import load
    from generators.fidelity import frechet_distance

    if not os.environ.get("AUGURY_DATA"):
        pytest.skip("needs $AUGURY_DATA/brain_mri")
    splits, model = load("brain_mri", 64).splits, fid_inception(file())
    rows = np.random.default_rng(0).permutation(4609)[:500], np.random.default_rng(1).permutation(1350)[:500]
    sets = splits["train"].images[rows[0]], splits["test"].images[rows[1]]
    features = [embed(model, images, SIDE, "bilinear") for images in sets]
    assert frechet_distance(*features) == pytest.approx(32.83, abs=0.005)


def test_the_weights_are_fetched_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"Conv.weight": torch.ones(2, 3), "fc.weight": torch.zeros(4), "fc.bias": torch.zeros(4)}
    torch.save(state, tmp_path / "theirs.pth")
    monkeypatch.setattr(features, "FID_URL", (tmp_path / "theirs.pth").as_uri())
    with pytest.raises(ValueError, match="expected 6726825d"):
        features.fetch_fid_inception(tmp_path / "weights" / "ours.safetensors")
    assert not list((tmp_path / "weights").iterdir())
    digest = hashlib.sha256((tmp_path / "theirs.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(features, "FID_SHA256", digest[:8])
    features.fetch_fid_inception(tmp_path / "weights" / "ours.safetensors")
    assert list(load_file(tmp_path / "weights" / "ours.safetensors")) == ["Conv.weight"]
    monkeypatch.setattr(features, "FID_URL", (tmp_path / "nowhere.pth").as_uri())
    with pytest.raises(OSError, match="nowhere"):
        features.fetch_fid_inception(tmp_path / "weights" / "more.safetensors")
