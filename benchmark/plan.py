"""Study -> cells with their dependencies, in an order in which every cell follows what it reads."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from benchmark import datasets
from benchmark.cache import BadInput, Cell, Record
from benchmark.stages import VERSIONS
from benchmark.study import SYNTHETIC_ARMS, Block, Generator, Study

ORDER = ("split", "autoencoder", "train", "synthesize", "features", "classify", "fidelity", "audit")


@dataclass(frozen=True)
class Sight:
    """What a generator may see: exposure 'full' = the whole train pool, 'budget' = one budget of one seed."""

    exposure: str
    budget: float | None
    seed: int | None

    def config(self) -> Record:
        return {"exposure": self.exposure, "budget": self.budget, "seed": self.seed}


def plan(study: Study) -> list[Cell]:
    """All cells of a study, without duplicates, by stage. Raises BadInput for data or weights that are not there."""
    cells = {cell.digest: cell for cell in Planner(study).cells()}
    return sorted(cells.values(), key=lambda cell: ORDER.index(cell.stage))


class Planner:
    """Builds the cells of one study; every method gives the same cell for the same arguments."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.references = datasets.expand(study.datasets)
        self.identity = {reference: datasets.identity(reference) for reference in self.references}
        names = [facts["dataset"] for facts in self.identity.values()]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise BadInput(f"datasets: two sets are called {twice!r}; their cards need different names")
        self.autoencoder = autoencoder_source(study) if study.needs_generator else {}

    def cells(self) -> Iterator[Cell]:
        for reference in self.references:
            yield self.split(reference)
            for block in self.study.grid:
                yield from self.block(reference, block)
            yield from self.placebos(reference)

    def block(self, reference: str, block: Block) -> Iterator[Cell]:
        seeds, backbones = range(self.study.seeds), self.study.backbones
        for seed in seeds:
            for budget in block.budgets:
                for backbone in backbones:
                    lr = backbone.lr
                    if "real" in block.arms:
                        yield self.classify(reference, backbone.name, lr, "real", budget, 0, 0.0, seed, None, {})
                    for generator, exposure in self.generators(reference, block):
                        sight = self.sight(exposure, budget, seed, generator)
                        drawn = self.synthetic(reference, generator, sight, seed)
                        yield from self.upstream(drawn)
                        about = {"generator": generator, "exposure": exposure}
                        for arm in (arm for arm in SYNTHETIC_ARMS if arm in block.arms):
                            for ratio in [1] if arm == "mixed" else block.ratios:
                                share = 1.0 if arm == "synthetic" else self.study.share
                                yield self.classify(
                                    reference,
                                    backbone.name,
                                    lr,
                                    arm,
                                    budget,
                                    ratio,
                                    share,
                                    seed,
                                    drawn,
                                    about,
                                )
                        yield from self.judged(reference, generator, drawn, about, seed, budget)

    def generators(self, reference: str, block: Block) -> Iterator[tuple[str, str]]:
        if not any(arm in SYNTHETIC_ARMS for arm in block.arms):
            return
        name = self.identity[reference]["dataset"]
        for key in block.generators or list(self.study.generators):
            trained = self.study.generators[key].train_on
            if isinstance(trained, str) or reference in trained or name in trained:
                yield from ((key, exposure) for exposure in block.exposure)

    def placebos(self, reference: str) -> Iterator[Cell]:
        if not any("augmented" in block.arms for block in self.study.grid):
            return
        for placebo in self.study.placebos:
            for seed in range(self.study.seeds):
                for budget in self.study.lowest:
                    about = self.identity[reference] | {"generator": placebo, "budget": budget, "seed": seed}
                    drawn = Cell(
                        "synthesize", VERSIONS["synthesize"],
                        {"baseline": placebo, "budget": budget, "seed": seed, "ratio": 1.0},
                        {"split": self.split(reference)}, 1, about,
                    )  # fmt: skip
                    yield drawn
                    for backbone in self.study.backbones:
                        yield self.classify(
                            reference, backbone.name, backbone.lr, "augmented", budget, 1, self.study.share, seed,
                            drawn, {"generator": placebo},
                        )  # fmt: skip

    def split(self, reference: str) -> Cell:
        study = self.study
        config = {
            "reference": reference,
            "digest": self.digests[reference],
            "size": study.size,
            "phantom_images": study.phantom_images if datasets.locate(reference) is None else 0,
            "audit_pool": study.audit_pool,
            "waived": self.identity[reference]["dataset"] in study.waive or reference in study.waive,
        }
        return Cell("split", VERSIONS["split"], config, {}, 1, self.identity[reference])

    @cached_property
    def digests(self) -> dict[str, str]:
        return {ref: datasets.digest(ref, self.study.phantom_images, self.study.size) for ref in self.references}

    def sight(self, exposure: str, budget: float, seed: int, generator: str) -> Sight:
        if exposure == "full":
            return Sight("full", None, None)
        return Sight("budget", budget, seed)

    def seen(self, reference: str, generator: Generator) -> dict[str, Cell]:
        """The split cells that a generator learns from, by role."""
        wanted = [reference] if generator.train_on == "each" else self.references
        if isinstance(generator.train_on, list):
            known = {
                **{ref: ref for ref in self.references},
                **{v["dataset"]: k for k, v in self.identity.items()},
            }
            for name in generator.train_on:
                if name not in known:
                    raise BadInput(f"train_on: {name!r} is not one of the study's sets: {', '.join(known)}")
            wanted = [known[name] for name in generator.train_on]
        return {f"split {self.identity[ref]['dataset']}": self.split(ref) for ref in wanted}

    def tuned_autoencoder(self, inputs: dict[str, Cell], sight: Sight, about: Record) -> Cell:
        config = self.autoencoder | sight.config()
        config |= {"size": self.study.size, "images_seen": self.study.decoder_images_seen}
        about = {key: value for key, value in about.items() if key not in ("seed", "dataset")}
        return Cell("autoencoder", VERSIONS["autoencoder"], config, inputs, self.study.threads.generator, about)

    def trained(self, reference: str, key: str, sight: Sight, seed: int) -> Cell:
        generator = self.study.generators[key]
        inputs = self.seen(reference, generator)
        about = {"generator": key, "exposure": sight.exposure, "budget": sight.budget}
        if generator.train_on == "each":
            about |= self.identity[reference]
        autoencoder = self.tuned_autoencoder(inputs, sight, about)
        count = self.study.seeds if generator.seeds == "all" else generator.seeds
        config = generator.model_dump(exclude={"train_on", "seeds"}) | sight.config()
        config |= {"size": self.study.size, "seed_of_model": seed % count}
        return Cell(
            "train", VERSIONS["train"], config, {"autoencoder": autoencoder} | inputs,
            self.study.threads.generator, about | {"seed": seed % count},
        )  # fmt: skip

    def synthetic(self, reference: str, key: str, sight: Sight, seed: int) -> Cell:
        blocks = [block for block in self.study.grid if key in (block.generators or self.study.generators)]
        blocks = [block for block in blocks if sight.exposure in block.exposure]
        largest = max(max(block.budgets) for block in blocks)
        ratio = max(max(block.ratios) for block in blocks)
        config = self.study.sampling.model_dump() | sight.config()
        config |= {
            "budget": sight.budget or largest,
            "seed": seed,
            "ratio": float(ratio),
            "size": self.study.size,
        }
        about = self.identity[reference] | {
            "generator": key, "exposure": sight.exposure, "budget": sight.budget, "seed": seed,
        }  # fmt: skip
        inputs = {"split": self.split(reference), "train": self.trained(reference, key, sight, seed)}
        return Cell("synthesize", VERSIONS["synthesize"], config, inputs, self.study.threads.generator, about)

    def upstream(self, drawn: Cell) -> Iterator[Cell]:
        trained = drawn.inputs["train"]
        yield from (*trained.inputs.values(), trained, drawn)

    def classify(
        self, reference: str, backbone: str, lr: float | None, arm: str, budget: float, ratio: float, share: float,
        seed: int, drawn: Cell | None, about: Record,
    ) -> Cell:  # fmt: skip
        config = self.study.classifier.model_dump()
        config |= {"arm": arm, "budget": budget, "ratio": float(ratio), "share": share, "seed": seed}
        config |= {"backbone": backbone, "learning_rate": lr, "size": self.study.size}
        inputs = {"split": self.split(reference)} | ({"synthesize": drawn} if drawn else {})
        about = self.identity[reference] | {
            "arm": arm, "budget": budget, "ratio": float(ratio), "share": share, "backbone": backbone, "seed": seed,
        } | about  # fmt: skip
        return Cell("classify", VERSIONS["classify"], config, inputs, self.study.threads.classifier, about)

    def judged(self, reference: str, key: str, drawn: Cell, about: Record, seed: int, budget: float) -> Iterator[Cell]:
        """Features, fidelity and audit of a synthetic set."""
        split, autoencoder = self.split(reference), drawn.inputs["train"].inputs["autoencoder"]
        about = self.identity[reference] | about | {"seed": seed}
        if about["exposure"] == "budget":
            about |= {"budget": budget}
        config = {"encoder": self.study.fidelity.encoder, "images": self.study.fidelity.images}
        known = self.identity[reference]
        threads = self.study.threads.generator
        real = Cell("features", VERSIONS["features"], config | {"of": "real"}, {"split": split}, threads, known)
        trip_inputs = {"split": split, "autoencoder": autoencoder}
        full = about["exposure"] == "full"
        trip_about = {key: value for key, value in about.items() if key != "seed" or not full}
        trip = Cell("features", VERSIONS["features"], config | {"of": "round_trip"}, trip_inputs, threads, trip_about)
        ours = Cell(
            "features",
            VERSIONS["features"],
            config | {"of": "synthetic"},
            {"synthesize": drawn},
            threads,
            about,
        )
        yield from (real, trip, ours)
        given = {"split": split, "real": real}
        for judged, facts, more in (
            (real, known, {}),
            (trip, trip_about, {"autoencoder": autoencoder}),
            (ours, about, {"synthesize": drawn}),
        ):
            yield Cell("fidelity", VERSIONS["fidelity"], config, given | {"judged": judged} | more, 1, facts)
        if self.study.audit_pool:
            inputs = {"split": split, "synthesize": drawn, "autoencoder": autoencoder}
            config = self.study.audit.model_dump() | {
                "exposure": about["exposure"],
                "seed": seed,
                "budget": budget,
            }
            if about["exposure"] == "full":
                config |= {"seed": None, "budget": None}
            yield Cell("audit", VERSIONS["audit"], config, inputs, 1, about)


