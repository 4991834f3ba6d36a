"""Parts of `make bench`: nearest neighbours, fidelity and features beside what a user would pick instead."""

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Show = Callable[[str, float, str, str], None]


def taken(call: Callable[[], Any], again: int = 1) -> tuple[float, Any]:
    """Least seconds of some runs, and the result."""
    best, result = np.inf, None
    for _ in range(again):
        start = time.monotonic()
        result = call()
        best = min(best, time.monotonic() - start)
    return best, result


def peak(call: Callable[[], Any]) -> float:
    """Megabytes of memory beyond what was held before, on Linux."""
    Path("/proc/self/clear_refs").write_text("5")
    read = lambda key: next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines()  # noqa: E731
                            if line.startswith(key)) / 1000  # fmt: skip
    before = read("VmRSS")
    call()
    return float(read("VmHWM") - before)


def neighbours(show: Show) -> None:
    """1,000 synthetic against 5,000 training images of 64 px, and growth to 100,000."""
    import torch

    from privacy.neighbours import patch_neighbours, tile_max_neighbours

    rng = np.random.default_rng(0)
    bank = rng.integers(0, 256, (5000, 64, 64, 3), dtype=np.uint8)
    queries = np.concatenate([bank[:10], rng.integers(0, 256, (990, 64, 64, 3), dtype=np.uint8)])
    memory = peak(lambda: tile_max_neighbours(queries, bank, k=1))
    ours, (near, index) = taken(lambda: tile_max_neighbours(queries, bank, k=1), 3)
    assert (near[:10, 0] == 0).all() and (index[:10, 0] == np.arange(10)).all()
    cut = lambda images: (torch.from_numpy(images).float() / 255).reshape(-1, 4, 16, 4, 16, 3).permute(0, 1, 3, 2, 4, 5)  # noqa: E731
    a, b = cut(queries).reshape(1000, 16, -1), cut(bank).reshape(5000, 16, -1)
    few = 20
    brute, _ = taken(lambda: [((b - one) ** 2).mean(2).amax(1).min() for one in a[:few]])
    tiled, _ = taken(lambda: torch.stack([torch.cdist(a[:, t], b[:, t]) for t in range(16)]).amax(0).min(1), 3)
    show("tile-max, 1,000 against 5,000 images of 64 px", ours, "s", "")
    show("times faster than a batched torch brute force", brute * len(queries) / few / ours, "x", "40")
    show("times the time of torch.cdist tile by tile", ours / tiled, "x", "at most 1.5")
    show("memory beyond the images", memory, "MB", "under 1000")
    some = queries[:200]
    for count in (10_000, 30_000, 100_000):
        more = np.resize(bank, (count, 64, 64, 3))
        found, _ = taken(partial(tile_max_neighbours, some, more, k=1))
        show(f"tile-max, 200 against {count:,}", found, "s", "")
    flat, _ = taken(lambda: bare_index(queries, bank))
    ours, _ = taken(lambda: patch_neighbours(queries, bank, stride=16))
    show("patch search at stride = tile, times a bare IndexFlatL2", ours / flat, "x", "at most 1.5")
    quarter, _ = taken(lambda: patch_neighbours(queries[:20], bank[:1000], stride=4))
    show("patch search at the default stride, 20 against 1,000", quarter, "s", "")


def bare_index(queries: NDArray[np.uint8], bank: NDArray[np.uint8]) -> Any:
    """Every tile of the queries among every tile of the bank."""
    import faiss

    cut = lambda images: images.reshape(-1, 4, 16, 4, 16, 3).swapaxes(2, 3).reshape(-1, 768).astype(np.float32)  # noqa: E731
    index = faiss.IndexFlatL2(768)
    index.add(cut(bank))
    return index.search(cut(queries), 1)


