"""Models that answer for graphs, and for pairs of nodes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import (
    GCNConv,
    GINConv,
    Sequential,
    global_add_pool,
    global_max_pool,
    global_mean_pool,
)
from torch_geometric.utils import softmax

from gnnexport.errors import UnsupportedError
from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import CANONICAL, FINAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.inputs import NUM_GRAPHS, NUM_NODES, NUM_PAIRS, Input, Role
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.text import to_text
from gnnexport.program.verify import TOLERANCE, relative_error
from tests.small_models import INPUTS, WIDTH, ops

BATCHED = (
    INPUTS["x"],
    INPUTS["edge_index"],
    Input("batch", Role.GRAPH_IDS, "int64", (NUM_NODES,)),
)
COUNTED = (*BATCHED, Input(NUM_GRAPHS, Role.NUM_GRAPHS, "int64", ()))
PAIRED = (INPUTS["x"], INPUTS["edge_index"], Input("edge_label_index", Role.LABEL_EDGES, "int64", (2, NUM_PAIRS)))

Readout = Callable[[Tensor, Tensor], Tensor]


class Pooled(nn.Module):
    """A layer, a readout, a linear map."""

    def __init__(self, readout: Readout, width: int = 8) -> None:
        super().__init__()
        self.conv = GCNConv(WIDTH, 8)
        self.last = nn.Linear(width, 2)
        self.readout = readout

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """Answer for each graph."""
        return self.last(self.readout(self.conv(x, edge_index).relu(), batch))


class Counted(nn.Module):
    """A readout that is told how many graphs there are."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """Answer for each graph, of neighbours and all."""
        return self.last(global_add_pool(x + x[edge_index[0]].mean(), batch, size=num_graphs))


class LinkPredictor(nn.Module):
    """An encoder, and the dot product of both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(WIDTH, 8)

    def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor) -> Tensor:
        """Score each pair."""
        h = self.conv(x, edge_index)
        return (h[edge_label_index[0]] * h[edge_label_index[1]]).sum(-1)


def both(x: Tensor, batch: Tensor) -> Tensor:
    """Join two readouts."""
    return torch.cat([global_mean_pool(x, batch), global_max_pool(x, batch)], -1)


def last_id(x: Tensor, batch: Tensor) -> Tensor:
    """Count graphs by the last node."""
    return global_add_pool(x, batch, size=int(batch[-1]) + 1)


def attention(x: Tensor, batch: Tensor) -> Tensor:
    """Weigh the nodes of a graph by a softmax over them."""
    share = softmax(x[:, 0], batch, num_nodes=int(batch.max()) + 1)
    return global_add_pool(x * share[:, None], batch)


def simplified(program: Program) -> Program:
    """Run every pass that precedes lowering."""
    ctx = PassContext()
    return run_passes(run_passes(program, CANONICAL, ctx).program, FINAL, ctx).program


READOUTS = [
    (global_add_pool, 8), (global_mean_pool, 8), (global_max_pool, 8), (both, 16), (last_id, 8), (attention, 8),
]  # fmt: skip


@pytest.mark.parametrize(("readout", "width"), READOUTS, ids=lambda item: getattr(item, "__name__", None))
def test_the_number_of_graphs_becomes_an_input(readout: Readout, width: int) -> None:
    """A readout that counts graphs by the largest id is told their number instead, before and after all passes."""
    torch.manual_seed(0)
    model = Pooled(readout, width).eval()
    program = capture(model, BATCHED, example_inputs(BATCHED))
    assert [item.name for item in program.inputs] == ["x", "edge_index", "batch", NUM_GRAPHS]
    assert program.level == "graph"
    example = program.example(17)
    with torch.no_grad():
        expected, empty = model(*(example[item.name] for item in BATCHED)), model.last(torch.zeros(width))
    assert int(example[NUM_GRAPHS]) == len(expected) + 1  # the last graph is empty, which the model cannot know
    for candidate in (program, simplified(program)):
        with torch.no_grad():
            actual = candidate(example)
        assert relative_error(expected, actual[: len(expected)]) <= TOLERANCE
        torch.testing.assert_close(actual[-1], empty)


