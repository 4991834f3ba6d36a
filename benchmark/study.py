"""The study file: pydantic models, frozen, every field with its unit or range; unknown keys are errors."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from benchmark.cache import BadInput
from benchmark.recipes import Count, Frozen, Generator, Sampling, Share
from generators.baselines import BASELINES

PRESETS = Path(__file__).parent / "presets"
Arm = Literal["real", "real_double", "real_oversampled", "real_strong", "synthetic", "mixed", "augmented", "pretrained"]
Budget = Annotated[float, Field(gt=0, le=1)]
REAL_ARMS = ("real", "real_double", "real_oversampled", "real_strong")
SYNTHETIC_ARMS = ("synthetic", "mixed", "augmented", "pretrained")


class Classifier(Frozen):
    """The same for every arm and budget: steps in optimiser steps, batch in images, shift in pixels."""

    steps: Count = 100
    batch: Annotated[int, Field(ge=2)] = 64
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup: Annotated[int, Field(ge=0)] = 10
    shift: Annotated[int, Field(ge=0, le=16)] = 2
    flip: bool = True
    precision: Literal["bf16", "fp32"] = "bf16"
    select: Literal["best", "last"] = "best"
    evaluations: Count = 3  # looks at the validation set when select is best


class Backbone(Frozen):
    """A timm architecture; lr (per step) and optimiser replace the defaults of classifiers/backbones.py."""

    name: str  # with a tag, as in resnet18.a1_in1k, where weights is hub
    lr: Annotated[float, Field(gt=0, lt=1)] | None = None
    optimiser: Literal["adamw", "sgd"] | None = None
    weights: str | None = None  # None = from scratch; hub = timm's own by tag; else a .safetensors or .pth file
    options: dict[str, bool | int | float | str] = {}  # passed to timm, such as stem_width or patch_size
    seeds: Count | None = None  # the first so many of the study's; None = all


class Block(Frozen):
    """A block of the grid: every combination of its lists."""

    arms: list[Arm] = ["real", "synthetic", "mixed", "augmented"]
    budgets: Annotated[list[Budget], Field(min_length=1)] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0]
    ratios: Annotated[list[Annotated[float, Field(gt=0, le=100)]], Field(min_length=1)] = [1]
    exposure: list[Literal["full", "budget", "transfer"]] = ["full"]
    generators: list[str] | None = None  # None = every generator of the study
    backbones: list[str] | None = None  # None = every backbone of the study
    datasets: list[str] | None = None  # None = every data set of the study; generators still learn from all

    @field_validator("exposure", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


def _a_baseline(name: str) -> str:
    if name not in BASELINES:
        raise ValueError(f"allowed: {', '.join(BASELINES)}")
    return name


class Claim(Frozen):
    """A contrast that is corrected together with the others named and may be claimed."""

    arm: Arm
    against: Literal["real", "real_double", "real_oversampled", "real_strong"] = "real"
    budget: Budget


class Threads(Frozen):
    """CPU threads a cell; they change rounding, so they belong to the study and not to the machine."""

    generator: Count = 2
    classifier: Count = 1


class Encoder(Frozen):
    """Any timm backbone as a feature space; weights: `hub`, or a .safetensors or .pth file; side in pixels."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    weights: str
    side: Annotated[int, Field(ge=16, le=1024)] = 224


Space = Annotated[
    Annotated[Literal["efficientnet_lite0", "inception", "real_classifier"], Tag("name")]
    | Annotated[Encoder, Tag("network")],
    Discriminator(lambda given: "name" if isinstance(given, str) else "network"),
]


class Fidelity(Frozen):
    """images a set that enter fidelity measures, at most; encoders: the feature spaces (inception is FID's of 2015,
    real_classifier the study's first backbone trained on the set's own real images); image_text: a folder or hub id
    of a CLIP model, for text alignment."""

    encoders: Annotated[list[Space], Field(min_length=1)] = ["efficientnet_lite0"]
    images: Annotated[int, Field(ge=20)] = 500
    image_text: str | None = None

    @field_validator("encoders")
    @classmethod
    def _told_apart(cls, given: list[Any]) -> list[Any]:
        names = [each if isinstance(each, str) else each.name for each in given]
        if len(set(names)) < len(names):
            raise ValueError("names must differ, for the measures carry them")
        return given


class Audit(Frozen):
    """images = synthetic images a set, at most; stride in tiles, of the patches cut from the bank; reference: train
    every generator once more, without the audit's patients, to calibrate membership (exposure full)."""

    images: Annotated[int, Field(ge=10)] = 400
    stride: Annotated[float, Field(gt=0, le=1)] = 0.25
    reference: bool = False


