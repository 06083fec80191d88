"""Leave the dialect's operators in a model, for our own kernels, and give them what follows and what leads to them.

An operator takes over the bias, the root term and the activation behind it, so that a row is written once. Attention
becomes one operator: nothing with a row for each edge and a column for each channel is left in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.attention import fuse_attention
from gnnexport.targets.onnx.choice import NATIVE, Choices
from gnnexport.targets.onnx.epilogues import fuse_epilogues
from gnnexport.targets.onnx.halves import gather_halves
from gnnexport.targets.onnx.linear import fuse_linear, fuse_own, is_wide, take_layers
from gnnexport.targets.onnx.lower import REDUCING
from gnnexport.targets.onnx.operators import dialect_nodes, read
from gnnexport.targets.onnx.prepared_edges import fuse_edges
from gnnexport.targets.onnx.quantised_weights import store_levels
from gnnexport.targets.onnx.scales import fold_scales
from gnnexport.targets.onnx.sparse_products import hold_sparse, wins_over_engine
from gnnexport.targets.onnx.tape import Constants

_STRUCTURE = {
    schemas.AGGREGATE: (1, 2),
    schemas.AGGREGATE_LINEAR: (1, 2),
    schemas.REDUCE_EDGES: (1,),
    schemas.ATTENTION: (1, 2),
    schemas.EDGE_SOFTMAX: (1,),
    schemas.GATHER_DESTINATION: (1,),
    schemas.GATHER_SOURCE: (1,),
    schemas.QUANTIZE: (),
    schemas.QUANTIZE_DYNAMIC: (),
    schemas.NARROW_AGGREGATE: (1, 2),
    schemas.NARROW_AGGREGATE_LINEAR: (1, 2),
}
"""Inputs that hold the structure."""

_NARROW = (schemas.NARROW_AGGREGATE, schemas.NARROW_AGGREGATE_LINEAR)

_WITHOUT_FLOATS = (schemas.CSR, schemas.GATHER_SOURCE)


def serves(graph: ir.Graph) -> bool:
    """Tell whether the kernels can run every operator of the dialect in a graph: they compute in float32."""
    nodes = [node for node in dialect_nodes(graph) if node.op_type not in _WITHOUT_FLOATS]
    return bool(nodes) and all(value.dtype == ir.DataType.FLOAT for node in nodes for value in _floats(node))


def goes_native(graph: ir.Graph, choices: Choices) -> bool:
    """Decide whether the kernels run every reduction of a graph whose structure is known, or none of them.

    Tables renumber the nodes of the whole graph, so the two do not mix.
    """
    ops = [read(node) for node in dialect_nodes(graph) if node.op_type in REDUCING]
    chosen = {choices(op) for op in ops}
    if len(chosen) > 1 and NATIVE in chosen:
        return choices.settle(ops)
    return chosen == {NATIVE} or (not chosen and choices.forced in ("auto", NATIVE))


def keep_native(graph: ir.Graph, path: str, choices: Choices | None = None) -> None:
    """Prepare a graph in place for a runtime that has the kernels; `serves` has to hold.

    Args:
        graph: with the dialect.
        path: instruction set that it is made for, one of `PATHS`; it runs on every other one too.
        choices: decides whether zeros of weights are skipped; without it they are not.
    """
    reduces = any(node.op_type in (*REDUCING, *_NARROW) for node in dialect_nodes(graph))
    fold_scales(graph)
    fuse_attention(graph)
    if path != "portable":  # whose products are slower than those of the engines
        fuse_linear(graph)
    fuse_epilogues(graph)
    fuse_own(graph)
    if reduces:  # no model needs the kernels for its layers alone
        take_layers(graph, lambda layer: (path == "amx" and is_wide(layer)) or wins_over_engine(layer, choices))
        fuse_epilogues(graph, [schemas.LINEAR])
        hold_sparse(graph, choices)
    gather_halves(graph)
    _narrow(graph)
    for node in dialect_nodes(graph):
        if node.op_type == schemas.GATHER_SOURCE:
            _gather(graph, node)
    store_levels(graph)
    graph.opset_imports[schemas.DOMAIN] = schemas.VERSION


def native_graphs(model: ir.Model, path: str, *, edges: bool, choices: Choices | None = None) -> ir.Model:
    """Return a copy of a model for graphs of any size that calls the kernels, which sort the edges too.

    Args:
        model: as `translate_graphs` gives it.
        path: instruction set that it is made for.
        edges: whether the runtime has the operators that prepare edges in one go.
        choices: as of `keep_native`.
    """
    model = model.clone()
    if edges:
        fuse_edges(model)
    keep_native(model.graph, path, choices)
    for tidy in (passes.RemoveUnusedNodesPass(), passes.CommonSubexpressionEliminationPass()):
        tidy(model)
    return model


def _floats(node: ir.Node) -> Iterator[ir.Value]:
    structure = _STRUCTURE[node.op_type]
    yield from (value for place, value in enumerate(node.inputs) if value is not None and place not in structure)


def _gather(graph: ir.Graph, node: ir.Node) -> None:
    new = ir.node("Gather", node.inputs, {"axis": 0}, name=node.name)
    new.outputs[0].shape, new.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], node.outputs, new.outputs)


def _narrow(graph: ir.Graph) -> None:
    """Store structures that are known in 32 bits, where every number of an operator's structure fits."""
    constants = Constants(graph)
    narrow: dict[ir.Value, ir.Value] = {}
    for node in dialect_nodes(graph):
        values = [node.inputs[place] for place in _STRUCTURE.get(node.op_type, ())]
        known = [value for value in values if value is not None and value.const_value is not None]
        if not known or len(known) < len(values) or any(_largest(value) >= 1 << 31 for value in known):
            continue
        for place, value in zip(_STRUCTURE[node.op_type], known, strict=True):
            if value not in narrow:
                assert value.const_value is not None
                narrow[value] = constants.add(value.const_value.numpy().astype(np.int32))
            node.replace_input_with(place, narrow[value])


def _largest(value: ir.Value) -> int:
    assert value.const_value is not None
    return int(value.const_value.numpy().max(initial=0))
