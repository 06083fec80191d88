"""Quantisers in standard operators: the numbers of PyTorch, bit for bit, in every runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from gnnexport.errors import UnsupportedError
from gnnexport.runtime.ort import OrtBackend
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.quantised_standard import expand_quantisers
from gnnexport.targets.onnx.quantised_weights import fold_weights
from gnnexport.targets.onnx.target import OnnxTarget
from gnnexport.targets.openvino import OpenVinoTarget
from gnnexport.targets.ort import OrtTarget
from gnnexport.targets.trt.target import TrtTarget
from tests.targets.graphs import Csr, from_degrees
from tests.targets.quantised_networks import (
    CLASSES,
    NETWORKS,
    WIDTH,
    Quantised,
    case_of,
    expected,
    features,
    of_any_block,
    of_one_graph,
)
from tests.targets.sketch import run

gnn = torch.ops.gnn
OPS = {
    "rows": torch.ops.gnn.quantize_rows,
    "columns": torch.ops.gnn.quantize_columns,
    "nearest": torch.ops.gnn.quantize_nearest,
}
HUB = from_degrees([0, 1, 120, 3, 7, 0, *[2] * 30])
GRAPHS = {"hub": HUB, "no edges": from_degrees([0] * 7), "two nodes": from_degrees([1, 0])}
WEIGHTS_BYTES = 2 * 9 * 7 + 2 * 7 * 3 + 4 * (7 + 3)
"""Of GraphSAGE: four matrices in bytes, and two biases."""
Array = np.ndarray[Any, np.dtype[Any]]


def value(name: str, array: Array | None = None, shape: tuple[Any, ...] = ()) -> ir.Value:
    """Make an input, or a constant."""
    sizes = shape if array is None else array.shape
    made = ir.Value(name=name, shape=ir.Shape(list(sizes)), type=ir.TensorType(ir.DataType.FLOAT))
    if array is not None:
        made.const_value = ir.Tensor(array, name=name)
    return made


def quantiser(x: ir.Value, step: Array, bits: Array, by: str, *, signed: bool) -> ir.Model:
    """Make a model of one quantiser."""
    schemas.register()
    inputs = [x, value("step", step), value("bits", bits)]
    out = value("out", shape=tuple(x.shape or ()))
    node = ir.node(
        "Quantize", inputs, {"by": by, "signed": int(signed)}, domain=schemas.DOMAIN, outputs=[out], name="q"
    )
    given = [] if x.const_value is not None else [x]
    known = [item for item in inputs if item.const_value is not None]
    opsets = {"": 20, schemas.DOMAIN: schemas.VERSION}
    graph = ir.Graph(given, [out], nodes=[node], initializers=known, name="g", opset_imports=opsets)
    return ir.Model(graph, ir_version=10)


def drawn(rows: int, tail: tuple[int, ...], entries: int, scale: float) -> tuple[Array, Array, Array]:
    """Draw values with some on the borders between levels, steps with one too small and one twice, and widths."""
    random = np.random.default_rng(rows + entries)
    step = (random.random(entries) * 0.5 + 1e-3).astype(np.float32)
    bits = (random.random(entries) * 9).astype(np.float32)
    if entries > 2:
        step[1], step[2], bits[2] = 1e-12, step[0], bits[0]
    x = (random.standard_normal((rows, *tail)) * scale).astype(np.float32)
    x[random.random(x.shape) < 0.2] = step[0] * np.float32(2.5)
    return x, step, bits


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("tail", [(7,), (3, 4), (1,)])
@pytest.mark.parametrize(("by", "entries"), [("rows", 1), ("rows", 3), ("rows", 40), ("nearest", 1), ("nearest", 1000)])
def test_rows_as_in_torch(by: str, entries: int, tail: tuple[int, ...], scale: float, signed: bool) -> None:
    """Each row gets the levels of its entry or nearest group, whether or not its number is known beforehand."""
    x, step, bits = drawn(40, tail, entries, scale)
    wanted = OPS[by](*map(torch.tensor, (x, step, bits)), signed, False).numpy()
    for rows in (40, "rows"):
        model = quantiser(value("x", shape=(rows, *tail)), step, bits, by, signed=signed)
        expand_quantisers(model.graph)
        assert np.array_equal(run(ir.to_proto(model).SerializeToString(), {"x": x}), wanted)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("tail", [(7,), (3, 4)])
@pytest.mark.parametrize("single", [True, False])
def test_columns_as_in_torch(tail: tuple[int, ...], single: bool, signed: bool) -> None:
    """Each column, or entry of a row of several dimensions, gets the levels of its own step."""
    x, step, bits = drawn(9, tail, 1 if single else int(np.prod(tail)), 1.0)
    wanted = OPS["columns"](*map(torch.tensor, (x, step, bits[:1])), signed, False).numpy()
    model = quantiser(value("x", shape=(9, *tail)), step, bits[:1], "columns", signed=signed)
    expand_quantisers(model.graph)
    assert np.array_equal(run(ir.to_proto(model).SerializeToString(), {"x": x}), wanted)


@pytest.mark.parametrize(("by", "entries"), [("rows", 1), ("rows", 6), ("rows", 4), ("nearest", 9), ("columns", 5)])
@pytest.mark.parametrize("signed", [True, False])
def test_weights_are_stored_as_levels(by: str, entries: int, signed: bool) -> None:
    """A constant becomes one byte for each number with steps along an axis, and gives the same numbers."""
    x, step, bits = drawn(6, (5,), entries, 1.0)
    bits = np.minimum(bits, 7)[: 1 if by == "columns" else entries]
    wanted = OPS[by](*map(torch.tensor, (x, step, bits)), signed, False).numpy()
    model = quantiser(value("weight", x), step, bits, by, signed=signed)
    fold_weights(model.graph)
    (node,) = model.graph
    assert node.op_type == "DequantizeLinear"
    (stored, _) = node.inputs
    assert stored is not None
    assert stored.dtype is ir.DataType.INT8
    assert np.array_equal(run(ir.to_proto(model).SerializeToString(), {}), wanted)


@pytest.mark.parametrize("other", ["constant", "input"])
def test_weights_that_constants_are_multiplied_by(other: str) -> None:
    """Engines compute such a product when they load: OpenVINO cannot with levels, so the weights stay numbers."""
    x, step, bits = drawn(9, (7,), 1, 1.0)
    model = quantiser(value("w", x), step, bits[:1], "columns", signed=True)
    rows = np.ones((4, 9), np.float32)
    left = value("rows", rows if other == "constant" else None, rows.shape)
    product = ir.node("MatMul", [left, model.graph.outputs[0]], outputs=[value("product", shape=(4, 7))])
    (model.graph.register_initializer if other == "constant" else model.graph.inputs.append)(left)
    model.graph.append(product)
    model.graph.outputs[0] = product.outputs[0]
    given = {"rows": rows} if other == "input" else {}
    wanted = rows @ OPS["columns"](*map(torch.tensor, (x, step, bits[:1])), True, False).numpy()
    fold_weights(model.graph)
    kinds = [node.op_type for node in model.graph]
    assert kinds == (["MatMul"] if other == "constant" else ["DequantizeLinear", "MatMul"])
    assert np.allclose(run(ir.to_proto(model).SerializeToString(), given), wanted, atol=1e-3)  # a step is 0.5


def test_steps_that_are_computed() -> None:
    """Levels have to be known when the model is written."""
    model = quantiser(value("x", shape=(4, 3)), np.ones(1, np.float32), np.ones(1, np.float32), "rows", signed=True)
    model.graph[0].replace_input_with(1, model.graph.inputs[0])
    with pytest.raises(UnsupportedError, match="the levels of 'q' are computed inside the model"):
        expand_quantisers(model.graph)


def close(answer: Array, wanted: Array) -> bool:
    """Tell whether all rows agree, but for one whose sum may have rounded to the next level."""
    error = np.abs(answer - wanted).max(axis=1, initial=0)
    return bool((error > 1e-5 * np.abs(wanted).max(initial=1)).sum() <= 1)


TARGETS = {
    "ell": OnnxTarget(aggregate="ell", quantised="float"),
    "scatter": OnnxTarget(aggregate="scatter", quantised="float"),
    "whole numbers": OnnxTarget(aggregate="ell", quantised="integer"),
    "kernels": OrtTarget(quantised="float"),
}


@pytest.mark.parametrize("assign", ["tensor", "node", "nearest"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_one_graph(name: str, target: str, assign: str, tmp_path: Path) -> None:
    """Every lowering gives PyTorch's numbers, for steps of the whole tensor, of each node and of groups."""
    for graph in GRAPHS.values():
        case = case_of(name, assign, graph)
        artefact = TARGETS[target].emit(case.dialect, tmp_path, EmitContext(threads=1))
        assert close(run(str(tmp_path / artefact.model_file), {"x": case.x}), case.expected)


