from __future__ import annotations

import json
from pathlib import Path

import pytest

from gnnexport.cli import app
from tests.road import write_road


def test_a_small_graph_keeps_its_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--passes reorder-nodes` on a graph that any cache holds says so and exports the model as it is."""
    model = write_road(tmp_path)
    assert app.run(["compress", str(model), "--passes", "reorder-nodes", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (step,) = (step for step in report["steps"] if step["pass"].startswith("reorder-nodes"))
    assert not step["kept"]
    assert step["notes"][0].startswith("not tried: rows are gathered from ")
    assert report["speedup"]["against_exported"]["value"] == 1


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_graphs_of_every_request_have_no_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dry: list[str]
) -> None:
    """In mode graphs the pass exits 6 with the way out."""
    model = write_road(tmp_path)
    arguments = ["compress", str(model), "--passes", "reorder-nodes", "--mode", "graphs", *dry]
    assert app.run(arguments) == 6
    printed = " ".join(capsys.readouterr().err.split())
    assert "every request brings another graph" in printed
    assert "--mode full" in printed
    assert not model.with_suffix(".bundle").exists()
