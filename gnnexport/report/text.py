"""Render a report for the terminal."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from gnnexport.bundle.report_schema import Report
from gnnexport.report.headings import doings, facts, title
from gnnexport.report.tables import Table, tables

_COLOURS = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}


def to_renderable(report: Report) -> Group:
    """Lay the report out for a rich console."""
    parts: list[Text | RichTable] = [Text(title(report), style=_COLOURS[report.verdict])]
    parts += [Text(f"  {reason}") for reason in report.reasons]
    for table in tables(report):
        parts += [Text(""), _table(table)]
    parts += [Text(""), *(Text(f"  {line}") for line in doings(report)), Text("")]
    parts += [Text(f"{name}: {value}", style="dim") for name, value in facts(report)]
    parts += [Text(f"note: {note}") for note in report.notes]
    return Group(*parts)


def to_text(report: Report, *, width: int = 100) -> str:
    """Write the report as plain text without colours."""
    console = Console(width=width, color_system=None, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(to_renderable(report))
    return capture.get()


def _table(table: Table) -> RichTable:
    made = RichTable(title=table.title, title_justify="left", show_edge=False, pad_edge=False)
    for position, column in enumerate(table.columns):
        made.add_column(Text(column), justify="left" if position == 0 else "default", overflow="fold")
    for row in table.rows:
        made.add_row(*(Text(cell) for cell in row))
    return made
