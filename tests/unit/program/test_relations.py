"""Layers that treat edges by their type."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch_geometric.backend
from torch import Tensor, nn
from torch_geometric.nn import FastRGCNConv, FiLMConv, RGATConv, RGCNConv

from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.inspection import slow_ops
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.inputs import NUM_EDGES, NUM_NODES, Input, Role
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.relations import choose_after_product
from gnnexport.program.verify import relative_error
from gnnexport.runtime.ort import OrtBackend
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx.translate_graphs import translate_graphs
from gnnexport.targets.ort import OrtTarget
from tests.small_models import INPUTS, WIDTH

RELATIONS = 3
TYPED = (INPUTS["x"], INPUTS["edge_index"], Input("edge_type", Role.EDGE_TYPE, "int64", (NUM_EDGES,), RELATIONS))
LAYERS = {
    "loop": lambda: RGCNConv(WIDTH, 4, RELATIONS),
    "bases": lambda: RGCNConv(WIDTH, 4, RELATIONS, num_bases=2),
    "blocks": lambda: RGCNConv(WIDTH, 4, RELATIONS, num_blocks=2),
    "gathered matrices": lambda: FastRGCNConv(WIDTH, 4, RELATIONS),
    "attention": lambda: RGATConv(WIDTH, 4, RELATIONS),
    "modulation": lambda: FiLMConv(WIDTH, 4, RELATIONS),
}


def captured(name: str) -> tuple[nn.Module, Program]:
    """Return a layer and its simplified Program."""
    torch.manual_seed(0)
    layer = LAYERS[name]().eval()
    program = capture(layer, TYPED, example_inputs(TYPED))
    return layer, run_passes(program, CANONICAL, PassContext()).program


def request(edge_type: Tensor) -> dict[str, Tensor]:
    """Return a graph with these types of edges."""
    generator = torch.Generator().manual_seed(4)
    edge_index = torch.randint(0, 7, (2, len(edge_type)), generator=generator)
    return {"x": torch.randn(9, WIDTH, generator=generator), "edge_index": edge_index, "edge_type": edge_type}


@pytest.mark.parametrize("name", LAYERS)
def test_every_type_of_edges_is_followed(name: str) -> None:
    """Types that a graph has many edges of, one of, and none of; and no message passing is left unrecognised."""
    layer, program = captured(name)
    for types in ([0, 1, 2, 2, 1, 0, 0], [2, 2, 2], [1], []):
        given = request(torch.tensor(types, dtype=torch.int64))
        with torch.no_grad():
            assert relative_error(layer(**given), program(given)) < 1e-5
    assert slow_ops(program) == []


def test_no_matrix_is_gathered_for_each_edge() -> None:
    """A node is multiplied by the matrix of every type, and an edge takes the row that it needs."""
    _, program = captured("gathered matrices")
    program.annotate()
    shapes = [node.meta["shapes"][0] for node in program.body.graph.nodes if "shapes" in node.meta]
    assert all(len(shape) < 3 or shape[0] == RELATIONS or 1 in shape for shape in shapes)


def test_another_product_of_matrices_is_left_alone() -> None:
    """Only rows of nodes by matrices of types are exchanged."""
    graph = torch.fx.Graph()
    given = [graph.placeholder(name) for name in ("left", "right")]
    graph.output(graph.call_function(torch.ops.aten.bmm.default, tuple(given)))
    assert choose_after_product(graph, {}) == 0


def test_the_setting_of_pyg_stays_the_users() -> None:
    """A capture leaves the choice of how relations are multiplied as it was."""
    torch_geometric.backend.use_segment_matmul = True
    try:
        captured("loop")
        assert torch_geometric.backend.use_segment_matmul is True
    finally:
        torch_geometric.backend.use_segment_matmul = None


@pytest.mark.parametrize("name", ["gathered matrices", "attention"])
def test_few_edges_multiply_their_own_rows(name: str, tmp_path: Path) -> None:
    """Where nodes times types are many and edges few, no node is multiplied by a matrix that no edge asks for."""
    torch.manual_seed(0)
    layer = LAYERS[name]().eval()
    sizes = {NUM_NODES: 10_000_000, NUM_EDGES: 1_000}
    program = run_passes(capture(layer, TYPED, example_inputs(TYPED), sizes), CANONICAL, PassContext()).program
    assert slow_ops(program) == []
    products = [node for node in program.body.graph.nodes if node.target is torch.ops.aten.mm.default]
    assert len(products) >= RELATIONS
    OrtTarget(aggregate="ell").emit(translate_graphs(program, request(torch.tensor([0, 1]))), tmp_path, EmitContext())
    backend = OrtBackend(tmp_path / "model.onnx", threads=1)
    for types in ([0, 1, 2, 2, 1, 0, 0], [2, 2, 2], [1], []):
        given = request(torch.tensor(types, dtype=torch.int64))
        with torch.no_grad():
            expected = layer(**given)
            assert relative_error(expected, program(given)) < 1e-5
        found = backend.run({key: value.numpy() for key, value in given.items()})["logits"]
        assert relative_error(expected, torch.from_numpy(found)) < 1e-5
