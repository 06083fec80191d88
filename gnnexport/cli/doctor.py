"""`gnnexport doctor`: what works on this machine."""

from __future__ import annotations

import typer

from gnnexport.cli import options
from gnnexport.cli.document import print_json


def doctor(json: options.Json = False) -> int:
    """Say what works here, and what to install for the rest."""
    from gnnexport import api

    entries = api.doctor()
    if json:
        print_json([{"name": e.name, "ok": e.ok, "version": e.version, "mend": e.mend} for e in entries])
        return 0
    for entry in entries:
        state = entry.version if entry.ok else f"{entry.version or 'missing'}. {entry.mend}"
        typer.echo(f"{'ok' if entry.ok else '--'}  {entry.name:<18} {state}")
    return 0
