"""The guided sampler: captions and seeds -> images. Image i depends on (checkpoint, caption i, seed i) alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from generators.autoencoders import decode
from generators.latent_diffusion import token_ids, with_scheduler


@torch.no_grad()
def sample(
    pipeline: Any,
    captions: list[str],
    seeds: list[int],
    *,
    size: int,
    steps: int = 15,
    guidance: float = 2.0,
    batch: int = 64,
    scheduler: str = "",
    report: Callable[[int], None] = lambda done: None,
) -> NDArray[np.uint8]:
    """Draw one image a caption, uint8 [N, size, size, 3], by guidance (1 = none) and the pipeline's own scheduler, or
    another of diffusers by its class name.

    One seed an image, so batch size and order matter no more than rounding (one grey level).
    Raises FloatingPointError when the model returns numbers that are not finite.
    """
    if len(captions) != len(seeds):
        raise ValueError(f"{len(captions)} captions but {len(seeds)} seeds")
    if scheduler and scheduler != type(pipeline.scheduler).__name__:
        pipeline = with_scheduler(pipeline, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    texts, which = np.unique(np.array([*captions, ""], dtype=object).astype(str), return_inverse=True)
    embeddings = _encode(pipeline, [str(text) for text in texts])
    empty, rows = embeddings[which[-1]], which[:-1]

    out = []
    for start in range(0, len(seeds), batch):
        index = torch.from_numpy(rows[start : start + batch])
        random = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + batch]]
        latents = pipeline(
            prompt_embeds=embeddings[index],
            negative_prompt_embeds=empty.expand(len(index), -1, -1),
            latents=noise(pipeline, random),
            generator=random,
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="latent",
        ).images
        if not torch.isfinite(latents).all():
            raise FloatingPointError("the sampler returned numbers that are not finite; was training stable?")
        out.append(decode(pipeline.vae, latents, size))
        report(start + len(index))
    return np.concatenate(out) if out else np.zeros((0, size, size, 3), np.uint8)


def noise(pipeline: Any, random: list[torch.Generator]) -> torch.Tensor:
    """Starting noise float32 [N, C, h, w], each picture from its own CPU generator, as in plain diffusers."""
    config = pipeline.unet.config
    shape = (config.in_channels, config.sample_size, config.sample_size)
    drawn = [torch.randn(shape, generator=each) for each in random]
    return torch.stack(drawn).to(pipeline.device)


def _encode(pipeline: Any, texts: list[str]) -> torch.Tensor:
    ids = token_ids(pipeline.tokenizer, texts).to(pipeline.device)
    return torch.cat([pipeline.text_encoder(part)[0] for part in ids.split(256)])
