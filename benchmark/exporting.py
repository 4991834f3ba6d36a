"""What leaves a study: its sets and generators with their cards, a page for a reader study."""

import csv
import json
import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.cache import BadInput, Cell, Record, Store, sha256, write_json
from benchmark.datasets import Card, label_name, phrase
from benchmark.sources import folder_name
from benchmark.stages import split, synthesize
from benchmark.study import Study
from results.pooling import never_certain
from results.reader import Item, check, page

NOTICE = (
    "Synthetic images, drawn by a model that was trained on the set named here. They may resemble its training "
    "images; read the audit before you share them, and keep to the licence of the source."
)
COLUMNS = ("file_name", "caption", "class", "seed", "guidance", "generator")  # generator: its cell's digest
AUTOENCODERS = {
    "augury": "- The autoencoder that ships with Augury: it learnt from TAESD (MIT licence) on procedural pictures.",
    "taesd": "- TAESD, an autoencoder made elsewhere (MIT licence).",
}
LIMITS = (
    "Made for measuring, not for care: no image shows a patient, and none may be used to diagnose or to teach what a "
    "disease looks like without a physician's judgement.",
    "An audit that finds no copies is no guarantee of privacy.",
    "Labels are those that were asked for; the study's label consistency says how often a classifier agrees.",
)


def export_sets(cells: list[Cell], store: Store, folder: Path) -> Iterator[str]:
    """Write each finished synthetic set and its generator, each with its card.

    folder/SET: CLASS/*.png, metadata.csv, README.md (the card), croissant.json, card.json, LICENCE.txt;
    folder/generators/NAME: the diffusers folder with README.md.
    """
    drawn = [cell for cell in cells if cell.stage == "synthesize" and "train" in cell.inputs and store.record(cell)]
    if not drawn:
        raise BadInput("export: the study has no finished synthetic set; `augury synthesize STUDY` makes them")
    if folder.exists() and any(folder.iterdir()):
        raise BadInput(f"export: {folder} is not empty; give a new folder")
    audits = {cell.inputs["synthesize"].digest: cell for cell in cells if cell.stage == "audit" and store.record(cell)}
    told: dict[str, list[str]] = {}  # by generator: what the audits of its sets say
    for cell in drawn:
        place = folder / _name(cell, ("dataset", "generator", "exposure", "budget", "seed", "variant"))
        audit = audits.get(cell.digest)
        found = audit_lines(json.loads((store.verify(audit) / "rows.json").read_text()), cell) if audit else []
        name = " ".join(filter(None, (str(cell.about["dataset"]), str(cell.about.get("variant") or ""))))
        told.setdefault(cell.inputs["train"].digest, []).extend(f"{name}: {line}" for line in found)
        yield f"{_export(cell, store, place, found)} images in {place}"
    plain_last = sorted(drawn, key=lambda cell: not cell.about.get("variant"))  # the card tells how the study samples
    for cell in {cell.inputs["train"].digest: cell for cell in plain_last}.values():
        trained = cell.inputs["train"]
        place = folder / "generators" / _name(trained, ("dataset", "generator", "exposure", "budget", "seed"))
        if place.exists():  # two generators of one name, as of two image types
            place = place.with_name(f"{place.name}-{trained.digest[:8]}")
        _export_generator(cell, store, place, told[trained.digest])
        yield f"generator in {place}"


def _name(cell: Cell, keys: tuple[str, ...]) -> str:
    return "-".join(str(cell.about[key]) for key in keys if cell.about.get(key) not in (None, ""))


