"""Models from elsewhere: where a generator starts from, several processes, finished sets, and that what it leaves is
plain diffusers."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark import recipes
from benchmark.cache import BadInput
from benchmark.stages import synthesize, train
from benchmark.stages.train import run_train
from tests.benchmark.test_generators import SMALL, of


def diffusion_folder(folder: Path, vae: str) -> Path:
    """Stable Diffusion's layout and classes with random small weights; the VAE is random or the real TAESD."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from generators.autoencoders import load_taesd
    from generators.latent_diffusion import tokenizer

    words = tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                max_position_embeddings=32, projection_dim=32, bos_token_id=words.bos_token_id,
                eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
            )
        )  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=32, norm_num_groups=8,
            attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
        if vae == "taesd":
            weights = os.environ.get("AUGURY_WEIGHTS")
            if not weights:
                pytest.skip("needs $AUGURY_WEIGHTS/taesd")
            autoencoder = load_taesd(Path(weights) / "taesd" / "taesd_diffusers_bf16.safetensors")
        else:
            blocks = 4
            autoencoder = AutoencoderKL(
                block_out_channels=(8,) * blocks, norm_num_groups=4, latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
            )  # fmt: skip
    scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
                              skip_prk_steps=True, set_alpha_to_one=False)  # fmt: skip
    StableDiffusionPipeline(
        vae=autoencoder, text_encoder=text, tokenizer=words, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
    return folder


@pytest.mark.parametrize("vae", ["kl", "taesd"])
def test_the_papers_recipe_starts_from_a_folder_and_leaves_one(
    tmp_path: Path, vae: str, cells_of: Any, finish: Any
) -> None:
    from diffusers import StableDiffusionPipeline

    start = diffusion_folder(tmp_path / "sd", vae)
    generator = {"recipe": "stable-diffusion", "start": "sd", "epochs": 1, "batch": 16, "micro_batch": 4, "warmup": 1}
    cells = cells_of(tmp_path, generators={"sd": generator}, size=64, datasets=["phantom-x-ray"])
    config = of(cells, "train")[0].config
    assert (config["learning_rate"], config["precision"], config["ema_decay"]) == (5e-5, "bf16", 0.9999)
    store = finish(cells, tmp_path / "home", "synthesize")

    # Frozen VAE, trained text encoder and U-Net, loaded by plain diffusers.
    folder = store.folder(of(cells, "train")[0]) / "pipeline"
    before = StableDiffusionPipeline.from_pretrained(start, dtype=torch.float32)
    after = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    same = {part: all(torch.equal(a, b) for a, b in zip(getattr(before, part).parameters(),
                                                         getattr(after, part).parameters(), strict=True))
            for part in ("vae", "text_encoder", "unet")}  # fmt: skip
    assert same == {"vae": True, "text_encoder": False, "unet": False}

    # The same image from the same seed.
    drawn_cell = of(cells, "synthesize")[0]
    drawn = synthesize.read(store.folder(drawn_cell))
    after.set_progress_bar_config(disable=True)
    plain = after(
        drawn.captions[0], generator=torch.Generator().manual_seed(int(drawn.seeds[0])), num_inference_steps=2,
        guidance_scale=2.0, output_type="np",
    ).images[0]  # fmt: skip
    assert np.abs(plain * 255 - drawn.images[0].astype(float)).max() <= 1


def test_two_processes_give_the_losses_of_one(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    losses = {}
    for processes in (1, 2):  # of thirteen images seven and six, in micro-batches of three
        own = SMALL | {"processes": processes, "batch": 13, "micro_batch": 3}
        cells = cells_of(tmp_path, generators={"g": own}, datasets=["phantom-oct"])
        store = finish(cells, tmp_path / "home", "train")
        folder = store.folder(of(cells, "train")[0])
        losses[processes] = json.loads((folder / "loss.json").read_text())["loss"]
        assert not (folder / "checkpoint").exists()
        facts = store.record(of(cells, "train")[0])
        assert facts["cpu_seconds"] > 0.3 * facts["seconds"], "the children's too"
    assert losses[1] != losses[2] and losses[2] == pytest.approx(losses[1], rel=1e-3)


def test_several_processes_tell_why_they_ended(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    cells = cells_of(tmp_path, generators={"g": SMALL | {"processes": 2}}, datasets=["phantom-oct"])
    store, cell = finish(cells, tmp_path / "home", "autoencoder"), of(cells, "train")[0]
    inputs = {role: store.folder(each) for role, each in cell.inputs.items()}
    (tmp_path / "cell").mkdir()
    with pytest.raises(RuntimeError, match="launch ended with 1: ValueError: num_channels"):
        run_train(cell.config | {"channels": [33, 33]}, inputs, tmp_path / "cell")


def test_a_model_in_the_local_hub_cache_is_found(tmp_path: Path, cells_of: Any, finish: Any, monkeypatch: Any) -> None:
    """The layout that `hf download` leaves."""
    place = tmp_path / "hub" / "models--lab--Model"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("a" * 40)
    diffusion_folder(place / "snapshots" / ("a" * 40), "kl")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    cells = cells_of(tmp_path, generators={"g": {"checkpoint": "lab/Model"}}, size=64, datasets=["phantom-oct"])
    store = finish(cells, tmp_path / "home", "train")
    assert (store.folder(of(cells, "train")[0]) / "pipeline" / "model_index.json").exists()


def test_checkpoint_is_used_as_it_is_and_lora_leaves_a_stock_folder(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    from safetensors.torch import load_file

    start = diffusion_folder(tmp_path / "sd", "kl")
    generators: dict[str, Any] = {"ready": {"checkpoint": str(start)}}
    if __import__("importlib.util").util.find_spec("peft"):
        generators["lora"] = SMALL | {"start": str(start), "lora_rank": 2}
    cells = cells_of(tmp_path, generators=generators, size=64, datasets=["phantom-x-ray"])
    store = finish(cells, tmp_path / "home", "train")

    def weights(folder: Path, part: str) -> dict[str, torch.Tensor]:
        file = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        return load_file(folder / part / f"{file}.safetensors")

    for cell in of(cells, "train"):
        folder = store.folder(cell) / "pipeline"
        for part in ("unet", "text_encoder", "vae"):
            old, new = weights(start, part), weights(folder, part)
            assert old.keys() == new.keys()
            changed = any(not torch.equal(old[key], new[key]) for key in old)
            assert changed == (cell.about["generator"] == "lora" and part == "unet")
    ready = of(cells, "classify", generator="ready")
    assert {cell.about["exposure"] for cell in ready} == {"external"}, "nobody knows what it saw"


def test_finished_images_enter_as_a_generator(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    from benchmark.datasets import load

    classes = load("phantom-ultrasound", 32, 60).card.classes
    for name in classes:
        (tmp_path / "gan" / name).mkdir(parents=True)
        for i in range(9):
            Image.fromarray(np.full((40, 40, 3), 10 * i, np.uint8)).save(tmp_path / "gan" / name / f"{i}.png")
    changes: Any = {"generators": {"gan": {"images": "gan"}}, "datasets": ["phantom-ultrasound"]}
    cells = cells_of(tmp_path, **changes)
    assert not of(cells, "train") and not of(cells, "autoencoder")
    store = finish(cells, tmp_path / "home", "classify", "fidelity", "audit")
    drawn = synthesize.read(store.folder(of(cells, "synthesize")[0]))
    assert drawn.images.shape[1:] == (32, 32, 3)
    pairs = [(int(label), int(image[0, 0, 0])) for label, image in zip(drawn.labels, drawn.images, strict=True)]
    assert len(set(pairs)) == len(pairs), "each image is used once"
    for place in ("gan.csv", "several/phantom-ultrasound.csv"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        files = [f"{tmp_path}/gan/{name}/{i}.png,{name}" for name in classes for i in range(9)]
        (tmp_path / place).write_text("\n".join(["path,label", *files]))
        listed = cells_of(
            tmp_path,
            generators={"gan": {"images": place.split("/")[0]}},
            datasets=["phantom-ultrasound", "phantom-ct"] if "/" in place else ["phantom-ultrasound"],
        )
        own = of(listed, "synthesize", generator="gan")
        assert {cell.about["dataset"] for cell in own} == {"phantom-ultrasound"}
        again = synthesize.read(finish(listed, tmp_path / "home", "synthesize").folder(own[0]))
        assert (again.images == drawn.images).all(), "a CSV, or one for each set in a folder"
    with pytest.raises(BadInput, match=r"this study needs \d+ of class '.*', of which there are 9"):
        finish(cells_of(tmp_path, **changes, ratios=[5]), tmp_path / "home", "synthesize")


@pytest.mark.parametrize(
    ("generator", "words"),
    [
        ({"start": "no/such-model"}, "hf download no/such-model"),
        ({"start": "a", "images": "b"}, "one of start, checkpoint, images"),
        ({"images": "nowhere"}, "'nowhere' does not exist"),
        ({"unconditional": True}, "unconditional needs train_on: each"),
        ({"epochs": 2, "images_seen": 5}, "one of them"),
        ({"train_on": ["phantom-ct"]}, "is not one of the study's sets"),
    ],
)
def test_wrong_generators_are_one_line(tmp_path: Path, generator: dict[str, Any], words: str, cells_of: Any) -> None:
    with pytest.raises(BadInput, match=words):
        cells_of(tmp_path, generators={"g": generator})


def test_a_filter_of_a_ready_model_knows_the_budget_alone(tmp_path: Path, cells_of: Any) -> None:
    model = diffusion_folder(tmp_path / "sd", "kl")
    changes: dict[str, Any] = {"generators": {"g": {"checkpoint": str(model)}}, "budgets": [0.2, 0.5], "size": 64}
    cells = cells_of(tmp_path, **changes, sampling={"steps": 2, "filter": [None, 0.5]})
    for drawn in of(cells, "synthesize"):
        filtered = drawn.config["filter"] is not None
        assert ("filter" in drawn.inputs) == filtered and (drawn.about["budget"] is not None) == filtered
        if filtered:
            assert drawn.inputs["filter"].config["budget"] == drawn.config["budget"] == drawn.about["budget"]
    for cell in of(cells, "classify", generator="g", variant="filter=0.5"):
        assert cell.inputs["synthesize"].config["budget"] == cell.config["budget"]
    keys = [(c.stage, c.config.get("encoder"), *(str(v) for v in c.about.values())) for c in of(cells, "fidelity")]
    assert len(set(keys)) == len(keys), "two sets of one name"


def test_a_model_of_which_the_cache_holds_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers fetches some files of a repository; the hub's library then calls the snapshot incomplete."""
    from huggingface_hub.errors import IncompleteSnapshotError

    place = diffusion_folder(tmp_path / "sd", "kl")

    def incomplete(*given: Any, **named: Any) -> str:
        raise IncompleteSnapshotError("not all files", str(place))

    monkeypatch.setattr("huggingface_hub.snapshot_download", incomplete)
    assert recipes.model_folder("lab/Model") == place
    (place / "unet" / "diffusion_pytorch_model.safetensors").rename(
        place / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    )
    with pytest.raises(BadInput, match="unet needs config"):
        recipes.model_folder("lab/Model")


def test_a_model_works_at_the_side_of_its_own_latents(tmp_path: Path, cells_of: Any, finish: Any) -> None:
    place = diffusion_folder(tmp_path / "sd", "kl")
    levels = len(json.loads((place / "vae" / "config.json").read_text())["block_out_channels"])
    cells = cells_of(tmp_path, generators={"g": {"checkpoint": str(place)}}, datasets=["phantom-oct"])
    store = finish(cells, tmp_path / "home", "autoencoder")
    facts = json.loads((store.folder(of(cells, "autoencoder")[0]) / "facts.json").read_text())
    assert facts["resolution"] == 8 * 2 ** (levels - 1)
    config = place / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": [8, 16]}))
    with pytest.raises(BadInput, match=r"latents of side \[8, 16\]; allowed: one whole number"):
        recipes.model_folder(str(place))


def test_models_that_cannot_be_trained_here_are_refused(tmp_path: Path) -> None:
    place, scheduler = diffusion_folder(tmp_path / "sd", "kl"), "scheduler/scheduler_config.json"
    wrong: list[tuple[str, dict[str, Any] | None, str]] = [
        ("unet/config.json", None, "unet has no config.json that can be read as a JSON object"),
        ("model_index.json", None, "has no model_index.json that can be read"),
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "holds StableDiffusionXLPipeline; allowed"),
        ("model_index.json", {"vae": ["diffusers", "VQModel"]}, "its vae is VQModel; allowed: AutoencoderKL"),
        (scheduler, {"prediction_type": "sample"}, "predicts sample at 1000 times; allowed: eps"),
        (scheduler, {"num_train_timesteps": 500}, "predicts epsilon at 500 times; allowed: eps"),
    ]
    for file, change, words in wrong:
        text = (place / file).read_text()
        (place / file).write_text(json.dumps(json.loads(text) | change) if change else text[:-9])
        with pytest.raises(BadInput, match=words):
            recipes.model_folder(str(place))
        (place / file).write_text(text)
    assert recipes.model_folder(str(place)) == place
    for file in [*(place / "tokenizer").glob("tokenizer.json"), *(place / "tokenizer").glob("merges.txt")]:
        file.unlink()
    with pytest.raises(BadInput, match=r"tokenizer needs tokenizer\.json, or vocab\.json and merges"):
        recipes.model_folder(str(place))


def test_autoencoders_of_another_factor_and_adapters_of_nothing_are_refused(tmp_path: Path, cells_of: Any) -> None:
    place = diffusion_folder(tmp_path / "sd", "kl") / "vae"
    assert recipes.autoencoder_file(str(place)).exists()
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"block_out_channels": [8, 8, 8]}))
    with pytest.raises(BadInput, match=r"4 latent channels and factor 4; allowed: .* with 4 and 8"):
        recipes.autoencoder_file(str(place))
    with pytest.raises(BadInput, match="lora_rank is for a model that is fine-tuned; allowed: with start"):
        cells_of(tmp_path, generators={"g": SMALL | {"lora_rank": 2}})


def test_out_of_memory_in_one_of_several_processes_halves_what_each_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tries: list[int | None] = []

    class Launched:
        stderr = ("captions: 2 are longer than the 32 tokens\n", "noise\n")

        def __init__(self, command: list[str], **named: Any) -> None:
            job = Path(command[-1])
            tries.append(json.loads(job.read_text())["config"]["micro_batch"])
            self.returncode = int(len(tries) < 3)
            if self.returncode:
                job.with_name("error.txt").write_text("OutOfMemoryError: CUDA out of memory")
            for rank, memory in enumerate((900.0, 700.5)):
                peak = {"peak_memory_mb": memory, "gpu_memory_mb": memory}
                job.with_name(f"peak {rank}.json").write_text(json.dumps(peak))

        def __enter__(self) -> "Launched":
            return self

        def __exit__(self, *given: Any) -> None:
            pass

    monkeypatch.setattr(train.subprocess, "Popen", Launched)
    measured = train._launch({"processes": 2, "batch": 17, "micro_batch": None}, {}, tmp_path)
    assert measured == {"peak_memory_mb": 1600.5, "gpu_memory_mb": 900.0}, "of both, not of the one that waits"
    assert tries == [None, 5, 3]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("out of memory")]
    assert said == [f"out of memory: micro-batch lowered to {n}, the batch stays 17" for n in (5, 3)]


def test_folders_of_a_finished_set_bear_the_classes_names(tmp_path: Path) -> None:
    from benchmark.sources import labelled_files

    for name in ("AK (actinic)", "A_B"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    assert all(len(files) == 1 for files in labelled_files(tmp_path, ["AK (actinic)", "A&B"]).values())
    with pytest.raises(BadInput, match="classes A&B, A_B share the folder 'A_B'"):
        labelled_files(tmp_path, ["A&B", "A_B"])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["a/0.png,cat", "a/1.png"], "line 3: expected 2 fields"),
        (["a/0.png,cat", "a/0.png,cat"], r"line 3: a/0\.png is listed twice"),
        (["a/0.png,cat", "a/9.png,dog"], r"line 3: a/9\.png does not exist"),
        (["a/0.png,cat,F"], r"line 2: expected 2 fields"),
    ],
)
def test_a_csv_of_a_finished_set_is_read_line_by_line(tmp_path: Path, rows: list[str], words: str) -> None:
    from benchmark.sources import labelled_files

    (tmp_path / "a").mkdir()
    for i in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / "a" / f"{i}.png")
    file = tmp_path / "set.csv"
    file.write_text("\ufeffpath,label\na/0.png,cat\na/1.png,other\n", encoding="utf-8")
    assert labelled_files(file, ["cat", "dog"]) == {"cat": [tmp_path / "a" / "0.png"], "dog": []}
    file.write_text("\n".join(["path,label", *rows]))
    with pytest.raises(BadInput, match=words):
        labelled_files(file, ["cat", "dog"])


def test_the_papers_recipe_is_the_papers(tmp_path: Path, cells_of: Any) -> None:
    diffusion_folder(tmp_path / "sd", "kl")
    cells = cells_of(tmp_path, generators={"sd": {"recipe": "stable-diffusion", "start": "sd"}}, size=64)
    config = of(cells, "train")[0].config
    told = {"epochs": 15, "batch": 128, "micro_batch": 8, "learning_rate": 5e-5, "precision": "bf16", "warmup": 500,
            "ema_decay": 0.9999, "caption_dropout": 0.1, "weight_decay": 0.01, "gradient_norm": 1.0,
            "betas": [0.9, 0.999], "decay": "cosine", "balance": 1.0, "snr_gamma": None}  # fmt: skip
    assert {key: list(value) if isinstance(value := config[key], tuple) else value for key in told} == told
