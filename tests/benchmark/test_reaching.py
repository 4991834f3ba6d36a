"""What a study says reaches the generators: every field, the right caption for each image, and where each starts."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.cache import Cell, Store
from benchmark.datasets import phrase
from benchmark.stages import split, synthesize
from benchmark.stages.train import assemble, read_autoencoder
from tests.benchmark.test_generators import SMALL, of


def given_to_training(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, list[str], Any, int]]:
    """Latents, captions, schedule and seed of every training from now on, none of which runs (weights: `balance` in
    test_generators.py)."""
    from generators import training

    given: list[tuple[Any, list[str], Any, int]] = []

    def fit(pipeline: Any, latents: Any, texts: list[str], weights: Any, schedule: Any, **named: Any) -> list[float]:
        given.append((latents, texts, schedule, named["seed"]))
        return []

    monkeypatch.setattr(training, "train", fit)
    return given


def test_every_field_of_training_arrives(
    tmp_path: Path, cells_of: Any, finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = given_to_training(monkeypatch)
    own = {"epochs": 3, "batch": 16, "micro_batch": 5, "learning_rate": 3e-4, "warmup": 7, "weight_decay": 0.03,
           "gradient_norm": 0.7, "betas": [0.8, 0.95], "decay": "constant", "ema_decay": 0.9, "snr_gamma": 4.0,
           "precision": "bf16", "caption_dropout": 0.25, "channels": [32, 32], "text_width": 32}  # fmt: skip
    cells = cells_of(tmp_path, generators={"g": own}, datasets=["phantom-oct"])
    store = finish(cells, tmp_path / "home", "train")
    (latents, texts, schedule, _), n = given[0], len(split.read(store.folder(of(cells, "split")[0])).kept)
    assert len(latents) == len(texts) == n and schedule.images_seen == 3 * n and schedule.steps == 3 * n // 16
    for name in ("batch", "micro_batch", "learning_rate", "warmup", "weight_decay", "gradient_norm", "decay",
                 "ema_decay", "snr_gamma", "precision", "caption_dropout"):  # fmt: skip
        assert getattr(schedule, name) == own[name], name
    assert tuple(schedule.betas) == (0.8, 0.95)
    facts = json.loads((store.folder(of(cells, "train")[0]) / "loss.json").read_text())
    assert (facts["images"], facts["sets"]) == (n, ["phantom-oct"])


def test_each_image_has_the_caption_of_its_label(
    tmp_path: Path, cells_of: Any, finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = given_to_training(monkeypatch)
    generators = {
        "plain": SMALL | {"phrasings": 1, "detail": "label"},
        "many": SMALL | {"phrasings": 3, "detail": "type"},
        "noisy": SMALL | {"phrasings": 1, "caption_noise": 0.5},
        "blind": SMALL | {"train_on": "each", "unconditional": True},
        "half": SMALL | {"phrasings": 1, "data_share": 0.5},
    }
    cells = cells_of(tmp_path, generators=generators, datasets=["phantom-oct"])
    store = finish(cells, tmp_path / "home", "split", "autoencoder")
    prepared = split.read(store.folder(of(cells, "split")[0]))
    labels = prepared.train.labels[prepared.kept]
    found = {}
    for name in generators:
        finish(of(cells, "train", generator=name), tmp_path / "home", "train")
        found[name] = given.pop()
    card, schedule = prepared.card, found["blind"][2]
    assert found["plain"][1] == [(phrase(card, label, "label"),) for label in labels]
    assert found["many"][1] == [tuple(phrase(card, label, "type", k) for k in range(3)) for label in labels]
    wrong = np.mean([a != (phrase(card, label),) for a, label in zip(found["noisy"][1], labels, strict=True)])
    assert 0.3 < wrong < 0.7
    assert set(found["blind"][1]) == {("",)} and schedule.caption_dropout == 0.0
    assert len(found["half"][1]) == pytest.approx(len(labels) / 2, abs=3)

    # And the latents are of those images, in their order.
    vae, resolution = read_autoencoder(store.folder(of(cells, "train", generator="plain")[0].inputs["autoencoder"]))
    from generators.autoencoders import encode

    again = encode(vae, prepared.train.images[prepared.kept], resolution, precision="bf16")
    assert torch.allclose(found["plain"][0].float(), again.float(), atol=0.1)
    assert not torch.allclose(again, again.flip(0), atol=0.5)


def test_seeds_are_generators_of_their_own_unless_they_share_one(
    tmp_path: Path, cells_of: Any, finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = given_to_training(monkeypatch)
    cells = cells_of(tmp_path, generators={"g": SMALL}, datasets=["phantom-oct"], seeds=2)
    store = finish(cells, tmp_path / "home", "synthesize")
    one, two = of(cells, "train")
    assert len({seed for *_, seed in given}) == 2
    start = [
        assemble(cell.config, {role: store.folder(each) for role, each in cell.inputs.items()})[0]
        for cell in (one, two)
    ]
    assert not torch.equal(*(next(pipeline.unet.parameters()) for pipeline in start))
    drawn = [synthesize.read(store.folder(cell)).seeds for cell in of(cells, "synthesize", generator="g")]
    assert len(drawn) == 2 and not set(drawn[0]) & set(drawn[1])
    shared = cells_of(tmp_path, generators={"g": SMALL | {"seeds": 1}}, datasets=["phantom-oct"], seeds=2)
    assert len({cell.digest for cell in of(shared, "train")}) == 1 and len(of(shared, "synthesize")) == 2


def test_transfer_goes_on_from_the_generalist(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    cells = cells_of(tmp_path, generators={"g": SMALL}, exposure="transfer")
    store = finish(cells, tmp_path / "home", "train")
    tuned = next(cell for cell in of(cells, "train") if "start" in cell.inputs)
    before, decoder = tuned.inputs["start"], tuned.inputs["autoencoder"]
    inputs = {role: store.folder(each) for role, each in tuned.inputs.items()}
    begins, _ = assemble(tuned.config, inputs)
    from generators.latent_diffusion import load_pipeline

    general = load_pipeline(store.folder(before) / "pipeline")
    for part in ("unet", "text_encoder"):
        assert all(map(torch.equal, getattr(begins, part).parameters(), getattr(general, part).parameters()))
    own, _ = read_autoencoder(store.folder(decoder))
    first, _ = read_autoencoder(store.folder(before.inputs["autoencoder"]))
    assert own.config.scaling_factor == first.config.scaling_factor != 1
    assert decoder.inputs["start"] == before.inputs["autoencoder"]
    assert all(map(torch.equal, begins.vae.parameters(), own.parameters()))


def test_latents_have_unit_variance(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    from generators.autoencoders import encode

    cells = cells_of(tmp_path, generators={"g": SMALL}, datasets=["phantom-oct"])
    store = finish(cells, tmp_path / "home", "autoencoder")
    vae, resolution = read_autoencoder(store.folder(of(cells, "autoencoder")[0]))
    images = split.read(store.folder(of(cells, "split")[0]))
    latents = encode(vae, images.train.images[images.kept], resolution)
    assert float(latents.std()) == pytest.approx(1, rel=0.02)


def test_controls_have_the_labels_of_their_images(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    for name in ("phantom-fundoscopy", "phantom-x-ray"):  # a label each, and several
        changes: Any = {"generators": {"g": SMALL}, "placebos": ["copies"]}
        cells = cells_of(tmp_path, **changes, budgets=[0.5], datasets=[name])
        (cell,) = of(cells, "synthesize", generator="copies")
        store = finish([cell], tmp_path / "home", "synthesize")
        made, prepared = synthesize.read(store.folder(cell)), split.read(store.folder(cell.inputs["split"]))
        label_of = {image.tobytes(): str(label) for image, label in
                    zip(prepared.train.images, prepared.train.labels, strict=True)}  # fmt: skip
        assert len(made.images) == len(prepared.budget(0.5, 0))
        assert [label_of[image.tobytes()] for image in made.images] == [str(label) for label in made.labels]
        assert len(set(label_of.values())) > 2


def test_a_filter_redraws_what_it_refuses_alone(
    tmp_path: Path, cells_of: Any, finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge by one pixel: what it accepts keeps its seed, the rest is drawn from seeds that nobody else has."""
    from generators.latent_diffusion import load_pipeline, sample

    def judged(model: Any, images: np.ndarray, labels: np.ndarray, task: str) -> np.ndarray:
        return np.asarray(images[:, 16, 16, 0] % 2 == 0, np.float64)

    monkeypatch.setattr(synthesize, "_likely", judged)
    monkeypatch.setattr(synthesize, "device", lambda: "cpu")  # as the pipeline below
    cells = cells_of(tmp_path, generators={"g": SMALL}, datasets=["phantom-oct"], budgets=[1.0],
                     sampling={"steps": 2, "filter": 0.5, "redraws": 3})  # fmt: skip
    store = finish(cells, tmp_path / "home", "synthesize")
    (cell,) = of(cells, "synthesize", generator="g")
    made, n = synthesize.read(store.folder(cell)), len(synthesize.read(store.folder(cell)).seeds)
    first = 10_000_000 + np.arange(n)
    pipeline = load_pipeline(store.folder(cell.inputs["train"]) / "pipeline")
    drawn = sample(pipeline, made.captions, first.tolist(), size=32, steps=2, guidance=2.0, batch=64)
    kept = judged(None, drawn, made.labels, "") > 0
    assert 0.2 < kept.mean() < 0.8, "or this test proves little"
    assert (made.seeds[kept] == first[kept]).all() and (made.images[kept] == drawn[kept]).all()
    assert not set(made.seeds[~kept]) & set(first) and len(set(made.seeds)) == n
    again = [made.captions[i] for i in np.flatnonzero(~kept)]
    other = sample(pipeline, again, made.seeds[~kept].tolist(), size=32, steps=2, guidance=2.0, batch=64)
    assert np.abs(other.astype(int) - made.images[~kept]).max() <= 1
    facts = json.loads((store.folder(cell) / "facts.json").read_text())
    assert facts["accepted_at_once"] == pytest.approx(kept.mean())
    assert facts["accepted"] == pytest.approx(judged(None, made.images, made.labels, "").mean())
    assert facts["accepted"] > facts["accepted_at_once"]


