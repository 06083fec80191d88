"""Look into a model without lowering it."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from torch import fx

from gnnexport.pipeline.source import Source
from gnnexport.pipeline.stage_emission import refusals
from gnnexport.pipeline.steps import finalise
from gnnexport.program.channels import Channels
from gnnexport.program.cost import Cost, measure_cost
from gnnexport.program.graphs import args_of, argument, module_of
from gnnexport.program.program import EXAMPLE_NODES, Program
from gnnexport.program.shapes import shape_of, sizes_of
from gnnexport.program.stages import check_stages, cut_program, source_table
from gnnexport.program.text import to_text
from gnnexport.registry import target_classes
from gnnexport.training.trainer import why_not_trainable

aten = torch.ops.aten
gnn = torch.ops.gnn

_MESSAGE_PASSING = {
    gnn.aggregate.default, gnn.reduce_edges.default, gnn.edge_softmax.default,
    gnn.gather_source.default, gnn.gather_destination.default,
}  # fmt: skip
_ADDS_UP = ("scatter", "index_add", "index_reduce")
_GATHERS = (aten.index_select.default, aten.index.Tensor)


def inspect_program(source: Source, program: Program) -> dict[str, Any]:
    """Describe a simplified Program on its data, as plain values."""
    cost = measure_cost(program, source.request.inputs)
    recognised = [
        {"op": str(node.target).removesuffix(".default"), "reduce": _reduce(node), "module": module_of(node)}
        for node in program.body.graph.nodes
        if node.target in _MESSAGE_PASSING
    ]
    final = finalise(program, source.data, source.mode).program
    stages = describe_stages(final) if source.mode == "batched" and not check_stages(final) else []
    problems = {name: refusals(cls(), final, source.mode) for name, cls in target_classes().items()}
    targets = {name: [str(problem) for problem in found] for name, found in problems.items()}
    blocker = next((problem.what for problem in why_not_trainable(program)), None)
    return {
        "model": {"name": source.path.name, "class": source.class_name, "retrainable": blocker is None,
                  "training_blocker": blocker},
        "mode": source.mode,
        "data": {"name": source.data.name, "nodes": source.request.num_nodes, "edges": source.request.num_edges,
                 "graphs": source.request.num_graphs},
        "inputs": [str(item) for item in source.inputs],
        "program": to_text(program),
        "message_passing": recognised,
        "cost": _cost(cost),
        "channel_groups": [str(group) for group in Channels(program.clone()).groups],
        "slow": slow_ops(program),
        "stages": stages,
        "targets": targets,
        "notes": list(source.notes),
    }  # fmt: skip


def describe_stages(program: Program) -> list[str]:
    """Say what each stage of mode `batched` reads and what it hands on; the Program is finalised."""
    cut = cut_program(program)
    found = []
    for depth, record in sorted(cut.records.items()):
        source = f"neighbours' rows of {source_table(cut, depth)}" if depth else "no neighbours"
        values = ", ".join(value.name for value in record.values)
        found.append(f"stage-{depth} reads {source} and gives {values}, {record.width} channels")
    return found


def slow_ops(program: Program) -> list[dict[str, str]]:
    """Name the message passing of a body that was not recognised, as far as that costs: it runs, but slowly.

    Slow is a scatter that reduces, which writes one message after the other, and a gather that only reorders messages
    of more than one number, which recognised message passing computes in the order wanted. Any other gather, such as of
    a row for each graph by its nodes, or of nodes by edges, is the same one operator that a recognised one becomes.
    """
    program = program.clone()
    program.annotate()
    return [
        {"module": module_of(node), "op": str(node.target), "why": why}
        for node in program.body.graph.nodes
        if node.op == "call_function" and (why := _why_slow(node))
    ]


def _why_slow(node: fx.Node) -> str:
    name = str(node.target)
    adds_up = any(word in name for word in _ADDS_UP) and node.target not in (aten.scatter.src, aten.scatter.value)
    if adds_up or (node.target is aten.index_put.default and argument(node, 3, "accumulate", False)):
        return "stays a scatter over edges, which writes one message after the other"
    if node.target not in _GATHERS:
        return ""
    source: Any = args_of(node)[0]
    rows = sizes_of(source, 0)
    reorders = rows == sizes_of(node, 0) and rows != EXAMPLE_NODES
    if reorders and source.op != "placeholder" and math.prod((shape_of(node) or ())[1:]) > 1:
        return "messages are computed in the order given and then reordered"
    return ""


def inspection_text(found: dict[str, Any]) -> str:
    """Write what `inspect_program` found for a reader."""
    model, data, cost = found["model"], found["data"], found["cost"]
    counted = Counter(
        f"{item['op']}{' ' + item['reduce'] if item['reduce'] else ''}" for item in found["message_passing"]
    )
    lines = [
        found["program"],
        "",
        f"{model['class']} on {data['name']}: {data['nodes']:,} nodes, {data['edges']:,} edges"
        + (f", {data['graphs']:,} graphs" if data["graphs"] else "")
        + f" (mode {found['mode']})",
        f"parameters: {cost['parameters']:,} ({cost['parameter_bytes']:,} bytes)",
        f"multiply-accumulates: {cost['macs']:,} "
        f"(linear {cost['macs_linear']:,}, aggregation {cost['macs_aggregation']:,})",
        f"bytes moved: {cost['bytes_moved']:,}",
        "",
        f"{'op':<28}{'kind':<13}{'MACs':>16}{'bytes':>16}  module",
    ]
    lines += [
        f"{op['name']:<28}{op['kind']:<13}{op['macs']:>16,}{op['bytes_moved']:>16,}  {op['module']}"
        for op in cost["ops"]
    ]
    recognised = ", ".join(f"{count} × {name}" for name, count in sorted(counted.items()))
    lines += ["", "message passing: " + (recognised or "none recognised")]
    lines += [f"channels: {group}" for group in found["channel_groups"]]
    lines += [f"stage: {stage}" for stage in found["stages"]]
    lines += [f"slow: {item['module']}: {item['op']} {item['why']}" for item in found["slow"]] or ["slow: nothing"]
    lines += [f"target {name}: {'; '.join(problems) or 'supported'}" for name, problems in found["targets"].items()]
    blocker = model["training_blocker"]
    lines.append("retraining: possible" if blocker is None else f"retraining: not possible, {blocker}")
    return "\n".join([*lines, *(f"note: {note}" for note in found["notes"])])


def _reduce(node: torch.fx.Node) -> str:
    return next((str(item) for item in reversed(args_of(node)) if isinstance(item, str)), "")


def _cost(cost: Cost) -> dict[str, Any]:
    return {
        "parameters": cost.parameters,
        "parameter_bytes": cost.parameter_bytes,
        "macs": cost.macs(),
        "macs_linear": cost.macs("linear"),
        "macs_aggregation": cost.macs("aggregation"),
        "bytes_moved": cost.bytes_moved,
        "ops": [vars(op) for op in cost.ops],
    }
