"""The privacy audit of one synthetic set, with its query control, bank control and power."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.cache import BadInput, Record, write_json
from benchmark.datasets import label_codes, label_name
from benchmark.sources import SUFFIXES, read_image
from benchmark.stages import device, split, synthesize
from benchmark.stages.train import read_autoencoder

Images = NDArray[np.uint8]
PLANTED = 60  # images of the bank that are planted, of each kind
SHOWN = 8  # pairs in the gallery
GRID = 4  # tiles a side


@dataclass(frozen=True)
class Bank:
    """Images uint8 [N, H, W, 3], the stratum and the patient of each."""

    images: Images
    labels: NDArray[np.int64]
    patients: list[str]


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
    result = audit(
        drawn.images[some], bank(seen), bank(prepared.heldout), stride=config["stride"], trip=trip, known=known
    )
    names = [f"{drawn.seeds[i]}" for i in some]
    labels = [label_name(prepared.card, drawn.labels[i]) for i in some]
    write_result(replace(result, rows=result.rows + _class_rows(result, labels)), names, folder)


def _class_rows(result: "Result", labels: list[str]) -> list[Record]:
    """Share of each class that is called a copy, with Wilson's interval; a count, not an excess."""
    from privacy.power import wilson_interval

    called, rows = np.array(result.columns["copy"]), []
    for name in sorted(set(labels)):
        mine = called[np.array(labels) == name]
        value, low, high = wilson_interval(int(mine.sum()), len(mine))
        rows.append({"metric": "copies_called", "group": name, "value": value, "low": low, "high": high,
                     "n": len(mine)})  # fmt: skip
    return rows


@dataclass(frozen=True)
class Result:
    """rows: tidy rows; columns: one value a synthetic image; distances and pairs: arrays for figures."""

    rows: list[Record]
    columns: dict[str, list[Any]]
    distances: dict[str, NDArray[np.float64]]
    pairs: dict[str, NDArray[Any]]


def audit(
    synthetic: Images, bank: Bank, heldout: Bank, *, stride: float, trip: Any = None, known: Any = None
) -> Result:
    """PROTOCOL section 4 on one synthetic set.

    trip: sends images through the generator's autoencoder and back. known: features of both banks where they are
    there already, as `embedded` gives them.
    """
    from privacy.audits import control_patients, query_control
    from privacy.neighbours import cosine_neighbours, patch_neighbours, tile_max_neighbours
    from privacy.power import KINDS, plant

    side = synthetic.shape[1]
    step = max(1, round(stride * side / GRID))
    control = heldout.images[control_patients(heldout.patients, 0)]
    rng = np.random.default_rng(0)
    planted_rows = np.sort(rng.permutation(len(bank.images))[:PLANTED])
    planted = {kind: plant(bank.images[planted_rows], kind, 0) for kind in KINDS}
    if trip is not None:
        planted["round_trip"] = trip(bank.images[planted_rows])

    # Tile-max distance to the raw bank, its control, and what it finds of planted copies.
    neighbours = min(50, len(bank.images))
    near, index = tile_max_neighbours(synthetic, bank.images, k=neighbours)
    far = tile_max_neighbours(control, bank.images, k=1)[0][:, 0]
    law = query_control(near[:, 0], far)
    rows = _query_rows("tile_max", law, len(synthetic))
    found = {kind: tile_max_neighbours(images, bank.images, k=1)[0][:, 0] for kind, images in planted.items()}
    rows += _power_rows("tile_max", found, law["threshold"])

    # Patches that may have moved.
    patch, patch_index, _ = patch_neighbours(synthetic, bank.images, stride=step)
    patch_law = query_control(patch, patch_neighbours(control, bank.images, stride=step)[0])
    rows += _query_rows("patch", patch_law, len(synthetic))
    moved = {kind: patch_neighbours(images, bank.images, stride=step)[0] for kind, images in planted.items()}
    rows += _power_rows("patch", moved, patch_law["threshold"])

    # The same bank decoded by the autoencoder: the best copy that a latent model can emit.
    columns: dict[str, list[Any]] = {}
    if trip is not None:
        decoded = trip(bank.images)
        trip_near = tile_max_neighbours(synthetic, decoded, k=1)[0][:, 0]
        trip_law = query_control(trip_near, tile_max_neighbours(trip(control), decoded, k=1)[0][:, 0])
        rows += _query_rows("round_trip", trip_law, len(synthetic))
        back = {"round_trip": tile_max_neighbours(planted["round_trip"], decoded, k=1)[0][:, 0]}
        rows += _power_rows("round_trip", back, trip_law["threshold"])
        columns = {"round_trip_distance": trip_near.tolist()}

    # The same in an encoder's features, which flips and crops change little.
    mine, banks = embedded(synthetic), known or (embedded(bank.images), embedded(heldout.images))
    angle, angle_index = cosine_neighbours(mine, banks[0])
    queries = control_patients(heldout.patients, 0)
    angle_law = query_control(angle, cosine_neighbours(banks[1][queries], banks[0])[0])
    rows += _query_rows("embedding", angle_law, len(synthetic))
    turned = {kind: cosine_neighbours(embedded(images), banks[0])[0] for kind, images in planted.items()}
    rows += _power_rows("embedding", turned, angle_law["threshold"])
    rows += _overfitting_rows(mine, banks[0], banks[1], heldout.patients)
    columns |= {"embedding_distance": angle.tolist(), "embedding_nearest": angle_index.tolist()}
    columns |= {"embedding_flagged": (angle <= angle_law["threshold"]).tolist()}

    # Bank control, and the call that needs both.
    rows += _bank_rows(synthetic, bank, heldout)
    called, ratio = _ratio_call(synthetic, near, far, law, heldout)
    rows += _called_rows(called, law, len(far))
    first = {
        "nearest": index[:, 0].tolist(), "distance": near[:, 0].tolist(),
        "threshold": [law["threshold"]] * len(synthetic), "flagged": (near[:, 0] <= law["threshold"]).tolist(),
        "copy": called.tolist(), "bank_ratio": ratio.tolist(),
        "second_ratio": (near[:, 0] / np.maximum(near[:, 1 if neighbours > 1 else 0], 1e-12)).tolist(),
        "patch_nearest": patch_index.tolist(), "patch_distance": patch.tolist(),
        "patch_flagged": (patch <= patch_law["threshold"]).tolist(),
    }  # fmt: skip
    distances = {"synthetic": near[:, 0], "heldout": far, "threshold": np.array([law["threshold"]])}
    distances |= {f"planted_{kind}": values for kind, values in found.items()}
    return Result(rows, first | columns, distances, _pairs(synthetic, near, index, bank, heldout))


