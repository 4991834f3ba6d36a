"""The privacy audit of one synthetic set, of its generator (membership), of any folders, of the classifiers."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError

from benchmark.cache import BadInput, Record, write_json
from benchmark.datasets import Split, captions, label_codes, label_name
from benchmark.sources import SUFFIXES, read_image
from benchmark.splits import patients_of, pixel_keys, thumbnails
from benchmark.stages import device, split, synthesize
from benchmark.stages.train import read_autoencoder
from privacy.battery import Bank, Result, audit

Images = NDArray[np.uint8]
TIMES = (100, 400)  # of 1000: low and middle noise
DRAWS = 4  # of noise, the same for every image
RATES = (0.01, 0.1)
GUESSES = 100  # patients, fixed beforehand
UNREAD = (".gif", ".jp2", ".j2k", ".avif", ".heic", ".tga", ".pcx")  # pictures of kinds that are not read
FEW = 10  # images, for a distance between two sets


def run_audit(config: Record, inputs: dict[str, Path], folder: Path) -> None:
    """Writes rows.json, images.csv, distances.npz and pairs.npz."""
    from generators.autoencoders import round_trip

    prepared = split.read(inputs["split"])
    drawn = synthesize.read(inputs["synthesize"])
    codes, _ = label_codes(prepared.train.labels)
    seen = np.sort(split.seen_rows(prepared, config))

    def bank(rows: NDArray[np.int64]) -> Bank:
        return Bank(prepared.train.images[rows], codes[rows], [prepared.patients[i] for i in rows])

    trip = partial(round_trip, *read_autoencoder(inputs["autoencoder"])) if "autoencoder" in inputs else None
    some = np.sort(np.random.default_rng(0).permutation(len(drawn.images))[: config["images"]])
    with np.load(inputs["bank"] / "features.npz", allow_pickle=False) as arrays:
        place = np.searchsorted(arrays["kept_rows"], seen)  # kept rows ascend
        known = (arrays["kept"][place], arrays["heldout"])
    with np.load(inputs["features"] / "features.npz", allow_pickle=False) as arrays:
        there = np.isin(some, arrays["synthetic_rows"]).all()
        mine = arrays["synthetic"][np.searchsorted(arrays["synthetic_rows"], some)] if there else None
    own, stride = bank(seen), config["stride"]
    looks = thumbnails(own.images)
    labels = [label_name(prepared.card, drawn.labels[i]) for i in some]
    result = audit(drawn.images[some], own, bank(prepared.heldout), stride=stride, embed=embedded, looks=looks,
                   trip=trip, known=known, own=mine, classes=labels)  # fmt: skip
    names = [f"{drawn.seeds[i]}" for i in some]
    inside = np.isin(seen, prepared.members) if config["budget"] is None else np.ones(len(seen), bool)
    patients = [prepared.patients[i] for i in (*seen[inside], *prepared.heldout)]
    rows = result.rows + _gap(result.features, known[0][inside], known[1], patients)
    write_result(replace(result, rows=rows), names, folder)


def _gap(synthetic: NDArray[Any], members: NDArray[Any], heldout: NDArray[Any], patients: list[str]) -> list[Record]:
    """The over-fitting gap: Fréchet distance to non-members of the coin minus that to as many members; above 0 =
    nearer to what was learnt from. patients: of members, then of held-out."""
    from generators.fidelity import frechet_distance, subset_interval

    both, edge = np.concatenate([members, heldout]), len(members)

    def gap(index: NDArray[np.int64]) -> float:
        rng, sides = np.random.default_rng(0), (index[index < edge], index[index >= edge])
        n = min(map(len, sides))
        if n < FEW or len(synthetic) < FEW:
            return float("nan")
        near, far = (frechet_distance(synthetic, both[rng.permutation(side)[:n]]) for side in sides)
        return far - near

    value, low, high = subset_interval(gap, patients, gap(np.arange(len(both))), subsets=50)
    return [{"metric": "overfit_gap", "value": value, "low": low, "high": high, "n": len(synthetic)}]


def embedded(images: Images) -> NDArray[np.float32]:
    """Features in EfficientNet-Lite0's space."""
    from classifiers.features import LITE0_SIDE, efficientnet_lite0, embed

    return embed(efficientnet_lite0().to(device()), images, LITE0_SIDE)