def test_the_least_probability_of_several_labels_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    told = np.array([[0.9, 0.2, 0.6], [0.9, 0.8, 0.1]])
    monkeypatch.setattr("classifiers.training.predict", lambda *given: told)
    labels = np.array([[1, 0, 1], [1, 0, 0]], np.uint8)
    assert synthesize._likely(None, np.zeros(2), labels, "multilabel") == pytest.approx([0.6, 0.2])
    assert synthesize._likely(None, np.zeros(2), np.array([2, 0]), "multiclass") == pytest.approx([0.6, 0.9])


def test_finished_images_come_with_their_own_class(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    from benchmark.datasets import load

    classes = load("phantom-oct", 32, 60).card.classes
    for place, name in enumerate(classes):
        (tmp_path / "theirs" / name).mkdir(parents=True)
        for i in range(30):
            picture = np.full((32, 32, 3), (50 * place, i, 0), np.uint8)
            Image.fromarray(picture).save(tmp_path / "theirs" / name / f"{i:02d}.png")
    cells = cells_of(tmp_path, generators={"theirs": {"images": "theirs"}}, datasets=["phantom-oct"], budgets=[0.5])
    store = finish(cells, tmp_path / "home", "synthesize")
    made = synthesize.read(store.folder(of(cells, "synthesize", generator="theirs")[0]))
    assert (made.images[:, 0, 0, 0] == 50 * made.labels).all() and len(set(made.labels.tolist())) == len(classes)
    assert len({image.tobytes() for image in made.images}) == len(made.images), "each is used once"


def test_free_prompts_are_what_plain_diffusers_draws(
    tmp_path: Path, cells_of: Any, finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the generator of the fullest exposure, and not of one that knows no text."""
    monkeypatch.setattr(synthesize, "device", lambda: "cpu")  # as the plain pipeline
    from diffusers import StableDiffusionPipeline

    from benchmark.study import load_study

    generators = {"blind": SMALL | {"train_on": "each", "unconditional": True}, "g": SMALL}
    cells: list[Cell] = cells_of(
        tmp_path, generators=generators, datasets=["phantom-oct"], exposure=["budget", "full"], size=64
    )
    study, store = load_study(str(tmp_path / "study.yaml")), Store(tmp_path / "home")
    cell = synthesize.prompted(study, cells, None)
    assert (cell.about["generator"], cell.about["exposure"]) == ("g", "full")
    finish([cell], tmp_path / "home", "synthesize")
    texts = ["retina with fluid", "a hand"]
    synthesize.draw_prompts(study, cells, store, texts, 5, tmp_path / "out", None)
    plain = StableDiffusionPipeline.from_pretrained(store.folder(cell.inputs["train"]) / "pipeline")
    plain.set_progress_bar_config(disable=True)
    with (tmp_path / "out" / "metadata.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["caption"], row["seed"]) for row in rows] == [(texts[0], "5"), (texts[1], "6")]
    for row in rows:
        random = torch.Generator().manual_seed(int(row["seed"]))
        image = plain(row["caption"], generator=random, num_inference_steps=2, guidance_scale=2.0).images[0]
        own = np.asarray(Image.open(tmp_path / "out" / row["file_name"]))
        assert np.abs(np.asarray(image).astype(int) - own).max() <= 1
