"""Values inside a Program on real inputs, for passes that fit to activations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from gnnexport.program.program import Program


class _Keeper(fx.Interpreter):
    """Run a graph and keep what some of its nodes compute."""

    def __init__(self, module: fx.GraphModule, wanted: Collection[fx.Node]) -> None:
        super().__init__(module)
        self._wanted = frozenset(wanted)
        self.kept: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self._wanted:
            self.kept[n] = result
        return result


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
    keeper = _Keeper(program.body, wanted)
    with torch.no_grad():
        keeper.run(*(inputs[item.name] for item in program.features), *structure)
    return keeper.kept
