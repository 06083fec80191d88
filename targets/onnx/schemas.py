"""The dialect as ONNX operators: what an exported model holds before it is lowered."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import onnx
from onnx.defs import OpSchema

DOMAIN = "gnnexport"
VERSION = 1

CSR = "Csr"
AGGREGATE = "Aggregate"
AGGREGATE_LINEAR = "AggregateLinear"
LINEAR = "Linear"
REDUCE_EDGES = "ReduceEdges"
EDGE_SOFTMAX = "EdgeSoftmax"
GATHER_SOURCE = "GatherSource"
GATHER_DESTINATION = "GatherDestination"
ATTENTION = "Attention"
QUANTIZE = "Quantize"
QUANTIZE_DYNAMIC = "QuantizeDynamic"
NARROW = "Narrow"
NARROW_AGGREGATE = "NarrowAggregate"
NARROW_LINEAR = "NarrowLinear"
NARROW_AGGREGATE_LINEAR = "NarrowAggregateLinear"
ROUND_BFLOAT16 = "RoundBfloat16"
ROUND_FLOAT16 = "RoundFloat16"
EDGES = "Edges"
WEIGHTED_EDGES = "WeightedEdges"

WEIGHTS = "weights"
OWN_WEIGHTS = "own_weights"
"""Attributes that say how a product holds its matrix: all of its numbers, or not the zeros."""

ACTIVATION = "activation"
SLOPE = "slope"
OPERAND = "operand"
"""What a quantised operand is called in the Program."""

_FLOATS = ("T", ["tensor(float)", "tensor(double)", "tensor(float16)", "tensor(bfloat16)"], "features")
_ROWS = ("R", _FLOATS[1], "rows, which may be narrower than what is made of them")
_INDICES = ("I", ["tensor(int64)", "tensor(int32)"], "indices")
_EITHER = ("E", ["tensor(float)", "tensor(uint8)"], "rows, wide or narrow")
_GIVEN = ("L", _EITHER[1], "rows, or their levels")
_GIVEN_OWN = ("O", _EITHER[1], "rows, or their levels")
_TYPES = {
    "f32": "tensor(float)",
    "bf16": "tensor(bfloat16)",
    "f16": "tensor(float16)",
    "u8": "tensor(uint8)",
    "s8": "tensor(int8)",
}


@functools.cache
def register() -> None:
    """Tell onnx about the dialect's operators; a second call does nothing."""
    kinds = OpSchema.AttrType
    reduce = OpSchema.Attribute("reduce", kinds.STRING, "sum, mean, max, min or prod", required=True)
    after = [
        OpSchema.Attribute(ACTIVATION, onnx.helper.make_attribute(ACTIVATION, "identity"), "what follows the sum"),
        OpSchema.Attribute(SLOPE, onnx.helper.make_attribute(SLOPE, 0.0), "of leaky_relu"),
    ]
    scores = [
        OpSchema.Attribute("score", kinds.STRING, "given, gat, gatv2 or dot", required=True),
        OpSchema.Attribute("heads", kinds.INT, "that share the columns of x", required=True),
        OpSchema.Attribute("scale", onnx.helper.make_attribute("scale", 1.0), "of dot"),
    ]
    _register(CSR, ["dst:I", "num_dst:I"], [], outputs=["rowptr:I", "perm:I"])
    # Rows of any width give float32, which is what a file with such a node holds.
    _register(AGGREGATE, ["x:R", "rowptr:I", "col:I", "weight:T?", "root:T?", "bias:T?"], [reduce, *after], ["out:f32"])
    layers = ["matrix:T", "own:T?", "own_matrix:T?", "root:T?", "bias:T?"]
    held = [_text(WEIGHTS, "dense"), _text(OWN_WEIGHTS, "dense")]
    inputs = ["x:R", "rowptr:I", "col:I", "weight:T?", *layers]
    _register(AGGREGATE_LINEAR, inputs, [reduce, *after, *held], ["out:f32"])
    _register(LINEAR, ["x:T", "matrix:T", "root:T?", "bias:T?"], [*after, held[0]])
    _register(REDUCE_EDGES, ["messages:T", "rowptr:I", "root:T?", "bias:T?"], [reduce, *after])
    terms = ["source:T?", "destination:T?", "edge:T?", "edge_value:T?", "att:T?", "root:T?", "bias:T?"]
    _register(ATTENTION, ["x:T", "rowptr:I", "col:I", *terms], [*scores, *after])
    loops = [
        OpSchema.Attribute("one_loop", onnx.helper.make_attribute("one_loop", 0), "each node gets exactly one loop"),
        OpSchema.Attribute("normalise", onnx.helper.make_attribute("normalise", 0), "weights by degrees, as GCN does"),
        OpSchema.Attribute("fill", onnx.helper.make_attribute("fill", 1.0), "weight of loops that are added"),
    ]
    _register(EDGES, ["edge_index:I", "num_nodes:I"], loops, outputs=["rowptr:I", "col:I"])
    weighted = ["rowptr:I", "col:I", "weight:T"]
    _register(WEIGHTED_EDGES, ["edge_index:I", "num_nodes:I", "edge_weight:T?"], loops, outputs=weighted)
    _register(EDGE_SOFTMAX, ["logits:T", "rowptr:I"], [])
    _register(GATHER_SOURCE, ["x:T", "col:I"], [])
    _register(GATHER_DESTINATION, ["x:T", "rowptr:I"], [])
    _register(ROUND_BFLOAT16, ["x:f32"], [], outputs=["out:bf16"])
    _register(ROUND_FLOAT16, ["x:f32"], [], outputs=["out:f16"])
    _register_narrow(reduce, after)


