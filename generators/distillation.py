"""How what ships was made: the small recipe's vocabulary, and an autoencoder taught on procedural pictures only.

Dead leaves (Lee, Mumford & Huang 2001; used for learning features by Baradad et al. 2021, arXiv 2106.05963): random
ellipses that hide one another, here soft or sharp, textured with 1/f^b noise, tinted, shaded and speckled, some seen
through a round aperture, half of them grey. `python -m generators.distillation` writes the vocabulary,
`augury distil` the autoencoder.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from generators.autoencoders import Autoencoder, Features, perceptual_loss, to_tensor
from generators.latent_diffusion import VOCABULARY

START, END = "<|startoftext|>", "<|endoftext|>"
CHUNK = 256  # pictures drawn at once


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


if __name__ == "__main__":
    corpus = (VOCABULARY / "corpus.txt").read_text().splitlines()
    write_vocabulary(VOCABULARY, *learn_vocabulary(corpus))
