"""Image autoencoders with factor 8 and four latent channels: the small one that ships, TAESD, Stable Diffusion's VAE.

All are stock diffusers classes and share Stable Diffusion 1.x's latent space. The shipped encoder has seen procedural
pictures only (see `distillation.py`); its decoder is tuned on exactly the images that a generator may see.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.nn.utils.parametrizations import spectral_norm

Autoencoder = Any  # diffusers.AutoencoderTiny or diffusers.AutoencoderKL
Features = Callable[[torch.Tensor], list[torch.Tensor]]  # images [-1, 1] [N, 3, H, W] -> feature maps
Part = TypeVar("Part")


class Stored(Protocol):
    """Images uint8 [N, H, W, 3], an array or what reads them where they lie."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> NDArray[np.uint8]: ...


SHIPPED = Path(__file__).parent / "augury-ae"
FACTOR = 8
KEPT_EVERY = 120.0  # seconds between two states of a training
CRITIC_FROM = 0.2  # share of a tuning's steps after which its critic is heard
TINY: dict[str, Any] = dict(
    encoder_block_out_channels=(32, 32, 32, 32),
    decoder_block_out_channels=(32, 32, 32, 32),
    num_encoder_blocks=(1, 1, 2, 2),
    num_decoder_blocks=(2, 2, 1, 1),
)


