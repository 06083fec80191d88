"""Small networks whose operands are quantised, in PyTorch, and their translation for one graph or for any."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from gnnexport.program.dialect import ops as _ops  # noqa: F401  registers the dialect
from gnnexport.program.dialect import quantize as _quantize  # noqa: F401
from gnnexport.targets.contract import DialectModel
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.translate import export
from tests.targets.graphs import Csr

gnn = torch.ops.gnn

WIDTH, HIDDEN, CLASSES = 9, 7, 3


class Quantised(nn.Module):
    """What the networks have in common: parameters of quantisers, named as passes name them.

    Args:
        nodes: number of nodes, for tables by node; 0 for none.
        nearest: groups of rows looked up by largest magnitude; 0 for none.
        bits: of what is summed.
    """

    def __init__(self, nodes: int = 0, nearest: int = 0, bits: int = 8) -> None:
        super().__init__()
        self.nodes, self.nearest, self.bits = nodes, nearest, bits
        self.draw = torch.Generator().manual_seed(0)

    def quantiser(self, name: str, count: int, step: float, bits: tuple[int, int]) -> None:
        """Make steps around one number and widths in a range."""
        steps = step * (0.5 + torch.rand(count, generator=self.draw))
        widths = torch.randint(bits[0], bits[1] + 1, (count,), generator=self.draw).float()
        self.register_parameter(f"{name}_step", nn.Parameter(steps))
        self.register_parameter(f"{name}_bits", nn.Parameter(widths))

    def linear(self, name: str, columns: int, width: int, *, bias: bool = True) -> None:
        """Make a layer with weights of four bits."""
        weight = torch.randn(width, columns, generator=self.draw) / columns**0.5
        self.register_parameter(f"{name}_weight", nn.Parameter(weight))
        self.quantiser(f"{name}_weight", width, 0.1, (4, 4))
        getattr(self, f"{name}_weight_bits").data = torch.tensor([4.0])
        if bias:
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.randn(width, generator=self.draw)))

    def rows(self, name: str) -> None:
        """Make the quantiser of a layer's rows."""
        self.quantiser(f"{name}_input", self.nearest or self.nodes or 1, 0.05, (2, 8))

    def columns(self, name: str, width: int) -> None:
        """Make the quantiser of what is summed."""
        self.quantiser(f"{name}_sum", width, 4.0 / 2**self.bits, (self.bits, self.bits))
        getattr(self, f"{name}_sum_bits").data = torch.tensor([float(self.bits)])

    def weights(self, name: str) -> Tensor:
        """Return quantised weights."""
        parts = (getattr(self, f"{name}_weight{end}") for end in ("", "_step", "_bits"))
        return gnn.quantize_rows(*parts, True, False)

    def quantised_rows(self, x: Tensor, name: str, *, signed: bool) -> Tensor:
        """Quantise the rows of a layer."""
        op = gnn.quantize_nearest if self.nearest else gnn.quantize_rows
        return op(x, getattr(self, f"{name}_input_step"), getattr(self, f"{name}_input_bits"), signed, False)

    def quantised_columns(self, x: Tensor, name: str, *, signed: bool) -> Tensor:
        """Quantise what is summed."""
        step, bits = getattr(self, f"{name}_sum_step"), getattr(self, f"{name}_sum_bits")
        return gnn.quantize_columns(x, step, bits, signed, False)


class Gcn(Quantised):
    """Two layers that multiply, then sum; degrees scale rows before and after the sum."""

    def __init__(self, nodes: int = 0, nearest: int = 0, bits: int = 8) -> None:
        super().__init__(nodes, nearest, bits)
        for name, columns, width in (("first", WIDTH, HIDDEN), ("second", HIDDEN, CLASSES)):
            self.rows(name)
            self.linear(name, columns, width)
            self.columns(name, width)

    def forward(self, x: Tensor, rowptr: Tensor, col: Tensor) -> Tensor:
        """Answer for all nodes."""
        scale = (rowptr[1:] - rowptr[:-1] + 1).to(x.dtype).rsqrt().unsqueeze(1)
        for name, signed in (("first", True), ("second", False)):
            x = nn.functional.linear(self.quantised_rows(x, name, signed=signed), self.weights(name))
            x = gnn.aggregate(self.quantised_columns(x * scale, name, signed=True), rowptr, col, None, "sum")
            x = x * scale + getattr(self, f"{name}_bias")
            x = x.relu() if name == "first" else x
        return x