def _register_narrow(reduce: OpSchema.Attribute, after: list[OpSchema.Attribute]) -> None:
    """Tell onnx about what quantises, and about what our kernels compute with few bits."""
    kinds = OpSchema.AttrType
    by = OpSchema.Attribute("by", kinds.STRING, "rows, columns or nearest", required=True)
    _register(QUANTIZE, ["x:T", "step:T", "bits:T"], [by, _number("signed", 1), _text(OPERAND)])
    _register(QUANTIZE_DYNAMIC, ["x:T"], [by, _number("bits", 8), _number("signed", 1), _text(OPERAND)])
    width = [_number("bits", 8), _number("zero", 0)]
    given = [_number("given", 0), _number("given_signed", 0)]
    levels = ["given_step:f32?", "given_bits:u8?"]
    _register(NARROW, ["x:f32", "step:f32", *levels], [*width, *given], outputs=["out:u8", "levels:u8?"])
    sums = ["x:u8", "rowptr:I", "col:I", "step:f32", "weight:f32?"]
    _register(NARROW_AGGREGATE, [*sums, "scale:f32?", "root:f32?", "bias:f32?"], [reduce, *width, *after], ["out:f32"])
    rows = ["row_step:f32", "row_bits:u8", "matrix:s8", "matrix_step:f32", "scale:f32?"]
    own = ["own:O?", "own_step:f32?", "own_bits:u8?", "own_matrix:s8?", "own_matrix_step:f32?"]
    products = [*rows, *own, "root:f32?", "bias:f32?", "next_step:f32?", *levels]
    names = ("signed", "own_signed", "nearest", "next_bits", "next_zero")
    told = [*(_number(name, 0) for name in names), *given]
    outputs = ["out:E", "levels:u8?"]
    _register(NARROW_LINEAR, ["x:L", *products], [*told, *after], outputs)
    of_sum = ["sum_scale:f32?", "sum_root:f32?", "sum_bias:f32?"]
    slope = OpSchema.Attribute("sum_slope", onnx.helper.make_attribute("sum_slope", 0.0))
    before = [_text("sum_activation", "identity"), slope]
    _register(NARROW_AGGREGATE_LINEAR, [*sums, *of_sum, *products], [reduce, *width, *before, *told, *after], outputs)


def _number(name: str, default: int) -> OpSchema.Attribute:
    return OpSchema.Attribute(name, onnx.helper.make_attribute(name, default))


def _text(name: str, default: str = "") -> OpSchema.Attribute:
    return OpSchema.Attribute(name, onnx.helper.make_attribute(name, default))


def _register(
    name: str, inputs: list[str], attributes: list[OpSchema.Attribute], outputs: Sequence[str] = ("out:T",)
) -> None:
    texts = (*inputs, *outputs)
    constraints = [
        item
        for item in (_FLOATS, _ROWS, _INDICES, _EITHER, _GIVEN, _GIVEN_OWN)
        if any(text.partition(":")[2].rstrip("?") == item[0] for text in texts)
    ]
    onnx.defs.register_schema(
        OpSchema(
            name,
            DOMAIN,
            VERSION,
            inputs=[_parameter(text) for text in inputs],
            outputs=[_parameter(text) for text in outputs],
            type_constraints=constraints,
            attributes=attributes,
        )
    )


def _parameter(text: str) -> OpSchema.FormalParameter:
    name, _, kind = text.partition(":")
    option = OpSchema.FormalParameterOption
    chosen = option.Optional if kind.endswith("?") else option.Single
    plain = kind.rstrip("?")
    return OpSchema.FormalParameter(name, _TYPES.get(plain, plain), param_option=chosen)
