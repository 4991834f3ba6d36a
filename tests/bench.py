"""`make bench`: what a user waits for, and ratios to what they would pick instead; prints, never fails.

python tests/bench.py [PART ...] [--home DIR]     # quick generator steps grid statistics neighbours ...
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_measures
import numpy as np

AUGURY = [sys.executable, "-m", "benchmark.cli"]


def seconds(call: Callable[[], Any]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


def augury(*arguments: str) -> Callable[[], Any]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return lambda: subprocess.run([*AUGURY, *arguments], check=True, **quiet)  # type: ignore[call-overload]


def show(what: str, found: float, unit: str, wanted: str) -> None:
    print(f"{what:58} {found:8.2f} {unit:9} wanted: {wanted}", flush=True)


def quick(home: Path) -> None:
    """The main job on the embedded default."""
    from benchmark.phantoms import PHANTOMS, draw

    show("augury --help, best of three", min(seconds(augury("--help")) for _ in range(3)), "s", "under 0.5")
    slowest = max(seconds(lambda name=name: draw(name, 2000, 64, 0)) for name in PHANTOMS)  # type: ignore[misc]
    show("10,000 phantoms of 64 px (slowest type, from 2,000)", 5 * slowest, "s", "under 30")
    show("augury run quick", seconds(augury("run", "quick", "--home", str(home))), "s", "under 300")
    show("augury run quick again", seconds(augury("run", "quick", "--home", str(home))), "s", "under 15")
    show("augury report quick", seconds(augury("report", "quick", "--home", str(home))), "s", "under 10")


def generator(home: Path) -> None:
    """Training and sampling beside diffusers' defaults, on the same U-Net (64, 128) and TAESD, with 40 labels in twelve
    wordings each; ours samples with 15 steps instead of 50 and the lighter autoencoder that ships."""
    import torch

    from benchmark.datasets import UNSEEN, Card, wordings
    from benchmark.running import quiet
    from benchmark.stages import repeatable
    from generators.autoencoders import SHIPPED, encode, load_autoencoder, load_taesd
    from generators.latent_diffusion import sample, small_pipeline
    from generators.training import Schedule, train

    root = os.environ.get("AUGURY_WEIGHTS")
    if not root:
        print("generator: skipped, it needs $AUGURY_WEIGHTS/taesd")
        return
    quiet()
    file = Path(root) / "taesd" / "taesd_diffusers_bf16.safetensors"
    images = np.random.default_rng(0).integers(0, 255, (1024, 64, 64, 3), dtype=np.uint8)
    card = Card("bench", tuple(f"finding {i}" for i in range(40)), "MRI", anatomy="brain")
    captions = wordings(card, np.arange(1024) % 40, phrasings=UNSEEN)
    first = [each[0] for each in captions]
    new = lambda: small_pipeline(load_taesd(file), 64, (64, 128), 128, 0)  # noqa: E731

    ours, peer, steps = new(), new(), 8
    schedule = Schedule(images_seen=128 * steps)
    uniform = np.full(len(images), 1 / len(images))
    latents = encode(ours.vae, images, 64)
    once = {how: seconds(lambda how=how: encode(ours.vae, images, 64, precision=how)) / len(images)  # type: ignore[misc]
            for how in ("bf16", "fp32")}  # fmt: skip
    rounds = []
    for _ in range(4):  # by turns, the first to warm up
        with repeatable():
            mine = seconds(lambda: train(ours, latents, captions, uniform, schedule, seed=0)) / steps
        rounds.append((mine, seconds(lambda: usual_training(peer, images, first, steps)) / steps))
    for how, encoding in once.items():  # each of 5,000 images is encoded once for 40,000 seen
        given = [(mine + 128 * encoding * 5_000 / 40_000, theirs) for mine, theirs in rounds[1:]]
        show(f"training, images a second, encoding in {how} counted", 128 / np.median([a for a, _ in given]), "1/s", "")
        show(f"training, times the usual loop, encoding in {how}", np.median([b / a for a, b in given]), "x", "3.5")

    def among(n: int) -> float:
        model, many = new(), torch.from_numpy(np.random.default_rng(0).standard_normal((n, 4, 8, 8), np.float32))
        given = (
            model,
            many,
            [captions[i % 1024] for i in range(n)],
            np.full(n, 1 / n),
            Schedule(images_seen=128 * steps),
        )
        return seconds(lambda: train(*given, seed=0))

    show("cost of an image seen among 100,000, times among 1,000", among(100_000) / among(1_000), "x", "1")

    n, pipeline, lighter = 64, new(), small_pipeline(load_autoencoder(SHIPPED), 64, (64, 128), 128, 0)
    pipeline.set_progress_bar_config(disable=True)
    mine = seconds(lambda: sample(lighter, first[:n], list(range(n)), size=64)) / n
    batched = seconds(lambda: pipeline(first[:n])) / n
    alone = seconds(lambda: pipeline(first[0]))
    lighter.set_progress_bar_config(disable=True)
    same = seconds(lambda: lighter(first[:n])) / n
    show("sampling, images a second at 64 px", 1 / mine, "1/s", "")
    show("sampling, times StableDiffusionPipeline with TAESD, batched", batched / mine, "x", "3")
    show("sampling, times the same one image at a time", alone / mine, "x", "10")
    show("sampling, times StableDiffusionPipeline with our decoder too", same / mine, "x", "")


def steps(home: Path) -> None:
    """Fifteen steps beside StableDiffusionPipeline's fifty, on one U-Net trained for minutes on real radiographs."""
    from benchmark.datasets import captions, load
    from benchmark.running import quiet
    from classifiers.features import efficientnet_lite0, efficientnet_lite0_maps, embed, fid_inception
    from generators.autoencoders import SHIPPED, encode, load_autoencoder
    from generators.fidelity import frechet_distance, subset_interval
    from generators.latent_diffusion import sample, small_pipeline
    from generators.teaching import tune_decoder
    from generators.training import Schedule, train

    if not (os.environ.get("AUGURY_DATA") and os.environ.get("AUGURY_WEIGHTS")):
        print("steps: skipped, it needs $AUGURY_DATA/pneumoniamnist and $AUGURY_WEIGHTS/inception-fid")
        return
    quiet()
    data, n = load("pneumoniamnist", 64), 400
    images, labels = data.splits["train"].images, data.splits["train"].labels
    texts = captions(data.card, labels, None)
    vae = load_autoencoder(SHIPPED)
    tune_decoder(vae, images, 64, efficientnet_lite0_maps(), images_seen=9_600)
    vae.register_to_config(scaling_factor=1 / float(encode(vae, images[:512], 64).std()))
    model = small_pipeline(vae, 64, (64, 128), 128, 0)
    uniform = np.full(len(images), 1 / len(images))
    train(model, encode(vae, images, 64), texts, uniform, Schedule(images_seen=40_000), seed=0)

    asked = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:n]]
    drawn = {f"{many} steps": sample(model, asked, list(range(n)), size=64, steps=many) for many in (15, 50)}
    parts = [model(asked[i : i + 50], output_type="np").images for i in range(0, n, 50)]  # 50 steps, guidance 7.5
    drawn["its defaults"] = np.rint(np.concatenate(parts) * 255).astype(np.uint8)
    inception = fid_inception(next((Path(os.environ["AUGURY_WEIGHTS"]) / "inception-fid").glob("*.safetensors")))
    real = data.splits["test"].images[np.random.default_rng(0).permutation(624)[:n]]
    spaces = {"EfficientNet": (efficientnet_lite0(), 128, "bicubic"), "Inception": (inception, 299, "bilinear")}
    for space, how in spaces.items():
        seen = {name: embed(how[0], each, *how[1:]) for name, each in (drawn | {"real": real}).items()}
        for name in list(drawn)[1:]:

            def gap(rows: Any, name: str = name, seen: Any = seen) -> float:
                return frechet_distance(seen["15 steps"][rows], seen["real"]) - frechet_distance(
                    seen[name][rows], seen["real"]
                )

            value, low, high = subset_interval(gap, [f"{i}" for i in range(n)], gap(np.arange(n)), subsets=50)
            show(f"{space}: Fréchet of 15 steps less {name}'s", value, f"{low:.0f} to {high:.0f}", "not above 0")


