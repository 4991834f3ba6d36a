"""How a generator is trained and sets are drawn from it: fields of a study; where models and weights come from."""

import json
import os
import re
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from benchmark.cache import BadInput, sha256
from benchmark.datasets import UNSEEN, fingerprint

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Frozen(BaseModel):
    """Immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# What a recipe sets where the study is silent. stable-diffusion: MediSyn's epochs, learning rate, precision and start
# (arXiv 2405.09806); warm-up, EMA, balance and micro-batch are ours, and so is what a Generator's defaults give it.
RECIPES: dict[str, dict[str, Any]] = {
    "small": {"images_seen": 40_000, "batch": 64, "learning_rate": 1e-3, "warmup": 30, "ema_decay": 0.995},
    "stable-diffusion": {
        "epochs": 15, "learning_rate": 5e-5, "warmup": 500, "ema_decay": 0.9999, "balance": 1.0, "precision": "bf16",
        "micro_batch": 8, "start": "CompVis/stable-diffusion-v1-4",
    },
}  # fmt: skip


class By(Frozen):
    """One generator for each value of a data set's property."""

    by: Literal["image_type", "specialty"]


class Generator(Frozen):
    """One generator: what it learns from, and how. `images` enters a finished synthetic set of any other model."""

    train_on: Literal["all", "each"] | By | list[str] = "all"
    recipe: Literal["small", "stable-diffusion"] = "small"
    start: str | None = None  # a diffusers folder or hub id that is fine-tuned
    checkpoint: str | None = None  # one that is used as it is
    images: str | None = None  # [SET/]CLASS/*.png or a CSV of path,label: used as it is
    unconditional: bool = False  # no captions; feeds no classifier, only fidelity and audit
    images_seen: Count | None = None  # images; the length of training, or
    epochs: Annotated[float, Field(gt=0)] | None = None  # passes over what it may see
    decoder_images_seen: Annotated[int, Field(ge=0)] | None = None  # of its decoder's tuning; None = the study's
    transfer_images_seen: Count = 12_800  # images, of fine-tuning under exposure transfer
    batch: Count = 128  # images a step
    micro_batch: Count | None = None  # images in memory at once; None, given by hand or by the recipe = the batch
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3  # per step
    warmup: Annotated[int, Field(ge=0)] = 30  # steps; a tenth of all at most
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    gradient_norm: Annotated[float, Field(gt=0)] = 1.0  # to which the gradient of a batch is cut
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)  # of AdamW
    decay: Literal["cosine", "constant"] = "cosine"  # of the learning rate, after the warm-up
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.995  # a step
    snr_gamma: Annotated[float, Field(gt=0)] | None = None  # min-SNR weighting; None = none
    precision: Literal["fp32", "bf16"] = "fp32"
    lora_rank: Count | None = None  # trains adapters of this rank in the U-Net alone (extra `lora`)
    processes: Count = 1  # that share each batch, one a GPU, through accelerate
    caption_dropout: Share = 0.1
    detail: Literal["label", "type", "full"] = "full"  # of captions
    phrasings: Annotated[int, Field(ge=1, le=UNSEEN)] = UNSEEN  # of each caption; one is drawn whenever it is seen
    caption_noise: Share = 0.0  # of the images get another image's caption
    data_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the images it may see, under exposure full
    balance: Share = 0.5  # a set is drawn with weight size^balance
    channels: list[Annotated[int, Field(ge=16, multiple_of=16)]] = [64, 128]  # of a small U-Net, by level
    text_width: Annotated[int, Field(ge=32, multiple_of=32)] = 128  # of a small text encoder
    resolution: Annotated[int, Field(ge=16, multiple_of=8)] | None = None  # pixels; None = the model's own
    dp_epsilon: Annotated[float, Field(gt=0)] | None = None  # differential privacy of each image (extra `dp`)
    dp_delta: Annotated[float, Field(gt=0, lt=0.1)] = 1e-5
    dp_clip: Annotated[float, Field(gt=0)] = 1.0  # norm to which each image's gradient is cut
    seeds: Literal["all"] | Count = "all"  # how many generators; seed s of the study uses generator s modulo this

    @model_validator(mode="before")
    @classmethod
    def _recipe(cls, data: Any) -> Any:
        """Fill in what the recipe says; epochs given by hand replace images_seen and the other way round.

        With `start` and no recipe it is the paper's: the small one's learning rate would wreck trained weights.
        """
        if not isinstance(data, dict):
            return data
        name = data.get("recipe") or ("stable-diffusion" if data.get("start") else "small")
        if not isinstance(name, str):
            return data
        known = dict(RECIPES.get(name, {})) | {"recipe": name}
        if data.get("checkpoint") or data.get("images"):
            known.pop("start", None)
        if data.get("dp_epsilon") is not None:
            known["phrasings"] = 3  # its text encoder keeps random weights and learns no words
        if data.get("epochs") is not None:
            known.pop("images_seen", None)
        if data.get("images_seen") is not None:
            known.pop("epochs", None)
        return data | known | {key: value for key, value in data.items() if value is not None or key == "micro_batch"}

    @model_validator(mode="after")
    def _consistent(self) -> "Generator":
        given = [key for key in ("start", "checkpoint", "images") if getattr(self, key)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} given; allowed: one of start, checkpoint, images")
        if self.batch < self.processes:
            raise ValueError(f"batch {self.batch} and processes {self.processes} given; allowed: an image a process")
        if self.images_seen and self.epochs:
            raise ValueError("images_seen and epochs given; allowed: one of them")
        if self.dp_epsilon is not None:
            if self.source or self.images or self.lora_rank or self.processes > 1 or self.recipe != "small":
                raise ValueError("dp_epsilon is for recipe small from scratch, in one process, without LoRA")
            if self.caption_noise or self.snr_gamma or self.precision != "fp32":
                raise ValueError("dp_epsilon is for precision fp32 without caption_noise and snr_gamma")
            if find_spec("opacus") is None:
                raise ValueError("dp_epsilon needs the extra dp: pip install 'augury[dp]'")
        if self.lora_rank and not self.start:
            raise ValueError("lora_rank is for a model that is fine-tuned; allowed: with start")
        if self.lora_rank and find_spec("peft") is None:
            raise ValueError("lora_rank needs the extra lora: pip install 'augury[lora]'")
        if self.decoder_images_seen is not None and (self.source or self.images or self.dp_epsilon):
            raise ValueError("decoder_images_seen is for generators whose decoder is tuned, which this one's is not")
        if self.unconditional and self.train_on != "each":
            raise ValueError("unconditional needs train_on: each, as without text it cannot tell sets apart")
        return self

    @property
    def trained(self) -> bool:
        """Whether this study trains it; otherwise what it has seen is not known."""
        return self.checkpoint is None and self.images is None

    def training(self) -> dict[str, Any]:
        """The fields that training depends on."""
        other = {"train_on", "seeds", "images", "checkpoint", "start", "transfer_images_seen", "decoder_images_seen"}
        private = {"dp_epsilon", "dp_delta", "dp_clip"} if self.dp_epsilon is None else set()
        return self.model_dump(exclude=other | private)

    def at(self, folder: Path) -> "Generator":
        """The same with paths relative to the study's folder made whole; hub ids stay as they are."""
        paths = {key: getattr(self, key) for key in ("start", "checkpoint", "images")}
        found = {
            key: str((folder / path).resolve()) for key, path in paths.items() if path and (folder / path).exists()
        }
        return self.model_copy(update=found)

    @property
    def source(self) -> str | None:
        """The model that it starts from or is."""
        return self.checkpoint or self.start


