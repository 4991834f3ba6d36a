"""The autoencoders: sizes, ranges, what tuning moves and what it leaves, where the shipped one comes from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from generators import teaching
from generators.autoencoders import (
    SHIPPED,
    decode,
    encode,
    load_autoencoder,
    new_tiny,
    round_trip,
    to_images,
    to_tensor,
    working_resolution,
)  # fmt: skip
from generators.teaching import dead_leaves, tune_decoder

STRIPES = np.broadcast_to((np.arange(64) % 8 < 4)[None, :, None, None] * 255, (16, 64, 64, 3)).astype(np.uint8)


def features(images: torch.Tensor) -> list[torch.Tensor]:
    return [torch.nn.functional.avg_pool2d(images, 4) + 2, images + 2]


@pytest.mark.parametrize(("size", "resolution"), [(16, 64), (24, 72), (32, 64), (40, 80), (64, 64), (128, 128)])
def test_working_resolution(size: int, resolution: int) -> None:
    assert working_resolution(size) == resolution


def test_size_must_be_a_multiple_of_eight() -> None:
    with pytest.raises(ValueError, match="30"):
        working_resolution(30)


def test_images_survive_the_tensor_form() -> None:
    images = dead_leaves(3, 32, np.random.default_rng(0))
    assert np.array_equal(to_images(to_tensor(images, 32), 32), images)
    enlarged = to_images(to_tensor(images, 64), 32)
    assert np.abs(enlarged.astype(int) - images).mean() < 6


def test_shipped_autoencoder_round_trip() -> None:
    model = load_autoencoder(SHIPPED)
    images = dead_leaves(8, 64, np.random.default_rng(123))
    back = round_trip(model, 64, images)
    assert back.shape == images.shape and back.dtype == np.uint8
    blurred = np.repeat(np.repeat(images[:, 4::8, 4::8], 8, 1), 8, 2)
    error, crude = (np.square(x.astype(float) - images).mean() for x in (back, blurred))
    assert error < crude, "better than one colour a block of 8 x 8, of which it keeps four numbers"


def test_round_trip_depends_on_the_image_alone() -> None:
    model, images = load_autoencoder(SHIPPED), dead_leaves(5, 32, np.random.default_rng(1))
    latents = encode(model, images, 64)
    assert latents.shape == (5, 4, 8, 8)
    alone = decode(model, encode(model, images[3:4], 64), 32)
    assert np.abs(alone.astype(int) - decode(model, latents, 32)[3:4]).max() <= 1


def test_latents_are_scaled_and_read_again_where_they_were_kept(tmp_path: Path) -> None:
    model: Any = load_autoencoder(SHIPPED)
    images, file = dead_leaves(5, 32, np.random.default_rng(1)), tmp_path / "latents.npy"
    model.register_to_config(scaling_factor=1.0)
    plain = encode(model, images, 64)
    model.register_to_config(scaling_factor=0.5)
    assert torch.equal(encode(model, images, 64, file=file), plain / 2) and list(tmp_path.iterdir()) == [file]
    assert torch.equal(encode(None, images, 64, file=file), plain / 2), "no model is asked"
    low = encode(model, images, 64, precision="bf16")
    assert low.dtype == torch.float32 and 0 < (low - plain / 2).abs().max() < 0.05 * (plain / 2).abs().max()


def test_tuning_moves_the_decoder_and_not_the_encoder() -> None:
    model: Any = load_autoencoder(SHIPPED)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = tune_decoder(model, STRIPES, 64, features, images_seen=96, batch=8, adversarial=0.0)
    assert len(losses) == 12 and np.mean(losses[-3:]) < 0.3 * np.mean(losses[:3])
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"decoder"}


def test_a_tuning_that_was_killed_goes_on_to_the_same_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching, "KEPT_EVERY", 0.0)
    images, found = dead_leaves(16, 64, np.random.default_rng(2)), []

    def killed(seen: int, loss: float) -> None:
        if seen == 24:
            raise KeyboardInterrupt

    for tries in (1, 2):
        model: Any = load_autoencoder(SHIPPED)
        folder = tmp_path / f"{tries}"
        if tries == 2:
            with pytest.raises(KeyboardInterrupt):
                tune_decoder(load_autoencoder(SHIPPED), images, 64, features, images_seen=48, batch=8,
                             checkpoint=folder, report=killed)  # fmt: skip
            assert (folder / "state.pt").exists()
        losses = tune_decoder(model, images, 64, features, images_seen=48, batch=8, checkpoint=folder)
        found.append((losses, model.state_dict()))
    (first, one), (second, two) = found
    assert first == second and all(torch.equal(one[name], two[name]) for name in one)


def test_a_critic_learns_to_tell_decoded_pictures_and_is_heard_after_a_fifth() -> None:
    from generators.teaching import _critic, _judged

    torch.manual_seed(0)
    real, made = torch.rand(8, 3, 32, 32) / 2 + 0.5, torch.full((8, 3, 32, 32), -0.5)  # bright beside dark ones
    critic = _critic(features, 32, torch.device("cpu"), 0)
    same = _critic(features, 32, torch.device("cpu"), 0)
    assert all(torch.equal(a, b) for a, b in zip(critic.parameters(), same.parameters(), strict=True))
    optimiser, full = torch.optim.Adam(critic.parameters(), 2e-2), torch.autocast("cpu", torch.bfloat16, enabled=False)
    for _ in range(60):
        optimiser.zero_grad()
        _, plain = _judged(made, real, features, critic, 0.0, 1.0, full)
        optimiser.step()

    def verdicts(pictures: torch.Tensor) -> list[float]:
        return [each.mean().item() for each in critic(features(pictures))]

    told = zip(verdicts(real), verdicts(made), strict=True)
    assert all(a > b + 0.5 for a, b in told), "real above decoded"
    _, pulled = _judged(made, real, features, critic, 0.5, 1.0, full)
    assert float((pulled - plain).norm() / plain.norm()) == pytest.approx(0.5, rel=1e-3)
    nearer = made - 50 * (pulled - plain)
    assert sum(verdicts(nearer)) > sum(verdicts(made)), "against its gradient a picture looks more real"

    images, models = (
        dead_leaves(8, 32, np.random.default_rng(0)),
        [load_autoencoder(SHIPPED), load_autoencoder(SHIPPED)],
    )
    losses = [tune_decoder(model, images, 32, features, images_seen=80, batch=8, adversarial=strength)
              for model, strength in zip(models, (0.0, 0.5), strict=True)]  # fmt: skip
    assert losses[0][:3] == losses[1][:3] and losses[0][3] != losses[1][3], "two steps of ten without it"


def test_half_precision_learns_as_full_precision_does() -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        model: Any = load_autoencoder(SHIPPED)
        losses = tune_decoder(model, STRIPES, 64, features, images_seen=64, batch=8, adversarial=0.0,
                              precision=precision, learning_rate=5e-4)  # fmt: skip
        assert {each.dtype for each in model.parameters()} == {torch.float32}
        found[precision] = losses
    assert found["fp32"] != found["bf16"]
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.05)


def test_tuning_without_memory_for_the_batch_goes_on_with_less(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = dead_leaves(16, 32, np.random.default_rng(0))
    models = [load_autoencoder(SHIPPED), load_autoencoder(SHIPPED)]
    losses = tune_decoder(models[0], images, 32, features, images_seen=16, batch=8)
    decoding = models[1].decode

    def small_memory(latents: torch.Tensor) -> Any:
        if len(latents) > 4:
            raise torch.OutOfMemoryError
        return decoding(latents)

    monkeypatch.setattr(models[1], "decode", small_memory)
    assert tune_decoder(models[1], images, 32, features, images_seen=16, batch=8) == pytest.approx(losses, rel=1e-2)
    assert capsys.readouterr().err.splitlines() == ["out of memory: micro-batch of the decoder lowered to 4"]


def test_tuning_stops_where_the_gradient_is_not_finite() -> None:
    images = dead_leaves(8, 64, np.random.default_rng(2))

    def steep(pictures: torch.Tensor) -> list[torch.Tensor]:
        return [pictures + 2 + (pictures - pictures.detach()).sqrt()]  # + 0, whose slope is infinite

    model: Any = load_autoencoder(SHIPPED)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(FloatingPointError, match="decoder: loss is nan at step 0"):
        tune_decoder(model, images, 64, steep, images_seen=8, batch=8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_tuning_stops_where_the_loss_is_not_finite() -> None:
    images = dead_leaves(8, 64, np.random.default_rng(2))
    with pytest.raises(FloatingPointError, match="decoder: loss is nan at step 0"):
        tune_decoder(load_autoencoder(SHIPPED), images, 64, lambda x: [x * float("nan")], images_seen=8, batch=8)


def test_the_decoder_of_a_variational_autoencoder_is_tuned() -> None:
    from diffusers import AutoencoderKL

    blocks = 4
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoencoderKL(
            block_out_channels=(8,) * blocks, norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
        ).eval()  # fmt: skip
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tune_decoder(model, dead_leaves(8, 64, np.random.default_rng(2)), 64, features, images_seen=16, batch=8)
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"decoder", "post_quant_conv"}


def test_weights_say_which_images_a_decoder_is_tuned_on() -> None:
    drawn: list[int] = []

    class Watched:
        images = dead_leaves(8, 64, np.random.default_rng(2))

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: Any) -> Any:
            drawn.extend(index.tolist())
            return self.images[index]

    weights = np.array([0, 0, 0.5, 0, 0, 0.5, 0, 0])
    tune_decoder(load_autoencoder(SHIPPED), Watched(), 64, features, images_seen=16, weights=weights, batch=8)
    assert set(drawn) == {2, 5}


def test_parameters() -> None:
    assert sum(p.numel() for p in new_tiny().parameters()) == 392_327


def test_pictures_are_a_function_of_the_seed() -> None:
    a, b, c = (dead_leaves(4, 32, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert a.shape == (4, 32, 32, 3) and a.std() > 20
