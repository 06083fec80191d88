"""The arrays of a graph or a set of graphs, each checked against the others before anything computes with them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gnnexport.errors import DataError
from gnnexport.frontends.memory import require_memory

LARGEST = 2**31 - 1
"""Counts of nodes and graphs; some targets index with 32 bits."""


class Columns:
    """Check the arrays of one source of data, naming it in every message."""

    def __init__(self, arrays: Mapping[str, Tensor], where: str) -> None:
        self._arrays = arrays
        self._where = where

    def error(self, what: str, mend: str) -> DataError:
        """Build the error for a fault."""
        return DataError.at(self._where, what, mend)

    def features(self) -> Tensor | None:
        """Check `x`; `None` when there is none, and the number of nodes is known otherwise."""
        self._not_swapped()
        if "x" not in self._arrays:
            if not {"num_nodes", "node_ptr", "ptr", "batch"} & self._arrays.keys():
                raise self.error("has no node features 'x'", "Add x: float32 [num_nodes, channels]")
            return None
        x = self._arrays["x"]
        if x.dim() != 2 or 0 in x.shape:
            what = f"x has shape {list(x.shape)}" + (": the graph is empty" if 0 in x.shape else "")
            raise self.error(what, "Give x as [num_nodes, channels], neither of them 0")
        count = self._arrays.get("num_nodes")
        if count is not None and (count.numel() != 1 or count.item() != len(x)):
            raise self.error(f"num_nodes does not agree with the {len(x)} rows of x", "Make them equal")
        return self.real("x", x)

    def num_nodes(self) -> int:
        """Count the nodes of data without features."""
        name = next(name for name in ("num_nodes", "node_ptr", "ptr", "batch") if name in self._arrays)
        value = self.integers(name, "int64").flatten()
        if name == "batch":
            count = len(value)
        elif len(value) == 0 or (name == "num_nodes" and len(value) != 1):
            raise self.error(f"{name} has shape {list(self._arrays[name].shape)}", "Write the number of nodes")
        else:
            count = int(value[-1])
        if not 0 < count <= LARGEST:
            raise self.error(f"has {count} nodes: the graph is empty or the number wrong", f"Correct {name}")
        return count

    def edge_index(self, num_nodes: int, name: str = "edge_index") -> Tensor:
        """Check an edge index, int64 [2, num_edges]."""
        if name not in self._arrays:
            mend = "Add edge_index: int64 [2, num_edges], row 0 source, row 1 destination"
            raise self.error("has no edges 'edge_index'", mend)
        edges = self.integers(name, "int64")
        if edges.dim() != 2 or edges.shape[0] != 2:
            turned = edges.dim() == 2 and edges.shape[1] == 2
            mend = "Transpose it" if turned else f"Give it as [2, num_{'edges' if name == 'edge_index' else 'pairs'}]"
            raise self.error(f"{name} has shape {list(edges.shape)}", mend)
        if edges.numel():
            low, high = int(edges.min()), int(edges.max())
            if low < 0 or high >= num_nodes:
                wrong = low if low < 0 else high
                kind = "edge index" if name == "edge_index" else f"{name}: node"
                what = f"{kind} {wrong} out of range for {num_nodes} nodes"
                raise self.error(what, f"Number the nodes from 0 to {num_nodes - 1}, as the rows of x")
        return edges

    def edge_values(self, num_edges: int) -> dict[str, Tensor]:
        """Check what belongs to edges.

        `edge_weight` float32 [num_edges], `edge_attr` float32 [num_edges, channels], `edge_type` int64 [num_edges].
        """
        found: dict[str, Tensor] = {}
        for name in ("edge_weight", "edge_attr"):
            if name not in self._arrays:
                continue
            value = self._arrays[name]
            if name == "edge_weight" and value.dim() == 2 and value.shape[1] == 1:
                value = value[:, 0]
            if name == "edge_attr" and value.dim() == 1:
                value = value[:, None]
            if value.dim() != (1 if name == "edge_weight" else 2) or value.shape[0] != num_edges:
                what = f"{name} has shape {list(self._arrays[name].shape)} for {num_edges} edges"
                raise self.error(what, "Give one row per column of edge_index")
            if 0 in value.shape[1:]:
                raise self.error(f"{name} has no channels", "Leave it out, or give it a channel")
            found[name] = self.real(name, value)
        return {**found, **self._types("edge_type", num_edges, "edges", "column of edge_index")}

    def node_types(self, num_nodes: int) -> dict[str, Tensor]:
        """Check `node_type` int64 [num_nodes]."""
        return self._types("node_type", num_nodes, "nodes", "node")

    def _types(self, name: str, count: int, things: str, row: str) -> dict[str, Tensor]:
        if name not in self._arrays:
            return {}
        value = self.integers(name, "int64")
        value = value[:, 0] if value.dim() == 2 and value.shape[1] == 1 else value
        if value.dim() != 1 or len(value) != count:
            what = f"{name} has shape {list(self._arrays[name].shape)} for {count} {things}"
            raise self.error(what, f"Give one number per {row}")
        if count and not 0 <= int(value.min()) <= int(value.max()) <= LARGEST:
            wrong = int(value.min()) if int(value.min()) < 0 else int(value.max())
            raise self.error(f"{name} holds {wrong}", "Number the types from 0")
        return {name: value.contiguous()}

    def graphs(self, edge_index: Tensor, num_nodes: int) -> tuple[Tensor, int] | None:
        """Return the graph of each node, int64 [num_nodes] ascending, and how many graphs there are.

        `None` for one graph, which says nothing about graphs.
        """
        pointers = [name for name in ("node_ptr", "ptr") if name in self._arrays]
        if "batch" not in self._arrays and not pointers:
            for name in ("edge_ptr", "num_graphs"):
                if name in self._arrays:
                    raise self.error(f"has {name} but neither batch nor node_ptr", "Add batch: the graph of each node")
            return None
        found: Tensor | None = None
        count = 0
        if pointers:
            ends = self._pointer(pointers[0], num_nodes, "nodes")
            count = len(ends) - 1
            found = torch.repeat_interleave(torch.arange(count), ends[1:] - ends[:-1])
        if "batch" in self._arrays:
            batch = self._batch(num_nodes)
            if found is not None and not torch.equal(found, batch):
                raise self.error(f"batch and {pointers[0]} disagree", "Leave one of them out")
            found, count = batch, max(count, int(batch[-1]) + 1)
        assert found is not None
        count = self._count(count, exact=bool(pointers))
        require_memory(8 * count, self._where, f"a set of {count} graphs")
        self._edges_stay_inside(edge_index, found, count)
        return found, count

    def integers(self, name: str, wanted: str) -> Tensor:
        """Widen an array of integers to int64."""
        value = self._arrays[name]
        if value.is_floating_point() or value.is_complex() or value.dtype is torch.bool:
            what = f"{name} is {type_name(value.dtype)}, not an integer type"
            raise self.error(what, f"Write {name} as {wanted}")
        return value.to(torch.int64).contiguous()

    def real(self, name: str, value: Tensor) -> Tensor:
        """Convert an array to float32, in which every value must be finite."""
        if value.is_complex():
            raise self.error(f"{name} is complex", f"Give {name} as float32")
        converted = value.to(torch.float32).contiguous()
        finite = torch.isfinite(converted)
        if not bool(finite.all()):
            first = torch.nonzero(~finite)[0].tolist()
            kind = "too large for float32" if bool(torch.isfinite(value).all()) else "NaN or infinite"
            what = f"{name} holds {int((~finite).sum())} values that are {kind}, the first at {first}"
            raise self.error(what, "Replace them by numbers, for example 0")
        return converted

    def _not_swapped(self) -> None:
        x, edges = self._arrays.get("x"), self._arrays.get("edge_index")
        if x is None or edges is None:
            return
        integers = not x.is_floating_point() and not x.is_complex() and x.dim() == 2 and x.shape[0] == 2
        if integers and edges.is_floating_point():
            raise self.error("x and edge_index look swapped", "Exchange the two: edge_index is the integer array")

    def _batch(self, num_nodes: int) -> Tensor:
        batch = self.integers("batch", "int64")
        if batch.dim() != 1 or len(batch) != num_nodes:
            what = f"batch has shape {list(batch.shape)} for {num_nodes} nodes"
            raise self.error(what, "Give the number of the graph for each node")
        if int(batch.min()) < 0 or int(batch.max()) > LARGEST:
            wrong = int(batch.min()) if int(batch.min()) < 0 else int(batch.max())
            raise self.error(f"batch holds {wrong}", "Number the graphs from 0")
        if bool((batch[1:] < batch[:-1]).any()):
            raise self.error("batch is not ascending", "Put the nodes of one graph side by side, graph after graph")
        return batch

    def _pointer(self, name: str, total: int, what: str) -> Tensor:
        ends = self.integers(name, "int64")
        if ends.dim() != 1 or len(ends) < 2:
            raise self.error(f"{name} has shape {list(ends.shape)}", "Give it as [graphs + 1], starting with 0")
        if int(ends[0]) != 0 or bool((ends[1:] < ends[:-1]).any()):
            raise self.error(f"{name} does not ascend from 0", f"Give where the {what} of each graph start and end")
        if int(ends[-1]) != total:
            raise self.error(f"{name} ends at {int(ends[-1])}, but there are {total} {what}", "Make them agree")
        return ends

    def _count(self, count: int, *, exact: bool) -> int:
        if "num_graphs" not in self._arrays:
            return count
        value = self.integers("num_graphs", "int64")
        if value.numel() != 1 or not count <= int(value) <= (count if exact else LARGEST):
            given = int(value) if value.numel() == 1 else list(value.shape)
            raise self.error(f"num_graphs is {given}, but the nodes belong to {count} graphs", "Make them agree")
        return int(value)

    def _edges_stay_inside(self, edge_index: Tensor, batch: Tensor, count: int) -> None:
        owner = batch[edge_index]
        crossing = torch.nonzero(owner[0] != owner[1])
        if len(crossing):
            column = int(crossing[0])
            what = f"edge {column} leads from graph {int(owner[0, column])} to graph {int(owner[1, column])}"
            raise self.error(what, "Let edge_index count nodes over the whole set, and edges stay in their graph")
        if "edge_ptr" in self._arrays:
            ends = self._pointer("edge_ptr", edge_index.shape[1], "edges")
            if len(ends) != count + 1:
                raise self.error(f"edge_ptr is for {len(ends) - 1} graphs, there are {count}", "Make them agree")
            claimed = torch.repeat_interleave(torch.arange(count), ends[1:] - ends[:-1])
            if not torch.equal(claimed, owner[0]):
                column = int(torch.nonzero(claimed != owner[0])[0])
                what = f"edge {column} stands among those of graph {int(claimed[column])}"
                raise self.error(f"{what} but belongs to graph {int(owner[0, column])}", "Correct edge_ptr or node_ptr")


def type_name(dtype: torch.dtype) -> str:
    """Name a type of numbers as numpy does."""
    return str(dtype).removeprefix("torch.")