class Study(Frozen):
    """A whole study. Only `name` and `datasets` have no default."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    datasets: Annotated[list[str], Field(min_length=1)]  # names or paths; a|b = the first that is at hand
    size: Annotated[int, Field(ge=16, le=1024)] = 32  # pixels a side
    image_memory_mb: Annotated[int, Field(ge=0)] = 4096  # train images of a set beyond this are memory-mapped
    phantom_images: Annotated[int, Field(ge=50)] = 2000  # training images of each phantom set
    autoencoder: str = "augury"  # augury | taesd | a diffusers folder
    decoder_images_seen: Annotated[int, Field(ge=0)] = 14_720  # images its decoder is tuned on; 0 = as it is
    decoder_precision: Literal["fp32", "bf16"] = "bf16"  # of that tuning and of encoding what is trained on
    generators: dict[str, Generator] = {"generalist": Generator()}
    sampling: Sampling = Sampling()
    grid: list[Block] = []
    placebos: list[Annotated[str, AfterValidator(_a_baseline)]] = ["class_mean", "copies", "mixup"]
    placebo_budgets: list[Budget] | None = None  # None = the lowest of the grid
    share: Annotated[list[Share], Field(min_length=1)] = [0.5]  # of a batch that is synthetic, in arm augmented
    budget_validation: bool = False  # repeat the lowest two budgets with validation cut to the budget
    external: dict[str, str] = {}  # data set -> another site's images of the same classes, to be tested on as well
    corruptions: list[Literal["blur", "contrast", "jpeg", "noise"]] = []  # of the test images, as further tests
    attack: bool = False  # keep their probabilities for the coin's patients and attack them too
    claims: list[Claim] | None = None  # None = augmented (or the main arm that is run) against real, and real_double
    # where run, at the lowest budget
    margin: Annotated[float, Field(gt=0, lt=0.5)] = 0.01  # AUROC, of equivalence
    backbones: Annotated[list[Backbone], Field(min_length=1)] = [Backbone(name="resnet18")]
    classifier: Classifier = Classifier()
    seeds: Annotated[int, Field(ge=1, le=1000)] = 3
    audit_pool: Annotated[float, Field(ge=0, le=0.9)] = 0.3  # of the train patients; half of it is held out
    audit: Audit = Audit()
    fidelity: Fidelity = Fidelity()
    threads: Threads = Threads()
    unseen_phrasing: bool = False  # also draw 200 images a set from a wording that no generator was trained on
    backend: Literal["pool", "local"] = "pool"
    waive: list[str] = []  # data sets whose leaks are accepted; printed in the report

    @field_validator("share", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]

    @field_validator("backbones", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        items = value if isinstance(value, list) else [value]
        return [{"name": item} if isinstance(item, str) else item for item in items]

    @model_validator(mode="before")
    @classmethod
    def _one_block(cls, data: Any) -> Any:
        """arms, budgets, ratios and exposure at top level are each block's defaults; without a grid the only block."""
        if not isinstance(data, dict):
            raise ValueError("a study is a mapping of keys to values")
        keys = [key for key in ("arms", "budgets", "ratios", "exposure") if key in data]
        top = {key: data[key] for key in keys}
        rest = {key: value for key, value in data.items() if key not in keys}
        blocks = rest.get("grid") or [{}]
        for key in keys:
            if all(isinstance(block, dict) and key in block for block in blocks):
                raise ValueError(f"{key} given at the top, where it has no effect; every block of the grid has its own")
        return rest | {"grid": [top | block if isinstance(block, dict) else block for block in blocks]}

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        if self.name == "cells":
            raise ValueError("name: 'cells' is the folder of the cells; take another name")
        names = [backbone.name for backbone in self.backbones]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(
                f"backbones: {twice!r} is named twice; settings of one backbone are compared in two studies"
            )
        for block in self.grid:
            for name in block.generators or []:
                if name not in self.generators:
                    raise ValueError(f"generator {name!r} is not one of {', '.join(self.generators) or 'none'}")
            for name in block.backbones or []:
                if name not in names:
                    raise ValueError(f"backbone {name!r} is not one of {', '.join(names)}")
        filters = [*self.sampling.filter, *self.sampling.privacy]
        if any(each.dp_epsilon for each in self.generators.values()) and any(filters):
            raise ValueError("sampling: a filter looks at private images, which a generator with dp_epsilon must not")
        for each in self.claims or []:
            for arm in (each.arm, each.against):
                if not any(arm in block.arms and each.budget in block.budgets for block in self.grid):
                    raise ValueError(f"claims: {arm} at budget {each.budget:g} given, which the grid does not run")
        if absent := set(self.placebo_budgets or ()) - set(self.budgets):
            raise ValueError(
                f"placebo_budgets: {min(absent):g} given; allowed: {', '.join(map('{:g}'.format, self.budgets))}"
            )
        for steps in self.sampling.steps:
            first = first_time(self.sampling.scheduler, steps)
            if first > 999 or (steps >= 10 and first < 900):
                name = self.sampling.scheduler
                raise ValueError(f"sampling.steps: {steps} given, with which {name} does not begin at noise; allowed "
                                 "with it: such as 10, 15, 20, 25, 50")  # fmt: skip
        for name in self.generators:
            if name in BASELINES or name in ("real", "round_trip"):
                raise ValueError(f"generator name {name!r} is taken by a control")
        if self.needs_generator and self.size % 8 and any(not each.images for each in self.generators.values()):
            raise ValueError(f"size: {self.size} given; arms with a generator need a multiple of 8")
        return self

    @property
    def needs_generator(self) -> bool:
        """Whether any arm takes synthetic images of a generator."""
        return bool(self.generators) and any(arm in SYNTHETIC_ARMS for block in self.grid for arm in block.arms)

    @property
    def budgets(self) -> list[float]:
        """Every budget of the grid, ascending."""
        return sorted({budget for block in self.grid for budget in block.budgets})

    @property
    def lowest(self) -> list[float]:
        """The budgets at which placebos are run."""
        return self.placebo_budgets or self.budgets[:1]


