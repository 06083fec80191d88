"""Weights with many zeros in files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnnexport.native import library
from gnnexport.targets.contract import Artefact, EmitContext
from gnnexport.targets.onnx.files import MODEL_FILE, write
from gnnexport.targets.onnx.session import profile_model
from gnnexport.targets.onnx.sparse_weights import FEWEST, compress, store_sparse, weights_of
from gnnexport.targets.onnx.tape import FOLDED, OF_GRAPH
from gnnexport.targets.onnx.target import OnnxTarget
from gnnexport.targets.ort import OrtTarget
from tests.targets.layers import GRAPHS, Layers
from tests.targets.sketch import Array, normal, run

ROWS, IN, OUT = 9, 64, 48
TYPES = {"float32": "f4", "fp16": "f2", "bf16": ir.DataType.BFLOAT16.numpy(), "int8": "i1"}

needs_kernels = pytest.mark.skipif(library.why_missing() is not None, reason=f"the kernels: {library.why_missing()}")


def sparse(shape: tuple[int, ...], share: float = 0.9, seed: int = 0) -> Array:
    """Return numbers of which so large a share is zero."""
    left = np.random.default_rng(seed).random(shape) >= share
    return np.where(left, normal(shape, seed + 1), np.float32(0))


def expanded(gaps: Array, numbers: Array, shape: tuple[int, ...]) -> Array:
    """Write out what `compress` gives, as the nodes of a file do."""
    flat = np.zeros(int(np.prod(shape)), numbers.dtype)
    flat[np.cumsum(gaps, dtype=np.int64)] = numbers
    return flat.reshape(shape)


def one_product(weights: Array) -> ir.Model:
    """Return a model that multiplies rows with a matrix."""
    x = ir.Value(name="x", shape=ir.Shape([ROWS, weights.shape[0]]), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.Value(name="w", shape=ir.Shape(weights.shape), const_value=ir.tensor(weights, name="w"))
    w.type = ir.TensorType(ir.DataType.from_numpy(weights.dtype))
    node = ir.node("MatMul", [x, w], name="product")
    out = node.outputs[0]
    out.name, out.shape, out.type = "out", ir.Shape([ROWS, weights.shape[1]]), x.type
    return ir.Model(
        ir.Graph([x], [out], nodes=[node], initializers=[w], opset_imports={"": 20}, name="g"), ir_version=10
    )


def types_of(model: ir.Model, folder: Path) -> list[str]:
    """Write a model and return the operators of the file."""
    write(model, folder)
    return [node.op_type for node in onnx.load(folder / MODEL_FILE).graph.node]


@given(
    st.lists(st.tuples(st.integers(0, 700), st.sampled_from([1.0, -0.0, np.nan, np.inf, 1e-45])), max_size=20),
    st.integers(0, 600),
)
def test_what_is_compressed_is_written_out_again(runs: list[tuple[int, float]], rest: int) -> None:
    """Every bit survives, whatever lies between the numbers: also the sign of a zero, NaN, and the smallest number."""
    flat = [*itertools.chain(*([0.0] * zeros + [number] for zeros, number in runs)), *[0.0] * rest, 0.0]
    matrix = np.array([flat], np.float32)
    gaps, numbers = compress(matrix)
    assert gaps.dtype == np.uint8
    assert expanded(gaps, numbers, matrix.shape).tobytes() == matrix.tobytes()


@pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("zeros", [0, 254, 255, 256, 509, 510, 511])
def test_gaps_at_the_end_of_a_byte(dtype: Any, zeros: int) -> None:
    """A gap that a byte does not hold has a zero stored in it, and no more of them than it takes."""
    matrix = np.array([[3, *[0] * zeros, 5]]).astype(dtype)
    gaps, numbers = compress(matrix)
    assert len(gaps) == len(numbers) == 2 + zeros // 255
    assert expanded(gaps, numbers, matrix.shape).tobytes() == matrix.tobytes()


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999, 1.0])
def test_files_are_smaller_and_answer_the_same(share: float, tmp_path: Path) -> None:
    """Four bytes and one for each number that is left, and the same answer to the last bit."""
    weights = sparse((IN, 2 * OUT), share)
    left = np.count_nonzero(weights)
    feeds = {"x": normal((ROWS, IN))}
    expected = run(ir.to_proto(one_product(weights)).SerializeToString(), feeds)
    model = one_product(weights)
    assert "ScatterElements" in types_of(model, tmp_path)
    (found,) = weights_of([model], {})
    assert (found.name, found.numbers, found.zeros) == ("w", weights.size, weights.size - left)
    assert found.dense_bytes == weights.nbytes
    assert 5 * left <= found.stored_bytes <= 5 * left + 5 * (1 + weights.size // 255)
    assert (tmp_path / MODEL_FILE).stat().st_size < found.stored_bytes + 2000
    assert run(str(tmp_path / MODEL_FILE), feeds).tobytes() == expected.tobytes()


def test_several_matrices_in_one_are_stored_together(tmp_path: Path) -> None:
    """Three dimensions are written out as two are, and counted; one that stems from the graph is stored so, too."""
    weights = sparse((3, IN, OUT))
    feeds = {"x": normal((ROWS, IN))}
    models = [one_product(weights), one_product(weights)]
    for model in models:
        model.graph.inputs[0].shape = ir.Shape([ROWS, IN])
        model.graph.outputs[0].shape = ir.Shape([3, ROWS, OUT])
    expected = run(ir.to_proto(models[0]).SerializeToString(), feeds)
    models[1].graph.initializers["w"].meta[FOLDED] = True
    for model in models:
        assert "ScatterElements" in types_of(model, tmp_path)
        assert run(str(tmp_path / MODEL_FILE), feeds).tobytes() == expected.tobytes()
    (found,) = weights_of(models, {})
    assert (found.numbers, found.zeros) == (weights.size, weights.size - np.count_nonzero(weights))


def test_the_runtime_writes_weights_out_when_it_loads() -> None:
    """Nothing of it is left to be done at a request."""
    model = one_product(sparse((IN, OUT)))
    assert store_sparse(model) == 1
    ran = {timed.op_type for timed in profile_model(model, 1, {"x": normal((ROWS, IN))})}
    assert ran <= {"MatMul", "Gemm", "FusedMatMul"}


@pytest.mark.parametrize(
    "weights",
    [normal((IN, OUT)), sparse((IN, OUT), 0.3), sparse((4, 4)), np.full((IN, OUT), np.float32(-0.0))],
    ids=["dense", "a third", "small", "negative zeros"],
)
def test_what_would_not_be_smaller_stays(weights: Array, tmp_path: Path) -> None:
    """Fewer than half zeros, or too few numbers, are stored as they are; a zero with a sign is a number."""
    model = one_product(weights)
    assert types_of(model, tmp_path) == (["MatMul"] if weights.any() else ["Cast", "MatMul"])
    (found,) = weights_of([model], {})
    assert found.stored_bytes == found.dense_bytes


@pytest.mark.parametrize("shape", [(2 * FEWEST, 1), (1, 2 * FEWEST)])
def test_a_row_or_column_is_no_matrix(shape: tuple[int, int]) -> None:
    """Values of nodes that were folded do not count as weights."""
    assert weights_of([one_product(sparse(shape))], {}) == ()


def test_what_stems_from_the_graph_stays() -> None:
    """An adjacency is no weight."""
    model = one_product(sparse((IN, OUT)))
    model.graph.initializers["w"].meta[OF_GRAPH] = True
    assert store_sparse(model) == 0
    assert weights_of([model], {}) == ()


def test_numbers_of_16_bits_stay_so(tmp_path: Path) -> None:
    """What is left of rounded weights takes two bytes and one for its place."""
    weights = sparse((IN, 2 * OUT)).astype(np.float16).astype(np.float32)
    model = one_product(weights)
    assert types_of(model, tmp_path).count("Cast") == 2
    (found,) = weights_of([model], {})
    assert found.dense_bytes == 2 * weights.size
    assert found.stored_bytes == 3 * np.count_nonzero(weights)
    feeds = {"x": normal((ROWS, IN))}
    expected = run(ir.to_proto(one_product(weights)).SerializeToString(), feeds)
    assert run(str(tmp_path / MODEL_FILE), feeds).tobytes() == expected.tobytes()


def test_zeros_that_an_operator_skips_are_told_apart() -> None:
    """Only where the operator that was chosen holds a matrix without its zeros are they executed."""
    weights = sparse((IN, OUT))
    zeros = int((weights == 0).sum())
    (skipped,) = weights_of([one_product(weights)], {"w": (zeros, weights.size, "sparse")})
    assert (skipped.skipped, skipped.layout) == (zeros, "sparse")
    (dense,) = weights_of([one_product(weights)], {"w": (zeros, weights.size, "dense")})
    assert (dense.skipped, dense.layout) == (0, "dense")


def layers() -> Layers:
    """Return a network with a reduction, to put layers behind."""
    return Layers(GRAPHS["more than a tile"], fixed=True)


def emitted(target: OnnxTarget, folder: Path) -> tuple[Artefact, Array, Array]:
    """Write a network whose layers have many zeros; return what was written, the request, and the expected answer."""
    network = layers()
    first = network.weight("first", sparse((70, 66)))
    second = network.weight("second", sparse((70, 70), seed=7))
    h = network.op("Gemm", [network.h, first], (network.rows, 70), transB=1)
    h = network.then("Relu", h)
    dialect = network.finish(network.op("Gemm", [h, second], (network.rows, 70), transB=1))
    artefact = target.emit(dialect, folder, EmitContext(time_budget_s=1))
    x = normal((network.rows, 66))
    total = np.zeros_like(x)
    graph = network.graph
    np.add.at(total, graph.row, x[graph.col])
    hidden = np.maximum((x - total) @ sparse((70, 66)).T, 0)
    return artefact, x, hidden @ sparse((70, 70), seed=7).T


@needs_kernels
def test_kernels_find_their_matrices(tmp_path: Path) -> None:
    """Operators of ours that want constant weights are made after these are written out."""
    artefact, x, expected = emitted(OrtTarget(aggregate="native"), tmp_path)
    chosen = {row["chosen"] for row in artefact.lowering if row["op"].startswith("product with")}
    assert {item.layout for item in artefact.weights} <= {"dense", *chosen}
    assert all((item.skipped > 0) == (item.layout != "dense") for item in artefact.weights)
    assert {item.name: item.stored_bytes < item.dense_bytes / 4 for item in artefact.weights} == {
        "first": True, "second": True,
    }  # fmt: skip
    found = run(str(tmp_path / MODEL_FILE), {"x": x})
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    model = ir.load(tmp_path / MODEL_FILE)
    ran = {timed.op_type for timed in profile_model(model, 1, {"x": x})}
    assert ran.isdisjoint({"ScatterElements", "CumSum", "ConstantOfShape", "Reshape"})


@pytest.mark.parametrize("portable", [True, False])
def test_openvino_keeps_weights_compressed(portable: bool, tmp_path: Path) -> None:
    """Its own files are as small, and it writes weights out when it loads them."""
    pytest.importorskip("openvino")
    from gnnexport.runtime.openvino import OpenVinoBackend
    from gnnexport.targets.openvino import OpenVinoTarget

    if not portable and library.why_missing() is not None:
        pytest.skip(str(library.why_missing()))
    artefact, x, expected = emitted(OpenVinoTarget(portable=portable), tmp_path)
    stored = sum(item.stored_bytes for item in artefact.weights)
    assert stored < sum(item.dense_bytes for item in artefact.weights) / 4
    assert artefact.sizes["weights_bytes"] == stored
    backend = OpenVinoBackend(tmp_path / artefact.model_file, 1, native=artefact.native)
    (found,) = backend.run({"x": x}).values()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_replays_give_the_same_bytes(tmp_path: Path) -> None:
    """How weights are stored follows from them alone."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        emitted(OnnxTarget(), tmp_path / name)
    assert (tmp_path / "a" / MODEL_FILE).read_bytes() == (tmp_path / "b" / MODEL_FILE).read_bytes()


def test_a_matrix_needs_enough_numbers() -> None:
    """The nodes that write it out take bytes as well."""
    side = int(FEWEST**0.5)
    assert store_sparse(one_product(sparse((side, side)))) == 1
    assert store_sparse(one_product(sparse((side, side - 1)))) == 0
