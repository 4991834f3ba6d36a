"""Stages autoencoder and train: a generator and its decoder, each from exactly the images it may see."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.cache import Record, write_json
from benchmark.datasets import wordings
from benchmark.stages import device, peaks, repeatable, split, spoken


class ChosenImages:
    """Chosen rows of several sets' images, read where they lie when they are asked for: rows[slice or int64 [n]] is
    uint8 [n, H, W, 3]."""

    def __init__(self, parts: list[tuple[NDArray[np.uint8], NDArray[np.int64]]]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(rows) for _, rows in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        wanted = np.arange(len(self))[index]
        out = np.empty((len(wanted), *self.parts[0][0].shape[1:]), np.uint8)
        for (images, rows), end in zip(self.parts, self.ends, strict=True):
            mine = (wanted >= end - len(rows)) & (wanted < end)
            out[mine] = images[rows[wanted[mine] - end + len(rows)]]
        return out


Seen = tuple[ChosenImages, list[tuple[str, ...]], list[str]]  # images, wordings of their captions, names of their sets


def run_autoencoder(config: Record, inputs: dict[str, Path], folder: Path) -> None:
    """Writes vae/ (a diffusers folder) and facts.json: its resolution in pixels, losses, images."""
    from classifiers.features import efficientnet_lite0_maps
    from generators.autoencoders import encode, load_autoencoder, working_resolution
    from generators.teaching import tune_decoder
    from generators.training import sampling_weights

    if "source" in config:
        return _own_autoencoder(config, folder)
    resolution = config["resolution"] or working_resolution(config["size"])
    begun = inputs.get("start")
    model = (load_autoencoder(begun / "vae") if begun else named_autoencoder(config["autoencoder"])).to(device())
    images, _, sets = seen(config, inputs)
    losses: list[float] = []
    if config["images_seen"]:
        losses = tune_decoder(
            model,
            images,
            resolution,
            efficientnet_lite0_maps(),
            images_seen=config["images_seen"],
            weights=sampling_weights(sets, config["balance"]),
            precision=config["precision"],
            seed=0,
            checkpoint=folder / "checkpoint",
            report=spoken("decoder", config["images_seen"]),
        )

    # One scalar brings the latents to unit variance; the pipeline divides by it before decoding. A fine-tuned
    # generator keeps the scalar that it was trained with.
    if begun is None and config.get("private"):
        model.register_to_config(scaling_factor=1.0)  # no number that leaves the cell comes from private images
    elif begun is None:
        model.register_to_config(scaling_factor=1.0)
        some = np.random.default_rng(0).permutation(len(images))[:512]
        deviation = float(encode(model, images[some], resolution).std())
        model.register_to_config(scaling_factor=round(1 / deviation, 6))
    model.save_pretrained(folder / "vae", safe_serialization=True)
    facts = {"resolution": resolution, "loss": losses, "images": len(images), "precision": config["precision"]}
    write_json(folder / "facts.json", facts)


def _own_autoencoder(config: Record, folder: Path) -> None:
    """The autoencoder of a model from elsewhere, frozen, at the resolution of its U-Net."""
    from benchmark.recipes import model_folder
    from generators.autoencoders import load_autoencoder

    source = model_folder(config["source"])
    side = json.loads((source / "unet" / "config.json").read_text())["sample_size"]
    model = load_autoencoder(source / "vae")
    model.save_pretrained(folder / "vae", safe_serialization=True)
    resolution = config["resolution"] or side * 2 ** (len(model.config.block_out_channels) - 1)
    write_json(folder / "facts.json", {"resolution": resolution, "loss": [], "images": 0})


def named_autoencoder(name: str) -> Any:
    """The autoencoder of a study by name or folder."""
    from generators.autoencoders import SHIPPED, load_autoencoder, load_taesd

    if name == "taesd":
        return load_taesd(Path(os.environ["AUGURY_WEIGHTS"]) / "taesd" / "taesd_diffusers_bf16.safetensors")
    return load_autoencoder(SHIPPED if name == "augury" else Path(name))


def read_autoencoder(folder: Path) -> tuple[Any, int]:
    """A finished autoencoder cell: the model and the side in pixels at which it works."""
    from generators.autoencoders import load_autoencoder

    facts = json.loads((folder / "facts.json").read_text())
    return load_autoencoder(folder / "vae").to(device()), int(facts["resolution"])


def seen(config: Record, inputs: dict[str, Path]) -> Seen:
    """What the sight of `config` allows of all split inputs, in their order: this and nothing else is learnt from."""
    parts, sets, texts = [], [], list[tuple[str, ...]]()
    for role in sorted(role for role in inputs if role.startswith("split")):
        prepared = split.read(inputs[role])
        rows = split.seen_rows(prepared, config)
        own = None if config.get("dp_epsilon") else prepared.captions(rows)
        parts.append((prepared.train.images, rows))
        texts += [("",)] * len(rows) if config.get("unconditional") else wordings(
            prepared.card, prepared.train.labels[rows], own, detail=config.get("detail", "full"),
            phrasings=config.get("phrasings", 1), noise=config.get("caption_noise", 0.0),
            seed=config.get("seed_of_model", 0),
        )  # fmt: skip
        sets += [prepared.card.name] * len(rows)
    return ChosenImages(parts), texts, sets


def run_train(config: Record, inputs: dict[str, Path], folder: Path) -> Record | None:
    """Writes pipeline/ (a diffusers folder) and loss.json; checkpoint/ keeps the state while it runs.

    Returns the peak memory of several processes, which this one cannot know; None where it trained itself.
    """
    if config.get("processes", 1) > 1 and not torch_group():
        return _launch(config, inputs, folder)
    pipeline, resolution = assemble(config, inputs)
    losses: list[float] = []
    facts: Record = {}
    if config["images_seen"] != 0:
        losses, facts = _fit(pipeline, resolution, config, inputs, folder)
    if int(os.environ.get("RANK", 0)) == 0:
        pipeline.save_pretrained(folder / "pipeline", safe_serialization=True)
        write_json(folder / "loss.json", {"loss": losses} | facts)
    return None


def assemble(config: Record, inputs: dict[str, Path]) -> tuple[Any, int]:
    """The pipeline before training: new and small, from elsewhere, or a finished cell's; with its autoencoder."""
    from benchmark.recipes import model_folder
    from generators.latent_diffusion import load_pipeline, small_pipeline, with_scheduler

    autoencoder, resolution = read_autoencoder(inputs["autoencoder"])
    if "start" in inputs or "source" in config:
        folder = inputs["start"] / "pipeline" if "start" in inputs else model_folder(config["source"])
        pipeline = with_scheduler(load_pipeline(folder), "DPMSolverMultistepScheduler")
        pipeline.vae = autoencoder
        pipeline.unet.register_to_config(sample_size=resolution // pipeline.vae_scale_factor)
    else:
        seed = 1000 + config["seed_of_model"]
        pipeline = small_pipeline(autoencoder, resolution, tuple(config["channels"]), config["text_width"], seed)
    return pipeline.to(device()), resolution


def _fit(
    pipeline: Any, resolution: int, config: Record, inputs: dict[str, Path], folder: Path
) -> tuple[list[float], Record]:
    from generators.autoencoders import encode
    from generators.latent_diffusion import add_lora, merge_lora, numbered, tell_cut
    from generators.training import Privacy, Schedule, sampling_weights, train, train_privately

    images, texts, sets = seen(config, inputs)
    if int(os.environ.get("RANK", 0)) == 0:
        tell_cut(pipeline.tokenizer, numbered(texts)[0], "captions")
    facts = json.loads((inputs["autoencoder"] / "facts.json").read_text())
    where, precision = _latents(folder / "checkpoint"), facts.get("precision", "fp32")  # as in its decoder's tuning
    latents = encode(pipeline.vae, images, resolution, file=where, precision=precision)
    names = ("batch", "micro_batch", "learning_rate", "warmup", "ema_decay", "snr_gamma", "precision", "weight_decay",
             "gradient_norm", "betas", "decay")  # fmt: skip
    count = config["images_seen"] or round(config["epochs"] * len(texts))
    dropout = 0.0 if config["unconditional"] else config["caption_dropout"]
    schedule = Schedule(images_seen=count, caption_dropout=dropout, **{name: config[name] for name in names})
    done = {"images": len(texts), "images_seen": schedule.steps * schedule.batch, "sets": sorted(set(sets))}
    given: Record = {"checkpoint": folder / "checkpoint"}
    given |= {"report": spoken("generator", count)} if int(os.environ.get("RANK", 0)) == 0 else {}
    if config.get("dp_epsilon"):
        privacy = Privacy(config["dp_epsilon"], config["dp_delta"], config["dp_clip"])
        losses, spent = train_privately(pipeline, latents, texts, schedule, privacy, **given)
        return losses, done | spent
    if config["lora_rank"]:
        add_lora(pipeline, config["lora_rank"])
    losses = train(pipeline, latents, texts, sampling_weights(sets, config["balance"]), schedule,
                   seed=1000 + config["seed_of_model"], **given)  # fmt: skip
    if config["lora_rank"]:
        merge_lora(pipeline)
    return losses, done


def _latents(checkpoint: Path) -> Path:
    """Where they lie while training lasts, for a resumed run too; the first of several processes makes them."""
    checkpoint.mkdir(exist_ok=True)
    file = checkpoint / "latents.npy"
    while int(os.environ.get("RANK", 0)) and not file.exists():
        time.sleep(0.1)
    return file


def torch_group() -> bool:
    """Whether this process is one of several that share each batch."""
    import torch.distributed

    return torch.distributed.is_initialized()


def _launch(config: Record, inputs: dict[str, Path], folder: Path) -> Record:
    """Run this cell again as several processes that share each batch: one a GPU, or on the CPU where there is none.

    Where one of them is out of memory all go on from the last state, with half the images at once.
    """
    import torch

    job = folder / "checkpoint" / "job.json"
    job.parent.mkdir(exist_ok=True)
    roles = {role: str(path) for role, path in inputs.items()}
    write_json(job, {"config": config, "inputs": roles, "folder": str(folder), "parent": os.getpid()})
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    command += ["--num_processes", str(config["processes"]), "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", "0", "--module", "benchmark.stages.train", str(job)]
    reason = job.with_name("error.txt")
    reason.unlink(missing_ok=True)
    last, threads = "", max(1, torch.get_num_threads() // config["processes"])
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as running:
        for line in running.stderr or ():
            last = line.strip() or last
            if line.startswith(("generator:", "captions:", "out of memory:")) or "deterministic" in line:
                print(line, end="", file=sys.stderr, flush=True)
    if not running.returncode:
        found = [json.loads(file.read_text()) for file in job.parent.glob("peak *.json")]
        gpu = [each["gpu_memory_mb"] for each in found if each["gpu_memory_mb"] is not None]
        whole = round(sum(each["peak_memory_mb"] for each in found), 1)
        return {"peak_memory_mb": whole, "gpu_memory_mb": max(gpu, default=None)}
    told = reason.read_text() if reason.exists() else last
    micro = config["micro_batch"] or -(-config["batch"] // config["processes"])
    if not told.startswith("OutOfMemoryError") or micro == 1:
        raise RuntimeError(f"accelerate launch ended with {running.returncode}: {told}")
    micro = -(-micro // 2)
    print(f"out of memory: micro-batch lowered to {micro}, the batch stays {config['batch']}", file=sys.stderr)
    return _launch(config | {"micro_batch": micro}, inputs, folder)


def main() -> None:
    """One of several processes: `accelerate launch -m benchmark.stages.train JOB`."""
    import accelerate
    import torch

    state = accelerate.PartialState(cpu=device() == "cpu")
    if state.num_processes == 1:
        raise RuntimeError("accelerate started one process where several were asked for")
    job = json.loads(Path(sys.argv[1]).read_text())
    Thread(target=_die_with, args=(job["parent"],), daemon=True).start()
    try:
        with repeatable():
            run_train(job["config"], {role: Path(path) for role, path in job["inputs"].items()}, Path(job["folder"]))
        write_json(Path(sys.argv[1]).with_name(f"peak {state.process_index}.json"), peaks())
    except Exception as error:
        with suppress(FileExistsError), Path(sys.argv[1]).with_name("error.txt").open("x") as file:
            file.write(f"{type(error).__name__}: {error}")  # the first to fail; the others' ends follow from it
        raise
    finally:
        torch.distributed.destroy_process_group()


def _die_with(process: int) -> None:
    """End when the process that launched this one is gone: it would write where the next try writes."""
    while True:
        try:
            os.kill(process, 0)
        except OSError:
            os._exit(1)
        time.sleep(2)


if __name__ == "__main__":
    main()
