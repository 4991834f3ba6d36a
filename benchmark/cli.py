"""The command line, `augury`. Nothing heavy is imported before a command needs it."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark import commands

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Data sets: list, show, check, import, download.")
Name = Annotated[str, typer.Argument(help="A name from `augury data list`, or a path (npz, folder, csv).")]


@data.command("list")
def list_sets() -> None:
    """List the data sets known by name and where they are. Example: augury data list"""
    import os

    from benchmark import datasets
    from benchmark.cache import BadInput

    root = os.environ.get("AUGURY_DATA")
    local = sorted(file.stem for file in Path(root).glob("*/*.npz") if file.stem == file.parent.name) if root else []
    for name in [*local, *datasets.PHANTOMS, *(name for name in datasets.MEDMNIST if name not in local)]:
        try:
            path = datasets.locate(name)
            where, kind = ("drawn" if path is None else str(path)), datasets.identity(name)["image_type"]
        except BadInput as error:
            where, kind = f"not here: augury data download {name}", datasets.MEDMNIST.get(name, ("",))[0]
            if name in local:  # it is here, but its card is broken
                where, kind = str(error), ""
        typer.echo(f"{name:24} {kind:18} {where}")


@data.command()
def show(name: Name, picture: Annotated[Path, typer.Option(help="Where to write the picture.")] = Path("-")) -> None:
    """Print a set's card and counts, draw a picture. Example: augury data show phantom-oct --picture oct.png"""
    from dataclasses import asdict

    from benchmark import datasets

    loaded = datasets.load(name)
    for key, value in asdict(loaded.card).items():
        if value:
            typer.echo(f"{key:12} {', '.join(map(str, value)) if isinstance(value, tuple) else value}")
    typer.echo(f"{'origin':12} {loaded.origin}")
    for split, part in loaded.splits.items():
        counts = ", ".join(f"{key} {n}" for key, n in datasets.class_counts(loaded.card, part.labels).items())
        patients = f", {len(set(part.groups))} patients" if part.groups else ""
        typer.echo(f"{split:12} {len(part.images)} images of {part.images.shape[1]} px{patients}: {counts}")
    if str(picture) != "-":
        _draw(loaded, picture)
        typer.echo(f"picture      {picture}")


@data.command()
def check(names: Annotated[list[str], typer.Argument(metavar="NAME...", help="One set or several.")]) -> None:
    """Look for leaks, duplicates, pictures that sets share; exit code 1 where one would stop a study. Example:
    augury data check phantom-oct phantom-ct"""
    from benchmark import datasets
    from benchmark.splits import leakage, shared_images

    loaded = [datasets.load(name) for name in datasets.expand(names)]
    found = []
    for each in loaded:
        own = leakage(each)
        found += own
        lead = f"{each.card.name}: " if len(loaded) > 1 else ""
        for finding in own:
            typer.echo(f"{'STOPS ' if finding.stops else 'noted '} {lead}{finding.kind}: {finding.text}")
    for finding in shared_images({d.card.name: [part.images for part in d.splits.values()] for d in loaded}):
        found.append(finding)
        typer.echo(f"noted  {finding.kind}: {finding.text}")
    if not found:
        typer.echo("nothing found")
    if any(finding.stops for finding in found):
        raise typer.Exit(1)


