"""Assemble, load and save a diffusers pipeline; the noise schedule and the loss; the guided sampler."""

import sys
from collections.abc import Callable, Sequence
from copy import copy
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from generators.autoencoders import decode, in_parts

VOCABULARY = Path(__file__).parent / "augury-vocabulary"
MAX_TOKENS = 32
Pipeline = Any  # diffusers.StableDiffusionPipeline


def tokenizer() -> Any:
    """The byte-pair vocabulary that ships with the small recipe, as a CLIPTokenizer of 32 tokens."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(VOCABULARY, model_max_length=MAX_TOKENS, local_files_only=True)


def small_pipeline(vae: Any, resolution: int, channels: tuple[int, ...], width: int, seed: int) -> Pipeline:
    """An untrained StableDiffusionPipeline: U-Net of `channels`, attention at its coarsest level (where it costs
    least), the pooled text added to the time in every block, two-layer CLIP text encoder of `width`.

    The initial weights depend on seed alone; the global random state is left as it was.
    """
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    words = tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=max(1, width // 32),
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    blocks = len(channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=resolution // 8,
            in_channels=4,
            out_channels=4,
            block_out_channels=channels,
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * (blocks - 1) + ("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (blocks - 1),
            cross_attention_dim=width,
            attention_head_dim=4,
            norm_num_groups=16,
            addition_embed_type="text",  # pooled, to every block beside the time: labels are learnt sooner
            addition_embed_type_num_heads=4,
        )
        encoder = CLIPTextModel(text)
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=words,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def load_pipeline(folder: Path) -> Pipeline:
    """Load a diffusers folder in float32 for evaluation; safetensors only, nothing is downloaded.

    Without a safety checker, which blackens pictures that it takes for indecent, skin and wounds among them.
    """
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        part.eval()
    return pipeline


def add_lora(pipeline: Pipeline, rank: int) -> None:
    """Low-rank adapters in the U-Net's attention (Hu 2021, arXiv 2106.09685); nothing else is trained after this."""
    from peft import LoraConfig

    pipeline.text_encoder.requires_grad_(False)
    pipeline.unet.requires_grad_(False)
    layers = ["to_q", "to_k", "to_v", "to_out.0"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers))


def merge_lora(pipeline: Pipeline) -> None:
    """Fold the adapters into the U-Net's weights, so that the folder is a stock one."""
    pipeline.unet.fuse_lora()
    pipeline.unet.unload_lora()


def with_scheduler(pipeline: Pipeline, name: str) -> Pipeline:
    """A pipeline of the same parts with another of diffusers' schedulers, by class name, of the same noise levels.

    Solvers other than our default step from diffusers' `leading` times: DDIM and PNDM take their step to fit those
    alone, and at the very last time the cosine schedule's sigma is 20,000, which Heun and KDPM2 do not survive.
    """
    import diffusers

    kind = getattr(diffusers, name, None)
    if kind is None or not hasattr(kind, "from_config") or not name.endswith("Scheduler"):
        raise ValueError(f"scheduler {name!r} is not one of diffusers', such as DDIMScheduler, EulerDiscreteScheduler")
    config, known = dict(pipeline.scheduler.config), signature(kind).parameters
    config |= {"timestep_spacing": "leading"} if name != "DPMSolverMultistepScheduler" else {}
    config |= {"clip_sample": False} if "clip_sample" in known else {}  # the default cuts to [-1, 1], meant for pixels
    config |= {"skip_prk_steps": True} if "skip_prk_steps" in known else {}  # PNDM as Stable Diffusion has it
    other = copy(pipeline)
    other.scheduler = kind.from_config(config)
    return other


