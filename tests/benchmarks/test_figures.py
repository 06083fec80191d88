"""What the benchmarks share."""

from __future__ import annotations

import json

import pytest

from benchmarks import figures, node_order
from benchmarks.figures import TIMED, Row, markdown, options, save
from gnnexport.measure.timing import Timing
from gnnexport.native.library import why_missing

FAST = Timing(2.0, 3.0, 3.0, 6, (2.0, 2.0, 2.0))
SLOW = Timing(500.0, 1234.5, 1300.0, 3, (500.0, 500.0, 500.0))


def test_a_table_has_a_line_for_each_row():
    """Times are set against ours, and a contender that was compared with nothing has no error."""
    rows = [Row.of("a", SLOW, FAST, 1.5e-7), Row.of("b", FAST, FAST, None)]
    assert rows[0].times_ours == 250
    lines = markdown(TIMED, (row.cells() for row in rows)).splitlines()
    assert lines[1] == "|---|---|---|---|---|---|"
    assert lines[2] == "| a | 500 | 1,234 | 250.00 | 250.00–250.00 | 1.5e-07 |"
    assert lines[3] == "| b | 2 | 3 | 1.00 | 1.00–1.00 |  |"


def test_figures_are_written_where_the_options_say(tmp_path, monkeypatch, capsys):
    """With what they were taken on; those of the quick form only where a file is named."""
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    parser = options("", quick=True)
    save({"rows": [1]}, "some", parser.parse_args(["--quick"]))
    assert list(tmp_path.iterdir()) == []
    save({"rows": [1]}, "some", parser.parse_args(["--threads=3"]))
    found = json.loads((tmp_path / "some.json").read_text())
    assert (found["rows"], found["environment"]["threads"]) == ([1], 3)
    save({}, "some", parser.parse_args(["--quick", f"--output={tmp_path / 'new' / 'other.json'}"]))
    assert f"written to {tmp_path / 'new' / 'other.json'}" in capsys.readouterr().out


@pytest.mark.skipif(why_missing() is not None, reason=f"the kernels: {why_missing()}")
def test_the_quick_form_takes_no_budget(monkeypatch):
    """Tiny graphs are not timed for as long as large ones."""
    budgets = []
    monkeypatch.setattr(node_order, "measure", lambda *given: budgets.append(given[-1]) or [])
    monkeypatch.setattr("sys.argv", ["node_order", "--quick"])
    node_order.main()
    assert budgets == [0.0, 0.0]
