"""Metamorphic laws: change a request so that it is known how the answer has to change.

A law needs no expected numbers: it holds the answers of one engine against each other. Not every model obeys every
law; a bundle says which ones its model obeys in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.golden import GoldenCase, LawCheck
from gnnexport.bundle.manifest import Tensor
from gnnexport.conformance.graphs import shuffled

NUM_NODES, NUM_EDGES, NUM_GRAPHS, NUM_PAIRS = "num_nodes", "num_edges", "num_graphs", "num_pairs"
_EDGE_INDEX, _GRAPH_IDS, _LABEL_EDGES = "edge_index", "graph_ids", "label_edges"
_ENDPOINTS = (_EDGE_INDEX, _LABEL_EDGES)
_WHOLE = (*_ENDPOINTS, _GRAPH_IDS, "edge_type", "node_type")

Array = NDArray[Any]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Derived:
    """A changed request, and which rows of its answer are which of the answer to the original request.

    Args:
        feeds: arrays by input name.
        base: int64, rows of the original answer; `None` for all.
        rows: int64, the rows of the new answer that must equal them; `None` for all.
        sizes: nodes of each graph of the new request, where it holds other graphs than the original.
    """

    feeds: dict[str, Array]
    base: Array | None = None
    rows: Array | None = None
    sizes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Law:
    """A law.

    Args:
        name: as in bundles and reports.
        what: what has to hold, for people.
        derive: changes the request of a case; yields nothing where there is nothing to change.
        about: what it tests, where that is not the artefact.
    """

    name: str
    what: str
    derive: Callable[[LawCheck, GoldenCase, Feeds, Sequence[Tensor], str], Iterator[Derived]]
    about: str = ""


def derive(check: LawCheck, case: GoldenCase, inputs: Sequence[Tensor], rows: str) -> Iterator[Derived]:
    """Make the requests that a check asks about.

    Args:
        check: as a bundle holds it.
        case: the original request.
        inputs: of the model, with roles and named sizes; those that are baked in are not asked about.
        rows: name of the size that counts the rows of an answer, such as `num_nodes`.

    Raises:
        KeyError: a law that is not known here.
    """
    feeds = case.feeds()
    asked = [tensor for tensor in inputs if tensor.name in feeds]
    return LAWS[check.law].derive(check, case, feeds, asked, rows)


def _renumber(
    check: LawCheck, case: GoldenCase, feeds: Feeds, inputs: Sequence[Tensor], rows: str
) -> Iterator[Derived]:
    """Shuffle the nodes inside each graph; where there are several kinds of nodes, those of each kind."""
    orders = {
        size: _inside(case.sizes if size == NUM_NODES and case.sizes else (count,), check.seed + place)
        for place, (size, count) in enumerate(_counts(NUM_NODES, feeds, inputs).items())
    }
    changed = {}
    for tensor in inputs:
        array, first = feeds[tensor.name], tensor.shape[0] if tensor.shape else None
        if tensor.role in _ENDPOINTS:
            ends = tensor.ends or (NUM_NODES, NUM_NODES)
            changed[tensor.name] = np.stack(
                [_back(orders[str(end)])[row] for end, row in zip(ends, array, strict=True)]
            )
        else:
            changed[tensor.name] = array[orders[first]] if isinstance(first, str) and first in orders else array
    yield Derived(changed, base=orders.get(rows))


def _inside(sizes: Sequence[int], seed: int) -> Array:
    """Shuffle each of some stretches that lie one behind the other."""
    starts = np.cumsum([0, *sizes])
    parts = [starts[place] + shuffled(size, seed + place) for place, size in enumerate(sizes)]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _back(order: Array) -> Array:
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return back


def _reorder_edges(
    check: LawCheck, case: GoldenCase, feeds: Feeds, inputs: Sequence[Tensor], rows: str
) -> Iterator[Derived]:
    """Shuffle the edges, with their weights and features; where there are several kinds of edges, those of each."""
    del case, rows
    changed = _shuffle(NUM_EDGES, check.seed, feeds, inputs)
    if changed is not None:
        yield Derived(changed[0])


def _reorder_pairs(
    check: LawCheck, case: GoldenCase, feeds: Feeds, inputs: Sequence[Tensor], rows: str
) -> Iterator[Derived]:
    """Shuffle the pairs asked about."""
    del case
    changed = _shuffle(NUM_PAIRS, check.seed, feeds, inputs)
    if changed is not None:
        yield Derived(changed[0], base=changed[1].get(rows))


def _shuffle(
    size: str, seed: int, feeds: Feeds, inputs: Sequence[Tensor]
) -> tuple[dict[str, Array], dict[str, Array]] | None:
    """Shuffle every input along the axes of a size and of its kinds; `None` where none is longer than one.

    Returns:
        The inputs, and the order by the name of the size.
    """
    counts = _counts(size, feeds, inputs)
    if max(counts.values(), default=0) < 2:
        return None
    orders = {name: shuffled(count, seed + place) for place, (name, count) in enumerate(counts.items())}
    changed = dict(feeds)
    for tensor in inputs:
        for axis, name in enumerate(tensor.shape):
            if name in orders:
                changed[tensor.name] = np.take(feeds[tensor.name], orders[str(name)], axis)
    return changed, orders


def _counts(size: str, feeds: Feeds, inputs: Sequence[Tensor]) -> dict[str, int]:
    """Return the value of a size, and of that of each kind, such as `num_nodes__paper`."""
    return {
        name: feeds[tensor.name].shape[axis]
        for tensor in inputs
        for axis, name in enumerate(tensor.shape)
        if isinstance(name, str) and (name == size or name.startswith(f"{size}__"))
    }


def _alone(check: LawCheck, case: GoldenCase, feeds: Feeds, inputs: Sequence[Tensor], rows: str) -> Iterator[Derived]:
    """Ask about each graph of a batch by itself."""
    del check
    edges = next((feeds[tensor.name] for tensor in inputs if tensor.role == _EDGE_INDEX), None)
    if edges is None:
        return
    begin = 0
    for place, size in enumerate(case.sizes):
        end = begin + size
        if size and len(case.sizes) > 1:
            nodes = np.arange(begin, end)
            inside = np.flatnonzero((edges[1] >= begin) & (edges[1] < end))
            own = {tensor.name: _part(tensor, feeds[tensor.name], nodes, inside) for tensor in inputs}
            yield Derived(own, base=nodes if rows == NUM_NODES else np.array([place]), sizes=(size,))
        begin = end


def _part(tensor: Tensor, array: Array, nodes: Array, edges: Array) -> Array:
    """Take what belongs to one graph out of an input."""
    if tensor.role == NUM_GRAPHS:
        return np.array(1, array.dtype)
    if tensor.role == _GRAPH_IDS:
        return np.zeros(len(nodes), array.dtype)
    if tensor.role == _EDGE_INDEX:
        return np.ascontiguousarray(array[:, edges] - nodes[0])
    if NUM_NODES in tensor.shape:
        return np.take(array, nodes, tensor.shape.index(NUM_NODES))
    return np.take(array, edges, tensor.shape.index(NUM_EDGES)) if NUM_EDGES in tensor.shape else array


def _narrow(check: LawCheck, case: GoldenCase, feeds: Feeds, inputs: Sequence[Tensor], rows: str) -> Iterator[Derived]:
    """Give indices and types as int32, as most files hold them: what has to put up with it is the runner."""
    del check, case, rows
    narrow = [tensor.name for tensor in inputs if tensor.role in _WHOLE]
    if narrow:
        yield Derived({**feeds, **{name: feeds[name].astype(np.int32) for name in narrow}})


def _locality(
    check: LawCheck, case: GoldenCase, feeds: Feeds, inputs: Sequence[Tensor], rows: str
) -> Iterator[Derived]:
    """Change the features of one node; the rows that PyTorch leaves as they were must stay."""
    del case, rows
    first = next((tensor.name for tensor in inputs if tensor.role == "node_features"), "")
    name = check.features or first
    if check.node is None or check.still is None or check.node not in range(len(feeds.get(name, ()))):
        return
    changed = with_node_changed(feeds, name, check.node)
    yield Derived(changed, base=check.still, rows=check.still)


def with_node_changed(feeds: Feeds, name: str, node: int) -> dict[str, Array]:
    """Return a request in which one node has other features, in the input of that name."""
    x = feeds[name].copy()
    x[node] = 1 - 2 * x[node]
    return {**feeds, name: x}


NODE_PERMUTATION = "node-permutation"
EDGE_ORDER = "edge-order"
PAIR_ORDER = "pair-order"
GRAPHS_ALONE = "graphs-alone"
INT32_INDICES = "int32-indices"
ROW_LOCALITY = "row-locality"

_OF_RUNNER = "tests the runner, which widens indices before the artefact sees them"

LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law(NODE_PERMUTATION, "renumbering the nodes renumbers the answers", _renumber),
        Law(EDGE_ORDER, "the order of the edges does not matter", _reorder_edges),
        Law(PAIR_ORDER, "the order of the pairs asked about is that of the answers", _reorder_pairs),
        Law(GRAPHS_ALONE, "graphs in a batch get the answers that each gets alone", _alone),
        Law(INT32_INDICES, "indices of 32 bits give the same answers", _narrow, _OF_RUNNER),
        Law(ROW_LOCALITY, "features of a node reach no further than in PyTorch", _locality),
    )
}
"""Every law by its name."""
