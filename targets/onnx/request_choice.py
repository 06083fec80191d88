"""Choose the lowering of a model for graphs of any size: time the whole model on one typical request."""

from __future__ import annotations

import math
from collections.abc import Collection

import onnx_ir as ir

from gnnexport.errors import Problem, UnsupportedError
from gnnexport.targets.contract import DialectModel
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.choice import NATIVE, Candidate, Choices, sizes_of, time_candidates, winner_first
from gnnexport.targets.onnx.lower import REDUCING
from gnnexport.targets.onnx.native import native_graphs
from gnnexport.targets.onnx.operators import dialect_nodes
from gnnexport.targets.onnx.prepared_edges import fuse_edges
from gnnexport.targets.onnx.quantised_forms import Form, Formed, forms_for, is_quantised, lower_quantised, take_form
from gnnexport.targets.onnx.request import FORMS, lower_graphs

MOST_SCATTERED = 4_000_000
"""Elements that all reductions of a request move, above which scatter is not timed."""

TIMED_SHARE = 0.2
"""Share of the time for choosing lowerings that timing whole models may take."""


def dense_refused() -> Problem:
    """Say that an adjacency matrix needs a graph that is known."""
    what = "aggregate=dense stores the adjacency of one graph, and in mode graphs every request brings its own"
    return Problem("target", what, "Leave aggregate out, or set it to ell, scatter or native")


def lower_chosen(
    dialect: DialectModel, choices: Choices, able: Collection[Form], *, branches: bool, edges: bool = False
) -> ir.Model:
    """Return the lowered model; what was chosen is noted in `choices`.

    Args:
        dialect: of mode `graphs`.
        choices: how to choose.
        able: forms of a quantised model that the runtime computes.
        branches: whether it can be trusted with `If`.
        edges: whether its kernels prepare edges in one go.

    Raises:
        UnsupportedError: the lowering asked for cannot serve graphs of any size.
    """
    if choices.forced == "dense":
        raise UnsupportedError(dense_refused())
    choices.sizes = sizes_of(dialect.model.graph, dialect.sample)
    key = describe(dialect.model)
    replayed = (choices.ctx.decisions or {}).get("lowerings", {}).get(key)
    wanted = str(replayed if choices.forced == "auto" else choices.forced)
    possible = (*FORMS, NATIVE) if choices.native else FORMS
    listed = [Candidate(wanted, 0.0)] if wanted in possible else _timed(dialect, choices, branches, edges)
    best = listed[0].name
    choices.decisions[key] = best
    candidates = [{"name": item.name, "latency_ms": item.latency_ms} for item in listed]
    choices.rows.append({"op": key, "chosen": best, "candidates": candidates})
    if not is_quantised(dialect.model.graph):
        return _lowered(dialect, best, choices, branches, edges)[0]
    forms = forms_for(able, native=best == NATIVE)

    def build(form: Form) -> tuple[ir.Model, Formed]:
        return _lowered(dialect, best, choices, branches, edges, form)

    return lower_quantised(dialect.model, choices, forms, build, dialect.sample)


def describe(model: ir.Model) -> str:
    """Name the reductions of a model, which are lowered alike."""
    nodes = dialect_nodes(model.graph)
    reductions = sum(node.op_type in (*REDUCING, schemas.EDGE_SOFTMAX) for node in nodes)
    structures = sum(node.op_type == schemas.CSR for node in nodes)
    if not structures:  # a stage, whose block is sorted already
        return f"{reductions} reductions of each block"
    return f"{reductions} reductions over {structures} structures of each request"


def _lowered(
    dialect: DialectModel, name: str, choices: Choices, branches: bool, edges: bool, form: Form = "float"
) -> tuple[ir.Model, Formed]:
    model = dialect.model.clone()
    if name == NATIVE and edges:
        fuse_edges(model)
    formed = take_form(model.graph, form, native=name == NATIVE)
    if name == NATIVE:
        model = native_graphs(model, choices.kernels, edges=False, choices=choices)
    else:
        model = lower_graphs(model, "scatter" if name == "scatter" else "ell", branches=branches)
    if dialect.mode == "batched":
        _drop_unread(model.graph)
    return model, formed


def _drop_unread(graph: ir.Graph) -> None:
    """Drop inputs that a lowering has no use for; the runtime would make them in vain."""
    for value in list(graph.inputs):
        if not value.uses() and not value.is_graph_output():
            graph.inputs.remove(value)


def _timed(dialect: DialectModel, choices: Choices, branches: bool, edges: bool) -> list[Candidate]:
    """Return the lowerings considered, the best first: our kernels or tables, unless another is plainly faster."""
    listed = [Candidate(NATIVE, 0.0)] if choices.native else []
    listed.append(Candidate("ell", math.inf))
    if _scattered_elements(dialect) <= MOST_SCATTERED:
        listed.append(Candidate("scatter", math.inf))
    if choices.run is None or len(listed) == 1 or not dialect.sample:
        return listed[:1]
    runs = {
        item.name: choices.run(_lowered(dialect, item.name, choices, branches, edges)[0], dialect.sample)
        for item in listed
    }
    medians, noise = time_candidates(runs, choices.ctx.time_budget_s * TIMED_SHARE)
    return winner_first([Candidate(item.name, item.estimate_ms, medians[item.name]) for item in listed], noise)


def _scattered_elements(dialect: DialectModel) -> int:
    """Return how many numbers all reductions together would scatter on the sample: slots times channels."""
    slots = max((array.shape[-1] for name, array in dialect.sample.items() if name == "edge_index"), default=0)
    widths = 0
    for node in dialect_nodes(dialect.model.graph):
        x = node.inputs[0]
        if node.op_type in REDUCING and x is not None and x.shape is not None:
            widths += math.prod(size for size in list(x.shape)[1:] if isinstance(size, int))
    return slots * widths
