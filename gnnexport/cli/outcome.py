"""Tell what a finished command measured, and where the files lie."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from gnnexport.cli.document import print_json

if TYPE_CHECKING:
    from gnnexport.api import Outcome

WIDTH = 120
"""Columns of a report that goes into a file."""


def tell(outcome: Outcome, *, as_json: bool) -> int:
    """Print the reports and return the exit code.

    The JSON is the report itself, or with several targets an object of reports by target.
    """
    if as_json:
        documents = {target: report.to_dict() for target, report in outcome.reports.items()}
        print_json(next(iter(documents.values())) if len(documents) == 1 else documents)
        return outcome.exit_code

    from rich.console import Console

    from gnnexport.report.text import to_renderable

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    for target, report in outcome.reports.items():
        console.print(to_renderable(report))
        if target in outcome.bundles:
            typer.echo(f"bundle: {outcome.bundles[target]}")
    return outcome.exit_code
