"""Check a request before the engine sees it: a wrong index would give wrong numbers, or bring the process down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.manifest import Manifest, Tensor
from gnnexport.errors import Problem, nearest

EDGE_INDEX, GRAPH_IDS, NUM_GRAPHS, LABEL_EDGES = "edge_index", "graph_ids", "num_graphs", "label_edges"
TYPES = ("edge_type", "node_type")
"""Roles of inputs in a manifest that other inputs have to agree with."""

_NODES = "num_nodes"
Feeds = Mapping[str, Any]


@dataclass(frozen=True)
class RequestForm:
    """What a request has to hold.

    Args:
        tensors: every input; a dynamic size has a name, and is the same wherever the name stands.
        where: names the runner in messages.
        graphs: a request brings its own graphs; else they are baked in.
        num_nodes: of the graph that is baked in; `None` where none is.
    """

    tensors: Sequence[Tensor]
    where: str
    graphs: bool = False
    num_nodes: int | None = None

    @classmethod
    def of(cls, manifest: Manifest | None, inputs: Sequence[Tensor], where: str) -> RequestForm:
        """Take roles and sizes from the manifest: not every engine keeps names of sizes."""
        if manifest is None:
            return cls(inputs, where)
        declared = {tensor.name: tensor for tensor in manifest.inputs}
        tensors = tuple(declared.get(tensor.name, tensor) for tensor in inputs)
        nodes = None if manifest.graph is None else manifest.graph.nodes
        return cls(tensors, where, manifest.mode == "graphs", nodes)

    def complete(self, feeds: Feeds) -> Feeds:
        """Fill in what a request of a single graph may leave out, and bring whole numbers to the types declared."""
        ids, count = self._named(GRAPH_IDS), self._named(NUM_GRAPHS)
        found = dict(feeds)
        if count is not None and count in found:
            found[count] = _scalar(found[count])
        found |= {tensor.name: _widened(found[tensor.name], tensor) for tensor in self.tensors if tensor.name in found}
        if not self.graphs:
            return found
        one = count is None or count not in found or _is_one(found[count])
        if ids is not None and ids not in found and one and (nodes := self._nodes(feeds)) is not None:
            found[ids] = np.zeros(nodes, np.int64)
        if count is not None and count not in found and (ids is None or ids not in feeds):
            found[count] = np.array(1, np.int64)
        return found

    def dynamic(self, feeds: Feeds) -> dict[str, int]:
        """Return the sizes of a sound request that another one may have otherwise, by name."""
        request = self.complete(feeds)
        found = {
            size: given
            for tensor in self.tensors
            for size, given in zip(tensor.shape, request[tensor.name].shape, strict=True)
            if isinstance(size, str)
        }
        count = self._named(NUM_GRAPHS)
        return found if count is None else {**found, NUM_GRAPHS: int(request[count])}

    def problems(self, feeds: Feeds) -> list[Problem]:
        """Return everything that is wrong; values are looked at only where types and shapes are right."""
        known = [tensor.name for tensor in self.tensors]
        found = [
            Problem(self.where, f"unknown input '{name}'", nearest(name, known)) for name in feeds if name not in known
        ]
        found += [problem for tensor in self.tensors for problem in self._shape(tensor, feeds)]
        found = found or list(self._sizes(feeds))
        return found or list(self._values(feeds))

    def _shape(self, tensor: Tensor, feeds: Feeds) -> list[Problem]:
        where = f"{self.where}: input '{tensor.name}'"
        if tensor.name not in feeds:
            return [Problem(where, "is missing", self._missing(tensor, feeds))]
        array = feeds[tensor.name]
        if not isinstance(array, np.ndarray):
            return [Problem(where, f"is a {type(array).__name__}", "Give a numpy array")]
        problems = []
        if array.dtype != np.dtype(tensor.dtype):
            problems.append(Problem(where, f"has dtype {array.dtype}", f"Give {tensor.name}.astype('{tensor.dtype}')"))
        fits = array.ndim == len(tensor.shape) and all(
            isinstance(size, str) or size == given for size, given in zip(tensor.shape, array.shape, strict=True)
        )
        if not fits:
            problems.append(Problem(where, f"has shape {sizes(array.shape)}", f"Give {sizes(tensor.shape)}"))
        return problems

    def _missing(self, tensor: Tensor, feeds: Feeds) -> str:
        if tensor.role == NUM_GRAPHS:
            return "Give the number of graphs: a last one may have no node, so the ids do not tell"
        wanted = f"Give a {tensor.dtype} array {sizes(tensor.shape)}"
        several = self._named(NUM_GRAPHS) in feeds and tensor.role == GRAPH_IDS
        return f"{wanted}; only a single graph can do without" if several else wanted

    def _sizes(self, feeds: Feeds) -> Iterator[Problem]:
        """Find inputs that disagree about a size that has a name."""
        first: dict[str, tuple[str, int]] = {}
        for tensor in self.tensors:
            for size, given in zip(tensor.shape, feeds[tensor.name].shape, strict=True):
                if not isinstance(size, str):
                    continue
                name, value = first.setdefault(size, (tensor.name, given))
                if value != given:
                    where = f"{self.where}: input '{tensor.name}'"
                    what = f"has {size} = {given} where '{name}' has {value}"
                    yield Problem(where, what, "Give arrays that belong to the same graphs")
        if self.graphs and first.get(_NODES, ("", 1))[1] == 0:
            what = "holds no node"
            yield Problem(f"{self.where}: input '{first[_NODES][0]}'", what, "Give a graph with one node or more")

    def _values(self, feeds: Feeds) -> Iterator[Problem]:
        """Find indices that point nowhere; takes time in proportion to the edges."""
        nodes = self._nodes(feeds) if self.num_nodes is None else self.num_nodes
        for tensor in self.tensors:
            where, array = f"{self.where}: input '{tensor.name}'", feeds[tensor.name]
            if tensor.role == EDGE_INDEX and tensor.ends is not None:
                yield from self._ends(where, array, tensor.ends, feeds)
            elif tensor.role in (EDGE_INDEX, LABEL_EDGES) and nodes is not None:
                yield from _outside(where, array, nodes, "node")
            elif tensor.role == NUM_GRAPHS and int(array) < 1:
                yield Problem(where, f"is {int(array)}", "Give the number of graphs, 1 or more")
            elif tensor.role in TYPES and tensor.types is not None:
                yield from _outside(where, array, tensor.types, "type")
            elif tensor.role == GRAPH_IDS:
                yield from self._graph_ids(where, array, feeds)

    def _ends(self, where: str, edges: NDArray[np.int64], ends: Sequence[int | str], feeds: Feeds) -> Iterator[Problem]:
        """Find edges between two kinds of nodes that point nowhere."""
        known = {
            size: count
            for tensor in self.tensors
            for size, count in zip(tensor.shape, feeds[tensor.name].shape, strict=True)
        }
        for row, end in zip(edges, ends, strict=True):
            count = known.get(end, end)
            if isinstance(count, int):
                yield from _outside(where, row, count, f"{str(end).removeprefix(f'{_NODES}__')} node")

    def _graph_ids(self, where: str, ids: NDArray[np.int64], feeds: Feeds) -> Iterator[Problem]:
        if bool(np.any(ids[1:] < ids[:-1])):
            yield Problem(where, "is not ascending", "Put the nodes of one graph side by side, graph after graph")
            return
        count = self._named(NUM_GRAPHS)
        graphs = int(ids[-1]) + 1 if count is None else int(feeds[count])
        yield from _outside(where, ids, graphs, "graph")

    def _nodes(self, feeds: Feeds) -> int | None:
        """Count the nodes of a request, from any array that has a row for each."""
        for tensor in self.tensors:
            array = feeds.get(tensor.name)
            if tensor.shape[:1] == (_NODES,) and isinstance(array, np.ndarray) and array.ndim:
                return len(array)
        return None

    def _named(self, role: str) -> str | None:
        return next((tensor.name for tensor in self.tensors if tensor.role == role), None)


def sizes(shape: Sequence[int | str]) -> str:
    """Write a shape: `[num_nodes, 16]`."""
    return f"[{', '.join(str(size) for size in shape)}]"


def _outside(where: str, indices: NDArray[np.int64], count: int, kind: str) -> Iterator[Problem]:
    if indices.size == 0:
        return
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= count:
        wrong = low if low < 0 else high
        has = f"the {count} {kind}s" if count != 1 else f"the one {kind}"
        yield Problem(where, f"holds {wrong}, which is none of {has}", f"Number them from 0 to {max(count - 1, 0)}")


def _scalar(value: Any) -> Any:
    """Bring a whole number, in whatever type people have one, to int64 []; leave anything else to the checks."""
    array = np.asarray(value)
    whole = array.dtype.kind in "iu" and array.size == 1 and array.ndim <= 1
    return array.reshape(()).astype(np.int64) if whole else value


def _widened(value: Any, tensor: Tensor) -> Any:
    """Bring whole numbers that are narrower than declared, as indices of 32 bits are, to the type declared."""
    whole = isinstance(value, np.ndarray) and value.dtype.kind in "iu" and np.dtype(tensor.dtype).kind == "i"
    return value.astype(tensor.dtype, copy=False) if whole and np.can_cast(value.dtype, tensor.dtype) else value


def _is_one(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.size == 1 and int(value.reshape(())) == 1
