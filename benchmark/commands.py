"""Commands about a study: run and its stages, plan, status, report, export, verify, audit of folders."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.cache import Cell, Store
    from benchmark.study import Study

StudyArg = Annotated[str, typer.Argument(metavar="STUDY", help="A preset's name or a study file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, dots for nested.")
]
HomeOption = Annotated[Path | None, typer.Option(help="Where cells and reports lie; else $AUGURY_HOME, else ./runs.")]
NameOption = Annotated[str | None, typer.Option(help="Another name for the study.")]
BackendOption = Annotated[str | None, typer.Option(help="local or pool.")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Cores to use; default all.")]


def run(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Presets or study files.")],
    set_: SetOption = None,
    home: HomeOption = None,
    name: NameOption = None,
    backend: BackendOption = None,
    workers: WorkersOption = None,
    only: Annotated[str | None, typer.Option(help="Run only this stage and what it needs, without a report.")] = None,
) -> None:
    """Run a study from data to report, resumed from what is there. Example: augury run quick"""
    from benchmark.cache import BadInput

    if name is not None and len(studies) > 1:
        raise BadInput(f"--name {name!r} given for {len(studies)} studies; allowed: with one")
    worst = 0
    for source in studies[1:]:  # a wrong one is told before hours of the first are spent
        _check_backbones(load(source, set_, home, name)[0])
    for source in studies:
        worst = max(worst, _run(source, set_, home, name, backend, workers, only))
    raise typer.Exit(worst)


def plan(study: StudyArg, set_: SetOption = None, home: HomeOption = None, name: NameOption = None) -> None:
    """Print a study's cells, how many are done, and an estimate of the time. Example: augury plan experiment-3"""
    from benchmark.plan import dry_plan
    from benchmark.running import estimate

    loaded, store = _study(study, set_, home, name)
    cells, absent = dry_plan(loaded)
    for line in [*estimate(loaded, cells, store), *(f"not at hand: {each}" for each in absent)]:
        typer.echo(line)


def train(study: StudyArg, set_: SetOption = None, home: HomeOption = None, name: NameOption = None) -> None:
    """Train a study's generators and what they need. Example: augury train quick"""
    raise typer.Exit(_run(study, set_, home, name, None, None, "train"))


def fidelity(study: StudyArg, set_: SetOption = None, home: HomeOption = None, name: NameOption = None) -> None:
    """Measure a study's synthetic sets. Example: augury fidelity quick"""
    raise typer.Exit(_run(study, set_, home, name, None, None, "fidelity"))


def classify(study: StudyArg, set_: SetOption = None, home: HomeOption = None, name: NameOption = None) -> None:
    """Train a study's classifiers. Example: augury classify quick"""
    raise typer.Exit(_run(study, set_, home, name, None, None, "classify"))


def synthesize(
    study: StudyArg,
    set_: SetOption = None,
    home: HomeOption = None,
    name: NameOption = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Draw this text; may be repeated.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file with one prompt a line.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Seed of the first image; the next has seed + 1.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the images of --prompt and --prompts.")] = Path("synthetic"),
    generator: Annotated[str | None, typer.Option(help="Which draws the prompts; default the first.")] = None,
) -> None:
    """Draw a study's sets, or free prompts. Example: augury synthesize quick --prompt "blood smear" --out x"""
    from benchmark.cache import BadInput
    from benchmark.stages.synthesize import draw_prompts, prompted, read_prompts

    texts = read_prompts(prompt or [], prompts, out)
    if generator is not None and not texts:
        raise BadInput(f"--generator {generator!r} given; allowed: with --prompt or --prompts")
    if texts:
        loaded, store, cells = load(study, set_, home, name)
        asked = prompted(loaded, cells, generator).inputs["train"]
    code = _run(study, set_, home, name, None, None, "train" if texts else "synthesize", asked if texts else None)
    if texts and not code:
        draw_prompts(loaded, cells, store, texts, seed, out, generator)
        typer.echo(f"{len(texts)} images in {out}, drawn by {asked.name}")
    raise typer.Exit(code)


