"""What the operator `Linear` takes for rows and weights, in each engine: matrices, not what only counts alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from gnnexport.errors import UnsupportedError, UsageError
from gnnexport.native import kernels, library
from gnnexport.targets.onnx import schemas
from tests.targets.reduced_layers import ENGINES
from tests.targets.sketch import Array, normal

pytestmark = pytest.mark.skipif(library.why_missing() is not None, reason=f"the kernels: {library.why_missing()}")

WIDTH, OUT = 6, 7
MATRIX, BIAS = normal((OUT, WIDTH), 1), normal((OUT,), 2)


def write(folder: Path, axes: int, matrix: Array = MATRIX, bias: Array = BIAS) -> Path:
    """Write a model of one layer whose rows have so many axes, of open sizes."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [f"axis{axis}" for axis in range(axes)])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["rows", "columns"])
    stored = [numpy_helper.from_array(matrix, "matrix"), numpy_helper.from_array(bias, "bias")]
    node = helper.make_node(schemas.LINEAR, ["x", "matrix", "", "bias"], ["out"], domain=schemas.DOMAIN)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(schemas.DOMAIN, schemas.VERSION)]
    graph = helper.make_graph([node], "g", [x], [out], stored)
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    return path


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("shape", "width"),
    [((5, WIDTH + 1), WIDTH), ((5, 2, WIDTH // 2), WIDTH), ((WIDTH,), WIDTH), ((5,), 1), ((), 1)],
    ids=str,
)
def test_rows(shape: tuple[int, ...], width: int, engine: str, tmp_path: Path) -> None:
    """Rows of another width are refused, and what is no matrix but has as many numbers, on every request."""
    backend = ENGINES[engine](write(tmp_path, len(shape), normal((OUT, width))))
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="x has another size than the matrix"):
            backend.run({"x": normal(shape)})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(), (WIDTH,), (2, OUT, WIDTH), (1, 1, OUT, WIDTH)], ids=str)
def test_weights(shape: tuple[int, ...], engine: str, tmp_path: Path) -> None:
    """Weights that are no matrix are refused when the model is loaded."""
    with pytest.raises(UsageError, match="weights have to be a matrix of float32"):
        ENGINES[engine](write(tmp_path, 2, normal(shape)))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_short_bias(engine: str, tmp_path: Path) -> None:
    """A bias has a number for each column: one for all is refused."""
    backend = ENGINES[engine](write(tmp_path, 2, bias=normal((1,))))
    with pytest.raises(UnsupportedError, match="bias has another size than a row"):
        backend.run({"x": normal((5, WIDTH))})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_any_number_of_rows(rows: int, engine: str, tmp_path: Path) -> None:
    """The model that the others spoil answers as numpy does."""
    x = normal((rows, WIDTH))
    (answer,) = ENGINES[engine](write(tmp_path, 2)).run({"x": x}).values()
    np.testing.assert_allclose(answer, x @ MATRIX.T + BIAS, atol=1e-5, strict=True)


def test_weights_keep_their_instruction_set(tmp_path: Path) -> None:
    """What was laid out for one instruction set is multiplied by it, whichever is in use when a request comes."""
    backend, before, x = ENGINES["ort"](write(tmp_path, 2)), library.path_name(), normal((5, WIDTH))
    try:
        for name in filter(kernels.use_path, library.PATHS):
            (answer,) = backend.run({"x": x}).values()
            np.testing.assert_allclose(answer, x @ MATRIX.T + BIAS, atol=1e-5, err_msg=name)
    finally:
        kernels.use_path(before)
