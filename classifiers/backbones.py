"""Any timm backbone by name, with what it needs to see small images."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

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


def create(
    name: str, num_classes: int, size: int, seed: int, weights: str | None = None, options: dict[str, Any] | None = None
) -> torch.nn.Module:
    """A backbone for RGB images of size x size; without weights it depends on (name, options, seed) alone.

    weights: `hub` (timm's own, by the tag in the name), or a .safetensors or .pth file, whose head is left out.
    options go to timm.create_model. Backbones whose input size is part of their shape (transformers) are told it.
    """
    import timm

    check(name)
    given = dict(pretrained=weights == "hub", num_classes=num_classes, **(options or {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = timm.create_model(name, img_size=size, **given)
        except TypeError:
            model = timm.create_model(name, **given)
    if weights not in (None, "hub"):
        load_weights(model, Path(str(weights)))
    return model  # type: ignore[no-any-return]


def load_weights(model: Any, file: Path) -> None:
    """Fill a model from a local file, its head excepted; raises ValueError where the rest does not fit."""
    if file.suffix == ".safetensors":
        state = load_file(file)
    else:
        state = torch.load(file, weights_only=True, map_location="cpu")
        state = state.get("state_dict", state.get("model", state))
    heads = model.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    own = {key: value for key, value in model.state_dict().items() if not key.startswith(heads)}
    wrong = [key for key, value in own.items() if key not in state or state[key].shape != value.shape]
    if wrong:
        raise ValueError(f"weights {file} do not fit: {wrong[0]} and {len(wrong) - 1} others are missing or differ")
    model.load_state_dict({key: state[key] for key in own}, strict=False)