def audit(
    study: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="A study; or give --train, --heldout, --synthetic and --out.")
    ] = None,
    train_: Annotated[Path | None, typer.Option("--train", help="Images that the generator saw.")] = None,
    heldout: Annotated[Path | None, typer.Option(help="Images of the same kind that it did not see.")] = None,
    synthetic: Annotated[Path | None, typer.Option(help="Images that it made.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for images.csv, rows.json, arrays and pairs.png.")] = None,
    size: Annotated[
        int | None, typer.Option(min=16, max=512, help="Side in pixels to compare at; default theirs, 64 at most.")
    ] = None,
    autoencoder: Annotated[
        str | None, typer.Option(help="augury, taesd or a folder: search training images sent through it as well.")
    ] = None,
    set_: SetOption = None,
    home: HomeOption = None,
    name: NameOption = None,
) -> None:
    """Audit a study or image folders for copies. Example: augury audit --train A --heldout B --synthetic C --out D"""
    from benchmark.cache import BadInput

    folders = {"--train": train_, "--heldout": heldout, "--synthetic": synthetic, "--out": out}
    missing = [option for option, value in folders.items() if value is None]
    if study is not None:
        if len(missing) < len(folders):
            raise BadInput("audit: give a study or the four folders, not both")
        if size is not None or autoencoder is not None:
            raise BadInput("audit: --size and --autoencoder are for folders; allowed of a study: --set size=64")
        raise typer.Exit(_run(study, set_, home, name, None, None, "audit"))
    if train_ is None or heldout is None or synthetic is None or out is None:
        raise BadInput(f"audit: give a study, or --train, --heldout, --synthetic and --out ({missing[0]} is missing)")
    from benchmark.stages.audit import audit_folders

    for line in audit_folders(train_, heldout, synthetic, out, size, autoencoder):
        typer.echo(line)


def report(study: StudyArg, set_: SetOption = None, home: HomeOption = None, name: NameOption = None) -> None:
    """Redraw tables, figures and report from finished cells. Example: augury report quick"""
    from benchmark.cache import BadInput
    from benchmark.reporting import write_report
    from benchmark.running import claim_name

    loaded, store, cells = load(study, set_, home, name, ran=True)
    claim_name(store.home / loaded.name, loaded)
    if not any(store.record(cell) for cell in cells):
        raise BadInput(f"report: {store.home} has no finished cell of {loaded.name}, as it and its data are now")
    missing = write_report(loaded, store, cells)
    told = f"; {missing} cells are not finished" if missing else ""
    typer.echo(f"report: {store.home / loaded.name / 'report' / 'index.html'}{told}")
    raise typer.Exit(1 if missing else 0)


def figure(
    figure_name: Annotated[str, typer.Argument(metavar="NAME", help="A figure's name, as the report prints it.")],
    study: StudyArg,
    set_: SetOption = None,
    home: HomeOption = None,
    name: NameOption = None,
) -> None:
    """Redraw one figure from finished cells. Example: augury figure metric_by_budget quick"""
    from benchmark.reporting import redraw
    from benchmark.running import claim_name

    loaded, store, cells = load(study, set_, home, name, ran=True)
    claim_name(store.home / loaded.name, loaded)
    typer.echo(f"{redraw(figure_name, loaded, store, cells) / figure_name}.{{pdf,png,svg}}")


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A run: a study's name under the home, or its folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another run, compared with the first.")],
    metric: Annotated[str, typer.Option(help="A metric of the tidy table.")] = "auroc",
    tolerance: Annotated[float, typer.Option(min=0, help="By how much B may be worse.")] = 0.01,
    generators: Annotated[
        list[str] | None, typer.Option(metavar="A=B", help="Set A's generator beside B's; may be repeated.")
    ] = None,
    home: HomeOption = None,
    out: Annotated[Path | None, typer.Option(help="Write the differences to this CSV as well.")] = None,
) -> None:
    """Compare two runs cell by cell; exit code 1 where B is worse or failed. Example: augury compare old new"""
    from benchmark.cache import BadInput
    from results.claims import comparison, matched

    if wrong := [each for each in generators or [] if each.count("=") != 1]:
        raise BadInput(f"--generators {wrong[0]!r} given; allowed: A=B, a generator of each run")
    try:
        one, two = _results(a, home), _results(b, home)
        named = dict(each.split("=") for each in generators) if generators else matched(one, two)
        table, told, lost = comparison(one, two, metric, tolerance, named)
    except ValueError as error:
        raise BadInput(f"compare: {error}") from None
    if out is not None:
        table.to_csv(out, index=False, lineterminator="\n")
    typer.echo("\n".join(told))
    raise typer.Exit(1 if lost else 0)


def export(
    study: StudyArg,
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    set_: SetOption = None,
    home: HomeOption = None,
    name: NameOption = None,
) -> None:
    """Write a study's synthetic sets and generators with their cards. Example: augury export quick out"""
    from benchmark.exporting import export_sets

    _, store, cells = load(study, set_, home, name, ran=True)
    for line in export_sets(cells, store, folder):
        typer.echo(line)


