"""Values inside a Program on real inputs, for passes that fit to activations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, fx

from gnnexport.program.program import Program, arguments_of, placeholder_names

T = TypeVar("T")


class _Observer(fx.Interpreter, Generic[T]):
    """Run a graph and keep what is made of the values of some of its nodes."""

    def __init__(self, module: fx.GraphModule, looks: Mapping[fx.Node, Callable[[Any], T]]) -> None:
        super().__init__(module)
        self._looks = looks
        self.found: dict[fx.Node, T] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self._looks:
            self.found[n] = self._looks[n](result)
        return result


def observe(
    program: Program, inputs: Mapping[str, Tensor], looks: Mapping[fx.Node, Callable[[Any], T]],
    structure: Sequence[Any] | None = None,
) -> dict[fx.Node, T]:  # fmt: skip
    """Run the body in evaluation mode and return what is made of the values of some nodes, which are let go on the way.

    Args:
        program: split.
        inputs: by name.
        looks: for nodes of the body, what makes of a value what is kept.
        structure: what `prepare` made of the graph, where it is made already.
    """
    observer = _Observer(program.body, looks)
    with torch.no_grad():
        made = program.structure(inputs) if structure is None else structure
        observer.run(*(inputs[item.name] for item in program.features), *made)
    return observer.found


def body_values(
    program: Program, inputs: Mapping[str, Tensor], wanted: Collection[fx.Node], structure: Sequence[Any]
) -> dict[fx.Node, Any]:
    """Run the body in evaluation mode and return what some nodes computed; all else is let go on the way.

    Args:
        program: split.
        inputs: features, by name.
        wanted: nodes of the body.
        structure: what `prepare` made of the graph.
    """
    return observe(program, inputs, dict.fromkeys(wanted, _itself), structure)


def prepared_values(program: Program, inputs: Mapping[str, Tensor], wanted: Collection[fx.Node]) -> dict[fx.Node, Any]:
    """Run `prepare` and return what some of its nodes computed.

    Args:
        program: split.
        inputs: by name.
        wanted: nodes of `prepare`.
    """
    assert program.prepare is not None
    observer = _Observer(program.prepare, dict.fromkeys(wanted, _itself))
    with torch.no_grad():
        observer.run(*arguments_of(inputs, placeholder_names(program.prepare)))
    return observer.found


def _itself(value: Any) -> Any:
    return value
