"""One training loop for a text-guided latent diffusion model, resumable at any step.

Every random choice of step i comes from (seed, i), so that a run that was killed and goes on from a checkpoint makes
the same choices as one that was not.
"""

import copy
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from generators.latent_diffusion import diffusion_loss, token_ids


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: images_seen and batch in images, learning rate per step, warm-up in steps."""

    images_seen: int = 40_000
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup: int = 30
    caption_dropout: float = 0.1
    ema_decay: float = 0.995
    gradient_norm: float = 1.0
    checkpoint_seconds: float = 120.0

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return max(1, self.images_seen // self.batch)


def sampling_weights(sets: list[str], temperature: float) -> NDArray[np.float64]:
    """Probability [N] of each image: sets are drawn with weight size^temperature, images of one set alike.

    temperature 1 = as the images come, 0 = every set equally often.
    """
    _, which, counts = np.unique(np.array(sets), return_inverse=True, return_counts=True)
    share = counts**temperature / (counts**temperature).sum()
    return np.asarray((share / counts)[which], np.float64)


def train(
    pipeline: Any,
    latents: torch.Tensor,
    captions: list[str],
    weights: NDArray[np.float64],
    schedule: Schedule,
    *,
    seed: int,
    checkpoint: Path | None = None,
    report: Callable[[int, float], None] = lambda seen, loss: None,
) -> list[float]:
    """Train U-Net and text encoder in place and leave the averaged weights in the pipeline; returns all losses.

    latents float32 [N, C, h, w]; captions [N]; weights float64 [N], the probability of each image.
    checkpoint: a folder in which the state is kept every few minutes and from which an earlier run goes on.
    Raises FloatingPointError, naming step and learning rate, when the loss is not finite.
    """
    device = pipeline.device
    model = torch.nn.ModuleDict({"unet": pipeline.unet, "text": pipeline.text_encoder}).train()
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, betas=(0.9, 0.999)
    )
    texts, which = np.unique(np.array([*captions, ""]), return_inverse=True)
    ids = token_ids(pipeline.tokenizer, [str(text) for text in texts]).to(device)
    latents = latents.to(device)
    losses = _resume(checkpoint, model, average, optimiser)

    saved = time.monotonic()
    for step in range(len(losses), schedule.steps):
        # Draw images, times and noise from (seed, step) alone.
        rng = np.random.default_rng([seed, step])
        rows = rng.choice(len(latents), schedule.batch, p=weights)
        caption = np.where(rng.random(schedule.batch) < schedule.caption_dropout, which[-1], which[rows])
        random = torch.Generator().manual_seed(int(rng.integers(2**62)))
        times = torch.randint(0, 1000, (schedule.batch,), generator=random).to(device)
        noise = torch.randn(latents[rows].shape, generator=random).to(device)

        # Encode each different caption once, then compute the loss.
        used, position = np.unique(caption, return_inverse=True)
        embeddings = model["text"](ids[torch.from_numpy(used)])[0][torch.from_numpy(position)]
        loss = diffusion_loss(model["unet"], pipeline.scheduler, latents[rows], embeddings, times, noise).mean()
        rate = _learning_rate(schedule, step)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {step} with learning rate {rate:.2g}")

        # Update the weights and their running average.
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.gradient_norm)
        optimiser.step()
        _update_average(average, model, min(schedule.ema_decay, (1 + step) / (10 + step)))

        # Tell and, every few minutes, keep the state.
        losses.append(loss.item())
        report((step + 1) * schedule.batch, losses[-1])
        if checkpoint and time.monotonic() - saved > schedule.checkpoint_seconds:
            _save(checkpoint, model, average, optimiser, losses)
            saved = time.monotonic()

    model.load_state_dict(average.state_dict())
    model.eval()
    return losses


def _learning_rate(schedule: Schedule, step: int) -> float:
    """Linear warm-up, then a half cosine to zero."""
    if step < schedule.warmup:
        return schedule.learning_rate * (step + 1) / schedule.warmup
    rest = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return float(schedule.learning_rate * 0.5 * (1 + np.cos(np.pi * min(rest, 1.0))))


@torch.no_grad()
def _update_average(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    for a, b in zip(average.parameters(), model.parameters(), strict=True):
        a.lerp_(b, 1 - decay)


def _save(folder: Path, model: Any, average: Any, optimiser: Any, losses: list[float]) -> None:
    """Write the state beside the old one and swap them, so that a kill in between loses nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    partial = folder / "state.pt.partial"
    torch.save(state | {"losses": json.dumps(losses)}, partial)
    os.replace(partial, folder / "state.pt")


def _resume(folder: Path | None, model: Any, average: Any, optimiser: Any) -> list[float]:
    if folder is None or not (folder / "state.pt").exists():
        return []
    state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    losses: list[float] = json.loads(state["losses"])
    return losses