class Sampling(Frozen):
    """How synthetic sets are drawn. A list is a sweep: the first value is the study's, the others are variants."""

    steps: Annotated[list[Annotated[int, Field(ge=2, le=1000)]], Field(min_length=1)] = [15]  # denoising steps
    guidance: Annotated[list[Annotated[float, Field(ge=1, le=50)]], Field(min_length=1)] = [2.0]
    filter: Annotated[list[Annotated[float, Field(gt=0, lt=1)] | None], Field(min_length=1)] = [None]
    # redraw images to whose label a classifier trained on what the generator may see gives less than this probability
    privacy: Annotated[list[Annotated[float, Field(gt=0, lt=1)] | None], Field(min_length=1)] = [None]
    # redraw images as near to what the generator saw as only this share of validation images are (tile-max distance)
    redraws: Count = 4  # tries a filtered image has at most
    scheduler: str = "DPMSolverMultistepScheduler"  # any of diffusers by its class name
    batch: Count = 64  # images
    phrasings: Annotated[int, Field(ge=1, le=UNSEEN)] = 1  # of each caption, drawn by seed

    @field_validator("scheduler")
    @classmethod
    def _known(cls, value: str) -> str:
        """Those that diffusers says fit each other's pipelines; it is not imported for this, which takes seconds."""
        spec = find_spec("diffusers")
        listed = Path(str(spec and spec.origin)).parent / "schedulers" / "scheduling_utils.py"
        names = re.findall(r"^    (\w+Scheduler) = \d+$", listed.read_text(encoding="utf-8"), re.MULTILINE)
        names = [name for name in names if name not in UNFIT]
        if value not in names:
            raise ValueError(f"allowed: a scheduler of diffusers by class name: {', '.join(names)}")
        return value

    @field_validator("steps", "guidance", "filter", "privacy", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]

    def variants(self) -> dict[str, dict[str, Any]]:
        """Variant ('' = the study as written, else `guidance=3;steps=50`) -> steps, guidance, filter (and privacy)."""
        found = {}
        fields = ("filter", "guidance", "privacy", "steps")
        for values in product(self.guidance, self.steps, self.filter, self.privacy):
            chosen: dict[str, Any] = dict(zip(("guidance", "steps", "filter", "privacy"), values, strict=True))
            changed = [f"{key}={chosen[key]:g}" if chosen[key] else f"{key}=none" for key in fields
                       if chosen[key] != getattr(self, key)[0]]  # fmt: skip
            if chosen["privacy"] is None:
                del chosen["privacy"]
            found[";".join(changed)] = chosen
        return found


