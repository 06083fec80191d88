"""The weights of a Program that can be sparse: matrices that values are multiplied by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from gnnexport.program.graphs import args_of, parameter_of
from gnnexport.program.program import Program
from gnnexport.program.shapes import rank_of

aten = torch.ops.aten

_MATRIX_AT = {
    aten.linear.default: 1,
    aten.mm.default: 1,
    aten.matmul.default: 1,
    aten.addmm.default: 2,
}
"""Products, and the place of the matrix among their arguments."""

_FURTHER_PRODUCTS = (aten.bmm.default, aten.einsum.default)
"""Of which no matrix is found."""

_LAST = ([1, 0], [0, 2, 1])
"""Orders of dimensions that swap the last two, of a matrix and of a stack of them."""


@dataclass(frozen=True)
class Weight:
    """A matrix that values are multiplied by.

    Args:
        name: of the parameter in the body; of a shared one the first.
        shape: outputs and inputs.
        turned: it is stored as [inputs, outputs].
        readers: names of the products.
        learned: it may change in training.
        place: along the first dimension of a parameter that holds several matrices; `None` where it is one.
    """

    name: str
    shape: tuple[int, int]
    turned: bool
    readers: tuple[str, ...]
    learned: bool
    place: int | None = None

    @property
    def label(self) -> str:
        """Name of the matrix: of its parameter, and its place among several."""
        return self.name if self.place is None else f"{self.name}[{self.place}]"

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.shape[0] * self.shape[1]

    def matrix(self, stored: Tensor) -> Tensor:
        """Return the matrix, [outputs, inputs], as a view of what is stored, or of something of its shape."""
        part = stored if self.place is None else stored[self.place]
        return part.t() if self.turned else part


def find_weights(program: Program) -> list[Weight]:
    """List the weight matrices of a split Program in graph order: no biases, norms, embeddings or attention vectors.

    A matrix that several products share is one weight. A parameter [matrices, inputs, outputs], as of types of edges,
    is as many as products read of it.
    """
    names = {id(value): name for name, value in program.body.named_parameters()}
    found: dict[str, Weight] = {}
    for node in program.body.graph.nodes:
        if node.op != "call_function" or node.target not in _MATRIX_AT:
            continue
        source, turned, place = _source(args_of(node)[_MATRIX_AT[node.target]])
        value = parameter_of(program.body, source)
        if value is None or value.dtype is not torch.float32 or id(value) not in names:
            continue
        turned ^= node.target is not aten.linear.default
        for item in _matrices(value, place, turned):
            weight = replace(item, name=names[id(value)], readers=(node.name,))
            known = found.get(weight.label)
            found[weight.label] = weight if known is None else replace(known, readers=(*known.readers, node.name))
    return list(found.values())


def _matrices(value: Tensor, place: int | None, turned: bool) -> Iterator[Weight]:
    """Yield what a product reads of a parameter, without name and readers."""
    if value.dim() != (2 if place is None else 3):
        # All matrices of a stack are multiplied by at once, unless each is transposed.
        if place is None and value.dim() == 3 and turned:
            for number in range(len(value)):
                yield from _matrices(value, number, turned)
        return
    outputs, inputs = reversed(value.shape[-2:]) if turned else value.shape[-2:]
    yield Weight("", (outputs, inputs), turned, (), value.requires_grad, place)


def _source(node: Any) -> tuple[Any, bool, int | None]:
    """Return what a matrix is before it is transposed, whether it is, an odd number of times, and its place there."""
    turned = False
    while isinstance(node, fx.Node) and _turns(node):
        turned = not turned
        node = args_of(node)[0]
    if isinstance(node, fx.Node) and node.target is aten.select.int and args_of(node)[1] == 0:
        source, _, place = args_of(node)
        return (source, turned, place) if isinstance(place, int) and place >= 0 else (None, turned, None)
    return node, turned, None


def _turns(node: fx.Node) -> bool:
    """Tell whether a value is another with its last two dimensions swapped."""
    if node.target is aten.permute.default:
        return list(args_of(node)[1]) in _LAST
    if node.target is aten.transpose.int:
        return {place % (rank_of(node) or 2) for place in args_of(node)[1:]} == {rank_of(node) - 2, rank_of(node) - 1}
    return node.target is aten.t.default


def factor_of(program: Program, reader: fx.Node) -> tuple[fx.Node, bool]:
    """Return what a product multiplies by a matrix of weights, and whether it multiplies by several at once.

    Args:
        program: that the product is of.
        reader: the product, of a weight that was found.
    """
    given = args_of(reader)
    value = parameter_of(program.body, given[_MATRIX_AT[reader.target]])  # type: ignore[index]
    rows: fx.Node = given[1 if reader.target is aten.addmm.default else 0]
    return rows, value is not None and value.dim() == 3


def dense_parameters(program: Program) -> list[str]:
    """Name the learned parameters that products read, and of which no matrix is found: mixed or laid out otherwise."""
    found = {item.name for item in find_weights(program)}
    names = {id(value): name for name, value in program.body.named_parameters()}
    left: dict[str, None] = {}
    for node in program.body.graph.nodes:
        if node.op != "call_function" or (node.target not in _MATRIX_AT and node.target not in _FURTHER_PRODUCTS):
            continue
        for value in (parameter_of(program.body, _origin(item)) for item in node.all_input_nodes):
            name = names.get(id(value), "")
            if value is not None and value.requires_grad and value.dim() > 1 and name and name not in found:
                left[name] = None
    return list(left)


def _origin(node: fx.Node) -> fx.Node:
    """Return what a value is a part or another layout of."""
    while node.op == "call_function" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node


def laid_out(weights: Sequence[Weight], masks: Sequence[Tensor], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return masks by name, of the shape of each parameter; what is of none of the weights stays.

    Args:
        weights: of a Program.
        masks: of each, bool [outputs, inputs].
        values: the parameters, or something of their shapes, by name.
    """
    found: dict[str, Tensor] = {}
    for item, mask in zip(weights, masks, strict=True):
        whole = found.setdefault(item.name, torch.ones(values[item.name].shape, dtype=torch.bool))
        item.matrix(whole).copy_(mask)
    return found
