"""Differential privacy: weights move, noise follows the accountant, runs repeat, killed ones go on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from generators.autoencoders import SHIPPED, load_autoencoder
from generators.latent_diffusion import small_pipeline
from generators.training import Privacy, Schedule, train_privately

pytest.importorskip("opacus")
LATENTS = torch.randn((64, 4, 4, 4), generator=torch.Generator().manual_seed(0))
CAPTIONS = ["x-ray", "blood smear"] * 32
SCHEDULE = Schedule(images_seen=16 * 6, batch=16, micro_batch=8, warmup=1, ema_decay=0.5)


def trained(
    privacy: Privacy, schedule: Schedule = SCHEDULE, checkpoint: Path | None = None
) -> tuple[torch.Tensor, dict]:
    pipeline = small_pipeline(load_autoencoder(SHIPPED), 32, (32, 32), 32, 0)
    text = {key: value.clone() for key, value in pipeline.text_encoder.state_dict().items()}
    start = torch.cat([value.flatten() for value in pipeline.unet.state_dict().values()])
    _, spent = train_privately(pipeline, LATENTS, CAPTIONS, schedule, privacy, seed=0, checkpoint=checkpoint)
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
            pipeline, LATENTS, CAPTIONS, often, Privacy(8.0, 1e-3), seed=0, checkpoint=tmp_path, report=kill
        )
    assert (tmp_path / "state.pt").exists()
    resumed, _ = trained(Privacy(8.0, 1e-3), often, tmp_path)
    torch.testing.assert_close(resumed, whole, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_one_image_changes_the_update_by_no_more_than_the_clip() -> None:
    """Without noise (epsilon huge) and with plain steps the summed gradient moves by at most clip / batch."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    from generators.latent_diffusion import diffusion_loss

    pipeline = small_pipeline(load_autoencoder(SHIPPED), 32, (32, 32), 32, 0)
    words = pipeline.text_encoder(torch.zeros((8, 32), dtype=torch.long))[0].detach()
    found = []
    for n in (8, 7):
        unet = GradSampleModule(small_pipeline(load_autoencoder(SHIPPED), 32, (32, 32), 32, 0).unet)
        optimiser = DPOptimizer(
            torch.optim.SGD(unet.parameters(), lr=1.0), noise_multiplier=0.0, max_grad_norm=0.5, expected_batch_size=8
        )
        noise = torch.randn((8, 4, 4, 4), generator=torch.Generator().manual_seed(1))
        times = torch.arange(8) * 100
        diffusion_loss(unet, pipeline.scheduler, LATENTS[:n], words[:n], times[:n], noise[:n]).sum().backward()
        before = torch.cat([value.detach().flatten().clone() for value in unet.parameters()])
        optimiser.step()
        found.append(torch.cat([value.detach().flatten() for value in unet.parameters()]) - before)
    gap = float((found[0] - found[1]).norm())
    assert 0 < gap <= 0.5 / 8 + 1e-6 and np.isfinite(gap)
