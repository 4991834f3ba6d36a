"""What a GPU alone can show: repeatable kernels, real want of memory, the CPU's pictures. Skipped without one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.stages import repeatable
from classifiers.features import efficientnet_lite0_maps
from generators.autoencoders import SHIPPED, load_autoencoder
from generators.latent_diffusion import sample, small_pipeline
from generators.teaching import tune_decoder
from generators.training import Schedule, train

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
    pytest.mark.filterwarnings("ignore:.*ttention defaults to a non-deterministic algorithm"),
]
TEXTS = ["chest X-ray with pneumonia", "a normal chest X-ray", "head CT"]
LATENTS = torch.randn(90, 4, 8, 8, generator=torch.Generator().manual_seed(0))
PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "bf16"])


def pipeline() -> Any:
    return small_pipeline(load_autoencoder(SHIPPED), 64, (64, 128), 128, 0).to("cuda")


def trained(model: Any, batch: int = 64, steps: int = 12, seconds: float = 1e9, **more: Any) -> torch.Tensor:
    """All weights after a short training."""
    schedule = Schedule(steps * batch, batch, learning_rate=2e-3, checkpoint_seconds=seconds, **more.pop("how", {}))
    with repeatable():
        train(model, LATENTS, TEXTS * 30, np.full(90, 1 / 90), schedule, seed=0, **more)
    return torch.cat([p.detach().flatten() for part in (model.unet, model.text_encoder) for p in part.parameters()])


@pytest.fixture
def little_memory() -> Iterator[Any]:
    """A function that leaves this process as many bytes as it is told."""
    whole = torch.cuda.get_device_properties(0).total_memory

    def leave(memory: float) -> None:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(memory / whole)

    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0)


@PRECISIONS
def test_killed_training_ends_in_the_same_weights(precision: str, tmp_path: Path) -> None:
    def die(seen: int, loss: float) -> None:
        if seen == 5 * 64:
            raise KeyboardInterrupt

    whole = trained(pipeline(), how={"precision": precision})
    with pytest.raises(KeyboardInterrupt):
        trained(pipeline(), checkpoint=tmp_path, seconds=0, report=die, how={"precision": precision})
    assert torch.equal(trained(pipeline(), checkpoint=tmp_path, how={"precision": precision}), whole)


def test_two_tunings_give_the_same_decoder() -> None:
    images, found = np.random.default_rng(0).integers(0, 255, (64, 64, 64, 3), dtype=np.uint8), []
    for _ in range(2):
        model = load_autoencoder(SHIPPED).to("cuda")
        with repeatable():
            tune_decoder(model, images, 64, efficientnet_lite0_maps(), images_seen=32 * 10)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*found)


def test_pictures_are_the_cpus_at_any_batch_size() -> None:
    model, seeds = pipeline(), list(range(40))
    asked = [TEXTS[i % 3] for i in seeds]
    whole, parts = (sample(model, asked, seeds, size=64, batch=n).astype(int) for n in (40, 7))
    ours = sample(model.to("cpu"), asked, seeds, size=64).astype(int)
    assert np.abs(whole - parts).max() <= 1 and np.abs(whole - ours).max() <= 2


def test_want_of_memory_lowers_what_is_in_it_at_once(little_memory: Any, capsys: pytest.CaptureFixture[str]) -> None:
    torch.cuda.reset_peak_memory_stats()
    whole = trained(pipeline(), batch=2048, steps=2)
    little_memory(0.5 * torch.cuda.max_memory_allocated())
    less = trained(pipeline(), batch=2048, steps=2)
    assert "micro-batch lowered to" in capsys.readouterr().err and (whole - less).abs().mean() < 1e-5
    images = np.random.default_rng(0).integers(0, 255, (256, 64, 64, 3), dtype=np.uint8)
    little_memory(torch.cuda.memory_allocated() + 6e8)
    tune_decoder(
        load_autoencoder(SHIPPED).to("cuda"), images, 64, efficientnet_lite0_maps(), images_seen=256, batch=256
    )
    assert "micro-batch of the decoder lowered to" in capsys.readouterr().err
