"""Train one generator on the images that its exposure lets it see."""

from pathlib import Path

import numpy as np

from benchmark.cache import Record, write_json
from benchmark.stages import split


def run(config: Record, inputs: dict[str, Path], folder: Path) -> None:
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
