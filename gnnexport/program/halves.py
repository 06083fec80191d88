"""Numbers of 16 bits in a Program: weights rounded to them in place, and rows rounded before they are gathered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, fx

from gnnexport.program.graphs import args_of, calls, parameter_of, rebuild, replace_tensor
from gnnexport.program.program import Program
from gnnexport.program.quantised import ROUNDINGS, constant_of
from gnnexport.program.shapes import DTYPE, like, rank_of
from gnnexport.program.values import observe

aten = torch.ops.aten
gnn = torch.ops.gnn

Half = Literal["bf16", "fp16"]

DTYPES: Mapping[Half, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}

FEWEST = 256
"""Numbers from which storing them in half the bytes outweighs the node of a file that widens them."""


def matrices(program: Program) -> list[fx.Node]:
    """Return the nodes that read weights worth rounding: of float32, with two dimensions or more, not quantised."""
    found = {}
    rounded = {constant_of(args_of(node)[0]) for node in calls(program.body.graph, *ROUNDINGS)}
    for node in program.body.graph.nodes:
        value = parameter_of(program.body, node)
        wanted = isinstance(value, torch.nn.Parameter) and value.dtype == torch.float32 and value.dim() > 1
        if wanted and node not in rounded:
            found[str(node.target)] = node
    return list(found.values())


def round_matrices(program: Program, half: Half) -> int:
    """Round weights in place, each to the nearest number of 16 bits; return how many numbers that were.

    They stay float32: what follows is free to change them, and a file stores whatever 16 bits hold exactly in 16 bits.
    """
    numbers = 0
    for node in matrices(program):
        value = parameter_of(program.body, node)
        assert value is not None
        replace_tensor(program.body, node, value.detach().to(DTYPES[half]).float())
        numbers += value.numel()
    return numbers


def gathered_rows(program: Program) -> list[fx.Node]:
    """Return the values whose rows are gathered and reduced: of float32, annotated, neither quantised nor rounded."""
    values = dict.fromkeys(args_of(node)[0] for node in calls(program.body.graph, gnn.aggregate.default))
    return [
        value
        for value in values
        if isinstance(value, fx.Node)
        and rank_of(value) > 1
        and value.meta[DTYPE] == torch.float32
        and value.target not in ROUNDINGS
        and half_of(value) is None
    ]


def round_rows(program: Program, values: Iterable[fx.Node], half: Half) -> None:
    """Let every reduction of gathered rows read these values rounded to 16 bits; who else reads them does as before."""
    graph = program.body.graph
    for value in values:
        with graph.inserting_after(value):
            narrow = graph.call_function(aten._to_copy.default, (value,), {"dtype": DTYPES[half]})
        with graph.inserting_after(narrow):
            wide = like(graph.call_function(aten._to_copy.default, (narrow,), {"dtype": torch.float32}), value)
        narrow.meta = {**value.meta, DTYPE: DTYPES[half]}
        for reader in [user for user in value.users if user.target is gnn.aggregate.default]:
            if args_of(reader)[0] is value:
                reader.update_arg(0, wide)
    program.body = rebuild(program.body, graph)


def half_of(value: Any) -> Half | None:
    """Tell what a value of float32 was rounded to by `round_rows`, if it was."""
    if not _is_copy(value, torch.float32):
        return None
    return next((half for half, dtype in DTYPES.items() if _is_copy(args_of(value)[0], dtype)), None)


def _is_copy(value: Any, dtype: torch.dtype) -> bool:
    return (
        isinstance(value, fx.Node) and value.target is aten._to_copy.default and dict(value.kwargs) == {"dtype": dtype}
    )


def largest_magnitudes(
    program: Program, values: Iterable[fx.Node], inputs: Mapping[str, Tensor]
) -> dict[fx.Node, float]:
    """Return the largest magnitude of values of the body on a graph; the Program is split and in evaluation mode."""
    return observe(program, inputs, dict.fromkeys(values, _largest))


def _largest(value: Tensor) -> float:
    return float(value.abs().max()) if value.numel() else 0.0
