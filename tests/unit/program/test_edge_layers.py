"""Layers that pass messages along edges, and the op that leaves slots out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv, TransformerConv, global_add_pool
from torch_geometric.utils import scatter

from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.edge_layers import EdgeLayer, find_layers
from gnnexport.program.graphs import calls, output_node
from gnnexport.program.inputs import Input, Role
from gnnexport.program.program import Program, example_inputs
from tests.small_models import INPUTS, WIDTH, Handwritten, split

gnn = torch.ops.gnn


def layers_of(program: Program) -> list[EdgeLayer]:
    """Find the layers of a Program."""
    program = program.clone().train(False)
    program.annotate()
    return find_layers(program)


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("GCN", ["convs.0", "convs.1"]),
        ("GAT", ["convs.0", "convs.1"]),
        ("GAT edge features", ["convs.0", "convs.1"]),
        ("GCN jumping knowledge", ["convs.0", "convs.1"]),
        ("PNA", ["convs.0", "convs.1"]),
    ],
)
def test_each_convolution_is_a_layer(name: str, modules: list[str]) -> None:
    """However many ops it takes, a convolution is one layer of its own, in graph order."""
    found = layers_of(split(name))
    assert list(dict.fromkeys(layer.name.partition(" ")[0] for layer in found)) == modules
    assert not any(layer.blocker for layer in found)
    assert all(layer.structure.loops for layer in found)


def test_attention_is_one_layer() -> None:
    """Gathers, scores, softmax and sum of a head go together: an edge is left out of all of them."""
    first, _ = layers_of(split("GAT edge features"))
    assert len(first.reductions) == 1
    assert len(first.nodes) > 4


def test_a_readout_is_none() -> None:
    """Sums over the nodes of a graph have no edges to leave out."""

    class Readout(nn.Module):
        """One convolution, and a sum for each graph."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = GCNConv(WIDTH, 4)

        def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
            """Answer for each graph."""
            out: Tensor = global_add_pool(self.conv(x, edge_index), batch, num_graphs)
            return out

    inputs = (
        INPUTS["x"],
        INPUTS["edge_index"],
        Input("batch", Role.GRAPH_IDS, "int64", ("num_nodes",)),
        Input("num_graphs", Role.NUM_GRAPHS, "int64", ()),
    )
    program = run_passes(capture(Readout().eval(), inputs, example_inputs(inputs)), CANONICAL, PassContext()).program
    (layer,) = layers_of(program)
    assert layer.name.startswith("conv")


def test_messages_made_for_edges_are_part_of_the_layer() -> None:
    """What a layer computes of features of edges, and of both ends, is found with it."""
    inputs = (INPUTS["x"], INPUTS["edge_index"], INPUTS["edge_attr"])
    model = TransformerConv(WIDTH, 4, heads=2, edge_dim=4).eval()
    program = run_passes(capture(model, inputs, example_inputs(inputs)), CANONICAL, PassContext()).program
    (layer,) = layers_of(program)
    assert not layer.blocker
    assert layer.shared  # the map of the edges' features


def test_sums_by_source_and_by_destination_are_two_layers() -> None:
    """Each order of the edges is a structure of its own; what one sums up the other may read."""
    first, second = layers_of(split("two_structures"))
    assert first.structure.rowptr != second.structure.rowptr
    assert not first.blocker
    assert not second.blocker


def shared_out(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Weigh messages by a softmax over all edges."""
    messages = model.first(x)[edge_index[0]]
    return model.last(scatter(messages * messages[:, :1].softmax(0), edge_index[1], 0, x.size(0), "sum"))


def test_edges_that_hang_on_each_other_are_told() -> None:
    """Leaving one out would change another: the layer says so."""
    inputs = (INPUTS["x"], INPUTS["edge_index"])
    model = Handwritten(shared_out).eval()
    program = run_passes(capture(model, inputs, example_inputs(inputs)), CANONICAL, PassContext()).program
    (layer,) = layers_of(program)
    assert "computes an edge from other edges" in layer.blocker


def test_what_else_reads_the_edges_is_told() -> None:
    """An answer that hangs on the attention of all edges would change with any that goes."""
    program = split("GAT").clone()
    graph = program.body.graph
    attention = next(calls(graph, gnn.edge_softmax.default))
    output = output_node(graph)
    with graph.inserting_before(output):
        mean = graph.call_function(torch.ops.aten.mean.default, (attention,))
        output.args = (graph.call_function(torch.ops.aten.add.Tensor, (output.args[0], mean)),)
    program.body.recompile()
    first, second = layers_of(program)
    assert "reads all edges at once" in first.blocker
    assert not second.blocker


def test_slots_of_some_edges() -> None:
    """Pointers and slots of what stays, by the place of the edge in the input; of another graph everything stays."""
    dst = torch.tensor([2, 0, 2, 1, 0])
    rowptr, perm = gnn.csr(dst, 4)
    kept = torch.tensor([True, False, True, False, True])
    left, slots = gnn.keep_slots(rowptr, perm, kept, 4)
    assert perm[slots].tolist() == [4, 0, 2]
    assert left.tolist() == [0, 1, 1, 3, 3]
    for other, rows in ((kept[1:], 4), (kept, 5)):
        whole, slots = gnn.keep_slots(rowptr, perm, other, rows)
        assert torch.equal(whole, rowptr)
        assert slots.tolist() == [0, 1, 2, 3, 4]


def test_its_schema_and_shapes_are_right() -> None:
    """What torch is told of the op is what it does."""
    rowptr, perm = gnn.csr(torch.tensor([1, 0, 1]), 2)
    arguments = (rowptr, perm, torch.tensor([True, False, True]), 2, 1)
    torch.library.opcheck(gnn.keep_slots.default, arguments, test_utils=("test_schema", "test_faketensor"))
