"""Small questions about fx graphs that several parts ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx


def module_of(node: fx.Node) -> str:
    """Name the PyTorch module a node was captured from, such as `convs.0 (GCNConv)`."""
    names = modules_of(node)
    return names[-1] if names else "forward"


def modules_of(node: fx.Node) -> list[str]:
    """Name every PyTorch module that a node was captured inside of, the outermost first."""
    names = []
    for path, cls in (node.meta.get("nn_module_stack") or {}).values():
        cls_name = cls if isinstance(cls, str) else cls.__name__
        path = path.removeprefix("forward.__self__").removeprefix(".")  # as the compiler of bytecode calls the model
        stands_for_none = cls_name.startswith("_empty_nn_module_stack")
        names.append("forward" if stands_for_none else f"{path or 'model'} ({cls_name.rsplit('.', 1)[-1]})")
    return names


def parameter_of(module: torch.nn.Module, node: Any) -> Tensor | None:
    """Return the tensor behind a `get_attr` node, else `None`."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, Tensor) else None


def args_of(node: fx.Node) -> tuple[Any, ...]:
    """Return a node's positional arguments; fx types each as a union of a dozen types."""
    return node.args


def calls(graph: fx.Graph, *targets: Any) -> Iterator[fx.Node]:
    """Iterate over the nodes that call one of the targets."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in targets:
            yield node


def is_random(node: fx.Node) -> bool:
    """Tell whether a node draws random numbers, at least in training."""
    target: Any = node.target
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


def output_node(graph: fx.Graph) -> fx.Node:
    """Return the node that returns."""
    last: fx.Node = next(iter(reversed(graph.nodes)))
    return last


def rebuild(module: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """Make a module of a graph with just the parameters it reads."""
    return fx.GraphModule(module, graph, class_name=module.__class__.__name__)


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """Return an argument that may be given by position or by name."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def add_parameter(module: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
    """Register a new parameter under a free name and insert the node that reads it at the insertion point."""
    taken = {key.partition(".")[0] for key in module.state_dict()} | set(dir(module))
    free = next(candidate for i in range(len(taken) + 1) if (candidate := f"{name}_{i}") not in taken)
    module.register_parameter(free, torch.nn.Parameter(value.detach().clone()))
    return module.graph.get_attr(free)


def replace_tensor(module: fx.GraphModule, node: fx.Node, value: Tensor) -> None:
    """Give the parameter or buffer that a `get_attr` node reads a new value, of another shape if need be."""
    *path, name = str(node.target).split(".")
    owner: Any = module
    for part in path:
        owner = getattr(owner, part)
    old = getattr(owner, name)
    if isinstance(old, torch.nn.Parameter):
        setattr(owner, name, torch.nn.Parameter(value.detach().clone(), requires_grad=old.requires_grad))
    else:
        setattr(owner, name, value.detach().clone())
