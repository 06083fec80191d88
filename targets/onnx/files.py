"""Write a lowered model to its file, or files beyond what one protobuf can hold."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from gnnexport.program.inputs import Mode
from gnnexport.targets.onnx.halves import store_halves
from gnnexport.targets.onnx.nested_structure import share_nested
from gnnexport.targets.onnx.quantisers import OF_LEVELS
from gnnexport.targets.onnx.sparse_weights import store_sparse
from gnnexport.targets.onnx.tape import FOLDED, OF_GRAPH

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"

EXTERNAL_BYTES = (1 << 31) - (64 << 20)
"""Initialisers above this many bytes lie in a file of their own: a protobuf ends at 2 GiB."""

_SMALL_BYTES = 1024


def write(
    model: ir.Model, folder: Path, external_bytes: int = EXTERNAL_BYTES, *, compress: bool = True
) -> tuple[str, ...]:
    """Write and check the model, weights that 16 bits hold exactly in 16 bits; return the names of the files.

    Args:
        model: in standard operators.
        folder: exists already.
        external_bytes: initialisers above this many bytes in all go to a file of their own.
        compress: store weights with many zeros without them, and structures by the slots that they have of larger ones;
            the runtime has to write both out when it loads the model.
    """
    if compress:
        share_nested(model)
        store_sparse(model)
    store_halves(model)  # of what is compressed as well
    _tidy(model)
    path = folder / MODEL_FILE
    total = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if total > external_bytes:
        ir.save(model, path, external_data=DATA_FILE, size_threshold_bytes=_SMALL_BYTES)
        files: tuple[str, ...] = (MODEL_FILE, DATA_FILE)
    else:
        ir.save(model, path)
        files = (MODEL_FILE,)
    onnx.checker.check_model(str(path), full_check=True)
    return files


def sizes_by_origin(
    models: Iterable[ir.Model], folder: Path, files: tuple[str, ...], mode: Mode = "full"
) -> dict[str, int]:
    """Return the bytes of weights, of the graph, of features, and of all else in the files of some models.

    In mode `graphs` the files hold no graph: constants that are no weights belong to the rest. So do steps and widths.
    """
    graph = weights = 0
    for value in (value for model in models for value in model.graph.initializers.values()):
        assert value.const_value is not None
        if value.meta.get(OF_LEVELS):
            continue
        of_graph = value.meta.get(OF_GRAPH) or value.meta.get(FOLDED)
        if of_graph or value.const_value.dtype in (ir.DataType.INT64, ir.DataType.INT32):
            graph += value.const_value.nbytes if mode == "full" else 0
        else:
            weights += value.const_value.nbytes
    total = sum((folder / name).stat().st_size for name in files)
    return {
        "weights_bytes": weights,
        "graph_bytes": graph,
        "features_bytes": 0,
        "metadata_bytes": max(0, total - weights - graph),
    }


def _tidy(model: ir.Model) -> None:
    """Drop what no runtime reads: shapes in between (stale after lowering), names of modules, unused opsets."""
    for tidy in (
        passes.RemoveUnusedNodesPass(),
        passes.ClearMetadataAndDocStringPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.NameFixPass(),
        passes.TopologicalSortPass(),
    ):
        tidy(model)
    model.producer_name = "gnnexport"
    model.producer_version = None
    keep = {*model.graph.inputs, *model.graph.outputs}
    # Of our own operators the checker cannot tell the type of what they give.
    typed = {value for node in model.graph if node.domain for value in node.outputs}
    inside = [value for node in model.graph for value in node.outputs]
    for value in (*inside, *model.graph.initializers.values()):
        if value not in keep:
            value.shape = None
            value.type = value.type if value in typed else None
