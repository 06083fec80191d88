"""`eval.npz`: what accuracy is measured on, and what the original model answered there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.arrays import SCHEMA, read_arrays, write_arrays
from gnnexport.bundle.graph_sets import Level
from gnnexport.bundle.matrix import pack_matrix, unpack_matrix
from gnnexport.errors import UsageError

_FEATURES = "x"
_PREFIX = "input_"


@dataclass(frozen=True)
class EvalData:
    """The test split.

    Args:
        metric: name of the metric.
        rows: int64 [n], rows of the output for `inputs` that are judged.
        baseline: what the original model gives there, as `measure.metrics.predictions` keeps it: classes int64 [n],
            or float32 scores or values [n] or [n, columns].
        y: labels of these rows: classes int64 [n], several labels float32 [n, labels], or targets float32 [n] or
            [n, targets]; `None`, like `inputs`, when data was not to be embedded.
        inputs: one request that has all the rows judged: in `full` mode what the model reads of the whole data (empty
            where features are baked in), in `graphs` mode the graphs `graphs`, laid side by side.
        graphs: int64 [num_graphs], which graphs of a set the request holds, in this order; `None` for all there is.
        level: what a row is about.
        digests: sha256 of each input, by name, to recognise the same data elsewhere; empty when not known.
        split: name of the split.
        target: which nodes a row is about where there are several kinds: `__paper`; empty for one kind.
    """

    metric: str
    rows: NDArray[np.int64]
    baseline: NDArray[Any]
    y: NDArray[Any] | None = None
    inputs: Mapping[str, NDArray[Any]] | None = None
    graphs: NDArray[np.int64] | None = None
    level: Level = "node"
    digests: Mapping[str, str] = field(default_factory=dict)
    split: str = "test"
    target: str = ""


def input_digest(array: NDArray[Any]) -> str:
    """Return the sha256 of an array's dtype, shape and values."""
    digest = hashlib.sha256(f"{array.dtype.str} {list(array.shape)}\n".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def write_eval(path: Path, data: EvalData, *, limit_bytes: int = 64_000_000) -> EvalData:
    """Write the split; return what was kept of it.

    Inputs and labels are left out when, uncompressed, they take more than the limit: `validate` then wants
    the data, and knows it by the digests.
    """
    if data.inputs is not None:
        data = replace(data, digests={name: input_digest(array) for name, array in data.inputs.items()})
    packed = _pack(data.inputs)
    embedded = sum(array.nbytes for array in packed.values()) + (0 if data.y is None else data.y.nbytes)
    if embedded > limit_bytes:
        data, packed = replace(data, inputs=None, y=None), {}
    arrays = {"rows": data.rows, "baseline": data.baseline, **packed}
    optional = {"y": data.y, "graphs": data.graphs}
    arrays |= {name: array for name, array in optional.items() if array is not None}
    description = {
        "schema": SCHEMA,
        "metric": data.metric,
        "split": data.split,
        "level": data.level,
        "target": data.target,
        "inputs": None if data.inputs is None else list(data.inputs),
        "digests": dict(data.digests),
    }
    write_arrays(path, description, arrays)
    return data


def read_eval(path: Path) -> EvalData:
    """Read the split.

    Raises:
        UsageError: damaged, or not such a file.
    """
    description, arrays = read_arrays(path)
    try:
        return EvalData(
            metric=description["metric"],
            rows=arrays["rows"],
            baseline=arrays["baseline"],
            y=arrays.get("y"),
            inputs=_unpack(description, arrays, str(path)),
            graphs=arrays.get("graphs"),
            level=description.get("level", "node"),
            digests=description.get("digests", {}),
            split=description["split"],
            target=description.get("target", ""),
        )
    except KeyError as error:
        raise UsageError.at(str(path), f"lacks {error}", "Make the bundle again") from None
    except (TypeError, ValueError, AttributeError, MemoryError) as error:
        raise UsageError.at(str(path), f"is not a test split ({error})", "Make the bundle again") from error


def _pack(inputs: Mapping[str, NDArray[Any]] | None) -> dict[str, NDArray[Any]]:
    """Name the arrays of a request as they are stored; features the smaller of two ways."""
    packed: dict[str, NDArray[Any]] = {}
    for name, array in (inputs or {}).items():
        packed |= pack_matrix(array) if name == _FEATURES and array.ndim == 2 else {_PREFIX + name: array}
    return packed


def _unpack(
    description: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], where: str
) -> dict[str, NDArray[Any]] | None:
    features = unpack_matrix(arrays, where)
    if "inputs" not in description:  # of a bundle made before there were other inputs than features
        known = "y" in arrays
        return {_FEATURES: features} if known and features is not None else {} if known else None
    if description["inputs"] is None:
        return None
    found = {_FEATURES: features} if features is not None else {}
    return {name: found[name] if name in found else arrays[_PREFIX + name] for name in description["inputs"]}
