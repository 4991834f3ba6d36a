"""One training loop for a text-guided latent diffusion model, resumable at any step, on one device or several.

Every random choice of step i comes from (seed, i), of a pass over all images from (seed, pass), so that a run that was
killed and goes on from a checkpoint makes the choices of one that was not, and so do several processes.
"""

import copy
import json
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.optim.swa_utils import get_ema_multi_avg_fn

from generators.autoencoders import resume_state, save_state
from generators.latent_diffusion import Denoiser, diffusion_loss, numbered, token_ids

Report = Callable[[int, float], None]  # images seen, loss
Captions = Sequence[str | tuple[str, ...]]  # [N]: a text, or wordings of which one is drawn each time
ORDERS = [1 + x / 20 for x in range(1, 200)] + [*range(11, 64), 128, 256, 512, 1024]  # of Rényi's divergence
MICRO = 32  # images whose own gradients are held at once under differential privacy


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: images_seen and batch in images, learning rate per step, warm-up in steps (a tenth of all
    at most), then decay, cosine or constant.

    micro_batch: images in memory at once (None = the batch), whose gradients are summed; it changes rounding alone.
    snr_gamma: clips the weight of easy times (Hang 2023, arXiv 2303.09556, equation 6); None = no weighting.
    """

    images_seen: int = 40_000
    batch: int = 128
    micro_batch: int | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup: int = 30
    caption_dropout: float = 0.1
    ema_decay: float = 0.995
    gradient_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    decay: str = "cosine"
    snr_gamma: float | None = None
    precision: str = "fp32"
    checkpoint_seconds: float = 120.0

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return max(1, self.images_seen // self.batch)


@dataclass(frozen=True)
class Batch:
    """One step's images by row, caption by number, times int64 [B] and noise float32 [B, C, h, w]."""

    rows: NDArray[np.int64]
    captions: NDArray[np.int64]
    times: torch.Tensor
    noise: torch.Tensor


def sampling_weights(sets: list[str], temperature: float) -> NDArray[np.float64]:
    """Probability [N] of each image: sets are drawn with weight size^temperature, images of one set alike.

    temperature 1 = as the images come, 0 = every set equally often.
    """
    _, which, counts = np.unique(np.array(sets), return_inverse=True, return_counts=True)
    share = counts**temperature / (counts**temperature).sum()
    return np.asarray((share / counts)[which], np.float64)


def train(
    pipeline: Any, latents: torch.Tensor, captions: Captions, weights: NDArray[np.float64], schedule: Schedule,
    *, seed: int, checkpoint: Path | None = None, report: Report = lambda seen, loss: None,
) -> list[float]:  # fmt: skip
    """Train U-Net and text encoder in place and leave the averaged weights in the pipeline; returns all losses.

    latents float32 [N, C, h, w]; captions [N]; weights float64 [N], the probability of each image. Only what
    requires a gradient is trained. Within a process group every process takes its share of each batch.
    checkpoint: a folder in which the state is kept every few minutes and from which an earlier run goes on.
    Raises FloatingPointError, naming step and learning rate, when the loss is not finite.
    """
    model = Denoiser(pipeline, schedule.snr_gamma).train()
    shared = torch.nn.parallel.DistributedDataParallel(model) if dist.is_initialized() else model
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decay = schedule.weight_decay
    optimiser = torch.optim.AdamW(learnt, schedule.learning_rate, schedule.betas, weight_decay=decay, fused=True)
    texts, which = numbered(captions)
    ids = token_ids(pipeline.tokenizer, texts).to(pipeline.device)
    state = {"model": model, "average": average, "optimiser": optimiser}
    losses = resume_state(checkpoint, state)
    micro, saved = schedule.micro_batch or schedule.batch, time.monotonic()

    for step in range(len(losses), schedule.steps):
        # Add up the gradients of this process's share of the batch.
        batch = _draw(seed, step, latents, which, weights, schedule)
        optimiser.zero_grad(set_to_none=True)
        loss, micro = _backward(shared, batch, np.arange(schedule.batch)[rank::world], latents, ids, schedule, micro)
        rate = learning_rate(schedule, step)
        norm = float(torch.nn.utils.clip_grad_norm_(learnt, schedule.gradient_norm))
        if not np.isfinite([loss, norm]).all():
            raise FloatingPointError(f"loss {loss}, gradient {norm:.3g} at step {step} with learning rate {rate:.2g}")

        # Update the weights and their running average.
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
        _update_average(average, model, min(schedule.ema_decay, (1 + step) / (10 + step)))

        # Tell and, every few minutes, keep the state.
        losses.append(loss)
        report((step + 1) * schedule.batch, loss)
        if checkpoint and rank == 0 and time.monotonic() - saved > schedule.checkpoint_seconds:
            save_state(checkpoint, state, losses)
            saved = time.monotonic()

    model.load_state_dict(average.state_dict())
    model.eval()
    return losses


