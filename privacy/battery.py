"""The whole audit of one synthetic set: every measure with its query control and its power, and the bank control.

docs/protocol.md. Rows are dicts: metric, value, perhaps low and high (95 %), group, n images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import irfft2, rfft2
from scipy.ndimage import gaussian_filter

from privacy.audits import (
    adaptive_ratio,
    authentic_share,
    bank_control,
    c_t,
    call_copies,
    control_patients,
    distance_ratio,
    excess_interval,
    matched_bank,
    overfit_share,
    query_control,
)
from privacy.neighbours import (
    GRID,
    cosine_neighbours,
    flat_index,
    patch_neighbours,
    tile_max_matrix,
    tile_max_neighbours,
)
from privacy.power import KINDS, centres, plant, relatives, resized, wilson_interval

Images = NDArray[np.uint8]
Row = dict[str, Any]
Trip = Callable[[Images], Images]
Embed = Callable[[Images], NDArray[np.float32]]
PLANTED = 60  # images of the bank that are planted, of each kind
ABSOLUTE = (0.05, 0.1, 0.15)  # tile-max distances that papers call copies at 512 px
SHOWN = 8  # pairs in the gallery
UNPLANTED = ("synthetic", "control")  # of the queries; all others are planted copies
SMOOTHING = 1.5  # pixels, sigma
HALVES = 20  # images that may be one half of a blend
MOVED = 5  # images that may be what was moved, for each of nine ways
SMALL = 16  # pixels a side of the pictures by which what was moved is looked up


@dataclass(frozen=True)
class Bank:
    """Images uint8 [N, H, W, 3], the stratum and the patient of each."""

    images: Images
    labels: NDArray[np.int64]
    patients: list[str]


@dataclass(frozen=True)
class Result:
    """rows: tidy rows; columns: one value a synthetic image; distances and pairs: arrays for figures; features of the
    synthetic images."""

    rows: list[Row]
    columns: dict[str, list[Any]]
    distances: dict[str, NDArray[np.float64]]
    pairs: dict[str, NDArray[Any]]
    features: NDArray[np.float32]


def audit(
    synthetic: Images, bank: Bank, heldout: Bank, *, stride: float, embed: Embed, looks: NDArray[np.floating],
    trip: Trip | None = None, known: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    own: NDArray[np.float32] | None = None, classes: list[str] | None = None,
) -> Result:  # fmt: skip
    """Search for one synthetic set uint8 [M, S, S, 3] among a generator's training images.

    stride: of the patch search, in tiles. embed: images -> features [N, D]. looks: the bank's small pictures, for
    `power.relatives`. trip: sends images through the generator's autoencoder and back. known, own: features of both
    banks and of the synthetic images where they are there already. classes: of the synthetic images, for rows of each.
    """
    # What is searched for: synthetic images, one held-out image a patient, and what stands for a copy.
    chosen, m = control_patients(heldout.patients, 0), len(synthetic)
    control = heldout.images[chosen]
    queries, itself = {"synthetic": synthetic, "control": control} | _planted(bank, trip), np.zeros(0, np.int64)
    for kind, rows_of_kind in relatives(bank.patients, looks).items():
        queries[kind], itself = bank.images[rows_of_kind], np.concatenate([itself, rows_of_kind])
    banks = known or (embed(bank.images), embed(heldout.images))
    images = np.concatenate(list(queries.values()))
    itself = np.concatenate([np.full(len(images) - len(itself), -1), itself])
    step = max(1, round(stride * synthetic.shape[1] / GRID))
    there = {"control": banks[1][chosen]} | ({} if own is None else {"synthetic": own})
    mine = np.concatenate([there[name] if name in there else embed(each) for name, each in queries.items()])
    found = _search(images, mine, itself, bank.images, banks[0], step)
    ends = np.cumsum([len(each) for each in queries.values()])[:-1]
    by_query = {name: dict(zip(queries, np.split(each, ends), strict=True)) for name, each in found.distances.items()}

    # The same bank decoded by the autoencoder: the best copy that a latent model can emit.
    if trip is not None:
        decoded = trip(bank.images)
        sent = {"synthetic": synthetic, "control": trip(control), "round_trip": queries["round_trip"]}
        by_query["round_trip"] = {name: tile_max_neighbours(each, decoded)[0][:, 0] for name, each in sent.items()}

    # Query control and power of each measure; over-fitting as a whole; bank control, and the call that needs both.
    laws = {name: query_control(each["synthetic"], each["control"]) for name, each in by_query.items()}
    law, near, far = laws["tile_max"], found.near[:m], by_query["tile_max"]["control"]
    called, ratio = _ratio_call(synthetic, near, far, law, heldout)
    rows = [row for name, each in laws.items() for row in _query_rows(name, each, m)]
    rows += [row for name, each in laws.items() for row in _power_rows(name, by_query[name], each["threshold"])]
    rows += _absolute_rows(near[:, 0]) + _overfitting_rows(found.features[:m], *banks, heldout.patients)
    rows += _bank_rows(synthetic, bank, heldout) + _called_rows(called, law, len(far))
    for name in sorted(set(classes or ())):
        mine_alone = called[np.array(classes) == name]
        rows += [row | {"group": name} for row in _called_rows(mine_alone, law, len(far))]
    columns: dict[str, list[Any]] = {
        "nearest": found.nearest["tile_max"][:m, 0].tolist(), "distance": near[:, 0].tolist(),
        "threshold": [law["threshold"]] * m, "flagged": (near[:, 0] <= law["threshold"]).tolist(),
        "copy": called.tolist(), "bank_ratio": ratio.tolist(),
        "conformal_p": law["conformal"].tolist(), "discovered": law["called"].tolist(),
        "patch_nearest": found.nearest["patch"][:m].tolist(),
        "embedding_nearest": found.nearest["embedding"][:m].tolist(),
    }  # fmt: skip
    for name, each in by_query.items():
        if name != "tile_max":
            columns[f"{name}_distance"] = each["synthetic"].tolist()
            columns[f"{name}_flagged"] = (each["synthetic"] <= laws[name]["threshold"]).tolist()
    distances = {"synthetic": near[:, 0], "heldout": far, "threshold": np.array([law["threshold"]])}
    distances |= {f"planted_{kind}": by_query["tile_max"][kind] for kind in queries if kind not in UNPLANTED}
    pairs = _pairs(synthetic, near[:, 0], found.nearest["tile_max"][:m, 0], bank, heldout)
    by_patch = _pairs(synthetic, by_query["patch"]["synthetic"], found.nearest["patch"][:m], bank, heldout, step)
    worst = np.argsort(by_query["patch"]["synthetic"], kind="stable")[:SHOWN]
    pairs |= {f"patch_{key}": value for key, value in (by_patch | {"tiles": found.tiles[worst]}).items()}
    return Result(rows, columns, distances, pairs, found.features[:m])


@dataclass(frozen=True)
class Searched:
    """Of all queries [Q]: distance by measure, small = near; the nearest rows; tile-max of the k nearest; each tile's
    distance to its nearest patch [Q, 16]; features."""

    distances: dict[str, NDArray[np.float64]]
    nearest: dict[str, NDArray[np.int64]]
    near: NDArray[np.float64]
    tiles: NDArray[np.float64]
    features: NDArray[np.float32]


def _search(
    images: Images, mine: NDArray[np.float32], itself: NDArray[np.int64], bank: Images,
    features: NDArray[np.float32], step: int,
) -> Searched:  # fmt: skip
    """By tile, and again where one way of hiding a copy is undone; by patches that moved; in features.

    itself int64 [Q]: the bank's row that a query must not find, for it is that image; -1 for none.
    """
    some = (itself >= 0).any()
    apart = ([f"{row}" for row in itself], [f"{row}" for row in range(len(bank))]) if some else None

    def tile_max(queries: Images, among: Images) -> NDArray[np.float64]:
        return tile_max_neighbours(queries, among, exclude=apart)[0][:, 0]

    near, index = tile_max_neighbours(images, bank, k=min(50, len(bank) - int(some)), exclude=apart)
    patch, patch_index, tiles = patch_neighbours(images, bank, stride=step, exclude=apart)
    angle, angle_index = cosine_neighbours(mine, features, itself)
    middle = centres(bank)
    distances = {
        "tile_max": near[:, 0],
        "mirrored": np.minimum(near[:, 0], tile_max(np.ascontiguousarray(images[:, :, ::-1]), bank)),
        "smoothed": tile_max(_smooth(images), _smooth(bank)),
        "zoomed": tile_max(resized(images, middle.shape[1]), middle),
        "blended": _halves(images, bank, itself, tile_max),
        "moved": _moved(images, bank, itself),
        "adaptive": adaptive_ratio(near),
        "second_ratio": near[:, 0] / np.maximum(near[:, min(1, near.shape[1] - 1)], 1e-12),
        "patch": patch,
        "embedding": angle,
    }
    nearest = {"tile_max": index, "patch": patch_index, "embedding": angle_index}
    return Searched(distances, nearest, near, tiles, mine)


def _smooth(images: Images) -> Images:
    blurred = np.empty_like(images)
    for i, image in enumerate(images):  # one at a time: a bank may be large
        blurred[i] = np.rint(gaussian_filter(image.astype(np.float32), (SMOOTHING, SMOOTHING, 0)))
    return blurred


def _halves(
    images: Images, bank: Images, itself: NDArray[np.int64], tile_max: Callable[[Images, Images], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Distance [Q] of each image x to a blend of two of the bank: half of that from 2x - a to the bank, the least over
    the HALVES images a that are nearest to x in grey levels, at 64 px or less."""
    side = min(images.shape[1], 64)
    small, theirs = (resized(each, side, Image.Resampling.BOX).mean(3, dtype=np.float32).reshape(len(each), -1)
                     for each in (images, bank))  # fmt: skip
    near = flat_index("L2", theirs).search(small, min(HALVES, len(bank)))[1]
    best = np.full(len(images), np.inf)
    for first in near.T:
        other = np.clip(2 * images.astype(np.int16) - bank[first], 0, 255).astype(np.uint8)
        best = np.minimum(best, np.where(first == itself, np.inf, tile_max(other, bank) / 2))
    return best