def usual_training(pipeline: Any, images: Any, captions: list[str], steps: int) -> None:
    """A loop in the manner of diffusers' text_to_image example: VAE and text encoder run on every batch."""
    import torch
    import torch.nn.functional as F

    parameters = [*pipeline.unet.parameters(), *pipeline.text_encoder.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        rows = rng.integers(0, len(images), 128)
        pixels = torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            latents = pipeline.vae.encode(pixels).latents
        ids = pipeline.tokenizer([captions[i] for i in rows], padding="max_length", return_tensors="pt").input_ids
        noise, times = torch.randn_like(latents), torch.randint(0, 1000, (128,))
        noisy = pipeline.scheduler.add_noise(latents, noise, times)
        prediction = pipeline.unet(noisy, times, encoder_hidden_states=pipeline.text_encoder(ids)[0]).sample
        loss = F.mse_loss(prediction, noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def power(home: Path) -> None:
    """What the audit finds of planted copies at its level, on brain_mri with 3,000 images in the bank."""
    if not os.environ.get("AUGURY_DATA"):
        print("power: skipped, it needs $AUGURY_DATA/brain_mri")
        return
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-m", "study", "-p", "no:cacheprovider"]
    subprocess.run([*command, "tests/privacy/test_instrument.py", "-k", "every_kind"], check=False)


def grid(home: Path) -> None:
    """24 classifiers, in a study and each as a process of its own that reads image files."""
    for size, wanted in ((32, "1.5"), (64, "1.1")):
        given = {
            "name": f"grid-{size}", "size": size, "datasets": ["phantom-microscopy", "phantom-dermoscopy"],
            "phantom_images": 1000, "arms": ["real", "real_strong"], "budgets": [0.05, 0.25, 1.0], "seeds": 2,
            "classifier": {"steps": 50}, "generators": {}, "placebos": [], "audit_pool": 0.0,
        }  # fmt: skip
        file = home / f"grid-{size}.yaml"
        file.write_text(json.dumps(given))
        ours = seconds(augury("run", str(file), "--home", str(home)))
        scores, theirs = zip(*(folder_loop(cell, home, size) for cell in classifiers(file, home)), strict=True)
        gaps = np.array([mine - other for mine, other in scores])
        show(f"24 classifiers at {size} px, a study with its report", ours, "s", "")
        show("times faster than one process each on image files", sum(theirs) / ours, "x", wanted)
        show("AUROC, mean difference", gaps.mean(), "", f"± {1.96 * gaps.std(ddof=1) / len(gaps) ** 0.5:.3f}")
        show("share of training outside forward, backward and update", outside(size), "", "under 0.15")


def classifiers(file: Path, home: Path) -> list[Any]:
    from benchmark.plan import plan
    from benchmark.study import load_study

    return [cell for cell in plan(load_study(str(file))) if cell.stage == "classify"]


def folder_loop(cell: Any, home: Path, size: int) -> tuple[tuple[float, float], float]:
    """The AUROC of a finished cell and of the usual loop on the same images, and the loop's seconds."""
    from PIL import Image

    from benchmark.cache import Store
    from benchmark.stages import split
    from classifiers.metrics import score

    store = Store(home)
    prepared = split.read(store.verify(cell.inputs["split"]))
    rows = prepared.budget(cell.config["budget"], cell.config["seed"])
    folder = Path(tempfile.mkdtemp())
    parts = {"train": (prepared.train, rows), "validation": (prepared.validation, None), "test": (prepared.test, None)}
    for name, (part, chosen) in parts.items():
        for i in range(len(part.images)) if chosen is None else chosen:
            place = folder / name / f"{part.labels[i]:02d}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(part.images[i]).save(place / f"{i}.png")
    command = [
        sys.executable,
        "tests/folder_loop.py",
        str(folder),
        "--size",
        str(size),
        "--seed",
        str(cell.about["seed"]),
    ]
    command += ["--strong"] if cell.config["arm"] == "real_strong" else []
    start = time.monotonic()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."})
    taken = time.monotonic() - start
    with np.load(store.verify(cell) / "predictions.npz") as kept:
        mine = score(prepared.test.labels, kept["test"], prepared.card.task)["auroc"]
    return (mine, float(json.loads(done.stdout)["auroc"])), taken


def outside(size: int) -> float:
    """Share of a classifier's training that is neither forward, backward nor the optimiser's step."""
    import torch

    from classifiers.backbones import create
    from classifiers.training import Pool, Settings, fit

    inside = 0.0

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            nonlocal inside
            start = time.monotonic()
            result = call(*arguments, **named)
            inside += time.monotonic() - start
            return result

        return run

    rng = np.random.default_rng(0)
    pool = Pool(rng.integers(0, 255, (1000, size, size, 3), dtype=np.uint8), rng.integers(0, 4, 1000), 1.0)
    model = create("resnet18", 4, size, 0)
    kept = torch.Tensor.backward, torch.optim.AdamW.step
    model.forward = timed(model.forward)
    torch.Tensor.backward, torch.optim.AdamW.step = timed(kept[0]), timed(kept[1])  # type: ignore[method-assign]
    whole = seconds(lambda: fit(model, [pool], pool, "multiclass", Settings(steps=50, select="last"), seed=0))
    torch.Tensor.backward, torch.optim.AdamW.step = kept  # type: ignore[method-assign]
    return 1 - inside / whole


def statistics(home: Path) -> None:
    """A study of 2,000 classifiers: how long it takes to plan, to find finished, to count."""
    from benchmark.plan import plan
    from benchmark.study import Study

    budgets = [0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0]
    arms = ["real", "synthetic", "mixed", "augmented", "pretrained"]
    given = {"name": "large", "datasets": ["phantoms"], "arms": arms, "budgets": budgets, "seeds": 5, "placebos": []}
    cells: list[Any] = []
    show("planning", seconds(lambda: cells.extend(plan(Study.model_validate(given)))), "s", "under 5")
    show("its classifiers", sum(cell.stage == "classify" for cell in cells), "", "")
    show("the report of 100,000 rows", seconds(lambda: large_report(home)), "s", "under 30")
    show("tables of 2,000 classifiers with 1,000 test images", seconds(lambda: counted(2000, 1000)), "s", "under 60")


def large_report(home: Path) -> None:
    """Page, tables and figures of a made-up study whose table was blown up to 100,000 rows."""
    from dataclasses import replace

    from results.report import render
    from results.tidy import frame, records
    from tests.results.conftest import SETS, make

    made = make(SETS, 3)
    rows = records(made.table)
    seeds = [row for row in rows if row["stage"] == "classify" and row["seed"] == row["seed"]]
    while len(rows) < 100_000:
        rows += [row | {"variant": f"v={len(rows) // 40_000}", "budget": len(rows) / 1e6} for row in seeds]
    render(replace(made, table=frame(rows)), home / "large")


def counted(classifiers: int, images: int) -> None:
    """All statistics of made-up predictions: 10 sets, 10 seeds, 4 budgets, 5 arms."""
    from results.claims import contrasts
    from results.opinions import opinion_rows
    from results.pooling import pooled_rows
    from results.statistics import Jackknives
    from results.tidy import frame
    from results.worth import dose_rows, multiplier_rows

    rng = np.random.default_rng(0)
    labels, rows, kept = rng.integers(0, 4, images), [], {}
    for i in range(classifiers):
        arm, budget, seed, place = i % 5, i // 5 % 4, i // 20 % 10, i // 200
        scores = rng.normal(size=(images, 4)) + (1 + 0.3 * budget) * np.eye(4)[labels]
        probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        kept[str(i)] = {"labels": labels, "probabilities": probabilities, "groups": None, "task": "multiclass"}
        name = ("real", "synthetic", "mixed", "augmented", "pretrained")[arm]
        rows.append({
            "stage": "classify", "dataset": f"set{place}", "arm": name, "generator": "g" if arm else "",
            "budget": (0.01, 0.1, 0.5, 1.0)[budget], "ratio": float(arm > 0), "share": 0.5, "seed": seed,
            "backbone": "b", "group": "all", "metric": "auroc", "value": 0.5, "cell": str(i), "n_train": 10,
        })  # fmt: skip
    cells, load = frame(rows), kept.__getitem__
    study = {"backbones": ["b"], "generators": {"g": {"seeds": "all"}}}
    jackknives = Jackknives(load)
    claims = contrasts(cells, jackknives, study)
    found = [*pooled_rows(cells, jackknives), *multiplier_rows(cells, jackknives)]
    frame([*found, *dose_rows(cells, jackknives, found), *opinion_rows(cells, load, claims)])


PARTS: dict[str, Callable[[Path], None]] = {
    "quick": quick, "generator": generator, "steps": steps, "grid": grid, "statistics": statistics,
    "power": power,
    **{name: lambda home, part=part: part(show) for name, part in bench_measures.PARTS.items()},  # type: ignore[misc]
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which parts; default all")
    parser.add_argument("--home", type=Path, help="where to run; default a new folder, so that nothing is cached")
    options = parser.parse_args()
    home = options.home or Path(tempfile.mkdtemp())
    print(f"{os.cpu_count()} cores")
    for part in options.parts or PARTS:
        PARTS[part](home)


if __name__ == "__main__":
    main()
