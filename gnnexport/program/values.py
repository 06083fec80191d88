"""Values inside a Program on real inputs, for passes that fit to activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from gnnexport.program.program import Program


def body_values(program: Program, inputs: Mapping[str, Tensor]) -> dict[fx.Node, Any]:
    """Run the body in evaluation mode and return what each node computed.

    All of it is held at once: [num_nodes, channels] for every op.
    """
    interpreter = fx.Interpreter(program.body, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(*(inputs[item.name] for item in program.features), *program.structure(inputs))
    return interpreter.env
