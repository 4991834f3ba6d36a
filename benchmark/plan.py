"""Study -> cells with their dependencies, in an order in which every cell follows what it reads."""

import json
from collections.abc import Iterator
from itertools import product

from benchmark.cache import BadInput, Cell, Record
from benchmark.datasets import UNSEEN
from benchmark.lineage import Lineage, Sight
from benchmark.recipes import encoder_source, image_text_source
from benchmark.stages import VERSIONS
from benchmark.study import REAL_ARMS, SYNTHETIC_ARMS, Block, Study

ORDER = ("split", "autoencoder", "train", "synthesize", "features", "classify", "fidelity", "audit", "membership")
TOLD = ("synthesize", "classify", "fidelity", "audit", "membership")  # stages with rows in the tidy table


def plan(study: Study) -> list[Cell]:
    """All cells of a study, each once and after what it reads. Raises BadInput for data or weights not there."""
    return Planner(study).plan()


def dry_plan(study: Study) -> tuple[list[Cell], list[str]]:
    """The same where weights are not at hand, and what is missing; for its size and cost, not to be run."""
    planner = Planner(study, dry=True)
    return planner.plan(), list(planner.lineage.absent)


def _add(cell: Cell, cells: dict[tuple[str, str], Cell]) -> None:
    """A cell and all that it is made from; work that two generators share is done once and told for both."""
    key = (cell.digest, json.dumps(cell.about, sort_keys=True) if cell.stage in TOLD else "")
    if key not in cells:
        for needed in cell.inputs.values():
            _add(needed, cells)
        cells[key] = cell


