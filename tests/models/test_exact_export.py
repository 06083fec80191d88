"""Real graphs: the export computes what the model computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.real_data import find, reason
from benchmarks.training import MODELS, build_model, train_model
from gnnexport import api, load
from gnnexport.frontends.data import load_data
from gnnexport.validate.parity import compare_outputs

TOLERANCE = 1e-4
LARGE = "amazon_computers"
CASES = [
    *((name, "cora") for name in sorted(MODELS)),
    *(pytest.param(name, LARGE, marks=() if name == "GCN" else pytest.mark.slow) for name in sorted(MODELS)),
]


@pytest.mark.parametrize(("name", "graph"), CASES)
def test_export_of_trained_model_is_exact(name: str, graph: str, tmp_path: Path) -> None:
    """Logits agree within 1e-4 of the largest, and the metric differs only if a prediction moved."""
    path = find(graph)
    if path is None:
        pytest.skip(reason(graph))
    data, _ = load_data(path)
    model = build_model(name, data, layers=2, hidden=32, seed=0)
    train_model(model, data, epochs=6, seed=0)
    torch.save(model, tmp_path / "model.pt")
    with torch.no_grad():
        expected = model(data.inputs["x"], data.inputs["edge_index"]).numpy()

    outcome = api.export(tmp_path / "model.pt", data=path, embed_data="0MB", time_budget="2s")
    with load(outcome.bundle) as run:
        parity = compare_outputs({"logits": expected}, run({"x": data.inputs["x"].numpy()}))

    assert parity.max_rel_error <= TOLERANCE
    assert outcome.exit_code == 0
    same_metric = outcome.report.result.metric == outcome.report.baseline.metric
    assert same_metric or parity.moved > 0