def write_result(result: Result, names: list[str], folder: Path, nearest: list[str] | None = None) -> None:
    """Write rows.json, images.csv (one row a synthetic image), distances.npz, pairs.npz."""
    write_json(folder / "rows.json", result.rows)
    with (folder / "images.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["file", *result.columns])
        columns = dict(result.columns)
        if nearest:
            for key in ("nearest", "patch_nearest", "embedding_nearest"):
                columns[key] = [nearest[i] for i in columns[key]]
        writer.writerows(zip(names, *columns.values(), strict=True))
    np.savez(folder / "distances.npz", **result.distances)  # type: ignore[arg-type]
    np.savez(folder / "pairs.npz", **result.pairs)  # type: ignore[arg-type]


def run_membership(config: Record, inputs: dict[str, Path], folder: Path) -> None:
    """Writes rows.json: tidy rows, and scores.npz: the scores of members and non-members, plain and calibrated."""
    from generators.autoencoders import encode
    from generators.latent_diffusion import denoising_errors, load_pipeline

    # Members are the coin's under exposure full, else all that the generator saw.
    prepared = split.read(inputs["split"])
    seen = np.sort(split.seen_rows(prepared, config))
    if config["budget"] is None:
        seen = np.intersect1d(prepared.members, seen)
    rows = {"members": seen, "others": prepared.heldout}
    models = {role: load_pipeline(inputs[role] / "pipeline").to(device()) for role in ("train", "reference")
              if role in inputs}  # fmt: skip
    pipeline = models["train"]
    resolution = pipeline.unet.config.sample_size * pipeline.vae_scale_factor

    scores: dict[str, Any] = {}
    for name, which in rows.items():
        own = prepared.captions(which)
        labels = prepared.train.labels[which]
        texts = [""] * len(which) if config["unconditional"] else captions(
            prepared.card, labels, own, detail=config["detail"]
        )  # fmt: skip
        latents = encode(pipeline.vae, prepared.train.images[which], resolution)
        errors = {role: denoising_errors(model, latents, texts, TIMES, DRAWS).mean(1) for role, model in models.items()}
        scores[name] = -errors["train"]
        if "reference" in errors:  # that saw neither group, through the same latents
            scores[f"{name}_calibrated"] = errors["reference"] - errors["train"]
    np.savez(folder / "scores.npz", **scores)

    with np.load(inputs["bank"] / "features.npz", allow_pickle=False) as arrays:
        features = arrays["kept"][np.searchsorted(arrays["kept_rows"], seen)], arrays["heldout"]
    patients = [[prepared.patients[i] for i in which] for which in rows.values()]
    delta = config.get("delta", 0.0)  # the study's promise: all its generators are measured alike
    how: Record = {"delta": delta, "confidence": 0.999 if delta else 0.95, "coin": config["budget"] is None}
    found = told("membership", scores["members"], scores["others"], *patients, **how)
    if "reference" in models:
        pair = scores["members_calibrated"], scores["others_calibrated"]
        found += told("membership_calibrated", *pair, *patients, **how)
    write_json(folder / "rows.json", found + blind(*features, *patients))


def told(
    name: str, members: NDArray[Any], others: NDArray[Any], patients: list[str], other_patients: list[str], *,
    delta: float = 0.0, confidence: float = 0.95, coin: bool = True,
) -> list[Record]:  # fmt: skip
    """AUROC, what can be found at fixed false-positive rates, epsilon's lower bound (beside a promise with 99.9 %
    confidence) and the greatest that it could be; both are missing where no coin made the members."""
    from privacy.membership import empirical_epsilon, greatest_epsilon, membership_auroc, true_positive_rate

    n, given = len(members) + len(others), (members, others, patients, other_patients)
    found = [(f"{name}_auroc", "all", membership_auroc(*given))]
    for rate in RATES:
        if (resolved := true_positive_rate(*given, rate)) is not None:
            found.append((f"{name}_found", f"false_positives={rate:g}", resolved))
    rows: list[Record] = [
        {"metric": metric, "group": group, "value": value, "low": low, "high": high, "n": n}
        for metric, group, (value, low, high) in found
    ]
    if coin:
        people = len(set(patients)) + len(set(other_patients))
        bounds = {"epsilon": empirical_epsilon(*given, GUESSES, confidence, delta),
                  "epsilon_most": greatest_epsilon(people, GUESSES, confidence, delta)}  # fmt: skip
        rows += [{"metric": f"{name}_{metric}", "value": value, "n": n} for metric, value in bounds.items()]
    return rows


def blind(
    members: NDArray[Any], others: NDArray[Any], patients: list[str], other_patients: list[str],
    *, name: str = "membership",
) -> list[Record]:  # fmt: skip
    """The blind baseline; void: the two groups can be told apart without the generator."""
    from privacy.membership import blind_auroc

    value, p = blind_auroc(members, others, patients, other_patients)
    rows = {"blind_auroc": value, "blind_p": p, "void": p <= 0.05 if p == p else p}
    n = len(members) + len(others)
    return [{"metric": f"{name}_{metric}", "value": float(number), "n": n} for metric, number in rows.items()]


def audit_folders(
    train: Path, heldout: Path, synthetic: Path, out: Path, size: int | None, autoencoder: str | None
) -> Iterator[str]:
    """Audit any image folders; yields lines for the terminal, writes images.csv, rows.json and pictures' arrays.

    size: side in pixels at which all are compared; None = the images' own where it is one, 64 at most. autoencoder:
    augury, taesd or a diffusers folder, by which the training images are sent and searched as well.
    """
    from results.figures import gallery, rendered

    folders = {"train": train, "heldout": heldout, "synthetic": synthetic}
    files = {name: _files(folder) for name, folder in folders.items()}
    _writable(out, folders)
    shapes = {_shape(file) for paths in files.values() for file in paths}
    size = size or _side(shapes, autoencoder is not None)
    trip = _trip(autoencoder, size) if autoencoder else None
    yield f"compared at {size} x {size} px; given: {_sides(shapes)}"
    images = {name: np.stack([read_image(file, size) for file in paths]) for name, paths in files.items()}

    # Equal pictures are one patient; a held-out image that the training folder has as well is no control.
    real, edge = np.concatenate([images["train"], images["heldout"]]), len(images["train"])
    patients = patients_of(Split(real, np.zeros(len(real), np.int64)))
    fresh = np.flatnonzero(~np.isin(patients[edge:], patients[:edge]))
    if len(fresh) < len(real) - edge:
        yield f"{len(real) - edge - len(fresh)} held-out images left out: {train} has them, or their mirror images, too"
    if not len(fresh):
        raise BadInput(f"--heldout {heldout}: every image of it is in {train}; allowed: images that were held out")
    there = set(pixel_keys(images["heldout"]))
    if shared := sum(key in there for key in pixel_keys(images["synthetic"])):
        yield f"{shared} pictures of {synthetic} are held-out images, pixel for pixel"

    own = Bank(images["train"], np.zeros(edge, np.int64), patients[:edge])
    others = Bank(images["heldout"][fresh], np.zeros(len(fresh), np.int64), [patients[edge + i] for i in fresh])
    looks = thumbnails(own.images)
    result = audit(images["synthetic"], own, others, stride=0.25, embed=embedded, looks=looks, trip=trip)
    names = [str(file.relative_to(synthetic)) for file in files["synthetic"]]
    write_result(result, names, out, [str(file.relative_to(train)) for file in files["train"]])
    for row in result.rows:
        interval = f" ({row['low']:.3f} to {row['high']:.3f})" if "low" in row else ""
        yield f"{row['metric']:28} {row.get('group', ''):22} {row['value']:.4f}{interval}"
    pictures = gallery([each | {"dataset": synthetic.name, "generator": ""} for each in by_search(result.pairs)])
    if pictures:
        told = "Synthetic images that lie nearest to a training image, beside it and the nearest held-out one"
        (out / "pairs.png").write_bytes(rendered(pictures, "png", "pairs", "augury audit", told))
    yield f"{out / 'images.csv'}: one row a synthetic image; pairs.png: the nearest pairs"


def _trip(autoencoder: str, size: int) -> Any:
    """Images through an autoencoder and back."""
    from benchmark.recipes import autoencoder_file
    from benchmark.stages.train import named_autoencoder
    from generators.autoencoders import FACTOR, round_trip, working_resolution

    autoencoder_file(autoencoder)
    if size % FACTOR:
        raise BadInput(f"--size {size} given; with --autoencoder a multiple of {FACTOR} is allowed")
    try:
        model = named_autoencoder(autoencoder)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise BadInput(f"--autoencoder {autoencoder} cannot be loaded: {' '.join(str(error).split())[:200]}") from None
    return partial(round_trip, model.to(device()), working_resolution(size))


def _files(folder: Path) -> list[Path]:
    """The images of a folder, nested ones too. Raises BadInput for pictures of a kind that is not read, which would
    escape the audit."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder")
    every = sorted(file for file in folder.rglob("*") if file.is_file())
    files = [file for file in every if file.suffix.lower() in SUFFIXES]
    others = [file for file in every if file.suffix.lower() in UNREAD]
    if others:
        raise BadInput(f"{others[0]} is not read ({len(others)} such); allowed: {', '.join(SUFFIXES)}")
    if not files:
        raise BadInput(f"{folder} holds no image ({', '.join(SUFFIXES)})")
    return files


def _shape(file: Path) -> tuple[int, ...]:
    """Height and width of an image from its head; of what has none that PIL knows by reading it all."""
    try:
        with Image.open(file) as image:
            return image.size[1], image.size[0]
    except (OSError, ValueError):
        return read_image(file, None).shape[:2]


def _writable(out: Path, folders: dict[str, Path]) -> None:
    """Make the folder of the results; it must not lie where the images are, and these must be three folders."""
    places = {name: folder.resolve() for name, folder in folders.items()}
    for name, place in places.items():
        if out.resolve().is_relative_to(place):
            raise BadInput(f"--out {out} lies in --{name} {folders[name]}; allowed: a folder outside of it")
        twice = [other for other, its in places.items() if other != name and its.is_relative_to(place)]
        if twice:
            raise BadInput(f"--{twice[0]} {folders[twice[0]]} lies in --{name} {folders[name]}; allowed: three folders")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise BadInput(f"--out {out} cannot be written: {error.strerror}") from None


def _side(shapes: set[tuple[int, ...]], latent: bool) -> int:
    """The images' least side, between 16 and 64; for an autoencoder the next multiple of eight."""
    side = int(np.clip(min(min(shape) for shape in shapes), 16, 64))
    return -(-side // 8) * 8 if latent else side


def _sides(shapes: set[tuple[int, ...]]) -> str:
    """The sizes of the images in words, and what becomes of those that are not square."""
    sizes = sorted({f"{height} x {width}" for height, width in shapes})
    told = ", ".join(sizes[:3]) + (f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else "")
    return f"{told}; the central square was taken" if any(a != b for a, b in shapes) else told


def by_search(pairs: dict[str, Any]) -> list[dict[str, Any]]:
    """The arrays of pairs.npz -> a gallery's entry for the tile-max search and one for the patch search."""
    patch = {key.removeprefix("patch_"): value for key, value in pairs.items() if key.startswith("patch_")}
    main = {key: value for key, value in pairs.items() if not key.startswith("patch_")}
    return [main | {"search": "tile-max"}, *([patch | {"search": "patch"}] if patch else [])]
