"""Synthetic images as files: a study's sets as image folders, and pictures of free prompts."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from benchmark.cache import BadInput, Cell, Store, write_json
from benchmark.datasets import Card
from benchmark.prompts import label_name
from benchmark.sources import folder_name
from benchmark.stages import synthesize

NOTICE = (
    "Synthetic images, drawn by a model that was trained on the set named here. They may resemble its training "
    "images; read the audit before you share them, and keep to the licence of the source."
)


def export_sets(cells: list[Cell], store: Store, folder: Path) -> Iterator[str]:
    """Write each finished synthetic set of a generator to folder/SET: CLASS/*.png, metadata.csv, card.json."""
    drawn = [cell for cell in cells if cell.stage == "synthesize" and "train" in cell.inputs and store.record(cell)]
    if not drawn:
        raise BadInput("export: the study has no finished synthetic set; `augury synthesize STUDY` makes them")
    if folder.exists() and any(folder.iterdir()):
        raise BadInput(f"export: {folder} is not empty; give a new folder")
    for cell in drawn:
        keys = ("dataset", "generator", "exposure", "budget", "seed", "variant")
        name = "-".join(str(cell.about[key]) for key in keys if cell.about.get(key) not in (None, ""))
        yield f"{_export(cell, store, folder / name)} images in {folder / name}"


def _export(cell: Cell, store: Store, folder: Path) -> int:
    from PIL import Image

    facts = json.loads((store.verify(cell.inputs["split"]) / "card.json").read_text())
    card = Card.of(facts)
    drawn = synthesize.read(store.verify(cell))
    guidance = cell.config.get("guidance", "")
    generator = cell.inputs["train"].digest if "train" in cell.inputs else ""
    rows = []
    for i, image in enumerate(drawn.images):
        label = label_name(card, drawn.labels[i])
        file = Path(folder_name(label)) / f"{i:06d}.png"
        (folder / file.parent).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / file)
        rows.append([file.as_posix(), label, drawn.captions[i], int(drawn.seeds[i]), guidance, generator])
    with (folder / "metadata.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([["file_name", "label", "text", "seed", "guidance", "generator"], *rows])
    source = {key: facts[key] for key in ("name", "licence", "citation", "image_type")}
    write_json(folder / "card.json", {"source": source, "cell": cell.digest, "config": cell.config, "notice": NOTICE})
    (folder / "LICENCE.txt").write_text(f"{NOTICE}\n\nLicence of the source {card.name}: {card.licence}\n")
    return len(rows)


def draw_prompts(cells: list[Cell], store: Store, prompts: list[str], seed: int, out: Path) -> None:
    """Draw free prompts with the study's first generator; image i has seed + i."""
    from PIL import Image

    from benchmark.running import quiet
    from generators.latent_diffusion import load_pipeline, sample

    trained = next((cell for cell in cells if cell.stage == "train"), None)
    drawn = next((cell for cell in cells if cell.stage == "synthesize" and "train" in cell.inputs), None)
    if trained is None or drawn is None:
        raise BadInput("synthesize: the study has no generator")
    quiet()
    out.mkdir(parents=True, exist_ok=True)
    config, seeds = drawn.config, [seed + i for i in range(len(prompts))]
    pipeline = load_pipeline(store.verify(trained) / "pipeline")
    images = sample(
        pipeline, prompts, seeds, size=config["size"], steps=config["steps"], guidance=config["guidance"],
        batch=config["batch"],
    )  # fmt: skip
    with (out / "metadata.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["file_name", "text", "seed"])
        for i, image in enumerate(images):
            Image.fromarray(image).save(out / f"{i:06d}.png")
            writer.writerow([f"{i:06d}.png", prompts[i], seeds[i]])