# Of diffusers' schedulers: one of other noise levels than the model's, one whose noise no seed of an image decides.
UNFIT = ("EDMEulerScheduler", "DPMSolverSDEScheduler")
hashed = cache(sha256)  # weights are read once a plan


def encoder_source(encoder: Any) -> dict[str, Any]:
    """An encoder by name, or a record with name, weights and side -> its part of a config, files with their hash;
    raises BadInput where a file is not at hand."""
    from benchmark.stages.fidelity import INCEPTION

    if not isinstance(encoder, str):
        return {"encoder": encoder.name, "side": encoder.side} | weights_source(encoder.weights)
    if encoder != "inception":
        return {"encoder": encoder}
    file = Path(os.environ.get("AUGURY_WEIGHTS") or "") / INCEPTION
    if not os.environ.get("AUGURY_WEIGHTS") or not file.is_file():
        raise BadInput(f"fidelity.encoders: inception needs $AUGURY_WEIGHTS/{INCEPTION}; "
                       "`augury data download inception-fid` fetches it")  # fmt: skip
    return {"encoder": encoder, "weights": hashed(file)}


def weights_source(weights: str) -> dict[str, Any]:
    """Where a network starts from, with the hash of a local file."""
    if weights == "hub":
        return {"weights": "hub"}
    if not Path(weights).is_file():
        raise BadInput(
            f"backbones and encoders: weights {weights!r} given; allowed: hub, or a .safetensors or .pth file"
        )
    return {"weights": weights, "weights_digest": hashed(Path(weights))}


def autoencoder_source(name: str) -> dict[str, Any]:
    """The autoencoder by name with the sha256 of its weights; raises BadInput where the weights are not."""
    return {"autoencoder": name, "weights": hashed(autoencoder_file(name))}


def autoencoder_file(name: str) -> Path:
    """The weights of an autoencoder: augury, taesd or a diffusers folder."""
    if name == "augury":
        file = Path(__file__).parent.parent / "generators" / "augury-ae" / "diffusion_pytorch_model.safetensors"
    elif name == "taesd":
        root = os.environ.get("AUGURY_WEIGHTS")
        file = Path(root or "") / "taesd" / "taesd_diffusers_bf16.safetensors"
        if not root:
            raise BadInput("autoencoder: 'taesd' needs $AUGURY_WEIGHTS/taesd/taesd_diffusers_bf16.safetensors")
    else:
        file = Path(name) / "diffusion_pytorch_model.safetensors"
    if not file.is_file():
        raise BadInput(
            f"autoencoder: {name!r} given, but {file} does not exist; allowed: augury, taesd, or a diffusers folder"
        )
    if name not in ("augury", "taesd"):
        _check_autoencoder(Path(name))
    return file