def _export(cell: Cell, store: Store, folder: Path, audit: list[str]) -> int:
    from PIL import Image

    facts = json.loads((store.verify(cell.inputs["split"]) / "card.json").read_text())
    card = Card.of(facts)
    drawn = synthesize.read(store.verify(cell))
    guidance = cell.config.get("guidance", "")
    generator = cell.inputs["train"].digest
    rows, blind = [], cell.config.get("unconditional", False)  # it was asked for no label
    for i, image in enumerate(drawn.images):
        label = "" if blind else label_name(card, drawn.labels[i])
        file = Path(folder_name(label) if label else "unlabelled") / f"{i:06d}.png"
        (folder / file.parent).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / file)
        rows.append([file.as_posix(), drawn.captions[i], label, int(drawn.seeds[i]), guidance, generator])
    with (folder / "metadata.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([[*COLUMNS], *rows])
    source = {key: facts[key] for key in ("name", "licence", "citation", "image_type")}
    write_json(folder / "card.json", {"source": source, "cell": cell.digest, "config": cell.config, "notice": NOTICE})
    sources = _sources(cell.inputs["train"], store)
    (folder / "LICENCE.txt").write_text("\n".join([NOTICE, "", "The generator learnt from:", *sources]) + "\n")
    (folder / "README.md").write_text(_set_card(card, cell, len(rows), audit, sources), encoding="utf-8")
    write_json(folder / "croissant.json", croissant(folder.name, card, sources, sha256(folder / "metadata.csv")))
    return len(rows)


def _sources(trained: Cell, store: Store) -> list[str]:
    """A line for each set that any part of a generator learnt from, and for a model that it was begun from."""
    chain, lines = [trained], []
    while "start" in chain[-1].inputs:
        chain.append(chain[-1].inputs["start"])
    for cell in chain:
        if "source" in cell.config:
            lines.append(f"- {cell.config['source']}, a model made elsewhere: its own licence holds as well.")
    name = trained.inputs["autoencoder"].config.get("autoencoder")
    if name:
        lines.append(AUTOENCODERS.get(name, f"- {name}, an autoencoder made elsewhere: its own licence holds as well."))
    splits = {each.digest: each for one in chain for role, each in one.inputs.items() if role.startswith("split")}
    cards = [Card.of(json.loads((store.verify(each) / "card.json").read_text())) for each in splits.values()]
    return [*map(_source, cards), *lines]


def _export_generator(drawn: Cell, store: Store, folder: Path, audit: list[str]) -> None:
    """The diffusers folder as it is, with a card; drawn: one of its sets, which tells how it samples."""
    cell = drawn.inputs["train"]
    shutil.copytree(store.verify(cell) / "pipeline", folder)
    recipe = {key: value for key, value in cell.config.items() if value not in (None, False, "")}
    recipe |= {key: drawn.config.get(key) for key in ("guidance", "steps", "scheduler")}
    title = f"Generator {cell.about.get('generator', '')} ({cell.about.get('exposure', '')} exposure)"
    sources = _sources(cell, store)
    parts = {"Sources": sources, "Recipe": _listed(recipe), "Privacy audit": _audited(audit)}
    text = ["---", "library_name: diffusers", "pipeline_tag: text-to-image", "license: other", "---", ""]
    text += [f"# {title}", "", NOTICE, "", *(line for name, lines in parts.items() for line in _part(name, lines))]
    (folder / "README.md").write_text("\n".join([*text, *_limits()]), encoding="utf-8")
    weights = _file_set("weights", "application/octet-stream", "*/*.safetensors")
    write_json(folder / "croissant.json", _described(folder.name, f"{title}. {NOTICE}", sources, title, [weights]))


def _part(name: str, lines: list[str]) -> list[str]:
    return [f"## {name}", "", *lines, ""]


def _audited(lines: list[str]) -> list[str]:
    return [f"- {line}" for line in lines or ["Not audited."]]


def _set_card(card: Card, cell: Cell, n: int, audit: list[str], sources: list[str]) -> str:
    """A Markdown card as the hub shows it."""
    recipe = {key: cell.about.get(key) for key in ("generator", "exposure", "budget", "seed")}
    recipe |= {key: cell.config.get(key) for key in ("guidance", "steps", "scheduler", "size", "filter", "privacy")}
    recipe |= {"images": n, "generator cell": cell.inputs["train"].digest, "cell": cell.digest}
    own = [_source(card), f"- Classes: {', '.join(card.classes)}"]
    own += ["- What the generator learnt from, whose licences hold as well:", *sources]
    own += (
        ["- Drawn without text: no label was asked for, and none is given."] if cell.config.get("unconditional") else []
    )
    own += [f"- Caveats: {card.caveats}"] if card.caveats else []
    parts = {"Source": own, "How it was drawn": _listed(recipe), "Privacy audit": _audited(audit)}
    head = ["---", "license: other", "tags: [synthetic, medical]", "---", "", f"# Synthetic {card.name}", "", NOTICE]
    text = [line for name, lines in parts.items() for line in _part(name, lines)]
    return "\n".join([*head, "", *text, *_limits()])


def _source(card: Card) -> str:
    kind = " Drawn by a computer: no patient." if card.phantom else ""
    return f"- {card.name} ({card.image_type}), licence: {card.licence}. {card.citation}{kind}".rstrip()


def _listed(facts: Record) -> list[str]:
    return [f"- {key.replace('_', ' ')}: {value}" for key, value in facts.items() if value not in (None, "")]


def _limits() -> list[str]:
    return ["## Limits", "", *(f"- {line}" for line in LIMITS), ""]


def audit_lines(rows: list[Record], cell: Cell) -> list[str]:
    """What an audit found and would have found, in sentences; after a privacy filter, by what that did not use."""
    found = {(str(row["metric"]), str(row.get("group", "all"))): row for row in rows}
    lines = []
    if cell.config.get("privacy") is not None:
        flagged = found.get(("embedding_flagged", "all"), {"value": float("nan")})
        text = f"In embeddings {flagged['value']:.1%} are as near to training images as 1 % of held-out ones."
        return [
            "Images near to training ones were redrawn by tile-max distance, which is no judge of them any more.",
            text,
        ]
    excess, power = found.get(("excess_copies", "all")), found.get(("tile_max_power", "planted=exact"))
    if excess:
        bounds = never_certain("excess_copies", excess["n"], excess)
        high = f", at most {bounds['high']:.1%} with 95 % confidence" if "high" in bounds else ""
        lines.append(f"Excess of copies: {max(0.0, excess['value']):.1%}{high} ({excess['n']} images judged).")
    searches = [name.removesuffix("_excess_copies") for name, _ in found if name.endswith("_excess_copies")]
    limit = 0.05 / max(1, len(searches))  # 5 % over all searches, as the report has it
    near = [f"{name.replace('_', ' ')} {found[f'{name}_excess_copies', 'all']['value']:.1%}" for name in searches
            if found.get((f"{name}_p", "all"), {"value": 1.0})["value"] <= limit]  # fmt: skip
    if near:
        lines.append(f"Nearer to training images than held-out ones are, by one control alone: {', '.join(near)}.")
    if power:
        lines.append(f"It would have found {power['value']:.0%} of exact copies.")
    return lines


def croissant(name: str, card: Card, sources: list[str], digest: str) -> Record:
    """Croissant 1.0 metadata (mlcommons.org/croissant) of an exported set; digest: sha256 of its metadata.csv."""
    fields = {"file_name": "sc:Text", "caption": "sc:Text", "class": "sc:Text", "seed": "sc:Integer"}
    records = [
        {"@type": "cr:Field", "@id": f"images/{key}", "name": key, "dataType": kind,
         "source": {"fileObject": {"@id": "metadata.csv"}, "extract": {"column": key}}}
        for key, kind in fields.items()
    ]  # fmt: skip
    table = {"@type": "cr:FileObject", "@id": "metadata.csv", "name": "metadata.csv", "contentUrl": "metadata.csv",
             "encodingFormat": "text/csv", "sha256": digest}  # fmt: skip
    pictures = _file_set("pictures", "image/png", "*/*.png")
    told = f"Synthetic images after {card.name} ({card.image_type}). {NOTICE}"
    images = {"@type": "cr:RecordSet", "@id": "images", "name": "images", "field": records}
    return _described(name, told, sources, card.citation or card.name, [table, pictures]) | {"recordSet": [images]}


def _file_set(name: str, kind: str, files: str) -> Record:
    return {"@type": "cr:FileSet", "@id": name, "name": name, "encodingFormat": kind, "includes": files}


def _described(name: str, told: str, sources: list[str], citation: str, distribution: list[Record]) -> Record:
    """What Croissant wants of any set of files."""
    prefixed = (
        "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
        "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references",
        "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
    )  # fmt: skip
    context: Record = {
        "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
        "dct": "http://purl.org/dc/terms/", "conformsTo": "dct:conformsTo",
        "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "examples": {"@id": "cr:examples", "@type": "@json"},
    }  # fmt: skip
    return {
        "@context": context | {key: f"cr:{key}" for key in prefixed},
        "@type": "sc:Dataset", "name": name, "conformsTo": "http://mlcommons.org/croissant/1.0",
        "description": told,
        "license": f"As the sources: {'; '.join(line.removeprefix('- ') for line in sources)}",
        "citeAs": citation, "version": "1.0.0", "datePublished": date.today().isoformat(),
        "distribution": distribution,
    }  # fmt: skip


def reader_page(
    study: Study, cells: list[Cell], store: Store, real: int, synthetic: int, seed: int, out: Path
) -> tuple[Path, int]:
    """Write the page of a reader study and, beside it, its key; returns the key's place and the number of data sets.

    Real pictures are test images, which no generator saw; synthetic ones are of the study's first generator.
    """
    key_file = out.with_suffix(".key.json")
    if out.exists() or key_file.exists():
        raise BadInput(f"reader-study: {out} or {key_file} is there already; give another --out")
    first: dict[str, Cell] = {}
    wanted = (next(iter(study.generators), ""), "")  # the study as written, not a variant or another wording
    for cell in (cell for cell in cells if cell.stage == "synthesize" and store.record(cell)):
        if (cell.about.get("generator"), cell.about.get("variant")) == wanted:
            first.setdefault(str(cell.about["dataset"]), cell)
    if not first:
        raise BadInput("reader-study: the study has no finished synthetic set; `augury synthesize STUDY` makes them")
    rng, items = np.random.default_rng(seed), []
    for place, cell in enumerate(first.values()):
        shares = [count // len(first) + (place < count % len(first)) for count in (real, synthetic)]
        items += _items(cell, store, shares, rng)
    text, key = page(study.name, items)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    write_json(key_file, key)
    return key_file, len(first)


def _items(cell: Cell, store: Store, shares: list[int], rng: np.random.Generator) -> list[Item]:
    """shares: how many real and how many synthetic pictures of this data set."""
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
    colours = drawn.images
    if (test.images == test.images[..., :1]).all():  # where real pictures are grey, a tinge would give others away
        colours = np.repeat(np.rint(colours.mean(3, keepdims=True)).astype(np.uint8), 3, 3)
    return [Item(test.images[i], phrase(card, test.labels[i]), "real", name) for i in real] + [
        Item(colours[i], phrase(card, drawn.labels[i]), "synthetic", name, generator) for i in made
    ]


def keep_answers(study: str, folder: Path, key_file: Path, answer_files: list[Path]) -> None:
    """Check the readers' files against the key and keep both under the study's folder, for its report."""
    key, answers = _json(key_file), {file: _json(file) for file in answer_files}
    if not isinstance(key, dict) or not {"token", "items"} <= key.keys():
        raise BadInput(f"reader-study: {key_file} is not the key of a reader study")
    if key.get("study") != study:
        raise BadInput(f"reader-study: {key_file} is the key of study {key.get('study')!r}; {study!r} given")
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