def embedded(images: Images) -> NDArray[np.float32]:
    """Features in EfficientNet-Lite0's space."""
    from classifiers.features import LITE0_SIDE, efficientnet_lite0, embed

    return embed(efficientnet_lite0().to(device()), images, LITE0_SIDE)


def _overfitting_rows(
    synthetic: NDArray[np.float32], bank: NDArray[np.float32], heldout: NDArray[np.float32], patients: list[str]
) -> list[Record]:
    """AuthPct, C_T and FLD's over-fit share; beside the first and last what held-out real images give."""
    from privacy.audits import authentic_share, c_t, overfit_share

    names = sorted(set(patients))
    first = {names[i] for i in np.random.default_rng(0).permutation(len(names))[: len(names) // 2]}
    inside = np.array([name in first for name in patients])
    one, two = heldout[inside], heldout[~inside]
    found = {
        "authentic_difference": authentic_share(bank, synthetic) - authentic_share(bank, heldout),
        "overfit_share": overfit_share(bank, heldout, synthetic),
        "overfit_share_heldout": overfit_share(bank, one, two) if len(one) and len(two) else float("nan"),
        **{name if name == "c_t" else f"c_t_{name}": value for name, value in c_t(bank, heldout, synthetic).items()},
    }
    return [{"metric": name, "value": value, "n": len(synthetic)} for name, value in found.items()]


def _query_rows(measure: str, law: Record, n: int) -> list[Record]:
    keys = {"flagged": "share", "p": "p_value", "level": "level", "threshold": "threshold"}
    rows = [{"metric": f"{measure}_{name}", "value": float(law[key]), "n": n} for name, key in keys.items()]
    excess = {"value": float(law["excess"]), "low": float(law["low"]), "high": float(law["high"])}
    return [{"metric": f"{measure}_excess_copies", "n": n} | excess, *rows]


def _called_rows(called: NDArray[np.bool_], law: Record, controls: int) -> list[Record]:
    """The share called copies by both controls, and its excess under the query control's law, which bounds it."""
    from privacy.audits import excess_interval

    n, level = len(called), float(law["level"])
    low, high = excess_interval(int(called.sum()), n, int(law["k"]), controls)
    excess = {"value": max(0.0, (float(called.mean()) - level) / (1 - level)), "low": low, "high": high}
    return [
        {"metric": "copies_called", "value": float(called.mean()), "n": n},
        {"metric": "excess_copies", "n": n} | excess,
    ]


def _power_rows(measure: str, found: dict[str, NDArray[np.float64]], threshold: float) -> list[Record]:
    from privacy.power import wilson_interval

    rows = []
    for kind, distances in found.items():
        value, low, high = wilson_interval(int((distances <= threshold).sum()), len(distances))
        rows.append({"metric": f"{measure}_power", "group": f"planted={kind}", "value": value, "low": low,
                     "high": high, "n": len(distances)})  # fmt: skip
    return rows


def _ratio_call(
    synthetic: Images, near: NDArray[np.float64], far: NDArray[np.float64], law: Record, heldout: Bank
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Images called copies, and each one's ratio d_train / d_heldout to the two whole banks.

    Held-out queries get the same ratio, their own patient left out, so that the banks' different sizes cancel. The
    whole training bank is searched: a copy of an image that a subsample leaves out must not escape.
    """
    from privacy.audits import call_copies, control_patients, distance_ratio
    from privacy.neighbours import tile_max_matrix

    queries = control_patients(heldout.patients, 0)
    patients = np.array(heldout.patients)
    inside = tile_max_matrix(heldout.images[queries], heldout.images)
    inside[patients[queries][:, None] == patients[None, :]] = np.inf
    ratio = distance_ratio(near[:, 0], tile_max_matrix(synthetic, heldout.images).min(1))
    called = call_copies(near[:, 0] <= law["threshold"], ratio, distance_ratio(far, inside.min(1)))
    return np.asarray(called, bool), np.asarray(ratio, np.float64)


def _bank_rows(synthetic: Images, bank: Bank, heldout: Bank) -> list[Record]:
    """The bank control: share of images nearer to training than to held-out patients, banks of one size and class
    mix (a larger one is nearer by chance); missing where the banks have no class in common."""
    from privacy.audits import bank_control, matched_bank
    from privacy.neighbours import tile_max_matrix

    n = len(synthetic)
    rows = matched_bank(bank.labels, bank.patients, heldout.labels, 0)
    others = matched_bank(heldout.labels, heldout.patients, bank.labels[rows], 0)
    if not len(rows) or not len(others):
        return [{"metric": name, "value": float("nan"), "n": n} for name in ("bank_share", "bank_p")]
    found = bank_control(
        tile_max_matrix(synthetic, bank.images[rows]), [bank.patients[i] for i in rows],
        tile_max_matrix(synthetic, heldout.images[others]), [heldout.patients[i] for i in others], 0,
    )  # fmt: skip
    share = {"value": float(found["share"]), "low": float(found["low"]), "high": float(found["high"])}
    return [{"metric": "bank_share", "n": n} | share, {"metric": "bank_p", "value": float(found["p_value"]), "n": n}]


def _pairs(
    synthetic: Images, near: NDArray[np.float64], index: NDArray[np.int64], bank: Bank, heldout: Bank
) -> dict[str, NDArray[Any]]:
    """Synthetic, nearest training, nearest held-out image; nearest first."""
    from privacy.neighbours import tile_max_neighbours

    worst = np.argsort(near[:, 0], kind="stable")[:SHOWN]
    other, other_index = tile_max_neighbours(synthetic[worst], heldout.images, k=1)
    return {
        "synthetic": synthetic[worst], "nearest_train": bank.images[index[worst, 0]],
        "nearest_heldout": heldout.images[other_index[:, 0]], "d_train": near[worst, 0], "d_heldout": other[:, 0],
    }  # fmt: skip


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


def audit_folders(
    train: Path, heldout: Path, synthetic: Path, out: Path, size: int, autoencoder: str | None
) -> Iterator[str]:
    """Audit any image folders; yields lines for the terminal, writes images.csv, rows.json and pictures' arrays.

    autoencoder: augury, taesd or a diffusers folder, by which the training images are sent and searched as well.
    """
    trip = _trip(autoencoder, size) if autoencoder else None
    files = {
        name: _files(folder) for name, folder in (("train", train), ("heldout", heldout), ("synthetic", synthetic))
    }
    images = {name: np.stack([read_image(file, size) for file in paths]) for name, paths in files.items()}

    def bank(name: str) -> Bank:
        paths = files[name]
        return Bank(images[name], np.zeros(len(paths), np.int64), [f"{name} {i}" for i in range(len(paths))])

    result = audit(images["synthetic"], bank("train"), bank("heldout"), stride=0.25, trip=trip)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {out} cannot be written: {error.strerror}") from None
    names = [str(file.relative_to(synthetic)) for file in files["synthetic"]]
    write_result(result, names, out, [str(file.relative_to(train)) for file in files["train"]])
    for row in result.rows:
        interval = f" ({row['low']:.3f} to {row['high']:.3f})" if "low" in row else ""
        yield f"{row['metric']:28} {row.get('group', ''):22} {row['value']:.4f}{interval}"
    yield f"{out / 'images.csv'}: one row a synthetic image"


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
