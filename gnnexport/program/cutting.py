"""Take channels out of a graph: the sizes that are written into it, and the tensors that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from gnnexport.program.graphs import args_of, argument, parameter_of, replace_tensor
from gnnexport.program.label_rules import CREATIONS, RESHAPES

aten = torch.ops.aten

Mask = NDArray[np.bool_]
Masks = Mapping[fx.Node, Mask]
"""For every value, which of its entries stay; one in place of its rows."""


def rectangle(mask: Mask) -> tuple[int, ...]:
    """Return the shape of what a mask leaves of a table: rows that are left, and entries of each of them.

    Raises:
        ValueError: rows keep different numbers of entries.
    """
    if mask.ndim <= 1:
        return (int(mask.sum()),) * mask.ndim
    rows = [rectangle(row) for row in mask if row.any()] or [(0,) * (mask.ndim - 1)]
    if len(set(rows)) > 1:
        raise ValueError("heads keep different numbers of channels")
    return (int(mask.reshape(len(mask), -1).any(1).sum()), *rows[0])


def replace_everywhere(body: fx.GraphModule, node: fx.Node, value: Tensor) -> Tensor:
    """Give a parameter a new value under all of its names, and return what is stored."""
    old = parameter_of(body, node)
    if old is value:
        return value
    twins = [other for other in body.graph.nodes if other.op == "get_attr" and parameter_of(body, other) is old]
    replace_tensor(body, node, value)
    new = parameter_of(body, node)
    assert new is not None
    for name in {str(other.target) for other in twins} - {str(node.target)}:
        *path, last = name.split(".")
        owner: Any = body
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, new)
    return new


def cut_node(node: fx.Node, masks: Masks) -> None:
    """Write the new sizes into a call."""
    rule = _RULES.get(node.target)
    if rule is not None:
        rule(node, masks)


def _resize(position: int) -> Callable[[fx.Node, Masks], None]:
    def resize(node: fx.Node, masks: Masks) -> None:
        sizes = list(args_of(node)[position])
        for axis, size in enumerate(rectangle(masks[node])):
            before = masks[node].shape[axis]
            if isinstance(sizes[axis], int) and sizes[axis] == before and (axis or before > 1):
                sizes[axis] = size
        node.update_arg(position, sizes)

    return resize


def _layer_norm(node: fx.Node, masks: Masks) -> None:
    node.update_arg(1, [int(masks[node].sum())])


def _slice(node: fx.Node, masks: Masks) -> None:
    source: Any = args_of(node)[0]
    if argument(node, 1, "dim", 0) % 2 == 0:
        return
    kept = masks[source].reshape(-1)
    start, _, _ = slice(argument(node, 2, "start"), argument(node, 3, "end")).indices(len(kept))
    first = int(kept[:start].sum())
    node.args = (source, 1, first, first + int(masks[node].sum()))
    node.kwargs = {}


def _select(node: fx.Node, masks: Masks) -> None:
    source, dim, position = args_of(node)
    axis = dim % masks[source].ndim
    if axis:
        entries = masks[source].swapaxes(0, axis)
        before = entries[: position % len(entries)]
        node.update_arg(2, sum(bool(entry.any()) for entry in before))


def _split_with_sizes(node: fx.Node, mask: Mask) -> None:
    sizes = list(args_of(node)[1])
    ends = np.cumsum(sizes)
    kept = [int(mask[end - size : end].sum()) for size, end in zip(sizes, ends, strict=True)]
    node.update_arg(1, kept)


_RULES: dict[Any, Callable[[fx.Node, Masks], None]] = {
    **dict.fromkeys(RESHAPES, _resize(1)),
    **{target: _resize(position) for target, position in CREATIONS.items()},
    aten.layer_norm.default: _layer_norm,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
}


def cut_splits(body: fx.GraphModule, masks: Masks) -> None:
    """Write the new sizes into the splits of a body; a split makes several values and has no mask of its own."""
    for node in body.graph.nodes:
        if node.target is aten.split_with_sizes.default and args_of(node)[0] in masks:
            mask = masks[args_of(node)[0]].reshape(-1)
            if not mask.all() and sum(args_of(node)[1]) == len(mask):
                _split_with_sizes(node, mask)
