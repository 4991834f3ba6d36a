"""The Inception network of 2015 by which FID is defined (Heusel 2017): torchvision's blocks with its own poolings."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torchvision.models import inception

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


def fid_inception(file: Path) -> torch.nn.Module:
    """float [N, 3, 299, 299] in [-1, 1] -> [N, 2048] before the last layer; weights in pytorch-fid's names, no `fc`."""
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
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]
