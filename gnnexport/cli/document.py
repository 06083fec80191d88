"""Print one JSON document on stdout."""

from __future__ import annotations

import json
from typing import Any

import typer


def print_json(document: Any) -> None:
    """Print plain data as indented JSON; numbers that JSON has no word for are refused."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False))
