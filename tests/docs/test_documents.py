from __future__ import annotations

import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from gnnexport import errors
from gnnexport.cli import app
from tests.docs.documents import DOCUMENTS, REPOSITORY, blocks, command_lines

NAMES = [document.relative_to(REPOSITORY).as_posix() for document in DOCUMENTS]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    """Every relative link of a document names a file that exists."""
    document = REPOSITORY / name
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("line", [line for document in DOCUMENTS for line in command_lines(document)])
def test_commands_are_understood(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each documented command line has only options that exist: asked for help as well, it gives help."""
    assert app.run([*shlex.split(line, comments=True)[1:], "--help"]) == 0
    assert "Usage:" in capsys.readouterr().out


def test_every_make_task_named_exists() -> None:
    """The documents name only tasks that the Makefile has."""
    tasks = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = {task for document in DOCUMENTS for task in re.findall(r"(?:`|^)make ([a-z]+)", document.read_text(), re.M)}
    assert {"demo", "test"} <= named <= tasks


def test_drawn_layers_are_the_checked_layers() -> None:
    """The table in the architecture lists the layers that import-linter checks, in order."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    contract = settings["tool"]["importlinter"]["contracts"][0]
    checked = [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]
    table = (REPOSITORY / "docs/architecture.md").read_text().partition("| layer | job |\n|---|---|\n")[2]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    drawn = [set(re.findall(r"\w+", row)) for row in rows]
    assert drawn == checked


def test_exit_codes_are_documented() -> None:
    """The two tables of docs/errors.md are complete and right."""
    text = (REPOSITORY / "docs/errors.md").read_text()
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert codes == {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    classes = dict(re.findall(r"^\| `(\w+)` \| (\d) \|", text, re.MULTILINE))
    tree = {name: kind for name, kind in vars(errors).items() if name.endswith(("Error", "Failure"))}
    assert classes == {name: str(kind.exit_code) for name, kind in tree.items()}


def test_the_pass_in_the_guide_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass of docs/writing_a_pass.md, put in its place, passes the test that stands below it."""
    code, test = blocks(REPOSITORY / "docs/writing_a_pass.md", "python")
    module = ModuleType("gnnexport.passes.round_weights")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "the pass", "exec", dont_inherit=True), vars(module))
    exec(compile(test, "its test", "exec", dont_inherit=True), {})


def test_changelog_fragments_are_single_lines() -> None:
    """A fragment is one line in a file named after what it tells."""
    for fragment in sorted((REPOSITORY / "changelog.d").glob("*.md")):
        if fragment.name != "README.md":
            assert re.fullmatch(r"[a-z0-9-]+\.(feature|fix|change|removal)\.md", fragment.name)
            assert len(fragment.read_text().splitlines()) == 1


def test_documents_are_found() -> None:
    """The tests above look at something."""
    assert {Path(name).name for name in NAMES} >= {"README.md", "architecture.md", "errors.md", "writing_a_pass.md"}
