"""Join what our kernels compute with few bits: whole layers become one operator, and nothing wide lies between them.

An operator takes over the row scales, root term, bias, normalisation and activation behind it; then the layer of the
rows themselves; then sums and the layer that reads them become one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.epilogues import activation_of, is_row_of
from gnnexport.targets.onnx.matching import is_constant, only_reader, producer, same_rows, same_sizes
from gnnexport.targets.onnx.quantised_weights import keep_constants
from gnnexport.targets.onnx.tape import Constants

_SUM_INPUTS = 8
"""Inputs of `NarrowAggregate`, which those of `NarrowAggregateLinear` begin with."""

_SCALE = {schemas.NARROW_AGGREGATE: 5, schemas.NARROW_LINEAR: 5}
_ROOT = {schemas.NARROW_AGGREGATE: 6, schemas.NARROW_LINEAR: 11}
"""Where an operator takes its root term; the bias follows."""

_STEP = {schemas.NARROW_AGGREGATE: 3, schemas.NARROW_LINEAR: 4}
"""Where it takes the number that each column of its result is multiplied by, after whole numbers were added."""

_OWN, _PRODUCTS_END = 6, 13
"""Places of inputs of `NarrowLinear`."""


@dataclass
class _Found:
    """What follows one operator, and the nodes that it takes over.

    Args:
        scale: of each row.
        root: is added after that.
        bias: constant row that is added, too.
        gain: of each column, by a normalisation.
        shift: of each column, by a normalisation and the bias before it.
        summed: layer whose result was added before the normalisation.
        attributes: of the activation.
        taken: the nodes.
    """

    scale: ir.Value | None = None
    root: ir.Value | None = None
    bias: ir.Value | None = None
    gain: NDArray[np.float64] | None = None
    shift: NDArray[np.float64] | None = None
    summed: ir.Node | None = None
    attributes: dict[str, str | float] = field(default_factory=dict)
    taken: list[ir.Node] = field(default_factory=list)


def fuse_narrow(graph: ir.Graph) -> None:
    """Join the operators of `narrow_sums` and `narrow_layers` in a graph, in place."""
    constants = Constants(graph)
    for kind in (schemas.NARROW_AGGREGATE, schemas.NARROW_LINEAR):
        for node in sorted(_of_kind(graph, kind), key=_is_own):
            found = _follow(node)
            if found.taken:
                _take(graph, constants, node, found)
    for node in _of_kind(graph, schemas.NARROW_LINEAR):
        _fuse_own(graph, constants, node)
    for node in _of_kind(graph, schemas.NARROW_AGGREGATE):
        reader = only_reader(node.outputs[0])
        if reader is not None and _is(reader, schemas.NARROW_LINEAR) and reader.inputs[0] is node.outputs[0]:
            _join(graph, node, reader)


def _of_kind(graph: ir.Graph, *kinds: str) -> list[ir.Node]:
    return [node for node in graph if _is(node, *kinds)]


def _is(node: ir.Node | None, *kinds: str) -> bool:
    return node is not None and node.domain == schemas.DOMAIN and node.op_type in kinds


def _is_own(node: ir.Node) -> bool:
    """Let the layer that reads sums take the other one as its root term, rather than the other way about."""
    return producer(node.inputs[0], schemas.NARROW_AGGREGATE, schemas.DOMAIN) is None


def _follow(node: ir.Node) -> _Found:
    """Walk from an operator to what reads its result, as long as that is one node which it can take over."""
    found = _Found(bias=_filled(node.inputs, _ROOT[node.op_type] + 2)[_ROOT[node.op_type] + 1])
    value = node.outputs[0]
    while not found.attributes and (reader := only_reader(value)) is not None and reader.domain == "":
        if not _takes(reader, value, found):
            break
        found.taken.append(reader)
        value = reader.outputs[0]
    return found


def _takes(reader: ir.Node, value: ir.Value, found: _Found) -> bool:
    if reader.op_type in ("Add", "Mul"):
        other = reader.inputs[1] if reader.inputs[0] is value else reader.inputs[0]
        if other is None or other is value:
            return False
        return _take_term(value, other, found) if reader.op_type == "Add" else _take_scale(value, other, found)
    if reader.op_type == "BatchNormalization":
        return reader.inputs[0] is value and _take_norm(reader, found)
    found.attributes = activation_of(reader) or {}
    return bool(found.attributes)


def _take_scale(value: ir.Value, other: ir.Value, found: _Found) -> bool:
    """Take one number for each row, as long as nothing was added."""
    fits = same_rows(other, value) and list(other.shape or ())[1:] == [1]
    if found.taken or found.bias is not None or not fits:
        return False
    found.scale = other
    return True


def _take_term(value: ir.Value, other: ir.Value, found: _Found) -> bool:
    if is_constant(other) and found.bias is None and found.gain is None and is_row_of(other, value):
        found.bias = other
        return True
    if found.root is None and same_sizes(other, value):
        found.root = other
        return True
    return False


def _take_norm(norm: ir.Node, found: _Found) -> bool:
    """Take a normalisation by statistics that are known: a factor and a summand for each column."""
    known = [array for array in map(_array, norm.inputs[1:5]) if array is not None]
    if found.gain is not None or len(known) < 4 or len(norm.outputs) > 1:
        return False
    if found.root is not None:
        found.summed = _layer_of(found.root)
        if found.summed is None:
            return False
    weight, offset, mean, variance = known
    found.gain = weight / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    before = _array(found.bias)
    found.shift = offset - mean * found.gain + (0 if before is None else before * found.gain)
    found.bias = None
    return True


def _layer_of(root: ir.Value) -> ir.Node | None:
    """Return the layer that gives a root term, if nothing else reads it and its columns can be multiplied."""
    layer = producer(root, schemas.NARROW_LINEAR, schemas.DOMAIN)
    if layer is None or only_reader(root) is None or schemas.ACTIVATION in layer.attributes:
        return None
    return layer if _filled(layer.inputs, _PRODUCTS_END)[_ROOT[layer.op_type]] is None else None


def _array(value: ir.Value | None) -> NDArray[np.float64] | None:
    """Return a constant row in float64; `None` where it is none."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy().astype(np.float64).reshape(-1)


