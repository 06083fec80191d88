from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn.functional import linear
from torch_geometric.nn import GCNConv, global_add_pool

from gnnexport.errors import SpecError
from gnnexport.passes.a2q import A2Q
from gnnexport.passes.contract import PassContext
from gnnexport.passes.reorder_nodes import ReorderNodes
from gnnexport.pipeline.steps import CANONICAL, Stepped, run_pass, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.dialect.quantize import whole_bits
from gnnexport.program.graphs import args_of, calls
from gnnexport.program.inputs import Input, Role
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.quantised import Quantiser, quantisers
from gnnexport.program.text import to_text
from gnnexport.registry import build_passes
from gnnexport.targets.onnx.quantisers import quantise_nodes, read_quantiser
from gnnexport.targets.onnx.translate import translate
from tests.graph_strategies import graphs
from tests.passes.checks import assert_equal_on
from tests.small_models import EDGE_WIDTH, WIDTH, captured, ops, run, split

gnn = torch.ops.gnn
aten = torch.ops.aten

NODES, EDGES = 60, 240
KINDS = ("rcm", "degree")
KEEPING_BITS = ["GCN weighted", "GraphSAGE max", "GIN", "GAT edge features", "PNA", "Sequential", "two_structures"]
"""Models in which nothing but messages passes from node to node."""


def graph(num_nodes: int = NODES, seed: int = 1) -> dict[str, Tensor]:
    """Return a random graph with everything that the small models read."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(num_nodes, WIDTH, generator=generator),
        "edge_index": torch.randint(0, num_nodes, (2, EDGES), generator=generator),
        "edge_weight": torch.rand(EDGES, generator=generator) + 0.1,
        "edge_attr": torch.randn(EDGES, EDGE_WIDTH, generator=generator),
    }


def context(inputs: Mapping[str, Tensor] | None = None, notes: list[str] | None = None) -> PassContext:
    """Return the context of a pass on a graph."""
    found = [] if notes is None else notes
    return PassContext(data=GraphData("random", graph() if inputs is None else inputs), note=found.append)


@cache
def rows_are_alike() -> bool:
    """Tell whether products give a row the same bits wherever it stands, which libraries do on some processors."""
    generator = torch.Generator().manual_seed(0)
    rows, order = torch.randn(NODES, WIDTH, generator=generator), torch.randperm(NODES, generator=generator)
    return all(
        torch.equal(linear(rows, matrix)[order], linear(rows[order], matrix))
        for matrix in (torch.randn(width, WIDTH, generator=generator) for width in range(1, 33))
    )


def same_bits(answers: Tensor, expected: Tensor) -> bool:
    """Tell whether answers are the same to the bit, or to rounding where products alone are not."""
    if rows_are_alike():
        return torch.equal(answers, expected)
    return torch.allclose(answers, expected, rtol=1e-6, atol=1e-6)


def renumbered(program: Program, kind: str = "rcm", inputs: Mapping[str, Tensor] | None = None) -> Program:
    """Run the pass as the pipeline does, however small the graph, and check that it did something."""
    item = ReorderNodes(order=kind, cache_kib=0)
    before, state = to_text(program), {key: value.clone() for key, value in program.state_dict().items()}
    after = run_pass(Stepped(program), item, context(inputs)).program
    assert to_text(program) == before
    assert all(torch.equal(value, state[key]) for key, value in program.state_dict().items())
    assert after.prepare is not None
    assert len(list(calls(after.prepare.graph, gnn.order.default))) == 1
    return after


@cache
def once(name: str, kind: str) -> Program:
    """Return a small model on renumbered nodes; nobody may change the result."""
    return renumbered(split(name), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", KEEPING_BITS)
def test_answers_keep_their_bits(name: str, kind: str) -> None:
    """Every row adds the same numbers in the same order as before."""
    inputs = graph()
    assert same_bits(run(once(name, kind), inputs), run(split(name), inputs))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(inputs=graphs())
def test_the_program_is_right_for_every_graph(kind: str, inputs: dict[str, Tensor]) -> None:
    """The order follows from the edges: without edges, with one node, duplicates and loops the answers stay."""
    for name in ("GCN", "GAT edge features", "two_structures"):
        assert_equal_on(once(name, kind), inputs, run(captured(name), inputs))


def test_rows_go_there_and_back_once() -> None:
    """The body permutes its rows and the answer's rows, however many layers lie between; weights stay as they are."""
    before, after = split("GIN"), once("GIN", "rcm")
    assert ops(after).count("aten.index_select") == ops(before).count("aten.index_select") + 2
    assert ops(after).count("gnn.aggregate") == ops(before).count("gnn.aggregate")
    assert after.structure_names[-2:] == ("node_in_place", "place_of_node")
    assert after.state_dict().keys() == before.state_dict().keys()