@pytest.mark.parametrize("nearest", [0, 50])
@pytest.mark.parametrize("aggregate", ["ell", "scatter", "native"])
@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_of_any_size(name: str, aggregate: Any, nearest: int, tmp_path: Path) -> None:
    """One file answers on every block."""
    network = NETWORKS[name](0, nearest)
    dialect = of_any_block(network, HUB)
    for form in ("float", "integer") if aggregate != "native" else ("float",):
        target = OrtTarget(aggregate=aggregate, quantised=form)  # type: ignore[arg-type]
        backend = OrtBackend(tmp_path / target.emit(dialect, tmp_path, EmitContext()).model_file)
        for graph in GRAPHS.values():
            x = features(graph)
            given = {"x": x.numpy(), **blocks(graph)}
            (answer,) = backend.run({tensor.name: given[tensor.name] for tensor in backend.inputs}).values()
            assert close(answer, expected(network, graph, x))


def blocks(graph: Csr) -> dict[str, Array]:
    """Return the structure as a block brings it."""
    return {"rowptr": graph.rowptr, "col": graph.col, "row": graph.row}


def test_openvino(tmp_path: Path) -> None:
    """OpenVINO gives the same numbers, with bytes for weights."""
    pytest.importorskip("openvino")
    from gnnexport.runtime.openvino import OpenVinoBackend

    for assign in ("tensor", "node", "nearest"):
        case = case_of("sage-mean", assign, HUB)
        target = OpenVinoTarget(portable=True, quantised="float")
        artefact = target.emit(case.dialect, tmp_path, EmitContext(threads=1))
        (answer,) = OpenVinoBackend(tmp_path / artefact.model_file).run({"x": case.x}).values()
        assert close(answer, case.expected)
        assert artefact.sizes["weights_bytes"] == WEIGHTS_BYTES


