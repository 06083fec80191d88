"""Render a report as Markdown, for `report.md`."""

from __future__ import annotations

from gnnexport.bundle.report_schema import Report
from gnnexport.report.headings import doings, facts, title
from gnnexport.report.tables import Table, tables


def to_markdown(report: Report) -> str:
    """Write the whole report as Markdown."""
    parts = [f"# {_cell(title(report))}", _bullets(report.reasons)]
    parts.append("\n".join(f"- {name}: {_cell(value)}" for name, value in facts(report)))
    for table in tables(report):
        parts += [f"## {table.title}", _table(table)]
    if doings(report):
        parts += ["## What the passes did", _bullets(doings(report))]
    if report.notes:
        parts += ["## Notes", _bullets(report.notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _bullets(lines: tuple[str, ...]) -> str:
    return "\n".join(f"- {_cell(line)}" for line in lines)


def _table(table: Table) -> str:
    lines = [table.columns, tuple("---" for _ in table.columns), *table.rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Keep a name from a file from breaking out of its cell or becoming a tag."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