def test_the_narrower_side_of_a_linear_map_is_permuted() -> None:
    """Rows of many features are mapped to few channels before they are permuted, behind dropout and quantisers too."""
    inputs = (
        Input("x", Role.NODE_FEATURES, "float32", ("num_nodes", 40)),
        Input("edge_index", Role.EDGE_INDEX, "int64", (2, "num_edges")),
    )

    class Model(nn.Module):
        """A layer behind dropout."""

        def __init__(self) -> None:
            super().__init__()
            self.dropout, self.conv = nn.Dropout(0.5), GCNConv(40, 8)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            """Run it."""
            out: Tensor = self.conv(self.dropout(x), edge_index)
            return out

    program = run_passes(capture(Model().eval(), inputs, example_inputs(inputs)), CANONICAL, PassContext()).program
    data = {**graph(), "x": torch.randn(NODES, 40)}
    levels = A2Q(assign="node", inputs="rows", epochs=0).run(program, context(data))
    for before in (program, levels):
        after = renumbered(before, inputs=data)
        first = next(calls(after.body.graph, aten.index_select.default))
        assert args_of(first)[0].target is aten.linear.default
        assert same_bits(run(after, data), run(before, data))


def test_neighbours_come_to_lie_together() -> None:
    """On a ring numbered at random, rcm brings the ends of every edge within two rows; the note tells."""
    ring = torch.randperm(NODES, generator=torch.Generator().manual_seed(0))
    edges = torch.cat([torch.stack([ring, ring.roll(1)]), torch.stack([ring.roll(1), ring])], 1)
    notes: list[str] = []
    after = ReorderNodes(cache_kib=0).run(split("GCN"), context({**graph(), "edge_index": edges}, notes))
    *_, places = after.structure({**graph(), "edge_index": edges})
    apart = (places[edges[0]] - places[edges[1]]).abs()
    assert int(apart.max()) <= 2
    assert notes[0].startswith("the ends of an edge lie 2 rows apart instead of ")


def test_hubs_come_first() -> None:
    """By degree the first row is the node with most edges, and equal ones stay in order."""
    edges = torch.tensor([[5, 5, 5, 0, 2], [1, 2, 3, 2, 4]])
    nodes, places = gnn.order(edges, 6, None, "degree")
    assert nodes.tolist() == [2, 5, 0, 1, 3, 4]
    assert places[nodes].tolist() == list(range(6))


def test_nodes_of_a_graph_stay_together() -> None:
    """In a set of graphs the number of the graph still never falls from row to row."""
    batch = torch.arange(NODES) % 2
    nodes, _ = gnn.order(graph()["edge_index"], NODES, batch, "rcm")
    assert bool((batch[nodes].diff() >= 0).all())
    assert sorted(nodes.tolist()) == list(range(NODES))


@cache
def quantised(name: str) -> Program:
    """Return a model in which every node has steps and widths of its own; nobody may change the result."""
    program = A2Q(bits=3, assign="node", inputs="rows", epochs=0).run(split(name), context())
    program.annotate()
    assert {len(item.step) for item in tables_of(program)} == {NODES}
    return program


def tables_of(program: Program) -> list[Quantiser]:
    """Return the quantisers by nodes."""
    return [item for item in quantisers(program) if item.of_nodes and item.by == "rows"]


