"""Divide the time of one inference between linear layers, aggregation and all else, by a profile of its operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes

from gnnexport.measure.amdahl import Shares
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.matching import is_constant
from gnnexport.targets.onnx.operators import dialect_nodes

Kind = Literal["linear", "aggregation", "both", "other"]


PROFILED_RUNS = 5
"""Runs of a model whose operators are timed; the first does not count."""


@dataclass(frozen=True)
class Timed:
    """An operator of a model that ran.

    Args:
        name: as the engine calls it: of the node or of its output, or one made of several of these.
        op_type: in the engine's words.
        ms: that it took.
    """

    name: str
    op_type: str
    ms: float


Profiler = Callable[[ir.Model, Mapping[str, NDArray[Any]]], Sequence[Timed]]
"""Runs a model on the inputs given by name and tells what each operator took."""

_PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "FullyConnected"}
_LINEAR = {*_PRODUCTS, schemas.LINEAR, schemas.NARROW_LINEAR, "MatMulInteger", "DynamicQuantizeMatMul"}
_OVER_EDGES = {
    schemas.AGGREGATE, schemas.ATTENTION, schemas.EDGE_SOFTMAX, schemas.REDUCE_EDGES, schemas.GATHER_SOURCE,
    schemas.GATHER_DESTINATION, schemas.NARROW_AGGREGATE,
}  # fmt: skip
_BOTH = {schemas.AGGREGATE_LINEAR, schemas.NARROW_AGGREGATE_LINEAR}
_AROUND = {"If", "Loop", "Scan"}
"""Operators whose time is that of others inside."""

_OF_PRODUCT = (schemas.ACTIVATION, schemas.SLOPE, schemas.WEIGHTS)

_INPUTS = 9
"""Of `AggregateLinear`, those that may be left out included."""

_SUM, _PRODUCT = "/sum", "/product"
"""What the halves of an operator that does both are called."""


def divide(model: ir.Model, profile: Profiler, feeds: Mapping[str, NDArray[Any]], engine: str) -> Shares | None:
    """Return the shares of a lowered model, which stays as it is; `None` where its operators cannot be told apart.

    Operators that aggregate and multiply at once are divided as their halves do that run one after the other.
    """
    named = _named(model)
    kinds = _kinds(named.graph)
    times: dict[Kind, float] = dict.fromkeys(("linear", "aggregation", "both", "other"), 0.0)
    for timed in profile(named, feeds):
        if timed.op_type not in _AROUND:
            times[_kind(timed, kinds)] += timed.ms
    total = sum(times.values())
    if not total:
        return None
    product = 0.0
    if times["both"]:
        found = _product_share(named, profile, feeds)
        if found is None:
            return None
        product = found
    return Shares(
        linear=(times["linear"] + product * times["both"]) / total,
        aggregation=(times["aggregation"] + (1 - product) * times["both"]) / total,
        other=times["other"] / total,
        latency_ms=total,
        engine=engine,
        divided=times["both"] / total,
    )


def _named(model: ir.Model) -> ir.Model:
    """Return a copy of which every node and value has a name of its own, without nodes that nothing reads."""
    copy = model.clone()
    for tidy in (passes.RemoveUnusedNodesPass(), passes.RemoveUnusedOpsetsPass(), passes.NameFixPass()):
        tidy(copy)
    return copy


def _product_share(model: ir.Model, profile: Profiler, feeds: Mapping[str, NDArray[Any]]) -> float | None:
    """Return the share that products have of operators that do both, once these are taken apart."""
    twin = model.clone()
    if not take_apart(twin.graph):
        return None
    twin = _named(twin)
    halves = {_SUM: 0.0, _PRODUCT: 0.0}
    names = {
        name: half
        for node in twin.graph
        for half in halves
        if half in str(node.name)
        for name in (node.name, node.outputs[0].name)
    }
    for timed in profile(twin, feeds):
        if timed.name in names:
            halves[names[timed.name]] += timed.ms
    total = sum(halves.values())
    return halves[_PRODUCT] / total if total else None


def take_apart(graph: ir.Graph) -> bool:
    """Let an operator for sums and one for each product do what one did for both, in place; tell whether all could."""
    nodes = [node for node in dialect_nodes(graph) if node.op_type in _BOTH]
    if any(node.op_type != schemas.AGGREGATE_LINEAR for node in nodes):
        return False
    for node in nodes:
        _part(graph, node)
    return True


def _part(graph: ir.Graph, node: ir.Node) -> None:
    given: list[ir.Value | None] = [*node.inputs, *[None] * _INPUTS][:_INPUTS]
    x, rowptr, col, weight, matrix, own, own_matrix, root, bias = given
    told = {name: node.attributes[name] for name in _OF_PRODUCT if name in node.attributes}
    total = ir.Node(schemas.DOMAIN, schemas.AGGREGATE, [x, rowptr, col, weight], [node.attributes["reduce"]])
    nodes = [total]
    if own is not None:
        held = node.attributes.get_string(schemas.OWN_WEIGHTS, "dense")
        layout = [ir.AttrString(schemas.WEIGHTS, held)]
        nodes.append(ir.Node(schemas.DOMAIN, schemas.LINEAR, [own, own_matrix, root], layout))
        root = nodes[-1].outputs[0]
    nodes.append(ir.Node(schemas.DOMAIN, schemas.LINEAR, [total.outputs[0], matrix, root, bias], list(told.values())))
    out = node.outputs[0]
    for place, new in enumerate(nodes):
        half = _SUM if new is total else _PRODUCT
        new.name = new.outputs[0].name = f"{out.name}{half}{place}"
        new.outputs[0].type = out.type
    nodes[-1].outputs[0].shape = out.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [out], [nodes[-1].outputs[0]])


def _kinds(graph: ir.Graph) -> dict[str, Kind]:
    """Return what each node does, by its name and by that of its output."""
    fixed: dict[ir.Value, bool] = {}
    found: dict[str, Kind] = {}
    for node in graph:
        kind = _of_type(node.op_type)
        if node.op_type in _PRODUCTS and not _is_fixed(node.inputs[1], fixed):
            kind = "aggregation"  # with an adjacency, or with weights of edges
        for name in (node.name, node.outputs[0].name):
            if name:
                found[name] = kind
    return found


def _is_fixed(value: ir.Value | None, known: dict[ir.Value, bool]) -> bool:
    """Tell whether a value is made of constants alone."""
    if value is None or is_constant(value):
        return True
    if value not in known:
        node = value.producer()
        known[value] = node is not None and all(_is_fixed(item, known) for item in node.inputs)
    return known[value]


def _kind(timed: Timed, kinds: Mapping[str, Kind]) -> Kind:
    """Tell what an operator does that an engine may have made of several."""
    if timed.name in kinds:
        return kinds[timed.name]
    kind = _of_type(timed.op_type)
    if kind == "other":
        return kind
    inside = [name for name, known in kinds.items() if name in timed.name and known != "other"]
    return kinds[max(inside, key=len)] if inside else kind


def _of_type(op_type: str) -> Kind:
    if op_type in _BOTH:
        return "both"
    if op_type in _LINEAR:
        return "linear"
    return "aggregation" if op_type in _OVER_EDGES or op_type.startswith(("Gather", "Scatter", "Reduce")) else "other"
