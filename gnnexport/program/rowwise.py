"""Find out by trial whether an op treats the rows of its arguments alike: permuting them permutes its result.

A list of such ops would never be complete, and the answer often hangs on arguments: a softmax over channels treats rows
alike, one over rows does not. So the op is run on random values of the shapes that were recorded.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from gnnexport.program.graphs import args_of, is_random
from gnnexport.program.quantised import ROUNDINGS
from gnnexport.program.shapes import DTYPE, NUMBERS, SHAPES, rank_of, shape_of, sizes_of

gnn = torch.ops.gnn


def commuting_arguments(node: fx.Node, rows: tuple[int, ...] | None) -> frozenset[fx.Node] | None:
    """Return the arguments of a call of ATen whose rows to permute so that the result's are; `None` if there are none.

    Args:
        node: annotated, with `rows` rows; an item of a call with several results stands for the call.
        rows: number of rows in every run that shapes were recorded in.
    """
    call = args_of(node)[0] if node.target is operator.getitem else node
    if not isinstance(call, fx.Node) or not _is_plain(call) or rows is None:
        return None
    if min(rows) < 2:  # there is no other order of one row to try
        return None
    having = [item for item in call.all_input_nodes if item.op != "get_attr" and sizes_of(item, 0) == rows]
    highest = max((rank_of(item) for item in having), default=0)
    # A tensor of lower rank may be broadcast: then its first dimension is not the rows.
    for chosen in (frozenset(having), frozenset(item for item in having if rank_of(item) == highest)):
        if chosen and all(_commutes(node, call, chosen, run) for run in range(len(rows))):
            return chosen
    return None


def _is_plain(call: fx.Node) -> bool:
    target: Any = call.target
    if target in ROUNDINGS:
        # Of several steps a row takes the one at its place, which is another one among other rows.
        return target is not gnn.quantize_rows.default or math.prod(shape_of(args_of(call)[1]) or ()) == 1
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return False
    return not target._schema.is_mutable and not is_random(call)


def _commutes(node: fx.Node, call: fx.Node, chosen: Iterable[fx.Node], run: int) -> bool:
    generator = torch.Generator().manual_seed(run)
    values = {item: _value(item, run, generator) for item in call.all_input_nodes}
    if any(value is None for value in values.values()):
        return False
    order = torch.randperm(node.meta[SHAPES][run][0], generator=generator)
    permuted = {item: value[order] if item in set(chosen) else value for item, value in values.items()}
    try:
        with torch.no_grad():
            before, after = _run(node, call, values), _run(node, call, permuted)
    except (RuntimeError, IndexError):
        return False
    if before.shape != after.shape or before.shape != node.meta[SHAPES][run]:
        return False
    return torch.allclose(before[order].double(), after.double(), rtol=1e-4, atol=1e-5, equal_nan=True)


def _value(item: fx.Node, run: int, generator: torch.Generator) -> Any:
    if NUMBERS in item.meta:
        return item.meta[NUMBERS][run]
    if SHAPES not in item.meta:
        return None
    shape, dtype = item.meta[SHAPES][run], item.meta[DTYPE]
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator, dtype=dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def _run(node: fx.Node, call: fx.Node, values: dict[fx.Node, Any]) -> Tensor:
    target: Any = call.target
    args, kwargs = fx.node.map_arg((call.args, call.kwargs), values.__getitem__)
    result = target(*args, **kwargs)
    return result if node is call else result[args_of(node)[1]]  # type: ignore[no-any-return]


def is_row_local(node: fx.Node, having: Collection[fx.Node]) -> bool:
    """Tell whether each row of a result depends on the same row of its arguments alone, by trial.

    Args:
        node: annotated call of ATen.
        having: its arguments that have rows.
    """
    call = args_of(node)[0] if node.target is operator.getitem else node
    if not isinstance(call, fx.Node) or not _is_plain(call):
        return False
    return all(_keeps_to_rows(node, call, having, run) for run in range(len(node.meta.get(SHAPES, ()))))


def _keeps_to_rows(node: fx.Node, call: fx.Node, having: Collection[fx.Node], run: int) -> bool:
    """Change every row but two, and see whether the results of these change."""
    generator = torch.Generator().manual_seed(run)
    values = {item: _value(item, run, generator) for item in call.all_input_nodes}
    rows = node.meta[SHAPES][run][0] if node.meta[SHAPES][run] else 0
    if any(value is None for value in values.values()) or any(len(values[item]) != rows for item in having):
        return False
    kept = torch.tensor([rows // 2, 0])[: min(rows, 2)]  # the middle row alone would not tell an order reversed
    changed = dict(values)
    for item in having:
        other = _value(item, run, generator)
        other[kept] = values[item][kept]
        changed[item] = other
    with torch.no_grad():
        before, after = _run(node, call, values), _run(node, call, changed)
    return torch.allclose(before[kept].double(), after[kept].double(), rtol=1e-5, atol=1e-6, equal_nan=True)
