"""Find out how far a quantised Program may differ where values lie on the border between two levels.

The Program is run in PyTorch with noise of the size of float32's own in front of every quantiser: the rows that
change by more than the tolerance are those that another order of the same sums may change. How far they may change is
seen by moving some levels of every operand by one. A rule that leaves out small messages has such a border, too: what
is near it is let in and left out by turns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx

from gnnexport.bundle.golden import Flips
from gnnexport.bundle.manifest import TOLERANCE
from gnnexport.program.dialect.dynamic import dynamic_step
from gnnexport.program.dialect.quantize import LEAST_STEP, along_columns, along_rows, nearest_groups
from gnnexport.program.edge_rules import is_decision
from gnnexport.program.inputs import Input
from gnnexport.program.program import Program, arguments_of
from gnnexport.program.quantised import ROUNDINGS

NOISE = 1e-6
"""Of a row's largest magnitude: some times what sums in another order differ by."""

RUNS = 3

MOVED = 1 / 16
"""Share of levels that are moved by one to see what that leads to."""

LEAST_SHARE = 1e-3
"""Share of rows that may differ even where noise changed none."""

NEAR = 0.05
"""Of a threshold: messages whose norm is so near to it may be on either side when it is seen what that leads to."""

SPARE = 2.0
"""Times what was seen that is allowed."""

gnn = torch.ops.gnn


def rounds_values(program: Program) -> bool:
    """Tell whether anything but weights is rounded to levels on the way through a Program."""
    return any(_rounds(node) for node in program.body.graph.nodes)


def find_flips(
    program: Program, inputs: Mapping[str, Tensor], structure: Sequence[Any], output: Tensor, *, seed: int = 0
) -> Flips | None:
    """Return what may differ in the answer to a request; `None` where nothing is quantised.

    Args:
        program: in evaluation mode.
        inputs: of the request.
        structure: values of its graph.
        output: of the Program.
        seed: of the noise.
    """
    if not rounds_values(program) or output.numel() == 0:
        return None
    given: Sequence[Input] = program.inputs if program.prepare is None else program.features
    arguments = [*arguments_of(inputs, [item.name for item in given]), *structure]

    def errors(what: Literal["noise", "levels"], run: int) -> Tensor:
        with torch.no_grad():
            other = _Moved(program.body, what, seed + run).run(*arguments)
        scale = output.abs().max().clamp(min=1e-6)
        found: Tensor = (other - output).abs().reshape(len(output), -1).amax(1) / scale
        return found

    changed = max(int((errors("noise", run) > TOLERANCE).sum()) for run in range(RUNS))
    largest = max(float(errors("levels", run).max()) for run in range(RUNS))
    share = min(1.0, SPARE * changed / len(output) + LEAST_SHARE)
    return Flips(share, max(SPARE * largest, TOLERANCE))


def _rounds(node: fx.Node) -> bool:
    """Tell whether a node rounds values, rather than weights, which are rounded once for all, or decides by them."""
    return is_decision(node) or (node.target in ROUNDINGS and not _is_constant(node.args[0]))


def _is_constant(value: Any) -> bool:
    """Tell whether a value is made of parameters alone."""
    if not isinstance(value, fx.Node):
        return True
    return value.op != "placeholder" and all(map(_is_constant, value.all_input_nodes))


class _Moved(fx.Interpreter):
    """Run a body with what is rounded, or with its levels, moved a little."""

    def __init__(self, body: fx.GraphModule, what: Literal["noise", "levels"], seed: int) -> None:
        super().__init__(body)
        self.what = what
        self.draw = torch.Generator().manual_seed(seed)

    def run_node(self, n: fx.Node) -> Any:
        if not _rounds(n):
            return super().run_node(n)
        (x, *given), _ = self.fetch_args_kwargs_from_env(n)
        if self.what == "noise":
            drawn = torch.rand(x.shape, generator=self.draw, dtype=x.dtype) * 2 - 1
            x = x + drawn * NOISE * _largest(x)
        result = n.target(x, *given)  # type: ignore[operator]
        if self.what == "noise":
            return result
        drawn = torch.rand(x.shape, generator=self.draw, dtype=x.dtype)
        if is_decision(n):
            near = (x - given[0]).abs() < NEAR * given[0].abs()
            return result ^ (near & (drawn < 1 / 2))
        sign = (drawn < MOVED / 2).to(x.dtype) - (drawn > 1 - MOVED / 2).to(x.dtype)
        return result + sign * _step(n.target, x, *given)


def _largest(x: Tensor) -> Tensor:
    """Return the largest magnitude of each row, as it is broadcast against the rows."""
    flat = x.abs().reshape(len(x), math.prod(x.shape[1:]))
    largest: Tensor = flat.amax(1) if flat.shape[1] else x.new_zeros(len(x))
    return largest.view(-1, *[1] * (x.dim() - 1))


def _step(op: Any, x: Tensor, *given: Any) -> Tensor:
    """Return the distance of two levels, as it is broadcast against what is rounded."""
    if op is gnn.quantize_dynamic.default:
        return dynamic_step(x, *given[:3])
    step: Tensor = given[0].clamp(min=LEAST_STEP)
    if op is gnn.quantize_columns.default:
        return along_columns(step, x)
    if op is gnn.quantize_nearest.default:
        step = step[nearest_groups(x, *given[:3])]
    return along_rows(step, x)
