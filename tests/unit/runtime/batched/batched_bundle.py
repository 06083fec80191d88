"""A small bundle in mode `batched`: two stages over a graph of many nodes and three edges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gnnexport.bundle.arrays import write_arrays
from gnnexport.bundle.layout import GRAPH
from gnnexport.bundle.manifest import Target, Tensor
from gnnexport.bundle.packed_rows import write_packed
from gnnexport.bundle.stages import (
    NODE_IDS,
    NUM_TARGETS,
    Batched,
    FeatureTable,
    Stage,
    StageInput,
    Structure,
)
from gnnexport.bundle.writer import BundleWriter
from gnnexport.native.packed import PackedRows
from tests.unit.tiny_bundle import manifest

NODES, CHANNELS, WIDTH = 300_000, 2, 3
ROWPTR = np.append(np.zeros(NODES - 2, np.int64), [0, 2, 3])
COL = np.array([0, NODES - 1, 5])
X = np.random.default_rng(0).standard_normal((NODES, CHANNELS)).astype(np.float32)
WEIGHT = np.random.default_rng(1).standard_normal((CHANNELS, WIDTH)).astype(np.float32)

STAGES = (
    Stage(
        model_file="stage-0/model.onnx",
        depth=0,
        output="rows",
        width=WIDTH,
        inputs=(StageInput(name="own", part="target", value="x"),),
    ),
    Stage(
        model_file="stage-1/model.onnx",
        depth=1,
        output="logits",
        width=WIDTH,
        structure="graph",
        inputs=(
            StageInput(name="own", part="target", value="stage-0"),
            StageInput(name="near", part="source", value="stage-0"),
            StageInput(name="col", part="col"),
            StageInput(name="row", part="row"),
        ),
    ),
)
BATCHED = Batched(
    tables=(FeatureTable(name="x", file="x.npy", width=CHANNELS),),
    structures=(Structure(name="graph", loops="kept"),),
    stages=STAGES,
)


def product() -> onnx.ModelProto:
    """Stage 0: a product with weights."""
    nodes = [helper.make_node("MatMul", ["own", "w"], ["rows"])]
    return _model(nodes, {"own": CHANNELS}, "rows", [numpy_helper.from_array(WEIGHT, "w")])


def addition() -> onnx.ModelProto:
    """Stage 1: a node's own rows and those of its neighbours, added up."""
    nodes = [
        helper.make_node("Gather", ["near", "col"], ["messages"]),
        helper.make_node("Unsqueeze", ["row", "one"], ["rows"]),
        helper.make_node("Shape", ["messages"], ["shape"]),
        helper.make_node("Expand", ["rows", "shape"], ["places"]),
        helper.make_node("ScatterElements", ["own", "places", "messages"], ["logits"], axis=0, reduction="add"),
    ]
    one = numpy_helper.from_array(np.array([1]), "one")
    return _model(nodes, {"own": WIDTH, "near": WIDTH, "col": None, "row": None}, "logits", [one])


def _model(
    nodes: list[onnx.NodeProto], inputs: dict[str, int | None], output: str, weights: list[onnx.TensorProto]
) -> onnx.ModelProto:
    given = [
        helper.make_tensor_value_info(name, TensorProto.INT64, [f"{name}s"])
        if width is None
        else helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}s", width])
        for name, width in inputs.items()
    ]
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["owns", WIDTH])
    graph = helper.make_graph(nodes, "stage", given, [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write_bundle(
    path: Path,
    *,
    x: np.ndarray = X,
    rowptr: np.ndarray = ROWPTR,
    col: np.ndarray = COL,
    batched: Batched | None = BATCHED,
    left_out: str = "",
    rows: np.ndarray | None = None,
    packed: Mapping[str, PackedRows | None] | None = None,
) -> Path:
    """Write a bundle whose answers are `whole()`, with packed files besides; for `None` with a file of zeros."""
    with BundleWriter(path) as writer:
        for stage, model in zip(STAGES, (product(), addition()), strict=True):
            (writer.folder / stage.model_file).parent.mkdir()
            onnx.save(model, writer.folder / stage.model_file)
        np.save(writer.folder / "x.npy", x)
        if rows is not None:
            np.save(writer.folder / "rows.npy", rows)
        for name, given in (packed or {}).items():
            if given is None:
                (writer.folder / name).write_bytes(bytes(100))
            else:
                write_packed(writer.folder / name, given)
        arrays = {"graph.rowptr": rowptr, "graph.col": col}
        write_arrays(writer.folder / GRAPH, {"schema": 1}, {k: v for k, v in arrays.items() if k != left_out})
        writer.write_decisions({})
        changes: dict[str, Any] = {
            "mode": "batched",
            "inputs": (Tensor(name=NODE_IDS, dtype="int64", shape=(NUM_TARGETS,)),),
            "outputs": (Tensor(name="logits", dtype="float32", shape=(NUM_TARGETS, WIDTH)),),
            "graph": None,
            "batched": batched,
            "prepare": "runtime",
            "target": Target(spec="ort", runtime="ort", model_file=STAGES[-1].model_file, threads=1),
        }
        writer.seal(manifest(**changes))
        return writer.commit()


def whole(x: np.ndarray = X) -> np.ndarray:
    """Answer for all nodes."""
    rows = x @ WEIGHT
    answers = rows.copy()
    answers[-2] += rows[0] + rows[-1]
    answers[-1] += rows[5]
    return answers
