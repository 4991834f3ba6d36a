"""One loop that trains a classifier on any mixture of images held in memory; how images are augmented and corrupted."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from classifiers.metrics import score


@dataclass(frozen=True)
class Settings:
    """steps and warmup in optimiser steps, batch in images, shift in pixels; the same for every arm and budget."""

    steps: int = 100
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    optimiser: str = "adamw"  # adamw | sgd, with Nesterov momentum 0.9
    warmup: int = 10
    shift: int = 2
    flip: bool = True
    strong: bool = False  # rotation, scale, brightness, contrast and erasing as well
    precision: str = "bf16"  # bf16 | fp32
    select: str = "best"  # best | last, by validation on real images
    evaluations: int = 3


@dataclass(frozen=True)
class Pool:
    """Images uint8 [N, H, W, 3] and labels (int64 [N], multi-label uint8 [N, K]) that fill a share of each batch."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | NDArray[np.uint8]
    share: float


def fit(
    model: torch.nn.Module,
    pools: list[Pool],
    validation: Pool,
    task: str,
    settings: Settings,
    *,
    seed: int,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> list[dict[str, float]]:
    """Train in place on batches that draw `share` of their images from each pool; returns the curve.

    Every pool is passed through in random order again and again. With select='best' the weights of the evaluation
    with the highest validation AUROC are kept. Deterministic in (model, pools, seed).
    """
    rng = np.random.default_rng(seed)
    device = next(model.parameters()).device
    streams = [_stream(len(pool.images), rng) for pool in pools]
    counts = _split_batch(settings.batch, [pool.share for pool in pools])
    optimiser = _optimiser(model, settings)
    stops = {round(settings.steps * (i + 1) / settings.evaluations) for i in range(settings.evaluations)}
    best, kept, curve = -np.inf, None, []

    model.train()
    for step in range(1, settings.steps + 1):
        # Draw a batch with its share of each pool.
        rows = [[next(stream) for _ in range(count)] for stream, count in zip(streams, counts, strict=True)]
        images = np.concatenate([pool.images[row] for pool, row in zip(pools, rows, strict=True)])
        labels = np.concatenate([pool.labels[row] for pool, row in zip(pools, rows, strict=True)])
        batch = augment(to_input(images, device), rng, settings.shift, settings.flip)
        if settings.strong:
            batch = distort(batch, rng)

        # Update the weights.
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(settings, step)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            logits = model(batch)
        loss = _loss(logits.float(), torch.from_numpy(labels).to(device), task)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        report(step, loss.item())

        # Look at the validation set, which is real, and keep the best weights.
        if step in stops and settings.select == "best":
            probabilities = predict(model, validation.images, task, settings.precision)
            auroc = score(validation.labels, probabilities, task)["auroc"]
            curve.append({"step": float(step), "loss": loss.item(), "validation_auroc": float(auroc)})
            if np.isnan(auroc) or auroc > best:
                best = -np.inf if np.isnan(auroc) else auroc
                kept = {name: value.clone() for name, value in model.state_dict().items()}
            model.train()

    if kept is not None:
        model.load_state_dict(kept)
    model.eval()
    return curve


def pretrain_and_tune(
    model: torch.nn.Module, synthetic: Pool, real: Pool, validation: Pool, task: str, settings: Settings, *, seed: int,
    rates: tuple[float, ...] = (1.0, 0.3, 0.1),
) -> list[dict[str, float]]:  # fmt: skip
    """Half of the steps on synthetic images, the other half on real ones at the fine-tuning rate that does best.

    rates: factors of the learning rate; validation chooses. Returns the curve of the one that is kept.
    """
    first = replace(settings, steps=settings.steps // 2, select="last")
    fit(model, [replace(synthetic, share=1.0)], validation, task, first, seed=seed)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    best, kept, curve = -np.inf, start, []
    for rate in rates:
        model.load_state_dict(start)
        second = replace(settings, steps=settings.steps - first.steps, learning_rate=rate * settings.learning_rate)
        found = fit(model, [replace(real, share=1.0)], validation, task, second, seed=seed + 1)
        probabilities = predict(model, validation.images, task, settings.precision)
        auroc = score(validation.labels, probabilities, task)["auroc"]
        if np.isnan(auroc) or auroc > best:
            best, curve = (-np.inf if np.isnan(auroc) else auroc), [each | {"rate": rate} for each in found]
            kept = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(kept)
    model.eval()
    return curve


@torch.no_grad()
def predict(
    model: torch.nn.Module, images: NDArray[np.uint8], task: str, precision: str = "fp32", batch: int = 256
) -> NDArray[np.float64]:
    """Images uint8 [N, H, W, 3] -> probabilities float64 [N, K]; softmax, or one sigmoid a label."""
    model.eval()
    device, out = next(model.parameters()).device, []
    for start in range(0, len(images), batch):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(to_input(images[start : start + batch], device))
        double = logits.double()
        out.append(double.sigmoid() if task == "multilabel" else double.softmax(1))
    return torch.cat(out).cpu().numpy()


def to_input(images: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-2, 2] (mean 0.5, standard deviation 0.25)."""
    batch = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return batch.permute(0, 3, 1, 2).float().div_(63.75).sub_(2.0)


def augment(batch: torch.Tensor, rng: np.random.Generator, shift: int, flip: bool) -> torch.Tensor:
    """Shift each image by up to `shift` pixels (edges reflected) and flip half of them left to right."""
    n, _, height, width = batch.shape
    if shift:
        padded = F.pad(batch, (shift,) * 4, mode="reflect")
        dy, dx = rng.integers(0, 2 * shift + 1, (2, n))
        rows = torch.from_numpy(dy[:, None] + np.arange(height))[:, None, :, None]
        columns = torch.from_numpy(dx[:, None] + np.arange(width))[:, None, None, :]
        index = torch.arange(n)[:, None, None, None], torch.arange(batch.shape[1])[None, :, None, None]
        batch = padded[index[0], index[1], rows, columns]
    if flip:
        flipped = torch.from_numpy(rng.random(n) < 0.5).to(batch.device)
        batch = torch.where(flipped[:, None, None, None], batch.flip(-1), batch)
    return batch


def distort(batch: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Rotate (up to 20 degrees), scale (0.8 to 1.25), change brightness and contrast, erase a square."""
    n, _, height, width = batch.shape
    angle, scale = np.deg2rad(rng.uniform(-20, 20, n)), np.exp(rng.uniform(np.log(0.8), np.log(1.25), n))
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    turn = np.stack([np.stack([cos, -sin, 0 * cos], 1), np.stack([sin, cos, 0 * cos], 1)], 1)
    grid = F.affine_grid(torch.from_numpy(turn).to(batch), list(batch.shape), align_corners=False)
    batch = F.grid_sample(batch, grid, padding_mode="reflection", align_corners=False)
    gain, lift = (torch.from_numpy(rng.uniform(*ends, (n, 1, 1, 1))).to(batch) for ends in ((0.7, 1.4), (-0.4, 0.4)))
    batch = batch * gain + lift
    side = max(1, min(height, width) // 4)
    top, left = rng.integers(0, height - side + 1, n), rng.integers(0, width - side + 1, n)
    rows = torch.arange(height)[None, :] - torch.from_numpy(top)[:, None]
    columns = torch.arange(width)[None, :] - torch.from_numpy(left)[:, None]
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    return batch.masked_fill(inside[:, None].to(batch.device), 0.0)


def _optimiser(model: torch.nn.Module, settings: Settings) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimiser == "sgd":
        return torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay, momentum=0.9, nesterov=True)
    fused = next(model.parameters()).device.type != "mps"
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=fused)


def _loss(logits: torch.Tensor, labels: torch.Tensor, task: str) -> torch.Tensor:
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, labels.float())
    return F.cross_entropy(logits, labels.long())


