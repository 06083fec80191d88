"""The operators of levels in ONNX Runtime: what they read, what they write, and what they refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from gnnexport.native import library
from tests.native import level_twins
from tests.native.level_twins import After, Quantiser
from tests.native.strategies import floats, hub_graph
from tests.native.test_level_linear import matrix_of, quantiser_of
from tests.native.test_levels import FORMS, positive, rows_of_levels
from tests.native.twins import Array

pytestmark = pytest.mark.usefixtures("native")

Inputs = Mapping[str, Array | None]


def run(kind: str, inputs: Inputs, result: Any, constants: tuple[str, ...] = (), **attributes: Any) -> Array:
    """Run one operator; inputs that are `None` are left out."""
    names = [name if array is not None else "" for name, array in inputs.items()]
    while not names[-1]:
        names.pop()
    given = {name: array for name, array in inputs.items() if array is not None}
    node = helper.make_node(kind, names, ["out"], domain="gnnexport", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in given.items()
            if name not in constants
        ],
        [helper.make_tensor_value_info("out", result, [None, None])],
        [numpy_helper.from_array(given[name], name) for name in constants if name in given],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("gnnexport", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library.library_path()))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {name: array for name, array in given.items() if name not in constants}
    return session.run(None, feeds)[0]


@pytest.mark.parametrize(("bits", "zero"), FORMS)
def test_narrow(bits: int, zero: int) -> None:
    """Floats become levels."""
    rng = np.random.default_rng(0)
    x, step = floats(rng, 30, 21), positive(rng, 21)
    got = run("Narrow", {"x": x, "step": step}, TensorProto.UINT8, bits=bits, zero=zero)
    np.testing.assert_array_equal(got, level_twins.narrow(x, step, bits, zero))


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize(("bits", "zero"), FORMS)
def test_narrow_aggregate(bits: int, zero: int, reduce: str) -> None:
    """Levels are aggregated and finished."""
    rng, graph, width = np.random.default_rng(0), hub_graph(60), 21
    x, whole = rows_of_levels(rng, graph.num_src, width, bits, zero)
    weight = floats(rng, graph.num_slots) if reduce == "sum" and zero else None
    step, after = positive(rng, width), After(positive(rng, 40), floats(rng, 40, width), floats(rng, width), "relu")
    inputs = {"x": x, "rowptr": graph.rowptr, "col": graph.col, "step": step, "weight": weight}
    inputs |= {"scale": after.scale, "root": after.root, "bias": after.bias}
    options = {"reduce": reduce, "bits": bits, "zero": zero, "activation": "relu"}
    got = run("NarrowAggregate", inputs, TensorProto.FLOAT, **options)
    value = level_twins.aggregate(graph, whole, step, reduce=reduce, weight=weight)
    np.testing.assert_array_equal(got, after.of(value))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("rows", "width"), [(0, 3), (2, 0), (0, 0), (1, 1)])
def test_without_rows_or_columns(rows: int, width: int, bits: int) -> None:
    """Nothing becomes nothing, and rows without slots are 0."""
    step = np.ones(width, np.float32)
    x = run("Narrow", {"x": np.ones((rows, width), np.float32), "step": step}, TensorProto.UINT8, bits=bits)
    assert x.tolist() == [[1] * ((width + 1) // 2 if bits == 4 else width)] * rows
    for slots in (0, 3 if rows else 0):
        structure = {"rowptr": np.array([0, 0, slots]), "col": np.zeros(slots, np.int64), "step": step}
        out = run("NarrowAggregate", {"x": x, **structure}, TensorProto.FLOAT, bits=bits, reduce="sum")
        assert out.tolist() == [[0] * width, [slots] * width]


@pytest.mark.parametrize(("rows", "width", "out_width"), [(0, 3, 2), (2, 0, 3), (2, 3, 0), (0, 0, 0)])
@pytest.mark.parametrize("per_row", [False, True])
def test_layers_without_rows_or_columns(rows: int, width: int, out_width: int, per_row: bool) -> None:
    """A product over nothing is 0, and one of nothing is empty; with a step for each row there is none either."""
    count = rows if per_row else 1
    quantiser = Quantiser(np.ones(count, np.float32), np.full(count, 8, np.uint8), is_signed=False)
    matrix, step = np.ones((out_width, width), np.int8), np.ones(out_width, np.float32)
    inputs = {"x": np.ones((rows, width), np.float32), **product_inputs(quantiser, matrix, step)}
    got = run("NarrowLinear", inputs, TensorProto.FLOAT, ("matrix",))
    assert got.tolist() == [[width] * out_width] * rows


def product_inputs(quantiser: Quantiser, matrix: Array, step: Array, prefix: str = "row") -> dict[str, Array]:
    """Name what a product reads besides rows."""
    of_matrix = "matrix" if prefix == "row" else f"{prefix}_matrix"
    return {
        f"{prefix}_step": quantiser.step,
        f"{prefix}_bits": quantiser.bits,
        of_matrix: matrix,
        f"{of_matrix}_step": step,
    }


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("nearest", [False, True])
def test_layers(nearest: bool, own: bool, narrow: bool, reduced: bool) -> None:
    """Rows, reduced or not, become levels, are multiplied, finished, and leave narrow where there is a next step."""
    rng, graph, width, out_width = np.random.default_rng(0), hub_graph(60), 21, 9
    count = 7 if nearest else 40
    parts = [
        (quantiser_of(rng, count, is_signed=signed, nearest=nearest), matrix_of(rng, out_width, w), steps)
        for signed, w, steps in ((True, width, positive(rng, out_width)), (False, 5, positive(rng, out_width)))
    ]
    after = After(positive(rng, 40), floats(rng, 40, out_width), floats(rng, out_width), "leaky_relu", slope=0.5)
    if narrow:
        after = After(after.scale, after.root, after.bias, "leaky_relu", 0.5, positive(rng, out_width) * 50, 4, 8)
    beside = floats(rng, 40, 5) if own else None
    inputs: dict[str, Array | None]
    if reduced:
        levels, whole = rows_of_levels(rng, graph.num_src, width, 4, 8)
        step, scale = positive(rng, width), positive(rng, 40)
        x = np.where((sums := level_twins.aggregate(graph, whole, step) * scale[:, None]) < 0, np.float32(0), sums)
        inputs = {"x": levels, "rowptr": graph.rowptr, "col": graph.col, "step": step, "weight": None}
        inputs |= {"sum_scale": scale, "sum_root": None, "sum_bias": None}
    else:
        x = floats(rng, 40, width)
        inputs = {"x": x}
    inputs |= product_inputs(*parts[0]) | {"scale": after.scale, "own": beside}
    inputs |= product_inputs(*parts[1], "own") if own else dict.fromkeys(("s", "b", "m", "ms"))
    inputs |= {"root": after.root, "bias": after.bias, "next_step": after.step}
    options: dict[str, Any] = {"signed": 1, "own_signed": 0, "nearest": int(nearest), "activation": "leaky_relu"}
    options |= {"slope": 0.5}
    options |= {"next_bits": 4, "next_zero": 8} if narrow else {}
    options |= {"reduce": "sum", "bits": 4, "zero": 8, "sum_activation": "relu"} if reduced else {}
    constants = ("matrix", "own_matrix", "matrix_step", "own_matrix_step", "row_step", "row_bits")
    kind = "NarrowAggregateLinear" if reduced else "NarrowLinear"
    got = run(kind, inputs, TensorProto.UINT8 if narrow else TensorProto.FLOAT, constants, **options)
    value = level_twins.product(x, *parts[0])
    if beside is not None:
        value = value + level_twins.product(beside, *parts[1])
    np.testing.assert_array_equal(got, after.of(value))


def test_narrow_attention() -> None:
    """Attention over levels is that over what they stand for."""
    rng, graph, width, heads = np.random.default_rng(0), hub_graph(60), 24, 3
    x, whole = rows_of_levels(rng, graph.num_src, width, 8, 128)
    step = positive(rng, width)
    terms = {"source": floats(rng, graph.num_src, heads), "destination": floats(rng, 40, heads)}
    shared = {"rowptr": graph.rowptr, "col": graph.col, **terms}
    shared |= dict.fromkeys(("edge", "edge_value", "att", "root"))
    options = {"score": "gat", "heads": heads, "slope": 0.2, "activation": "relu"}
    bias = floats(rng, width)
    wide = {"x": (whole * step).astype(np.float32), **shared, "bias": bias}
    expected = run("Attention", wide, TensorProto.FLOAT, **options)
    narrow = {"x": x, **shared, "bias": bias, "step": step}
    got = run("NarrowAttention", narrow, TensorProto.FLOAT, zero=128, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


X = np.ones((3, 6), np.float32)
STEP = np.ones(6, np.float32)


@pytest.mark.parametrize(
    ("kind", "inputs", "options", "words"),
    [
        ("Narrow", {"x": X, "step": STEP[:5]}, {}, "a step for each column"),
        ("Narrow", {"x": X, "step": STEP}, {"bits": 3}, "levels have 4 bits or 8"),
        ("Narrow", {"x": X, "step": STEP}, {"bits": 4, "zero": 128}, "not known"),
        ("NarrowAggregate", {"x": X.astype(np.uint8), "step": STEP[:4]}, {}, "another size than its steps"),
        ("NarrowAggregate", {"x": X.astype(np.uint8), "step": STEP}, {"bits": 4}, "another size than its steps"),
        ("NarrowAggregate", {"x": X.astype(np.uint8), "step": STEP}, {"bits": 5}, "4 bits or 8"),
        ("NarrowAggregate", {"x": X.astype(np.uint8), "step": STEP}, {"reduce": "prod"}, "not known"),
    ],
)
def test_refusals(kind: str, inputs: Inputs, options: dict[str, Any], words: str) -> None:
    """What does not fit is said by the operator."""
    if kind == "NarrowAggregate":
        structure = {"rowptr": np.array([0, 1, 2]), "col": np.array([0, 2])}
        inputs = {"x": inputs["x"], **structure, "step": inputs["step"]}
        options = {"reduce": "sum", **options}
    result = TensorProto.UINT8 if kind == "Narrow" else TensorProto.FLOAT
    with pytest.raises(Exception, match=words):
        run(kind, inputs, result, **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"row_bits": np.array([9], np.uint8)}, "not known"),
        ({"row_bits": np.array([0], np.uint8)}, "not known"),
        ({"row_bits": np.array([8, 8], np.uint8)}, "a width for each step"),
        ({"matrix_step": np.ones(3, np.float32)}, "a step for each row of the matrix"),
        ({"x": np.ones((3, 5), np.float32)}, "x has another size than the matrix"),
        ({"scale": np.ones(4, np.float32)}, "a scale for each row"),
        ({"next_step": STEP}, "next_step and next_bits belong together"),
    ],
)
def test_layer_refusals(change: dict[str, Array], words: str) -> None:
    """What does not fit a layer is said by the operator."""
    matrix = np.ones((6, 6), np.int8)
    inputs = {"x": X, "row_step": STEP[:1], "row_bits": np.array([8], np.uint8), "matrix": matrix, "matrix_step": STEP}
    inputs |= dict.fromkeys(("scale", "own", "s", "b", "m", "ms", "root", "bias", "next_step"))
    result = TensorProto.UINT8 if "next_step" in change else TensorProto.FLOAT
    with pytest.raises(Exception, match=words):
        run("NarrowLinear", inputs | change, result, ("matrix",))


def test_a_matrix_that_is_no_constant() -> None:
    """A matrix that could not be laid out beforehand is refused."""
    matrix = np.ones((6, 6), np.int8)
    inputs = {"x": X, "row_step": STEP[:1], "row_bits": np.array([8], np.uint8), "matrix": matrix, "matrix_step": STEP}
    with pytest.raises(Exception, match="matrices have to be constant"):
        run("NarrowLinear", inputs, TensorProto.FLOAT)