@dataclass(frozen=True)
class Privacy:
    """(epsilon, delta) for each image added or removed; clip: norm to which each image's gradient is cut."""

    epsilon: float
    delta: float
    clip: float = 1.0


def train_privately(
    pipeline: Any, latents: torch.Tensor, captions: Captions, schedule: Schedule, privacy: Privacy,
    *, checkpoint: Path | None = None, report: Report = lambda seen, loss: None, secret: int | None = None,
) -> tuple[list[float], dict[str, float]]:  # fmt: skip
    """DP-SGD with Adam (Abadi 2016, arXiv 1607.00133) on the U-Net; returns losses and what the accountant says.

    Each step draws every image with probability batch / N (Poisson). The text encoder keeps its random weights and is
    not trained. Sampling and noise come from (secret, step); by default a secret of the system's own, kept beside the
    checkpoint alone, so that two runs differ and nobody can draw the noise again. epsilon is of one generator.
    """
    from opacus import GradSampleModule
    from opacus.accountants import RDPAccountant
    from opacus.accountants.utils import get_noise_multiplier
    from opacus.optimizers import DPOptimizer

    secret, rate = _secret(checkpoint) if secret is None else secret, min(1.0, schedule.batch / len(latents))
    noise = get_noise_multiplier(
        target_epsilon=privacy.epsilon, target_delta=privacy.delta, sample_rate=rate, steps=schedule.steps,
        accountant="rdp", alphas=ORDERS,
    )  # fmt: skip
    pipeline.text_encoder.requires_grad_(False)
    average, unet = copy.deepcopy(pipeline.unet).eval(), GradSampleModule(pipeline.unet.train(), loss_reduction="sum")
    inner = torch.optim.AdamW(unet.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    limits = {"noise_multiplier": noise, "max_grad_norm": privacy.clip, "expected_batch_size": schedule.batch}
    optimiser = DPOptimizer(inner, **limits)
    texts, which = numbered(captions)
    with torch.no_grad():
        words = pipeline.text_encoder(token_ids(pipeline.tokenizer, texts).to(pipeline.device))[0]
    state = {"model": unet, "average": average, "optimiser": inner}
    losses, saved = resume_state(checkpoint, state), time.monotonic()

    for step in range(len(losses), schedule.steps):
        rng = np.random.default_rng([secret, step])
        rows = np.flatnonzero(rng.random(len(latents)) < rate)
        optimiser.generator = torch.Generator(words.device).manual_seed(int(rng.integers(2**62)))
        optimiser.param_groups[0]["lr"] = now = learning_rate(schedule, step)
        asked = _worded(which, rows, schedule.caption_dropout, rng)
        random = torch.Generator().manual_seed(int(rng.integers(2**62)))
        times = torch.randint(0, 1000, (len(rows),), generator=random)
        noised = torch.randn(latents[rows].shape, generator=random)
        given = (latents[rows], words[asked], times, noised)
        total = _private_step(unet, pipeline.scheduler, optimiser, given, schedule.micro_batch or MICRO)

        if not np.isfinite(total):
            raise FloatingPointError(f"loss {total} at step {step} with learning rate {now:.2g}")
        _update_average(average, unet, min(schedule.ema_decay, (1 + step) / (10 + step)))
        losses.append(total)
        report((step + 1) * schedule.batch, total)
        if checkpoint and time.monotonic() - saved > schedule.checkpoint_seconds:
            save_state(checkpoint, state, losses)
            saved = time.monotonic()

    accountant = RDPAccountant()
    accountant.history = [(noise, rate, schedule.steps)]
    pipeline.unet = average.requires_grad_(True)
    spent = float(accountant.get_epsilon(privacy.delta, alphas=ORDERS))
    return losses, {"dp_epsilon": spent, "dp_delta": privacy.delta, "noise_multiplier": float(noise)}


def _secret(checkpoint: Path | None) -> int:
    """A random number that a resumed run finds again; it goes with the checkpoint when the run is done."""
    if checkpoint is None:
        return secrets.randbits(128)
    file = checkpoint / "secret.json"
    if not file.exists():
        checkpoint.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(secrets.randbits(128)))
    return int(json.loads(file.read_text()))


def _private_step(unet: Any, scheduler: Any, optimiser: Any, given: tuple[Any, ...], micro: int) -> float:
    """Each micro-batch's own gradients are cut and added; the last one gets the noise and moves the weights."""
    device, total, n = next(unet.parameters()).device, 0.0, len(given[0])
    parts = [slice(start, start + micro) for start in range(0, n, micro)]
    if not n:  # nobody was drawn: noise alone moves the weights
        for parameter in unet.parameters():
            parameter.grad_sample = torch.zeros((0, *parameter.shape), device=device)
        optimiser.signal_skip_step(do_skip=False)
        optimiser.step()
        optimiser.zero_grad()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")  # no input needs a gradient
        for place, part in enumerate(parts):
            loss = diffusion_loss(unet, scheduler, *(each[part].to(device) for each in given)).sum()
            loss.backward()
            optimiser.signal_skip_step(do_skip=place < len(parts) - 1)
            optimiser.step()
            optimiser.zero_grad()
            total += loss.item()
    return total / max(1, n)


