"""Shapes of every value in a graph, found by running it on small graphs of two sizes.

Symbolic shapes from the capture do not survive rewriting: two layers that filter the same edges get
two unrelated symbols. Two runs tell which sizes move together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

SHAPES = "shapes"
DTYPE = "dtype"
NUMBERS = "numbers"
"""Key of the values of a plain number, such as a size, in every run."""


class _Recorder(fx.Interpreter):
    """Run a graph and keep the shape of every tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.dtypes: dict[fx.Node, torch.dtype] = {}
        self.numbers: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
            self.dtypes[n] = result.dtype
        elif isinstance(result, int):
            self.numbers[n] = result
        return result


def annotate(module: fx.GraphModule, runs: Sequence[Sequence[Any]]) -> None:
    """Record shapes and dtype of every tensor node in its `meta`, and the values of every plain number.

    Args:
        module: the graph.
        runs: positional inputs of the graph, one list for each size of example graph.
    """
    recorders = []
    for inputs in runs:
        recorder = _Recorder(module)
        with torch.no_grad():
            recorder.run(*inputs)
        recorders.append(recorder)
    for node in module.graph.nodes:
        if node in recorders[0].shapes:
            node.meta[SHAPES] = tuple(recorder.shapes[node] for recorder in recorders)
            node.meta[DTYPE] = recorders[0].dtypes[node]
        elif node in recorders[0].numbers:
            node.meta[NUMBERS] = tuple(recorder.numbers[node] for recorder in recorders)


def record_shapes(module: fx.GraphModule, inputs: Sequence[Any]) -> dict[fx.Node, tuple[int, ...]]:
    """Return the shape of every tensor node for these inputs, computing only where a size depends on values."""
    recorder = _Recorder(module)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            recorder.run(*(mode.from_tensor(value) if isinstance(value, Tensor) else value for value in inputs))
    except (DynamicOutputShapeException, DataDependentOutputException):
        recorder = _Recorder(module)
        with torch.no_grad():
            recorder.run(*inputs)
    return recorder.shapes


def shape_of(node: Any) -> tuple[int, ...] | None:
    """Return a tensor node's shape in the first run; `None` for what is not a tensor node."""
    shapes = node.meta.get(SHAPES) if isinstance(node, fx.Node) else None
    return None if shapes is None else shapes[0]


def rank_of(node: Any) -> int:
    """Return a tensor node's number of dimensions, zero for what is not a tensor node."""
    return len(shape_of(node) or ())


def sizes_of(node: Any, axis: int) -> tuple[int, ...] | None:
    """Return one size of a tensor node in every run; two equal answers are the same dynamic size."""
    shapes = node.meta.get(SHAPES) if isinstance(node, fx.Node) else None
    if not shapes or len(shapes[0]) <= axis or axis < -len(shapes[0]):
        return None
    return tuple(shape[axis] for shape in shapes)


def is_scalar(value: Any) -> bool:
    """Tell whether an argument is a single number."""
    return isinstance(value, int | float) or shape_of(value) in ((), (1,))


def like(node: fx.Node, other: fx.Node) -> fx.Node:
    """Give `node` the annotations of a value of the same shape; returns it."""
    node.meta = dict(other.meta)
    return node
