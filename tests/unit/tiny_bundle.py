"""A bundle small enough to write in milliseconds: logits = x @ w on 5 nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gnnexport.bundle.digest import structure_digest
from gnnexport.bundle.evaluation import EvalData, write_eval
from gnnexport.bundle.features import Features
from gnnexport.bundle.golden import GoldenCase, Laws, make_features, write_golden
from gnnexport.bundle.layout import EVAL, GOLDEN
from gnnexport.bundle.manifest import Graph, Manifest, SourceModel, Target, Tensor
from gnnexport.bundle.processor import this_processor
from gnnexport.bundle.writer import BundleWriter
from gnnexport.measure.metrics import predict

NODES, CHANNELS, CLASSES = 5, 4, 3
EDGE_INDEX = np.array([[0, 1, 2], [1, 2, 3]])
X = np.random.default_rng(0).normal(size=(NODES, CHANNELS)).astype(np.float32)
WEIGHT = np.random.default_rng(1).normal(size=(CHANNELS, CLASSES)).astype(np.float32)
LABELS = predict(X @ WEIGHT)


def manifest(**changes: object) -> Manifest:
    """Describe the bundle."""
    values: dict[str, object] = {
        "model": SourceModel(name="tiny", class_name="Linear", sha256="0" * 64),
        "inputs": (Tensor(name="x", dtype="float32", shape=(NODES, CHANNELS)),),
        "outputs": (Tensor(name="logits", dtype="float32", shape=(NODES, CLASSES)),),
        "graph": Graph(nodes=NODES, edges=3, edge_index_sha256=structure_digest(EDGE_INDEX)),
        "target": Target(spec="ort", runtime="ort", model_file="model.onnx", threads=1),
        "decided_on": this_processor(),
    }
    return Manifest.model_validate({**values, **changes})


def write_model(path: Path, weight: np.ndarray = WEIGHT) -> None:
    """Write `logits = x @ weight` as ONNX."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["logits"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [NODES, CHANNELS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [NODES, CLASSES])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def golden_cases() -> list[GoldenCase]:
    """Make the golden cases with what numpy expects."""
    cases = []
    for name, x in make_features((NODES, CHANNELS), X).items():
        array = x.make() if isinstance(x, Features) else x
        cases.append(GoldenCase(name, {"x": x}, {"logits": array @ WEIGHT}))
    return cases


def write_tiny_bundle(
    path: Path,
    *,
    weight: np.ndarray = WEIGHT,
    force: bool = False,
    embed: int = 1 << 20,
    laws: Laws | None = None,
    cases: list[GoldenCase] | None = None,
    **changes: object,
) -> Path:
    """Write the bundle; `weight` other than `WEIGHT` makes its golden cases fail."""
    rows = np.array([1, 3, 4])
    with BundleWriter(path, force=force) as writer:
        write_model(writer.folder / "model.onnx", weight)
        writer.write_decisions({"lowering": "dense"})
        write_golden(writer.folder / GOLDEN, cases or golden_cases(), laws)
        data = EvalData("accuracy", rows, baseline=LABELS[rows], y=LABELS[rows], inputs={"x": X})
        write_eval(writer.folder / EVAL, data, limit_bytes=embed)
        writer.seal(manifest(**changes))
        return writer.commit()
