"""Graphs that `torch.save` wrote, as plain mappings and lists; nothing in the file is run unless it is trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Batch, Data, HeteroData

from gnnexport.errors import DataError, GnnExportError, UnsafeFileError, UnsupportedError, UsageError
from gnnexport.frontends import vocabulary
from gnnexport.frontends.archive import Archive
from gnnexport.frontends.attributes import read_data_attributes, read_kinds
from gnnexport.frontends.graph_sets import GRAPH_MEND
from gnnexport.frontends.hetero import KindAttributes
from gnnexport.frontends.modules import ModuleRebuilder
from gnnexport.frontends.names import names_in
from gnnexport.frontends.records import Global, New, Pairs, Value, read_records
from gnnexport.frontends.refusal import quoted, rebuilding, unsafe
from gnnexport.frontends.tensors import TensorRebuilder
from gnnexport.frontends.trusted import CODE_MEND, load_trusted

DEEPEST = 3
"""Levels of lists and dictionaries around a graph: splits, of lists, of graphs."""

IN_PASSING = frozenset(("collections.defaultdict", "torch_geometric.data.storage.AttrType", vocabulary.BATCH))
"""Names in what PyG caches beside the attributes of a graph: read past, never used."""

OWN_GRAPHS_MEND = f"Give the script that defines it: --trust --code train.py. Or: {GRAPH_MEND}"
TEMPORAL_MEND = "Give a graph of one moment, with edge_index"
SPARSE_MEND = "Leave out ToSparseTensor, or set edge_index from torch_geometric.utils.to_edge_index(data.adj_t)"
META_MEND = "Make the tensors on the CPU, not on the device 'meta'"
UNSUPPORTED: Mapping[str, tuple[str, str]] = {
    "torch_geometric.data.temporal.TemporalData": ("holds a TemporalData", TEMPORAL_MEND),
    "torch._utils._rebuild_sparse_tensor": ("holds a sparse tensor", SPARSE_MEND),
    "torch_sparse.tensor.SparseTensor": ("holds a sparse tensor", SPARSE_MEND),
    "torch._utils._rebuild_meta_tensor_no_storage": ("holds a tensor without values", META_MEND),
}
"""Honest files that cannot be used: by a name in them, what to say, and the way in that remains."""

EXPECTED = frozenset(
    (
        *UNSUPPORTED,
        "torch_sparse.storage.SparseStorage",
        "torch.serialization._get_layout",
    )
)
"""What such files name besides; a file that names anything else is refused as unsafe."""


def load_pickled(path: Path, *, trust: bool = False, code: Path | None = None) -> Any:
    """Load graphs as mappings of their attributes, in the lists, tuples and dictionaries that hold them.

    Args:
        path: a file that `torch.save` wrote.
        trust: unpickle it as Python does, running whatever it holds.
        code: the script that defines classes of the graphs, imported for them; only with `trust`.

    Raises:
        UnsafeFileError: the file names something not on the safe list.
        UnsupportedError: graphs with several types of nodes, with times, or with sparse tensors.
        UsageError: the file is truncated, or of another format.
    """
    if trust:
        return plain(_load_trusted(path, code), str(path))
    try:
        return _load_safely(path)
    except UnsafeFileError as error:
        mend = "Save the arrays as .npz instead, or pass --trust if you know who wrote this file"
        raise UnsafeFileError(*(replace(problem, mend=mend) for problem in error.problems)) from error


def _load_trusted(path: Path, code: Path | None) -> object:
    """Unpickle as Python does; the script is run for graphs only where they are of its classes."""
    try:
        return load_trusted(path)
    except UsageError as error:
        if code is not None:
            return load_trusted(path, code)
        mends = [problem.mend.replace(CODE_MEND, OWN_GRAPHS_MEND) for problem in error.problems]
        problems = [replace(problem, mend=mend) for problem, mend in zip(error.problems, mends, strict=True)]
        raise UsageError(*problems) from error


def plain(loaded: Any, where: str, depth: int = 0) -> Any:
    """Turn PyG's own objects into mappings and lists: graphs, batches, data sets and their parts.

    Raises:
        UnsupportedError: graphs with several types of nodes, or with times.
        DataError: a data set whose graphs cannot be read.
    """
    for cls in type(loaded).__mro__:
        known = UNSUPPORTED.get(f"{cls.__module__}.{cls.__name__}")
        if known is not None:
            raise UnsupportedError.at(where, *known)
    if depth > DEEPEST or isinstance(loaded, torch.Tensor | np.ndarray | np.generic | str | bytes | type):
        return loaded
    if isinstance(loaded, Mapping):
        return {key: plain(value, where, depth + 1) for key, value in loaded.items()}
    if isinstance(loaded, list | tuple):
        values = [plain(value, where, depth + 1) for value in loaded]
        return tuple(values) if isinstance(loaded, tuple) else values
    if isinstance(loaded, HeteroData):
        return KindAttributes(
            ((kind, store.to_dict()) for kind, store in (*loaded.node_items(), *loaded.edge_items())), where
        )
    if isinstance(loaded, Data):
        counted = {"num_graphs": loaded.num_graphs} if isinstance(loaded, Batch) else {}
        return {**loaded.to_dict(), **counted}
    if hasattr(loaded, "__getitem__") and hasattr(loaded, "__len__"):
        try:
            return [plain(loaded[number], where, depth + 1) for number in range(len(loaded))]
        except GnnExportError:
            raise
        except Exception as error:
            what = f"the graphs of its {type(loaded).__name__} cannot be read ({quoted(str(error))})"
            raise DataError.at(where, what, "Give a list of the graphs") from error
    return loaded


def _load_safely(path: Path) -> Any:
    with Archive(path) as archive:
        record = read_records(archive.read_pickle(), path)
        _check_names(record, path)
        with rebuilding(path):
            return _Reader(path, ModuleRebuilder(path, TensorRebuilder(archive))).read(record)


def _check_names(record: Value, path: Path) -> None:
    names = set(names_in(record))
    unknown = sorted(name for name in names if not vocabulary.is_known(name) and name not in IN_PASSING | EXPECTED)
    if unknown:
        listed = ", ".join(quoted(name) for name in unknown[:8]) + (" and more" if len(unknown) > 8 else "")
        raise unsafe(path, f"asks for {listed}, which is not on the safe list")
    for name, (what, mend) in UNSUPPORTED.items():
        if name in names:
            raise UnsupportedError.at(str(path), what, mend)
    if names & EXPECTED:
        raise unsafe(path, f"asks for {quoted(min(names & EXPECTED))}, which is not on the safe list")


class _Reader:
    """Walk the lists and dictionaries around graphs; everything inside a graph is the rebuilder's."""

    def __init__(self, path: Path, rebuilder: ModuleRebuilder) -> None:
        self._path = path
        self._rebuilder = rebuilder
        self._done: dict[tuple[int, int], tuple[Value, Any]] = {}

    def read(self, record: Value, depth: int = 0) -> Any:
        key = (id(record), depth)
        if key not in self._done:
            self._done[key] = (record, self._read(record, depth))
        return self._done[key][1]

    def _read(self, record: Value, depth: int) -> Any:
        match record:
            case New(cls=Global(name=vocabulary.DATA), args=()):
                return read_data_attributes(record, self._path, self._rebuilder)
            case New(cls=Global(name=vocabulary.BATCH), args=(Global(name=vocabulary.DATA),)):
                return read_data_attributes(record, self._path, self._rebuilder)
            case New(cls=Global(name=vocabulary.HETERO_DATA), args=()):
                return read_kinds(record, self._path, self._rebuilder)
            case Global(name=vocabulary.DATA):
                # The class that a data set names last in its file.
                return None
            case list() | tuple() if depth < DEEPEST:
                return _like(record, (self.read(item, depth + 1) for item in record))
            case Pairs(items=items) if depth < DEEPEST:
                return {name: self.read(item, depth + 1) for name, item in items if type(name) is str}
        return self._rebuilder.value(record, "the file")


def _like(record: list[Any] | tuple[Any, ...], values: Iterable[Any]) -> Any:
    return tuple(values) if isinstance(record, tuple) else list(values)
