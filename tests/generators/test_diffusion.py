"""The generator: a plain diffusers folder, trained alike after a kill, sampled alike in any batch."""

import json
import signal
import time
import weakref
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

from benchmark.recipes import UNFIT
from generators.autoencoders import decode, new_tiny
from generators.latent_diffusion import (
    diffusion_loss,
    load_pipeline,
    numbered,
    sample,
    small_pipeline,
    snr_weight,
    token_ids,
    tokenizer,
    with_scheduler,
)
from generators.teaching import learn_vocabulary
from generators.training import Schedule, drawn_rows, learning_rate, sampling_weights, train

CAPTIONS = ["head CT slice", "chest x-ray", "", "retina with no diabetic retinopathy"]


def pipeline(seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = new_tiny().eval()
    return small_pipeline(vae, 64, (32, 32), 32, seed)


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for part in (model.unet, model.text_encoder) for p in part.parameters()])


def fit(
    model: Any, steps: int, folder: Path | None = None, seconds: float = 1e9, micro: int | None = None
) -> list[float]:
    latents = torch.randn(20, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    schedule = Schedule(images_seen=8 * steps, batch=8, warmup=2, checkpoint_seconds=seconds, micro_batch=micro)
    uniform = np.full(20, 1 / 20)
    return train(model, latents, CAPTIONS * 5, uniform, schedule, seed=3, checkpoint=folder)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    a, b, c = weights(pipeline(1)), weights(pipeline(1)), weights(pipeline(2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "scheduler", ["", "DDIMScheduler", "EulerAncestralDiscreteScheduler", "UniPCMultistepScheduler"]
)
def test_samples_do_not_depend_on_batch_size_or_order(scheduler: str) -> None:
    model, seeds = pipeline(), [5, 6, 7, 8]
    how: dict[str, Any] = {"size": 32, "steps": 3, "scheduler": scheduler}
    together = sample(model, CAPTIONS, seeds, **how, batch=4).astype(int)
    alone = sample(model, CAPTIONS[::-1], seeds[::-1], **how, batch=1)[::-1].astype(int)
    assert together.shape == (4, 32, 32, 3)
    assert np.abs(together - alone).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 1


def test_own_sampler_draws_what_plain_diffusers_draws() -> None:
    model = pipeline()
    ours = sample(model, ["chest x-ray"], [11], size=64, steps=3, guidance=3.0)
    theirs = model(
        "chest x-ray", generator=torch.Generator().manual_seed(11), num_inference_steps=3, guidance_scale=3.0,
        output_type="np",
    ).images  # fmt: skip
    assert np.abs(ours.astype(float) - theirs * 255).max() <= 1


def test_a_sampler_without_memory_for_the_batch_goes_on_with_less(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, seeds = pipeline(), [5, 6, 7, 8]
    whole = sample(model, CAPTIONS, seeds, size=32, steps=2, batch=4).astype(int)
    forward = model.unet.forward

    def small_memory(latents: torch.Tensor, *rest: Any, **more: Any) -> Any:
        if len(latents) > 4:  # with and without text: two images
            raise torch.OutOfMemoryError
        return forward(latents, *rest, **more)

    monkeypatch.setattr(model.unet, "forward", small_memory)
    assert np.abs(sample(model, CAPTIONS, seeds, size=32, steps=2, batch=4).astype(int) - whole).max() <= 1
    assert capsys.readouterr().err.splitlines() == ["out of memory: the sampler goes on with 2 images at once"]


def test_guidance_seven_and_a_half_stays_finite() -> None:
    images = sample(pipeline(), CAPTIONS[:2], [0, 1], size=32, steps=5, guidance=7.5)
    assert images.std() > 0


def test_killed_training_ends_in_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pipeline()
    losses = fit(whole, 6)

    import generators.latent_diffusion as module

    calls = []

    def die_at_four(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return diffusion_loss(*arguments)

    monkeypatch.setattr(module, "diffusion_loss", die_at_four)
    with pytest.raises(KeyboardInterrupt):
        fit(pipeline(), 6, tmp_path, seconds=0)
    assert (tmp_path / "state.pt").exists()
    resumed = pipeline(9)  # what it starts from does not matter: the state is in the checkpoint
    again = fit(resumed, 6, tmp_path, seconds=0)
    assert again == losses
    assert torch.equal(weights(whole), weights(resumed))


def train_in(folder: Path) -> None:
    fit(pipeline(), 80, folder, seconds=0)


def test_sigkill_in_the_midst_of_training_changes_nothing(tmp_path: Path) -> None:
    worker = get_context("spawn").Process(target=train_in, args=(tmp_path,))
    worker.start()
    while worker.is_alive() and not (tmp_path / "state.pt").exists():
        time.sleep(0.005)
    worker.kill()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL, "it was killed too late to prove anything"
    whole, resumed = pipeline(), pipeline()
    losses = fit(whole, 80)
    assert fit(resumed, 80, tmp_path, seconds=1e9) == losses
    assert torch.equal(weights(whole), weights(resumed))


def test_micro_batches_change_rounding_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import generators.latent_diffusion as module

    whole, parts, short = pipeline(), pipeline(), pipeline()
    losses = fit(whole, 4)
    assert fit(parts, 4, micro=3) == pytest.approx(losses, rel=1e-4)
    assert torch.allclose(weights(whole), weights(parts), atol=1e-3)

    # Memory for three images: eight are tried, then four, then two at a time, and the batch stays eight. What was
    # computed before memory ran out is gone when the next try begins.
    graphs: list[Any] = []

    def small_memory(unet: Any, scheduler: Any, latents: torch.Tensor, *rest: Any) -> torch.Tensor:
        assert not [each for each in graphs if each() is not None], "the graph of a part that ran out is still held"
        loss = diffusion_loss(unet, scheduler, latents, *rest)

        def backwards(gradient: Any) -> None:  # lives as long as the graph that it hangs on
            if len(gradient) > 3:
                raise torch.OutOfMemoryError

        loss.register_hook(backwards)
        if len(latents) > 3:
            graphs.append(weakref.ref(backwards))
        return loss

    monkeypatch.setattr(module, "diffusion_loss", small_memory)
    assert fit(short, 4) == pytest.approx(losses, rel=1e-4)
    told = capsys.readouterr().err.splitlines()
    assert told == [f"out of memory: micro-batch lowered to {n}, the batch stays 8" for n in (4, 2)]


def test_every_image_is_seen_once_a_pass_where_all_weigh_alike() -> None:
    uniform, rng = np.full(10, 0.1), np.random.default_rng(0)
    seen = np.concatenate([drawn_rows(3, step, 4, uniform, rng) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and list(seen[:10]) != list(seen[10:])
    heavy = np.array([0.9] + [0.1 / 9] * 9)
    assert np.mean(np.concatenate([drawn_rows(3, step, 4, heavy, rng) for step in range(50)]) == 0) > 0.7


def test_warm_up_is_a_tenth_of_a_short_training_at_most() -> None:
    short = Schedule(images_seen=400, batch=8, warmup=500, learning_rate=1.0)  # 50 steps
    assert [learning_rate(short, step) for step in (0, 4)] == [0.2, 1.0] and learning_rate(short, 49) < 0.01
    assert learning_rate(replace(short, decay="constant"), 49) == 1.0


def test_a_safety_checker_is_left_behind(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    extractor = ["transformers", "CLIPImageProcessor"]
    named = index | {"safety_checker": checker, "feature_extractor": extractor, "requires_safety_checker": True}
    (tmp_path / "model_index.json").write_text(json.dumps(named))
    loaded = load_pipeline(tmp_path)
    assert loaded.safety_checker is None and loaded.feature_extractor is None
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "model_index.json").read_text())["safety_checker"] == [None, None]


def test_min_snr_weight() -> None:
    scheduler, times = pipeline().scheduler, torch.tensor([20, 500, 980])
    product = scheduler.alphas_cumprod[times]
    ratio = product / (1 - product)
    expected = torch.minimum(ratio, torch.tensor(5.0)) / (ratio + 1)
    assert torch.allclose(snr_weight(scheduler, times, 5.0), expected, rtol=1e-4)
    noise = type(scheduler).from_config(scheduler.config, prediction_type="epsilon")
    assert torch.allclose(snr_weight(noise, times, 5.0), torch.minimum(ratio, torch.tensor(5.0)) / ratio, rtol=1e-4)
    assert snr_weight(scheduler, times, 1e9)[0] == pytest.approx(float(ratio[0] / (ratio[0] + 1)), rel=1e-4)


def test_loss_that_is_not_finite_names_step_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    import generators.latent_diffusion as module

    monkeypatch.setattr(module, "diffusion_loss", lambda *a: torch.tensor([float("nan")], requires_grad=True))
    with pytest.raises(FloatingPointError, match="step 0 with learning rate"):
        fit(pipeline(), 2)


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_loss_of_a_perfect_prediction_is_zero(kind: str) -> None:
    from diffusers import DDPMScheduler

    x, eps, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([100, 900])
    theirs = DDPMScheduler.from_config(pipeline().scheduler.config, prediction_type=kind)

    class Oracle:
        def __call__(self, noisy: torch.Tensor, t: torch.Tensor, encoder_hidden_states: Any) -> Any:
            assert torch.allclose(noisy, theirs.add_noise(x, eps, t), atol=1e-6)
            return type("Output", (), {"sample": eps if kind == "epsilon" else theirs.get_velocity(x, eps, t)})

    loss = diffusion_loss(Oracle(), theirs, x, torch.zeros(2, 1, 1), t, eps)
    assert loss.shape == (2,) and loss.max() < 1e-10


def test_the_pipeline_is_left_with_the_average_of_the_weights() -> None:
    model = pipeline()
    latents = torch.randn(4, 4, 8, 8)
    schedule = Schedule(images_seen=12, batch=4, warmup=0, decay="constant", ema_decay=0.15)
    start, kept = weights(model).double(), []

    def after(seen: int, loss: float) -> None:
        kept.append(weights(model).double())  # of the model that is trained

    train(model, latents, CAPTIONS, np.full(4, 0.25), schedule, seed=0, report=after)
    expected = start
    for step, now in enumerate(kept):
        decay = min(0.15, (1 + step) / (10 + step))  # 0.1, then what was asked
        expected = decay * expected + (1 - decay) * now
    assert len(kept) == 3 and torch.allclose(weights(model).double(), expected, atol=1e-6)
    assert not torch.allclose(kept[-1], expected, atol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_captions_are_dropped_as_often_as_asked(dropout: float) -> None:
    from generators.training import _draw

    schedule = Schedule(images_seen=8000, batch=2000, caption_dropout=dropout)
    which = np.array([[0, 1], [1, 1], [2, 4], [1, 0], [3, 3]])  # two wordings of four images, and no text
    drawn = _draw(0, 0, torch.zeros(4, 4, 1, 1), which, np.full(4, 0.25), schedule)
    empty = drawn.captions == 3
    assert abs(empty.mean() - dropout) < 0.04
    asked, rows = drawn.captions[~empty], drawn.rows[~empty]
    assert (asked[:, None] == which[rows]).any(1).all()
    for row, wording in ((0, 0), (0, 1), (2, 2), (2, 4)):  # each as often as the other
        assert not len(asked) or abs((asked[rows == row] == wording).mean() - 0.5) < 0.1


def test_captions_are_numbered_with_their_wordings() -> None:
    texts, which = numbered(["a", ("b", "a"), "", ("b", "a")])
    assert sorted(texts) == ["", "a", "b"] and which.shape == (5, 2)
    said = [[texts[place] for place in row] for row in which]
    assert said == [["a", "a"], ["b", "a"], ["", ""], ["b", "a"], ["", ""]]


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler"])
def test_latents_beyond_one_are_not_cut(monkeypatch: pytest.MonkeyPatch, scheduler: str) -> None:
    model = pipeline()
    asked = 3 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def knows(noisy: torch.Tensor, time: torch.Tensor, **more: Any) -> tuple[torch.Tensor]:
        product = model.scheduler.alphas_cumprod[int(time)]
        noise = (noisy - product.sqrt() * asked) / (1 - product).sqrt()
        return (product.sqrt() * noise - (1 - product).sqrt() * asked,)

    monkeypatch.setattr(model.unet, "forward", knows)
    drawn = sample(model, ["x"], [0], size=64, steps=50, scheduler=scheduler).astype(int)
    assert np.abs(drawn - decode(model.vae, asked, 64)).max() <= 2


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # diffusers' own, with NumPy 2
@pytest.mark.parametrize("name", sorted({each.name for each in KarrasDiffusionSchedulers} - {*UNFIT}))
def test_every_scheduler_keeps_the_spread_of_what_the_model_knows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """Latents of spread 0.5 and the best guess there is: a step at another noise level than the model is told shows."""
    pipeline().save_pretrained(tmp_path)
    model, spread, kept = load_pipeline(tmp_path), 0.5, []
    product = model.scheduler.alphas_cumprod.double()
    odds = torch.log(product / (1 - product)).numpy()

    def knows(noisy: torch.Tensor, time: Any, **more: Any) -> tuple[torch.Tensor]:
        signal = 1 / (1 + np.exp(-np.interp(float(time), np.arange(1000), odds)))
        alpha, sigma = signal**0.5, (1 - signal) ** 0.5
        clean = alpha * spread**2 / (signal * spread**2 + 1 - signal) * noisy
        return (alpha * (noisy - alpha * clean) / sigma - sigma * clean,)

    def keep(vae: Any, latents: torch.Tensor, size: int) -> Any:
        kept.append(latents)
        return decode(vae, latents, size)

    monkeypatch.setattr(model.unet, "forward", knows)
    monkeypatch.setattr("generators.latent_diffusion.decode", keep)
    sample(model, ["x"] * 4, [0, 1, 2, 3], size=64, steps=15, scheduler=name)
    found = float(kept[0].std()) / spread
    assert 0.8 < found < 1.1
    own = "DPMSolverMultistepScheduler"
    assert type(model.scheduler).__name__ == model.config["scheduler"][1] == own, "the caller's pipeline stays"

    # DDIM is Euler's method for the same equation, where it steps to the times that it is then told.
    if name == "DDIMScheduler":
        sample(model, ["x"] * 4, [0, 1, 2, 3], size=64, steps=15, scheduler="EulerDiscreteScheduler")
        assert found == pytest.approx(float(kept[1].std()) / spread, rel=0.01)
    if name in ("DDIMScheduler", "PNDMScheduler"):
        times = with_scheduler(model, name).scheduler
        times.set_timesteps(15)
        assert set(np.diff(times.timesteps.numpy()).tolist()) <= {0, -(1000 // 15)}, "the step that both take"


def test_saved_folder_is_safe_and_draws_the_same(tmp_path: Path) -> None:
    model = pipeline()
    model.save_pretrained(tmp_path, safe_serialization=True)
    assert not [file for file in tmp_path.rglob("*") if file.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    again = load_pipeline(tmp_path)
    assert np.array_equal(sample(model, CAPTIONS, [1, 2, 3, 4], size=32, steps=2),
                          sample(again, CAPTIONS, [1, 2, 3, 4], size=32, steps=2))  # fmt: skip


def test_sets_are_balanced_by_temperature() -> None:
    sets = ["a"] * 90 + ["b"] * 10
    for temperature, share in ((1.0, 0.1), (0.0, 0.5), (0.5, 0.25)):
        drawn = sampling_weights(sets, temperature)
        assert drawn.sum() == pytest.approx(1) and drawn[90:].sum() == pytest.approx(share)


def test_any_text_can_be_written_and_medical_words_are_short() -> None:
    words = tokenizer()
    ids = token_ids(words, ["dermoscopy image of a melanoma", "Ünusual: 漢字 🙂", "x " * 100])
    assert ids.shape == (3, 32)
    assert (ids[0] != words.pad_token_id).sum() <= 7, "start, five words, the first end is a pad"
    assert words.decode(ids[0], skip_special_tokens=True).strip() == "dermoscopy image of a melanoma"
    assert ids[2, -1] == words.eos_token_id, "long prompts are cut and still end"


def test_vocabulary_is_made_from_its_corpus() -> None:
    from generators.latent_diffusion import VOCABULARY

    vocabulary, merges = learn_vocabulary((VOCABULARY / "corpus.txt").read_text().splitlines())
    shipped = tokenizer().get_vocab()
    assert vocabulary.keys() == shipped.keys(), "equally frequent merges may come in another order"
    assert all("".join(merge) in shipped for merge in merges)