def status(study: StudyArg, set_: SetOption = None, home: HomeOption = None, name: NameOption = None) -> None:
    """Print how far a study is, and why cells failed. Example: augury status quick"""
    from benchmark.running import progress_lines

    _, store, cells = load(study, set_, home, name, ran=True)
    for line in progress_lines(cells, store):
        typer.echo(line)


def verify(study: StudyArg, set_: SetOption = None, home: HomeOption = None, name: NameOption = None) -> None:
    """Re-hash every finished artefact of a study. Example: augury verify quick"""
    _, store, cells = load(study, set_, home, name, ran=True)
    finished = [cell for cell in cells if store.record(cell)]
    for cell in finished:
        store.verify(cell)
    typer.echo(f"{len(finished)} finished cells match their records; {len(cells) - len(finished)} are not finished")


COMMANDS = (
    run, plan, train, synthesize, fidelity, classify, audit, report, figure, compare, export, status, verify,
)  # fmt: skip


def _results(run: str, home: Path | None) -> "pd.DataFrame":
    """The tidy table of a run."""
    from benchmark.cache import BadInput
    from results.tidy import read

    root = home or Path(os.environ.get("AUGURY_HOME") or "runs")
    for folder in (Path(run), root / run):
        for file in (folder / "results.parquet", folder / "results.csv"):
            if file.is_file():
                return read(file)
    raise BadInput(f"run {run!r} given; neither {Path(run)} nor {root / run} holds results.parquet or results.csv")


def load(
    source: str, overrides: list[str] | None, home: Path | None, name: str | None, *, ran: bool = False
) -> "tuple[Study, Store, list[Cell]]":
    from benchmark.plan import plan as make_plan

    study, store = _study(source, overrides, home, name, ran=ran)
    return study, store, make_plan(study)


def _study(
    source: str, overrides: list[str] | None, home: Path | None, name: str | None, *, ran: bool = False
) -> "tuple[Study, Store]":
    """A study by file, by preset, or by the name under which the home has it.

    ran: the command reads what was run, so the home's own study comes before a preset of that name.
    """
    from benchmark.cache import Store
    from benchmark.study import load_study, presets

    root = home or Path(os.environ.get("AUGURY_HOME") or "runs")
    kept = root / source / "study.yaml"
    first = (ran and not overrides and name is None) or source not in presets()
    if first and not Path(source).is_file() and kept.is_file():
        source = str(kept)
    return load_study(source, overrides, name), Store(root.resolve())


def _run(
    source: str, overrides: list[str] | None, home: Path | None, name: str | None,
    backend: str | None, workers: int | None, only: str | None, one: "Cell | None" = None,
) -> int:  # fmt: skip
    from benchmark.cache import BadInput
    from benchmark.plan import ORDER
    from benchmark.reporting import write_report
    from benchmark.running import BACKENDS, Told, claim_name, needed, run_cells, save_study

    if backend is not None and backend not in BACKENDS:
        raise BadInput(f"--backend {backend!r} given; allowed: {', '.join(BACKENDS)}")
    if only is not None and only not in ORDER:
        raise BadInput(f"--only {only!r} given; allowed: {', '.join(ORDER)}")
    study, store, cells = load(source, overrides, home, name)
    _check_backbones(study)
    folder = store.home / study.name
    claim_name(folder, study)
    store.check_writable()
    save_study(folder, study, sys.argv if only is None else None)
    wanted = needed([one] if one else cells, only) if only else cells
    with Told(len({cell.digest for cell in wanted if store.record(cell) is None}), sys.stderr) as told:
        failed = run_cells(wanted, store, backend or study.backend, workers or os.cpu_count() or 1, told)
    if only is None:
        write_report(study, store, cells)
        typer.echo(f"report: {folder / 'report' / 'index.html'}")
    elif one is None:
        done = sum(store.record(cell) is not None for cell in wanted)
        typer.echo(f"{done} of {len(wanted)} cells are finished; `augury report` shows what there is")
    for cell in failed[:5]:
        print(f"augury: failed: {cell.name}: {store.error(cell)}", file=sys.stderr)
    return 1 if failed else 0


def _check_backbones(study: "Study") -> None:
    from benchmark.cache import BadInput
    from classifiers.backbones import check

    for network in (*study.backbones, *study.fidelity.encoders):
        try:
            if not isinstance(network, str):
                check(network.name)
        except ValueError as error:
            raise BadInput(str(error)) from None
