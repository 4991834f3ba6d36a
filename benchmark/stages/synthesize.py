"""Draw a synthetic set: one image a real training row of the largest budget, times the ratio, with its caption; or
the pictures of free prompts."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.cache import BadInput, Cell, Record, Store, write_json
from benchmark.datasets import Card, captions, label_codes, label_name, phrase
from benchmark.sources import labelled_files, read_image
from benchmark.splits import pixel_keys, ratio_rows
from benchmark.stages import device, split, spoken
from benchmark.study import Study


@dataclass(frozen=True)
class SyntheticSet:
    """images uint8 [M, H, W, 3]; labels as the data set's; image i is copy[i] for the rank[i]-th row of the budget."""

    images: NDArray[np.uint8]
    labels: NDArray[Any]
    rank: NDArray[np.int64]
    copy: NDArray[np.int64]
    captions: list[str]
    seeds: NDArray[np.int64]


def run_synthesize(config: Record, inputs: dict[str, Path], folder: Path) -> None:
    """Writes synthetic.npz, and facts.json: tries and acceptance rate where a filter redraws."""
    prepared = split.read(inputs["split"])
    rows = prepared.budget(config["budget"], config["seed"])
    copies = -(-round(config["ratio"] * 1_000_000) // 1_000_000)
    rank = np.tile(np.arange(len(rows)), copies)
    copy = np.repeat(np.arange(copies), len(rows))
    if "used" in config:
        sizes = {budget: len(prepared.budget(budget, config["seed"])) for budget, _ in config["used"]}
        asked = [ratio_rows(sizes[budget], rank, copy, ratio) for budget, ratio in config["used"]]
        some = np.unique(np.concatenate(asked))
        rank, copy = rank[some], copy[some]
    rank, copy = rank[: config.get("limit")], copy[: config.get("limit")]
    labels = prepared.train.labels[rows[rank]]
    texts = _captions(config, prepared, rows, rank, labels)
    seeds = (1 + config["seed"]) * 10_000_000 + np.arange(len(rank))
    facts: Record = {}
    if "baseline" in config:
        images = _baseline(config["baseline"], prepared, rows, labels, config["seed"])
    elif "images" in config:
        images = _foreign(Path(config["images"]), prepared.card, labels, prepared.train.images.shape[1])
    else:
        images, seeds, facts = _drawn(config, inputs, prepared, texts, labels, seeds)
    np.savez(
        folder / "synthetic.npz", images=images, labels=labels, rank=rank, copy=copy, captions=np.array(texts),
        seeds=seeds,
    )  # fmt: skip
    write_json(folder / "facts.json", facts)


def _captions(
    config: Record, prepared: split.Prepared, rows: NDArray[np.int64], rank: NDArray[np.int64], labels: NDArray[Any]
) -> list[str]:
    """A phrasing of each label at the generator's level of detail; the source's own captions where it has.

    The first phrasing, unless several are to be drawn from; one asked for by number replaces all.
    """
    if config.get("unconditional"):
        return [""] * len(labels)
    detail = config.get("detail", "full")
    if "phrasing" in config:
        return [phrase(prepared.card, label, detail, config["phrasing"]) for label in labels]
    own = None if config.get("private") else prepared.captions(rows[rank])
    return captions(
        prepared.card, labels, own, detail=detail, phrasings=config.get("phrasings", 1), seed=config["seed"]
    )


def read(folder: Path) -> SyntheticSet:
    """Read a finished synthetic set."""
    with np.load(folder / "synthetic.npz", allow_pickle=False) as arrays:
        return SyntheticSet(
            arrays["images"], arrays["labels"], arrays["rank"], arrays["copy"],
            [str(text) for text in arrays["captions"]], arrays["seeds"],
        )  # fmt: skip


def _drawn(
    config: Record, inputs: dict[str, Path], prepared: split.Prepared, texts: list[str], labels: NDArray[Any],
    seeds: NDArray[np.int64],
) -> tuple[NDArray[np.uint8], NDArray[np.int64], Record]:  # fmt: skip
    """Images, the seed of each, and what the filters did: images that they refuse are drawn again with other seeds.

    Where an image is replaced by another one, so is its caption in `texts`.
    """
    from generators.latent_diffusion import load_pipeline, sample

    pipeline = load_pipeline(inputs["train"] / "pipeline").to(device())
    how = {name: config[name] for name in ("size", "steps", "guidance", "batch", "scheduler")}
    images = sample(pipeline, texts, seeds.tolist(), **how, report=spoken("drawing", len(texts)))
    accepts, level = _filters(config, inputs, prepared)
    if not accepts:
        return images, seeds, {}
    accepted = np.logical_and.reduce([accept(images, labels) for accept in accepts])
    share, tries, seeds = float(accepted.mean()), len(images), seeds.copy()
    for _ in range(config["redraws"] - 1):
        again = np.flatnonzero(~accepted)
        if not len(again):
            break
        seeds[again] += len(seeds)
        images[again] = sample(pipeline, [texts[i] for i in again], seeds[again].tolist(), **how)
        accepted[again] = np.logical_and.reduce([accept(images[again], labels[again]) for accept in accepts])
        tries += len(again)
    facts = {"accepted_at_once": share, "tries": tries, "accepted": float(accepted.mean())}
    if "privacy" in config:
        facts |= {"replaced": _replace(images, seeds, texts, labels, accepted), "level": level}
    return images, seeds, facts


def _replace(
    images: NDArray[np.uint8], seeds: NDArray[np.int64], texts: list[str], labels: NDArray[Any],
    accepted: NDArray[np.bool_],
) -> float:  # fmt: skip
    """Put an accepted image of the same label, with its seed and caption, in the place of each that stays refused; the
    share that was replaced.

    Where a label has none the refused ones stay, and `filter_accepted` + `filter_replaced` is less than 1.
    """
    codes, replaced = label_codes(labels)[0], 0
    for code in np.unique(codes[~accepted]):
        good, bad = np.flatnonzero((codes == code) & accepted), np.flatnonzero((codes == code) & ~accepted)
        if len(good):
            others = np.resize(good, len(bad))
            images[bad], seeds[bad], replaced = images[others], seeds[others], replaced + len(bad)
            for one, other in zip(bad, others, strict=True):
                texts[one] = texts[other]
    return replaced / len(images)


Accept = Callable[[NDArray[np.uint8], NDArray[Any]], NDArray[np.bool_]]


def _filters(config: Record, inputs: dict[str, Path], prepared: split.Prepared) -> tuple[list[Accept], float]:
    """What each image must pass: its label seen by a classifier; not nearer to training than validation images are. And
    the share of validation images that the second one can resolve, which few of them make larger than was asked."""
    found: list[Accept] = []
    level = 0.0
    if config["filter"] is not None:
        from benchmark.stages.classify import read_classifier

        model = read_classifier(inputs["filter"], len(prepared.card.classes))
        found.append(lambda images, labels: _likely(model, images, labels, prepared.card.task) >= config["filter"])
    if config.get("privacy") is not None:
        from privacy.neighbours import tile_max_neighbours

        bank, threshold, level = _too_near(config, prepared)
        found.append(lambda images, _: tile_max_neighbours(images, bank, k=1)[0][:, 0] > threshold)
    return found, level


def _too_near(config: Record, prepared: split.Prepared) -> tuple[NDArray[np.uint8], float, float]:
    """What the generator saw, the tile-max distance to it up to which an image is refused, and the share of validation
    images that lie as near."""
    from privacy.audits import control_patients
    from privacy.neighbours import tile_max_neighbours

    # Of a model from elsewhere the filter knows the budget alone.
    limited = config["exposure"] != "full"
    sight = {"budget": config["budget"], "seed": config["seed"]} if limited else {"budget": None, "seed": None}
    seen = split.seen_rows(prepared, config | sight)
    bank, control = prepared.train.images[seen], prepared.validation

    # Validation images that training lacks, of as small a share of validation as of train, one a patient.
    patients, keys = control.groups or [str(i) for i in range(len(control.images))], pixel_keys(control.images)
    known, own = set(pixel_keys(bank)), {prepared.patients[i] for i in seen} if control.groups else set()
    cut = prepared.validation_budget(config["budget"], config["seed"]) if limited else range(len(patients))
    fresh = [i for i in cut if keys[i] not in known and patients[i] not in own]
    if not fresh:
        raise BadInput(f"privacy filter: {prepared.card.name} has no validation image that training lacks to set "
                       "its threshold; allowed: a larger budget, or no filter")  # fmt: skip
    rows = np.array(fresh)[control_patients([patients[i] for i in fresh], 0)]

    # The distance that the asked share of them, or the least share that they can resolve, does not exceed.
    far = np.sort(tile_max_neighbours(control.images[rows], bank, k=1)[0][:, 0])
    place = max(1, int(config["privacy"] * (len(far) + 1)))
    return bank, float(far[place - 1]), place / (len(far) + 1)


def _likely(model: Any, images: NDArray[np.uint8], labels: NDArray[Any], task: str) -> NDArray[np.float64]:
    """The classifier's probability [N] of each image's label; the least one where there are several labels."""
    from classifiers.training import predict

    probabilities = predict(model, images, task)
    if labels.ndim == 2:
        return np.asarray(np.where(labels > 0, probabilities, 1 - probabilities).min(1))
    return np.asarray(probabilities[np.arange(len(labels)), labels])


def _foreign(place: Path, card: Card, labels: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """Images of a finished set in the order of the labels asked for; each is used once."""
    names = [label_name(card, label) for label in labels]
    files = labelled_files(place, sorted(set(names)))
    lacking = [f"{names.count(name)} of class {name!r}, of which there are {len(found)}"
               for name, found in files.items() if len(found) < names.count(name)]  # fmt: skip
    if lacking:
        raise BadInput(
            f"images: {place} is too small; this study needs {'; '.join(lacking)} (or lower budgets or ratios)"
        )
    left = {name: iter(found) for name, found in files.items()}
    return np.stack([read_image(next(left[name]), size) for name in names])


def _baseline(
    name: str, prepared: split.Prepared, rows: NDArray[np.int64], labels: NDArray[Any], seed: int
) -> NDArray[np.uint8]:
    """A control's images in the order of the labels asked for."""
    from generators.baselines import BASELINES

    codes, _ = label_codes(labels)  # as many images as rows, of each class as many
    images, made = BASELINES[name](prepared.train.images[rows], codes, np.bincount(codes), seed)
    out = np.empty_like(images)
    for code in np.unique(codes):
        out[codes == code] = images[made == code]
    return out


def read_prompts(given: list[str], file: Path | None, out: Path) -> list[str]:
    """The prompts of the command line and of a file, one a line. Raises BadInput where one is blank or none is left, or
    where there is something else in the folder that they are drawn into."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines() if file else []
    except (OSError, UnicodeDecodeError):
        raise BadInput(f"--prompts {file} given; allowed: a text file in UTF-8, one prompt a line") from None
    texts = [*given, *(line for line in lines if line.strip())]
    if file and len(texts) == len(given):
        raise BadInput(f"--prompts {file} holds no prompt")
    if not all(text.strip() for text in texts):
        raise BadInput("--prompt is blank; allowed: a text")
    if texts and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"--out {out} given, which is not empty; allowed: a new folder")
    return texts


def draw_prompts(
    study: Study, cells: list[Cell], store: Store, prompts: list[str], seed: int, out: Path, generator: str | None
) -> None:
    """Draw free prompts as the study samples, with its first generator or the one named; image i has seed + i."""
    from PIL import Image

    from benchmark.running import quiet
    from generators.latent_diffusion import load_pipeline, sample, tell_cut

    cell = prompted(study, cells, generator)
    quiet()
    out.mkdir(parents=True, exist_ok=True)
    config, seeds = cell.config, [seed + i for i in range(len(prompts))]
    pipeline = load_pipeline(store.verify(cell.inputs["train"]) / "pipeline").to(device())
    how = {name: config[name] for name in ("size", "steps", "guidance", "batch", "scheduler")}
    tell_cut(pipeline.tokenizer, prompts, "prompts")
    try:
        images = sample(pipeline, prompts, seeds, **how)
    except FloatingPointError as error:
        raise BadInput(f"synthesize: {error}") from None
    with (out / "metadata.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["file_name", "caption", "seed", "guidance", "generator"])
        for i, image in enumerate(images):
            Image.fromarray(image).save(out / f"{i:06d}.png")
            writer.writerow([f"{i:06d}.png", prompts[i], seeds[i], config["guidance"], cell.inputs["train"].digest])


def prompted(study: Study, cells: list[Cell], generator: str | None) -> Cell:
    """The set whose generator draws: of the one named or the study's first, of the fullest exposure, as written."""
    drawn = [cell for cell in cells if cell.stage == "synthesize" and "train" in cell.inputs]
    drawn = [cell for cell in drawn if not cell.config.get("unconditional")]  # it knows no text
    names = [name for name in study.generators if any(cell.about.get("generator") == name for cell in drawn)]
    if not names:
        raise BadInput("synthesize: the study has no generator that reads text")
    if generator is not None and generator not in names:
        raise BadInput(f"--generator {generator!r} given; allowed: {', '.join(names)}")
    mine = [cell for cell in drawn if cell.about.get("generator") == (generator or names[0])]
    return min(mine, key=lambda cell: (bool(cell.about.get("variant")), *fullest_first(cell)))


def fullest_first(cell: Cell) -> tuple[bool, int, float]:
    """Order of cells by what their generator saw: all there is before less, then the first seed, the largest budget."""
    return cell.about["exposure"] in ("budget", "transfer"), cell.about["seed"], -(cell.about.get("budget") or 0.0)
