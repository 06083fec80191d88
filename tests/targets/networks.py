"""Small networks in the dialect with numpy's answer: GCN, GraphSAGE, GIN, and attention with two heads."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gnnexport.targets.contract import DialectModel
from tests.targets.graphs import Csr
from tests.targets.sketch import Array, Sketch, normal, reduce, softmax

CHANNELS = 5
HIDDEN = 4
HEADS = 2
NAMES = ("gcn", "sage-mean", "sage-max", "gin", "gat", "edge-features", "learned-nodes", "mixing")


def network(name: str, graph: Csr, x: Array) -> tuple[DialectModel, Array]:
    """Return a network by name and what it answers on `x` [num_nodes, CHANNELS]."""
    sketch = Sketch()
    build = _Builder(sketch, graph)
    value = sketch.features("x", x.shape)
    out, answer = getattr(build, name.replace("-", "_"))(value, x.astype(np.float64))
    return sketch.finish(out), answer


class _Builder:
    def __init__(self, sketch: Sketch, graph: Csr) -> None:
        self.sketch = sketch
        self.graph = graph
        self.rowptr = sketch.structure("rowptr_0", graph.rowptr)
        self.col = sketch.structure("col_0", graph.col)

    def gcn(self, x: ir.Value, value: Array) -> tuple[ir.Value, Array]:
        """Two layers of weighted sums after a product, with a bias and ReLU between."""
        degree = np.bincount(self.graph.col, minlength=self.graph.num_nodes) + 1
        weight = (1 / np.sqrt(degree[self.graph.col] * degree[self.graph.row])).astype(np.float32)
        edge = self.sketch.structure("weight_0", weight)
        for layer, width in enumerate((HIDDEN, 3)):
            x, value = self._linear(x, value, width, layer)
            x = self.sketch.op("Aggregate", [x, self.rowptr, self.col, edge], value.shape, reduce="sum")
            value = reduce(self.graph, value[self.graph.col] * weight[:, None], "sum")
            x, value = self.sketch.op("Relu", [x], value.shape), np.maximum(value, 0)
        return x, value

    def sage_mean(self, x: ir.Value, value: Array) -> tuple[ir.Value, Array]:
        """Two layers that add a node's own product to the mean of its neighbours."""
        return self._sage(x, value, "mean")

    def sage_max(self, x: ir.Value, value: Array) -> tuple[ir.Value, Array]:
        """Two layers that add a node's own product to the largest of its neighbours."""
        return self._sage(x, value, "max")

    def gin(self, x: ir.Value, value: Array) -> tuple[ir.Value, Array]:
        """One sum, a normalisation over channels and a softmax: everything stays row by row."""
        total = self._aggregate(x, value, "sum")
        value = value + reduce(self.graph, value[self.graph.col], "sum")
        x, value = self._linear(self.sketch.op("Add", [x, total], value.shape), value, HIDDEN, 0)
        x = self.sketch.op("Softmax", [x], value.shape, axis=-1)
        raised = np.exp(value - value.max(axis=1, keepdims=True))
        return x, raised / raised.sum(axis=1, keepdims=True)

    def gat(self, x: ir.Value, value: Array) -> tuple[ir.Value, Array]:
        """Attention with two heads: scores on the edges, softmax, weighted sum, mean over heads."""
        op, graph = self.sketch.op, self.graph
        x, value = self._linear(x, value, HEADS * HIDDEN, 0)
        n, e = graph.num_nodes, graph.num_edges
        shape = self.sketch.weight("shape", np.array([n, HEADS, HIDDEN], np.int64))
        x, value = op("Reshape", [x, shape], (n, HEADS, HIDDEN)), value.reshape(n, HEADS, HIDDEN)
        axes = self.sketch.weight("axes", np.array([2], np.int64))
        score, scores = op("ReduceSum", [x, axes], (n, HEADS), keepdims=0), value.sum(axis=2)
        near = op("GatherSource", [score, self.col], (e, HEADS))
        far = op("GatherDestination", [score, self.rowptr], (e, HEADS))
        logits = op("LeakyRelu", [op("Sub", [near, far], (e, HEADS))], (e, HEADS), alpha=0.2)
        difference = scores[graph.col] - scores[graph.row]
        share = softmax(graph, np.where(difference > 0, difference, 0.2 * difference))
        attention = op("EdgeSoftmax", [logits, self.rowptr], (e, HEADS))
        out = op("Aggregate", [x, self.rowptr, self.col, attention], (n, HEADS, HIDDEN), reduce="sum")
        answer = reduce(graph, value[graph.col] * share[:, :, None], "sum")
        heads = self.sketch.weight("heads", np.array([1], np.int64))
        return op("ReduceMean", [out, heads], (n, HIDDEN), keepdims=0), answer.mean(axis=1)

    def edge_features(self, x: ir.Value, value: Array) -> tuple[ir.Value, Array]:
        """Messages that add constant edge features to the source, reduced to the smallest."""
        features = normal((self.graph.num_edges, CHANNELS), 3)
        edge = self.sketch.structure("edge_attr", features)
        shape = features.shape
        near = self.sketch.op("GatherSource", [x, self.col], shape)
        message = self.sketch.op("Mul", [near, edge], shape)
        out = self.sketch.op("ReduceEdges", [message, self.rowptr], value.shape, reduce="min")
        return out, reduce(self.graph, value[self.graph.col] * features, "min")

    def learned_nodes(self, x: ir.Value, value: Array) -> tuple[ir.Value, Array]:
        """A constant with a row for each node, added after aggregation."""
        learned = normal(value.shape, 4)
        out = self._aggregate(x, value, "mean")
        out = self.sketch.op("Add", [out, self.sketch.weight("learned", learned)], value.shape)
        return out, reduce(self.graph, value[self.graph.col], "mean") + learned

    def mixing(self, x: ir.Value, value: Array) -> tuple[ir.Value, Array]:
        """A sum over earlier rows between two aggregations: rows may not be renumbered."""
        axis = self.sketch.weight("axis", np.array(0, np.int64))
        first = self.sketch.op("CumSum", [self._aggregate(x, value, "mean"), axis], value.shape)
        value = np.cumsum(reduce(self.graph, value[self.graph.col], "mean"), axis=0)
        return self._aggregate(first, value, "mean"), reduce(self.graph, value[self.graph.col], "mean")

    def _sage(self, x: ir.Value, value: Array, kind: str) -> tuple[ir.Value, Array]:
        for layer, width in enumerate((HIDDEN, 3)):
            near = self._aggregate(x, value, kind)
            near, answer = self._linear(near, reduce(self.graph, value[self.graph.col], kind), width, 2 * layer)
            own, value = self._linear(x, value, width, 2 * layer + 1)
            value = value + answer
            x = self.sketch.op("Add", [near, own], value.shape)
        return x, value

    def _aggregate(self, x: ir.Value, value: Array, kind: str) -> ir.Value:
        return self.sketch.op("Aggregate", [x, self.rowptr, self.col], value.shape, reduce=kind)

    def _linear(self, x: ir.Value, value: Array, width: int, seed: int) -> tuple[ir.Value, Array]:
        weight, bias = normal((width, value.shape[1]), seed + 10), normal((width,), seed + 20)
        values = [self.sketch.weight(f"weight{seed}", weight), self.sketch.weight(f"bias{seed}", bias)]
        out = value @ weight.T.astype(np.float64) + bias
        return self.sketch.op("Gemm", [x, *values], out.shape, transB=1), out
