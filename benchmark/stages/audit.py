"""The privacy audit of one synthetic set, of its generator (membership), of any folders, of the classifiers."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.cache import BadInput, Record, write_json
from benchmark.datasets import captions, label_codes, label_name
from benchmark.sources import SUFFIXES, read_image
from benchmark.splits import thumbnails
from benchmark.stages import device, split, synthesize
from benchmark.stages.train import read_autoencoder
from privacy.battery import Bank, Result, audit

Images = NDArray[np.uint8]
TIMES = (100, 400)  # of 1000: low and middle noise
DRAWS = 4  # of noise, the same for every image
RATES = (0.01, 0.1)
GUESSES = 100  # patients, fixed beforehand
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
    own, stride = bank(seen), config["stride"]
    looks = thumbnails(own.images)
    result = audit(drawn.images[some], own, bank(prepared.heldout), stride=stride, embed=embedded, looks=looks,
                   trip=trip, known=known)  # fmt: skip
    names = [f"{drawn.seeds[i]}" for i in some]
    labels = [label_name(prepared.card, drawn.labels[i]) for i in some]
    inside = np.isin(seen, prepared.members) if config["budget"] is None else np.ones(len(seen), bool)
    patients = [prepared.patients[i] for i in (*seen[inside], *prepared.heldout)]
    rows = result.rows + _class_rows(result, labels) + _gap(result.features, known[0][inside], known[1], patients)
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


def _class_rows(result: Result, labels: list[str]) -> list[Record]:
    """Share of each class that is called a copy, with Wilson's interval; a count, not an excess."""
    from privacy.power import wilson_interval

    called, rows = np.array(result.columns["copy"]), []
    for name in sorted(set(labels)):
        mine = called[np.array(labels) == name]
        value, low, high = wilson_interval(int(mine.sum()), len(mine))
        rows.append({"metric": "copies_called", "group": name, "value": value, "low": low, "high": high,
                     "n": len(mine)})  # fmt: skip
    return rows


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
        own = [prepared.captions[i] for i in which] if prepared.captions else None
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
    found = _told("membership", scores["members"], scores["others"], *patients)
    if "reference" in models:
        pair = scores["members_calibrated"], scores["others_calibrated"]
        found += _told("membership_calibrated", *pair, *patients)
    write_json(folder / "rows.json", found + _blind(*features, *patients))


def _told(
    name: str, members: NDArray[Any], others: NDArray[Any], patients: list[str], other_patients: list[str]
) -> list[Record]:
    """AUROC, what can be found at fixed false-positive rates, and epsilon's lower bound."""
    from privacy.membership import empirical_epsilon, membership_auroc, true_positive_rate

    n, given = len(members) + len(others), (members, others, patients, other_patients)
    found = [(f"{name}_auroc", "all", membership_auroc(*given))]
    for rate in RATES:
        if (resolved := true_positive_rate(*given, rate)) is not None:
            found.append((f"{name}_found", f"false_positives={rate:g}", resolved))
    rows: list[Record] = [
        {"metric": metric, "group": group, "value": value, "low": low, "high": high, "n": n}
        for metric, group, (value, low, high) in found
    ]
    return [*rows, {"metric": f"{name}_epsilon", "value": empirical_epsilon(*given, GUESSES), "n": n}]


def _blind(members: NDArray[Any], others: NDArray[Any], patients: list[str], other_patients: list[str]) -> list[Record]:
    """The blind baseline; void: the two groups can be told apart without the generator."""
    from privacy.membership import blind_auroc

    value, p = blind_auroc(members, others, patients, other_patients)
    rows = {"blind_auroc": value, "blind_p": p, "void": p <= 0.05 if p == p else p}
    n = len(members) + len(others)
    return [{"metric": f"membership_{name}", "value": float(number), "n": n} for name, number in rows.items()]