def _check_autoencoder(folder: Path) -> None:
    """Raises BadInput for another class than the two, other than four latent channels, another factor than 8."""
    config = _object(folder / "config.json", f"autoencoder: {folder}")
    kind, channels = config.get("_class_name"), config.get("latent_channels", 4)
    tiny = kind == "AutoencoderTiny"
    blocks = config.get("encoder_block_out_channels", [64] * 4) if tiny else config.get("block_out_channels", [64])
    if kind not in ("AutoencoderKL", "AutoencoderTiny") or channels != 4 or len(blocks) != 4:
        raise BadInput(f"autoencoder: {folder} holds {kind} with {channels} latent channels and factor "
                       f"{2 ** (len(blocks) - 1)}; allowed: AutoencoderKL or AutoencoderTiny with 4 and 8")  # fmt: skip


def _object(file: Path, what: str) -> dict[str, Any]:
    """What a JSON file holds. Raises BadInput where it is not there, or is no JSON object."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise BadInput(f"{what} has no {file.name} that can be read as a JSON object")
    return found


def local_folder(reference: str) -> Path:
    """A folder, or the local copy of a hub id; nothing is downloaded. Raises BadInput where there is none."""
    if Path(reference).is_dir():
        return Path(reference)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(reference, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        if found := getattr(error, "snapshot_path", None):  # incomplete: a library fetched the parts that it needs
            return Path(found)
        raise BadInput(
            f"model {reference!r} is neither a folder nor in the local hub cache; `hf download {reference}` "
            "fetches it from the hub"
        ) from None


def image_text_source(reference: str | None) -> dict[str, Any]:
    """A CLIP folder or hub id with its fingerprint; nothing where none is given."""
    if reference is None:
        return {}
    folder = local_folder(reference)
    kind = _object(folder / "config.json", f"fidelity.image_text: {reference!r}").get("model_type")
    if kind != "clip":
        raise BadInput(f"fidelity.image_text: {reference!r} holds {kind}; allowed: a CLIP model")
    return {"image_text": reference, "image_text_digest": folder_digest(folder, reference)}


def model_folder(reference: str) -> Path:
    """A diffusers folder, or the local copy of a hub id. Raises BadInput where there is none."""
    folder = local_folder(reference)
    parts = _object(folder / "model_index.json", f"model {reference!r}")
    if parts.get("_class_name") != "StableDiffusionPipeline":
        raise BadInput(f"model {reference!r} holds {parts.get('_class_name')}; allowed: StableDiffusionPipeline")
    autoencoder = (parts.get("vae") or [None, None])[1]
    if autoencoder not in ("AutoencoderKL", "AutoencoderTiny"):
        raise BadInput(f"model {reference!r}: its vae is {autoencoder}; allowed: AutoencoderKL, AutoencoderTiny")
    for part in ("unet", "vae", "text_encoder"):
        weights = [file for file in (folder / part).glob("*.safetensors") if file.name.count(".") == 1]  # no variant
        if not (folder / part / "config.json").is_file() or not weights:
            raise BadInput(f"model {reference!r}: {part} needs config.json and its weights as NAME.safetensors, in the "
                           "main variant (not NAME.fp16.safetensors)")  # fmt: skip
    kinds = (("tokenizer.json",), ("vocab.json", "merges.txt"))
    if not any(all((folder / "tokenizer" / name).is_file() for name in kind) for kind in kinds):
        raise BadInput(f"model {reference!r}: tokenizer needs tokenizer.json, or vocab.json and merges.txt")
    side = _object(folder / "unet" / "config.json", f"model {reference!r}: unet").get("sample_size")
    if not isinstance(side, int):
        raise BadInput(f"model {reference!r}: its unet draws latents of side {side}; allowed: one whole number")
    noise = _object(folder / "scheduler" / "scheduler_config.json", f"model {reference!r}: scheduler")
    target, times = noise.get("prediction_type", "epsilon"), noise.get("num_train_timesteps", 1000)
    if target not in ("epsilon", "v_prediction") or times != 1000:
        raise BadInput(f"model {reference!r}: its unet predicts {target} at {times} times; allowed: epsilon or "
                       "v_prediction at 1000")  # fmt: skip
    return folder


@cache
def model_digest(reference: str) -> str:
    """A fingerprint of a model: the commit of a hub id, else the hash of its configs and weights."""
    return folder_digest(model_folder(reference), reference)


def folder_digest(folder: Path, reference: str) -> str:
    """A fingerprint of the folder that a reference stands for: the commit of a hub id, else its files' hash."""
    if folder != Path(reference):
        return folder.name
    files = sorted(file for kind in ("*.json", "*.safetensors", "*.txt") for file in folder.rglob(kind))
    return fingerprint(folder, files)
