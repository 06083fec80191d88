"""Graphs with several kinds of nodes and edges: every array has its kind in its name, `x__paper`.

PyG's own names of the kinds are kept beside, because a model looks its inputs up by them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from gnnexport.errors import DataError, UnsupportedError
from gnnexport.frontends.columns import Columns
from gnnexport.frontends.graph_sets import MASKS, Arrays, known_arrays, unused_note
from gnnexport.frontends.labels import Labels, labelled_only, with_validation
from gnnexport.program.data import GraphData, Kind, labelled_rows
from gnnexport.program.inputs import NUM_NODES, OF, ends_of, suffix_of

NODE_ARRAYS = ("x", "y", "num_nodes", *MASKS)
EDGE_ARRAYS = ("edge_index", "edge_weight", "edge_attr")
NAME_MEND = "Call arrays of nodes x__paper, y__paper, and those of edges edge_index__author__writes__paper"
LABEL_MEND = "Give y and masks to the nodes that the model answers for, and to no others"


class KindAttributes(dict[str, Any]):
    """Hold the attributes of a `HeteroData`, by names with their kind, and PyG's names of the kinds."""

    def __init__(self, stores: Iterable[tuple[Any, Mapping[Any, Any]]], where: str) -> None:
        """Name what each store holds.

        Args:
            stores: kind and attributes of each.
            where: names the source in messages.

        Raises:
            DataError: a kind without a name, or two with the same.
        """
        super().__init__()
        self.kinds: dict[str, Kind] = {}
        for kind, attributes in stores:
            suffix = suffix_for(kind)
            if suffix is None or suffix in self.kinds:
                what = f"a kind of nodes or edges is called {str(kind)[:80]!r}"
                raise DataError.at(where, what, "Give every kind a name of its own, of letters and digits")
            self.kinds[suffix] = kind
            self.update({f"{name}{suffix}": value for name, value in attributes.items()})


def suffix_for(kind: Any) -> str | None:
    """Return what stands behind the names of the arrays of a kind: `__paper`, `__author__writes__paper`."""
    parts = (kind,) if isinstance(kind, str) else kind
    if not isinstance(parts, tuple) or len(parts) not in (1, 3) or not all(isinstance(part, str) for part in parts):
        return None
    words = [re.sub(r"\W+", "_", part, flags=re.ASCII).replace(OF, "_").strip("_") for part in parts]
    return "".join(OF + word for word in words) if all(words) else None


def is_of_kind(name: str) -> bool:
    """Tell whether a name is that of an array of some kind of nodes or edges."""
    base, *parts = name.split(OF)
    wanted = {1: NODE_ARRAYS, 3: EDGE_ARRAYS}.get(len(parts), ())
    return base in wanted and all(part.isidentifier() or part.isalnum() for part in parts)


def kind_arrays(attributes: Mapping[Any, Any], where: str, kinds: Mapping[str, Kind] | None = None) -> Arrays:
    """Take the arrays that mean something out of a graph of several kinds, and name the rest.

    Raises:
        DataError: an array that cannot be used.
    """
    wanted = {name: value for name, value in attributes.items() if is_of_kind(str(name)) and value is not None}
    tensors: dict[str, Tensor] = {}
    for name, value in wanted.items():
        base, suffix = name.partition(OF)[0], suffix_of(name)
        found, _ = known_arrays({base: value}, f"{where}: {suffix[len(OF) :]}")
        tensors[name] = found[base]
    found_kinds = dict(kinds or {})
    for name in tensors:
        parts = tuple(suffix_of(name).split(OF)[1:])
        found_kinds.setdefault(suffix_of(name), parts[0] if len(parts) == 1 else (parts[0], parts[1], parts[2]))
    unused = {str(name) for name in attributes if name not in tensors and not str(name).startswith("_")}
    return Arrays(tensors, notes=unused_note(unused), kinds=found_kinds)


