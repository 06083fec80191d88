from __future__ import annotations

import subprocess
import sys

import pytest

from gnnexport.cli import app

COMMANDS = ["compress", "export", "inspect", "validate", "bench", "passes", "targets", "doctor"]
HEAVY = ["numpy", "onnx", "onnxruntime", "openvino", "rich", "scipy", "sklearn", "torch", "torch_geometric"]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`gnnexport --help` lists all commands."""
    assert app.run(["--help"]) == 0
    printed = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n  {name} " not in printed] == []


def test_no_arguments_print_help(capsys: pytest.CaptureFixture[str]) -> None:
    """A bare `gnnexport` is a question, not an error."""
    assert app.run([]) == 0
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command explains itself and offers JSON."""
    assert app.run([command, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    """Help starts fast because no heavy library is imported for it."""
    code = (
        "import sys; from gnnexport.cli import app; app.run(['compress', '--help']);"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the name and the version."""
    assert app.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("gnnexport ")


def test_runs_as_a_module() -> None:
    """`python -m gnnexport` is the same command line."""
    done = subprocess.run([sys.executable, "-m", "gnnexport", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: gnnexport")
