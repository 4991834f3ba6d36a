"""The command line, `augury`. Nothing heavy is imported before a command needs it."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.commands import data, studies

app = typer.Typer(
    name="augury",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Does synthetic data help? A benchmark suite for medical images.\n\nFirst: augury run quick",
)
app.add_typer(data.app, name="data")
for command in studies.COMMANDS:
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
