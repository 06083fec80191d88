"""One aggregation, and one attention, in every way there is: our kernels and what else computes the same."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import openvino
import torch
from numpy.typing import NDArray
from openvino import opset15
from torch import Tensor
from torch_geometric.nn import GATConv

from benchmarks.room import LeftOut, demand
from benchmarks.sparse import adjacency
from gnnexport.native import kernels
from gnnexport.runtime.ort import OrtBackend
from gnnexport.targets.contract import DialectModel, EmitContext
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.exporter import OPSET
from gnnexport.targets.ort import OrtTarget

SCALE = 1 / 64
MOST_BYTES = 4 << 30
"""A way that writes down a row for each edge is left out where it takes more."""

PATHOLOGICAL = 100_000
"""Edges above which EmbeddingSegmentsSum is left out: it takes minutes."""

Run = Callable[[], Any]


@dataclass(frozen=True)
class Structure:
    """CSR by destination of a graph with as many sources as destinations, and a weight for each slot."""

    rowptr: Tensor
    col: Tensor
    weight: Tensor

    @classmethod
    def of(cls, edge_index: NDArray[np.int64], num_nodes: int) -> Structure:
        """Take edges [2, num_edges] that are sorted by destination."""
        degree = np.bincount(edge_index[1], minlength=num_nodes)
        rowptr = np.concatenate([[0], np.cumsum(degree)])
        weight = torch.rand(edge_index.shape[1], generator=torch.Generator().manual_seed(0))
        return cls(torch.from_numpy(rowptr), torch.from_numpy(edge_index[0].copy()), weight)

    @property
    def num_nodes(self) -> int:
        """Rows of the result, and of what is gathered."""
        return len(self.rowptr) - 1

    @property
    def num_edges(self) -> int:
        """Slots."""
        return len(self.col)

    @cached_property
    def narrow(self) -> tuple[Tensor, Tensor]:
        """Return `rowptr` and `col` in 32 bits."""
        return self.rowptr.int(), self.col.int()

    @cached_property
    def row(self) -> Tensor:
        """Return the destination of each slot."""
        return torch.repeat_interleave(torch.arange(self.num_nodes), self.rowptr.diff())

    def demand_rows(self, width: int, times: float) -> None:
        """Hold what a way takes that writes down a row for each edge against what is allowed and free.

        Args:
            width: float32 numbers in a row.
            times: what it was seen to take, over one row for each edge.

        Raises:
            LeftOut: it would take too much.
        """
        needed, what = round(self.num_edges * width * 4 * times), "with a row for each edge it"
        if needed > MOST_BYTES:
            raise LeftOut(f"{what} would take {needed / 1e9:.1f} GB")
        demand(needed, what)

    def csr(self) -> kernels.Csr:
        """Return what our kernels take."""
        rowptr, col = self.narrow
        return kernels.Csr(rowptr.data_ptr(), col.data_ptr(), self.num_nodes, self.num_edges, self.num_nodes, 32)

    def inputs(self, width: int) -> list[ir.Value]:
        """Return what operators of the dialect read first: features `x` [num_nodes, width], and this structure."""
        return [
            _value("x", self.num_nodes, width),
            _value("rowptr", self.num_nodes + 1, dtype=ir.DataType.INT64),
            _value("col", self.num_edges, dtype=ir.DataType.INT64),
        ]

    def dialect(self, node: ir.Node, features: dict[str, Tensor]) -> DialectModel:
        """Return a model of one operator of the dialect; its inputs are the features and this structure."""
        inputs = [value for value in node.inputs if value is not None]
        model = ir.Model(
            ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": OPSET, schemas.DOMAIN: 1}, name="one"),
            ir_version=10,
        )
        known = {"rowptr": self.rowptr.numpy(), "col": self.col.numpy(), "weight": self.weight.numpy()}
        used = {str(value.name) for value in inputs}
        return DialectModel(
            model,
            {name: array for name, array in known.items() if name in used},
            sample={name: value.numpy() for name, value in features.items()},
        )


def _value(name: str, *shape: int, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def _in_onnxruntime(dialect: DialectModel, lowering: Any, threads: int) -> Run:
    """Open a model as `gnnexport export` would write it."""
    schemas.register()
    with tempfile.TemporaryDirectory() as folder:
        artefact = OrtTarget(aggregate=lowering).emit(dialect, Path(folder), EmitContext(threads=threads))
        backend = OrtBackend(Path(folder) / artefact.model_file, threads)
    return lambda: next(iter(backend.run(dialect.sample).values()))


class Aggregation:
    """Sum the rows of each node's neighbours, with or without a weight for each edge, in float32.

    The features are whole numbers times a power of two, so that narrower types hold them exactly.
    """

    def __init__(self, structure: Structure, width: int, weighted: bool, threads: int) -> None:
        """Make the features.

        Args:
            structure: of the graph.
            width: columns of the features.
            weighted: multiply each row by the weight of its edge.
            threads: of every way but those that say otherwise.
        """
        self.structure, self.width, self.weighted, self.threads = structure, width, weighted, threads
        generator = torch.Generator().manual_seed(0)
        size = (structure.num_nodes, width)
        self.quantised = torch.randint(-127, 128, size, dtype=torch.int8, generator=generator)
        self.x = self.quantised.float() * SCALE
        self._scales = torch.full((width,), SCALE)
        self._out = torch.empty(size)
        self._weight = structure.weight if weighted else None

    def ways(self) -> dict[str, Callable[[], Run]]:
        """Return what prepares each way to compute it; that may raise `LeftOut`."""
        found: dict[str, Callable[[], Run]] = {
            "kernel float32": self.kernel,
            "kernel float32, new output each time": lambda: self.kernel(reuses=False),
            "kernel bfloat16": lambda: self.kernel("bfloat16"),
            "kernel int8": lambda: self.kernel("int8"),
            "kernel float32, one thread": lambda: self.kernel(threads=1),
            "kernel in ONNX Runtime": lambda: self._onnxruntime("native"),
            "torch CSR": self._torch_csr,
            "torch CSR, 32-bit indices": lambda: self._torch_csr(narrow=True),
            "embedding_bag": self._embedding_bag,
            "DGL": self._dgl,
            "ELL in ONNX Runtime": lambda: self._onnxruntime("ell"),
            "OpenVINO EmbeddingBagOffsets": self._embedding_bag_offsets,
            "OpenVINO EmbeddingSegmentsSum": self._embedding_segments,
            "torch scatter": self._torch_scatter,
            "scatter in ONNX Runtime": lambda: self._onnxruntime("scatter"),
        }
        if self.weighted:
            del found["kernel int8"]  # integers cannot be added where each has a weight
        return found

    def kernel(self, dtype: str = "float32", threads: int | None = None, reuses: bool = True) -> Run:
        """Prepare our kernel; it writes to the same output each time, as it does in an engine, or to a new one."""
        x = {"float32": self.x, "int8": self.quantised}.get(dtype)
        x = self.x.bfloat16() if x is None else x
        csr, weight = self.structure.csr(), 0 if self._weight is None else self._weight.data_ptr()
        scale = self._scales.data_ptr() if dtype == "int8" else 0
        count = self.threads if threads is None else threads

        def run() -> Tensor:
            out = self._out if reuses else torch.empty_like(self._out)
            kernels.aggregate(
                csr,
                x.data_ptr(),
                self.width,
                out.data_ptr(),
                dtype=dtype,
                weight=weight,
                column_scale=scale,
                threads=count,
            )
            return out

        return run

    def _dialect(self) -> DialectModel:
        inputs = self.structure.inputs(self.width)
        if self.weighted:
            inputs.append(_value("weight", self.structure.num_edges))
        out = _value("out", self.structure.num_nodes, self.width)
        node = ir.node(schemas.AGGREGATE, inputs, {"reduce": "sum"}, domain=schemas.DOMAIN, outputs=[out])
        return self.structure.dialect(node, {"x": self.x})

    def _onnxruntime(self, lowering: str) -> Run:
        if lowering == "scatter":
            self.structure.demand_rows(self.width, 6.0)  # an index of 64 bits for each element, and copies
        return _in_onnxruntime(self._dialect(), lowering, self.threads)

    def _torch_csr(self, narrow: bool = False) -> Run:
        rowptr, col = self.structure.narrow if narrow else (self.structure.rowptr, self.structure.col)
        matrix = adjacency(rowptr, col, self._weight)
        return lambda: matrix @ self.x

    def _embedding_bag(self) -> Run:
        rowptr, col = self.structure.narrow
        bag = torch.nn.functional.embedding_bag
        keywords: dict[str, Any] = {"mode": "sum", "include_last_offset": True, "per_sample_weights": self._weight}
        return lambda: bag(col, self.x, rowptr, **keywords)

    def _dgl(self) -> Run:
        dgl = import_dgl()
        structure = self.structure
        graph = dgl.graph((structure.col, structure.row), num_nodes=structure.num_nodes).formats("csc")
        if self._weight is None:
            return lambda: dgl.ops.copy_u_sum(graph, self.x)
        weight = self._weight[:, None]
        return lambda: dgl.ops.u_mul_e_sum(graph, self.x, weight)

    def _torch_scatter(self) -> Run:
        self.structure.demand_rows(self.width, 2.0 if self.weighted else 1.0)
        structure, size = self.structure, (self.structure.num_nodes, self.width)
        index = structure.row[:, None].expand(-1, self.width)

        def run() -> Tensor:
            rows = self.x.index_select(0, structure.col)
            if self._weight is not None:
                rows = rows * self._weight[:, None]
            return self.x.new_zeros(size).scatter_add_(0, index, rows)

        return run

    def _embedding_bag_offsets(self) -> Run:
        rowptr, col = (value.numpy() for value in self.structure.narrow)
        x = opset15.parameter(self.x.shape, np.float32)
        indices, offsets = opset15.constant(col), opset15.constant(rowptr[:-1])
        weights = {} if self._weight is None else {"per_sample_weights": opset15.constant(self._weight.numpy())}
        # A bag without slots asks for a default, and -1 stands for zeros.
        empty = opset15.constant(np.int32(-1))
        return self._openvino(opset15.embedding_bag_offsets(x, indices, offsets, empty, **weights), x)

    def _embedding_segments(self) -> Run:
        if self.structure.num_edges > PATHOLOGICAL:
            raise LeftOut("takes minutes")
        if self.weighted:
            raise LeftOut("with weights it does not serve rows without slots")
        x = opset15.parameter(self.x.shape, np.float32)
        rows, count = self.structure.row.int().numpy(), np.int32(self.structure.num_nodes)
        constants = [opset15.constant(array) for array in (self.structure.narrow[1].numpy(), rows, count)]
        return self._openvino(opset15.embedding_segments_sum(x, *constants), x)

    def _openvino(self, node: Any, x: Any) -> Run:
        settings = {"INFERENCE_NUM_THREADS": self.threads, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(openvino.Model([node], [x]), "CPU", settings)
        request, feeds = compiled.create_infer_request(), [self.x.numpy()]
        return lambda: request.infer(feeds, share_inputs=True, share_outputs=True)[compiled.output(0)]


class Attention:
    """What a GAT computes from linear features: scores, their softmax, and the weighted sum."""

    def __init__(self, structure: Structure, heads: int, channels: int, threads: int) -> None:
        """Make features [num_nodes, heads * channels] and both sides' terms of the scores [num_nodes, heads]."""
        self.structure, self.heads, self.channels, self.threads = structure, heads, channels, threads
        self.width = heads * channels
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(structure.num_nodes, self.width, generator=generator)
        self.terms = [torch.randn(structure.num_nodes, heads, generator=generator) for _ in range(2)]
        self._out = torch.empty(structure.num_nodes, self.width)

    def ways(self) -> dict[str, Callable[[], Run]]:
        """Return what prepares each way to compute it; that may raise `LeftOut`."""
        return {
            "kernel float32": self.kernel,
            "kernel float32, one thread": lambda: self.kernel(threads=1),
            "kernel in ONNX Runtime": lambda: _in_onnxruntime(self._dialect(), "native", self.threads),
            "PyG eager": self._eager,
        }

    def kernel(self, threads: int | None = None) -> Run:
        """Prepare our kernel."""
        csr, count = self.structure.csr(), self.threads if threads is None else threads
        source, destination = (term.data_ptr() for term in self.terms)

        def run() -> Tensor:
            kernels.attention(
                csr, self.x.data_ptr(), self.width, self.heads, self._out.data_ptr(), score="gat", slope=0.2,
                source=source, destination=destination, threads=count,
            )  # fmt: skip
            return self._out

        return run

    def _dialect(self) -> DialectModel:
        nodes, inputs = self.structure.num_nodes, self.structure.inputs(self.width)
        inputs += [_value(side, nodes, self.heads) for side in ("source", "destination")]
        settings: dict[str, Any] = {"score": "gat", "heads": self.heads, "slope": 0.2}
        out = _value("out", nodes, self.width)
        node = ir.node(schemas.ATTENTION, inputs, settings, domain=schemas.DOMAIN, outputs=[out])
        features = {"x": self.x, "source": self.terms[0], "destination": self.terms[1]}
        return self.structure.dialect(node, features)

    def _eager(self) -> Run:
        self.structure.demand_rows(self.width, 2.4)  # gathered, weighed, and the scores
        conv = GATConv(self.width, self.channels, self.heads, add_self_loops=False, bias=False).eval()
        edge_index = torch.stack([self.structure.col, self.structure.row])
        x = self.x.view(-1, self.heads, self.channels)
        source, destination = self.terms

        def run() -> Tensor:
            alpha = conv.edge_updater(edge_index, alpha=(source, destination), edge_attr=None, size=None)
            out: Tensor = conv.propagate(edge_index, x=(x, x), alpha=alpha, size=None)
            return out.view(-1, self.width)

        return run


def import_dgl() -> Any:
    """Import DGL without its sampler, whose library fits one release of torch only."""
    if find_spec("dgl") is None:
        raise LeftOut("not installed; dgl 2.1.0 in a folder of its own on PYTHONPATH, with pandas, is enough")
    os.environ.setdefault("DGLBACKEND", "pytorch")  # else it asks
    sys.modules.setdefault("dgl.graphbolt", types.ModuleType("dgl.graphbolt"))
    try:
        return importlib.import_module("dgl")
    except Exception as error:
        raise LeftOut(f"cannot be imported ({type(error).__name__}: {error})") from error
