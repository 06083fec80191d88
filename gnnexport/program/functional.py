"""Rewrite a captured graph so that no op mutates, and make training a switch."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from gnnexport.errors import UnsupportedError
from gnnexport.program.dialect import dynamic as _dynamic  # noqa: F401  registers an op named below
from gnnexport.program.graphs import args_of, module_of

aten = torch.ops.aten
gnn = torch.ops.gnn

_TRAINING_ARGUMENT: dict[Any, int] = {aten.dropout.default: 2, aten.batch_norm.default: 5, gnn.protect.default: 4}
_NO_FUNCTIONAL_NAMESAKE: dict[Any, Any] = {
    aten.pow_.Scalar: aten.pow.Tensor_Scalar,
    aten.pow_.Tensor: aten.pow.Tensor_Tensor,
    aten.zero_.default: aten.zeros_like.default,
}
_UNDECLARED_VIEWS = {
    aten.dropout.default,
    aten.alpha_dropout.default,
    aten.feature_dropout.default,
    aten.feature_alpha_dropout.default,
    aten._unsafe_view.default,
    aten.type_as.default,
    operator.getitem,
}
"""What may return its argument, or share its memory, without saying so in its schema."""


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
    memory = _memory(graph)
    for node in list(graph.nodes):
        if not is_mutating(node):
            continue
        written = args_of(node)[0]
        if not isinstance(written, fx.Node) or _is_seen_elsewhere(written, node, memory, order):
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


def _memory(graph: fx.Graph) -> dict[fx.Node, frozenset[fx.Node]]:
    """Tell for each node which nodes' memory it may share; what makes new memory shares its own only."""
    memory: dict[fx.Node, frozenset[fx.Node]] = {}
    for node in graph.nodes:
        shared: frozenset[fx.Node] = frozenset()
        for item in _shared_arguments(node):
            shared |= memory[item]
        memory[node] = shared or frozenset([node])
    return memory


def _shared_arguments(node: fx.Node) -> list[fx.Node]:
    """Return the arguments whose memory the result may share: those of views, and what is written in place."""
    target = node.target
    if target in _UNDECLARED_VIEWS:
        return [item for item in args_of(node)[:1] if isinstance(item, fx.Node)]
    if not isinstance(target, torch._ops.OpOverload) or all(r.alias_info is None for r in target._schema.returns):
        return []
    shared: list[fx.Node] = []
    for given, declared in zip(args_of(node), target._schema.arguments, strict=False):
        if declared.alias_info is not None:
            fx.node.map_arg(given, shared.append)
    return shared


def _is_seen_elsewhere(
    written: fx.Node, writer: fx.Node, memory: dict[fx.Node, frozenset[fx.Node]], order: dict[fx.Node, int]
) -> bool:
    """Tell whether someone else would see the write through shared memory."""
    if any(base.op in ("placeholder", "get_attr") for base in memory[written]):
        return True
    return any(
        memory[other] & memory[written] and any(order[reader] > order[writer] for reader in other.users)
        for other in memory
        if other is not written and order[other] < order[writer]
    )


def set_training(module: fx.GraphModule, mode: bool) -> None:
    """Flip the training argument of every dropout and batch normalisation.

    A batch normalisation without running statistics normalises by those of the batch in either mode.
    """
    for node in module.graph.nodes:
        if node.target in _TRAINING_ARGUMENT and not normalises_by_batch(node):
            node.update_arg(_TRAINING_ARGUMENT[node.target], mode)
    module.recompile()


def normalises_by_batch(node: fx.Node) -> bool:
    """Tell whether a node is a batch normalisation without running statistics."""
    return node.target is aten.batch_norm.default and args_of(node)[3] is None


def training_argument(node: fx.Node) -> bool | None:
    """Return the training argument of what behaves differently in training, and `None` for all else."""
    position = _TRAINING_ARGUMENT.get(node.target)
    if position is None or normalises_by_batch(node):
        return None
    if node.target is aten.dropout.default and args_of(node)[1] == 0:
        return None
    return bool(args_of(node)[position])


def training_arguments_cleared(node: fx.Node) -> tuple[Any, ...]:
    """Return a node's arguments without its training argument, to compare two captures."""
    position = _TRAINING_ARGUMENT.get(node.target)
    return tuple(None if i == position else argument for i, argument in enumerate(args_of(node)))