def _stream(n: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(n)


def _split_batch(batch: int, shares: list[float]) -> list[int]:
    """Whole images of each pool in a batch: rounded shares, the first pool takes what is left."""
    rest = [round(batch * share) for share in shares[1:]]
    return [batch - sum(rest), *rest]


def _learning_rate(settings: Settings, step: int) -> float:
    """Linear warm-up, then a half cosine to zero."""
    if step <= settings.warmup:
        return settings.learning_rate * step / settings.warmup
    rest = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return float(settings.learning_rate * 0.5 * (1 + np.cos(np.pi * rest)))


Images = NDArray[np.uint8]


def blur(images: Images) -> Images:
    """Gaussian blur, standard deviation 1/40 of the side."""
    sigma = images.shape[1] / 40
    return np.asarray(np.rint(gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0))), np.uint8)


def contrast(images: Images) -> Images:
    """Half of the contrast around each image's mean."""
    mean = images.mean((1, 2, 3), keepdims=True)
    return np.asarray(np.rint(mean + 0.5 * (images - mean)), np.uint8)


def jpeg(images: Images) -> Images:
    """JPEG at quality 20."""
    out = np.empty_like(images)
    for place, image in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=20)
        out[place] = np.asarray(Image.open(buffer))
    return out


def noise(images: Images) -> Images:
    """Gaussian noise, standard deviation 20 grey levels, equal in the channels of a grey image; fixed seed."""
    grey = bool((images[..., :1] == images).all())
    shape = (*images.shape[:3], 1 if grey else 3)
    drawn = np.random.default_rng(0).normal(0, 20, shape)
    return np.clip(np.rint(images + drawn), 0, 255).astype(np.uint8)


CORRUPTIONS: dict[str, Callable[[Images], Images]] = {"blur": blur, "contrast": contrast, "jpeg": jpeg, "noise": noise}