def autoencoder_source(study: Study) -> Record:
    """The autoencoder by name with the sha256 of its weights; raises BadInput where the weights are not."""
    import os

    from benchmark.cache import sha256

    shipped = Path(__file__).parent.parent / "generators" / "augury-ae"
    if study.autoencoder == "augury":
        file = shipped / "diffusion_pytorch_model.safetensors"
    elif study.autoencoder == "taesd":
        root = os.environ.get("AUGURY_WEIGHTS")
        file = Path(root or "") / "taesd" / "taesd_diffusers_bf16.safetensors"
        if not root:
            raise BadInput("autoencoder: 'taesd' needs $AUGURY_WEIGHTS/taesd/taesd_diffusers_bf16.safetensors")
    else:
        file = Path(study.autoencoder) / "diffusion_pytorch_model.safetensors"
    if not file.is_file():
        raise BadInput(f"autoencoder: {study.autoencoder!r} given, but {file} does not exist; allowed: augury, taesd, "
                       "or a diffusers folder")  # fmt: skip
    return {"autoencoder": study.autoencoder, "weights": sha256(file)}


def describe(cells: list[Cell]) -> dict[str, int]:
    """How many cells of each stage."""
    return {stage: count for stage in ORDER if (count := sum(cell.stage == stage for cell in cells))}


def card_facts(card: datasets.Card) -> Record:
    """A card as JSON."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(card).items()}
