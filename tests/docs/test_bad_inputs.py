"""The table of what goes wrong is what goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.bad_inputs import BEGIN, CASES, DOCUMENT, END, Case, outcome, row


def documented() -> list[str]:
    """Return the rows of the table, without its head."""
    table = DOCUMENT.read_text().split(BEGIN)[1].split(END)[0]
    return table.splitlines(keepends=True)[2:]


@pytest.mark.parametrize("case", CASES, ids=[f"{case.kind}: {case.name}" for case in CASES])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_wrong_input_ends_as_documented(case: Case, tmp_path: Path) -> None:
    """Exit code and message are those of the document, and nothing is left behind."""
    code, message = outcome(case, tmp_path)
    assert code in (2, 5, 6)
    assert "Traceback" not in message
    assert row(case, code, message) in documented()


def test_every_row_is_a_case() -> None:
    """No row stands there that nobody runs."""
    assert len(documented()) == len(CASES)
