"""Let layers of levels hand results on as their readers want them: packed for sums, as levels for products, or wide.

A row that the next layer multiplies is rounded where it is made, while it is in the registers, or where it is packed
for sums: so a byte a number is read instead of four. Rows that take the nearest of some groups are floats until all of
a row is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.targets.onnx import schemas

ROWS = "rows"
"""Under which a step of rows keeps the name of its operand, in `meta`."""

_OWN, _NEXT = 6, 13
"""Places of the own rows and of the next step in inputs of `NarrowLinear`; `NarrowAggregateLinear` has more before."""

_MORE = {schemas.NARROW_LINEAR: 0, schemas.NARROW_AGGREGATE_LINEAR: 7}

_ALONE, _BESIDES = 1, 2
"""How an operator gives levels of rows: as its only result, or as the second one."""


class _Use(NamedTuple):
    """A place where a layer multiplies rows that it rounds itself."""

    node: ir.Node
    place: int

    @property
    def quantiser(self) -> tuple[ir.Value | None, ir.Value | None, bool]:
        """Return the step, the bits and whether there is a sign."""
        signed = "signed" if self.place == 0 else "own_signed"
        step, bits = self.node.inputs[self.place + 1 : self.place + 3]
        return step, bits, bool(self.node.attributes[signed].as_int())


@dataclass
class _Readers:
    """What reads the result of a layer."""

    products: list[_Use]
    sums: list[ir.Node]
    others: bool


def narrow_results(graph: ir.Graph) -> set[str]:
    """Choose how each layer's result leaves, in place; return the operands whose rows lie in memory as levels."""
    given: set[str] = set()
    for node in list(graph):
        if node.domain == schemas.DOMAIN and node.op_type in _MORE:
            given |= _hand_on(graph, node)
    for node in list(graph):
        if node.domain == schemas.DOMAIN and node.op_type == schemas.NARROW:
            given |= _give_too(graph, node)
    graph.sort()  # what reads levels may have stood before what now gives them
    return given


def _give_too(graph: ir.Graph, narrow: ir.Node) -> set[str]:
    """Let what packs rows for sums give them as levels too, where layers multiply them; return these operands."""
    x = narrow.inputs[0]
    assert x is not None
    products = _readers_of(x).products
    if not products:
        return set()
    step, bits, signed = products[0].quantiser
    told = {"given": _BESIDES, "given_signed": int(signed)}
    new = _twin(narrow, [*narrow.inputs[:2], step, bits], told, 2)
    _like(new.outputs[0], narrow.outputs[0], f"{narrow.outputs[0].name}_packed")
    names = _let_read(products, new.outputs[1], x)
    ir.convenience.replace_nodes_and_values(graph, narrow, [narrow], [new], narrow.outputs, new.outputs[:1])
    return names


def _hand_on(graph: ir.Graph, maker: ir.Node) -> set[str]:
    """Let one layer hand its result on; return the names of the operands that it gives as levels."""
    out = maker.outputs[0]
    readers = _readers_of(out)
    packs = len(readers.sums) == 1 and not readers.others
    if not packs and not readers.products:
        return set()
    sums = readers.sums[0] if packs else None
    alone = bool(readers.products) and not readers.sums and not readers.others
    new = _with_results(maker, sums, readers.products, alone=alone)
    names = _let_read(readers.products, new.outputs[-1], out)
    if alone:
        ir.convenience.replace_nodes_and_values(graph, maker, [maker], [new], [], [])
        return names
    kept = out if sums is None else sums.outputs[0]
    _like(new.outputs[0], kept, f"{kept.name}_fused")
    old = [maker] if sums is None else [sums, maker]
    ir.convenience.replace_nodes_and_values(graph, maker, old, [new], [kept], new.outputs[:1])
    return names


def _let_read(products: Sequence[_Use], levels: ir.Value, rows: ir.Value) -> set[str]:
    """Let layers read levels of rows; return what the operands are called."""
    names = set()
    for use in products:
        step = use.quantiser[0]
        names.add("" if step is None else str(step.meta.get(ROWS, "")))
        use.node.replace_input_with(use.place, levels)
        _like(levels, rows, f"{rows.name}_levels", ir.DataType.UINT8)
    return names - {""}


def _like(value: ir.Value, other: ir.Value, name: str, dtype: ir.DataType | None = None) -> None:
    value.name, value.shape = name, other.shape
    value.type = other.type if dtype is None else ir.TensorType(dtype)


def _readers_of(out: ir.Value) -> _Readers:
    found = _Readers([], [], out.is_graph_output())
    for use in out.uses():
        node, place = use.node, use.idx
        if node.domain == schemas.DOMAIN and node.op_type == schemas.NARROW:
            found.sums.append(node)
        elif _multiplies(node, place) and (not found.products or _same(found.products[0], _Use(node, place))):
            found.products.append(_Use(node, place))
        else:
            found.others = True
    return found


def _multiplies(node: ir.Node, place: int) -> bool:
    """Tell whether a layer rounds these rows each on its own."""
    if node.domain != schemas.DOMAIN or node.op_type not in _MORE or node.attributes["nearest"].as_int():
        return False
    return place == _OWN + _MORE[node.op_type] or (place == 0 and node.op_type == schemas.NARROW_LINEAR)


def _same(first: _Use, second: _Use) -> bool:
    """Tell whether two places round alike."""
    *values, signed = first.quantiser
    *others, other_signed = second.quantiser
    pairs = zip(values, others, strict=True)
    return signed == other_signed and all(np.array_equal(_array(one), _array(other)) for one, other in pairs)


def _array(value: ir.Value | None) -> NDArray[Any]:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def _with_results(maker: ir.Node, sums: ir.Node | None, products: Sequence[_Use], *, alone: bool) -> ir.Node:
    """Return a layer like `maker` with the results that are wanted."""
    place = _NEXT + _MORE[maker.op_type]
    inputs = [*maker.inputs, *[None] * (place + 3 - len(maker.inputs))]
    told: dict[str, int] = {}
    if sums is not None:
        inputs[place] = sums.inputs[1]
        told |= {f"next_{name}": sums.attributes[name].as_int() for name in ("bits", "zero")}
    if products:
        step, bits, signed = products[0].quantiser
        inputs[place if alone else place + 1], inputs[place + 2] = step, bits
        told |= {"given": _ALONE if alone else _BESIDES, "given_signed": int(signed)}
    return _twin(maker, inputs, told, 1 + (bool(products) and not alone))


def _twin(node: ir.Node, inputs: Sequence[ir.Value | None], told: dict[str, int], results: int) -> ir.Node:
    """Return a node like another one that is told more."""
    attributes = {**node.attributes, **{name: ir.AttrInt64(name, value) for name, value in told.items()}}
    name = f"{node.name}_packed"
    return ir.Node(node.domain, node.op_type, inputs, attributes.values(), num_outputs=results, name=name)
