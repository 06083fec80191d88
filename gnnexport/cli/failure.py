"""Tell the user what went wrong and how to mend it, as text on stderr or as JSON on stdout."""

from __future__ import annotations

import json
import sys
import traceback

import typer

from gnnexport.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EXIT_UNSUPPORTED,
    EXIT_USAGE,
    GnnExportError,
    MissingExtraError,
    Problem,
)

_EXTRAS = {
    "onnx": "compress",
    "onnx_ir": "compress",
    "onnxscript": "compress",
    "torch": "compress",
    "torch_geometric": "compress",
    "onnxruntime": "ort",
    "openvino": "openvino",
}
"""Which extra brings a library."""


class Terminated(BaseException):
    """The system asked this process to end (SIGTERM). Not a `KeyboardInterrupt`: typer makes those exit 130."""


def tell(error: BaseException, *, as_json: bool) -> int:
    """Print an error and return the exit code it leads to."""
    name, code, problems = _classify(error)
    if code == EXIT_BUG:
        traceback.print_exception(error, file=sys.stderr)
    if as_json:
        listed = [{"where": problem.where, "what": problem.what, "mend": problem.mend} for problem in problems]
        document = {"schema": 1, "error": {"type": name, "exit_code": code, "problems": listed}}
        typer.echo(json.dumps(document, indent=2))
    else:
        for problem in problems:
            typer.echo(f"error: {problem}", err=True)
    return code


def _classify(error: BaseException) -> tuple[str, int, list[Problem]]:
    """Return an error's name, its exit code and what to tell about it."""
    if isinstance(error, Terminated):
        return "Terminated", EXIT_TERMINATED, [Problem("gnnexport", "told to end", "Nothing was left half-written")]
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "Interrupted", EXIT_INTERRUPTED, [Problem("gnnexport", "interrupted", "Nothing was left half-written")]
    if isinstance(error, typer.TyperException):
        what, _, hint = error.format_message().partition(". ")
        mend = f"{hint} See gnnexport --help, or --help after a command".lstrip()
        return "UsageError", EXIT_USAGE, [Problem("command line", what.rstrip("."), mend)]
    if isinstance(error, ModuleNotFoundError) and (extra := _EXTRAS.get((error.name or "").partition(".")[0])):
        mend = f"Run: pip install 'gnnexport[{extra}]'"
        error = MissingExtraError(Problem("gnnexport", f"this command needs {error.name}", mend))
    if isinstance(error, GnnExportError) and error.problems:
        return type(error).__name__, error.exit_code, list(error.problems)
    if isinstance(error, MemoryError):
        mend = "Free some memory, or run on a larger machine"
        return "MemoryError", EXIT_UNSUPPORTED, [Problem("gnnexport", f"memory ran out ({error})", mend)]
    mend = "This is a bug in gnnexport: please report it with the traceback above and the output of gnnexport doctor"
    return type(error).__name__, EXIT_BUG, [Problem("unexpected error", f"{type(error).__name__}: {error}", mend)]