def test_readouts_are_raised() -> None:
    """A readout aggregates over the structure of graph ids; nothing scatters any more, and text names the sizes."""
    program = simplified(capture(Pooled(both, 16).eval(), BATCHED, example_inputs(BATCHED)))
    assert ops(program).count("gnn.aggregate") == 3
    assert not [op for op in ops(program) if "scatter" in op]
    assert "[num_graphs, 2]" in to_text(program)


def test_a_readout_permutes_nothing_twice() -> None:
    """What a readout reads is computed once, in the order of the nodes, although another layer reads it as well."""

    class Jumping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = GCNConv(WIDTH, 8), GCNConv(8, 8)

        def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
            h = self.first(x, edge_index).relu()
            return global_add_pool(h, batch) + global_add_pool(self.second(h, edge_index), batch)

    program = simplified(capture(Jumping().eval(), BATCHED, example_inputs(BATCHED)))
    assert ops(program).count("aten.relu") == 1


def test_a_model_may_take_the_number_of_graphs() -> None:
    """`num_graphs` as an argument stays dynamic."""
    model = Counted().eval()
    program = capture(model, COUNTED, example_inputs(COUNTED))
    example = program.example(23)
    with torch.no_grad():
        expected = model(example["x"], example["edge_index"], example["batch"], int(example[NUM_GRAPHS]))
        assert relative_error(expected, simplified(program)(example)) <= TOLERANCE


def test_ids_that_nothing_reads_stay_out() -> None:
    """A model for nodes may take `batch` and leave it alone: the Program does not ask for it."""

    class Idle(LinkPredictor):
        def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
            return self.conv(x, edge_index)

    program = capture(Idle().eval(), BATCHED, example_inputs(BATCHED))
    assert [item.name for item in program.inputs] == ["x", "edge_index"]
    assert (program.level, program.training_blocker) == ("node", None)
    assert simplified(program)(program.example(17)).shape == (17, 8)


def test_pairs_are_a_request() -> None:
    """Link prediction answers for each pair; the pairs stay with the features when the structure is split off."""
    model = LinkPredictor().eval()
    program = simplified(capture(model, PAIRED, example_inputs(PAIRED)))
    assert program.level == "pair"
    assert [item.name for item in program.features] == ["x", "edge_label_index"]
    example = program.example(17)
    with torch.no_grad():
        assert relative_error(model(**example), program(example)) <= TOLERANCE


def test_a_batch_may_be_empty_of_edges_and_hold_one_graph() -> None:
    """One graph of one node without edges goes through."""
    convolution = GINConv(nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 8)))
    model = Sequential(
        "x, edge_index, batch", [(convolution, "x, edge_index -> x"), (global_add_pool, "x, batch -> x")]
    )
    program = simplified(capture(model.eval(), BATCHED, example_inputs(BATCHED)))
    one = {
        "x": torch.ones(1, WIDTH), "edge_index": torch.zeros(2, 0, dtype=torch.int64),
        "batch": torch.zeros(1, dtype=torch.int64), NUM_GRAPHS: torch.tensor(1),
    }  # fmt: skip
    with torch.no_grad():
        assert relative_error(model(one["x"], one["edge_index"], one["batch"]), program(one)) <= TOLERANCE


def test_graphs_counted_behind_a_pooling() -> None:
    """Graphs at the end without nodes are lost to a model that counts what its pooling kept; the mend says how not."""

    class Kept(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
            kept = torch.argsort(x[:, 0] + 0 * edge_index.sum())
            return global_add_pool(x[kept], batch[kept])

    with pytest.raises(UnsupportedError, match=r"gives a result of shape \[3, 6\].*let forward take num_graphs"):
        capture(Kept(), BATCHED, example_inputs(BATCHED))


def test_an_output_without_meaning_is_refused() -> None:
    """A row has to answer for a node, a graph or a pair."""

    class Constant(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return torch.zeros(3, 2) + x.sum() + edge_index.sum()

    inputs = (INPUTS["x"], INPUTS["edge_index"])
    with pytest.raises(UnsupportedError, match=r"gives a result of shape \[3, 2\] for 11 nodes"):
        capture(Constant(), inputs, example_inputs(inputs))
