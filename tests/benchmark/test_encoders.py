"""Feature spaces of a study: any timm network, its own classifier, and an image-text model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from benchmark.cache import BadInput
from benchmark.stages import split
from benchmark.stages.fidelity import _controls
from benchmark.study import load_study
from classifiers.backbones import create
from classifiers.features import embed, image_text_similarity, without_head
from classifiers.training import to_input
from generators.latent_diffusion import VOCABULARY

SMALL = {"images_seen": 64, "batch": 16, "channels": [32, 32], "text_width": 32}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A CLIP folder with random small weights."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(VOCABULARY)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "vocab_size": len(tokenizer), "max_position_embeddings": 32, "projection_dim": 8,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8, "projection_dim": 8}  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def test_cosines_are_those_of_the_models_own_forward(clip: Path) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    texts = ["a chest X-ray", "an ultrasound image of the breast with a cyst"]
    found = image_text_similarity(clip, images, texts)
    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), CLIPTokenizer.from_pretrained(clip)
    mean, deviation = (torch.tensor(x).view(3, 1, 1) for x in
                       ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)))  # fmt: skip
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / deviation
    with torch.no_grad():
        out = model(pixel_values=pixels, **tokenizer(texts, padding=True, return_tensors="pt"))
    expected = out.logits_per_image / model.logit_scale.exp()
    assert found.shape == (5, 2) and found == pytest.approx(expected.detach().numpy(), abs=1e-5)


def test_a_headless_network_sees_what_its_classifier_sees() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    model: Any = create("test_resnet", 3, 32, 0).eval()
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(to_input(images, torch.device("cpu"))), pre_logits=True)
    found = embed(without_head(model, (0.5,) * 3, (0.25,) * 3), images, 32)
    assert found == pytest.approx(expected.numpy(), abs=1e-4)


def test_a_study_measures_in_every_space_that_it_names(tmp_path: Path, clip: Path, cells_of: Any, finish: Any) -> None:
    save_file(create("test_resnet", 5, 32, 1).state_dict(), tmp_path / "weights.safetensors")
    own = {"name": "test_resnet", "weights": str(tmp_path / "weights.safetensors"), "side": 32}
    fidelity = {"encoders": ["efficientnet_lite0", "real_classifier", own], "images": 20, "image_text": str(clip)}
    cells = cells_of(tmp_path, generators={"g": SMALL}, datasets=["phantom-oct"], fidelity=fidelity)
    store = finish(cells, tmp_path / "home", "fidelity")
    names: dict[str, set[str]] = {}
    counts = set[int]()
    keys = []
    for cell in (c for c in cells if c.stage == "fidelity"):
        for row in json.loads((store.folder(cell) / "rows.json").read_text()):
            names.setdefault(str(row.get("generator", "")), set()).add(row["metric"])
            if row["metric"] == "frechet_efficientnet_lite0" and "group" not in row:
                counts.add(row["n"])
            if cell.about.get("generator") == "g" and not cell.about.get("variant"):
                keys.append((cell.about.get("seed"), row.get("generator"), row.get("group"), row["metric"]))
    assert len(set(keys)) == len(keys), "spaces must not share a name"
    assert len(counts) == 1, "floor and controls at the generator's number of images"
    assert "probe_alignment" in names[""] & names["real"]
    for each in ("", "real", "copies"):
        assert {"frechet_efficientnet_lite0", "frechet_real_classifier", "frechet_test_resnet"} <= names[each]
    assert {"text_alignment", "text_alignment_shuffled"} <= names[""] & names["real"]
    assert "text_alignment" not in names["round_trip"] | names["copies"]
    assert "ms_ssim" in names[""] & names["real"] & names["copies"] & names["class_mean"] & names["mixup"]

    # Controls have the class of the train image in whose place they stand, so they are measured class by class.
    prepared = split.read(store.folder(next(cell for cell in cells if cell.stage == "split")))
    labels = {image.tobytes(): label for image, label in zip(prepared.train.images, prepared.train.labels, strict=True)}
    rows = np.sort(np.random.default_rng(1).permutation(prepared.kept)[:30])
    copies = _controls(prepared, rows)["copies"]
    assert [labels[image.tobytes()] for image in copies] == prepared.train.labels[rows].tolist()


@pytest.mark.parametrize(
    ("fidelity", "told"),
    [
        ({"encoders": ["resnet"]}, "encoders"),
        ({"encoders": [{"name": "test_resnet"}]}, "weights"),
        ({"encoders": [{"name": "test_resnet", "weights": "nowhere.pth"}]}, "nowhere.pth"),
        ({"encoders": ["inception", {"name": "inception", "weights": "hub"}]}, "names must differ"),
        ({"image_text": "no/such-model"}, "no/such-model"),
    ],
)
def test_wrong_encoders_are_refused(tmp_path: Path, cells_of: Any, fidelity: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        cells_of(tmp_path, generators={"g": SMALL}, fidelity=fidelity)


def test_what_is_not_at_hand_can_be_planned_and_lies_beside_the_study(tmp_path: Path, clip: Path) -> None:
    from benchmark.plan import dry_plan

    fidelity = {"encoders": ["inception", {"name": "test_resnet", "weights": "w.pth"}], "image_text": "clip"}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"name": "s", "datasets": ["phantom-oct"], "fidelity": fidelity}))
    _, absent = dry_plan(load_study(str(tmp_path / "s.yaml")))
    assert any("w.pth" in text for text in absent) and not any("clip" in text for text in absent)
    (tmp_path / "w.pth").write_bytes(b"x")
    study = load_study(str(tmp_path / "s.yaml"))
    assert study.fidelity.encoders[1].weights == str((tmp_path / "w.pth").resolve())  # type: ignore[union-attr]