def _moved(images: Images, bank: Images, itself: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distance [Q] of each image's middle to that of an image of the bank, moved by up to a sixteenth of the side any
    way: tile-max where the two agree best, the least over the images that are nearest when reduced to SMALL, unmoved
    and moved by one such pixel in eight ways."""
    grey = [each.mean(3, dtype=np.float32) for each in (images, bank)]
    small, theirs = (resized(each, SMALL, Image.Resampling.BOX).mean(3, dtype=np.float32) for each in (images, bank))
    index, edge = flat_index("L2", theirs[:, 1:-1, 1:-1].reshape(len(bank), -1)), SMALL - 2
    near = np.concatenate([
        index.search(small[:, y : y + edge, x : x + edge].reshape(len(images), -1), min(MOVED, len(bank)))[1]
        for y in range(3) for x in range(3)
    ], 1)  # fmt: skip
    side, reach = images.shape[1], max(1, images.shape[1] // 16)
    inner = side - 2 * reach
    middle = images[:, reach : reach + inner, reach : reach + inner]
    ours = np.conj(rfft2(grey[0][:, reach : reach + inner, reach : reach + inner], (side, side)))
    window = np.conj(rfft2(np.ones((inner, inner), np.float32), (side, side)))
    best = np.full(len(images), np.inf)
    for first in near.T:
        other = grey[1][first]
        agree = window * rfft2(other**2) - 2 * ours * rfft2(other)  # squared distance at every move, but for a constant
        gaps = irfft2(agree, (side, side))[:, : 2 * reach + 1, : 2 * reach + 1].reshape(len(first), -1)
        starts = np.stack(np.divmod(gaps.argmin(1), 2 * reach + 1), 1)
        moved = np.stack([bank[row, y : y + inner, x : x + inner] for row, (y, x) in zip(first, starts, strict=True)])
        best = np.minimum(best, np.where(first == itself, np.inf, _tile_gap(middle, moved)))
    return best


def _tile_gap(one: Images, two: Images) -> NDArray[np.float64]:
    """Tile-max distance [Q] of pairs of images."""
    tile = one.shape[1] // GRID
    cut = slice(0, GRID * tile)
    squares = (one[:, cut, cut].astype(np.int32) - two[:, cut, cut]) ** 2
    tiles = squares.reshape(len(one), GRID, tile, GRID, tile, -1).mean((2, 4, 5))
    return np.asarray(np.sqrt(tiles.max((1, 2))) / 255)


def _planted(bank: Bank, trip: Trip | None) -> dict[str, Images]:
    """Copies of some of the bank's images, of every kind."""
    rows = np.sort(np.random.default_rng(0).permutation(len(bank.images))[:PLANTED])
    kinds = [kind for kind in KINDS if kind != "blended" or len(rows) > 1]
    planted = {kind: plant(bank.images[rows], kind, 0) for kind in kinds}
    return planted | ({"round_trip": trip(bank.images[rows])} if trip is not None else {})


def _overfitting_rows(
    synthetic: NDArray[np.float32], bank: NDArray[np.float32], heldout: NDArray[np.float32], patients: list[str]
) -> list[Row]:
    """AuthPct, C_T and FLD's over-fit share; beside the first and last what held-out real images give."""
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


def _query_rows(measure: str, law: Row, n: int) -> list[Row]:
    keys = {"flagged": "share", "p": "p_value", "level": "level", "threshold": "threshold"}
    rows = [{"metric": f"{measure}_{name}", "value": float(law[key]), "n": n} for name, key in keys.items()]
    excess = {"value": float(law["excess"]), "low": float(law["low"]), "high": float(law["high"])}
    return [{"metric": f"{measure}_excess_copies", "n": n} | excess, *rows]


def _called_rows(called: NDArray[np.bool_], law: Row, controls: int) -> list[Row]:
    """The share called copies by both controls, and its excess: at least what the query control's law leaves of it, as
    if all its false calls were among them; at most all of it, as if none were."""
    n, level = len(called), float(law["level"])
    low, high = excess_interval(int(called.sum()), n, int(law["k"]), controls)
    high = max(high, float(called.mean()))
    excess = {"value": max(0.0, (float(called.mean()) - level) / (1 - level)), "low": low, "high": high}
    share = dict(zip(("value", "low", "high"), wilson_interval(int(called.sum()), n), strict=True))
    return [{"metric": "copies_called", "n": n} | share, {"metric": "excess_copies", "n": n} | excess]


def _absolute_rows(distances: NDArray[np.float64]) -> list[Row]:
    """Shares below the thresholds of papers, made for 512 px: they do not carry over to other sizes."""
    return [{"metric": "tile_max_below", "group": f"distance={limit}", "value": float((distances <= limit).mean()),
             "n": len(distances)} for limit in ABSOLUTE]  # fmt: skip


def _power_rows(measure: str, found: dict[str, NDArray[np.float64]], threshold: float) -> list[Row]:
    """Share found of each kind of planted copies."""
    rows = []
    for kind, distances in ((kind, found[kind]) for kind in found if kind not in UNPLANTED):
        value, low, high = wilson_interval(int((distances <= threshold).sum()), len(distances))
        rows.append({"metric": f"{measure}_power", "group": f"planted={kind}", "value": value, "low": low,
                     "high": high, "n": len(distances)})  # fmt: skip
    return rows


def _ratio_call(
    synthetic: Images, near: NDArray[np.float64], far: NDArray[np.float64], law: Row, heldout: Bank
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Images called copies, and each one's ratio d_train / d_heldout to the two whole banks.

    Held-out queries get the same ratio, their own patient left out, so that the banks' different sizes cancel. The
    whole training bank is searched: a copy of an image that a subsample leaves out must not escape.
    """
    queries = control_patients(heldout.patients, 0)
    patients = np.array(heldout.patients)
    inside = tile_max_matrix(heldout.images[queries], heldout.images)
    inside[patients[queries][:, None] == patients[None, :]] = np.inf
    ratio = distance_ratio(near[:, 0], tile_max_matrix(synthetic, heldout.images).min(1))
    called = call_copies(near[:, 0] <= law["threshold"], ratio, distance_ratio(far, inside.min(1)))
    return np.asarray(called, bool), np.asarray(ratio, np.float64)


def _bank_rows(synthetic: Images, bank: Bank, heldout: Bank) -> list[Row]:
    """The bank control: share of images nearer to training than to held-out patients, banks of one size and class
    mix (a larger one is nearer by chance); missing where the banks have no class in common."""
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
    synthetic: Images, near: NDArray[np.float64], index: NDArray[np.int64], bank: Bank, heldout: Bank,
    step: int | None = None,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """Synthetic, nearest training, nearest held-out image; nearest first by a search's distances [M] and rows [M], and
    the same search's among held-out images: by patches with a step, else tile-max."""
    worst = np.argsort(near, kind="stable")[:SHOWN]
    mine, theirs = synthetic[worst], heldout.images
    other, place = (patch_neighbours(mine, theirs, stride=step)[:2] if step
                    else (each[:, 0] for each in tile_max_neighbours(mine, theirs, k=1)))  # fmt: skip
    return {
        "synthetic": synthetic[worst], "nearest_train": bank.images[index[worst]],
        "nearest_heldout": heldout.images[place], "d_train": near[worst], "d_heldout": other,
    }  # fmt: skip