@data.command("import")
def import_set(
    source: Annotated[Path, typer.Argument(help="An image folder or a CSV with path,label.")],
    name: Annotated[str, typer.Argument(help="The set's name.")],
    size: Annotated[int, typer.Option(min=8, max=1024, help="Pixels a side.")] = 64,
    out: Annotated[Path | None, typer.Option(help="Folder for NAME/NAME.npz; default $AUGURY_DATA, else .")] = None,
) -> None:
    """Write your own images as npz with a card. Example: augury data import ../scans scans --size 64"""
    import os
    import re
    from dataclasses import asdict

    import numpy as np

    from benchmark import datasets
    from benchmark.cache import BadInput, write_json

    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise BadInput(f"name {name!r} given; allowed: lower-case letters, digits, dots, dashes, underscores")
    if not source.exists():
        raise BadInput(f"{source} does not exist; expected an image folder or a CSV")
    loaded = datasets.load(str(source), size)
    folder = (out or Path(os.environ.get("AUGURY_DATA", "."))) / name
    if (folder / f"{name}.npz").exists():
        raise BadInput(f"{folder / name}.npz exists; take another name or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {}
    for short, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        part = loaded.splits[split]
        labels = part.labels if part.labels.ndim == 2 else part.labels[:, None]
        arrays |= {f"{short}_images": part.images, f"{short}_labels": labels}
        others = {"groups": part.groups, "captions": part.captions}
        others |= {f"column_{key}": values for key, values in part.columns.items()}
        arrays |= {f"{short}_{key}": np.array(values) for key, values in others.items() if values}
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    card = {key: value for key, value in asdict(loaded.card).items() if key != "phantom"}
    write_json(folder / f"{name}.json", card | {"name": name})
    typer.echo(f"{folder / name}.npz and its card {name}.json; fill in image_type, captions and licence there")


@data.command()
def download(name: Annotated[str, typer.Argument(help="One of MedMNIST's twelve 2D sets, or inception-fid.")]) -> None:
    """Fetch a MedMNIST set, or FID's network, over the network. Example: augury data download breastmnist"""
    from benchmark import datasets
    from benchmark.cache import BadInput

    if name == "inception-fid":
        return _fid_network()
    if name not in datasets.MEDMNIST:
        allowed = ", ".join([*datasets.MEDMNIST, "inception-fid"])
        raise BadInput(f"{name!r} cannot be downloaded; allowed: {allowed}")
    import medmnist

    root = datasets.medmnist_root()
    root.mkdir(parents=True, exist_ok=True)
    info = medmnist.INFO[name]
    try:
        getattr(medmnist, info["python_class"])(split="train", root=str(root), download=True)
    except Exception as error:  # whatever the network does, the user needs one line
        raise BadInput(f"{name} could not be downloaded to {root}: {error}") from None
    typer.echo(f"{root / name}.npz, licence {info['license']}")


def _fid_network() -> None:
    import os
    from pathlib import Path

    from benchmark.cache import BadInput
    from benchmark.stages.fidelity import INCEPTION
    from classifiers.features import fetch_fid_inception

    if not os.environ.get("AUGURY_WEIGHTS"):
        raise BadInput("inception-fid: AUGURY_WEIGHTS is not set; allowed: a folder for the weights")
    file = Path(os.environ["AUGURY_WEIGHTS"]) / INCEPTION
    try:
        fetch_fid_inception(file)
    except (OSError, ValueError) as error:
        raise BadInput(f"inception-fid could not be downloaded to {file.parent}: {error}") from None
    typer.echo(f"{file}, licence Apache-2.0")


def _draw(loaded: Any, file: Path) -> None:
    """Eight training images a class, a row a class."""
    import numpy as np
    from PIL import Image

    from benchmark.cache import BadInput

    part = loaded.splits["train"]
    rows = []
    for k in range(len(loaded.card.classes)):
        has = part.labels[:, k] > 0 if part.labels.ndim == 2 else part.labels == k
        images = part.images[np.flatnonzero(has)[:8]]
        blank = np.full((8 - len(images), *part.images.shape[1:]), 255, np.uint8)
        rows.append(np.concatenate([*images, *blank], axis=1))
    try:
        Image.fromarray(np.concatenate(rows)).save(file)
    except ValueError:  # Pillow's, for a suffix that it does not know
        raise BadInput(f"--picture {file} given; allowed: a file name that ends in .png or .jpg") from None


readers = typer.Typer(help="A blinded study with physicians: export the page, score their answers.")


@readers.command("export")
def reader_export(
    study: commands.StudyArg,
    out: Annotated[Path, typer.Option(help="The HTML file for readers; the key is written beside it.")],
    real: Annotated[int, typer.Option(min=1, help="Real pictures, of the test set.")] = 50,
    synthetic: Annotated[int, typer.Option(min=1, help="Synthetic pictures.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Which pictures are chosen; their order is random each time.")] = 0,
    set_: commands.SetOption = None,
    home: commands.HomeOption = None,
    name: commands.NameOption = None,
) -> None:
    """Write one offline page for readers, and its key. Example: augury reader-study export quick --out study.html"""
    from benchmark.exporting import reader_page

    loaded, store, cells = commands.load(study, set_, home, name, ran=True)
    key, sets = reader_page(loaded, cells, store, real, synthetic, seed, out)
    typer.echo(
        f"{out}: {real} real and {synthetic} synthetic pictures of {sets} data sets; keep {key} from the readers"
    )


@readers.command("score")
def reader_score(
    study: commands.StudyArg,
    answers: Annotated[list[Path], typer.Argument(help="The files that readers saved.")],
    key: Annotated[Path, typer.Option(help="The key that export wrote.")],
    set_: commands.SetOption = None,
    home: commands.HomeOption = None,
    name: commands.NameOption = None,
) -> None:
    """Put the readers' answers into the report. Example: augury reader-study score quick a.json b.json --key k.json"""
    from benchmark.exporting import keep_answers
    from benchmark.reporting import Reporter
    from benchmark.running import claim_name

    loaded, store, cells = commands.load(study, set_, home, name, ran=True)
    folder = store.home / loaded.name
    claim_name(folder, loaded)
    keep_answers(loaded.name, folder, key, answers)
    reporter = Reporter(loaded, store, cells)
    reporter.write()
    for row in (row for row in reporter.reader_rows() if not row["dataset"]):
        typer.echo(f"{row['metric']} {row['group']}: {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})")
    typer.echo(f"report: {folder / 'report' / 'index.html'}")


app = typer.Typer(
    name="augury",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Does synthetic data help? A benchmark suite for medical images.\n\nFirst: augury run quick",
)
app.add_typer(data, name="data")
app.add_typer(readers, name="reader-study")
for command in commands.COMMANDS:
    app.command()(command)


@app.command()
def backbones(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, as in 'resnet*'.")] = "*",
) -> None:
    """List timm's backbones. Example: augury backbones 'resnet1*'"""
    from classifiers.backbones import names

    found = names(pattern)
    if not found:
        from benchmark.cache import BadInput

        raise BadInput(f"no timm backbone matches {pattern!r}; `augury backbones` lists all")
    typer.echo("\n".join(found))


@app.command()
def distil(
    teacher: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="TAESD as one safetensors file.")],
    out: Annotated[Path, typer.Option(help="Folder for the student.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 1600,
    pictures: Annotated[int, typer.Option(min=1, help="Procedural pictures that it is taught on.")] = 16000,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and pictures.")] = 0,
) -> None:
    """Make the autoencoder that ships, from procedural pictures alone (an hour). See generators/augury-ae/README.md"""
    import torch

    from classifiers.features import efficientnet_lite0_maps
    from generators.autoencoders import load_taesd, new_tiny
    from generators.teaching import distil as teach

    def told(step: int, loss: float) -> None:
        if step % 50 == 0:
            typer.echo(f"step {step} of {steps}  loss {loss:.4f}")

    torch.manual_seed(seed)
    student, master = new_tiny(), load_taesd(teacher)
    teach(master, student, efficientnet_lite0_maps(side=0), steps=steps, pictures=pictures, seed=seed, report=told)
    student.half().save_pretrained(out, safe_serialization=True)


@app.command()
def doctor() -> None:
    """Say what this machine can do. Example: augury doctor"""
    import platform

    import psutil

    from benchmark.running import versions

    typer.echo(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    typer.echo(f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB memory")
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none (everything runs on the CPU)"
    typer.echo(f"GPU: {gpu}")
    for package, number in versions().items():
        typer.echo(f"{package} {number}")
    for variable in ("AUGURY_DATA", "AUGURY_WEIGHTS", "AUGURY_HOME", "MEDMNIST_ROOT"):
        value = os.environ.get(variable)
        state = "not set" if not value else value if Path(value).exists() else f"{value} (does not exist)"
        typer.echo(f"{variable}: {state}")


def main() -> None:
    """Run the app; every refusal is one line on stderr and exit code 2, whoever raised it."""
    from benchmark.cache import BadInput

    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `augury data list | head` ends quietly
    # Typer carries its own copy of click, so the base class of its errors is found through a public one.
    usage: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    command: Any = typer.main.get_command(app)
    try:
        code = command.main(standalone_mode=False)
    except BadInput as error:
        code = _refuse(str(error), error.code)
    except usage as error:
        message = str(error.__getattribute__("format_message")())
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message)
            code = 0
        else:
            code = _refuse(f"{message} (given: {' '.join(sys.argv[1:])})", 2)
    except (typer.Abort, KeyboardInterrupt):
        code = _refuse("stopped; the same command goes on from here", 130)
    except OSError as error:
        code = _refuse(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _refuse(message: str, code: int) -> int:
    print(f"augury: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
