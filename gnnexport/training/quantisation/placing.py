"""Put calibrated quantisers on the operands of a Program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gnnexport.program.containers import CONTAINERS
from gnnexport.program.factored import factor_weights
from gnnexport.program.program import Program
from gnnexport.program.quantised import By, Operand, find_operands, insert
from gnnexport.program.values import body_values
from gnnexport.training.parts import Part
from gnnexport.training.quantisation.calibration import best_steps, calibrate, exact_rows, group_steps

Assign = Literal["node", "nearest"]
Inputs = Literal["none", "exact", "rows"]

MOST_ROWS = 200_000
"""Looked at where steps are not of single nodes."""


@dataclass(frozen=True)
class Placement:
    """How a Program is rounded.

    Args:
        bits: that the inputs of products start from.
        weight_bits: of weights and attention vectors, by output channel and head.
        sum_bits: of what is aggregated, by column.
        score_bits: of the scores of attention, by head; 0 leaves them.
        assign: whether each node has its own step and width, or takes those of the nearest group.
        groups: at most so many for each operand.
        inputs: whether features are rounded too.
        local: features learn from their own error instead of the task's.
        containers: widths that may be stored.
    """

    bits: float
    weight_bits: int = 4
    sum_bits: int = 4
    score_bits: int = 8
    assign: Assign = "node"
    groups: int = 1000
    inputs: Inputs = "none"
    local: bool = True
    containers: tuple[int, ...] = CONTAINERS


@dataclass(frozen=True)
class Placed:
    """A Program with quantisers.

    Args:
        program: annotated.
        notes: about what was left as it is.
    """

    program: Program
    notes: tuple[str, ...]


def factored(program: Program) -> tuple[Program, int]:
    """Return a copy whose sums are plain where edge weights allow it, annotated, and how many became so."""
    program = program.clone().train(False)
    program.annotate()
    count = factor_weights(program)
    program.annotate()
    return program, count


def place(program: Program, parts: Sequence[Part], how: Placement) -> Placed:
    """Round the operands of a copy of a Program, each with the steps that suit its values on some data.

    Args:
        program: split.
        parts: of the data, made for this Program; where nodes have their own steps the whole graph, once.
        how: see there.
    """
    program = program.clone().train(False)
    program.annotate()
    notes = []
    chosen: list[Operand] = []
    left: list[Operand] = []
    for item in find_operands(program):
        (chosen if _is_wanted(item, how) else left).append(item)
    if rest := [item.name for item in left if item.what in ("input", "sum")]:
        notes.append(f"left in float32: {', '.join(rest)}")
    values = _values(program, parts, [item for item in chosen if item.what in ("input", "sum", "scores")], how)
    for operand in chosen:
        rows = values.get(operand.name)
        if operand.raw and operand.what == "input" and how.inputs == "exact":
            notes.append(_insert_exact(program, operand, rows, how))
        elif rows is None:
            _insert_constant(program, operand, how)
        else:
            _insert_value(program, operand, rows, how)
    program.annotate()
    return Placed(program, tuple(notes))


def _is_wanted(operand: Operand, how: Placement) -> bool:
    if operand.what == "scores":
        return how.score_bits > 0
    if not operand.raw:
        return True
    if operand.what in ("weight", "attention"):
        return True
    exact = how.inputs == "exact" and operand.what == "input" and operand.value.op == "placeholder"
    return exact or how.inputs == "rows"


def _values(program: Program, parts: Sequence[Part], operands: Sequence[Operand], how: Placement) -> dict[str, Tensor]:
    """Return what operands are on data, float32 [rows, columns]; where rows have no steps of their own, some rows."""
    kept: dict[str, list[Tensor]] = {item.name: [] for item in operands}
    for part in parts:
        found = body_values(program, part.inputs, [item.value for item in operands], part.structure)
        for item in operands:
            rows = found[item.value].reshape(len(found[item.value]), item.width)
            kept[item.name].append(rows if _by(item, how) == "rows" else _some(rows))
    return {name: torch.cat(rows) for name, rows in kept.items() if rows}


def _by(operand: Operand, how: Placement) -> By:
    """Return what has a step of its own in a value."""
    if operand.what != "input":
        return "columns"
    return "rows" if how.assign == "node" and operand.of_nodes else "nearest"


def _insert_constant(program: Program, operand: Operand, how: Placement) -> None:
    value = program.body.get_parameter(str(operand.value.target))
    matrix = value.detach().reshape(operand.rows, operand.width)
    bits = torch.tensor([float(how.weight_bits)])
    step = best_steps(matrix, bits, signed=True)
    insert(program, operand, step, bits, by="rows", signed=True)


def _insert_value(program: Program, operand: Operand, rows: Tensor, how: Placement) -> None:
    signed, by = operand.signed, _by(operand, how)
    wide = max(how.bits, 2.0) if signed else how.bits
    if operand.raw:  # no width is learned for features: theirs is one that is stored
        wide = float(next((width for width in how.containers if width >= wide), how.containers[-1]))
    if by == "rows":
        bits = torch.full((len(rows),), wide)
        step = best_steps(rows, bits, signed=signed)
    elif by == "nearest":
        step = group_steps(rows, wide, how.groups, signed=signed)
        bits = torch.full((len(step),), wide)
    else:
        bits = torch.tensor([float(how.score_bits if operand.what == "scores" else how.sum_bits)])
        step = calibrate(rows, bits, signed=signed, groups="columns")
    insert(program, operand, step, bits, by=by, local=how.local, signed=signed)


def _insert_exact(program: Program, operand: Operand, rows: Tensor | None, how: Placement) -> str:
    """Round features where that changes none, and return what was done."""
    if rows is None or how.assign != "node" or not operand.of_nodes:
        return f"left in float32: {operand.name}, for only the rows of known nodes can be checked"
    signed = bool((rows < 0).any())
    found = exact_rows(rows, how.containers, signed=signed)
    if found is None:
        return f"left in float32: {operand.name}, for not every row is exactly representable"
    insert(program, operand, *found, by="rows", local=how.local, signed=signed)
    return f"{operand.name}: every row of the features is represented exactly, {float(found[1].mean()):.2f} bits"


def _some(rows: Tensor) -> Tensor:
    """Return no more rows of a part than are looked at, evenly spread."""
    return rows if len(rows) <= MOST_ROWS else rows[:: -(-len(rows) // MOST_ROWS)]
