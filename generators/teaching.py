"""How autoencoders are taught: the one that ships on procedural pictures only, its decoder on what a generator may see;
and the small recipe's vocabulary.

Dead leaves (Lee, Mumford & Huang 2001; used for learning features by Baradad et al. 2021, arXiv 2106.05963): random
ellipses that hide one another, here soft or sharp, textured with 1/f^b noise, tinted, shaded and speckled, some seen
through a round aperture, half of them grey. `python -m generators.teaching` writes the vocabulary,
`augury distil` the autoencoder.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.nn.utils.parametrizations import spectral_norm

from generators.autoencoders import (
    KEPT_EVERY,
    Autoencoder,
    Features,
    Stored,
    latents_of,
    resume_state,
    save_state,
    to_tensor,
)  # fmt: skip
from generators.latent_diffusion import VOCABULARY

START, END = "<|startoftext|>", "<|endoftext|>"
CHUNK = 256  # pictures drawn at once
CRITIC_FROM = 0.2  # share of a tuning's steps after which its critic is heard


def learn_vocabulary(lines: list[str], size: int = 1500) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Lines of text -> (token ids, merges); ids as CLIP orders them: bytes, bytes at word ends, merges, start, end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    model = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(vocab_size=size, end_of_word_suffix="</w>", show_progress=False)
    model.train_from_iterator((line.lower() for line in lines for _ in range(2)), trainer)
    merges = [tuple(merge) for merge in json.loads(model.to_str())["model"]["merges"]]

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = letters + [f"{letter}</w>" for letter in letters] + ["".join(merge) for merge in merges] + [START, END]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def write_vocabulary(folder: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Write vocab.json, merges.txt and the two small files that make the folder a CLIPTokenizer's."""
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 32}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, indent=0) + "\n")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges)]) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def dead_leaves(n: int, size: int, rng: np.random.Generator, leaves: int = 36) -> NDArray[np.uint8]:
    """Draw n pictures, uint8 [n, size, size, 3]; the same rng state gives the same pictures."""
    chunks = [_draw(min(CHUNK, n - start), size, rng, leaves) for start in range(0, n, CHUNK)]
    return np.concatenate(chunks) if chunks else np.zeros((0, size, size, 3), np.uint8)


