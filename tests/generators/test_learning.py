"""The training loop: text decides what is learnt, and every setting has the effect that it is asked for."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.datasets import UNSEEN, Card, phrase, wordings
from generators import latent_diffusion, training
from generators.latent_diffusion import Denoiser, diffusion_loss, sample, snr_weight, token_ids
from generators.training import Schedule, learning_rate, train
from tests.generators.test_diffusion import CAPTIONS, fit, pipeline, weights

PLAIN = Schedule(images_seen=8, batch=8, warmup=0, decay="constant", caption_dropout=0.0, learning_rate=1.0)


def one_step(monkeypatch: pytest.MonkeyPatch, schedule: Schedule) -> tuple[torch.Tensor, list[float]]:
    """How far one step of plain gradient descent at rate 1 moves the weights, and the losses."""

    def descent(parameters: Any, rate: float, betas: Any, **more: Any) -> torch.optim.SGD:
        return torch.optim.SGD(parameters, rate)

    monkeypatch.setattr(torch.optim, "AdamW", descent)
    model, uniform = pipeline(), np.full(8, 1 / 8)
    start = weights(model)
    latents = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    losses = train(model, latents, CAPTIONS * 2, uniform, schedule, seed=0)
    return (weights(model) - start) / 0.9, losses  # the average is nine tenths of the way after the first step


def test_the_caption_decides_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents of -1, 0 and 1 under three labels: shuffled captions, deaf text or guidance of the wrong sign show, and
    so does a label that is not read where an unseen wording has it."""
    kept: list[torch.Tensor] = []

    def keep(vae: Any, latents: torch.Tensor, size: int) -> Any:
        kept.append(latents)
        return np.zeros((len(latents), size, size, 3), np.uint8)

    monkeypatch.setattr("generators.latent_diffusion.decode", keep)
    model, labels = pipeline(), np.array([0, 1, 2] * 10)
    card = Card("x", ("glioma", "meningioma", "pituitary tumor"), "MRI", anatomy="brain")
    texts, size = wordings(card, labels, phrasings=UNSEEN), len(labels)
    latents = torch.from_numpy(labels - 1).float().view(-1, 1, 1, 1).expand(-1, 4, 8, 8).contiguous()
    schedule = Schedule(images_seen=240 * 30, batch=30, learning_rate=3e-3, warmup=10)
    train(model, latents, texts, np.full(size, 1 / size), schedule, seed=0)
    for place, guidance in ((0, 1.0), (0, 7.0), (UNSEEN, 1.0)):
        asked = [phrase(card, label, "full", place) for label in labels[:6]]
        sample(model, asked, list(range(6)), size=64, steps=10, guidance=guidance)
    weak, strong, unseen = (latents.mean((1, 2, 3)).numpy() for latents in kept)
    assert np.abs(weak - [-1, 0, 1] * 2).max() < 0.4 and np.abs(unseen - [-1, 0, 1] * 2).max() < 0.4
    ends = labels[:6] != 1
    assert (np.sign(strong) == np.sign(weak))[ends].all() and (np.abs(strong) > np.abs(weak) + 0.05)[ends].all()


def test_steps_have_the_rate_and_the_optimiser_that_were_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Recorded(torch.optim.AdamW):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            made.append(self)
            self.rates = list[float]()

        def step(self, *given: Any) -> None:  # type: ignore[override]
            self.rates.append(self.param_groups[0]["lr"])
            super().step(*given)

    monkeypatch.setattr(torch.optim, "AdamW", Recorded)
    schedule = Schedule(images_seen=8 * 40, batch=8, warmup=3, learning_rate=1e-4, betas=(0.8, 0.9), weight_decay=0.3)
    train(pipeline(), torch.randn(8, 4, 8, 8), CAPTIONS * 2, np.full(8, 1 / 8), schedule, seed=0)
    (optimiser,) = made
    assert optimiser.rates == [learning_rate(schedule, step) for step in range(40)]
    assert len(set(optimiser.rates)) > 30 and max(optimiser.rates) == 1e-4
    group = optimiser.param_groups[0]
    assert group["betas"] == (0.8, 0.9) and group["weight_decay"] == 0.3