def _draw(
    seed: int, step: int, latents: torch.Tensor, which: NDArray[Any], weights: NDArray[np.float64], schedule: Schedule
) -> Batch:
    """Images, dropped captions, times and noise from (seed, step) alone."""
    rng = np.random.default_rng([seed, step])
    rows = drawn_rows(seed, step, schedule.batch, weights, rng)
    captions = _worded(which, rows, schedule.caption_dropout, rng)
    random = torch.Generator().manual_seed(int(rng.integers(2**62)))
    times = torch.randint(0, 1000, (schedule.batch,), generator=random)
    return Batch(rows, captions, times, torch.randn(latents[rows].shape, generator=random))


def _worded(which: NDArray[np.int64], rows: NDArray[np.int64], dropout: float, rng: Any) -> NDArray[np.int64]:
    """One of its wordings for each image, or no text."""
    one = rng.integers(0, which.shape[1], len(rows))
    return np.asarray(np.where(rng.random(len(rows)) < dropout, which[-1, 0], which[rows, one]), np.int64)


def drawn_rows(
    seed: int, step: int, batch: int, weights: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """The images of a step, int64 [batch]: whole passes in a new order each where all weigh alike, else by weight."""
    n = len(weights)
    if weights.max() > weights.min() * (1 + 1e-9):
        return rng.choice(n, batch, p=weights)
    places = step * batch + np.arange(batch)
    return np.array([_pass(seed, int(place // n), n)[place % n] for place in places])


@lru_cache(maxsize=2)
def _pass(seed: int, number: int, n: int) -> NDArray[np.int64]:
    """The order of images in one pass over all."""
    return np.random.default_rng([seed, number, n, 1]).permutation(n)


def _backward(
    model: Any, batch: Batch, own: NDArray[np.int64], latents: torch.Tensor, ids: torch.Tensor, schedule: Schedule,
    micro: int,
) -> tuple[float, int]:  # fmt: skip
    """Gradients of the batch's mean loss from the places `own` of it, and that loss; out of memory halves `micro`."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    while True:
        parts = [own[start : start + micro] for start in range(0, len(own), micro)]
        loss_of = partial(_loss, model, batch, latents, ids, schedule)
        try:
            return _added_up(model, parts, loss_of, world), micro
        except torch.OutOfMemoryError:
            if micro == 1 or world > 1:
                raise
        # Only here, when the error and its frames are gone, is the memory of the graph free.
        micro = -(-micro // 2)
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        print(f"out of memory: micro-batch lowered to {micro}, the batch stays {schedule.batch}", file=sys.stderr)


def _added_up(model: Any, parts: list[Any], loss_of: Callable[[Any], torch.Tensor], world: int) -> float:
    """Add up the gradients of all parts, and their loss over all processes."""
    total: Any = 0.0
    for place, part in enumerate(parts):
        with nullcontext() if place == len(parts) - 1 or world == 1 else model.no_sync():
            loss = loss_of(part)
            (loss * world).backward()
        total = total + loss.detach()
    if world > 1:
        dist.all_reduce(total)
    return float(total)


def _loss(
    model: Any, batch: Batch, latents: torch.Tensor, ids: torch.Tensor, schedule: Schedule, part: NDArray[np.int64]
) -> torch.Tensor:
    """What these images add to the batch's mean loss."""
    device, low = ids.device, schedule.precision == "bf16"
    used, position = np.unique(batch.captions[part], return_inverse=True)
    with torch.autocast(device.type, torch.bfloat16) if low else nullcontext():
        loss = model(
            latents[batch.rows[part]].to(device), ids[torch.from_numpy(used)],
            torch.from_numpy(position).to(device), batch.times[part].to(device), batch.noise[part].to(device),
        )  # fmt: skip
    return torch.as_tensor(loss / schedule.batch)


def learning_rate(schedule: Schedule, step: int) -> float:
    """Linear warm-up, then a half cosine to zero, or constant."""
    warmup = min(schedule.warmup, schedule.steps // 10)
    if step < warmup or schedule.decay == "constant":
        return schedule.learning_rate * min(1.0, (step + 1) / max(1, warmup))
    rest = (step - warmup) / max(1, schedule.steps - warmup)
    return float(schedule.learning_rate * 0.5 * (1 + np.cos(np.pi * min(rest, 1.0))))


@torch.no_grad()
def _update_average(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    learnt = [(a, b) for a, b in zip(average.parameters(), model.parameters(), strict=True) if b.requires_grad]
    get_ema_multi_avg_fn(decay)([a for a, _ in learnt], [b for _, b in learnt], 0)
