"""What the operator of a reduction and its layers refuses: an error that says what is wrong, never a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from gnnexport.errors import UnsupportedError, UsageError
from gnnexport.native import library
from tests.targets.reduced_layers import ENGINES
from tests.targets.sketch import Array, normal

pytestmark = pytest.mark.skipif(library.why_missing() is not None, reason=f"the kernels: {library.why_missing()}")

AGGREGATE = {
    "x": normal((4, 6), 0),
    "rowptr": np.array([0, 2, 2, 4]),
    "col": np.array([0, 3, 1, 1]),
    "weight": None,
    "matrix": normal((5, 6), 1),
    "own": normal((3, 4), 2),
    "own_matrix": normal((5, 4), 3),
    "root": normal((3, 5), 4),
    "bias": normal((5,), 5),
}
CONSTANT = ("rowptr", "matrix", "own_matrix", "bias")
NOT_CONSTANT = "matrices have to be constant"
NO_MATRIX = f"it has no matrix|{NOT_CONSTANT}"
DOUBLE = "rows have to be float32|matrix of float32|double"
SIZES = "sizes do not fit each other"

Changes = dict[str, Any]


def run(engine: str, folder: Path, changes: Changes, fed: tuple[str, ...] = (), kind: str = "AggregateLinear") -> Array:
    """Run the operator on its inputs with these changes; `None` leaves one out, a word is an attribute."""
    inputs = {**AGGREGATE, **changes}
    words = {name: word for name, word in inputs.items() if isinstance(word, str)}
    arrays = {name: array for name, array in inputs.items() if array is not None and name not in words}
    feeds = {name: array for name, array in arrays.items() if name not in CONSTANT or name in fed}
    places = [name if name in arrays else "" for name in inputs if name not in words]
    node = helper.make_node(kind, places, ["out"], domain="gnnexport", **{"reduce": "sum", **words})
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
    given = [helper.make_tensor_value_info(name, types[name], array.shape) for name, array in feeds.items()]
    out = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["rows", "columns"])
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in feeds]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("gnnexport", 1)]
    model = helper.make_model(helper.make_graph([node], "g", given, [out], stored), opset_imports=opsets, ir_version=10)
    onnx.save(model, folder / "model.onnx")
    (answer,) = ENGINES[engine](folder / "model.onnx").run(feeds).values()
    return answer


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_valid(engine: str, tmp_path: Path) -> None:
    """Every input at once, and none but those that are needed."""
    x, matrix, own, own_matrix, root, bias = (
        AGGREGATE[name] for name in ("x", "matrix", "own", "own_matrix", "root", "bias")
    )
    reduced = np.stack([x[0] + x[3], 0 * x[0], 2 * x[1]])
    whole = reduced @ matrix.T + own @ own_matrix.T + root + bias
    np.testing.assert_allclose(run(engine, tmp_path, {}), whole, atol=1e-5)
    least = dict.fromkeys(("own", "own_matrix", "root", "bias"))
    np.testing.assert_allclose(run(engine, tmp_path, least), reduced @ matrix.T, atol=1e-5)


CASES: list[tuple[Changes, tuple[str, ...], str]] = [
    ({}, ("matrix",), NOT_CONSTANT),
    ({}, ("own_matrix",), NOT_CONSTANT),
    ({"matrix": None}, (), NO_MATRIX),
    ({"matrix": normal((5, 7))}, (), SIZES),
    ({"matrix": normal((6,))}, (), "weights have to be a matrix"),
    ({"matrix": normal((5, 2, 3))}, (), "weights have to be a matrix"),
    ({"own_matrix": normal((4, 4))}, (), SIZES),
    ({"own_matrix": normal((4,))}, (), "weights have to be a matrix"),
    ({"own": normal((3, 5))}, (), "own has another size"),
    ({"own": normal((2, 4))}, (), "own has another size"),
    ({"own": None}, (), "own and own_matrix belong together"),
    ({"own_matrix": None}, (), "own and own_matrix belong together"),
    ({"root": normal((4, 5))}, (), "root has another size"),
    ({"bias": normal((6,))}, (), "bias has another size"),
    ({"matrix": normal((5, 6)).astype(np.float64)}, (), DOUBLE),
    ({"own_matrix": normal((5, 4)).astype(np.float64)}, (), DOUBLE),
    ({"col": np.array([0, 4, 1, 1])}, (), "an index is out of range"),
    ({"rowptr": np.array([0.0, 2.0, 2.0, 4.0])}, (), "rowptr has to be a row"),
    ({"reduce": "median"}, (), "unknown reduce 'median'"),
    ({"activation": "gelu"}, (), "unknown activation 'gelu'"),
]


def named(case: tuple[Changes, tuple[str, ...], str]) -> str:
    """Name a case after its changes."""
    changes, fed, _ = case
    shown = [f"{name}={getattr(value, 'shape', value)}{getattr(value, 'dtype', '')}" for name, value in changes.items()]
    return ",".join([*shown, *(f"{name} fed" for name in fed)])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES, ids=named)
def test_refused(case: tuple[Changes, tuple[str, ...], str], engine: str, tmp_path: Path) -> None:
    """Loading or running says what does not fit."""
    changes, fed, words = case
    with pytest.raises((UsageError, UnsupportedError), match=words):
        run(engine, tmp_path, changes, fed)


@pytest.mark.parametrize("name", ["x", "own"])
def test_doubles(name: str, tmp_path: Path) -> None:
    """Rows in float64 are refused by ONNX Runtime; OpenVINO itself has rounded them before they come here."""
    changes = {name: AGGREGATE[name].astype(np.float64)}
    with pytest.raises((UsageError, UnsupportedError), match=DOUBLE):
        run("ort", tmp_path, changes)
    rounded = run("openvino", tmp_path, changes)
    np.testing.assert_array_equal(rounded, run("openvino", tmp_path, {}), strict=True)


def test_an_operator_that_is_unknown(tmp_path: Path) -> None:
    """Of what OpenVINO tells, the line that names the operator is handed on."""
    words = r"cannot load it \(-- No conversion rule found for operations: gnnexport\.Other\)"
    with pytest.raises(UsageError, match=words):
        run("openvino", tmp_path, {}, kind="Other")
