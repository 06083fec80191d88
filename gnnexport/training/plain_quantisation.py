"""Quantise a Program after training: steps by calibration or taken at run time, and training that protects hubs."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, fx

from gnnexport.program.graphs import args_of, calls, rebuild
from gnnexport.program.program import Program
from gnnexport.program.quantised import By, Operand, find_operands, insert
from gnnexport.program.shapes import like, sizes_of
from gnnexport.program.values import observe
from gnnexport.training.quantisation.calibration import Groups, Range, calibrate

gnn = torch.ops.gnn

Per = Literal["tensor", "channel", "row"]

_WORDS = {"weight": "weights", "input": "inputs of linear maps", "sum": "values that are aggregated"}


@dataclass(frozen=True)
class Plan:
    """How the operands of a Program are quantised.

    Args:
        bits: of all of them.
        per: what shares a step.
        fit: of calibration.
        percentile: of calibration.
        dynamic: what linear maps read gets its steps at run time, and what is aggregated stays as it is.
    """

    bits: int
    per: Per
    fit: Range = "error"
    percentile: float = 100.0
    dynamic: bool = False

    def operands(self, program: Program) -> list[Operand]:
        """Return what is quantised; the Program is split and annotated.

        Scores and vectors of attention stay as they are: no arithmetic on few bits reads them.
        """
        kinds = ("weight", "input") if self.dynamic else ("weight", "input", "sum")
        return [item for item in find_operands(program) if item.what in kinds]

    def groups(self, operand: Operand) -> Groups:
        """Return what shares a step of an operand.

        Steps by column do not leave the sum of a product, nor steps by row that of an aggregation.
        """
        if self.per == "tensor":
            return "tensor"
        if operand.what == "weight":
            return "rows"
        if operand.what == "sum":
            return "columns"
        return "rows" if self.per == "row" and operand.of_nodes else "tensor"


def told(operands: Sequence[Operand]) -> str:
    """Count operands by what they are."""
    counts: Counter[str] = Counter(item.what for item in operands)
    return ", ".join(f"{counts[what]} {words}" for what, words in _WORDS.items() if counts[what])


def quantise(program: Program, plan: Plan, inputs: Mapping[str, Tensor] | None) -> list[Operand]:
    """Put quantisers in, with steps that stay what they are; the Program is changed, so pass a copy.

    Args:
        program: split, annotated, in evaluation mode.
        plan: how.
        inputs: to calibrate on; only a dynamic plan does without.

    Returns:
        What was quantised.
    """
    operands = plan.operands(program)
    steps = _steps(program, [item for item in operands if not plan.dynamic or item.what == "weight"], plan, inputs)
    bits = torch.tensor([float(plan.bits)])
    for item in operands:
        if item.name in steps:
            by: By = "columns" if item.what == "sum" else "rows"
            insert(program, item, steps[item.name], bits, by=by, signed=item.signed)
            for part in ("step", "bits"):
                program.body.get_parameter(f"{item.name}_{part}").requires_grad_(False)
        else:
            call = insert(program, item, torch.ones(1), bits, by="rows", signed=item.signed)
            call.target = gnn.quantize_dynamic.default
            own = "tensor" if plan.per == "tensor" else "rows"
            call.args = (args_of(call)[0], plan.bits, item.signed, own, item.name)
    graph = program.body.graph
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    program.body = rebuild(program.body, graph)
    return operands


def _steps(
    program: Program, operands: Sequence[Operand], plan: Plan, inputs: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Return the steps of operands, by name; without inputs all of them are weights."""
    of_value: dict[fx.Node, list[Operand]] = {}
    for item in operands:
        of_value.setdefault(item.value, []).append(item)

    def steps(value: Tensor, items: Sequence[Operand]) -> dict[str, Tensor]:
        return {
            item.name: calibrate(
                value, plan.bits, signed=item.signed, groups=plan.groups(item), fit=plan.fit, percentile=plan.percentile
            )
            for item in items
        }

    if inputs is None:
        found = [steps(program.body.get_parameter(str(node.target)), items) for node, items in of_value.items()]
    else:
        looks = {node: partial(steps, items=items) for node, items in of_value.items()}
        found = list(observe(program, inputs, looks).values())
    return {name: step for each in found for name, step in each.items()}


def protect_nodes(program: Program, inputs: Mapping[str, Tensor], least: float, most: float) -> int:
    """Let training leave rows of some nodes unrounded, the likelier the more neighbours they have.

    Args:
        program: quantised and annotated; changed, so pass a copy.
        inputs: of the graph that tells which in-degrees are high.
        least: chance of a node with the lowest in-degree.
        most: of one with the highest.

    Returns:
        How many values are protected.
    """
    graph = program.body.graph
    structure = dict(zip(program.structure_names, program.structure(inputs), strict=True))
    pointers = [args_of(node)[1] for node in calls(graph, gnn.aggregate.default, gnn.reduce_edges.default)]
    protected = 0
    for call in calls(graph, gnn.quantize_rows.default, gnn.quantize_columns.default, gnn.quantize_dynamic.default):
        value, rows = args_of(call)[0], sizes_of(call, 0)
        rowptr = next((item for item in pointers if item.op == "placeholder" and _fits(item, rows)), None)
        if value.op == "get_attr" or rowptr is None:
            continue
        name = f"protect_{protected}"
        program.body.register_buffer(name, chances(structure[str(rowptr.target)], least, most))
        with graph.inserting_after(call):
            chance = graph.get_attr(name)
        with graph.inserting_after(chance):
            both = graph.call_function(gnn.protect.default, (value, call, rowptr, chance, False))
        with graph.inserting_after(both):
            kept = like(graph.call_function(operator.getitem, (both, 0)), call)
        for reader in [user for user in call.users if user is not both]:
            reader.replace_input_with(call, kept)
        protected += 1
    program.body.recompile()
    return protected


def unprotect(program: Program) -> None:
    """Take protection out again; the Program is changed."""
    graph = program.body.graph
    for both in calls(graph, gnn.protect.default):
        for kept in list(both.users):
            kept.replace_all_uses_with(args_of(both)[1])
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    program.body = rebuild(program.body, graph)


def chances(rowptr: Tensor, least: float, most: float) -> Tensor:
    """Return the chance of protection by in-degree, float32 [largest in-degree + 1].

    It grows with the share of nodes that have no more neighbours, as in Degree-Quant: from `least` for the fewest there
    are to `most` for the most.
    """
    counts = torch.bincount(rowptr.diff())
    share = counts.cumsum(0) / counts.sum().clamp(min=1)
    lowest = share[counts > 0][:1]
    rank = (share - lowest) / (1 - lowest).clamp(min=1e-9) if len(lowest) else share
    return (least + (most - least) * rank.clamp(0, 1)).float()


def _fits(rowptr: fx.Node, rows: tuple[int, ...] | None) -> bool:
    sizes = sizes_of(rowptr, 0)
    return sizes is not None and rows is not None and sizes == tuple(count + 1 for count in rows)