@pytest.mark.parametrize("name", ["GCN", "GIN", "GAT"])
def test_steps_and_widths_of_nodes_move_with_them(name: str) -> None:
    """Answers keep their bits, and reports find the same quantisers as before."""
    before = quantised(name)
    after = renumbered(before)
    assert same_bits(run(after, graph()), run(before, graph()))
    after.annotate()
    found = [(item.name, item.of_nodes, item.raw, len(item.step)) for item in quantisers(after)]
    assert found == [(item.name, item.of_nodes, item.raw, len(item.step)) for item in quantisers(before)]


@pytest.mark.parametrize("num_nodes", [1, 7, NODES - 1, NODES + 1, 2 * NODES + 5])
def test_tables_serve_graphs_of_other_sizes(num_nodes: int) -> None:
    """Row i takes entry i % n, whatever place node i has."""
    before, inputs = quantised("GCN"), graph(num_nodes)
    assert same_bits(run(renumbered(before), inputs), run(before, inputs))


def test_tables_are_lowered_in_the_order_of_the_nodes() -> None:
    """The translated model holds steps and widths as constants, as they stand after renumbering."""
    before = quantised("GCN")
    dialect = translate(renumbered(before), graph())
    read = {item.name: item for item in map(read_quantiser, quantise_nodes(dialect.model.graph))}
    nodes = dialect.structure["node_in_place"]
    assert nodes.tolist() != sorted(nodes.tolist())
    for item in tables_of(before):
        np.testing.assert_array_equal(read[item.name].step, item.step.detach().numpy()[nodes])
        np.testing.assert_array_equal(read[item.name].bits, whole_bits(item.bits.detach()).numpy()[nodes])


