"""Print the catalogue of passes or of targets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from gnnexport.cli.document import print_json

if TYPE_CHECKING:
    from gnnexport.catalogue import CatalogueEntry


def print_catalogue(entries: Iterable[CatalogueEntry], *, as_json: bool) -> None:
    """Print each entry with its options, their types and their defaults."""
    if as_json:
        print_json([_plain(entry) for entry in entries])
        return
    for entry in entries:
        typer.echo(f"{entry.name}  ({entry.stage})\n    {entry.summary}")
        for name, kind, default, doc in entry.options:
            typer.echo(f"    {name}={default}  {kind}  {doc}".rstrip())


def _plain(entry: CatalogueEntry) -> dict[str, object]:
    options = [
        {"name": name, "type": kind, "default": default, "doc": doc} for name, kind, default, doc in entry.options
    ]
    return {"name": entry.name, "stage": entry.stage, "summary": entry.summary, "options": options}
