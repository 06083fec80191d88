"""Numbers of 16 bits in files, and rows of 16 bits that the kernels gather."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch_geometric.nn import GCN, GraphSAGE

from gnnexport.native import library
from gnnexport.passes.cast import Cast
from gnnexport.passes.contract import PassContext
from gnnexport.program.program import Program
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx.files import write
from gnnexport.targets.onnx.halves import store_halves
from gnnexport.targets.onnx.target import OnnxTarget
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.onnx.translate_graphs import translate_graphs
from gnnexport.targets.ort import OrtTarget
from tests.small_models import CLASSES, INPUTS, PLAIN, WIDTH, run
from tests.targets.requests import prepared, random_edges, request_of

REQUEST = request_of(random_edges(60, 400), 60)
HALVES = (onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16)
ROUNDS = dict(zip(("RoundBfloat16", "RoundFloat16"), HALVES, strict=True))

needs_kernels = pytest.mark.skipif(library.why_missing() is not None, reason=f"the kernels: {library.why_missing()}")


def cast(model: nn.Module, **options: object) -> Program:
    """Capture a model with random weights and cast it."""
    program = prepared(model.eval(), tuple(INPUTS[name] for name in PLAIN))
    return Cast(**options).run(program, PassContext())  # type: ignore[arg-type]


def sage() -> nn.Module:
    """Return a network whose matrices are worth storing in 16 bits."""
    torch.manual_seed(0)
    return GraphSAGE(WIDTH, 64, 2, CLASSES)


def answer(folder: Path) -> np.ndarray:
    """Run what was written on the request."""
    from gnnexport.runtime.ort import OrtBackend

    backend = OrtBackend(folder / "model.onnx", 1)
    (found,) = backend.run({tensor.name: REQUEST[tensor.name].numpy() for tensor in backend.inputs}).values()
    return found


def stored(folder: Path) -> dict[int, int]:
    """Count the numbers in initialisers by their type."""
    counts: dict[int, int] = {}
    for item in onnx.load(folder / "model.onnx").graph.initializer:
        counts[item.data_type] = counts.get(item.data_type, 0) + int(np.prod(item.dims))
    return counts


@pytest.mark.parametrize("to", ["bf16", "fp16"])
@pytest.mark.parametrize(
    "target", [OnnxTarget(), pytest.param(OrtTarget(aggregate="native"), marks=needs_kernels)], ids=["onnx", "native"]
)
def test_files_hold_rounded_weights_in_16_bits(to: str, target: OnnxTarget, tmp_path: Path) -> None:
    """Every matrix of weights is half as large in the file, and answers are those of the rounded Program."""
    program = cast(sage(), to=to)
    artefact = target.emit(translate(program, REQUEST), tmp_path, EmitContext(time_budget_s=1))
    half = onnx.TensorProto.BFLOAT16 if to == "bf16" else onnx.TensorProto.FLOAT16
    sizes = [value.numel() for value in program.body.parameters()]
    matrices = sum(size for size in sizes if size >= 256)
    assert stored(tmp_path)[half] == matrices == 2 * 64 * WIDTH
    if "native" in artefact.lowering[0]["chosen"]:
        assert artefact.sizes["weights_bytes"] == 2 * matrices + 4 * (sum(sizes) - matrices)
    expected = run(program, REQUEST).numpy()
    assert np.abs(answer(tmp_path) - expected).max() <= 1e-6 * np.abs(expected).max()


def gathered_types(graph: onnx.GraphProto) -> list[int | None]:
    """Return to which type the kernels round the rows that each reduction gathers; nothing else may round them."""
    assert not any(node.op_type == "Cast" and node.attribute[0].i in HALVES for node in graph.node)
    types = {node.output[0]: ROUNDS.get(node.op_type) for node in graph.node}
    return [types.get(node.input[0]) for node in graph.node if node.op_type.startswith("Aggregate")]


@needs_kernels
@pytest.mark.parametrize("to", ["bf16", "fp16"])
def test_kernels_round_as_cast_does(to: str, tmp_path: Path) -> None:
    """With `Cast` of ONNX Runtime in place of the kernels that round rows, a model answers the same to the last bit."""
    artefact = OrtTarget(aggregate="native").emit(
        translate(cast(sage(), to=to), REQUEST), tmp_path, EmitContext(time_budget_s=1)
    )
    assert artefact.halves == (True, True)
    found = answer(tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    rounding = [node for node in model.graph.node if node.op_type in ROUNDS]
    assert len(rounding) == 2
    for node in rounding:
        node.attribute.append(onnx.helper.make_attribute("to", ROUNDS[node.op_type]))
        node.op_type, node.domain = "Cast", ""
    onnx.save(model, tmp_path / "model.onnx")
    np.testing.assert_array_equal(answer(tmp_path), found)


@needs_kernels
@pytest.mark.parametrize("to", ["bf16", "fp16"])
def test_kernels_gather_rows_of_16_bits(to: str, tmp_path: Path) -> None:
    """What is gathered is of 16 bits, widened nowhere before it is added."""
    program = cast(sage(), to=to)
    OrtTarget(aggregate="native").emit(translate(program, REQUEST), tmp_path, EmitContext(time_budget_s=1))
    graph = onnx.load(tmp_path / "model.onnx").graph
    gathered = gathered_types(graph)
    assert len(gathered) == 2
    assert set(gathered) == {onnx.TensorProto.BFLOAT16 if to == "bf16" else onnx.TensorProto.FLOAT16}


@needs_kernels
def test_graphs_of_any_size_gather_them_too(tmp_path: Path) -> None:
    """A model that prepares the edges of a request itself reads rows of 16 bits, and answers as the Program does."""
    torch.manual_seed(0)
    program = cast(GCN(WIDTH, 32, 2, CLASSES))
    dialect = translate_graphs(program, REQUEST)
    OrtTarget(aggregate="native").emit(dialect, tmp_path, EmitContext(time_budget_s=1))
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert set(gathered_types(graph)) == {onnx.TensorProto.BFLOAT16}
    expected = run(program, REQUEST).numpy()
    assert np.abs(answer(tmp_path) - expected).max() <= 1e-5 * np.abs(expected).max()


def one_product(weights: np.ndarray) -> ir.Model:
    """Return a model that multiplies rows by a matrix."""
    x = ir.Value(name="x", shape=ir.Shape([4, weights.shape[0]]), type=ir.TensorType(ir.DataType.FLOAT))
    matrix = ir.Value(name="w", const_value=ir.tensor(weights, name="w"))
    matrix.shape, matrix.type = ir.Shape(weights.shape), ir.TensorType(ir.DataType.FLOAT)
    node = ir.node("MatMul", [x, matrix])
    node.outputs[0].name = "y"
    node.outputs[0].shape = ir.Shape([4, weights.shape[1]])
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[matrix], opset_imports={"": 20}, name="g")
    return ir.Model(graph, ir_version=10)


EXACT = np.linspace(-2, 2, 1024, dtype=np.float32).reshape(32, 32).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (EXACT, 1),
        (EXACT.astype(ir.DataType.BFLOAT16.numpy()).astype(np.float32), 1),
        (EXACT + np.float32(2**-20), 0),
        (np.where(EXACT > 1, np.float32(1e5), EXACT), 0),
        (np.where(EXACT > 1, np.float32(-0.0), EXACT), 1),
        (EXACT[:4, :4], 0),
    ],
    ids=["fp16", "bf16", "neither", "out of range", "minus zero", "too few"],
)
def test_only_what_loses_nothing_is_stored_in_16_bits(weights: np.ndarray, expected: int, tmp_path: Path) -> None:
    """Numbers are stored in 16 bits where every one of them survives, to the sign of zero, and pays for the node."""
    model = one_product(weights.copy())
    assert store_halves(model) == expected
    write(model, tmp_path)
    kept = onnx.load(tmp_path / "model.onnx").graph.initializer[0]
    assert (kept.data_type in HALVES) == bool(expected)
    again = ir.from_proto(onnx.load(tmp_path / "model.onnx")).graph.initializers[kept.name].const_value
    assert again is not None
    assert again.numpy().astype(np.float32).tobytes() == weights.tobytes()


def test_constants_of_the_graph_stay_as_they_are() -> None:
    """What stems from the structure is no weight."""
    from gnnexport.targets.onnx.tape import OF_GRAPH

    model = one_product(EXACT.copy())
    model.graph.initializers["w"].meta[OF_GRAPH] = True
    assert store_halves(model) == 0


def test_rows_of_fp16_are_refused_where_they_would_not_be_rounded(tmp_path: Path) -> None:
    """OpenVINO widens fp16 before it computes, so that rounding to it does nothing; bf16 is rounded as in PyTorch."""
    pytest.importorskip("openvino")
    from gnnexport.runtime.openvino import OpenVinoBackend
    from gnnexport.targets.openvino import OpenVinoTarget

    target = OpenVinoTarget(portable=True)
    assert "cast{to=bf16}" in str(target.check(cast(sage(), to="fp16"))[0])
    assert target.check(cast(sage(), to="fp16", rows=False)) == []
    program = cast(sage(), to="bf16")
    assert target.check(program) == []
    artefact = target.emit(translate(program, REQUEST), tmp_path, EmitContext(time_budget_s=1))
    backend = OpenVinoBackend(tmp_path / artefact.model_file, 1)
    (found,) = backend.run({tensor.name: REQUEST[tensor.name].numpy() for tensor in backend.inputs}).values()
    expected = run(program, REQUEST).numpy()
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
    sizes = [value.numel() for value in program.body.parameters()]
    assert artefact.sizes["weights_bytes"] == sum(size * (2 if size >= 256 else 4) for size in sizes)