class Sage(Quantised):
    """Two layers that sum, then multiply, with a layer of the rows' own."""

    def __init__(self, nodes: int = 0, nearest: int = 0, bits: int = 8, reduce: str = "mean") -> None:
        super().__init__(nodes, nearest, bits)
        self.reduce = reduce
        for name, columns, width in (("first", WIDTH, HIDDEN), ("second", HIDDEN, CLASSES)):
            self.columns(name, columns)
            self.rows(name)
            self.linear(name, columns, width)
            self.rows(f"{name}_own")
            self.linear(f"{name}_own", columns, width, bias=False)

    def forward(self, x: Tensor, rowptr: Tensor, col: Tensor) -> Tensor:
        """Answer for all nodes."""
        for name, signed in (("first", True), ("second", False)):
            near = gnn.aggregate(self.quantised_columns(x, name, signed=signed), rowptr, col, None, self.reduce)
            near = self.quantised_rows(near, name, signed=signed)
            own = self.quantised_rows(x, f"{name}_own", signed=signed)
            x = nn.functional.linear(near, self.weights(name), getattr(self, f"{name}_bias"))
            x = x + nn.functional.linear(own, self.weights(f"{name}_own"))
            x = x.relu() if name == "first" else x
        return x


class Weighted(Quantised):
    """A sum with weights of the edges that stay floats, before a layer."""

    def __init__(self, nodes: int = 0, nearest: int = 0, bits: int = 8) -> None:
        super().__init__(nodes, nearest, bits)
        self.columns("only", WIDTH)
        self.rows("only")
        self.linear("only", WIDTH, CLASSES)

    def forward(self, x: Tensor, rowptr: Tensor, col: Tensor) -> Tensor:
        """Answer for all nodes."""
        weight = 1.0 / (1.0 + col.to(x.dtype))
        near = gnn.aggregate(self.quantised_columns(x, "only", signed=True), rowptr, col, weight, "sum")
        rows = self.quantised_rows(nn.functional.leaky_relu(near, 0.2), "only", signed=True)
        return nn.functional.linear(rows, self.weights("only"), self.only_bias)


NETWORKS: dict[str, Callable[..., Quantised]] = {
    "gcn": Gcn,
    "sage-mean": Sage,
    "sage-max": lambda *given: Sage(*given, reduce="max"),
    "weighted": Weighted,
}


@functools.cache
def _made(name: str, nodes: int, nearest: int, bits: int) -> Quantised:
    return NETWORKS[name](nodes, nearest, bits).eval()


@dataclass(frozen=True, eq=False)
class Case:
    """A network on one graph: its translation, features and PyTorch's answer."""

    dialect: DialectModel
    x: np.ndarray
    expected: np.ndarray


def case_of(name: str, assign: str, graph: Csr, bits: int = 8) -> Case:
    """Translate a network for one graph, once.

    Args:
        name: of the network.
        assign: steps of the whole `tensor`, of each `node`, or of 50 groups (`nearest`).
        graph: it is baked in.
        bits: of what is summed.
    """
    return _case(name, assign, graph.rowptr.tobytes(), graph.col.tobytes(), bits)


@functools.cache
def _case(name: str, assign: str, rowptr: bytes, col: bytes, bits: int) -> Case:
    graph = Csr(np.frombuffer(rowptr, np.int64).copy(), np.frombuffer(col, np.int64).copy())
    nodes, nearest = {"tensor": (0, 0), "node": (graph.num_nodes, 0), "nearest": (0, 50)}[assign]
    network, x = _made(name, nodes, nearest, bits), features(graph)
    return Case(of_one_graph(network, graph, x), x.numpy(), expected(network, graph, x))


def features(graph: Csr, seed: int = 0) -> Tensor:
    """Draw features of the nodes."""
    return torch.randn(graph.num_nodes, WIDTH, generator=torch.Generator().manual_seed(seed))


def expected(network: Quantised, graph: Csr, x: Tensor) -> np.ndarray:
    """Return PyTorch's answer."""
    with torch.no_grad():
        return network(x, torch.tensor(graph.rowptr), torch.tensor(graph.col)).numpy()


def of_one_graph(network: Quantised, graph: Csr, x: Tensor) -> DialectModel:
    """Translate for one graph."""
    schemas.register()
    given = {"x": x, "rowptr": torch.tensor(graph.rowptr), "col": torch.tensor(graph.col)}
    model = export(network.eval(), given, "logits")
    structure = {name: given[name].numpy() for name in ("rowptr", "col")}
    return DialectModel(model, structure, sample={"x": x.numpy()})


class _Block(nn.Module):
    """A network that is given the destination of each slot, too."""

    def __init__(self, network: Quantised) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, rowptr: Tensor, col: Tensor, row: Tensor) -> Tensor:
        """Answer for all nodes."""
        del row
        answer: Tensor = self.network(x, rowptr, col)
        return answer


def of_any_block(network: Quantised, graph: Csr) -> DialectModel:
    """Translate for blocks of any size, as a stage of mode `batched` is."""
    schemas.register()
    x = features(graph)
    given = {"x": x, **{name: torch.tensor(getattr(graph, name)) for name in ("rowptr", "col", "row")}}
    rows, slots = Dim("num_targets", min=2), Dim("num_slots", min=2)
    model = export(_Block(network).eval(), given, "logits", [{0: rows}, {0: rows + 1}, {0: slots}, {0: slots}])
    return DialectModel(model, {}, "batched", {name: value.numpy() for name, value in given.items()})
