"""Differential privacy: weights move, noise follows the accountant, runs repeat, killed ones go on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from generators import training
from generators.autoencoders import SHIPPED, load_autoencoder
from generators.latent_diffusion import small_pipeline
from generators.training import Privacy, Schedule, _private_step, train_privately

pytest.importorskip("opacus")
LATENTS = torch.randn((64, 4, 4, 4), generator=torch.Generator().manual_seed(0))
CAPTIONS = ["x-ray", "blood smear"] * 32
SCHEDULE = Schedule(images_seen=16 * 6, batch=16, micro_batch=8, warmup=1, ema_decay=0.5)


def trained(
    privacy: Privacy, schedule: Schedule = SCHEDULE, checkpoint: Path | None = None, secret: int = 7
) -> tuple[torch.Tensor, dict]:
    pipeline = small_pipeline(load_autoencoder(SHIPPED), 32, (32, 32), 32, 0)
    text = {key: value.clone() for key, value in pipeline.text_encoder.state_dict().items()}
    start = torch.cat([value.flatten() for value in pipeline.unet.state_dict().values()])
    _, spent = train_privately(pipeline, LATENTS, CAPTIONS, schedule, privacy, secret=secret, checkpoint=checkpoint)
    assert all(torch.equal(text[key], value) for key, value in pipeline.text_encoder.state_dict().items())
    return torch.cat([value.flatten() for value in pipeline.unet.state_dict().values()]) - start, spent


def test_weights_move_and_the_budget_is_kept() -> None:
    moved, spent = trained(Privacy(8.0, 1e-3))
    assert moved.abs().max() > 1e-4 and 0 < spent["dp_epsilon"] <= 8.0 and spent["dp_delta"] == 1e-3
    _, strict = trained(Privacy(1.0, 1e-3))
    assert strict["noise_multiplier"] > spent["noise_multiplier"] and strict["dp_epsilon"] <= 1.0


def test_a_run_repeats_itself_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    whole, _ = trained(Privacy(8.0, 1e-3))
    again, _ = trained(Privacy(8.0, 1e-3))
    assert torch.equal(whole, again)

    class Killed(Exception):
        pass

    def kill(seen: int, loss: float) -> None:
        if seen >= 4 * 16:
            raise Killed

    often = Schedule(**{**SCHEDULE.__dict__, "checkpoint_seconds": 0.0})
    pipeline = small_pipeline(load_autoencoder(SHIPPED), 32, (32, 32), 32, 0)
    with pytest.raises(Killed):
        train_privately(
            pipeline, LATENTS, CAPTIONS, often, Privacy(8.0, 1e-3), secret=7, checkpoint=tmp_path, report=kill
        )
    assert (tmp_path / "state.pt").exists()
    resumed, _ = trained(Privacy(8.0, 1e-3), often, tmp_path)
    torch.testing.assert_close(resumed, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("clip", [0.5, 50.0])
def test_one_image_changes_the_update_by_no_more_than_the_clip(clip: float) -> None:
    """Without noise the summed gradient of nine images in three micro-batches moves by at most the clip when one of
    them is left out, whether gradients are cut or not."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    found = []
    for n in (9, 8):
        pipeline = small_pipeline(load_autoencoder(SHIPPED), 32, (32, 32), 32, 0)
        unet = GradSampleModule(pipeline.unet, loss_reduction="sum")
        limits = {"noise_multiplier": 0.0, "max_grad_norm": clip, "expected_batch_size": 1}
        optimiser = DPOptimizer(torch.optim.SGD(unet.parameters(), lr=1.0), **limits)
        words = pipeline.text_encoder(torch.zeros((n, 32), dtype=torch.long))[0].detach()
        noise = torch.randn((9, 4, 4, 4), generator=torch.Generator().manual_seed(1))[:n]
        before = torch.cat([value.detach().flatten().clone() for value in unet.parameters()])
        _private_step(unet, pipeline.scheduler, optimiser, (LATENTS[:n], words, torch.arange(n) * 100, noise), 3)
        found.append(torch.cat([value.detach().flatten() for value in unet.parameters()]) - before)
    gap = float((found[0] - found[1]).norm())
    assert 0 < gap <= clip * (1 + 1e-4)


def test_an_empty_batch_is_noise_alone() -> None:
    few = Schedule(images_seen=6, batch=1, micro_batch=8, warmup=0, weight_decay=0.0, ema_decay=0.5)

    def nobody(secret: int) -> bool:
        return all((np.random.default_rng([secret, step]).random(64) >= 1 / 64).all() for step in range(6))

    empty = next(secret for secret in range(100_000) if nobody(secret))
    moved, _ = trained(Privacy(8.0, 1e-3), few, secret=empty)
    assert torch.isfinite(moved).all() and (moved != 0).float().mean() > 0.99


def test_noise_and_clip_are_those_that_are_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each image is drawn with the probability that the accountant was told."""
    from opacus import optimizers

    made, drawn = list[dict[str, float]](), list[int]()

    class Recorded(optimizers.DPOptimizer):  # type: ignore[misc]
        def __init__(self, inner: Any, **limits: Any) -> None:
            made.append(limits)
            super().__init__(inner, **limits)

    def counted(unet: Any, scheduler: Any, optimiser: Any, given: tuple[Any, ...], micro: int) -> float:
        drawn.append(len(given[0]))
        return 0.0

    monkeypatch.setattr(optimizers, "DPOptimizer", Recorded)
    monkeypatch.setattr(training, "_private_step", counted)
    _, spent = trained(Privacy(8.0, 1e-3, clip=0.25), Schedule(images_seen=16 * 100, batch=16, warmup=0))
    (limits,) = made
    assert limits["noise_multiplier"] == spent["noise_multiplier"] > 0
    assert limits["max_grad_norm"] == 0.25 and limits["expected_batch_size"] == 16
    assert np.mean(drawn) == pytest.approx(16, abs=1.5) and len(set(drawn)) > 5, "Poisson, not so many each"


def test_without_a_given_secret_two_runs_differ(tmp_path: Path) -> None:
    found = []
    for name in "ab":
        pipeline = small_pipeline(load_autoencoder(SHIPPED), 32, (32, 32), 32, 0)
        folder = tmp_path / name
        train_privately(pipeline, LATENTS, CAPTIONS, SCHEDULE, Privacy(8.0, 1e-3), checkpoint=folder)
        found.append(next(pipeline.unet.parameters()).detach().clone())
        assert (folder / "secret.json").exists()
    assert not torch.equal(*found)
