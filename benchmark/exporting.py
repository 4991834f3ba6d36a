"""What leaves a study: its sets as image folders, pictures of free prompts, a page for a reader study."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.cache import BadInput, Cell, Store, write_json
from benchmark.datasets import Card, label_name, phrase
from benchmark.sources import folder_name
from benchmark.stages import split, synthesize

if TYPE_CHECKING:
    from results.reader import Item

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


def reader_page(
    study: str, cells: list[Cell], store: Store, real: int, synthetic: int, seed: int, out: Path
) -> tuple[Path, int]:
    """Write the page of a reader study and, beside it, its key; returns the key's place and the number of data sets.

    Real pictures are test images, which no generator saw; synthetic ones are of the study's first generator.
    """
    from results.reader import page

    key_file = out.with_suffix(".key.json")
    if out.exists() or key_file.exists():
        raise BadInput(f"reader-study: {out} or {key_file} is there already; give another --out")
    first: dict[str, Cell] = {}
    for cell in (
        cell for cell in cells if cell.stage == "synthesize" and "train" in cell.inputs and store.record(cell)
    ):
        first.setdefault(str(cell.about["dataset"]), cell)
    if not first:
        raise BadInput("reader-study: the study has no finished synthetic set; `augury synthesize STUDY` makes them")
    rng, items = np.random.default_rng(seed), []
    for place, cell in enumerate(first.values()):
        shares = [count // len(first) + (place < count % len(first)) for count in (real, synthetic)]
        items += _items(cell, store, shares, rng)
    text, key = page(study, items, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    write_json(key_file, key)
    return key_file, len(first)


def _items(cell: Cell, store: Store, shares: list[int], rng: np.random.Generator) -> list[Item]:
    """shares: how many real and how many synthetic pictures of this data set."""
    from results.reader import Item

    prepared, drawn = split.read(store.verify(cell.inputs["split"])), synthesize.read(store.verify(cell))
    name, generator = str(cell.about["dataset"]), str(cell.about["generator"])
    for count, at_hand, kind in zip(
        shares, (len(prepared.test.images), len(drawn.images)), ("test", "synthetic"), strict=True
    ):
        if count > at_hand:
            raise BadInput(f"reader-study: {count} {kind} images of {name} asked for; it has {at_hand}")
    card, test = prepared.card, prepared.test
    real = rng.permutation(len(test.images))[: shares[0]]
    made = rng.permutation(len(drawn.images))[: shares[1]]
    return [Item(test.images[i], phrase(card, test.labels[i]), "real", name) for i in real] + [
        Item(drawn.images[i], phrase(card, drawn.labels[i]), "synthetic", name, generator) for i in made
    ]


def keep_answers(folder: Path, key_file: Path, answer_files: list[Path]) -> None:
    """Check the readers' files against the key and keep both under the study's folder, for its report."""
    from results.reader import check

    key, answers = _json(key_file), {file: _json(file) for file in answer_files}
    if not isinstance(key, dict) or not {"token", "items"} <= key.keys():
        raise BadInput(f"reader-study: {key_file} is not the key of a reader study")
    for file, given in answers.items():
        try:
            check(key, given)
        except (ValueError, AttributeError) as error:
            raise BadInput(f"reader-study: {file}: {error}") from None
    kept = folder / "readers"
    kept.mkdir(parents=True, exist_ok=True)
    for old in kept.glob("answers-*.json"):
        old.unlink()
    write_json(kept / "key.json", key)
    for place, given in enumerate(answers.values(), 1):
        write_json(kept / f"answers-{place:03d}.json", given)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"reader-study: {file} cannot be read as JSON: {error}") from None


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