@pytest.mark.parametrize("assign", ["tensor", "node", "nearest"])
def test_tensorrt(assign: str, tmp_path: Path) -> None:
    """TensorRT builds an engine, of weights in bytes, and computes with floats."""
    pytest.importorskip("tensorrt_rtx")
    artefact = TrtTarget().emit(case_of("sage-mean", assign, HUB).dialect, tmp_path, EmitContext(threads=1))
    assert artefact.sizes["weights_bytes"] == WEIGHTS_BYTES
    assert {(item.arithmetic, item.stored_bits) for item in artefact.operands if item.kind == "weight"} == {
        ("float", 8)
    }
    assert any(row["op"].startswith("operand first_sum") for row in artefact.lowering)


def test_what_is_executed(tmp_path: Path) -> None:
    """Of each operand it is told how wide it is stored, and with what arithmetic."""
    dialect = case_of("gcn", "tensor", HUB).dialect
    target = OnnxTarget(aggregate="ell", quantised="integer")
    found = {item.name: item for item in target.emit(dialect, tmp_path, EmitContext()).operands}
    assert (found["first_input"].kind, found["first_input"].arithmetic) == ("rows", "u8xs8")
    assert (found["second_weight"].kind, found["second_weight"].stored_bits) == ("weight", 8)
    assert found["second_weight"].executed_bits == 8
    assert (found["first_sum"].arithmetic, found["first_sum"].executed_bits) == ("float", 32)
    assert (found["first_sum"].bits, found["first_sum"].width) == (8, 7)


def test_weights_beside_kernels(tmp_path: Path) -> None:
    """Weights that only standard operators read are stored in bytes, whatever the kernels compute."""
    target = OrtTarget(quantised="float", aggregate="native")
    artefact = target.emit(case_of("sage-mean", "tensor", HUB).dialect, tmp_path, EmitContext(threads=1))
    assert {item.stored_bits for item in artefact.operands if item.kind == "weight"} == {8}
    assert artefact.sizes["weights_bytes"] == WEIGHTS_BYTES


def test_the_form_is_timed_and_replayed(tmp_path: Path) -> None:
    """What is faster is taken, the report lists both, and decisions give the same form without timing."""
    dialect = case_of("gcn", "tensor", HUB).dialect
    artefact = OnnxTarget(aggregate="ell").emit(dialect, tmp_path, EmitContext(threads=1, time_budget_s=0.5))
    (row,) = [row for row in artefact.lowering if row["op"] == "quantised operands"]
    times = {item["name"]: item["latency_ms"] for item in row["candidates"]}
    assert set(times) == {"float", "integer"}
    assert all(time > 0 for time in times.values())
    for form in times:
        decisions = {"lowerings": {**artefact.decisions["lowerings"], "quantised operands": form}}
        again = OnnxTarget(aggregate="ell").emit(dialect, tmp_path, EmitContext(decisions=decisions))
        assert again.decisions["lowerings"]["quantised operands"] == form


