"""Stages autoencoder and train: a generator and its decoder, each from exactly the images it may see."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.cache import Record, write_json
from benchmark.stages import split


def run_autoencoder(config: Record, inputs: dict[str, Path], folder: Path) -> None:
    """Writes vae/ (a diffusers folder) and loss.json."""
    from classifiers.features import efficientnet_lite0_maps
    from generators.autoencoders import encode, tune_decoder, working_resolution

    model = source(config["autoencoder"])
    images = seen_images(config, inputs)
    resolution = working_resolution(config["size"])
    losses: list[float] = []
    if config["images_seen"]:
        losses = tune_decoder(
            model, images, resolution, efficientnet_lite0_maps(), images_seen=config["images_seen"], seed=0
        )

    # One scalar brings the latents to unit variance; the pipeline divides by it before decoding.
    model.register_to_config(scaling_factor=1.0)
    some = np.random.default_rng(0).permutation(len(images))[:512]
    deviation = float(encode(model, images[some], resolution).std())
    model.register_to_config(scaling_factor=round(1 / deviation, 6))
    model.save_pretrained(folder / "vae", safe_serialization=True)
    write_json(folder / "loss.json", {"loss": losses, "images": len(images)})


def source(name: str) -> Any:
    """The autoencoder of a study by name or folder."""
    from generators.autoencoders import SHIPPED, load_autoencoder, load_taesd

    if name == "taesd":
        return load_taesd(Path(os.environ["AUGURY_WEIGHTS"]) / "taesd" / "taesd_diffusers_bf16.safetensors")
    return load_autoencoder(SHIPPED if name == "augury" else Path(name))


def seen_images(config: Record, inputs: dict[str, Path]) -> Any:
    """Images uint8 [N, H, W, 3] that the sight of `config` allows, over all split inputs in their order."""
    parts = []
    for role in sorted(role for role in inputs if role.startswith("split")):
        prepared = split.read(inputs[role])
        parts.append(prepared.train.images[prepared.budget(config["budget"], config["seed"])])
    return np.concatenate(parts)


def run_train(config: Record, inputs: dict[str, Path], folder: Path) -> None:
    """Writes pipeline/ (a diffusers folder) and loss.json; checkpoint/ keeps the state while it runs."""
    from generators.autoencoders import encode, load_autoencoder, working_resolution
    from generators.latent_diffusion import small_pipeline
    from generators.training import Schedule, sampling_weights, train

    # What may be seen: images, captions, and which set each comes from.
    images, captions, sets = [], [], []
    for role in sorted(role for role in inputs if role.startswith("split")):
        prepared = split.read(inputs[role])
        rows = prepared.budget(config["budget"], config["seed"])
        images.append(prepared.train.images[rows])
        captions += [prepared.captions[i] for i in rows]
        sets += [prepared.card.name] * len(rows)

    resolution = working_resolution(config["size"])
    autoencoder = load_autoencoder(inputs["autoencoder"] / "vae")
    latents = encode(autoencoder, np.concatenate(images), resolution)
    seed = 1000 + config["seed_of_model"]
    pipeline = small_pipeline(autoencoder, resolution, tuple(config["channels"]), config["text_width"], seed)
    schedule = Schedule(
        images_seen=config["images_seen"],
        batch=config["batch"],
        learning_rate=config["learning_rate"],
        caption_dropout=config["caption_dropout"],
    )
    weights = sampling_weights(sets, config["balance"])
    losses = train(pipeline, latents, captions, weights, schedule, seed=seed, checkpoint=folder / "checkpoint")
    pipeline.save_pretrained(folder / "pipeline", safe_serialization=True)
    write_json(folder / "loss.json", {"loss": losses, "images": len(captions), "sets": sorted(set(sets))})