def first_time(scheduler: str, steps: int) -> int:
    """The time of 0 to 999 from which a scheduler steps, of those that take diffusers' `leading` times; else 999."""
    if scheduler in ("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"):
        return 999
    parts = steps + (scheduler in ("UniPCMultistepScheduler", "DEISMultistepScheduler"))
    return 1000 // parts * (parts - 1) + 1


def presets() -> dict[str, Path]:
    """The studies that ship, by name."""
    return {file.stem: file for file in sorted(PRESETS.glob("*.yaml"))}


def load_study(source: str, overrides: list[str] | None = None, name: str | None = None) -> Study:
    """A preset's name or a YAML file, with `key=value` overrides (dots for nested keys; values are YAML).

    Relative data paths in a file are relative to it. Raises BadInput in one line.
    """
    file = presets().get(source, Path(source))
    if not file.is_file():
        raise BadInput(f"study {source!r} is neither a file nor a preset ({', '.join(presets())})")
    try:
        data = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{source} is not YAML: {' '.join(str(error).split())}") from None
    for override in overrides or []:
        _override(data, override)
    if name is not None and isinstance(data, dict):
        data["name"] = name
    try:
        study = Study.model_validate(data)
    except ValidationError as error:
        raise BadInput(f"study {source}: {one_line(error)}") from None
    generators = {key: generator.at(file.parent) for key, generator in study.generators.items()}
    datasets = [_chosen("|".join(_relative(each, file) for each in ref.split("|"))) for ref in study.datasets]
    external = {key: _relative(ref, file) for key, ref in study.external.items()}
    backbones = [each.model_copy(update={"weights": _beside(each.weights, file)}) for each in study.backbones]
    spaces = [each if isinstance(each, str) else each.model_copy(update={"weights": _beside(each.weights, file)})
              for each in study.fidelity.encoders]  # fmt: skip
    fidelity = {"encoders": spaces, "image_text": _beside(study.fidelity.image_text, file)}
    found: dict[str, Any] = {"datasets": datasets, "generators": generators, "external": external}
    found |= {"backbones": backbones, "fidelity": study.fidelity.model_copy(update=fidelity)}
    return study.model_copy(update=found | {"autoencoder": _beside(study.autoencoder, file)})


def one_line(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, where, and what was given."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    given = first["input"]
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    if isinstance(given, dict) or first["type"] == "missing":
        return f"{where}: {first['msg']}"
    return f"{where}: {str(given)[:80]!r} given; {first['msg'][0].lower() + first['msg'][1:]}"


def _override(data: Any, override: str) -> None:
    key, sep, value = override.partition("=")
    if not sep or not key:
        raise BadInput(f"--set {override!r}: expected key=value, as in seeds=5")
    *path, last = key.split(".")
    for part in path:
        if not isinstance(data, dict):
            break
        data = data.setdefault(part, {})
    if not isinstance(data, dict):
        raise BadInput(f"--set {override!r}: {key.rpartition('.')[0]} is not a mapping")
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise BadInput(f"--set {override!r}: the value is not YAML") from None


def _chosen(reference: str) -> str:
    """The first of `a|b` that is at hand, said aloud where it is not the first."""
    if "|" not in reference:
        return reference
    from benchmark.datasets import at_hand

    name, told = at_hand(reference)
    if told:
        print(f"augury: {told}", file=sys.stderr)
    return name


def _beside(place: str | None, file: Path) -> str | None:
    """A path that lies beside the study file, made whole; names and other paths stay as they are."""
    if place in (None, "augury", "taesd", "hub"):
        return place
    return str((file.parent / place).resolve()) if (file.parent / place).exists() else place


def _relative(reference: str, file: Path) -> str:
    """A data path is relative to the study file, else to where the command is given; names stay as they are."""
    if not (reference.endswith((".csv", ".npz")) or "/" in reference or os.sep in reference):
        return reference
    beside = file.parent / reference
    return str((beside if beside.exists() or not Path(reference).exists() else Path(reference)).resolve())