class Pairs(nn.Module):
    """Score pairs of nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(WIDTH, 8)

    def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor) -> Tensor:
        """Multiply the two ends."""
        h = self.conv(x, edge_index)
        out: Tensor = (h[edge_label_index[0]] * h[edge_label_index[1]]).sum(-1)
        return out


class Graphs(nn.Module):
    """Read out graphs, with types of nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table = GCNConv(WIDTH, 8), nn.Embedding(3, WIDTH)

    def forward(self, x: Tensor, edge_index: Tensor, node_type: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """Sum the nodes of each graph."""
        out: Tensor = global_add_pool(self.conv(x + self.table(node_type), edge_index), batch, num_graphs)
        return out


class SortedGraphs(nn.Module):
    """Sort the nodes of each graph by what was computed of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(WIDTH, 8)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """Take the first three."""
        order = self.conv(x, edge_index)[:, 0].sort(descending=True)[1]
        out: Tensor = global_add_pool(x[order], batch, num_graphs)
        return out


X = Input("x", Role.NODE_FEATURES, "float32", ("num_nodes", WIDTH))
EDGE_INDEX = Input("edge_index", Role.EDGE_INDEX, "int64", (2, "num_edges"))
LABEL_EDGES = Input("edge_label_index", Role.LABEL_EDGES, "int64", (2, "num_pairs"))
NODE_TYPE = Input("node_type", Role.NODE_TYPE, "int64", ("num_nodes",), types=3)
BATCH = Input("batch", Role.GRAPH_IDS, "int64", ("num_nodes",))
NUM_GRAPHS = Input("num_graphs", Role.NUM_GRAPHS, "int64", ())


def program_of(model: Callable[[], nn.Module], *inputs: Input) -> Program:
    """Capture a model and simplify it."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        built = model().eval()
    return run_passes(capture(built, inputs, example_inputs(inputs)), CANONICAL, PassContext()).program


def test_pairs_are_renumbered_and_their_answers_stay() -> None:
    """A request still names nodes by their own numbers, and the answer has a row for each pair, in order."""
    program = program_of(Pairs, X, EDGE_INDEX, LABEL_EDGES)
    inputs = {
        **graph(),
        "edge_label_index": torch.randint(0, NODES, (2, 30), generator=torch.Generator().manual_seed(2)),
    }
    after = renumbered(program, inputs=inputs)
    assert same_bits(run(after, inputs), run(program, inputs))


def test_graphs_keep_their_answers() -> None:
    """Types of nodes and the graph of each node move with the nodes; answers for graphs are not permuted."""
    program = program_of(Graphs, X, EDGE_INDEX, NODE_TYPE, BATCH, NUM_GRAPHS)
    generator = torch.Generator().manual_seed(2)
    inputs = {
        **graph(),
        "node_type": torch.randint(0, 3, (NODES,), generator=generator),
        "batch": torch.arange(NODES) * 4 // NODES,
        "num_graphs": torch.tensor(5),
    }
    after = renumbered(program, inputs=inputs)
    assert after.structure_names[-1] == "node_in_place"
    assert_equal_on(after, inputs, run(program, inputs))


def test_what_is_gathered_from_the_cache_stays() -> None:
    """The very Program comes back where a core's own cache holds all gathered rows, with the figures."""
    notes: list[str] = []
    program = split("GCN")
    assert ReorderNodes().run(program, context(notes=notes)) is program
    assert notes == ["not tried: rows are gathered from 4 KiB, which caches of 1024 KiB hold in any order"]


def test_a_hub_that_would_take_minutes_is_left_to_the_other_order() -> None:
    """Sorting the neighbours of a node takes the square of their number; another order does not sort them."""
    hub = torch.stack([torch.arange(1, 70_000), torch.zeros(69_999, dtype=torch.int64)])
    data = {**graph(), "x": torch.zeros(70_000, WIDTH), "edge_index": hub}
    notes: list[str] = []
    program = split("GraphSAGE")
    assert ReorderNodes(cache_kib=0).run(program, context(data, notes)) is program
    assert notes == ["not tried: a node has 69999 edges, and rcm would take too long to sort them: try order=degree"]
    assert ReorderNodes(order="degree", cache_kib=0).run(program, context(data)) is not program


class Positions(nn.Module):
    """Multiply each row by the number of its node."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(WIDTH, 8)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Run it."""
        out: Tensor = self.conv(x, edge_index) * torch.arange(x.size(0))[:, None]
        return out


def of_papers() -> Program:
    """Return a Program that says its nodes are of a kind."""
    program = split("GCN").clone()
    program.inputs = tuple(replace(item, name=f"{item.name}__paper") for item in program.inputs)
    return program


def test_refusals_name_the_reason() -> None:
    """What cannot be renumbered, or must not be, is said before anything is done."""
    item = ReorderNodes(cache_kib=0)
    cases = {
        "not split": (captured("GCN"), context()),
        "every request brings another graph": (split("GCN"), replace(context(), mode="graphs")),
        "needs the graph": (split("GCN"), PassContext()),
        "several kinds of nodes": (of_papers(), context()),
        "numbered anew already": (once("GCN", "rcm"), context()),
        "hang on how nodes are numbered": (program_of(Positions, X, EDGE_INDEX), context()),
        "equal ones stay in the order": (program_of(SortedGraphs, X, EDGE_INDEX, BATCH, NUM_GRAPHS), context()),
    }
    for words, (program, ctx) in cases.items():
        (problem,) = item.check(program, ctx)
        assert words in problem.what
        assert problem.mend


def test_options_are_checked() -> None:
    """An unknown order and a negative size are mistakes in the spec."""
    for text in ("reorder-nodes{order=random}", "reorder-nodes{cache_kib=-1}"):
        with pytest.raises(SpecError):
            build_passes([text])


def test_it_is_lowered_with_the_order_baked_in() -> None:
    """The translated model holds no op that orders: its structure values are the order of the graph."""
    program, inputs = once("GCN", "rcm"), graph()
    dialect = translate(program, inputs)
    assert {"node_in_place", "place_of_node"} <= dialect.structure.keys()
    assert {node.op_type for node in dialect.model.graph if node.domain} == {"Aggregate"}
