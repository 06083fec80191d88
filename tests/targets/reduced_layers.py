"""Networks of one reduction with layers around it, of fixed sizes or of open ones, and what runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from gnnexport.errors import MissingExtraError
from gnnexport.native import openvino_extension
from gnnexport.runtime.backend import Backend
from gnnexport.runtime.ort import OrtBackend
from tests.targets.graphs import Csr, from_degrees
from tests.targets.sketch import Array, Sketch, normal, run

WIDTH, HIDDEN, OUT, OTHERS = 6, 4, 70, 3
GRAPHS = {
    "hub": from_degrees([0, 1, 300, 3, 7, 0, *[2] * 60]),
    "no edges": from_degrees([0] * 7),
    "one node": from_degrees([0]),
}


class Layers(Sketch):
    """A network over one structure, of fixed sizes or of open ones; sources are the rows and `OTHERS` more."""

    def __init__(self, graph: Csr, *, fixed: bool) -> None:
        super().__init__()
        self.graph = graph
        rows, slots = graph.num_nodes, graph.num_edges
        self.rows: Any = rows if fixed else "rows"
        self.sources: Any = rows + OTHERS if fixed else "sources"
        self.slots: Any = slots if fixed else "slots"
        self.rowptr = self.structure("rowptr_0", graph.rowptr)
        self.col = self.structure("col_0", graph.col)
        if not fixed:
            self.rowptr.shape, self.col.shape = ir.Shape(["pointers"]), ir.Shape(["slots"])

    def x(self, width: int = WIDTH) -> ir.Value:
        """Add features of the sources."""
        return self.features("x", (self.sources, width))

    def own(self, width: int = HIDDEN) -> ir.Value:
        """Add features of the rows."""
        return self.features("own", (self.rows, width))

    def reduced(self, reduce: str = "sum", *more: ir.Value) -> ir.Value:
        """Reduce the features of the sources."""
        return self.op("Aggregate", [self.x(), self.rowptr, self.col, *more], (self.rows, WIDTH), reduce=reduce)

    def gemm(self, x: ir.Value, *, bias: tuple[int, ...] | None = None, turn: bool = False, **more: Any) -> ir.Value:
        """Put a linear layer behind a matrix, as `Gemm`."""
        assert x.shape is not None
        shape = (int(x.shape[1]), OUT) if turn else (OUT, int(x.shape[1]))
        inputs = [x, self.weight(self.name(), normal(shape, len(self.weights)))]
        if bias is not None:
            inputs.append(self.weight(self.name(), normal(bias, len(self.weights))))
        return self.op("Gemm", inputs, (x.shape[0], OUT), transB=int(not turn), **more)

    def matmul(self, x: ir.Value, shape: tuple[int, ...] | None = None) -> ir.Value:
        """Put a linear layer behind rows, as `MatMul`."""
        assert x.shape is not None
        sizes = [*x.shape[:-1], OUT] if shape is None else [shape[0], *x.shape[:-1], OUT]
        matrix = self.weight(self.name(), normal(shape or (int(x.shape[-1]), OUT), len(self.weights)))
        return self.op("MatMul", [x, matrix], sizes)

    def add(self, first: ir.Value, second: ir.Value) -> ir.Value:
        """Add two values of the first one's sizes."""
        assert first.shape is not None
        return self.op("Add", [first, second], list(first.shape))

    def name(self) -> str:
        """Return a new name for weights."""
        return f"weight{len(self.weights)}"


Build = Callable[[Layers], ir.Value]


def both(m: Layers) -> ir.Value:
    """GraphSAGE: a layer on what is reduced, another on the rows themselves, an activation."""
    total = m.add(m.gemm(m.reduced("mean"), bias=(OUT,)), m.gemm(m.own()))
    return m.op("Relu", [total], (m.rows, OUT))


def own_with_bias(m: Layers) -> ir.Value:
    """Only the rows' own layer has a bias, its matrix stands turned, and the activation has a slope."""
    total = m.add(m.gemm(m.own(), turn=True, bias=(OUT,)), m.matmul(m.reduced("max")))
    return m.op("LeakyRelu", [total], (m.rows, OUT), alpha=0.3)


def weighted(m: Layers) -> ir.Value:
    """GCN that reduces first: weights of the edges, a layer, a bias."""
    weight = m.structure("weight_0", normal((m.graph.num_edges,), 5))
    weight.shape = ir.Shape([m.slots])
    return m.gemm(m.reduced("sum", weight), bias=(OUT,))


