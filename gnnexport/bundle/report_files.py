"""Write the reports of a bundle; they stand outside the manifest's list, so `validate` may renew them."""

from __future__ import annotations

from pathlib import Path

from gnnexport.bundle.atomic import write_text
from gnnexport.bundle.layout import REPORT, REPORT_TEXT
from gnnexport.bundle.report_schema import Report


def write_reports(folder: Path, report: Report, markdown: str) -> None:
    """Write `report.json` and `report.md` into a bundle, each as a whole.

    Raises:
        UsageError: the disk is full or the folder cannot be written.
    """
    write_text(folder / REPORT, report.to_json())
    write_text(folder / REPORT_TEXT, markdown)
