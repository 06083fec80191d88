"""Networks with linear layers that no reduction takes, and what our kernels make of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from tests.targets.graphs import Csr, from_degrees
from tests.targets.sketch import Sketch, normal

IN, OUT = 66, 70
"""Columns before and behind a layer: more than two tiles' of the processor, and no whole number of them."""

GRAPHS = {
    "more than a tile": from_degrees([0, 1, 30, 3, 7, *[2] * 65]),
    "one row": from_degrees([1]),
    "no rows": from_degrees([]),
}


class Layers(Sketch):
    """A network whose sizes are fixed or open: what it reduces is subtracted, so that the layers behind stand alone."""

    def __init__(self, graph: Csr, *, fixed: bool) -> None:
        super().__init__()
        self.graph, self.fixed = graph, fixed
        self.rows: Any = graph.num_nodes if fixed else "rows"
        rowptr, col = self.structure("rowptr_0", graph.rowptr), self.structure("col_0", graph.col)
        if not fixed:
            rowptr.shape, col.shape = ir.Shape(["pointers"]), ir.Shape(["slots"])
        x = self.features("x", (self.rows, IN))
        total = self.op("Aggregate", [x, rowptr, col], (self.rows, IN), reduce="sum")
        self.h = self.op("Sub", [x, total], (self.rows, IN))
        self.given_out: list[ir.Value] = []

    def matrix(self, *shape: int) -> ir.Value:
        """Add weights."""
        return self.weight(f"weight{len(self.weights)}", normal(shape, len(self.weights)))

    def gemm(self, x: ir.Value | None = None, *more: ir.Value, out: int = OUT, **attributes: Any) -> ir.Value:
        """Put a linear layer behind a matrix, as PyTorch's exporter does."""
        x = x or self.h
        assert x.shape is not None
        inputs = [x, self.matrix(out, int(x.shape[1])), *more]
        return self.op("Gemm", inputs, (x.shape[0], out), transB=1, **attributes)

    def matmul(self, x: ir.Value | None = None, out: int = OUT) -> ir.Value:
        """Put one whose matrix stands the other way round."""
        x = x or self.h
        assert x.shape is not None
        return self.op("MatMul", [x, self.matrix(int(x.shape[-1]), out)], [*x.shape[:-1], out])

    def then(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Add an operator that keeps the sizes of its first input."""
        assert inputs[0].shape is not None
        return self.op(kind, inputs, list(inputs[0].shape), **attributes)

    def model(self, build: Build) -> ir.Model:
        """Finish the network with what a case puts behind it."""
        model = self.finish(build(self)).model
        model.graph.outputs.extend(self.given_out)
        return model


Build = Callable[[Layers], ir.Value]


def with_root(m: Layers) -> ir.Value:
    """Other rows and a bias are added, and an activation follows."""
    total = m.then("Add", m.features("own", (m.rows, OUT)), m.gemm(None, m.matrix(OUT)))
    return m.then("LeakyRelu", total, alpha=0.3)


def root_of_one_row(m: Layers) -> ir.Value:
    """One row that comes with the request is added to all."""
    return m.then("Add", m.gemm(), m.features("own", (1, OUT)))


def two_for_one(m: Layers) -> ir.Value:
    """The results of two layers are added: one is the root term of the other."""
    return m.then("Elu", m.then("Add", m.gemm(None, m.matrix(OUT)), m.matmul()))


def read_twice(m: Layers) -> ir.Value:
    """What a layer gives is read by two: they stay, and it is in memory."""
    out = m.gemm(None, m.matrix(OUT))
    return m.then("Sub", m.then("Relu", out), m.then("Elu", out))


def given_out(m: Layers) -> ir.Value:
    """What a layer gives is an output, and read as well."""
    out = m.gemm(None, m.matrix(OUT))
    out.name = "hidden"
    m.given_out.append(out)
    return m.then("Relu", out)


def shared(m: Layers) -> ir.Value:
    """Two layers have one matrix, the second one the other way round."""
    matrix = m.matrix(OUT, IN)
    first = m.op("Gemm", [m.h, matrix], (m.rows, OUT), transB=1)
    return m.op("MatMul", [m.then("Relu", first), matrix], (m.rows, IN))


def shared_turned(m: Layers) -> ir.Value:
    """Two layers have one matrix, which has to be turned."""
    matrix = m.matrix(IN, OUT)
    first, second = (m.op("MatMul", [x, matrix], (m.rows, OUT)) for x in (m.h, m.features("own", (m.rows, IN))))
    return m.then("Mul", first, second)


def matrix_given_out(m: Layers) -> ir.Value:
    """A matrix is an output, too, the way it stood."""
    matrix = m.matrix(IN, OUT)
    m.given_out.append(matrix)
    return m.op("MatMul", [m.h, matrix], (m.rows, OUT))


def flattened(m: Layers) -> ir.Value:
    """Columns are cut into heads behind a layer."""
    shape = m.weight("shape", np.array([-1, 7, 10], np.int64))
    return m.op("Reshape", [m.gemm(None, m.matrix(OUT)), shape], (m.rows, 7, 10))


def of_type(dtype: ir.DataType) -> Build:
    """Multiply in another type of numbers."""

    def build(m: Layers) -> ir.Value:
        matrix = m.weight("weight", normal((IN, OUT)).astype(dtype.numpy()))
        cast = m.then("Cast", m.h, to=int(dtype))
        out = m.op("MatMul", [cast, matrix], (m.rows, OUT))
        cast.type = out.type = ir.TensorType(dtype)
        return m.then("Cast", out, to=int(ir.DataType.FLOAT))

    return build


def of_heads(m: Layers) -> ir.Value:
    """Rows have two axes."""
    shape = m.weight("shape", np.array([-1, 2, IN // 2], np.int64))
    return m.matmul(m.op("Reshape", [m.h, shape], (m.rows, 2, IN // 2)))


def matrix_of_request(m: Layers) -> ir.Value:
    """The matrix comes with the request."""
    return m.op("MatMul", [m.h, m.features("matrix", (IN, OUT))], (m.rows, OUT))


def bias_of_request(m: Layers) -> ir.Value:
    """What a layer adds comes with the request, and is as large as its result."""
    return m.gemm(None, m.features("own", (m.rows, OUT)))


def several_matrices(m: Layers) -> ir.Value:
    """Rows are multiplied with each of two matrices."""
    return m.op("MatMul", [m.h, m.matrix(2, IN, OUT)], (2, m.rows, OUT))


def columns_turned(m: Layers) -> ir.Value:
    """Rows come as columns."""
    columns = m.op("Transpose", [m.h], (IN, m.rows), perm=[1, 0])
    return m.op("Gemm", [columns, m.matrix(OUT, IN)], (m.rows, OUT), transA=1, transB=1)


def of_constants(m: Layers) -> ir.Value:
    """Rows are known: the runtime multiplies them once, when it loads the model."""
    table = m.matrix(9, IN)
    m.given_out.append(m.then("Neg", m.h))
    return m.gemm(table, m.matrix(OUT))


@dataclass(frozen=True)
class Case:
    """What is built, how many layers the kernels take, how many they leave, and what stands behind them."""

    build: Build
    taken: int = 1
    left: int = 0
    behind: tuple[str, ...] = ()


TAKEN = {
    "standing": Case(lambda m: m.gemm()),
    "turned": Case(lambda m: m.op("Gemm", [m.h, m.matrix(IN, OUT)], (m.rows, OUT))),
    "matmul": Case(lambda m: m.matmul()),
    "bias": Case(lambda m: m.gemm(None, m.matrix(OUT))),
    "bias of a turned one": Case(lambda m: m.op("Gemm", [m.h, m.matrix(IN, OUT), m.matrix(OUT)], (m.rows, OUT))),
    "bias behind": Case(lambda m: m.then("Add", m.matmul(), m.matrix(1, OUT))),
    "two biases": Case(lambda m: m.then("Add", m.gemm(None, m.matrix(OUT)), m.matrix(OUT)), behind=("Add",)),
    "relu": Case(lambda m: m.then("Relu", m.gemm(None, m.matrix(OUT)))),
    "leaky relu": Case(lambda m: m.then("LeakyRelu", m.gemm(), alpha=0.2)),
    "elu": Case(lambda m: m.then("Elu", m.gemm(None, m.matrix(OUT)))),
    "another elu": Case(lambda m: m.then("Elu", m.gemm(), alpha=2.0), behind=("Elu",)),
    "root": Case(with_root),
    "root of one row": Case(root_of_one_row, behind=("Add",)),
    "one behind another": Case(lambda m: m.gemm(m.then("Relu", m.gemm(None, m.matrix(OUT))), m.matrix(64), out=64), 2),
    "two for one": Case(two_for_one, 2),
    "narrow behind wide": Case(lambda m: m.gemm(m.then("Relu", m.gemm()), out=7), 1, 1),
    "read twice": Case(read_twice, behind=("Relu", "Elu")),
    "given out": Case(given_out, behind=("Relu",)),
    "shared": Case(shared, 2),
    "shared and turned": Case(shared_turned, 2),
    "matrix given out": Case(matrix_given_out),
    "flattened": Case(flattened),
}
ALONE = {
    "alpha": Case(lambda m: m.gemm(alpha=0.5), 0, 1),
    "beta": Case(lambda m: m.gemm(None, m.matrix(OUT), beta=2.0), 0, 1),
    "bias of one number": Case(lambda m: m.gemm(None, m.matrix(1)), 0, 1),
    "a number for bias": Case(lambda m: m.gemm(None, m.matrix()), 0, 1),
    "bias of two axes": Case(lambda m: m.gemm(None, m.matrix(1, OUT)), 0, 1),
    "narrow": Case(lambda m: m.gemm(None, m.matrix(63), out=63), 0, 1),
    "matrix of the request": Case(matrix_of_request, 0, 1),
    "bias of the request": Case(bias_of_request, 0, 1),
    "columns": Case(columns_turned, 0, 1),
    "constants": Case(of_constants, 0, 1),
    "float64": Case(of_type(ir.DataType.DOUBLE), 0, 1),
    "float16": Case(of_type(ir.DataType.FLOAT16), 0, 1),
    "heads": Case(of_heads, 0, 1),
    "several matrices": Case(several_matrices, 0, 1),
}
CASES = {**TAKEN, **ALONE}
