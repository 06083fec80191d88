"""The documents of the repository, and the blocks of code in them."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path, language: str) -> list[str]:
    """Return the code blocks of a language, in order."""
    return [code for kind, code in _BLOCK.findall(document.read_text()) if kind == language]


def command_lines(document: Path) -> list[str]:
    """Return the lines of shell blocks that call gnnexport."""
    lines = [line for code in blocks(document, "sh") for line in code.splitlines()]
    return [line for line in lines if line.startswith("gnnexport ")]
