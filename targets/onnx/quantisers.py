"""The quantisers of a model: operators that round values to a few levels, and what they are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.errors import UnsupportedError
from gnnexport.program.dialect.quantize import LEAST_STEP, MOST_BITS
from gnnexport.targets.onnx import schemas

By = Literal["rows", "columns", "nearest", "tensor"]
Floats = NDArray[np.float32]

OF_LEVELS = "gnnexport.levels"
"""Key of `Value.meta` of initialisers that hold steps and widths: neither weights nor the graph."""

PER_NODE = "gnnexport.per_node"
"""Key of `Value.meta` of those that have a row for each node."""


@dataclass(frozen=True)
class Quantiser:
    """One operator `Quantize` or `QuantizeDynamic`.

    Args:
        node: where it stands.
        by: what shares a step: `rows`, of which row i takes entry i % n; `columns`; or groups of rows, of which each
            row takes the one whose reach is `nearest` to its largest magnitude; or the whole `tensor`, where dynamic.
        signed: whether levels below zero exist.
        step: float32 [n], positive; none where dynamic.
        bits: int64 [n], or [1] for all, from 1 to 8.
        dynamic: rows, or the tensor, take their steps from their largest magnitude at run time.
    """

    node: ir.Node
    by: By
    signed: bool
    step: Floats
    bits: NDArray[np.int64]
    dynamic: bool = False

    @property
    def x(self) -> ir.Value:
        """What is quantised."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def out(self) -> ir.Value:
        """The operator's result."""
        return self.node.outputs[0]

    @property
    def name(self) -> str:
        """Name of the operand."""
        return self.node.attributes.get_string(schemas.OPERAND, "") or str(self.out.name)

    @property
    def inverse(self) -> Floats:
        """What values are multiplied by, float32 [n]."""
        return np.float32(1) / self.step

    @property
    def top(self) -> Floats:
        """Largest level, float32, as many as there are widths."""
        return (2.0 ** (self.bits - int(self.signed)) - 1).astype(np.float32)

    @property
    def single(self) -> bool:
        """Whether one step and one width serve everything."""
        return self.by != "nearest" and len(self.step) == len(self.bits) == 1

    @property
    def widest(self) -> int:
        """Most bits of an entry."""
        return int(self.bits.max(initial=1))

    @property
    def only_group(self) -> Quantiser:
        """Return what serves all rows where all groups have the same reach: the first."""
        entry = self.groups()[1][:1]
        return replace(self, by="rows", step=self.step[entry], bits=np.resize(self.bits, len(self.step))[entry])

    def groups(self) -> tuple[Floats, NDArray[np.int64]]:
        """Return reaches in ascending order, each once, and the entry that has it: the first of those that do."""
        assert self.by == "nearest"
        reach = self.step * np.resize(self.top, len(self.step))
        order = np.argsort(reach, kind="stable")
        found, first = np.unique(reach[order], return_index=True)
        return found, order[first]


def read_quantiser(node: ir.Node) -> Quantiser:
    """Read one operator that quantises.

    Raises:
        UnsupportedError: its steps or widths are computed inside the model.
    """
    by: Any = node.attributes["by"].as_string()
    signed = bool(node.attributes["signed"].as_int())
    if node.op_type == schemas.QUANTIZE_DYNAMIC:
        width = np.array([node.attributes["bits"].as_int()])
        return Quantiser(node, by, signed, np.empty(0, np.float32), width, dynamic=True)
    arrays = []
    for value in node.inputs[1:3]:
        if value is None or value.const_value is None:
            what = f"the levels of '{node.name}' are computed inside the model"
            raise UnsupportedError.at("onnx", what, "Make steps and widths parameters")
        arrays.append(value.const_value.numpy())
    step = np.maximum(arrays[0].astype(np.float32).reshape(-1), np.float32(LEAST_STEP))
    bits = np.round(np.clip(arrays[1], 1, MOST_BITS)).astype(np.int64).reshape(-1)
    return Quantiser(node, by, signed, step, bits)


