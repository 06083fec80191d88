"""ONNX translations of ops that the exporter has none of, in standard operators."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import onnxscript
import torch
from onnxscript.function_libs.torch_lib.ops import core as torch_lib
from onnxscript.function_libs.torch_lib.ops import nn as torch_lib_nn

aten = torch.ops.aten
gnn = torch.ops.gnn

op: Any = onnxscript.opset20

_TORCH_LIB: Any = torch_lib
_ATTENTION: Any = torch_lib_nn.aten_scaled_dot_product_attention


def standard() -> dict[Any, Any]:
    """Return by op the function that records what it is made of."""
    return {
        aten.sort.stable: _sort_stable,
        aten.scaled_dot_product_attention.default: _attention,
        gnn.table.default: _table,
        gnn.lstm.default: _TORCH_LIB.aten_lstm.func,
        gnn.gru.default: _TORCH_LIB.aten_gru.func,
    }


def _sort_stable(values: Any, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Sort all of a dimension; of equal values `TopK` takes the one with the lower index first.

    A single column keeps its second dimension, by which a target tells it from destinations, of which none has.
    """
    del stable
    single = len(values.shape) == 1
    if single:
        values, dim = op.Unsqueeze(values, [1]), 0
    count = op.Reshape(op.Gather(op.Shape(values), dim, axis=0), [-1])
    found = op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)
    return tuple(op.Squeeze(item, [1]) for item in found) if single else found


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attend; where a mask leaves nothing to attend to, as in an empty graph, zeros come out, as they do in PyTorch.

    The exporter's own translation takes a softmax over nothing but infinities there, which is NaN.
    """
    found = _ATTENTION.func(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    if attn_mask is None:
        return found
    allowed = attn_mask if attn_mask.dtype == ir.DataType.BOOL else op.Not(op.IsInf(attn_mask, detect_positive=0))
    count = op.ReduceSum(op.Cast(allowed, to=int(ir.DataType.FLOAT)), op.Constant(value_ints=[-1]), keepdims=1)
    return op.Where(op.Greater(count, op.Constant(value_float=0.0)), found, op.Constant(value_float=0.0))


def _table(index: Any, num_rows: Any, least: int) -> Any:
    """Lay items out in rows, without a scatter with a reduction: what is written goes to cells of its own.

    Where a row begins and ends is scattered from the items at its borders; all others write to a cell past the end,
    which nothing reads.
    """
    zero, one = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    rows, count = op.Reshape(num_rows, [-1]), op.Shape(index)
    number = op.Range(op.Constant(value_int=0), op.Squeeze(count, zero), op.Constant(value_int=1))
    perm = _stable_order(index, count, number)
    row = op.Gather(index, perm, axis=0)
    between = op.Concat(op.Constant(value_ints=[-1]), row, rows, axis=0)
    past = op.Expand(zero, op.Add(rows, one))

    def border(neighbour: Any, value: Any) -> Any:
        target = op.Where(op.Equal(row, neighbour), rows, row)
        return op.ScatterElements(past, target, value, axis=0)

    start = border(op.Slice(between, [0], [-2], [0]), number)
    stop = border(op.Slice(between, [2], [1 << 62], [0]), op.Add(number, one))
    sizes = op.Slice(op.Sub(stop, start), [0], [-1], [0])
    columns = op.ReduceMax(op.Concat(op.Constant(value_ints=[least]), sizes, axis=0), zero, keepdims=1)
    cell = op.Sub(op.Add(op.Mul(row, columns), number), op.Gather(start, row, axis=0))
    items = op.ScatterElements(op.Expand(count, op.Mul(rows, columns)), cell, perm, axis=0)
    table = op.Reshape(items, op.Concat(rows, columns, axis=0), allowzero=1)
    return table, op.ScatterElements(op.Expand(zero, count), perm, cell, axis=0)


def _stable_order(index: Any, count: Any, number: Any) -> Any:
    """Return the items in the order of their rows, those of a row in the order given.

    Most often that is the order they come in. It is told apart because OpenVINO does not keep the order of equal
    values, which ONNX asks of `TopK`.
    """
    descends = op.Less(op.Slice(index, [1], [1 << 62], [0]), op.Slice(index, [0], [-1], [0]))
    drops = op.ReduceSum(op.Cast(descends, to=int(ir.DataType.INT64)), [0], keepdims=1)
    _, perm = op.TopK(index, count, axis=0, largest=0, sorted=1)
    return op.Where(op.Equal(drops, op.Constant(value_ints=[0])), number, perm)
