"""Image autoencoders with factor 8 and four latent channels: the small one that ships, TAESD, Stable Diffusion's VAE.

All are stock diffusers classes; these three share Stable Diffusion 1.x's latent space. The shipped encoder has seen
procedural pictures only (see `teaching.py`); its decoder is tuned on exactly the images that a generator may see.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

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
def encode(
    model: Autoencoder,
    images: Stored,
    resolution: int,
    batch: int | None = None,
    file: Path | None = None,
    precision: str = "fp32",
) -> torch.Tensor:
    """Images uint8 [N, H, W, 3] -> latents float32 [N, 4, R/8, R/8] times the model's scaling factor, on the CPU.

    AutoencoderKL gives the mode of its posterior. file: an .npy in which they then lie, instead of in memory, and from
    which they are read where it is there. precision: bf16 halves the time on processors that have it.
    """
    if file and file.exists():
        return torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False))
    device, partial = next(model.parameters()).device, file and file.with_suffix(".partial")
    low = precision == "bf16"

    def some(part: slice) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16) if low else nullcontext():
            latents = latents_of(model, to_tensor(images[part], resolution).to(device))
        return latents.float().mul(model.config.scaling_factor).cpu()

    out, kept = torch.empty(0), None
    for part, latents in in_parts(some, len(images), batch or at_once(device)):
        if not part.start:
            shape = (len(images), *latents.shape[1:])
            kept = np.lib.format.open_memmap(partial, "w+", np.float32, shape) if partial else None
            out = torch.empty(shape) if kept is None else torch.from_numpy(kept)
        out[part] = latents
    if file and partial and kept is not None:
        kept.flush()
        partial.replace(file)
    return out


def at_once(device: torch.device) -> int:
    """Images that an autoencoder takes at a time: on a CPU as many as its caches hold."""
    return 16 if device.type == "cpu" else 64


def latents_of(model: Autoencoder, pictures: torch.Tensor) -> torch.Tensor:
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
        else:
            yield part, found
            start = part.stop
            continue
        batch = -(-batch // 2)
        torch.cuda.empty_cache()  # only here, when the error and its frames are gone
        print(f"out of memory: {what} goes on with {batch} images at once", file=sys.stderr)


@torch.no_grad()
def decode(model: Autoencoder, latents: torch.Tensor, size: int, batch: int | None = None) -> NDArray[np.uint8]:
    """Latents [N, 4, h, w] -> images uint8 [N, size, size, 3]."""
    device = next(model.parameters()).device

    def some(part: slice) -> NDArray[np.uint8]:
        return to_images(model.decode(latents[part].to(device) / model.config.scaling_factor).sample, size)

    out = np.empty((len(latents), size, size, 3), np.uint8)
    for part, images in in_parts(some, len(latents), batch or at_once(device)):
        out[part] = images
    return out


def round_trip(model: Autoencoder, resolution: int, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """decode(encode(images)) at the images' own side: the best copy that a latent model can emit."""
    return decode(model, encode(model, images, resolution), images.shape[1])


def save_state(folder: Path, parts: Mapping[str, Any], losses: list[float]) -> None:
    """Write the state_dict of each part beside the old one and swap them, so that a kill in between loses nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: part.state_dict() for name, part in parts.items()}
    with (folder / "state.pt.partial").open("wb") as file:
        torch.save(state | {"losses": json.dumps(losses)}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(folder / "state.pt.partial", folder / "state.pt")


def resume_state(folder: Path | None, parts: Mapping[str, Any]) -> list[float]:
    """Load what `save_state` wrote into the parts; returns the losses so far, none where nothing was kept."""
    if folder is None or not (folder / "state.pt").exists():
        return []
    state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return [float(loss) for loss in json.loads(state["losses"])]