def power_noise(n: int, size: int, exponent: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise with amplitude spectrum 1/f^exponent, one exponent a picture, float32 [n, size, size], unit variance."""
    spectrum = np.fft.rfft2(rng.standard_normal((n, size, size), dtype=np.float32))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1.0
    noise = np.fft.irfft2(spectrum * frequency[None] ** -exponent[:, None, None], s=(size, size))
    noise -= noise.mean((1, 2), keepdims=True)
    return np.asarray(noise / (noise.std((1, 2), keepdims=True) + 1e-8), np.float32)


def _draw(n: int, size: int, rng: np.random.Generator, leaves: int) -> NDArray[np.uint8]:
    def uniform(low: float, high: float, *shape: int) -> NDArray[np.float32]:
        return rng.uniform(low, high, (n, *shape)).astype(np.float32)

    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size

    # Each picture has a palette: leaves vary around one colour, greys are made at the end.
    base, spread = uniform(0.05, 0.95, 3), uniform(0.05, 0.5, 1)
    picture = np.broadcast_to(base[:, None, None, :], (n, size, size, 3)).copy()
    softness = np.exp(uniform(np.log(0.01), np.log(0.25)))
    largest = uniform(0.08, 0.5)
    used = uniform(0.1, 1.0)

    # Paint the leaves from back to front.
    for leaf in range(leaves):
        radius = np.exp(rng.uniform(np.log(0.02), 0.0, n)).astype(np.float32) * largest
        angle, stretch = uniform(0, np.pi), uniform(0.25, 1.0)
        dx = x[None] - uniform(-0.1, 1.1)[:, None, None]
        dy = y[None] - uniform(-0.1, 1.1)[:, None, None]
        cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
        u, v = cos * dx + sin * dy, (cos * dy - sin * dx) / stretch[:, None, None]
        depth = 1 - np.sqrt(u * u + v * v) / radius[:, None, None]
        edge = np.clip(depth / softness[:, None, None] + 0.5, 0, 1) * (leaf < used * leaves)[:, None, None]
        colour = base + spread * rng.standard_normal((n, 3), dtype=np.float32)
        picture += edge[..., None] * (colour[:, None, None, :] - picture)

    # Texture, shading, speckle.
    for low, high, strength in ((0.3, 1.2, 0.15), (1.0, 2.2, 0.15)):
        noise = power_noise(n, size, uniform(low, high), rng) * (uniform(0, 1) ** 2 * strength)[:, None, None]
        picture += noise[..., None]
    slope = uniform(-0.5, 0.5, 2)
    picture *= (1 + slope[:, :1, None] * (x - 0.5) + slope[:, 1:, None] * (y - 0.5))[..., None]
    speckle = rng.standard_normal((n, size, size, 1), dtype=np.float32)
    picture *= 1 + speckle * ((uniform(0, 1) < 0.3) * uniform(0, 0.4))[:, None, None, None]

    # A round aperture in a quarter of them, half of them grey.
    centre, radius = uniform(0.4, 0.6, 2), uniform(0.35, 0.6)
    distance = np.hypot(x[None] - centre[:, :1, None], y[None] - centre[:, 1:, None])
    inside = (distance < radius[:, None, None]) | (uniform(0, 1) > 0.25)[:, None, None]
    picture *= inside[..., None]
    grey = (uniform(0, 1) < 0.5)[:, None, None, None]
    picture = np.where(grey, picture.mean(-1, keepdims=True), picture)
    return np.asarray(np.clip(picture * 255 + 0.5, 0, 255), np.uint8)


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
    losses, saved, micro = resume_state(checkpoint, state), time.monotonic(), batch
    for step in range(len(losses), steps):
        # Draw a batch.
        rng = np.random.default_rng([seed, step])
        target = to_tensor(images[rng.choice(len(images), batch, p=weights)], resolution).to(device)
        if rng.random() < 0.5:
            target = target.flip(-1)

        # Update the decoder and its critic; nothing is learnt by the encoder.
        low = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
        rate, strength = schedule.get_last_lr()[0], adversarial if step >= CRITIC_FROM * steps else 0.0
        for each in optimisers:
            each.zero_grad(set_to_none=True)
        loss, micro = _gradients(model, critic, target, features, strength, micro, low)
        if not np.isfinite(loss):
            raise FloatingPointError(f"decoder: loss is {loss} at step {step}, learning rate {rate:.2g}")
        for each in optimisers:
            each.step()
        schedule.step()
        losses.append(loss)
        report((step + 1) * batch, losses[-1])
        if checkpoint and time.monotonic() - saved > KEPT_EVERY:
            save_state(checkpoint, state, losses)
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
    model: Autoencoder, critic: Critic, target: torch.Tensor, features: Features, strength: float, micro: int,
    low: torch.autocast,
) -> tuple[float, int]:  # fmt: skip
    """The batch's mean loss (not finite where its gradient is not); out of memory halves the micro-batch, once more."""
    while True:
        try:
            return _added_up(model, critic, target.split(micro), features, strength, low), micro
        except torch.OutOfMemoryError:
            if micro == 1:
                raise
        # Only here, when the error and its frames are gone, is the memory of the graph free.
        micro = -(-micro // 2)
        model.zero_grad(set_to_none=True)
        critic.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        print(f"out of memory: micro-batch of the decoder lowered to {micro}", file=sys.stderr)


def _added_up(
    model: Autoencoder, critic: Critic, parts: tuple[torch.Tensor, ...], features: Features, strength: float,
    low: torch.autocast,
) -> float:  # fmt: skip
    """Add up the gradients of all parts of a batch, and their loss."""
    total, batch = 0.0, sum(len(x) for x in parts)
    for x in parts:
        share = len(x) / batch
        with low:
            with torch.no_grad():
                latents = latents_of(model, x)
            output = model.decode(latents).sample
        loss, gradient = _judged(output.float(), x, features, critic, strength, share, low)
        output.backward(gradient.to(output.dtype))
        total += share * loss + 0 * gradient.sum().item()
    return total


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


if __name__ == "__main__":
    corpus = (VOCABULARY / "corpus.txt").read_text().splitlines()
    write_vocabulary(VOCABULARY, *learn_vocabulary(corpus))
