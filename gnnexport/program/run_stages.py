"""Run stages in PyTorch on blocks, to hold a cut Program against the whole one."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnnexport.native.neighbours import Block, expand
from gnnexport.program.cost import Cost, cost_of
from gnnexport.program.program import Program
from gnnexport.program.stage_bodies import StageProgram
from gnnexport.program.stages import CutProgram


@dataclass(frozen=True)
class Known:
    """What stages read of one graph.

    Args:
        tables: rows by the name of a table, float32 [num_nodes, width].
        rowptr: int64 [num_nodes + 1].
        col: int64 [num_slots].
        values: structure values by name.
    """

    tables: Mapping[str, Tensor]
    rowptr: Tensor
    col: Tensor
    values: Mapping[str, Tensor]


def known_of(cut: CutProgram, program: Program, inputs: Mapping[str, Tensor]) -> Known:
    """Prepare a graph for stages.

    Args:
        cut: of the Program.
        program: split.
        inputs: a graph with features.
    """
    structure = dict(zip(program.structure_names, program.structure(inputs), strict=True))
    x = inputs[program.features[0].name]
    if cut.stored is not None:
        x = cut.stored.rounded(x)
    tables = {table.name: x if table.columns is None else x[:, list(table.columns)] for table in cut.tables}
    return Known(tables, structure[cut.rowptr], structure[cut.col], structure)


def neighbours(known: Known, targets: Tensor) -> Block:
    """Return all slots of some targets."""
    start, length = known.rowptr[:-1], known.rowptr.diff()
    return expand(start.numpy(), length.numpy(), known.col.numpy(), targets.numpy())


Arguments = dict[str, Tensor]


def block_inputs(stage: StageProgram, known: Known, rows: Mapping[str, Tensor], targets: Tensor) -> Arguments:
    """Return what a stage reads for some targets: a block whose sources are numbered from 0.

    Args:
        stage: to be run.
        known: of the graph.
        rows: of every table and every earlier stage, for all nodes.
        targets: int64 [num_targets].
    """
    found: Arguments = {}
    sources = slots = torch.empty(0, dtype=torch.int64)
    if stage.depth:
        block = neighbours(known, targets)
        slots = torch.from_numpy(block.slots)
        sources, col = torch.unique(torch.from_numpy(block.col), return_inverse=True)
        rowptr = torch.from_numpy(block.rowptr)
        row = torch.repeat_interleave(torch.arange(len(targets)), rowptr.diff())
        found = {"rowptr": rowptr, "col": col, "row": row}
    for item in stage.inputs:
        if item.part == "source":
            found[item.name] = rows[item.value][sources]
        elif item.part == "target":
            found[item.name] = rows[item.value][targets]
        elif item.part == "slot_values":
            found[item.name] = known.values[item.value][slots]
        elif item.part in ("source_values", "target_values"):
            found[item.name] = known.values[item.value][sources if item.part == "source_values" else targets]
    return {item.name: found[item.name] for item in stage.inputs}


def request_blocks(stages: Sequence[StageProgram], cut: CutProgram, known: Known, targets: Tensor) -> list[Arguments]:
    """Return what each stage reads in a request of which no row is known before: of the later stage's neighbours too.

    Only the sizes of the rows that stages hand on are right, not their numbers.

    Args:
        stages: by depth, ascending.
        cut: that they were written from.
        known: of the graph.
        targets: int64 [num_targets], distinct.
    """
    rows = dict(known.tables)
    generator = torch.Generator().manual_seed(0)
    for depth, record in cut.records.items():
        rows[f"stage-{depth}"] = torch.randn(1, record.width, generator=generator).expand(len(known.rowptr) - 1, -1)
    found = []
    for stage in reversed(stages):
        found.append(block_inputs(stage, known, rows, targets))
        if stage.depth:
            around = torch.from_numpy(neighbours(known, targets).col)
            targets = torch.unique(torch.cat([targets, around]))
    return found[::-1]


def request_cost(cut: CutProgram, stages: Sequence[StageProgram], known: Known, targets: Tensor) -> Cost:
    """Count what a request costs of which no row is known before."""
    blocks = request_blocks(stages, cut, known, targets)
    costs = [cost_of(stage.body, list(block.values())) for stage, block in zip(stages, blocks, strict=True)]
    return functools.reduce(operator.add, costs)


def run_stages(stages: Sequence[StageProgram], known: Known, targets: Tensor) -> Tensor:
    """Return the answer for some targets; every stage but the last computes the rows of all nodes."""
    rows = {**known.tables, **rows_of_all(stages[:-1], known)}
    with torch.no_grad():
        answer: Tensor = stages[-1].body(*block_inputs(stages[-1], known, rows, targets).values())
    return answer


def _as_they_are(stage: StageProgram, rows: Tensor) -> Tensor:
    del stage
    return rows


def rows_of_all(
    stages: Sequence[StageProgram], known: Known, keep: Callable[[StageProgram, Tensor], Tensor] = _as_they_are
) -> dict[str, Tensor]:
    """Return the rows that stages give for all nodes, by name: `stage-1`.

    Args:
        stages: by depth, ascending.
        known: of the graph.
        keep: takes the rows of each stage, and returns them as later stages read them.
    """
    found: dict[str, Tensor] = {}
    everything = torch.arange(len(known.rowptr) - 1)
    with torch.no_grad():
        for stage in stages:
            inputs = block_inputs(stage, known, {**known.tables, **found}, everything)
            found[f"stage-{stage.depth}"] = keep(stage, stage.body(*inputs.values()))
    return found