def build_hetero(
    arrays: Arrays, where: str, name: str, split: int = 0, kind: str | None = None
) -> tuple[GraphData, list[str]]:
    """Check a graph of several kinds and make data of it; the kind of nodes with labels is the one judged.

    Raises:
        DataError: arrays that are missing, of the wrong shape or out of range.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for full, value in arrays.tensors.items():
        parts.setdefault(suffix_of(full), {})[full.partition(OF)[0]] = value
    nodes = {suffix: part for suffix, part in parts.items() if suffix.count(OF) == 1}
    inputs: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    for suffix, part in nodes.items():
        x = Columns(part if "x" in part else {}, f"{where}: {suffix[len(OF) :]}").features()
        assert x is not None
        inputs[f"x{suffix}"], sizes[NUM_NODES + suffix] = x, len(x)
    for suffix, part in parts.items():
        if suffix not in nodes:
            inputs |= _edges(part, suffix, sizes, f"{where}: {suffix[len(OF) :]}")
    if not any(suffix not in nodes for suffix in parts):
        raise DataError.at(where, "has kinds of nodes and no edges", NAME_MEND)
    keys = {full: arrays.kinds[suffix_of(full)] for full in inputs}
    data = GraphData(name=name, inputs=inputs, keys=keys)
    notes: list[str] = []
    return _labelled(data, nodes, where, split, kind, notes), notes + arrays.notes


def _edges(part: Mapping[str, Tensor], suffix: str, sizes: Mapping[str, int], where: str) -> dict[str, Tensor]:
    """Check the edges of one kind, whose rows count the nodes of two kinds, and what belongs to them."""
    columns = Columns(part, where)
    if "edge_index" not in part:
        raise columns.error("has no edges 'edge_index'", "Add edge_index: int64 [2, num_edges]")
    edges = columns.integers("edge_index", "int64")
    if edges.dim() != 2 or edges.shape[0] != 2:
        raise columns.error(f"edge_index has shape {list(edges.shape)}", "Give it as [2, num_edges]")
    for row, end in zip(edges, ends_of(f"edge_index{suffix}"), strict=True):
        if end not in sizes:
            what = f"its edges join nodes of the kind '{end.partition(OF)[2]}', of which there are no features"
            raise columns.error(what, f"Add x{suffix_of(end)}: float32 [num_nodes, channels]")
        if row.numel() and not 0 <= int(row.min()) <= int(row.max()) < sizes[end]:
            wrong = int(row.min()) if int(row.min()) < 0 else int(row.max())
            what = f"edge index {wrong} out of range for {sizes[end]} nodes of the kind '{end.partition(OF)[2]}'"
            raise columns.error(what, f"Number the nodes of each kind from 0 to {sizes[end] - 1}, as the rows of its x")
    values = columns.edge_values(edges.shape[1])
    return {f"{name}{suffix}": value for name, value in {"edge_index": edges, **values}.items()}


def _labelled(
    data: GraphData,
    nodes: Mapping[str, Mapping[str, Tensor]],
    where: str,
    split: int,
    kind: str | None,
    notes: list[str],
) -> GraphData:
    """Add the labels of the one kind of nodes that has them, and its masks."""
    found = [suffix for suffix, part in nodes.items() if "y" in part]
    masked = [suffix for suffix in found if any(mask in nodes[suffix] for mask in MASKS)]
    chosen = masked if len(found) > 1 else found
    if len(found) > 1 and len(chosen) != 1:
        listed = " and ".join(suffix[len(OF) :] for suffix in found)
        raise DataError.at(where, f"has labels for several kinds of nodes: {listed}", LABEL_MEND)
    if not chosen:
        return data
    (target,) = chosen
    notes += [
        f"data: labels of the kind '{suffix[len(OF) :]}' are not used: it has no masks"
        for suffix in found
        if suffix != target
    ]
    part = dict(nodes[target])
    labels = Labels(part, {"node": data.sizes[NUM_NODES + target]}, kind, f"{where}: {target[len(OF) :]}")
    y, masks = labels.labels("node"), labels.masks("node", split)
    assert y is not None
    masks = labelled_only(masks, y, "node", notes)
    if "train" in masks and "test" in masks and "val" not in masks:
        masks = with_validation(masks, "node", notes)
    return GraphData(name=data.name, inputs=data.inputs, y=y, masks=masks, target=target, keys=data.keys)


def by_type(data: GraphData) -> GraphData:
    """Make several kinds of nodes and edges of one graph with `node_type` and `edge_type`; their numbers are the names.

    Raises:
        DataError: edges of one type join several kinds of nodes, or several kinds of nodes have labels.
        UnsupportedError: several graphs, or labels of graphs or of pairs.
    """
    if data.level != "node" or (data.num_graphs or 1) > 1:
        what = "is a set of graphs, or judged by graphs or pairs, where the model takes dictionaries by kind of node"
        mend = "Let forward take x, edge_index, node_type and edge_type, or give one graph with labels of nodes"
        raise UnsupportedError.at(data.name, what, mend)
    node_type, edge_type = data.inputs["node_type"], data.inputs["edge_type"]
    place = torch.empty_like(node_type)
    rows = {int(kind): torch.nonzero(node_type == kind)[:, 0] for kind in node_type.unique()}
    inputs: dict[str, Tensor] = {}
    keys: dict[str, Kind] = {}
    for kind, chosen in rows.items():
        place[chosen] = torch.arange(len(chosen))
        inputs[f"x{OF}{kind}"], keys[f"x{OF}{kind}"] = data.inputs["x"][chosen], str(kind)
    for relation in edge_type.unique().tolist():
        columns = torch.nonzero(edge_type == relation)[:, 0]
        edges = data.inputs["edge_index"][:, columns]
        ends = [row.unique().tolist() for row in node_type[edges]]
        if [len(end) for end in ends] != [1, 1]:
            what = f"edges of type {relation} join nodes of several types"
            raise DataError.at(data.name, what, "Give every pair of types of nodes an edge type of its own")
        key = (str(ends[0][0]), str(relation), str(ends[1][0]))
        for name in EDGE_ARRAYS:
            if name in data.inputs:
                full = name + "".join(OF + word for word in key)
                inputs[full] = place[edges] if name == "edge_index" else data.inputs[name][columns]
                keys[full] = key
    return _of_target(data, rows, GraphData(name=data.name, inputs=inputs, keys=keys))


def _of_target(data: GraphData, rows: Mapping[int, Tensor], split: GraphData) -> GraphData:
    if data.y is None:
        return split
    known = labelled_rows(data.y)
    labelled = [kind for kind, chosen in rows.items() if bool(known[chosen].any())]
    if len(labelled) != 1:
        raise DataError.at(data.name, f"nodes of the types {labelled} have labels", LABEL_MEND)
    chosen = rows[labelled[0]]
    masks = {name: mask[chosen] for name, mask in data.masks.items()}
    target = f"{OF}{labelled[0]}"
    return GraphData(data.name, split.inputs, data.y[chosen], masks, target=target, keys=split.keys)
