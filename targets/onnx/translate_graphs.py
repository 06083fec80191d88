"""Translate a whole Program to onnx_ir for graphs of any size: `prepare` and body in one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from gnnexport.program.graphs import output_node
from gnnexport.program.inputs import NUM_GRAPHS, NUM_NODES, Role, suffix_of
from gnnexport.program.program import Program, placeholder_names
from gnnexport.targets.contract import DialectModel
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.translate import export, name_sizes

aten = torch.ops.aten


def translate_graphs(program: Program, sample: Mapping[str, Tensor]) -> DialectModel:
    """Export `prepare` and body together, for any number of nodes, edges and graphs.

    Args:
        program: split or not.
        sample: one typical request, for timing; any sizes.

    Returns:
        The model, whose inputs are the Program's by name.

    Raises:
        UnsupportedError: an op without an ONNX translation, with the module it came from.
    """
    schemas.register()
    program = program.clone().train(False)
    for parameter in program.parameters():
        parameter.data = parameter.data.contiguous()
    joined = join(program)
    example = program.example()
    arguments = {item.name: example[item.name] for item in program.inputs}
    dynamic = [
        {axis: Dim.DYNAMIC for axis, size in enumerate(item.shape) if isinstance(size, str)} for item in program.inputs
    ]
    model = export(joined, arguments, program.output, dynamic)
    name_sizes(model, program.inputs, program.rows)
    feeds = {item.name: sample[item.name].contiguous().numpy() for item in program.inputs}
    return DialectModel(model, {}, "graphs", feeds)


def join(program: Program) -> fx.GraphModule:
    """Return one graph from the Program's inputs, all tensors, to its output."""
    root, graph = nn.Module(), fx.Graph()
    given = {item.name: graph.placeholder(item.name) for item in program.inputs}
    known = dict(given)
    for item in program.inputs:
        if item.role is Role.NODE_FEATURES:
            known[NUM_NODES + suffix_of(item.name)] = graph.call_function(aten.sym_size.int, (given[item.name], 0))
    if NUM_GRAPHS in given:
        known[NUM_GRAPHS] = graph.call_function(aten.item.default, (given[NUM_GRAPHS],))
    structure: Sequence[Any] = ()
    read = program.inputs
    if program.prepare is not None:
        names = placeholder_names(program.prepare)
        structure = _inline(root, graph, "prepare", program.prepare, [known[name] for name in names])
        read = program.features
    arguments = [*(known[item.name] for item in read), *structure]
    graph.output(_inline(root, graph, "body", program.body, arguments))
    return fx.GraphModule(root, graph, class_name=type(program.body).__name__)


def _inline(root: nn.Module, graph: fx.Graph, name: str, module: fx.GraphModule, arguments: Sequence[Any]) -> Any:
    """Copy a module's graph in and return what it returns."""
    setattr(root, name, module)
    values: dict[fx.Node, Any] = dict(zip(module.graph.find_nodes(op="placeholder"), arguments, strict=True))
    for node in module.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        values[node] = graph.node_copy(node, values.__getitem__)
        if node.op == "get_attr":
            values[node].target = f"{name}.{node.target}"
    return fx.node.map_arg(output_node(module.graph).args[0], values.__getitem__)