def attacked_rows(
    prepared: split.Prepared, probabilities: dict[int, NDArray[Any]], used: dict[int, NDArray[np.int64]]
) -> dict[int, list[Record]]:
    """The attack on one arm's classifiers: seed -> tidy rows of `classifier_membership_*`.

    probabilities: of prepared.pool, by seed; used: rows of train that the classifier of this seed, or the generator
    behind its images, saw. The score is the negative loss and, calibrated, how far it lies below the mean loss of the
    other seeds' classifiers that did not see the image, where every image has one.
    """
    from privacy.membership import calibrated, empirical_epsilon, membership_auroc

    pool, labels = prepared.pool, prepared.train.labels[prepared.pool]
    seeds = sorted(probabilities)
    losses = np.stack([_losses(labels, probabilities[seed]) for seed in seeds])
    inside = np.stack([np.isin(pool, used[seed]) for seed in seeds])
    patients = np.array([prepared.patients[i] for i in pool])
    out = ~np.isin(pool, prepared.members)
    found: dict[int, list[Record]] = {}
    for place, seed in enumerate(seeds):
        scores = {"": -losses[place], "_calibrated": calibrated(losses, inside, place)}
        found[seed] = []
        for name, values in scores.items():
            one, two = inside[place] & np.isfinite(values), out & np.isfinite(values)
            if one.sum() < 2 or two.sum() < 2:
                continue
            given = (values[one], values[two], patients[one].tolist(), patients[two].tolist())
            value, low, high = membership_auroc(*given)
            keys: Record = {"group": "all", "n": int(one.sum() + two.sum())}
            bounds = {"value": value, "low": low, "high": high}
            found[seed].append(keys | {"metric": f"classifier_membership{name}_auroc"} | bounds)
            epsilon = empirical_epsilon(*given, GUESSES)
            found[seed].append(keys | {"metric": f"classifier_membership{name}_epsilon", "value": epsilon})
    return found


def _losses(labels: NDArray[Any], probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Cross-entropy of each image in nats; of multi-label ones the sum over labels."""
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    if labels.ndim == 2:
        return np.asarray(-np.where(labels > 0, np.log(p), np.log1p(-p)).sum(1))
    return np.asarray(-np.log(p[np.arange(len(labels)), labels]))


def audit_folders(
    train: Path, heldout: Path, synthetic: Path, out: Path, size: int, autoencoder: str | None
) -> Iterator[str]:
    """Audit any image folders; yields lines for the terminal, writes images.csv, rows.json and pictures' arrays.

    autoencoder: augury, taesd or a diffusers folder, by which the training images are sent and searched as well.
    """
    from results.figures import gallery, rendered

    trip = _trip(autoencoder, size) if autoencoder else None
    files = {
        name: _files(folder) for name, folder in (("train", train), ("heldout", heldout), ("synthetic", synthetic))
    }
    images = {name: np.stack([read_image(file, size) for file in paths]) for name, paths in files.items()}

    def bank(name: str) -> Bank:
        paths = files[name]
        return Bank(images[name], np.zeros(len(paths), np.int64), [f"{name} {i}" for i in range(len(paths))])

    own = bank("train")
    looks = thumbnails(own.images)
    result = audit(images["synthetic"], own, bank("heldout"), stride=0.25, embed=embedded, looks=looks, trip=trip)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {out} cannot be written: {error.strerror}") from None
    names = [str(file.relative_to(synthetic)) for file in files["synthetic"]]
    write_result(result, names, out, [str(file.relative_to(train)) for file in files["train"]])
    for row in result.rows:
        interval = f" ({row['low']:.3f} to {row['high']:.3f})" if "low" in row else ""
        yield f"{row['metric']:28} {row.get('group', ''):22} {row['value']:.4f}{interval}"
    pictures = gallery([result.pairs | {"dataset": synthetic.name, "generator": ""}])
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
    return partial(round_trip, named_autoencoder(autoencoder).to(device()), working_resolution(size))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder")
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix.lower() in SUFFIXES)
    if not files:
        raise BadInput(f"{folder} holds no image ({', '.join(SUFFIXES)})")
    return files
