"""The classifier's loop: learns, repeats itself, takes equal steps, mixes in the shares asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from classifiers import training
from classifiers.backbones import DEFAULTS, check, create, names
from classifiers.features import LITE0_SIDE, efficientnet_lite0, efficientnet_lite0_maps, embed
from classifiers.metrics import score
from classifiers.training import CORRUPTIONS, Pool, Settings, augment, fit, predict

SETTINGS = Settings(steps=30, batch=16, warmup=3, learning_rate=3e-3, evaluations=2, shift=1)


def pool(n: int, seed: int, share: float = 1.0, task: str = "multiclass") -> Pool:
    """Bright against dark squares."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    images = rng.integers(0, 120, (n, 32, 32, 3)) + 60 * labels[:, None, None, None]
    if task == "multilabel":
        return Pool(images.astype(np.uint8), np.stack([labels, 1 - labels, labels], 1).astype(np.uint8), share)
    return Pool(images.astype(np.uint8), labels.astype(np.int64), share)


def trained(pools: list[Pool], task: str = "multiclass", seed: int = 0) -> np.ndarray:
    model = create("test_resnet", 3 if task == "multilabel" else 2, 32, seed)
    fit(model, pools, pool(40, 9, task=task), task, SETTINGS, seed=seed)
    return predict(model, pool(60, 8, task=task).images, task)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_learns_what_is_there(task: str) -> None:
    assert score(pool(60, 8, task=task).labels, trained([pool(100, 0, task=task)], task), task)["auroc"] > 0.9


def test_same_seed_same_probabilities() -> None:
    pools = [pool(50, 0, 0.5), pool(50, 1, 0.5)]
    assert np.array_equal(trained(pools), trained(pools))
    assert not np.array_equal(trained(pools), trained(pools, seed=1))


def test_every_mixture_takes_the_same_steps_and_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[torch.Tensor] = []
    original = training.to_input

    def watch(images: np.ndarray, device: torch.device) -> torch.Tensor:
        batches.append(torch.from_numpy(images[:, 0, 0, 0].astype(int)))
        return original(images, device)

    monkeypatch.setattr(training, "to_input", watch)
    black, white = np.zeros((5, 32, 32, 3), np.uint8), np.full((500, 32, 32, 3), 255, np.uint8)
    for share, wanted in ((0.0, 0), (0.25, 4), (0.5, 8), (0.9, 14)):
        batches.clear()
        pools = [Pool(black, np.arange(5) % 2, 1 - share), Pool(white, np.arange(500) % 2, share)]
        fit(create("test_resnet", 2, 32, 0), pools, pool(20, 9), "multiclass", SETTINGS, seed=0)
        steps = [batch for batch in batches if len(batch) == SETTINGS.batch]
        assert len(steps) == SETTINGS.steps
        assert {int((batch == 255).sum()) for batch in steps} == {wanted}


def test_selection_looks_at_validation_and_keeps_the_best() -> None:
    model = create("test_resnet", 2, 32, 0)
    curve = fit(model, [pool(100, 0)], pool(40, 9), "multiclass", SETTINGS, seed=0)
    assert [point["step"] for point in curve] == [15, 30]
    best = max(point["validation_auroc"] for point in curve)
    found = score(pool(40, 9).labels, predict(model, pool(40, 9).images, "multiclass", "bf16"), "multiclass")["auroc"]
    assert found == pytest.approx(best)


def test_augmentation_moves_but_does_not_invent() -> None:
    batch = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).view(2, 3, 8, 8)
    out = augment(batch, np.random.default_rng(0), 2, True)
    assert out.shape == batch.shape and set(out[0].flatten().tolist()) <= set(batch[0].flatten().tolist())
    assert torch.equal(augment(batch, np.random.default_rng(0), 0, False), batch)


