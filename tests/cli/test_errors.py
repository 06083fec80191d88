from __future__ import annotations

import errno
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from gnnexport.cli import app
from gnnexport.cli.failure import Terminated
from gnnexport.errors import (
    DataError,
    GnnExportError,
    MissingExtraError,
    ParityError,
    Problem,
    SpecError,
    UnsafeFileError,
    UnsupportedError,
    UsageError,
)
from tests.cli.conftest import FakeApi

ENDS = """
import sys
import torch
class Ends(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
    def forward(self, x, edge_index):
        if torch.compiler.is_exporting():
            sys.exit({code})
        return self.layer(x)
def build():
    return Ends()
"""

CODES: list[tuple[type[GnnExportError], int]] = [
    (UsageError, 2),
    (SpecError, 2),
    (UnsafeFileError, 2),
    (DataError, 2),
    (MissingExtraError, 2),
    (UnsupportedError, 6),
    (ParityError, 5),
]


@pytest.mark.parametrize(("kind", "code"), CODES)
def test_errors_have_their_exit_code(
    api: FakeApi, kind: type[GnnExportError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each error prints where, what and the mend, and leads to its code."""
    api.answer("compress", kind.at("model.pt", "is wrong", "Mend it"))
    assert app.run(["compress", "model.pt"]) == code
    assert capsys.readouterr().err == "error: model.pt: is wrong. Mend it.\n"


def test_all_problems_are_told(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    """An error that holds several problems prints a line for each."""
    api.answer("validate", DataError(Problem("x", "holds NaN"), Problem("y", "is short")))
    assert app.run(["validate", "b"]) == 2
    assert capsys.readouterr().err == "error: x: holds NaN.\nerror: y: is short.\n"


def test_errors_are_json_when_asked(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json the error is the one document on stdout."""
    api.answer("compress", SpecError.at("passes", "unknown name 'prun'", "Known: prune-channels"))
    assert app.run(["compress", "model.pt", "--json"]) == 2
    streams = capsys.readouterr()
    problem = {"where": "passes", "what": "unknown name 'prun'", "mend": "Known: prune-channels"}
    assert json.loads(streams.out)["error"] == {"type": "SpecError", "exit_code": 2, "problems": [problem]}
    assert streams.err == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["compres"], "No such command 'compres'. Did you mean 'compress'?"),
        (["compress"], "Missing argument 'MODEL'."),
        (["compress", "m.pt", "--targt", "ort"], "No such option: --targt"),
        (["compress", "m.pt", "--seed", "many"], "Invalid value for '--seed'"),
    ],
)
def test_command_line_mistakes(line: Sequence[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line exits 2 and says what is known."""
    assert app.run(line) == 2
    assert words in capsys.readouterr().err
    assert app.run([*line, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "UsageError"


@pytest.mark.parametrize(("library", "extra"), [("torch", "compress"), ("onnxruntime.capi", "ort")])
def test_missing_library_names_the_pip_line(
    api: FakeApi, library: str, extra: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library that is not installed is a usage error with the exact line to run."""
    api.answer("compress", ModuleNotFoundError("no", name=library))
    assert app.run(["compress", "model.pt"]) == 2
    assert f"Run: pip install 'gnnexport[{extra}]'." in capsys.readouterr().err


def test_memory_that_runs_out(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    """A machine that is too small is no bug: exit code 6, and no traceback."""
    api.answer("validate", MemoryError("Unable to allocate 21.8 TiB"))
    assert app.run(["validate", "model.bundle"]) == 6
    error = capsys.readouterr().err
    told = "memory ran out (Unable to allocate 21.8 TiB). Free some memory, or run on a larger machine."
    assert error == f"error: gnnexport: {told}\n"


def test_nobody_reads(api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed pipe, as behind `| head`, ends a command quietly: no code of the user is blamed for it."""
    # typer puts wrappers that bear a closed pipe in the place of both streams.
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    api.answer("compress", BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert app.run(["compress", "model.pt"]) == 1
    assert capsys.readouterr().err == ""


def test_code_that_ends_the_program_has_no_say_in_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sys.exit(0)` of a model is not success, and 3 is no verdict, wherever the model is called."""
    weights = tmp_path / "weights.pt"
    for code in (0, 3):
        (tmp_path / f"exits{code}.py").write_text(ENDS.format(code=code))
        torch.save({"layer.weight": torch.ones(2, 4), "layer.bias": torch.zeros(2)}, weights)
        builder = f"{tmp_path / f'exits{code}.py'}:build"
        for command in ("export", "inspect"):
            assert app.run([command, str(weights), "--builder", builder]) == 2
            assert f"ends the program (SystemExit {code}). Take sys.exit out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option"),
    [
        *[("compress", name) for name in ("-o", "--code", "--recipe", "--decisions", "--data", "--builder")],
        *[("export", name) for name in ("--output", "--code", "--decisions", "--data")],
        *[(name, None) for name in ("compress", "export", "inspect", "validate", "bench")],
        ("inspect", "--code"),
        ("validate", "--data"),
    ],
)
def test_a_path_that_is_given_but_empty(
    command: str,
    option: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`-o "$UNSET"` does not mean the current folder, which would be replaced."""
    (tmp_path / "model.pt").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    line = [command, ""] if option is None else [command, str(tmp_path / "model.pt"), option, ""]
    assert app.run(line) == 2
    assert "is given, but empty. Give a value, or leave it out" in capsys.readouterr().err
    assert not any((tmp_path / "here").iterdir())


def test_a_bug_says_what_to_report(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever nobody foresaw exits 1 with its traceback and asks for a report."""
    api.answer("compress", ZeroDivisionError("division by zero"))
    assert app.run(["compress", "model.pt"]) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "please report it with the traceback above and the output of gnnexport doctor" in printed


def test_a_missing_module_of_our_own_is_a_bug(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    """Only libraries that an extra brings are mended by installing it."""
    api.answer("compress", ModuleNotFoundError("no", name="gnnexport.nothing"))
    assert app.run(["compress", "model.pt"]) == 1
    assert "pip install" not in capsys.readouterr().err


def test_interrupt(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C exits 130."""
    api.answer("compress", KeyboardInterrupt())
    assert app.run(["compress", "model.pt"]) == 130
    assert capsys.readouterr().err.strip() == "error: gnnexport: interrupted. Nothing was left half-written."
    assert app.run(["compress", "model.pt", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "Interrupted"


def test_terminated(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    """A request of the system to end exits 143, told apart from Ctrl-C."""
    api.answer("compress", Terminated())
    assert app.run(["compress", "model.pt", "--json"]) == 143
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "Terminated"
