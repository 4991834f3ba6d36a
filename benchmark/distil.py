"""Make the autoencoder that ships: a small student of TAESD, taught on procedural pictures only.

    python -m benchmark.distil --teacher taesd_diffusers_bf16.safetensors --out generators/augury-ae

The command that made the shipped weights, with its figures, stands in `generators/augury-ae/README.md`.
"""

import argparse
import time
from pathlib import Path

import torch

from classifiers.features import efficientnet_lite0_maps
from generators.autoencoders import load_taesd, new_tiny
from generators.distillation import distil


def main() -> None:
    """Distil and save in half precision; features of EfficientNet-Lite0's first stages come from its package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="TAESD as one safetensors file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--pictures", type=int, default=16000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    start = time.monotonic()

    def report(step: int, loss: float) -> None:
        if step % 50 == 0:
            print(
                f"step {step} of {options.steps}  loss {loss:.4f}  {time.monotonic() - start:.0f} s",
                flush=True,
            )

    student = new_tiny()
    distil(
        load_taesd(options.teacher),
        student,
        efficientnet_lite0_maps(),
        steps=options.steps,
        pictures=options.pictures,
        seed=options.seed,
        report=report,
    )
    student.half().save_pretrained(options.out, safe_serialization=True)


if __name__ == "__main__":
    main()
