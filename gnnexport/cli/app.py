"""Put the commands together, and turn whatever happens into an exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from gnnexport.cli import bench, compress, doctor, export, failure, inspect, passes, signals, targets, validate
from gnnexport.errors import EXIT_BUG, EXIT_INTERRUPTED

app = typer.Typer(
    name="gnnexport",
    help=(
        "Compress trained PyTorch Geometric models, lower them to fast inference engines, "
        "and prove on the target what that did to accuracy, latency and size."
    ),
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for _command in (compress.compress, export.export, inspect.inspect, validate.validate, bench.bench):
    app.command()(_command)
for _catalogue in (passes.passes, targets.targets, doctor.doctor):
    app.command()(_catalogue)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"gnnexport {version('gnnexport')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are printed, as JSON where `--json` asks for it."""
    command = typer.main.get_command(app)
    as_json = "--json" in arguments
    try:
        code = int(command.main(list(arguments) or ["--help"], prog_name="gnnexport", standalone_mode=False) or 0)
    except SystemExit as error:
        # Of typer, where nobody reads what is printed, as behind `| head`: there is nobody to tell.
        return error.code if isinstance(error.code, int) else EXIT_BUG
    except (Exception, KeyboardInterrupt, failure.Terminated) as error:
        return failure.tell(error, as_json=as_json)
    # typer turns Ctrl-C into this code and says nothing.
    return failure.tell(KeyboardInterrupt(), as_json=as_json) if code == EXIT_INTERRUPTED else code


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    del category, filename, lineno, line
    return f"warning: {message}\n"


def main() -> NoReturn:
    """Run the command line of this process."""
    warnings.formatwarning = _one_line
    signals.listen()
    sys.exit(run(sys.argv[1:]))
