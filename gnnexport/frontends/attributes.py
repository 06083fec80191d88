"""The attributes of a pickled PyG graph, taken out of its records; the object itself is not made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gnnexport.frontends import vocabulary
from gnnexport.frontends.hetero import KindAttributes
from gnnexport.frontends.modules import ModuleRebuilder
from gnnexport.frontends.records import Global, New, Pairs, Value
from gnnexport.frontends.refusal import unsafe

HETERO_PARTS = frozenset(
    ("_edge_attr_cls", "_tensor_attr_cls", "_global_store", "_node_store_dict", "_edge_store_dict")
)
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


def read_kinds(record: New, path: Path, rebuilder: ModuleRebuilder) -> KindAttributes:
    """Read the attributes of a PyG `HeteroData`, kind by kind.

    Raises:
        UnsafeFileError: the object has anything that stands in front of its methods.
    """
    fields = _named(record.state, HETERO_PARTS, path)
    stores: list[tuple[Any, dict[Any, Any]]] = []
    for name in ("_node_store_dict", "_edge_store_dict"):
        match fields.get(name):
            case Pairs(items=items):
                stores += [(_kind(kind), _store(store, path, rebuilder)) for kind, store in items]
            case _:
                raise unsafe(path, "holds a HeteroData without its storages")
    return KindAttributes(stores, str(path))


def _kind(record: Value) -> Any:
    """Return a kind as text or texts; anything else is no kind, which is told when it is named."""
    return record if type(record) is str or type(record) is tuple else None


def _store(record: Value, path: Path, rebuilder: ModuleRebuilder) -> dict[Any, Any]:
    match record:
        case New(cls=Global(name=name), args=(), state=state) if name in vocabulary.KIND_STORES:
            attributes = rebuilder.value(_named(state, PARTS | {"_key"}, path).get("_mapping"), "the data")
            if isinstance(attributes, dict):
                return attributes
    raise unsafe(path, "holds a HeteroData with a storage that torch.save does not write")


def _named(state: Value, known: frozenset[str], path: Path) -> dict[str, Value]:
    """Return the fields of an object, all of which must be known."""
    match state:
        case Pairs(items=items):
            fields = {name: item for name, item in items if type(name) is str}
            if len(fields) == len(items) and fields.keys() <= known:
                return fields
    raise unsafe(path, "holds a HeteroData whose state stands in front of its methods")


def _node_counts(record: Value) -> dict[str, list[int]]:
    if not isinstance(record, list):
        return {}
    counts = [count for count in record if type(count) is int]
    return {"_num_nodes": counts} if len(counts) == len(record) else {}


def _graph_count(record: Value) -> dict[str, int]:
    return {"num_graphs": record} if type(record) is int else {}
