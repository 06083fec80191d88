from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from gnnexport.program.graphs import args_of
from gnnexport.program.rowwise import commuting_arguments, is_row_local
from gnnexport.program.shapes import annotate

aten = torch.ops.aten
ROWS = (5, 7)

Build = Callable[[fx.Graph, fx.Node, fx.Node], fx.Node]


def found(build: Build) -> set[str] | None:
    """Return the names of the arguments to permute, in a graph of `wide` [rows, 4] and `flat` [rows]."""
    graph = fx.Graph()
    wide, flat = graph.placeholder("wide"), graph.placeholder("flat")
    result = build(graph, wide, flat)
    graph.output(result)
    module = fx.GraphModule(torch.nn.Module(), graph)
    runs: list[list[Tensor]] = [[torch.ones(count, 4), torch.ones(count)] for count in ROWS]
    annotate(module, runs)
    last = args_of(next(iter(reversed(module.graph.nodes))))[0]
    chosen = commuting_arguments(last, ROWS)
    return None if chosen is None else {item.name for item in chosen}


@pytest.mark.parametrize(
    ("op", "arguments", "expected"),
    [
        (aten.softmax.int, (1,), {"wide"}),
        (aten.softmax.int, (0,), {"wide"}),
        (aten.cumsum.default, (1,), {"wide"}),
        (aten.cumsum.default, (0,), None),
        (aten.flip.default, ([1],), {"wide"}),
        (aten.flip.default, ([0],), None),
        (aten.view.default, ([-1, 2, 2],), {"wide"}),
        (aten.view.default, ([2, 2, -1],), None),
        (aten.repeat.default, ([1, 3],), {"wide"}),
        (aten.argsort.default, (0,), None),
    ],
)
def test_axis_decides(op: torch._ops.OpOverload, arguments: tuple[object, ...], expected: set[str] | None) -> None:
    """An op on channels commutes with a permutation of rows; the same op on rows does not, unless it ignores order."""
    assert found(lambda graph, wide, flat: graph.call_function(op, (wide, *arguments))) == expected


def test_item_of_several_results() -> None:
    """The largest of each row is an item of what `max` returns."""

    def build(graph: fx.Graph, wide: fx.Node, flat: fx.Node) -> fx.Node:
        both = graph.call_function(aten.max.dim, (wide, 1))
        return graph.call_function(operator.getitem, (both, 0))

    assert found(build) == {"wide"}


def test_both_operands_of_a_product_of_matrices() -> None:
    """Where each row has its own matrix, the rows of both move."""

    def build(graph: fx.Graph, wide: fx.Node, flat: fx.Node) -> fx.Node:
        column = graph.call_function(aten.unsqueeze.default, (flat, 1))
        return graph.call_function(aten.mul.Tensor, (wide, column))

    assert found(build) == {"wide", "unsqueeze_default"}


def test_random_ops_are_left_alone() -> None:
    """What is drawn cannot be compared."""
    assert found(lambda graph, wide, flat: graph.call_function(aten.rand_like.default, (wide,))) is None


def test_an_order_reversed_is_no_matter_of_each_row() -> None:
    """The middle row stays where it is: the first one tells."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(torch.ops.aten.flip.default, (x, [0])))
    module = fx.GraphModule(torch.nn.Module(), graph)
    annotate(module, [(torch.randn(11, 2),), (torch.randn(17, 2),)])
    (flipped,) = (node for node in graph.nodes if node.op == "call_function")
    assert not is_row_local(flipped, [x])
