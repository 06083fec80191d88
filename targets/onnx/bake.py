"""Bake the structure into a model: what depends on the graph alone becomes a constant."""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes import common as passes

from gnnexport.errors import UnsupportedError
from gnnexport.program.inputs import NUM_PAIRS
from gnnexport.targets.contract import DialectModel
from gnnexport.targets.onnx.tape import FOLDED, OF_GRAPH

_FOLD_BYTES = 1 << 31
"""Constants up to this size are folded: they stem from the graph and would be computed in every run."""


def bake(dialect: DialectModel) -> ir.Model:
    """Return a copy of the model whose only inputs are features and the pairs that a request asks about.

    Raises:
        UnsupportedError: an input whose value or size is not known.
    """
    model = dialect.model.clone()
    graph = model.graph
    for value in list(graph.inputs):
        if value.name in dialect.structure:
            _make_constant(graph, value, dialect)
    _check_sizes(graph)
    folded = _known_of_graph(graph)
    _fold(model)
    for name, value in model.graph.initializers.items():
        if not value.meta.get(OF_GRAPH) and (name in folded or _is_fill(value)):
            value.meta[FOLDED] = True
    return model


def _known_of_graph(graph: ir.Graph) -> set[str | None]:
    """Return the names of values that constants alone make, the graph among them."""
    known = set(graph.initializers.values())
    found = {value for value in known if value.meta.get(OF_GRAPH)}
    for node in graph:
        read = {value for value in node.inputs if value is not None}
        if read and read <= known:
            known.update(node.outputs)
            if read & found:
                found.update(node.outputs)
    return {value.name for value in found}


def _is_fill(value: ir.Value) -> bool:
    """Tell a constant of one number, such as the zeros that a model adds to: it has a row for each node."""
    assert value.const_value is not None
    array = value.const_value.numpy()
    return array.ndim > 1 and array.size > 1 and bool((array == array.flat[0]).all())


def _make_constant(graph: ir.Graph, value: ir.Value, dialect: DialectModel) -> None:
    array = dialect.structure[str(value.name)]
    graph.inputs.remove(value)
    value.const_value = ir.Tensor(array, name=value.name)
    value.shape = ir.Shape(array.shape)
    value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    value.meta[OF_GRAPH] = True
    graph.register_initializer(value)


def _check_sizes(graph: ir.Graph) -> None:
    for value in graph.inputs:
        if value.shape is None or not all(isinstance(size, int) or size == NUM_PAIRS for size in value.shape):
            what = f"the input '{value.name}' has no fixed size ({value.shape})"
            raise UnsupportedError.at("onnx", what, "Translate the model for one graph")


def _fold(model: ir.Model) -> None:
    logger = logging.getLogger("onnxscript.optimizer")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        onnxscript.optimizer.fold_constants(
            model, onnx_shape_inference=False, input_size_limit=_FOLD_BYTES, output_size_limit=_FOLD_BYTES
        )
    finally:
        logger.setLevel(level)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _lay_out(model)
    for tidy in (
        passes.RemoveUnusedNodesPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.DeduplicateHashedInitializersPass(),
        passes.RemoveUnusedNodesPass(),
    ):
        tidy(model)


def _lay_out(model: ir.Model) -> None:
    """Copy initialisers that are views, such as folded transposes: finding equal ones reads their bytes in order."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.Tensor) and not tensor.numpy().flags.c_contiguous:
            value.const_value = ir.tensor(np.ascontiguousarray(tensor.numpy()), name=tensor.name)
