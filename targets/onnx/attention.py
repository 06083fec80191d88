"""Find attention in a graph: a weighted sum over each row's slots whose weights are a softmax over them.

What the weights come from decides the kind of score: the additive one of GAT, that of GATv2, the product of
transformers; scores of any other kind are computed outside, one number for each slot and head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.matching import is_constant, only_reader, producer, same_columns, same_rows, same_sizes

DOMAIN = schemas.DOMAIN


@dataclass(frozen=True)
class _Sum:
    """A weighted sum: of rows of `x` named by `col`, and of rows of `edge_value`, with the weights of a softmax."""

    node: ir.Node
    softmax: ir.Node
    x: ir.Value
    col: ir.Value
    edge_value: ir.Value | None = None


@dataclass(frozen=True)
class _Score:
    """What a score is made of; see `gnx_attention`."""

    kind: str
    source: ir.Value | None = None
    destination: ir.Value | None = None
    edge: ir.Value | None = None
    att: ir.Value | None = None
    slope: float = 0.0
    scale: float = 1.0


def fuse_attention(graph: ir.Graph) -> int:
    """Make one operator of every attention in a graph, in place; return how many."""
    fused = 0
    for node in list(graph):
        found = _find_sum(node)
        if found is not None and _same(found.softmax.inputs[1], node.inputs[1]):
            _replace(graph, found)
            fused += 1
    return fused


def _same(first: ir.Value | None, second: ir.Value | None) -> bool:
    return first is not None and first is second


def _find_sum(node: ir.Node) -> _Sum | None:
    if node.domain != DOMAIN or node.attributes.get_string("reduce", "") != "sum":
        return None
    if node.op_type == schemas.AGGREGATE and len(node.inputs) > 3:
        softmax = _softmax_behind(node.inputs[3])
        x, col = node.inputs[0], node.inputs[2]
        if softmax is None or x is None or col is None or not _shares_columns(x, softmax.outputs[0]):
            return None
        return _Sum(node, softmax, x, col)
    return _find_product(node) if node.op_type == schemas.REDUCE_EDGES else None


def _find_product(node: ir.Node) -> _Sum | None:
    """Find the sum of softmax times values of the slots, which stem from their sources and from the edges."""
    product = producer(node.inputs[0], "Mul")
    for place in (0, 1) if product is not None else ():
        assert product is not None
        values, weights = product.inputs[place], product.inputs[1 - place]
        softmax = _softmax_behind(weights)
        if softmax is None or values is None:
            continue
        gathered, rest = _terms_from(values, schemas.GATHER_SOURCE)
        if gathered is None or len(rest) > 1:
            continue
        x, col = gathered.inputs
        if x is None or col is None or not _shares_columns(x, softmax.outputs[0]):
            continue
        if weights is None or not _lifts(weights, values) or (rest and not same_sizes(rest[0], values)):
            continue
        return _Sum(node, softmax, x, col, rest[0] if rest else None)
    return None


def _lifts(weights: ir.Value, values: ir.Value) -> bool:
    """Tell whether each head's weight multiplies the last axis of its values, and nothing else is repeated."""
    if weights.shape is None or values.shape is None or len(weights.shape) != len(values.shape):
        return False
    heads, channels = list(weights.shape)[1:-1], list(values.shape)[1:-1]
    return same_rows(weights, values) and heads == channels and _known(heads) and weights.shape[-1] == 1


def _softmax_behind(weights: ir.Value | None) -> ir.Node | None:
    """Return the softmax that weights are, but for axes of one that were added and dropped."""
    value = weights
    while value is not None and weights is not None:
        softmax = producer(value, schemas.EDGE_SOFTMAX, DOMAIN)
        if softmax is not None:
            given = softmax.outputs[0]
            return softmax if same_rows(given, weights) and _heads(given) == _heads(weights) is not None else None
        axes = producer(value, "Reshape") or producer(value, "Squeeze") or producer(value, "Unsqueeze")
        value = None if axes is None else axes.inputs[0]
    return None


def _heads(weights: ir.Value) -> list[int] | None:
    """Return the sizes of a row of weights that are not one, if all are known."""
    tail = list(weights.shape or ())[1:]
    return [size for size in tail if isinstance(size, int) and size != 1] if _known(tail) else None


def _known(sizes: Sequence[int | ir.SymbolicDim]) -> bool:
    return all(isinstance(size, int) for size in sizes)


def _shares_columns(x: ir.Value, weights: ir.Value) -> bool:
    """Tell whether each head of the weights has its own, known share of the columns of `x`."""
    heads, tail = _heads(weights), list(x.shape or ())[1:]
    if heads is None or not _known(tail):
        return False
    return not heads or (len(heads) == 1 and len(tail) == 2 and tail[0] == heads[0])


def _replace(graph: ir.Graph, found: _Sum) -> None:
    logits, rowptr = found.softmax.inputs
    assert logits is not None
    assert logits.shape is not None
    heads = math.prod(int(size) for size in list(logits.shape)[1:] if isinstance(size, int))
    score = _score_of(found, logits) or _Score("given", edge=logits)
    terms = [score.source, score.destination, score.edge, found.edge_value, score.att]
    out = found.node.outputs[0]
    new = ir.node(
        schemas.ATTENTION,
        [found.x, rowptr, found.col, *terms],
        {"score": score.kind, "heads": heads, "slope": score.slope, "scale": score.scale},
        domain=DOMAIN,
        name=f"{found.node.name}_attention",
    )
    new.outputs[0].shape, new.outputs[0].type = out.shape, out.type
    ir.convenience.replace_nodes_and_values(graph, found.node, [found.node], [new], [out], new.outputs)
    _drop_unread(graph, found.softmax)