def fidelity(show: Show) -> None:
    """Precision to coverage with AuthPct beside prdc; Fréchet distance beside scipy's square root."""
    from prdc import compute_prdc
    from scipy.linalg import sqrtm
    from scipy.spatial.distance import cdist

    from generators.fidelity import frechet_distance, frechet_distance_from_moments, moments
    from generators.fidelity import precision_recall_density_coverage as ours_of
    from privacy.audits import authentic_share

    rng = np.random.default_rng(0)
    real, made = (rng.normal(size=(5000, 512)).astype(np.float32) for _ in range(2))

    def ours() -> dict[str, float]:
        return ours_of(real, made) | {"authentic": authentic_share(real, made)}

    def theirs() -> dict[str, float]:
        found = compute_prdc(real, made, 5)
        own, cross = cdist(real, real), cdist(made, real)
        np.fill_diagonal(own, np.inf)
        nearest = cross.argmin(1)
        return dict(found) | {"authentic": float((cross.min(1) > own.min(1)[nearest]).mean())}

    mine, found = taken(ours)
    their, wanted = taken(theirs)
    assert all(
        abs(found[key] - wanted[key]) < 1e-4 for key in ("precision", "recall", "density", "coverage", "authentic")
    )
    show("precision to coverage and AuthPct, 5,000 x 5,000 x 512", mine, "s", "")
    show("times faster than prdc and a full cdist", their / mine, "x", "3")
    show("memory, share of theirs", peak(ours) / peak(theirs), "", "under 0.3")

    a, b = (rng.normal(size=(3000, 2048)) @ rng.normal(size=(2048, 2048)) / 45 for _ in range(2))
    ma, mb = moments(a), moments(b)
    ca, cb = np.cov(a.T), np.cov(b.T)
    root, _ = taken(lambda: sqrtm(ca @ cb))
    mine, _ = taken(lambda: frechet_distance_from_moments(ma, mb))
    show("Fréchet of 2048-d statistics, times faster than sqrtm", root / mine, "x", "5")
    few_a, few_b = a[:500], b[:500]
    root, _ = taken(lambda: sqrtm(np.cov(few_a.T) @ np.cov(few_b.T)))
    mine, _ = taken(lambda: frechet_distance(few_a, few_b))
    show("the same from 500 images, times faster", root / mine, "x", "50")


def features(show: Show) -> None:
    """FID's network on 300 images beside pytorch-fid's."""
    import torch
    import torch.nn.functional as F
    from pytorch_fid.inception import InceptionV3, fid_inception_v3
    from safetensors.torch import load_file

    from benchmark.stages.fidelity import INCEPTION
    from classifiers.features import SIDE, embed, fid_inception

    file = Path(os.environ.get("AUGURY_WEIGHTS", "")) / INCEPTION
    if not file.is_file():
        print(f"features: skipped, it needs $AUGURY_WEIGHTS/{INCEPTION}")
        return
    images = np.random.default_rng(0).integers(0, 256, (300, 64, 64, 3), dtype=np.uint8)
    mine, ours = taken(lambda: embed(fid_inception(file), images, SIDE, "bilinear"))
    state = load_file(file) | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}

    def theirs() -> Any:
        from unittest import mock

        with mock.patch("pytorch_fid.inception.load_state_dict_from_url", lambda *_, **__: state):
            fid_inception_v3()
            model = InceptionV3([3]).eval()
        batches = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).split(50)
        with torch.no_grad():
            return torch.cat([model(F.interpolate(x, (299, 299), mode="bilinear"))[0] for x in batches])[
                :, :, 0, 0
            ].numpy()

    their, wanted = taken(theirs)
    show("FID features, images a second", len(images) / mine, "1/s", "")
    show("times as fast as pytorch-fid", their / mine, "x", "1")
    show("largest difference of a feature", float(np.abs(ours - wanted).max()), "", "")

    def fidelity_package() -> Any:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        with tempfile.TemporaryDirectory() as folder:
            torch.save(state, f"{folder}/weights.pth")
            model = FeatureExtractorInceptionV3("compat", ["2048"], f"{folder}/weights.pth")
        batches = torch.from_numpy(images).permute(0, 3, 1, 2).split(50)
        return torch.cat([model(x)[0] for x in batches]).numpy()

    if find_spec("torch_fidelity") is None:  # no extra of ours: it installs a package `tests` that hides this one
        print("torch-fidelity: skipped; pip install --no-deps --target DIR torch-fidelity, then PYTHONPATH=DIR")
        return
    show("times as fast as torch-fidelity", taken(fidelity_package)[0] / mine, "x", "1")


def memory(show: Show) -> None:
    """What tuning, encoding and training take beyond the images themselves, at 64 px."""
    from classifiers.features import efficientnet_lite0_maps
    from generators.autoencoders import SHIPPED, encode, load_autoencoder
    from generators.latent_diffusion import small_pipeline
    from generators.teaching import tune_decoder
    from generators.training import Schedule, train

    maps = efficientnet_lite0_maps()

    def trained(images: NDArray[np.uint8]) -> None:
        model = small_pipeline(load_autoencoder(SHIPPED), 64, (64, 128), 128, 0)
        tune_decoder(model.vae, images, 64, maps, images_seen=64)
        texts = ["chest radiograph", "brain MRI"] * (len(images) // 2)
        uniform = np.full(len(images), 1 / len(images))
        train(model, encode(model.vae, images, 64), texts, uniform, Schedule(images_seen=256), seed=0)

    for count in (1_000, 1_000, 20_000):  # the first warms up
        images = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
        found = peak(partial(trained, images))
        kept = f"beside {images.nbytes / 1e6:.0f} MB of images"
        show(f"generator from {count:,} images, memory {kept}", found, "MB", "flat")


PARTS = {"neighbours": neighbours, "fidelity": fidelity, "features": features, "memory": memory}