def _amplify(constants: Constants, node: ir.Node, gain: NDArray[np.float64]) -> None:
    """Multiply each column of what an operator gives, its bias included, in place."""
    place = _STEP[node.op_type]
    step = _array(node.inputs[place])
    assert step is not None
    node.replace_input_with(place, keep_constants(constants, (step * gain).astype(np.float32)))
    place = _ROOT[node.op_type] + 1
    bias = _array(node.inputs[place]) if len(node.inputs) > place else None
    if bias is not None:
        node.replace_input_with(place, constants.add((bias * gain).astype(np.float32), of_graph=False))


def _take(graph: ir.Graph, constants: Constants, node: ir.Node, found: _Found) -> None:
    """Put the operator with all it took over where the last node of it stood."""
    last = found.taken[-1].outputs[0]
    before: list[ir.Node] = []
    scale = found.scale
    if scale is not None:
        scale = _flat(constants, scale, before)
    if found.gain is not None:
        _amplify(constants, node, found.gain)
        if found.summed is not None:
            _amplify(constants, found.summed, found.gain)
    bias = found.bias
    if found.shift is not None:
        bias = constants.add(found.shift.astype(np.float32), of_graph=False)
    inputs = _filled(node.inputs, _ROOT[node.op_type] + 2)
    inputs[_SCALE[node.op_type]] = scale
    inputs[_ROOT[node.op_type] : _ROOT[node.op_type] + 2] = [found.root, bias]
    attributes = [*node.attributes.values(), *ir.convenience.convert_attributes(found.attributes)]
    new = ir.Node(node.domain, node.op_type, inputs, attributes, name=f"{node.name}_fused")
    _named(new, last)
    ir.convenience.replace_nodes_and_values(
        graph, found.taken[-1], [node, *found.taken], [*before, new], [last], new.outputs
    )