def _drop_unread(graph: ir.Graph, node: ir.Node | None) -> None:
    """Remove a node, and those before it, as far as nobody reads them any more."""
    while node is not None and not any(list(out.uses()) or out.is_graph_output() for out in node.outputs):
        before = {value.producer() for value in node.inputs if value is not None}
        graph.remove(node, safe=True)
        for other in before:
            if other is not None and other.graph is graph:
                _drop_unread(graph, other)
        return


def _score_of(found: _Sum, logits: ir.Value) -> _Score | None:
    return _gat(found, logits) or _gatv2(found, logits) or _dot(found, logits)


def _gat(found: _Sum, logits: ir.Value) -> _Score | None:
    leaky = producer(logits, "LeakyRelu")
    if leaky is None:
        return None
    terms = _both_ends(found, leaky.inputs[0])
    if terms is None or not same_rows(terms[0], found.x) or not all(_fits(value, logits) for value in terms):
        return None
    return _Score("gat", *terms, slope=leaky.attributes.get_float("alpha", 0.01))


def _gatv2(found: _Sum, logits: ir.Value) -> _Score | None:
    product = _summed_product(logits)
    for place in (0, 1) if product is not None else ():
        assert product is not None
        leaky, att = producer(product.inputs[place], "LeakyRelu"), product.inputs[1 - place]
        if leaky is None or att is None or not is_constant(att) or att.shape is None:
            continue
        terms = _both_ends(found, leaky.inputs[0])
        if terms is None or not same_rows(terms[0], found.x) or list(att.shape) != [1, *list(found.x.shape or ())[1:]]:
            continue
        if all(_fits(value, found.x) for value in terms):
            return _Score("gatv2", *terms, att=att, slope=leaky.attributes.get_float("alpha", 0.01))
    return None


def _dot(found: _Sum, logits: ir.Value) -> _Score | None:
    scale, inner = _scaled(logits)
    product = _summed_product(inner)
    for place in (0, 1) if product is not None else ():
        assert product is not None
        query = producer(product.inputs[place], schemas.GATHER_DESTINATION, DOMAIN)
        if query is None or not _same(query.inputs[1], found.softmax.inputs[1]):
            continue
        key, rest = _terms_from(product.inputs[1 - place], schemas.GATHER_SOURCE)
        if key is None or len(rest) > 1 or not _same(key.inputs[1], found.col):
            continue
        source, destination, edge = key.inputs[0], query.inputs[0], rest[0] if rest else None
        if source is None or not same_rows(source, found.x):
            continue
        if all(_fits(value, found.x) for value in (source, destination, edge)):
            return _Score("dot", source, destination, edge, scale=scale)
    return None


def _scaled(logits: ir.Value) -> tuple[float, ir.Value]:
    """Return the constant that scores are multiplied by, and the scores before."""
    for op_type in ("Mul", "Div"):
        node = producer(logits, op_type)
        if node is None or node.inputs[0] is None:
            continue
        factor = node.inputs[1]
        if factor is not None and factor.const_value is not None and factor.const_value.size == 1:
            number = float(factor.const_value.numpy().reshape(()))
            if number != 0:
                return (number if op_type == "Mul" else 1 / number), node.inputs[0]
    return 1.0, logits


def _summed_product(value: ir.Value) -> ir.Node | None:
    """Return the product of which a value is the sum over the last axis."""
    total = producer(value, "ReduceSum")
    if total is None or len(total.inputs) < 2 or total.attributes.get_int("keepdims", True):
        return None
    axes, summed = total.inputs[1], total.inputs[0]
    if axes is None or axes.const_value is None or summed is None or summed.shape is None:
        return None
    last = len(summed.shape) - 1
    return producer(summed, "Mul") if np.array_equal(axes.const_value.numpy() % (last + 1), [last]) else None


def _both_ends(found: _Sum, value: ir.Value | None) -> tuple[ir.Value, ir.Value, ir.Value | None] | None:
    """Split a sum into what sources, destinations and edges of the same structure give."""
    if value is None:
        return None
    source, rest = _terms_from(value, schemas.GATHER_SOURCE)
    if source is None or not rest or not _same(source.inputs[1], found.col):
        return None
    ends = [producer(term, schemas.GATHER_DESTINATION, DOMAIN) for term in rest]
    places = [place for place, end in enumerate(ends) if end is not None]
    if len(places) != 1 or len(rest) > 2:
        return None
    destination = ends[places[0]]
    assert destination is not None
    left, right = source.inputs[0], destination.inputs[0]
    if left is None or right is None or not _same(destination.inputs[1], found.softmax.inputs[1]):
        return None
    others = [term for place, term in enumerate(rest) if place != places[0]]
    return left, right, others[0] if others else None


def _terms_from(value: ir.Value | None, gather: str) -> tuple[ir.Node | None, list[ir.Value]]:
    """Return the one gather among the terms of a sum, and the other terms."""
    terms = [] if value is None else _terms(value)
    gathers = [node for node in (producer(term, gather, DOMAIN) for term in terms) if node is not None]
    if len(gathers) != 1:
        return None, terms
    return gathers[0], [term for term in terms if term is not gathers[0].outputs[0]]


def _terms(value: ir.Value) -> list[ir.Value]:
    """Take a sum of equally sized values apart."""
    add = producer(value, "Add")
    if add is None or only_reader(value) is None:
        return [value]
    left, right = add.inputs
    if left is None or right is None or not same_sizes(left, right):
        return [value]
    return [*_terms(left), *_terms(right)]


def _fits(value: ir.Value | None, other: ir.Value) -> bool:
    """Tell whether a term has the columns of another; `None` fits."""
    return value is None or same_columns(value, other)
