"""Many graphs as one: laid side by side in one disjoint union, as PyG batches them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gnnexport.errors import DataError
from gnnexport.frontends.columns import LARGEST, type_name
from gnnexport.frontends.memory import require_memory
from gnnexport.frontends.npz import as_tensors
from gnnexport.frontends.refusal import quoted
from gnnexport.program.data import Kind, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")
MASKS = tuple(f"{split}_mask" for split in SPLITS)
PAIRS = ("edge_label_index", "pos_edge_label_index", "neg_edge_label_index")
COUNTS = ("num_nodes", "num_graphs", "node_ptr", "edge_ptr", "batch", "ptr")
LABELS = ("y", "edge_label", "pos_edge_label", "neg_edge_label")
PARTED = (*PAIRS[1:], *LABELS[2:])
TYPES = ("edge_type", "node_type")
KNOWN = frozenset(("x", "edge_index", "edge_weight", "edge_attr", *TYPES, *COUNTS, *LABELS, *PAIRS, *MASKS))
"""The arrays that mean something here."""

SHARED = frozenset(
    ("x", "edge_index", "edge_weight", "edge_attr", *TYPES, "y", "edge_label", "edge_label_index", *MASKS)
)
"""What every graph of a set must have if one has it."""

UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
BYTES_PER_NODE = 16
"""What is made for each node whatever a file says: the graph it belongs to, and its degree where it has no features."""

ADJACENCY = ("adj_t", "adj")
GRAPH_MEND = "Save a PyG Data or a list of them with torch.save as .pt, or arrays with numpy.savez as .npz"


@dataclass
class Arrays:
    """Hold what a source of data gave, before anything in it is checked.

    Args:
        tensors: by name, with the names in `KNOWN`.
        graph_masks: bool [graphs], where the source gave one list of graphs for each split.
        notes: what there is to tell.
        kinds: what PyG calls each kind of nodes and edges, by what stands behind the names of its arrays; empty for
            one kind.
    """

    tensors: dict[str, Tensor]
    graph_masks: dict[Split, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kinds: dict[str, Kind] = field(default_factory=dict)


def known_arrays(attributes: Mapping[Any, Any], where: str) -> tuple[dict[str, Tensor], set[str]]:
    """Take the arrays that mean something out of the attributes of one graph, and name the rest.

    Raises:
        DataError: an adjacency matrix instead of an edge index, or an array that cannot be used.
    """
    named = {name: value for name, value in attributes.items() if isinstance(name, str) and value is not None}
    if "edge_index" not in named:
        for name in ADJACENCY:
            if name in named:
                what = f"has its edges as the matrix {name}, not as edge_index"
                raise DataError.at(
                    where, what, "Leave out ToSparseTensor, or set edge_index from torch_geometric.utils"
                )
    wanted = {name: value for name, value in named.items() if name in KNOWN}
    found = as_tensors(wanted, where)
    for name, value in wanted.items():
        if name not in found:
            raise DataError.at(where, f"{name} is a {type(value).__name__}, not a tensor", f"Make {name} a tensor")
        if found[name].layout is not torch.strided:
            raise DataError.at(where, f"{name} is a sparse tensor", f"Make it dense: {name}.to_dense()")
        if found[name].is_meta:
            mend = "Make the tensors on the CPU, not on the device 'meta'"
            raise DataError.at(where, f"{name} has a shape but no values", mend)
        if found[name].dtype in UNSIGNED:
            # torch computes little with these.
            found[name] = found[name].to(torch.int64)
    others = {name for name in named if not name.startswith("_")}
    return {name: value.cpu() for name, value in found.items()}, others - KNOWN


def join(graphs: Sequence[Mapping[Any, Any]], where: str) -> Arrays:
    """Lay graphs side by side; edges count over the whole set, and `batch` tells the graph of each node.

    Raises:
        DataError: graphs with different arrays, widths or impossible edges; `where` names the file.
    """
    if not graphs:
        raise DataError.at(where, "holds no graph", GRAPH_MEND)
    parts: list[dict[str, Tensor]] = []
    ignored: set[str] = set()
    for number, attributes in enumerate(graphs):
        found, unused = known_arrays(attributes, f"{where}: graph {number}")
        parts.append(found)
        ignored |= unused
    _require_same(parts, where)
    size = sum(value.numel() * max(4, value.element_size()) for part in parts for value in part.values())
    require_memory(size, where, f"the {len(parts)} graphs together")
    sizes = [_num_nodes(part, f"{where}: graph {number}") for number, part in enumerate(parts)]
    if sum(sizes) > LARGEST:
        raise DataError.at(where, f"its graphs have {sum(sizes)} nodes together", "Correct num_nodes")
    require_memory(size + BYTES_PER_NODE * sum(sizes), where, f"{sum(sizes)} nodes in {len(parts)} graphs")
    counts = torch.tensor(sizes)
    starts = counts.cumsum(0) - counts
    joined: dict[str, Tensor] = {}
    for name in sorted(SHARED & parts[0].keys()):
        values = [part[name] for part in parts]
        if name in ("edge_index", "edge_label_index"):
            joined[name] = _join_edges(name, values, counts, starts, where)
        else:
            joined[name] = _join_rows(name, values, where)
    joined["num_nodes"] = counts.sum()
    joined["batch"] = torch.repeat_interleave(torch.arange(len(parts)), counts)
    joined["num_graphs"] = torch.tensor(len(parts))
    return Arrays(joined, notes=unused_note(ignored))


def unused_note(names: set[str]) -> list[str]:
    """Tell which arrays were left alone."""
    return [f"data: not used: {', '.join(quoted(name) for name in sorted(names))}"] if names else []


def _require_same(parts: Sequence[Mapping[str, Tensor]], where: str) -> None:
    first = parts[0].keys() & SHARED
    for number, part in enumerate(parts):
        differs = sorted((part.keys() & SHARED) ^ first)
        if differs:
            name = differs[0]
            has, lacks = (number, 0) if name in part else (0, number)
            what = f"graph {has} has {name}, graph {lacks} has not"
            raise DataError.at(where, what, "Give all graphs the same attributes")


def _num_nodes(part: Mapping[str, Tensor], where: str) -> int:
    if "x" in part:
        return len(part["x"]) if part["x"].dim() else 0
    if "num_nodes" in part:
        count = part["num_nodes"]
        whole = not (count.is_floating_point() or count.is_complex() or count.dtype is torch.bool)
        if not whole or count.numel() != 1 or not 0 <= int(count) <= LARGEST:
            raise DataError.at(where, "num_nodes is not one number of nodes", "Write the number of nodes")
        return int(count)
    edges = part.get("edge_index")
    if edges is None:
        raise DataError.at(where, "has neither x nor num_nodes", "Give node features x, or num_nodes")
    _require_edges("edge_index", edges, where)
    return max(int(edges.max()) + 1, 0) if edges.numel() else 0


def _require_edges(name: str, edges: Tensor, where: str) -> None:
    if edges.is_floating_point() or edges.is_complex() or edges.dtype is torch.bool:
        raise DataError.at(where, f"{name} is {type_name(edges.dtype)}, not an integer type", f"Write {name} as int64")
    if edges.dim() != 2 or edges.shape[0] != 2:
        turned = edges.dim() == 2 and edges.shape[1] == 2
        mend = "Transpose it" if turned else "Give it as [2, edges]"
        raise DataError.at(where, f"{name} has shape {list(edges.shape)}", mend)


def _join_edges(name: str, values: Sequence[Tensor], counts: Tensor, starts: Tensor, where: str) -> Tensor:
    """Join edges that count from 0 in each graph, int [2, edges of the graph], into one that counts over all."""
    for number, edges in enumerate(values):
        _require_edges(name, edges, f"{where}: graph {number}")
    lengths = torch.tensor([edges.shape[1] for edges in values])
    owner = torch.repeat_interleave(torch.arange(len(values)), lengths)
    joined = torch.cat([edges.to(torch.int64) for edges in values], dim=1)
    outside = ((joined < 0) | (joined >= counts[owner])).any(0)
    if bool(outside.any()):
        column = int(torch.nonzero(outside)[0])
        number = int(owner[column])
        wrong = next(int(end) for end in joined[:, column] if not 0 <= int(end) < int(counts[number]))
        what = f"{name} holds {wrong} where the graph has {int(counts[number])} nodes"
        raise DataError.at(f"{where}: graph {number}", what, "Number the nodes of every graph from 0")
    return joined + starts[owner]


def _join_rows(name: str, values: Sequence[Tensor], where: str) -> Tensor:
    rows = [value[None] if value.dim() == 0 else value for value in values]
    for number, value in enumerate(rows):
        if value.shape[1:] != rows[0].shape[1:]:
            what = f"{name} has shape {list(value.shape)} in graph {number} and {list(rows[0].shape)} in graph 0"
            raise DataError.at(where, what, f"Give {name} the same number of columns in every graph")
    return torch.cat(rows)