@pytest.mark.parametrize("name", [*DEFAULTS, "mobilenetv3_small_050"])
def test_backbones_take_small_images(name: str) -> None:
    model = create(name, 3, 32, 0).eval()
    assert predict(model, pool(2, 0).images, "multiclass").shape == (2, 3)
    again = create(name, 3, 32, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_unknown_backbone_names_close_ones() -> None:
    with pytest.raises(ValueError, match="resnet18"):
        check("resnet81")
    assert "resnet18" in names("resnet1*")


def test_lite0_knows_imagenet() -> None:
    from skimage.data import astronaut, coffee

    model = efficientnet_lite0()
    images = np.stack([astronaut()[:400, :400], coffee()[:400, :400]])
    found = embed(model, images, LITE0_SIDE)
    assert found.shape == (2, 1280) and found.dtype == np.float32
    flipped = embed(model, images[:, :, ::-1], LITE0_SIDE)
    norm = found / np.linalg.norm(found, axis=1, keepdims=True)
    other = flipped / np.linalg.norm(flipped, axis=1, keepdims=True)
    likeness = norm @ other.T
    assert likeness[0, 0] > likeness[0, 1] + 0.2, "an image is nearer to its mirror image than to another one"
    maps = efficientnet_lite0_maps()(torch.zeros(1, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == [64, 32, 16, 8, 8], "seen at 128 px"
    assert [m.shape[-1] for m in efficientnet_lite0_maps()(torch.zeros(1, 3, 256, 256))] == [128, 64, 32, 16, 16]


def test_lite0_with_its_norms_folded_in_is_the_same_function() -> None:
    import timm

    from classifiers.features import efficientnet_lite0_weights

    plain = timm.create_model("tf_efficientnet_lite0", num_classes=1000).eval()
    plain.load_state_dict(efficientnet_lite0_weights())
    x = torch.rand((2, 3, 128, 128), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        wanted = plain.forward_head(plain.forward_features(x), pre_logits=True)
        torch.testing.assert_close(efficientnet_lite0()(x), wanted, rtol=1e-3, atol=1e-3)


def test_strong_augmentation_changes_every_image_and_repeats_itself() -> None:
    batch = training.to_input(pool(6, 0).images, torch.device("cpu"))
    one, two = (training.distort(batch, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(one, two) and one.shape == batch.shape and torch.isfinite(one).all()
    assert ((one - batch).abs().amax((1, 2, 3)) > 0.1).all()


def test_pretraining_takes_half_of_the_steps_and_a_rate_by_validation() -> None:
    steps: list[int] = []
    original = training.fit

    def watch(*given: object, **named: object) -> list[dict[str, float]]:
        steps.append(given[4].steps)  # type: ignore[attr-defined]
        return original(*given, **named)  # type: ignore[arg-type]

    training.fit = watch  # type: ignore[assignment]
    try:
        model = create("test_resnet", 2, 32, 0)
        curve = training.pretrain_and_tune(
            model, pool(100, 0), pool(20, 1), pool(40, 9), "multiclass", SETTINGS, seed=0
        )
    finally:
        training.fit = original
    assert steps == [15, 15, 15, 15]
    assert {each["rate"] for each in curve} <= {1.0, 0.3, 0.1} and len({each["rate"] for each in curve}) == 1
    assert score(pool(60, 8).labels, predict(model, pool(60, 8).images, "multiclass"), "multiclass")["auroc"] > 0.8


def test_weights_from_a_file_fill_all_but_the_head(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source = create("test_resnet", 7, 32, 3)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = create("test_resnet", 2, 32, 0, str(tmp_path / "w.safetensors"))
    old, new = source.state_dict(), model.state_dict()
    assert [key for key in new if not torch.equal(old[key], new[key])] == ["fc.weight", "fc.bias"]
    assert new["fc.weight"].shape[0] == 2
    with pytest.raises(ValueError, match="do not fit"):
        create("resnet18", 2, 32, 0, str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_corruptions_change_pixels_and_keep_grey_grey(name: str) -> None:
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(0, 255, (3, 32, 32, 1)), 3, 3).astype(np.uint8)
    changed = CORRUPTIONS[name](grey)
    assert changed.shape == grey.shape and changed.dtype == np.uint8
    assert 2 < np.abs(changed.astype(int) - grey).mean() < 80
    assert np.array_equal(changed, CORRUPTIONS[name](grey))
    assert np.abs(changed[..., 0].astype(int) - changed[..., 2]).max() <= 2