def working_resolution(size: int) -> int:
    """Side in pixels at which the autoencoder works: the smallest multiple of size that is at least 64."""
    if size % FACTOR:
        raise ValueError(f"size {size} is not a multiple of {FACTOR}")
    return size * -(-64 // size)


def new_tiny() -> Autoencoder:
    """An untrained AutoencoderTiny, 392,327 parameters."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(**TINY)


def load_autoencoder(folder: Path) -> Autoencoder:
    """Load a diffusers folder (AutoencoderTiny or AutoencoderKL) in float32, evaluation mode."""
    import diffusers

    config = json.loads((folder / "config.json").read_text())
    name = config.get("_class_name")
    if name not in ("AutoencoderTiny", "AutoencoderKL"):
        raise ValueError(f"{folder} holds a {name}; an autoencoder is AutoencoderTiny or AutoencoderKL")
    return getattr(diffusers, name).from_pretrained(folder, local_files_only=True).float().eval()


def load_taesd(file: Path) -> Autoencoder:
    """Load TAESD from one safetensors file with diffusers' key names."""
    from diffusers import AutoencoderTiny
    from safetensors.torch import load_file

    model = AutoencoderTiny(latent_channels=4)
    model.load_state_dict({key: value.float() for key, value in load_file(file).items()}, strict=True)
    return model.eval()


def to_tensor(images: NDArray[np.uint8], resolution: int) -> torch.Tensor:
    """Images uint8 [N, H, W, 3] -> float32 [N, 3, R, R] in [-1, 1], bicubic when the side changes."""
    batch = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if batch.shape[-1] != resolution or batch.shape[-2] != resolution:
        batch = F.interpolate(batch, (resolution, resolution), mode="bicubic", antialias=True, align_corners=False)
    return batch.clamp(-1, 1)


def to_images(batch: torch.Tensor, size: int) -> NDArray[np.uint8]:
    """Float [N, 3, R, R] in [-1, 1] -> uint8 [N, size, size, 3], averaged over areas when the side changes."""
    if batch.shape[-1] != size:
        batch = F.interpolate(batch.float(), (size, size), mode="area")
    levels = (batch.float().clamp(-1, 1) + 1) * 127.5
    return levels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def encode(model: Autoencoder, images: Stored, resolution: int, batch: int = 64) -> torch.Tensor:
    """Images uint8 [N, H, W, 3] -> latents float32 [N, 4, R/8, R/8] times the model's scaling factor, on the CPU.

    AutoencoderKL gives the mode of its posterior.
    """
    device = next(model.parameters()).device

    def some(part: slice) -> torch.Tensor:
        latents = _latents(model, to_tensor(images[part], resolution).to(device))
        return latents.mul(model.config.scaling_factor).cpu()

    out = torch.empty(0)
    for part, latents in in_parts(some, len(images), batch):
        out = out if part.start else torch.empty((len(images), *latents.shape[1:]))
        out[part] = latents
    return out


def _latents(model: Autoencoder, pictures: torch.Tensor) -> torch.Tensor:
    """Latents of pictures [N, 3, R, R], not scaled; the mode of a posterior."""
    output = model.encode(pictures)
    latents: torch.Tensor = output.latents if hasattr(output, "latents") else output.latent_dist.mode()
    return latents


def in_parts(
    call: Callable[[slice], Part], n: int, batch: int, what: str = "the autoencoder"
) -> Iterator[tuple[slice, Part]]:
    """(rows, call(rows)) over n rows, `batch` at once; out of memory halves the batch and goes on."""
    start = 0
    while start < n:
        part = slice(start, min(n, start + batch))
        try:
            found = call(part)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch = -(-batch // 2)
            torch.cuda.empty_cache()
            print(f"out of memory: {what} goes on with {batch} images at once", file=sys.stderr)
            continue
        yield part, found
        start = part.stop


@torch.no_grad()
def decode(model: Autoencoder, latents: torch.Tensor, size: int, batch: int = 64) -> NDArray[np.uint8]:
    """Latents [N, 4, h, w] -> images uint8 [N, size, size, 3]."""
    device = next(model.parameters()).device

    def some(part: slice) -> NDArray[np.uint8]:
        return to_images(model.decode(latents[part].to(device) / model.config.scaling_factor).sample, size)

    out = np.empty((len(latents), size, size, 3), np.uint8)
    for part, images in in_parts(some, len(latents), batch):
        out[part] = images
    return out


def round_trip(model: Autoencoder, resolution: int, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """decode(encode(images)) at the images' own side: the best copy that a latent model can emit."""
    return decode(model, encode(model, images, resolution), images.shape[1])


def tune_decoder(
    model: Autoencoder,
    images: Stored,
    resolution: int,
    features: Features,
    *,
    images_seen: int,
    weights: NDArray[np.float64] | None = None,
    batch: int = 32,
    learning_rate: float = 1.5e-3,
    adversarial: float = 0.5,
    precision: str = "bf16",
    seed: int = 0,
    checkpoint: Path | None = None,
    report: Callable[[int, float], None] = lambda seen, loss: None,
) -> list[float]:
    """Tune the decoder in place on images uint8 [N, H, W, 3], the encoder frozen; returns the loss of each step.

    weights float64 [N]: the probability of each image (None = all alike). Loss: 0.5 L1 + 0.5 (normalised feature maps +
    Gram matrices) and, after a fifth of the steps, what a critic of the feature maps says, its gradient at the pictures
    `adversarial` times as long as the rest's; random left-right flips, AdamW. precision: bf16 (autocast of autoencoder
    and critic; features and losses stay in float32) or fp32. checkpoint: a folder in which the state is kept every two
    minutes and from which an earlier run goes on. Raises FloatingPointError when the loss is not finite.
    """
    device = next(model.parameters()).device
    model.requires_grad_(False)
    learnt = [part for name in ("decoder", "post_quant_conv") if (part := getattr(model, name, None)) is not None]
    parameters = [each for part in learnt for each in part.requires_grad_(True).parameters()]
    critic = _critic(features, resolution, device, seed)
    optimisers = (torch.optim.AdamW(parameters, lr=learning_rate),
                  torch.optim.AdamW(critic.parameters(), lr=2e-4, betas=(0.5, 0.99)))  # fmt: skip
    steps = max(1, images_seen // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimisers[0], lambda step: _rate(step, steps))

    state = {f"part {i}": part for i, part in enumerate(learnt)} | {"optimiser": optimisers[0], "schedule": schedule}
    state |= {"critic": critic, "critic's optimiser": optimisers[1]}
    losses, saved, micro = kept_state(checkpoint, state), time.monotonic(), batch
    for step in range(len(losses), steps):
        # Draw a batch and encode it; nothing is learnt by the encoder.
        rng = np.random.default_rng([seed, step])
        target = to_tensor(images[rng.choice(len(images), batch, p=weights)], resolution).to(device)
        if rng.random() < 0.5:
            target = target.flip(-1)
        low = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
        with torch.no_grad(), low:
            latents = _latents(model, target)

        # Update the decoder and its critic.
        rate, strength = schedule.get_last_lr()[0], adversarial if step >= CRITIC_FROM * steps else 0.0
        for each in optimisers:
            each.zero_grad(set_to_none=True)
        loss, micro = _gradients(model, critic, latents, target, features, strength, micro, low)
        for each in optimisers:
            each.step()
        schedule.step()
        losses.append(loss)
        if not np.isfinite(loss):
            raise FloatingPointError(f"decoder: loss is {loss} at step {step}, learning rate {rate:.2g}")
        report((step + 1) * batch, losses[-1])
        if checkpoint and time.monotonic() - saved > KEPT_EVERY:
            keep_state(checkpoint, state, losses)
            saved = time.monotonic()
    model.eval()
    return losses


def _rate(step: int, steps: int) -> float:
    """Share of the learning rate at a step: upwards until the critic is heard, lest AdamW's first steps undo what the
    decoder knows, then half a cosine to zero."""
    first = CRITIC_FROM * steps
    rest = max(0.0, (step - first) / max(1.0, steps - first))
    return float(min(1.0, (step + 1) / (first + 1)) * 0.5 * (1 + np.cos(np.pi * min(1.0, rest))))


class Critic(torch.nn.Module):
    """Real or decoded, told from frozen feature maps [N, C, h, w], a small head a map (projected GAN, Sauer 2021, arXiv
    2111.01007), spectrally normalised."""

    def __init__(self, channels: list[int], width: int = 64) -> None:
        super().__init__()
        shapes = [[(c, w, 1), (w, w, 3), (w, 1, 1)] for c in channels for w in [min(width, 2 * c)]]
        self.heads = torch.nn.ModuleList(torch.nn.Sequential(*self._layers(shape)) for shape in shapes)

    @staticmethod
    def _layers(shape: list[tuple[int, int, int]]) -> list[torch.nn.Module]:
        convolutions = [torch.nn.Conv2d(a, b, side, padding=side // 2) for a, b, side in shape]
        layers = [part for each in convolutions for part in (spectral_norm(each), torch.nn.LeakyReLU(0.2))]
        return layers[:-1]

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        return [head(each) for head, each in zip(self.heads, maps, strict=True)]


def _critic(features: Features, resolution: int, device: torch.device, seed: int) -> Critic:
    """A new critic of these features; its weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        maps = features(torch.zeros((1, 3, resolution, resolution), device=device))
        return Critic([each.shape[1] for each in maps]).to(device)


def _gradients(
    model: Autoencoder, critic: Critic, latents: torch.Tensor, target: torch.Tensor, features: Features,
    strength: float, micro: int, low: torch.autocast,
) -> tuple[float, int]:  # fmt: skip
    """Gradients of the batch's mean loss, and that loss; out of memory halves the micro-batch and starts over."""
    while True:
        total = 0.0
        try:
            for z, x in zip(latents.split(micro), target.split(micro), strict=True):
                share = len(z) / len(latents)
                with low:
                    output = model.decode(z).sample
                loss, gradient = _judged(output.float(), x, features, critic, strength, share, low)
                output.backward(gradient.to(output.dtype))
                total += share * loss
            return total, micro
        except torch.OutOfMemoryError:
            if micro == 1:
                raise
            micro = -(-micro // 2)
            model.zero_grad(set_to_none=True)
            critic.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            print(f"out of memory: micro-batch of the decoder lowered to {micro}", file=sys.stderr)


def _judged(
    output: torch.Tensor, target: torch.Tensor, features: Features, critic: Critic, strength: float, share: float,
    low: torch.autocast,
) -> tuple[float, torch.Tensor]:  # fmt: skip
    """The loss of decoded pictures [n, 3, R, R] and its gradient, times their share of the batch; the critic learns too
    (hinge loss)."""
    shown = output.detach().requires_grad_()
    with torch.no_grad():
        real = features(target)
    made = features(shown)
    loss = 0.5 * F.l1_loss(shown, target) + 0.5 * perceptual_loss(made, real)
    (gradient,) = torch.autograd.grad(loss, shown, retain_graph=True)
    critic.requires_grad_(True)
    with low:
        verdicts = zip(critic(real), critic([each.detach() for each in made]), strict=True)
    losses = [F.relu(1 - true.float()).mean() + F.relu(1 + false.float()).mean() for true, false in verdicts]
    hinge = torch.stack(losses).mean()
    (share * hinge).backward()
    if strength:
        critic.requires_grad_(False)
        with low:
            verdict = critic(made)
        fooled = -torch.stack([each.float().mean() for each in verdict]).mean()
        (pull,) = torch.autograd.grad(fooled, shown)
        gradient = gradient + strength * gradient.norm() / pull.norm().clamp_min(1e-8) * pull
    return loss.item(), share * gradient


def keep_state(folder: Path, parts: Mapping[str, Any], losses: list[float]) -> None:
    """Write the state_dict of each part beside the old one and swap them, so that a kill in between loses nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save(state | {"losses": json.dumps(losses)}, folder / "state.pt.partial")
    os.replace(folder / "state.pt.partial", folder / "state.pt")


def kept_state(folder: Path | None, parts: Mapping[str, Any]) -> list[float]:
    """Load what `keep_state` wrote into the parts; returns the losses so far, none where nothing was kept."""
    if folder is None or not (folder / "state.pt").exists():
        return []
    state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    losses: list[float] = json.loads(state["losses"])
    return losses


def perceptual_loss(output: list[torch.Tensor], target: list[torch.Tensor]) -> torch.Tensor:
    """Mean over stages of the squared distance of channel-normalised maps (Zhang 2018, LPIPS without its learnt
    weights) plus that of their Gram matrices (Gatys 2016)."""
    loss = output[0].new_zeros(())
    for a, b in zip(output, target, strict=True):
        a, b = F.normalize(a, dim=1), F.normalize(b.detach(), dim=1)
        loss = loss + (a - b).square().sum(1).mean()
        loss = loss + (_gram(a) - _gram(b)).square().sum((1, 2)).mean()
    return loss / len(output)


def _gram(maps: torch.Tensor) -> torch.Tensor:
    flat = maps.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[-1]
