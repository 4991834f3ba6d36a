"""Teach a small autoencoder what a larger one does, on procedural pictures only (`benchmark/distil.py` runs it)."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from generators.autoencoders import Autoencoder, Features, perceptual_loss, to_tensor
from generators.textures import dead_leaves


def distil(
    teacher: Autoencoder,
    student: Autoencoder,
    features: Features,
    *,
    steps: int,
    pictures: int,
    resolution: int = 64,
    batch: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Teach the student in place: latent MSE to the teacher's, L1 and features to the teacher's decoded picture."""
    rng = np.random.default_rng(seed)
    data = dead_leaves(pictures, resolution, rng)
    optimiser = torch.optim.AdamW(student.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=0.05)
    for step in range(steps):
        # What the teacher makes of a batch.
        images = to_tensor(data[rng.integers(0, pictures, batch)], resolution)
        with torch.no_grad():
            latents = teacher.encoder(images)
            target = teacher.decoder(latents).clamp(-1, 1)

        # The student's latents must be the teacher's; its decoder works from both, so that either pair fits.
        ours = student.encoder(images)
        output = student.decoder(torch.where(torch.rand(batch, 1, 1, 1) < 0.5, ours, latents))
        loss = F.mse_loss(ours, latents) + F.l1_loss(output, target)
        loss = loss + 0.5 * perceptual_loss(features(output), features(target))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        report(step + 1, loss.item())