def _flat(constants: Constants, scale: ir.Value, before: list[ir.Node]) -> ir.Value:
    """Return row scales [rows, 1] as [rows]."""
    if scale.const_value is not None:
        return constants.add(scale.const_value.numpy().reshape(-1))
    shape = keep_constants(constants, np.array([-1], np.int64))
    node = ir.node("Reshape", [scale, shape], name=f"{scale.name}_flat")
    assert scale.shape is not None
    out = node.outputs[0]
    out.name, out.shape, out.type = f"{scale.name}_flat", ir.Shape([scale.shape[0]]), scale.type
    before.append(node)
    return out


def _fuse_own(graph: ir.Graph, constants: Constants, node: ir.Node) -> None:
    """Let a layer multiply the rows' own values too, where its root term is nothing but their layer."""
    root_place = _ROOT[schemas.NARROW_LINEAR]
    root = node.inputs[root_place] if len(node.inputs) > root_place else None
    own = producer(root, schemas.NARROW_LINEAR, schemas.DOMAIN)
    if root is None or own is None or only_reader(root) is not node:
        return
    if node.inputs[_SCALE[schemas.NARROW_LINEAR]] is not None:
        return
    given = _filled(own.inputs, _PRODUCTS_END)
    if any(given[place] is not None for place in (5, _OWN, root_place)) or schemas.ACTIVATION in own.attributes:
        return
    biases = [value for value in (node.inputs[root_place + 1], given[root_place + 1]) if value is not None]
    if own.attributes["nearest"].value != node.attributes["nearest"].value:
        return
    inputs = _filled(node.inputs, root_place + 2)
    inputs[_OWN : _OWN + 5] = given[:5]
    inputs[root_place : root_place + 2] = [None, _sum_of(constants, biases)]
    attributes = {**node.attributes, "own_signed": ir.AttrInt64("own_signed", own.attributes["signed"].as_int())}
    new = ir.Node(node.domain, node.op_type, inputs, attributes.values(), name=f"{node.name}_own")
    _named(new, node.outputs[0])
    ir.convenience.replace_nodes_and_values(graph, node, [node, own], [new], node.outputs, new.outputs)


def _sum_of(constants: Constants, biases: Sequence[ir.Value]) -> ir.Value | None:
    arrays = [array for array in map(_array, biases) if array is not None]
    if len(arrays) < 2:
        return biases[0] if biases else None
    return constants.add(np.sum(arrays, axis=0).astype(np.float32), of_graph=False)


def _join(graph: ir.Graph, sums: ir.Node, layer: ir.Node) -> None:
    """Make one operator of a reduction and the layer that alone reads it."""
    inputs = [*_filled(sums.inputs, _SUM_INPUTS), *layer.inputs[1:]]
    attributes = dict(layer.attributes)
    for name, attribute in sums.attributes.items():
        if name in (schemas.ACTIVATION, schemas.SLOPE):
            renamed = f"sum_{name}"
            attributes[renamed] = ir.Attr(renamed, attribute.type, attribute.value)
        else:
            attributes[name] = attribute
    new = ir.Node(
        schemas.DOMAIN, schemas.NARROW_AGGREGATE_LINEAR, inputs, attributes.values(), name=f"{layer.name}_joined"
    )
    _named(new, layer.outputs[0])
    ir.convenience.replace_nodes_and_values(graph, layer, [layer, sums], [new], layer.outputs, new.outputs)


def _filled(inputs: Sequence[ir.Value | None], count: int) -> list[ir.Value | None]:
    return [*inputs, *[None] * (count - len(inputs))]


def _named(node: ir.Node, like: ir.Value) -> None:
    out = node.outputs[0]
    out.name, out.shape, out.type = f"{like.name}_fused", like.shape, like.type
