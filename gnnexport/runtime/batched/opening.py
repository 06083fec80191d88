"""Open the files of a bundle in mode `batched`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.arrays import UNREADABLE, read_arrays
from gnnexport.bundle.layout import GRAPH
from gnnexport.bundle.packed_rows import map_packed
from gnnexport.bundle.reader import Bundle
from gnnexport.bundle.stages import Batched, FeatureTable, Stage, StoreBits, Structure
from gnnexport.errors import UsageError
from gnnexport.native.packed import PackedRows
from gnnexport.runtime.backend import Backend
from gnnexport.runtime.batched.adjacency import Adjacency
from gnnexport.runtime.batched.chain import Chain
from gnnexport.runtime.batched.consistency import check_engine, check_manifest
from gnnexport.runtime.batched.growing import Ids
from gnnexport.runtime.batched.packed_tables import PackedFeatures, Table
from gnnexport.runtime.batched.request import whole_number
from gnnexport.runtime.batched.structure import GraphStructure
from gnnexport.runtime.batched.tables import FeatureRows, map_rows

_MEND = "Make the bundle again"
_FILLED_ROWS = 1 << 16
"""Rows of the bundle that are read at once."""

Arrays = Mapping[str, NDArray[Any]]


def open_chain(
    bundle: Bundle,
    make: Callable[[Path], Backend],
    store_bytes: int | None = None,
    store_bits: StoreBits | None = None,
) -> Chain:
    """Load tables, graph and stages.

    Args:
        bundle: in mode `batched`.
        make: loads the model of a stage.
        store_bytes: overrides the memory for rows of stages that the manifest tells.
        store_bits: overrides the bits of a number in these rows.

    Raises:
        UsageError: files that do not fit each other, a budget below 0, or other bits than there are.
    """
    where, spec = str(bundle.path), bundle.manifest.batched
    if spec is None:
        raise UsageError.at(where, "is in mode 'batched' and says nothing of stages", _MEND)
    if store_bytes is not None and whole_number(f"{where}: store_bytes", store_bytes) < 0:
        raise UsageError.at(f"{where}: store_bytes", f"is {store_bytes}", "Give 0 or more bytes")
    if store_bits not in (None, *get_args(StoreBits)):
        raise UsageError.at(f"{where}: store_bits", f"is {store_bits}", "Give 8 or 32 bits")
    check_manifest(where, bundle.manifest, spec)
    _, arrays = read_arrays(bundle.path / GRAPH)
    tables = {table.name: _table(bundle.path, table) for table in spec.tables}
    num_nodes = {len(table) for table in tables.values()}
    structures = {item.name: _structure(where, item, spec, arrays) for item in spec.structures}
    num_nodes |= {structure.adjacency.num_nodes for structure in structures.values()}
    node_values = {value.name: _array(where, arrays, value.name) for value in spec.values if value.structure is None}
    num_nodes |= {len(value) for value in node_values.values()}
    if len(num_nodes) != 1:
        raise UsageError.at(where, f"tables and graph have {sorted(num_nodes)} nodes", _MEND)
    backends = [make(bundle.path / stage.model_file) for stage in spec.stages]
    for stage, backend in zip(spec.stages, backends, strict=True):
        check_engine(where, stage, backend)
    budget = spec.store_bytes if store_bytes is None else store_bytes
    bits = spec.store_bits if store_bits is None else store_bits
    chain = Chain(spec, tables, structures, node_values, backends, budget, bits)
    _fill(chain, bundle.path)
    return chain


def _fill(chain: Chain, folder: Path) -> None:
    """Begin with the rows that the bundle brings, those first that most others read."""
    kept = [link for link in chain.links if link.name in chain.stores]
    brought = {link.name: link.spec for link in kept if link.spec.rows_file is not None}
    order = chain.most_read() if brought else np.zeros(0, np.int64)
    for name, stage in brought.items():
        store = chain.stores[name]
        if chain.spec.store_bits < store.bits:  # rows that were rounded are none that need not be
            continue
        rows = _rows_of_stage(folder, stage, chain.spec.store_bits)
        if len(rows) != chain.num_nodes:
            what = f"has {len(rows)} rows for the {chain.num_nodes} nodes of '{name}'"
            raise UsageError.at(str(folder / str(stage.rows_file)), what, _MEND)
        # What most others read is put in last, and so stays longest.
        chosen = order[: store.capacity][::-1]
        for begin in range(0, len(chosen), _FILLED_ROWS):
            nodes = chosen[begin : begin + _FILLED_ROWS]
            store.put(nodes, rows.take(nodes) if isinstance(rows, PackedRows) else rows[nodes])


def _table(folder: Path, table: FeatureTable) -> Table:
    if table.bits is None:
        return FeatureRows(_rows(folder, table.file, table.width), table.columns)
    return PackedFeatures(_packed(folder, table.file, table.width), table.bits, table.columns)


def _rows_of_stage(folder: Path, stage: Stage, bits: StoreBits) -> NDArray[np.float32] | PackedRows:
    if bits == 32:
        return _rows(folder, str(stage.rows_file), stage.width)
    rows = _packed(folder, str(stage.rows_file), stage.width)
    if rows.zero is None:
        raise UsageError.at(str(folder / str(stage.rows_file)), "does not hold rows of 8 bits with a sign each", _MEND)
    return rows


def _packed(folder: Path, file: str, width: int) -> PackedRows:
    rows = map_packed(folder / file, _MEND)
    if rows.columns != width:
        what = f"has rows of {rows.columns} numbers where the manifest says {width}"
        raise UsageError.at(str(folder / file), what, _MEND)
    return rows


def _rows(folder: Path, file: str, width: int) -> NDArray[np.float32]:
    path = folder / file
    try:
        rows = map_rows(path)
    except UNREADABLE as error:
        raise UsageError.at(str(path), f"cannot be read ({error})", _MEND) from error
    if rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] != width:
        what = f"is {rows.dtype} {list(rows.shape)} where the manifest says float32 [nodes, {width}]"
        raise UsageError.at(str(path), what, _MEND)
    return rows


def _structure(where: str, item: Structure, spec: Batched, arrays: Arrays) -> GraphStructure:
    parts = [_array(where, arrays, f"{item.name}.{part}") for part in ("rowptr", "col")]
    sound = all(part.ndim == 1 and part.dtype.kind in "iu" for part in parts)
    rowptr, col = (part.astype(np.int64) if sound else np.zeros(0, np.int64) for part in parts)
    if not _is_csr(rowptr, col):
        raise UsageError.at(where, f"the structure '{item.name}' is none", _MEND)
    specs = [value for value in spec.values if value.structure == item.name]
    values = {value.name: _array(where, arrays, value.name) for value in specs}
    for name, value in values.items():
        if len(value) != len(col):
            raise UsageError.at(where, f"'{name}' has {len(value)} values for {len(col)} slots", _MEND)
    return GraphStructure(item.loops, Adjacency(rowptr, col, values), specs)


def _is_csr(rowptr: Ids, col: Ids) -> bool:
    if not len(rowptr) or rowptr[0] != 0 or rowptr[-1] != len(col) or bool((np.diff(rowptr) < 0).any()):
        return False
    return not len(col) or (int(col.min()) >= 0 and int(col.max()) < len(rowptr) - 1)


def _array(where: str, arrays: Arrays, name: str) -> NDArray[Any]:
    if name not in arrays:
        raise UsageError.at(where, f"{GRAPH} lacks '{name}'", _MEND)
    if not arrays[name].ndim or arrays[name].dtype.kind not in "iuf":
        what = f"'{name}' is {arrays[name].dtype} {list(arrays[name].shape)}"
        raise UsageError.at(where, f"{GRAPH}: {what}", _MEND)
    return arrays[name]