def quantise_nodes(graph: ir.Graph) -> list[ir.Node]:
    """Return every operator of a graph that quantises, in its order."""
    return [node for node in graph if _quantises(node)]


def quantiser_of(value: ir.Value | None) -> Quantiser | None:
    """Return what a value is quantised by, if it is."""
    node = None if value is None else value.producer()
    return read_quantiser(node) if node is not None and _quantises(node) else None


def drop_quantiser(graph: ir.Graph, quantiser: Quantiser) -> bool:
    """Remove a quantiser whose result nothing reads any more, in place; tell whether it is gone."""
    unread = not list(quantiser.out.uses()) and not quantiser.out.is_graph_output()
    if unread:
        graph.remove(quantiser.node, safe=True)
    return unread


def _quantises(node: ir.Node) -> bool:
    return node.domain == schemas.DOMAIN and node.op_type in (schemas.QUANTIZE, schemas.QUANTIZE_DYNAMIC)


def name_operands(graph: ir.Graph) -> None:
    """Write down what each quantiser is called, before equal constants become one."""
    for node in quantise_nodes(graph):
        step = node.inputs[1] if node.op_type == schemas.QUANTIZE else None
        if step is not None and not node.attributes.get_string(schemas.OPERAND, ""):
            name = str(step.name).removesuffix("_step").replace("body.", "")
            node.attributes[schemas.OPERAND] = ir.AttrString(schemas.OPERAND, name)


def levels(x: NDArray[Any], inverse: NDArray[Any], top: NDArray[Any], *, signed: bool) -> Floats:
    """Return the level of each entry in float32; the arguments are broadcast."""
    z = x.astype(np.float32) * inverse
    if signed:
        found = np.sign(z) * np.floor(np.minimum(np.abs(z), top) + np.float32(0.5))
    else:
        found = np.floor(np.minimum(np.maximum(z, np.float32(0)), top) + np.float32(0.5))
    return np.asarray(found, np.float32)


def constant_levels(quantiser: Quantiser) -> tuple[NDArray[np.int16], Floats]:
    """Return the levels of a constant, in its shape, and the steps as they are broadcast against it."""
    const = quantiser.x.const_value
    assert const is not None
    array = const.numpy()
    if quantiser.by == "nearest":
        which = nearest(array, quantiser)
        inverse, top, step = (values[which] for values in (quantiser.inverse, quantiser.top, quantiser.step))
    elif quantiser.by == "rows":
        rows = np.arange(len(array))
        inverse, top, step = (
            values[rows % len(values)] for values in (quantiser.inverse, quantiser.top, quantiser.step)
        )
    else:
        shape = array.shape[1:] if len(quantiser.step) > 1 else (1,) * (array.ndim - 1)
        inverse, step, top = quantiser.inverse.reshape(shape), quantiser.step.reshape(shape), quantiser.top
        return levels(array, inverse, top, signed=quantiser.signed).astype(np.int16), step
    lifted = (-1, *(1 for _ in array.shape[1:]))
    found = levels(array, inverse.reshape(lifted), top.reshape(lifted), signed=quantiser.signed)
    return found.astype(np.int16), step.reshape(lifted)


def nearest(x: NDArray[Any], quantiser: Quantiser) -> NDArray[np.int64]:
    """Return the group of each row, int64 [rows]."""
    reach, group = quantiser.groups()
    flat = np.abs(x.astype(np.float32)).reshape(len(x), -1)
    largest = flat.max(axis=1, initial=0)
    above = np.minimum(np.searchsorted(reach, largest), len(reach) - 1)
    below = np.maximum(above - 1, 0)
    lower = np.abs(largest - reach[below]) <= np.abs(largest - reach[above])
    return np.asarray(group[np.where(lower, below, above)])
