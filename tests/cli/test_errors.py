from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

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


def test_code_that_ends_the_program_has_no_say_in_the_exit_code(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sys.exit(0)` in the user's code is not success, and 3 is no verdict."""
    for code in (0, 3):
        api.answer("compress", SystemExit(code))
        assert app.run(["compress", "model.pt"]) == 2
        assert f"ends the program (SystemExit {code}). Take sys.exit out" in capsys.readouterr().err


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
