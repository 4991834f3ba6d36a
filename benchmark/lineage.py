"""Where each cell comes from: data set -> autoencoder -> generator -> synthetic set -> classifier, by exposure."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark import datasets
from benchmark.cache import BadInput, Cell, Record
from benchmark.recipes import By, Generator, autoencoder_source, model_digest, weights_source
from benchmark.stages import VERSIONS
from benchmark.study import SYNTHETIC_ARMS, Backbone, Block, Study

# Made from the same images, so must not meet in `transfer` (the organ sets are views of the same CT volumes).
SHARED_SOURCES = (
    {"busi", "breastmnist"}, {"ham10000", "dermamnist"}, {"organamnist", "organcmnist", "organsmnist"},
    {"mednist", "chestmnist"},
)  # fmt: skip


@dataclass(frozen=True)
class Sight:
    """What a generator may see of the target set: all that is kept (full), one budget of one seed (budget; transfer:
    after it saw other sets), or nothing that we know (external)."""

    exposure: str
    budget: float | None = None
    seed: int | None = None

    def config(self) -> Record:
        return {"exposure": self.exposure, "budget": self.budget, "seed": self.seed}


class Lineage:
    """Makes the cells of one study; every method gives the same cell for the same arguments."""

    def __init__(self, study: Study, dry: bool = False) -> None:
        """dry: weights that are not at hand are noted in `absent` instead of raising BadInput; for a plan alone."""
        self.study, self.dry = study, dry
        self.absent: dict[str, None] = {}
        self.references = datasets.expand(study.datasets)
        self.identity = {reference: datasets.identity(reference) for reference in self.references}
        self.names = {reference: facts["dataset"] for reference, facts in self.identity.items()}
        names = list(self.names.values())
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise BadInput(f"datasets: two sets are called {twice!r}; their cards need different names")
        chosen = [name for block in study.grid for name in block.datasets or []]
        for field, given in (("external", study.external), ("waive", study.waive), ("grid.datasets", chosen)):
            for name in given:
                if name not in names and name not in self.references:
                    raise BadInput(f"{field}: {name!r} given; allowed: {', '.join(names)}")

    @cached_property
    def digests(self) -> dict[str, str]:
        return {ref: datasets.digest(ref, self.study.phantom_images, self.study.size) for ref in self.references}

    def weights(self, find: Callable[[Any], Any], name: Any) -> Any:
        try:
            return find(name)
        except BadInput as error:
            if not self.dry:
                raise
            self.absent[str(error)] = None
            return None

    def split(self, reference: str) -> Cell:
        study = self.study
        config = {
            "reference": reference,
            "digest": self.digests[reference],
            "size": study.size,
            "phantom_images": study.phantom_images if datasets.locate(reference) is None else 0,
            "audit_pool": study.audit_pool,
            "image_memory_mb": study.image_memory_mb,
            "waived": self.names[reference] in study.waive or reference in study.waive,
        }
        return Cell("split", VERSIONS["split"], config, {}, 1, self.identity[reference])

    def inside(self, block: Block, reference: str) -> bool:
        """Whether a block of the grid is about this set."""
        return block.datasets is None or bool({reference, self.names[reference]} & set(block.datasets))

    def sight(self, key: str, exposure: str, budget: float, seed: int) -> Sight:
        if not self.study.generators[key].trained:
            return Sight("external")
        return Sight("full") if exposure == "full" else Sight(exposure, budget, seed)

    def group(self, reference: str, generator: Generator) -> list[str]:
        """The sets that the generator of this set learns from."""
        train_on = generator.train_on
        if train_on == "each":
            return [reference]
        if isinstance(train_on, By):
            own = self.identity[reference][train_on.by]
            return [ref for ref in self.references if self.identity[ref][train_on.by] == own]
        if isinstance(train_on, list):
            known = {**{ref: ref for ref in self.references}, **{name: ref for ref, name in self.names.items()}}
            for name in train_on:
                if name not in known:
                    raise BadInput(f"train_on: {name!r} is not one of the study's sets: {', '.join(known)}")
            return [known[name] for name in train_on]
        return self.references

    def feeds(self, reference: str, key: str) -> bool:
        """Whether a generator draws images of this set."""
        generator = self.study.generators[key]
        if generator.images is not None:
            return foreign_folder(generator.images, self.names[reference], len(self.references) == 1) is not None
        return reference in self.group(reference, generator)

    def splits(self, references: list[str]) -> dict[str, Cell]:
        return {f"split {self.names[ref]}": self.split(ref) for ref in references}

    def others(self, reference: str, key: str) -> list[str]:
        """The sets that a generator saw before it met this one under `transfer`."""
        own = self.names[reference]
        kin = {own}.union(*(names for names in SHARED_SOURCES if own in names))
        found = [r for r in self.group(reference, self.study.generators[key]) if self.names[r] not in kin]
        if not found:
            raise BadInput(
                f"exposure transfer: generator {key!r} has no other data set to learn from before {own}; it needs "
                "train_on: all or a list, and a second set that shares no source with the first"
            )
        return found

    def refuse_kin(self, key: str, group: list[str]) -> None:
        """Raise BadInput where a generator would see images of one set that another set is tested on."""
        strict = {self.names[ref] for ref in group if not {ref, self.names[ref]} & {*self.study.waive}}
        for kin in SHARED_SOURCES:
            both = sorted({self.names[ref] for ref in group} & kin)
            if len(both) > 1 and strict & kin:
                raise BadInput(
                    f"generator {key!r} would learn from {' and '.join(both)}, made from the same images: what it sees "
                    "of one may be a test image of the other; allowed: train_on: each, a list with one of them, or "
                    f"waive: [{', '.join(both)}]"
                )

    def trained(self, reference: str, key: str, sight: Sight, seed: int) -> Cell:
        """The cell that holds the generator's diffusers folder."""
        generator = self.study.generators[key]
        seed = seed % (self.study.seeds if generator.seeds == "all" else generator.seeds)
        group = self.group(reference, generator)
        about: Record = {"generator": key, "exposure": sight.exposure, "budget": sight.budget, "seed": seed}
        if len(group) == 1 or sight.exposure == "transfer":
            about |= self.identity[reference]
        if sight.exposure == "external":
            config = {
                "source": generator.source,
                "digest": self.weights(model_digest, generator.source or ""),
                "images_seen": 0,
            }
            return Cell("train", VERSIONS["train"], config, {"autoencoder": self.autoencoder(generator)}, 1, about)
        if sight.exposure != "transfer":
            self.refuse_kin(key, group)
            return self._train(generator, sight, self.splits(group), None, generator.images_seen, about)
        first = self._train(
            generator, Sight("full"), self.splits(self.others(reference, key)), None, generator.images_seen,
            {"generator": key, "exposure": "transfer", "seed": seed},
        )  # fmt: skip
        return self._train(generator, sight, self.splits([reference]), first, generator.transfer_images_seen, about)

    def outside(self, trained: Cell) -> Cell:
        """The same generator, trained on no patient of any audit pool: a reference for membership."""
        about = trained.about | {"generator": f"{trained.about['generator']} (reference)"}
        return Cell("train", trained.version, trained.config | {"outside_pool": True}, trained.inputs,
                    trained.threads, about)  # fmt: skip

    def _train(
        self, generator: Generator, sight: Sight, inputs: dict[str, Cell], start: Cell | None,
        images_seen: int | None, about: Record,
    ) -> Cell:  # fmt: skip
        before = start.inputs["autoencoder"] if start else None
        autoencoder = self.autoencoder(generator, inputs, sight, before, about)
        config = generator.training() | sight.config()
        config |= {"size": self.study.size, "seed_of_model": about["seed"], "images_seen": images_seen}
        if start:
            config["epochs"] = None
        elif generator.start:
            config |= {"source": generator.start, "digest": self.weights(model_digest, generator.start)}
        inputs = {"autoencoder": autoencoder} | inputs | ({"start": start} if start else {})
        return Cell("train", VERSIONS["train"], config, inputs, self.study.threads.generator, about)

    def autoencoder(
        self, generator: Generator, inputs: dict[str, Cell] | None = None, sight: Sight | None = None,
        before: Cell | None = None, about: Record | None = None,
    ) -> Cell:  # fmt: skip
        """A started model's own, as it is; else the study's, its decoder tuned on what the generator may see."""
        threads = self.study.threads.generator
        about_seed = (about or {}).get("seed", 0)
        about = {key: value for key, value in (about or {}).items() if key not in ("seed", "dataset")}
        if generator.source:
            config: Record = {"source": generator.source, "digest": self.weights(model_digest, generator.source)}
            config |= {"resolution": generator.resolution}
            return Cell("autoencoder", VERSIONS["autoencoder"], config, {}, threads, about)
        assert inputs is not None and sight is not None
        config = autoencoder_source(self.study.autoencoder) | sight.config() | {"resolution": generator.resolution}
        own = generator.decoder_images_seen
        seen = 0 if generator.dp_epsilon else self.study.decoder_images_seen if own is None else own
        config |= {"size": self.study.size, "images_seen": seen // 4 if before else seen, "balance": generator.balance}
        config |= {"precision": self.study.decoder_precision}
        config |= {"private": True} if generator.dp_epsilon else {}
        if sight.exposure == "full" and generator.data_share < 1:
            config |= {"data_share": generator.data_share, "seed_of_model": about_seed}
        given = inputs | ({"start": before} if before else {})
        return Cell("autoencoder", VERSIONS["autoencoder"], config, given, threads, about)

    def drawing(self, reference: str) -> list[Block]:
        """The blocks of the grid that ask for synthetic images of this set."""
        blocks = [block for block in self.study.grid if self.inside(block, reference)]
        return [block for block in blocks if any(arm in SYNTHETIC_ARMS for arm in block.arms)]

    def share(self, reference: str) -> float:
        """How large the largest synthetic set of this set is, as a share of its training images, 1 at most."""
        return min(1.0, max((max(b.budgets) * max(b.ratios) for b in self.drawing(reference)), default=1.0))

    def synthetic(self, reference: str, key: str, sight: Sight, seed: int, variant: str, how: Record) -> Cell:
        """A synthetic set, large enough for every budget and ratio of this generator and exposure.

        how: steps, guidance, filter, and perhaps privacy, phrasing (of the captions) and limit (images).
        """
        study, generator = self.study, self.study.generators[key]
        blocks = [block for block in self.drawing(reference) if block.generators is None or key in block.generators]
        blocks = [block for block in blocks if sight.exposure in ("external", *block.exposure)]
        used = _used(blocks, sight.budget)
        largest, ratio = max(budget for budget, _ in used), max(ratio for _, ratio in used)
        config = sight.config() | {"seed": seed, "budget": largest, "ratio": ratio, "size": study.size}
        if (largest, ratio) not in used or ratio % 1:  # not every row of the largest budget is drawn as often
            config["used"] = [list(pair) for pair in sorted(used)]
        about: Record = self.identity[reference] | sight.config() | {"generator": key, "seed": seed, "variant": variant}
        inputs = {"split": self.split(reference)}
        if generator.images is not None:
            place = foreign_folder(generator.images, self.names[reference], len(self.references) == 1)
            config |= {"images": str(place), "digest": datasets.fingerprint(Path(str(place)))}
            return Cell("synthesize", VERSIONS["synthesize"], config, inputs, 1, about)
        config |= study.sampling.model_dump(include={"batch", "scheduler", "redraws"}) | how
        config |= {"detail": generator.detail, "unconditional": generator.unconditional}
        if generator.dp_epsilon:
            config |= {"private": True}
        if study.sampling.phrasings > 1:
            config |= {"phrasings": study.sampling.phrasings}
        inputs["train"] = self.trained(reference, key, sight, seed)
        if how["filter"] is not None or "privacy" in how:  # what the filters look at is what the generator saw
            names = ("data_share", "seed_of_model") if generator.data_share < 1 and sight.budget is None else ()
            own = {name: inputs["train"].config[name] for name in names if name in inputs["train"].config}
            config |= own
            if how["filter"] is not None:
                share = own.get("data_share", 1.0)
                inputs["filter"] = self.real_classifier(reference, sight, own.get("seed_of_model", seed), share)
        return Cell("synthesize", VERSIONS["synthesize"], config, inputs, study.threads.generator, about)

    def baseline(self, reference: str, name: str, budget: float, seed: int) -> Cell:
        """The set of a placebo."""
        about: Record = self.identity[reference] | {"generator": name, "budget": budget, "seed": seed}
        config: Record = {"baseline": name, "budget": budget, "seed": seed, "ratio": 1.0}
        return Cell("synthesize", VERSIONS["synthesize"], config, {"split": self.split(reference)}, 1, about)

    def judge(self, reference: str) -> Cell:
        """The classifier that tells label consistency: where a filter is on, one that no filter looked through."""
        filtered = any(share is not None for share in self.study.sampling.filter)
        return self.real_classifier(reference, Sight("full"), self.study.seeds if filtered else 0)

    def real_classifier(self, reference: str, sight: Sight, seed: int, data_share: float = 1.0) -> Cell:
        """A classifier of the real images that the generator may see, kept with its weights; where they are a budget's,
        it is validated on as few."""
        backbone, share = self.study.backbones[0], sight.budget or data_share
        return self.classify(reference, backbone, "real", share, 0, 0.0, seed, keep=True, by_budget=bool(sight.budget))

    def classify(
        self, reference: str, backbone: Backbone, arm: str, budget: float, ratio: float, share: float, seed: int,
        drawn: Cell | None = None, about: Record | None = None, *, by_budget: bool = False, keep: bool = False,
    ) -> Cell:  # fmt: skip
        """by_budget: validation is cut to the budget and the last checkpoint is taken instead of the best."""
        study, about = self.study, about or {}
        config: Record = study.classifier.model_dump() | {"size": study.size, "seed": seed}
        config |= {"arm": arm, "budget": budget, "ratio": float(ratio), "share": share}
        config |= {"backbone": backbone.name, "learning_rate": backbone.lr, "options": backbone.options}
        inputs = {"split": self.split(reference)} | ({"synthesize": drawn} if drawn else {})
        if backbone.optimiser:
            config |= {"optimiser": backbone.optimiser}
        if backbone.weights:
            config |= weights_source(backbone.weights)
        if by_budget:
            config |= {"by_budget": True, "select": "last"}
            about = about | {"variant": ";".join(filter(None, (about.get("variant"), "validation=budget")))}
        if keep:
            config |= {"keep": True}
        else:
            config |= {"corruptions": list(study.corruptions)} | ({"attacked": True} if study.attack else {})
            inputs |= self.external(reference)
        keys = {"arm": arm, "budget": budget, "ratio": float(ratio), "share": share, "backbone": backbone.name}
        about = {**self.identity[reference], **keys, "seed": seed, **about}
        return Cell("classify", VERSIONS["classify"], config, inputs, study.threads.classifier, about)

    def external(self, reference: str) -> dict[str, Cell]:
        """Another site's test images of this set, where the study names one."""
        study = self.study
        place = study.external.get(self.names[reference], study.external.get(reference))
        if place is None:
            return {}
        if place in self.references or datasets.identity(place)["dataset"] in self.names.values():
            raise BadInput(f"external: {place!r} is one of the study's own data sets, which its generators learn from")
        config: Record = {"reference": place, "digest": datasets.digest(place, study.phantom_images, study.size)}
        config |= {"size": study.size, "phantom_images": study.phantom_images, "external": True}
        split = self.split(reference)
        return {"external": Cell("split", VERSIONS["split"], config, {"split": split}, 1, self.identity[reference])}


def _used(blocks: list[Block], budget: float | None) -> set[tuple[float, float]]:
    """(budget, ratio) of every synthetic set that these blocks use; of one budget where one is given."""
    return {
        (each, float(ratio))
        for block in blocks
        for each in block.budgets
        if budget in (None, each)
        for ratio in [*block.ratios, *([1] if "mixed" in block.arms else [])]
    }


def foreign_folder(images: str, dataset: str, alone: bool) -> Path | None:
    """Where a finished synthetic set of this data set lies: its folder SET or file SET.csv; the whole for one set."""
    place = Path(images)
    if not place.exists():
        raise BadInput(
            f"images: {images!r} does not exist; allowed: a folder [SET/]CLASS/*.png, or a CSV of path,label (a folder "
            "of SET.csv for several sets)"
        )
    own = [each for each in (place / dataset, place / f"{dataset}.csv") if each.exists()]
    return own[0] if own else place if alone else None
