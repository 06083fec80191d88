"""Translate a Program's body to onnx_ir, with the dialect as operators of its own domain."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import onnxscript
import torch
from torch import Tensor, fx
from torch.export import Dim
from torch.onnx._internal.exporter import _core

from gnnexport.errors import UnsupportedError
from gnnexport.program.dialect import dynamic as _dynamic  # noqa: F401  registers an op named below
from gnnexport.program.graphs import module_of
from gnnexport.program.inputs import NUM_PAIRS, Input
from gnnexport.program.program import Program
from gnnexport.program.quantised import fix_tables
from gnnexport.targets.contract import DialectModel
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.axes import count_axes_from_front
from gnnexport.targets.onnx.exporter import OPSET, quiet, with_more
from gnnexport.targets.onnx.quantisers import name_operands
from gnnexport.targets.onnx.translations import standard

gnn = torch.ops.gnn


def translate(program: Program, inputs: Mapping[str, Tensor]) -> DialectModel:
    """Export the body for one graph; only the number of pairs that a request asks about stays open.

    Args:
        program: split; its body takes features and structure values.
        inputs: the graph and its features; sizes are taken from them.

    Returns:
        The model, whose inputs are the features and the structure values, and the structure values.

    Raises:
        UnsupportedError: an op without an ONNX translation, with the module it came from.
    """
    schemas.register()
    program = program.clone().train(False)
    for parameter in program.body.parameters():
        parameter.data = parameter.data.contiguous()
    structure = program.structure(inputs)
    names = program.structure_names
    numbers = {name: value for name, value in zip(names, structure, strict=True) if not isinstance(value, Tensor)}
    _fix_numbers(program.body, numbers)
    tensors = {name: value for name, value in zip(names, structure, strict=True) if isinstance(value, Tensor)}
    fix_tables(program.body, tensors)
    features = {item.name: inputs[item.name] for item in program.features}
    dynamic = [_pairs(item) for item in program.features] + [{}] * len(tensors)
    model = export(program.body, {**features, **tensors}, program.output, dynamic if any(dynamic) else None)
    name_sizes(model, program.features, program.rows)
    unread = [value for value in model.graph.inputs if value.name in tensors and not value.uses()]
    for value in unread:
        model.graph.inputs.remove(value)
        del tensors[str(value.name)]
    sample = {name: value.contiguous().numpy() for name, value in features.items()}
    return DialectModel(model, {name: value.contiguous().numpy() for name, value in tensors.items()}, sample=sample)


def _pairs(item: Input) -> dict[int, Any]:
    return {axis: Dim.DYNAMIC for axis, size in enumerate(item.shape) if size == NUM_PAIRS}


def name_sizes(model: ir.Model, inputs: Sequence[Input], rows: str) -> None:
    """Call open sizes by what they count, in every value where the exporter knew that they are those of an input.

    Args:
        model: its first inputs are these.
        inputs: with their sizes.
        rows: name of the number of rows of the output.
    """
    names: dict[str, str] = {}
    for value, item in zip(model.graph.inputs, inputs, strict=False):
        assert value.shape is not None
        for size, name in zip(value.shape, item.shape, strict=True):
            if isinstance(size, ir.SymbolicDim) and isinstance(name, str):
                names[str(size)] = name
    for value in (*model.graph.inputs, *(out for node in model.graph for out in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([_size(size, names) for size in value.shape])
    for output in model.graph.outputs:
        assert output.shape is not None
        first, *rest = output.shape
        output.shape = ir.Shape([first if isinstance(first, int) else rows, *rest])


def _size(size: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | str | None:
    return size if isinstance(size, int) else names.get(str(size), size.value)


def _fix_numbers(body: fx.GraphModule, numbers: Mapping[str, Any]) -> None:
    """Write structure values that are plain numbers into the graph: the graph is fixed."""
    for node in list(body.graph.nodes):
        if node.op == "placeholder" and node.target in numbers:
            node.replace_all_uses_with(numbers[node.target])
            body.graph.erase_node(node)
    body.recompile()


def export(
    body: fx.GraphModule,
    arguments: Mapping[str, Tensor],
    output: str,
    dynamic: Sequence[Mapping[int, Any]] | None = None,
) -> ir.Model:
    """Translate a graph of ATen and dialect ops to a model with inputs and output by name.

    Args:
        body: takes the arguments in order and returns one tensor.
        arguments: values of the inputs by name; sizes are fixed as these have them.
        output: name of the result.
        dynamic: for each argument the dimensions that stay open, by axis.

    Raises:
        UnsupportedError: an op without an ONNX translation, with the module it came from.
    """
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            exported = torch.export.export(body, tuple(arguments.values()), dynamic_shapes=_shapes(dynamic))
            program = _core.export(
                exported,
                opset_version=OPSET,
                registry=_registry(),
                input_names=list(arguments),
                output_names=[output],
                verbose=False,
            )
    except Exception as error:
        raise UnsupportedError.at("onnx", *_explain(body, error)) from error
    count_axes_from_front(program.model.graph)
    name_operands(program.model.graph)
    return program.model


def _shapes(dynamic: Sequence[Mapping[int, Any]] | None) -> Any:
    return None if dynamic is None else tuple(dict(axes) for axes in dynamic)


def _explain(body: fx.GraphModule, error: Exception) -> tuple[str, str]:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(cause).splitlines()[0][:200] if str(cause) else type(cause).__name__
    culprits = [node for node in body.graph.nodes if node.op == "call_function" and str(node.target) in str(error)]
    where = f" in {module_of(culprits[0])}" if culprits else ""
    return f"the exporter cannot translate the model{where}: {text}", "Replace that op in the model"


@functools.cache
def _registry() -> Any:
    return with_more(translations())


def translations() -> dict[Any, Any]:
    """Return how the ops of the dialect, and others that the exporter does not know, become ONNX operators."""
    ops = onnxscript.values.Opset(schemas.DOMAIN, schemas.VERSION)

    def csr(dst: Any, num_dst: Any) -> Any:
        return ops.Csr(dst, num_dst)

    def aggregate(x: Any, rowptr: Any, col: Any, weight: Any, reduce: str) -> Any:
        if weight is None:
            return ops.Aggregate(x, rowptr, col, reduce=reduce)
        return ops.Aggregate(x, rowptr, col, weight, reduce=reduce)

    def reduce_edges(messages: Any, rowptr: Any, reduce: str) -> Any:
        return ops.ReduceEdges(messages, rowptr, reduce=reduce)

    def edge_softmax(logits: Any, rowptr: Any) -> Any:
        return ops.EdgeSoftmax(logits, rowptr)

    def gather_source(x: Any, rowptr: Any, col: Any) -> Any:
        del rowptr
        return ops.GatherSource(x, col)

    def gather_destination(x: Any, rowptr: Any, row: Any) -> Any:
        del row
        return ops.GatherDestination(x, rowptr)

    def quantise(by: str) -> Any:
        def translated(x: Any, step: Any, bits: Any, signed: bool, local: bool) -> Any:
            del local
            return ops.Quantize(x, step, bits, by=by, signed=int(signed))

        return translated

    def quantise_dynamic(x: Any, bits: int, signed: bool, by: str, name: str = "") -> Any:
        return ops.QuantizeDynamic(x, by=by, bits=bits, signed=int(signed), operand=name)

    return {
        **standard(),
        gnn.quantize_rows.default: quantise("rows"),
        gnn.quantize_columns.default: quantise("columns"),
        gnn.quantize_nearest.default: quantise("nearest"),
        gnn.quantize_dynamic.default: quantise_dynamic,
        gnn.csr.default: csr,
        gnn.aggregate.default: aggregate,
        gnn.reduce_edges.default: reduce_edges,
        gnn.edge_softmax.default: edge_softmax,
        gnn.gather_source.default: gather_source,
        gnn.gather_destination.default: gather_destination,
    }