def same_matrix_twice(m: Layers) -> ir.Value:
    """Two reductions of the same rows share one matrix, which has to be turned."""
    x, matrix = m.x(), m.weight("shared", normal((WIDTH, OUT)))
    sums = [m.op("Aggregate", [x, m.rowptr, m.col], (m.rows, WIDTH), reduce=kind) for kind in ("max", "min")]
    return m.op("Sub", [m.op("MatMul", [item, matrix], (m.rows, OUT)) for item in sums], (m.rows, OUT))


def name_taken(m: Layers) -> ir.Value:
    """Something else has the name that the turned matrix would get."""
    other = m.weight("weight1_transposed", normal((OUT, WIDTH), 9))
    near = m.matmul(m.reduced())
    return m.add(near, m.op("Gemm", [m.own(WIDTH), other], (m.rows, OUT), transB=1))


def two_biases(m: Layers) -> ir.Value:
    """Each of the two layers has a bias, and the operator takes one."""
    return m.add(m.gemm(m.reduced(), bias=(OUT,)), m.gemm(m.own(), bias=(OUT,)))


def own_read_twice(m: Layers) -> ir.Value:
    """What the rows' own layer gives is read elsewhere too."""
    own = m.gemm(m.own())
    return m.op("Concat", [m.add(m.gemm(m.reduced()), own), own], (m.rows, 2 * OUT), axis=1)


def own_of_one_row(m: Layers) -> ir.Value:
    """One row is added to all."""
    return m.add(m.gemm(m.reduced()), m.gemm(m.features("own", (1, HIDDEN))))


def own_computed(m: Layers) -> ir.Value:
    """The matrix of the rows' own layer comes with the request."""
    own = m.op("MatMul", [m.own(), m.features("matrix", (HIDDEN, OUT))], (m.rows, OUT))
    return m.add(m.gemm(m.reduced()), own)


def read_twice(m: Layers) -> ir.Value:
    """What is reduced is read elsewhere too, so that it has to be in memory."""
    total = m.reduced()
    return m.op("Concat", [m.gemm(total), total], (m.rows, OUT + WIDTH), axis=1)


def root_first(m: Layers) -> ir.Value:
    """GIN: the row itself is added before the layer, and what is multiplied is no longer what is reduced."""
    return m.gemm(m.add(m.reduced(), m.own(WIDTH)), bias=(OUT,))


def activation_first(m: Layers) -> ir.Value:
    """An activation stands between."""
    return m.gemm(m.op("Relu", [m.reduced()], (m.rows, WIDTH)))


def computed(m: Layers) -> ir.Value:
    """The matrix comes with the request."""
    return m.op("MatMul", [m.reduced(), m.features("matrix", (WIDTH, OUT))], (m.rows, OUT))


def computed_bias(m: Layers) -> ir.Value:
    """What a layer adds comes with the request, and is as large as its result."""
    matrix = m.weight("matrix", normal((OUT, WIDTH)))
    return m.op("Gemm", [m.reduced(), matrix, m.features("own", (m.rows, OUT))], (m.rows, OUT), transB=1)


def computed_row(m: Layers) -> ir.Value:
    """What a layer adds comes with the request, and is one row."""
    matrix = m.weight("matrix", normal((OUT, WIDTH)))
    return m.op("Gemm", [m.reduced(), matrix, m.features("own", (OUT,))], (m.rows, OUT), transB=1)


def reduced_for_bias(m: Layers) -> ir.Value:
    """What is reduced is what a layer adds, not what it multiplies."""
    inputs = [m.own(), m.weight("matrix", normal((WIDTH, HIDDEN))), m.reduced()]
    return m.op("Gemm", inputs, (m.rows, WIDTH), transB=1)


def from_the_left(m: Layers) -> ir.Value:
    """What is reduced stands on the right of the product."""
    matrix = m.features("own", (OUT, m.rows))
    return m.op("MatMul", [matrix, m.reduced()], (OUT, WIDTH))


def of_heads(m: Layers) -> ir.Value:
    """Rows have two axes."""
    x = m.features("x", (m.sources, 2, 3))
    return m.matmul(m.op("Aggregate", [x, m.rowptr, m.col], (m.rows, 2, 3), reduce="sum"))


