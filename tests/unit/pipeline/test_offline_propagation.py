"""Propagation as a bundle of its own, whose rows an ordinary row-wise model reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.nn import APPNP, MLP
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import scatter

import gnnexport
from gnnexport import api
from gnnexport.frontends.signature import match_inputs
from gnnexport.passes.contract import PassContext, Stage
from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.program import example_inputs
from gnnexport.registry import pass_classes
from tests.docs.documents import REPOSITORY, blocks
from tests.road import CHANNELS, CLASSES, NODES, small_graph

HOPS, THRESHOLD = 2, 0.4
GRAPH = small_graph()
BUILDER = blocks(REPOSITORY / "docs/sparse_edges.md", "python")[0]


def write_graph(folder: Path) -> Path:
    """Write the graph without labels."""
    np.savez(folder / "graph.npz", allow_pickle=False, x=GRAPH["x"], edge_index=GRAPH["edge_index"])
    return folder / "graph.npz"


def by_hand() -> tuple[list[Tensor], float]:
    """Propagate without small messages, hop by hop on fewer edges; tell the share of the edges that went, too."""
    edges, weight = gcn_norm(torch.from_numpy(GRAPH["edge_index"]).long(), num_nodes=NODES)
    assert isinstance(edges, Tensor)
    assert weight is not None
    apart = edges[0] != edges[1]
    made, gone = [torch.from_numpy(GRAPH["x"])], 0
    for _ in range(HOPS):
        stays = ~apart | (made[-1].norm(dim=1)[edges[0]] * weight >= THRESHOLD)
        edges, weight, apart = edges[:, stays], weight[stays], apart[stays]
        gone += int((edges[0] != edges[1]).sum())
        made.append(scatter(made[-1][edges[0]] * weight[:, None], edges[1], 0, NODES, "sum"))
    return made, 1 - gone / (HOPS * GRAPH["edge_index"].shape[1])


def propagated(bundle: Path) -> np.ndarray:
    """Run a bundle once."""
    with gnnexport.load(bundle) as run:
        rows: np.ndarray = run({"x": GRAPH["x"]})["logits"]
    return rows


def test_rows_are_propagated_once_and_read_by_a_model_of_rows(tmp_path: Path) -> None:
    """Without parameters and labels edges go by the threshold, nothing is trained, and both bundles are proven."""
    torch.save(APPNP(HOPS, 0.0).eval(), tmp_path / "propagate.pt")
    made = api.compress(
        tmp_path / "propagate.pt", data=str(write_graph(tmp_path)), passes=[f"sparsify-edges{{threshold={THRESHOLD}}}"],
        target="ort", output=tmp_path / "propagate", time_budget="1s",
    )  # fmt: skip
    assert made.exit_code == 0
    (step,) = (step for step in made.report.steps if step.name.startswith("sparsify-edges"))
    assert "not retrained" in step.notes
    expected, gone = by_hand()
    assert made.report.result.sparsity is not None
    assert made.report.result.sparsity.edges == pytest.approx(gone, abs=1e-6)
    assert 0.2 < gone < 0.9
    rows = propagated(tmp_path / "propagate")
    np.testing.assert_allclose(rows, expected[-1], rtol=1e-4, atol=1e-5)

    torch.manual_seed(0)
    torch.save(MLP([CHANNELS, 8, CLASSES], norm=None).eval(), tmp_path / "rows.pt")
    np.savez(tmp_path / "rows.npz", allow_pickle=False, **{**GRAPH, "x": rows})
    served = api.export(
        tmp_path / "rows.pt", data=str(tmp_path / "rows.npz"), mode="graphs", target="ort", output=tmp_path / "rows",
        time_budget="1s",
    )  # fmt: skip
    assert served.exit_code == 0
    with gnnexport.load(tmp_path / "rows") as run:
        assert run({"x": rows[:7]})["logits"].shape == (7, CLASSES)


def test_copies_of_all_hops_come_from_a_builder(tmp_path: Path) -> None:
    """The module of docs/sparse_edges.md has an empty state dict; SIGN's rows lie side by side."""
    (tmp_path / "propagate.py").write_text(BUILDER)
    torch.save({}, tmp_path / "weights.pt")
    made = api.compress(
        tmp_path / "weights.pt", data=str(write_graph(tmp_path)), builder="propagate.py:build",
        passes=[f"sparsify-edges{{threshold={THRESHOLD}}}"], target="ort", output=tmp_path / "sign", time_budget="1s",
    )  # fmt: skip
    assert made.exit_code == 0
    np.testing.assert_allclose(propagated(tmp_path / "sign"), torch.cat(by_hand()[0], 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [APPNP(HOPS, 0.0), MLP([CHANNELS, CLASSES], norm=None)])
def test_every_pass_is_asked_about_models_without_parameters_or_edges(model: torch.nn.Module) -> None:
    """What `auto` tries refuses them with a mend where there is nothing to do, and does not fail."""
    edges = torch.from_numpy(GRAPH["edge_index"]).long()
    data = GraphData("graph", {"x": torch.from_numpy(GRAPH["x"]), "edge_index": edges})
    inputs = match_inputs(model.eval(), data)
    program = run_passes(capture(model, inputs, example_inputs(inputs)), CANONICAL, PassContext(data=data)).program
    for name, kind in pass_classes().items():
        if kind.stage is not Stage.SIMPLIFY:
            problems = kind().check(program, PassContext(data=data))
            assert all(problem.what and problem.mend for problem in problems), name
    assert SparsifyEdges().check(program, PassContext(data=data)) == [] or isinstance(model, MLP)


def test_a_model_without_parameters_cannot_be_trained(tmp_path: Path) -> None:
    """`inspect` says so."""
    torch.save(APPNP(HOPS, 0.0).eval(), tmp_path / "propagate.pt")
    found = api.inspect(tmp_path / "propagate.pt", data=write_graph(tmp_path)).to_dict()
    assert found["model"]["training_blocker"] == "no parameter requires a gradient"
