"""The attributes of a pickled PyG graph, taken out of its records; the object itself is not made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gnnexport.frontends import vocabulary
from gnnexport.frontends.modules import ModuleRebuilder
from gnnexport.frontends.records import Global, New, Pairs, Value
from gnnexport.frontends.refusal import unsafe

PARTS = frozenset(("_mapping", "_parent", "_cached_attr", "_num_graphs", "_num_nodes", "_slice_dict", "_inc_dict"))
"""What a storage holds; besides the attributes, only the number of graphs of a batch, and of their nodes, is read."""


def read_data_attributes(record: New, path: Path, rebuilder: ModuleRebuilder) -> dict[str, Any]:
    """Read the attributes of a PyG `Data`, or of a `Batch` of them with its `num_graphs`.

    Graphs that tell their number of nodes keep it, when they are laid side by side, as `_num_nodes`.

    Raises:
        UnsafeFileError: the object has anything that stands in front of its methods.
    """
    match record.state:
        case Pairs(items=items):
            fields = {name: item for name, item in items if type(name) is str}
        case _:
            raise unsafe(path, "holds a Data that torch.save does not write")
    if len(fields) != len(items) or set(fields) - {"_edge_attr_cls", "_tensor_attr_cls", "_store"}:
        raise unsafe(path, "holds a Data whose state stands in front of its methods")
    match fields.get("_store"):
        case New(cls=Global(name=vocabulary.DATA_STORE), args=(), state=Pairs(items=parts)):
            store = {name: part for name, part in parts if type(name) is str}
        case _:
            raise unsafe(path, "holds a Data without its storage")
    if len(store) != len(parts) or set(store) - PARTS:
        raise unsafe(path, "holds a Data whose storage stands in front of its methods")
    attributes = rebuilder.value(store.get("_mapping"), "the data")
    if not isinstance(attributes, dict):
        raise unsafe(path, "holds a Data without attributes")
    return {**attributes, **_graph_count(store.get("_num_graphs")), **_node_counts(store.get("_num_nodes"))}


def _node_counts(record: Value) -> dict[str, list[int]]:
    if not isinstance(record, list):
        return {}
    counts = [count for count in record if type(count) is int]
    return {"_num_nodes": counts} if len(counts) == len(record) else {}


def _graph_count(record: Value) -> dict[str, int]:
    return {"num_graphs": record} if type(record) is int else {}
