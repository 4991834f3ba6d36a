"""`make bench`: what a user waits for, and ratios to what they would pick instead; prints, never fails.

python tests/bench.py [quick] [generator] [--home DIR]     # by default all parts
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

AUGURY = [sys.executable, "-m", "benchmark.cli"]


def seconds(call: Callable[[], Any]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


def augury(*arguments: str) -> Callable[[], Any]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return lambda: subprocess.run([*AUGURY, *arguments], check=True, **quiet)  # type: ignore[call-overload]


def show(what: str, found: float, unit: str, wanted: str) -> None:
    print(f"{what:58} {found:8.2f} {unit:9} wanted: {wanted}", flush=True)


def quick(home: Path) -> None:
    """The main job on the embedded default."""
    from benchmark.phantoms import PHANTOMS, draw

    show("augury --help, best of three", min(seconds(augury("--help")) for _ in range(3)), "s", "under 0.5")
    slowest = max(seconds(lambda name=name: draw(name, 2000, 64, 0)) for name in PHANTOMS)  # type: ignore[misc]
    show("10,000 phantoms of 64 px (slowest type, from 2,000)", 5 * slowest, "s", "under 30")
    show("augury run quick", seconds(augury("run", "quick", "--home", str(home))), "s", "under 300")
    show("augury run quick again", seconds(augury("run", "quick", "--home", str(home))), "s", "under 15")
    show("augury report quick", seconds(augury("report", "quick", "--home", str(home))), "s", "under 10")


def generator(home: Path) -> None:
    """Training and sampling beside diffusers' defaults, on the same U-Net (64, 128) and TAESD; ours samples with 15
    steps instead of 50 and the lighter autoencoder that ships."""
    from benchmark.running import quiet
    from generators.autoencoders import SHIPPED, encode, load_autoencoder, load_taesd
    from generators.latent_diffusion import sample, small_pipeline
    from generators.training import Schedule, train

    root = os.environ.get("AUGURY_WEIGHTS")
    if not root:
        print("generator: skipped, it needs $AUGURY_WEIGHTS/taesd")
        return
    quiet()
    file = Path(root) / "taesd" / "taesd_diffusers_bf16.safetensors"
    images = np.random.default_rng(0).integers(0, 255, (1024, 64, 64, 3), dtype=np.uint8)
    captions = ["chest radiograph", "brain MRI", "blood smear", "retinal OCT"] * 256
    new = lambda: small_pipeline(load_taesd(file), 64, (64, 128), 128, 0)  # noqa: E731

    ours, steps = new(), 8
    schedule = Schedule(images_seen=128 * steps)
    uniform = np.full(len(images), 1 / len(images))
    latents = encode(ours.vae, images, 64)
    mine = seconds(lambda: train(ours, latents, captions, uniform, schedule, seed=0)) / steps
    theirs = seconds(lambda: usual_training(new(), images, captions, 4)) / 4
    show("training, images a second at 64 px", 128 / mine, "1/s", "")
    show("training, times the usual loop", theirs / mine, "x", "3.5")
    once = seconds(lambda: encode(ours.vae, images, 64)) / len(images)
    show("encoding once, share of training on 40,000 of 5,000 images", 5000 * once / (40000 / 128 * mine), "", "")

    n, pipeline, lighter = 64, new(), small_pipeline(load_autoencoder(SHIPPED), 64, (64, 128), 128, 0)
    pipeline.set_progress_bar_config(disable=True)
    mine = seconds(lambda: sample(lighter, captions[:n], list(range(n)), size=64)) / n
    batched = seconds(lambda: pipeline(captions[:16])) / 16
    alone = seconds(lambda: pipeline(captions[0]))
    show("sampling, images a second at 64 px", 1 / mine, "1/s", "")
    show("sampling, times StableDiffusionPipeline with TAESD, batched", batched / mine, "x", "3")
    show("sampling, times the same one image at a time", alone / mine, "x", "10")


def usual_training(pipeline: Any, images: Any, captions: list[str], steps: int) -> None:
    """A loop in the manner of diffusers' text_to_image example: VAE and text encoder run on every batch."""
    import torch
    import torch.nn.functional as F

    parameters = [*pipeline.unet.parameters(), *pipeline.text_encoder.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        rows = rng.integers(0, len(images), 128)
        pixels = torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            latents = pipeline.vae.encode(pixels).latents
        ids = pipeline.tokenizer([captions[i] for i in rows], padding="max_length", return_tensors="pt").input_ids
        noise, times = torch.randn_like(latents), torch.randint(0, 1000, (128,))
        noisy = pipeline.scheduler.add_noise(latents, noise, times)
        prediction = pipeline.unet(noisy, times, encoder_hidden_states=pipeline.text_encoder(ids)[0]).sample
        loss = F.mse_loss(prediction, noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


PARTS = {"quick": quick, "generator": generator}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which parts; default all")
    parser.add_argument("--home", type=Path, help="where to run; default a new folder, so that nothing is cached")
    options = parser.parse_args()
    home = options.home or Path(tempfile.mkdtemp())
    print(f"{os.cpu_count()} cores")
    for part in options.parts or PARTS:
        PARTS[part](home)


if __name__ == "__main__":
    main()
