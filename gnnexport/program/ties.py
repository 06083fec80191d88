"""The order of equal values, which PyTorch leaves open where it sorts unless it is asked to keep it.

Which of them comes first depends on how many there are and on the processor, and answers may hang on it: features after
a ReLU hold many zeros. Of all answers that PyTorch may give, the one that keeps the order is the same everywhere, and
the one that ONNX gives. So it is what a capture computes, and what the model is asked for when the two are compared.

`torch.topk` is left alone: it takes no wish for an order, and a sort in its place would rank everything for a few, more
than TensorRT ranks at all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from gnnexport.program.graphs import args_of

aten = torch.ops.aten

_STABLE = {
    aten.sort.default: aten.sort.stable,
    aten.sort.stable: aten.sort.stable,
    aten.argsort.default: aten.argsort.stable,
    aten.argsort.stable: aten.argsort.stable,
}
_SORTS = (torch.sort, Tensor.sort, torch.argsort, Tensor.argsort)
_NAMES = ("dim", "descending")


class TiesInOrder(TorchFunctionMode):
    """Let whatever sorts keep the order of equal values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _SORTS and not kwargs.get("stable"):
            named = dict(zip(_NAMES, args[1:], strict=False))
            return func(*args[:1], **{**named, **kwargs, "stable": True})  # what is sorted may be named as well
        return func(*args, **kwargs)


def keep_ties_in_order(graph: fx.Graph) -> None:
    """Let every sort of a captured graph keep the order of equal values."""
    for node in graph.nodes:
        if node.target in _STABLE:
            values, *others = args_of(node)
            node.kwargs = {**dict(zip(_NAMES, others, strict=False)), **node.kwargs, "stable": True}
            node.target, node.args = _STABLE[node.target], (values,)