def test_forms_of_other_runtimes() -> None:
    """Packed rows are for our kernels, and whole numbers for runtimes that do not turn them into floats."""
    with pytest.raises(ValueError, match="quantised=narrow is not computed here; write auto, float, integer"):
        OnnxTarget(quantised="narrow")
    with pytest.raises(ValueError, match="portable forbids the kernels that quantised=narrow asks for"):
        OrtTarget(quantised="narrow", portable=True)
    for target in (OpenVinoTarget, TrtTarget):
        with pytest.raises(ValueError, match="quantised=integer is not computed here; write auto, float"):
            target(quantised="integer")  # type: ignore[arg-type]


def test_openvino_is_given_no_whole_numbers(tmp_path: Path) -> None:
    """OpenVINO would multiply them in float32, so that nothing is told to run on bytes."""
    pytest.importorskip("openvino")
    dialect = case_of("gcn", "tensor", HUB).dialect
    artefact = OpenVinoTarget(portable=True).emit(dialect, tmp_path, EmitContext(threads=1, time_budget_s=0.5))
    assert {operand.arithmetic for operand in artefact.operands} == {"float"}
    assert "integer" not in {item["name"] for row in artefact.lowering for item in row["candidates"]}


class Sums(Quantised):
    """Sums of quantised columns, and no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.columns("only", WIDTH)

    def forward(self, x: torch.Tensor, rowptr: torch.Tensor, col: torch.Tensor) -> torch.Tensor:
        """Answer for all nodes."""
        summed: torch.Tensor = gnn.aggregate(self.quantised_columns(x, "only", signed=True), rowptr, col, None, "sum")
        return summed


def test_forms_that_are_the_same(tmp_path: Path) -> None:
    """Where nothing can be multiplied as whole numbers, that form is neither timed nor told."""
    dialect = of_one_graph(Sums(), HUB, features(HUB))
    artefact = OnnxTarget(aggregate="ell").emit(dialect, tmp_path, EmitContext(threads=1, time_budget_s=0.5))
    (row,) = [row for row in artefact.lowering if row["op"] == "quantised operands"]
    assert (row["chosen"], [item["name"] for item in row["candidates"]]) == ("float", ["float"])


class Shared(Quantised):
    """Two layers of the same levels read the same rows; the weights of a third are floats."""

    def __init__(self, *, third: bool) -> None:
        super().__init__()
        self.third = third
        self.rows("first")
        for name in ("first", "second"):
            self.linear(name, WIDTH, CLASSES, bias=False)
        self.second_weight.data = self.first_weight.data * 2
        self.second_weight_step.data = self.first_weight_step.data * 2
        self.register_parameter("plain", torch.nn.Parameter(torch.randn(CLASSES, WIDTH, generator=self.draw)))

    def forward(self, x: torch.Tensor, rowptr: torch.Tensor, col: torch.Tensor) -> torch.Tensor:
        """Answer for all nodes."""
        rows = self.quantised_rows(x, "first", signed=True)
        out = sum(torch.nn.functional.linear(rows, self.weights(name)) for name in ("first", "second"))
        if self.third:
            out = out + torch.nn.functional.linear(rows, self.plain)
        summed: torch.Tensor = gnn.aggregate(out, rowptr, col, None, "sum")
        return summed


@pytest.mark.parametrize("third", [False, True])
def test_operands_that_are_read_twice(third: bool, tmp_path: Path) -> None:
    """Rows that a layer reads as floats too do not count as whole numbers; equal weights are told of both layers."""
    network = Shared(third=third)
    dialect = of_one_graph(network, HUB, features(HUB))
    artefact = OnnxTarget(aggregate="ell", quantised="integer").emit(dialect, tmp_path, EmitContext(threads=1))
    found = {operand.name: operand.arithmetic for operand in artefact.operands}
    assert found == {"first_input": "float" if third else "u8xs8", "first_weight": "u8xs8", "second_weight": "u8xs8"}
    answer = run(str(tmp_path / artefact.model_file), {"x": features(HUB).numpy()})
    assert close(answer, expected(network, HUB, features(HUB)))