def token_ids(words: Any, captions: list[str]) -> torch.Tensor:
    """Captions -> int64 [N, max tokens], padded and cut as the pipeline does it."""
    batch = words(
        captions,
        padding="max_length",
        max_length=words.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return torch.as_tensor(batch.input_ids)


def cut_short(words: Any, captions: list[str]) -> tuple[int, int]:
    """How many distinct captions are longer than the text encoder reads, and how many are then one with another."""
    texts, _ = distinct(captions)
    read = {tuple(row) for row in token_ids(words, texts).tolist()}
    return sum(len(ids) > words.model_max_length for ids in words(texts).input_ids), len(texts) - len(read)


def tell_cut(words: Any, texts: list[str], what: str) -> None:
    """Say on stderr where texts are longer than the text encoder reads, which the tokenizer cuts without a word."""
    long, alike = cut_short(words, texts)
    if long:
        print(f"{what}: {long} are longer than the {words.model_max_length} tokens that the text encoder reads and are "
              f"cut; {alike} it cannot tell from another one", file=sys.stderr)  # fmt: skip


def distinct(captions: list[str]) -> tuple[list[str], NDArray[np.int64]]:
    """The distinct captions in their order, and the place of each caption among them, int64 [N]."""
    place = {text: i for i, text in enumerate(dict.fromkeys(captions))}
    return list(place), np.array([place[text] for text in captions], np.int64)


def numbered(captions: Sequence[str | tuple[str, ...]]) -> tuple[list[str], NDArray[np.int64]]:
    """The distinct texts of captions [N], each one text or several wordings, and the places of each caption's among
    them, int64 [N + 1, P], the last row of no text."""
    words = {each: (each,) if isinstance(each, str) else each for each in [*captions, ""]}
    texts = list(dict.fromkeys(chain.from_iterable(words.values())))
    place, most = {text: i for i, text in enumerate(texts)}, max(map(len, words.values()))
    rows = {each: np.resize([place[text] for text in several], most) for each, several in words.items()}
    return texts, np.array([rows[each] for each in [*captions, ""]], np.int64)


def signal_and_noise(scheduler: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha_t and sigma_t of the scheduler, float32 [T] each, alpha^2 + sigma^2 = 1."""
    product = scheduler.alphas_cumprod.to(device=device, dtype=torch.float32)
    return product.sqrt(), (1 - product).sqrt()


def diffusion_loss(
    unet: Any,
    scheduler: Any,
    latents: torch.Tensor,
    text: torch.Tensor,
    steps: torch.Tensor,
    noise: torch.Tensor,
) -> torch.Tensor:
    """Squared error of each latent [N]: v = alpha eps - sigma x, or eps, as the scheduler's prediction type says."""
    alpha, sigma = (table[steps].view(-1, 1, 1, 1) for table in signal_and_noise(scheduler, latents.device))
    prediction = unet(alpha * latents + sigma * noise, steps, encoder_hidden_states=text).sample
    kind = scheduler.config.prediction_type
    target = noise if kind == "epsilon" else alpha * noise - sigma * latents
    return F.mse_loss(prediction.float(), target, reduction="none").mean((1, 2, 3))


def snr_weight(scheduler: Any, times: torch.Tensor, gamma: float) -> torch.Tensor:
    """Min-SNR weight [N] of the loss at each time: min(SNR, gamma) / SNR, for v-prediction / (SNR + 1)."""
    alpha, sigma = (table[times] for table in signal_and_noise(scheduler, times.device))
    ratio = (alpha / sigma.clamp(min=1e-6)) ** 2
    return ratio.clamp(max=gamma) / (ratio + float(scheduler.config.prediction_type == "v_prediction"))


class Denoiser(torch.nn.Module):
    """U-Net and text encoder as one module, so that several processes can share its gradients."""

    def __init__(self, pipeline: Any, snr_gamma: float | None) -> None:
        super().__init__()
        self.unet, self.text = pipeline.unet, pipeline.text_encoder
        self.scheduler, self.snr_gamma = copy(pipeline.scheduler), snr_gamma
        self.scheduler.alphas_cumprod = self.scheduler.alphas_cumprod.to(pipeline.unet.device)

    def forward(
        self, latents: torch.Tensor, ids: torch.Tensor, position: torch.Tensor, times: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """Sum of the losses of latents [N], whose captions are ids[position]: each different one is encoded once."""
        losses = diffusion_loss(self.unet, self.scheduler, latents, self.text(ids)[0][position], times, noise)
        if self.snr_gamma is not None:
            losses = losses * snr_weight(self.scheduler, times, self.snr_gamma)
        return losses.sum()


@torch.no_grad()
def denoising_errors(
    pipeline: Pipeline, latents: torch.Tensor, captions: list[str], times: tuple[int, ...], draws: int, seed: int = 0
) -> NDArray[np.float64]:
    """Loss of latents float32 [N, C, h, w] at fixed times, float64 [N, T]: mean over `draws` noises that all share."""
    device, out = pipeline.device, np.zeros((len(latents), len(times)))
    texts, which = distinct(captions)
    known = pipeline.text_encoder(token_ids(pipeline.tokenizer, texts).to(device))[0]
    random = torch.Generator().manual_seed(seed)
    noises = torch.randn((draws, *latents.shape[1:]), generator=random)
    for start in range(0, len(latents), 128):
        part = slice(start, start + 128)
        x, text = latents[part].to(device), known[torch.from_numpy(which[part])]
        for place, time in enumerate(times):
            steps = torch.full((len(x),), time, device=device)
            for noise in noises:
                losses = diffusion_loss(
                    pipeline.unet, pipeline.scheduler, x, text, steps, noise.to(device).expand_as(x)
                )
                out[part, place] += losses.double().cpu().numpy() / draws
    return out


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

    def some(part: slice) -> NDArray[np.uint8]:
        texts, which = distinct(["", *captions[part]])
        embeddings, index = _encode(pipeline, texts), torch.from_numpy(which[1:])
        random = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
        latents = pipeline(
            prompt_embeds=embeddings[index],
            negative_prompt_embeds=embeddings[:1].expand(len(index), -1, -1),
            latents=noise(pipeline, random),
            generator=random,
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="latent",
        ).images
        if not torch.isfinite(latents).all():
            raise FloatingPointError("the sampler returned numbers that are not finite; was training stable?")
        images = decode(pipeline.vae, latents, size)
        report(part.start + len(index))
        return images

    out = np.empty((len(seeds), size, size, 3), np.uint8)
    for part, images in in_parts(some, len(seeds), batch, "the sampler"):
        out[part] = images
    return out


def noise(pipeline: Any, random: list[torch.Generator]) -> torch.Tensor:
    """Starting noise float32 [N, C, h, w], each picture from its own CPU generator, as in plain diffusers."""
    config = pipeline.unet.config
    shape = (config.in_channels, config.sample_size, config.sample_size)
    drawn = [torch.randn(shape, generator=each) for each in random]
    return torch.stack(drawn).to(pipeline.device)


def _encode(pipeline: Any, texts: list[str]) -> torch.Tensor:
    ids = token_ids(pipeline.tokenizer, texts).to(pipeline.device)
    return torch.cat([pipeline.text_encoder(part)[0] for part in ids.split(256)])