class Planner:
    """Walks the grid of one study."""

    def __init__(self, study: Study, dry: bool = False) -> None:
        self.study, self.lineage = study, Lineage(study, dry)

    def plan(self) -> list[Cell]:
        found: dict[tuple[str, str], Cell] = {}
        for cell in self.cells():
            _add(cell, found)
        return sorted(found.values(), key=lambda cell: (cell.level, -cell.threads, ORDER.index(cell.stage)))

    def cells(self) -> Iterator[Cell]:
        for reference in self.lineage.references:
            yield self.lineage.split(reference)
            for block in self.study.grid:
                if self.lineage.inside(block, reference):
                    yield from self.block(reference, block)
                    yield from self.placebos(reference, block)
        for key in self.study.generators:
            if not any(self.lineage.feeds(reference, key) for reference in self.lineage.references):
                raise BadInput(
                    f"generator {key!r} draws images of none of the study's sets; see its train_on or images"
                )

    def block(self, reference: str, block: Block) -> Iterator[Cell]:
        for seed in range(self.study.seeds):
            for budget in block.budgets:
                for arm in (arm for arm in REAL_ARMS if arm in block.arms):
                    if arm != "real_double" or 2 * budget <= 1:
                        yield from self.classify(reference, block, arm, budget, 0, 0.0, seed)
                for key, exposure in self.generators(reference, block):
                    yield from self.synthetic(reference, block, key, exposure, budget, seed)

    def classify(
        self, reference: str, block: Block, arm: str, budget: float, ratio: float, share: float, seed: int,
        drawn: Cell | None = None, about: Record | None = None,
    ) -> Iterator[Cell]:  # fmt: skip
        """One arm with the block's backbones, at the lowest two budgets also with validation cut to the budget."""
        cut = self.study.budget_validation and budget in self.study.budgets[:2]
        chosen = [each for each in self.study.backbones if block.backbones is None or each.name in block.backbones]
        for backbone in (each for each in chosen if each.seeds is None or seed < each.seeds):
            for by_budget in (False, True) if cut else (False,):
                yield self.lineage.classify(
                    reference, backbone, arm, budget, ratio, share, seed, drawn, about, by_budget=by_budget
                )

    def generators(self, reference: str, block: Block) -> Iterator[tuple[str, str]]:
        if not any(arm in SYNTHETIC_ARMS for arm in block.arms):
            return
        for key in list(self.study.generators) if block.generators is None else block.generators:
            if self.lineage.feeds(reference, key):
                exposures = block.exposure if self.study.generators[key].trained else ["external"]
                yield from ((key, exposure) for exposure in exposures)

    def synthetic(
        self, reference: str, block: Block, key: str, exposure: str, budget: float, seed: int
    ) -> Iterator[Cell]:
        """Every set of a generator at one budget, what is measured on it, and the arms that it feeds."""
        generator, sight = self.study.generators[key], self.lineage.sight(key, exposure, budget, seed)
        variants = self.study.sampling.variants() if generator.images is None else {"": {}}
        if generator.unconditional:  # it is asked for no label by which a filter could judge it
            variants = self.study.sampling.model_copy(update={"filter": [None]}).variants()
        if self.study.unseen_phrasing and seed == 0 and generator.images is None and not generator.unconditional:
            yield from self.unseen(reference, key, sight)
        for variant, how in variants.items():
            filtered = how.get("filter") is not None or how.get("privacy") is not None
            # A filter sees what it is given: of a model from elsewhere it may know the budget alone.
            shown = Sight("external", budget, seed) if filtered and sight.exposure == "external" else sight
            drawn = self.lineage.synthetic(reference, key, shown, seed, variant, how)
            yield drawn
            about = {"generator": key, "exposure": sight.exposure, "variant": variant}
            yield from self.judged(reference, drawn, about, seed, budget)
            if generator.unconditional:
                continue
            for arm in (arm for arm in SYNTHETIC_ARMS if arm in block.arms):
                shares = {"synthetic": [1.0], "augmented": self.study.share}.get(arm, [0.5])
                for ratio, share in product([1] if arm == "mixed" else block.ratios, shares):
                    yield from self.classify(reference, block, arm, budget, ratio, share, seed, drawn, about)

    def unseen(self, reference: str, key: str, sight: Sight) -> Iterator[Cell]:
        """Label consistency of a wording that the generator was not trained on; it feeds no classifier."""
        study, split = self.study, self.lineage.split(reference)
        how = study.sampling.variants()[""] | {"phrasing": UNSEEN, "limit": 200, "filter": None}
        how.pop("privacy", None)
        drawn = self.lineage.synthetic(reference, key, sight, 0, "phrasing=unseen", how)
        config: Record = {"encoder": "efficientnet_lite0", "images": study.fidelity.images}
        threads, version = study.threads.generator, VERSIONS["features"]
        about = {k: value for k, value in drawn.about.items() if value is not None}
        real = Cell(
            "features", version, config | {"of": "real"}, {"split": split}, threads, drawn.inputs["split"].about
        )
        ours = Cell("features", version, config | {"of": "synthetic"}, {"synthesize": drawn}, threads, about)
        inputs = {"split": split, "real": real, "judged": ours, "synthesize": drawn}
        inputs |= {"judge": self.lineage.judge(reference)}
        yield Cell("fidelity", VERSIONS["fidelity"], config | {"whole": True}, inputs, 1, about)

    def placebos(self, reference: str, block: Block) -> Iterator[Cell]:
        if "augmented" not in block.arms:
            return
        for name in self.study.placebos:
            for seed in range(self.study.seeds):
                for budget in self.study.lowest:
                    drawn = self.lineage.baseline(reference, name, budget, seed)
                    share, about = self.study.share[0], {"generator": name}
                    yield from self.classify(reference, block, "augmented", budget, 1, share, seed, drawn, about)

    def judged(self, reference: str, drawn: Cell, about: Record, seed: int, budget: float) -> Iterator[Cell]:
        """Features, fidelity and audit of a synthetic set."""
        study, split = self.study, self.lineage.split(reference)
        known = self.lineage.identity[reference]
        about = known | about | {"seed": seed}
        limited = about["exposure"] in ("budget", "transfer")
        about |= {"budget": budget} if drawn.about["budget"] is not None else {}
        trained = drawn.inputs.get("train")
        judge = {"judge": self.lineage.judge(reference)}
        sets: list[tuple[str, Record, dict[str, Cell]]] = [("real", known, judge)]
        sets += [("synthetic", about, {"synthesize": drawn} | judge)]
        if trained and not about["variant"]:
            autoencoder = {"autoencoder": trained.inputs["autoencoder"]}
            shared = not limited and trained.config.get("data_share", 1.0) == 1
            facts = {key: value for key, value in about.items() if key != "seed" or not shared}
            if about["generator"] != next(iter(study.generators)):
                facts |= {"variant": f"generator={about['generator']}"}
            sets += [("round_trip", facts, autoencoder)]
        aligned = self.lineage.weights(image_text_source, study.fidelity.image_text) or {}
        for place, encoder in enumerate(study.fidelity.encoders):
            source = self.lineage.weights(encoder_source, encoder) or {"encoder": getattr(encoder, "name", encoder)}
            config: Record = source | {"images": study.fidelity.images}
            told = {"whole": place == 0} | (aligned if place == 0 else {})

            def features(of: str, sources: dict[str, Cell], about: Record, config: Record = config) -> Cell:
                inputs = {key: cell for key, cell in sources.items() if key != "judge"}
                inputs = inputs if "synthesize" in inputs else {"split": split} | inputs
                inputs |= judge | {"split": split} if config["encoder"] == "real_classifier" else {}
                return Cell(
                    "features", VERSIONS["features"], config | {"of": of}, inputs, study.threads.generator, about
                )

            real = features("real", {}, known)
            share = self.lineage.share(reference)
            for of, facts, more in sets:
                inputs = {"split": split, "real": real, "judged": features(of, more, facts)} | more
                inputs = inputs if place == 0 else {key: cell for key, cell in inputs.items() if key != "judge"}
                # Floor and controls at the number of images that the generator is measured with.
                same = {"share": share} if of != "synthetic" and share < 1 else {}
                yield Cell("fidelity", VERSIONS["fidelity"], config | told | same, inputs, 1, facts)
        if study.audit_pool:
            everyday: Record = {"encoder": "efficientnet_lite0", "images": study.fidelity.images}
            threads, version = study.threads.generator, VERSIONS["features"]
            bank = Cell("features", version, everyday | {"of": "bank"}, {"split": split}, threads, known)
            ours = Cell("features", version, everyday | {"of": "synthetic"}, {"synthesize": drawn}, threads, about)
            inputs = {"split": split, "synthesize": drawn, "bank": bank, "features": ours}
            inputs |= {"autoencoder": trained.inputs["autoencoder"]} if trained else {}
            sight: Record = {"seed": seed, "budget": budget} if limited else {"seed": None, "budget": None}
            if trained and not limited and trained.config.get("data_share", 1.0) < 1:
                sight |= {key: trained.config[key] for key in ("data_share", "seed_of_model")}
            settings = study.audit.model_dump(exclude={"reference"}) | {"exposure": about["exposure"]} | sight
            yield Cell("audit", VERSIONS["audit"], settings, inputs, 1, about)
            if trained and about["exposure"] != "external" and not about["variant"]:
                generator = study.generators[about["generator"]]
                settings = sight | {"detail": generator.detail, "unconditional": generator.unconditional}
                promised = [each.dp_delta for each in study.generators.values() if each.dp_epsilon]
                settings |= {"delta": max(promised)} if promised else {}
                inputs = {"split": split, "train": trained, "bank": bank}
                if study.audit.reference and about["exposure"] == "full":
                    inputs["reference"] = self.lineage.outside(trained)
                yield Cell("membership", VERSIONS["membership"], settings, inputs, threads, about)
