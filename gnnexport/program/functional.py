"""Rewrite a captured graph so that no op mutates, and make training a switch."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from gnnexport.errors import UnsupportedError
from gnnexport.program.graphs import args_of, module_of

aten = torch.ops.aten

_TRAINING_ARGUMENT: dict[Any, int] = {aten.dropout.default: 2, aten.batch_norm.default: 5}
_NO_FUNCTIONAL_NAMESAKE: dict[Any, Any] = {
    aten.pow_.Scalar: aten.pow.Tensor_Scalar,
    aten.pow_.Tensor: aten.pow.Tensor_Tensor,
    aten.zero_.default: aten.zeros_like.default,
}
_VIEWS = {
    aten.view.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.transpose.int,
    aten.permute.default,
    aten.expand.default,
    aten.alias.default,
    aten.detach.default,
}


def is_mutating(node: fx.Node) -> bool:
    """Tell whether a node writes to one of its arguments; batch normalisation's statistics do not count."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def functionalise(graph: fx.Graph) -> None:
    """Replace each mutating op by its functional twin and let later readers read the new value.

    Raises:
        UnsupportedError: where an op without a twin, or a write through a view, is met.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if not is_mutating(node):
            continue
        written = args_of(node)[0]
        if not isinstance(written, fx.Node) or _writes_through_view(written, node, order):
            raise UnsupportedError.at(
                module_of(node), f"{node.target} writes in place through a view", "Write x = x.op(…) in the model"
            )
        node.target = _functional_twin(node)
        for reader in list(written.users):
            if order.get(reader, -1) > order[node]:
                reader.replace_input_with(written, node)


def _functional_twin(node: fx.Node) -> Any:
    target: Any = node.target
    if target in _NO_FUNCTIONAL_NAMESAKE:
        return _NO_FUNCTIONAL_NAMESAKE[target]
    namespace, _, name = target._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    overload = getattr(packet, target._overloadname, None) if packet is not None and name.endswith("_") else None
    if overload is None or overload._schema.is_mutable:
        raise UnsupportedError.at(
            module_of(node), f"{target} writes in place and has no functional form", "Replace it in the model"
        )
    return overload


def _writes_through_view(written: fx.Node, writer: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Tell whether someone else would see the write through shared memory."""
    base = written
    while base.target in _VIEWS and isinstance(args_of(base)[0], fx.Node):
        base = args_of(base)[0]
    if base.op in ("placeholder", "get_attr"):
        return True
    others = set(base.users) | (set(written.users) if written is not base else set())
    later_views = any(
        user.target in _VIEWS
        and user is not written
        and order[user] < order[writer]
        and any(order[reader] > order[writer] for reader in user.users)
        for user in others
    )
    later_base = written is not base and any(order[user] > order[writer] for user in base.users)
    return later_views or later_base


def set_training(module: fx.GraphModule, mode: bool) -> None:
    """Flip the training argument of every dropout and batch normalisation."""
    for node in module.graph.nodes:
        position = _TRAINING_ARGUMENT.get(node.target)
        if position is not None:
            node.update_arg(position, mode)
    module.recompile()


def training_arguments_cleared(node: fx.Node) -> tuple[Any, ...]:
    """Return a node's arguments without its training argument, to compare two captures."""
    position = _TRAINING_ARGUMENT.get(node.target)
    return tuple(None if i == position else argument for i, argument in enumerate(args_of(node)))