def test_every_step_draws_anew_over_all_times() -> None:
    schedule, which = Schedule(images_seen=16_000, batch=2000), np.array([[0], [1], [2], [3], [4]])
    one, two = (
        training._draw(0, step, torch.zeros(4, 4, 1, 1), which, np.array([0.4, 0.3, 0.2, 0.1]), schedule)
        for step in (0, 1)
    )
    for name in ("rows", "captions", "times", "noise"):
        assert not np.array_equal(getattr(one, name), getattr(two, name)), name
    assert one.times.min() < 10 and one.times.max() > 989 and abs(float(one.times.float().mean()) - 500) < 30
    assert abs(float(one.noise.std()) - 1) < 0.05


def test_the_gradient_is_cut_to_its_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = one_step(monkeypatch, replace(PLAIN, gradient_norm=1e9))
    cut, _ = one_step(monkeypatch, replace(PLAIN, gradient_norm=1e-2))
    assert whole.norm() > 0.1 and cut.norm() == pytest.approx(1e-2, rel=1e-2)


def test_micro_batches_add_up_to_the_gradient_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an optimiser that forgets the scale."""
    whole, losses = one_step(monkeypatch, replace(PLAIN, gradient_norm=1e9))
    parts, again = one_step(monkeypatch, replace(PLAIN, gradient_norm=1e9, micro_batch=3))
    assert torch.allclose(parts, whole, atol=1e-4 * float(whole.abs().max())) and again == pytest.approx(
        losses, rel=1e-5
    )


def test_gradients_of_several_processes_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process takes its share of the batch; the mean over processes, which torch takes, is the whole gradient."""
    monkeypatch.setattr(training.dist, "all_reduce", lambda total: None)
    value = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    model, found = SimpleNamespace(no_sync=nullcontext), []
    for own in ([0, 2], [1]):
        value.grad = None
        training._added_up(model, [[place] for place in own], lambda part: (value[part] ** 2 / 3).sum(), 2)
        found.append(value.grad.clone())  # type: ignore[attr-defined]
    assert torch.allclose(sum(found) / 2, 2 * value.detach() / 3)


def test_each_loss_has_its_own_caption_and_its_weight() -> None:
    model = pipeline()
    texts = ["head CT slice", "chest x-ray"]
    ids, position = token_ids(model.tokenizer, texts), torch.tensor([1, 0, 1])
    x, noise = (torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    times = torch.tensor([50, 500, 900])
    attention = model.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    torch.nn.init.normal_(attention.to_out[0].weight, generator=torch.Generator().manual_seed(2))  # so that text shows
    with torch.no_grad():
        known, own = model.text_encoder(ids)[0], []
        for i, place in enumerate(position.tolist()):
            one = x[[i]], known[[place]], times[[i]], noise[[i]]
            own.append(diffusion_loss(model.unet, model.scheduler, *one))
        swapped = diffusion_loss(model.unet, model.scheduler, x, known[1 - position], times, noise)
        plain = Denoiser(model, None)(x, ids, position, times, noise)
        weighted = Denoiser(model, 5.0)(x, ids, position, times, noise)
    losses = torch.cat(own)
    assert not torch.allclose(swapped.sum(), losses.sum(), rtol=1e-4), "captions that change nothing prove nothing"
    assert torch.allclose(plain, losses.sum(), rtol=1e-5)
    assert torch.allclose(weighted, (losses * snr_weight(model.scheduler, times, 5.0)).sum(), rtol=1e-5)


def test_bf16_is_used_where_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def looked(*given: Any) -> torch.Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return diffusion_loss(*given)

    monkeypatch.setattr(latent_diffusion, "diffusion_loss", looked)
    for precision in ("fp32", "bf16"):
        schedule = replace(PLAIN, precision=precision)
        train(pipeline(), torch.randn(8, 4, 8, 8), CAPTIONS * 2, np.full(8, 1 / 8), schedule, seed=0)
    assert seen == [False, True]


def test_another_seed_is_another_training() -> None:
    one, two = pipeline(), pipeline()
    latents, schedule = torch.randn(8, 4, 8, 8), replace(PLAIN, learning_rate=1e-3)
    for model, seed in ((one, 0), (two, 1)):
        train(model, latents, CAPTIONS * 2, np.full(8, 1 / 8), schedule, seed=seed)
    assert not torch.equal(weights(one), weights(two)) and len(fit(pipeline(), 1)) == 1
