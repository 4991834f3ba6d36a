"""Any timm backbone by name, with what it needs to see small images."""

from typing import Any

import torch

# Settings that differ from the study's; a backbone needs a line only where the defaults do not fit it.
DEFAULTS: dict[str, dict[str, Any]] = {
    "convnext_atto": dict(learning_rate=5e-4),
    "resnet18": dict(learning_rate=1e-3),
    "resnet50": dict(learning_rate=1e-3),
    "test_resnet": dict(learning_rate=2e-3),
    "vit_tiny_patch16_224": dict(learning_rate=5e-4),
}


def names(pattern: str = "*") -> list[str]:
    """timm's architecture names that match a shell pattern."""
    import timm

    return [str(name) for name in timm.list_models(pattern)]


def check(name: str) -> None:
    """Raise ValueError, naming close spellings, when timm has no such architecture."""
    import difflib

    import timm

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, names(), n=3)
        hint = f"close names: {', '.join(close)}" if close else "`augury backbones` lists them"
        raise ValueError(f"backbone {name!r} is not in timm; {hint}")


def create(name: str, num_classes: int, size: int, seed: int) -> torch.nn.Module:
    """An untrained backbone for RGB images of size x size; its weights depend on (name, seed) alone.

    Backbones whose input size is part of their shape (transformers) are told the size.
    """
    import timm

    check(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = timm.create_model(name, pretrained=False, num_classes=num_classes, img_size=size)
        except TypeError:
            model = timm.create_model(name, pretrained=False, num_classes=num_classes)
    return model  # type: ignore[no-any-return]
