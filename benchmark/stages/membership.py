"""Can members be told from held-out patients: by the generator (a stage), by the classifiers of an arm?"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.cache import Record, write_json
from benchmark.datasets import captions
from benchmark.stages import device, split

TIMES = (100, 400)  # of 1000: low and middle noise
DRAWS = 4  # of noise, the same for every image
RATES = (0.01, 0.1)
GUESSES = 100  # patients, fixed beforehand


def run_membership(config: Record, inputs: dict[str, Path], folder: Path) -> None:
    """Writes rows.json: tidy rows, and scores.npz: the scores of members and non-members."""
    from generators.autoencoders import encode
    from generators.latent_diffusion import denoising_errors, load_pipeline

    # Members are the coin's under exposure full, else all that the generator saw.
    prepared = split.read(inputs["split"])
    seen = np.sort(split.seen_rows(prepared, config))
    if config["budget"] is None:
        seen = np.intersect1d(prepared.members, seen)
    rows = {"members": seen, "others": prepared.heldout}
    pipeline = load_pipeline(inputs["train"] / "pipeline").to(device())
    resolution = pipeline.unet.config.sample_size * pipeline.vae_scale_factor

    scores: dict[str, Any] = {}
    for name, which in rows.items():
        own = [prepared.captions[i] for i in which] if prepared.captions else None
        labels = prepared.train.labels[which]
        texts = [""] * len(which) if config["unconditional"] else captions(
            prepared.card, labels, own, detail=config["detail"]
        )  # fmt: skip
        latents = encode(pipeline.vae, prepared.train.images[which], resolution)
        scores[name] = -denoising_errors(pipeline, latents, texts, TIMES, DRAWS).mean(1)
    np.savez(folder / "scores.npz", **scores)

    with np.load(inputs["bank"] / "features.npz", allow_pickle=False) as arrays:
        features = arrays["kept"][np.searchsorted(arrays["kept_rows"], seen)], arrays["heldout"]
    patients = tuple([prepared.patients[i] for i in which] for which in rows.values())
    write_json(folder / "rows.json", measured(scores["members"], scores["others"], *features, *patients))


def measured(
    members: NDArray[Any], others: NDArray[Any], features: NDArray[Any], other_features: NDArray[Any],
    patients: list[str], other_patients: list[str],
) -> list[Record]:  # fmt: skip
    """AUROC, what can be found at fixed false-positive rates, epsilon's lower bound, and the blind baseline."""
    from privacy.membership import blind_auroc, empirical_epsilon, membership_auroc, true_positive_rate

    n, given = len(members) + len(others), (members, others, patients, other_patients)
    blind, p = blind_auroc(features, other_features, patients, other_patients)
    found = [("membership_auroc", "all", membership_auroc(*given))]
    for rate in RATES:
        if (resolved := true_positive_rate(*given, rate)) is not None:
            found.append(("membership_found", f"false_positives={rate:g}", resolved))
    rows: list[Record] = [
        {"metric": metric, "group": group, "value": value, "low": low, "high": high, "n": n}
        for metric, group, (value, low, high) in found
    ]
    rows.append({"metric": "membership_epsilon", "value": empirical_epsilon(*given, GUESSES), "n": n})
    # Void: the two groups can be told apart without the generator.
    for metric, value in {"blind_auroc": blind, "blind_p": p, "void": p <= 0.05 if p == p else p}.items():
        rows.append({"metric": f"membership_{metric}", "value": float(value), "n": n})
    return rows


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