@dataclass(frozen=True)
class Case:
    """A network, and what is left of it: operators with layers, reductions without, and layers that stand alone."""

    build: Build
    fused: int
    reductions: int = 0
    layers: int = 0


FUSED = {
    **{kind: Case(lambda m, kind=kind: m.gemm(m.reduced(kind)), 1) for kind in ("sum", "mean", "max", "min", "prod")},
    "bias": Case(lambda m: m.gemm(m.reduced(), bias=(OUT,)), 1),
    "turned": Case(lambda m: m.gemm(m.reduced(), turn=True), 1),
    "matmul": Case(lambda m: m.matmul(m.reduced()), 1),
    "own layer": Case(both, 1),
    "own layer with a bias": Case(own_with_bias, 1),
    "weights of edges": Case(weighted, 1),
    "one matrix for two": Case(same_matrix_twice, 2),
    "a name that is taken": Case(name_taken, 1),
}
IN_PART = {
    "two biases": Case(two_biases, 1, layers=1),
    "own layer read twice": Case(own_read_twice, 1, layers=1),
    "own of one row": Case(own_of_one_row, 1, layers=1),
    "own computed": Case(own_computed, 1, layers=1),
}
ALONE = {
    "alpha": Case(lambda m: m.gemm(m.reduced(), alpha=0.5), 0, 1, 1),
    "beta": Case(lambda m: m.gemm(m.reduced(), bias=(OUT,), beta=2.0), 0, 1, 1),
    "bias of one number": Case(lambda m: m.gemm(m.reduced(), bias=(1,)), 0, 1, 1),
    "read twice": Case(read_twice, 0, 1, 1),
    "root first": Case(root_first, 0, 1, 1),
    "activation first": Case(activation_first, 0, 1, 1),
    "computed": Case(computed, 0, 1, 1),
    "computed bias": Case(computed_bias, 0, 1, 1),
    "computed row": Case(computed_row, 0, 1, 1),
    "for bias": Case(reduced_for_bias, 0, 1, 1),
    "from the left": Case(from_the_left, 0, 1, 1),
    "of heads": Case(of_heads, 0, 1, 1),
    "several matrices": Case(lambda m: m.matmul(m.reduced(), (2, WIDTH, OUT)), 0, 1, 1),
}
CASES = {**FUSED, **IN_PART, **ALONE}


def open_ort(path: Path) -> Backend:
    """Open an ONNX model in ONNX Runtime, with the kernels."""
    return OrtBackend(path, 1)


def open_openvino(path: Path) -> Backend:
    """Open a model in OpenVINO, with the kernels."""
    pytest.importorskip("openvino")
    from gnnexport.runtime.openvino import OpenVinoBackend, import_openvino

    try:
        openvino_extension.extension(import_openvino("tests"))
    except MissingExtraError as error:
        pytest.skip(str(error))
    return OpenVinoBackend(path, 1, native=True)


ENGINES = {"ort": open_ort, "openvino": open_openvino}


def request(m: Layers) -> dict[str, Array]:
    """Draw what the inputs of a network are given."""
    known = {"rows": m.graph.num_nodes, "sources": m.graph.num_nodes + OTHERS, "slots": m.graph.num_edges}
    given = {name: array for name, array in m.arrays.items() if m.rows == "rows"}
    for seed, value in enumerate(m.inputs):
        if value.name not in m.arrays:
            assert value.shape is not None
            sizes = [size if isinstance(size, int) else known[str(size.value)] for size in value.shape]
            given[str(value.name)] = normal(sizes, seed)
    return given


def expected(build: Build, graph: Csr) -> Array:
    """Run a network as it was written."""
    m = Layers(graph, fixed=False)
    model = m.finish(build(m)).model
    return run(ir.to_proto(model).SerializeToString(), request(m))


def close(actual: Array, wanted: Array) -> bool:
    """Tell whether two answers differ by no more than the order of sums explains."""
    assert actual.shape == wanted.shape
    return bool(abs(actual - wanted).max(initial=0) <= 1e-5 * max(1.0, abs(wanted).max(initial=0)))


def request_of(build: Build, graph: Csr) -> dict[str, Array]:
    """Draw what a network of open sizes is given."""
    m = Layers(graph, fixed=False)
    build(m)
    return request(m)
