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
REDUCE_EDGES = "ReduceEdges"
EDGE_SOFTMAX = "EdgeSoftmax"
GATHER_SOURCE = "GatherSource"
GATHER_DESTINATION = "GatherDestination"

_FLOATS = ("T", ["tensor(float)", "tensor(double)", "tensor(float16)", "tensor(bfloat16)"], "features")
_INDICES = ("I", ["tensor(int64)", "tensor(int32)"], "indices")


@functools.cache
def register() -> None:
    """Tell onnx about the dialect's operators; a second call does nothing."""
    reduce = OpSchema.Attribute("reduce", OpSchema.AttrType.STRING, "sum, mean, max, min or prod", required=True)
    _register(CSR, ["dst:I", "num_dst:I"], [], outputs=["rowptr:I", "perm:I"])
    _register(AGGREGATE, ["x:T", "rowptr:I", "col:I", "weight:T?"], [reduce])
    _register(REDUCE_EDGES, ["messages:T", "rowptr:I"], [reduce])
    _register(EDGE_SOFTMAX, ["logits:T", "rowptr:I"], [])
    _register(GATHER_SOURCE, ["x:T", "col:I"], [])
    _register(GATHER_DESTINATION, ["x:T", "rowptr:I"], [])


def _register(
    name: str, inputs: list[str], attributes: list[OpSchema.Attribute], outputs: Sequence[str] = ("out:T",)
) -> None:
    texts = (*inputs, *outputs)
    constraints = [item for item in (_FLOATS, _INDICES) if any(item[0] in text.partition(":")[2] for text in texts)]
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
    return OpSchema.FormalParameter(name, kind.rstrip("?"), param_option=chosen)
