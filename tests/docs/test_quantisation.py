"""What docs/quantisation.md tells to type works as it stands there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from gnnexport.cli import app
from gnnexport.registry import build_passes
from gnnexport.spec import describe
from tests.docs.documents import REPOSITORY, command_lines
from tests.road import write_road

DOCUMENT = REPOSITORY / "docs" / "quantisation.md"
LINES = command_lines(DOCUMENT)
SPECS = sorted(set(re.findall(r"`((?:a2q|quantize|cast)\{[^`]*\})`", DOCUMENT.read_text())))


@pytest.mark.parametrize("line", LINES)
def test_a_documented_line_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line ends with a bundle within tolerance, in which the pass that it names was run and kept."""
    write_road(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(line)[1:]
    assert app.run([*arguments, "--time-budget", "2s"]) == 0
    report = json.loads(Path("model.bundle/report.json").read_text())
    named = {str(describe(item)) for item in build_passes([arguments[arguments.index("--passes") + 1]])}
    assert named <= {step["pass"] for step in report["steps"] if step["kept"]}
    assert report["parity"]["max_rel_error"] <= report["parity"]["tolerance"]


@pytest.mark.parametrize("spec", SPECS)
def test_a_documented_spec_is_understood(spec: str) -> None:
    """Settings that the text and its tables name exist, with values that are allowed."""
    assert build_passes([spec])


def test_every_quantising_pass_is_shown() -> None:
    """The tests above look at each pass that the document is about."""
    shown = " ".join([*LINES, *SPECS])
    assert {name for name in ("a2q", "quantize", "cast") if f'"{name}{{' in shown} == {"a2q", "quantize", "cast"}
