"""Edge weights that are a product of one number per destination and one per source become scales of rows.

GCN's normalisation is such a product: sum_j a_i b_j x_j = a_i sum_j (b_j x_j). The sum is then over plain rows, which
can be added as integers where they are rounded behind the factor of the source. `targets/onnx/factors.py` does the same
to the numbers of one graph; here it is read off what `prepare` computes, so that it holds for all graphs.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from gnnexport.program.binding import CREATIONS
from gnnexport.program.graphs import args_of, calls, output_node
from gnnexport.program.program import Program, placeholder_names
from gnnexport.program.shapes import like, rank_of
from gnnexport.program.simplify import drop_dead

aten = torch.ops.aten
gnn = torch.ops.gnn

_RESHAPES = {aten.reshape.default, aten.view.default, aten.squeeze.dim, aten.unsqueeze.default, aten.alias.default}


@dataclass(frozen=True)
class _Factors:
    """Vectors of nodes in `prepare` whose products make an edge weight."""

    of_row: tuple[fx.Node, ...] = ()
    of_source: tuple[fx.Node, ...] = ()

    def __add__(self, other: _Factors) -> _Factors:
        return _Factors(self.of_row + other.of_row, self.of_source + other.of_source)


def factor_weights(program: Program) -> int:
    """Rewrite every sum whose edge weights are such products; returns how many.

    The Program, which must be split and annotated, is changed, so pass a copy; it has to be annotated again.
    """
    prepare = program.prepare
    if prepare is None:
        return 0
    names = placeholder_names(program.body)[len(program.features) :]
    values: list[Any] = list(args_of(output_node(prepare.graph))[0])
    made = dict(zip(names, values, strict=True))
    rewritten = 0
    vectors = _Vectors(program, values)
    for node in calls(program.body.graph, gnn.aggregate.default):
        _, _, col, weight, reduce = args_of(node)
        if reduce != "sum" or rank_of(weight) != 1 or weight.op != "placeholder" or col.op != "placeholder":
            continue
        factors = _factors(made[str(weight.target)], made[str(col.target)])
        if factors is not None and (factors.of_row or factors.of_source):
            _rewrite(program.body.graph, node, vectors.of(factors.of_row), vectors.of(factors.of_source))
            rewritten += 1
    if rewritten:
        _forget_unread(program, names, values)
    return rewritten


@dataclass(frozen=True)
class _Slots:
    """Sources and destinations of edges in `prepare`, and what puts edges in the order of slots."""

    source: fx.Node
    destination: fx.Node
    perm: fx.Node


def _slots(col: Any) -> _Slots | None:
    """Take `col` apart: `index_select(source, 0, perm)` with `perm` out of `csr(destination)`."""
    if not isinstance(col, fx.Node) or col.target is not aten.index_select.default:
        return None
    source, _, perm = args_of(col)
    if perm.target is not operator.getitem or args_of(perm)[0].target is not gnn.csr.default:
        return None
    return _Slots(source, args_of(args_of(perm)[0])[0], perm)


def _factors(weight: Any, col: Any) -> _Factors | None:
    """Return the factors of a weight, whether the sum is over all slots or over some of them."""
    (of_all, chosen), (sources, of_sum) = _whole(weight), _whole(col)
    return _read(of_all, _slots(sources)) if chosen is of_sum else None


def _whole(value: Any) -> tuple[Any, fx.Node | None]:
    """Return what some slots of a value were chosen out of, and the choice; of a whole value itself."""
    if isinstance(value, fx.Node) and value.target is aten.index_select.default:
        chosen = args_of(value)[2]
        if chosen.target is operator.getitem and args_of(chosen)[0].target is gnn.keep_slots.default:
            return args_of(value)[0], chosen
    return value, None


def _read(weight: Any, slots: _Slots | None, *, ordered: bool = False) -> _Factors | None:
    """Return the factors of a weight, `None` where it is no such product.

    Args:
        weight: a value of `prepare`.
        slots: of the sum.
        ordered: what is looked at is in the order of edges already; above, it is in that of slots.
    """
    if slots is None or not isinstance(weight, fx.Node):
        return None
    if weight.target in _RESHAPES:
        return _read(args_of(weight)[0], slots, ordered=ordered)
    if weight.target in CREATIONS and CREATIONS[weight.target] == 1:
        return _Factors()
    if weight.target is aten.mul.Tensor:
        parts = [_read(item, slots, ordered=ordered) for item in args_of(weight)]
        return None if parts[0] is None or parts[1] is None else parts[0] + parts[1]
    if weight.target is aten.index_select.default and not ordered and args_of(weight)[2] is slots.perm:
        return _read(args_of(weight)[0], slots, ordered=True)
    if not ordered:
        return None
    vector, index = _gathered(weight)
    if vector is None or rank_of(vector) != 1:
        return None
    if index is slots.destination:
        return _Factors(of_row=(vector,))
    return _Factors(of_source=(vector,)) if index is slots.source else None


def _gathered(node: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """Return the vector and the index of a gather."""
    if node.target is aten.index.Tensor and len(args_of(node)[1]) == 1:
        return args_of(node)[0], args_of(node)[1][0]
    if node.target is aten.index_select.default:
        return args_of(node)[0], args_of(node)[2]
    return None, None


class _Vectors:
    """Structure values of nodes, made in `prepare` when first asked for."""

    def __init__(self, program: Program, values: list[Any]) -> None:
        self._program = program
        self._values = values
        self._known: dict[tuple[fx.Node, ...], fx.Node] = {}

    def of(self, factors: tuple[fx.Node, ...]) -> fx.Node | None:
        """Return the placeholder of a product of vectors, float32 [num_nodes]; `None` for an empty product."""
        if not factors:
            return None
        if factors not in self._known:
            self._known[factors] = self._made(factors)
        return self._known[factors]

    def _made(self, factors: tuple[fx.Node, ...]) -> fx.Node:
        assert self._program.prepare is not None
        prepare, body = self._program.prepare.graph, self._program.body.graph
        product = factors[0]
        with prepare.inserting_before(output_node(prepare)):
            for factor in factors[1:]:
                product = like(prepare.call_function(aten.mul.Tensor, (product, factor)), factor)
        self._values.append(product)
        taken = set(placeholder_names(self._program.body))
        name = next(free for i in range(len(taken) + 1) if (free := f"factor_{i}") not in taken)
        last = body.find_nodes(op="placeholder")[-1]
        with body.inserting_after(last):
            return like(body.placeholder(name), product)


def _rewrite(graph: fx.Graph, node: fx.Node, of_row: fx.Node | None, of_source: fx.Node | None) -> None:
    source, rowptr, col, _, reduce = args_of(node)
    with graph.inserting_before(node):
        scaled = _scaled_source(graph, source, of_source)
        total = graph.call_function(gnn.aggregate.default, (scaled, rowptr, col, None, reduce))
        result = _times(graph, like(total, node), of_row)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _scaled_source(graph: fx.Graph, source: fx.Node, factor: fx.Node | None) -> fx.Node:
    """Scale the rows that are summed, before dropout where nothing else reads that: a mask commutes with a scale."""
    if source.target is aten.dropout.default and len(source.users) == 1:
        inner, *rest = args_of(source)
        scaled = _scaled_source(graph, inner, factor)
        return like(graph.call_function(aten.dropout.default, (scaled, *rest)), source)
    return _times(graph, source, factor)


def _times(graph: fx.Graph, rows: fx.Node, factor: fx.Node | None) -> fx.Node:
    if factor is None:
        return rows
    column = like(graph.call_function(aten.reshape.default, (factor, [-1, *[1] * (rank_of(rows) - 1)])), factor)
    return like(graph.call_function(aten.mul.Tensor, (rows, column)), rows)


def _forget_unread(program: Program, names: list[str], values: list[Any]) -> None:
    """Leave out the structure values that nothing reads any more, in `prepare` and in the body."""
    assert program.prepare is not None
    drop_dead(program.body.graph)
    placeholders = {str(node.target): node for node in program.body.graph.find_nodes(op="placeholder")}
    all_names = placeholder_names(program.body)[len(program.features) :]
    kept = []
    for name, value in zip(all_names, values, strict=True):
        if placeholders[name].users or name not in names:
            kept.append(value)
        else:
            program.body.graph.erase_node(placeholders[name])
    output_node(program.prepare.graph).args = (tuple(kept),)
    drop_dead(program.prepare.graph)
    program.prepare.recompile()
    program.body.recompile()
