"""The weights of a Program that can be sparse: matrices that values are multiplied by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from gnnexport.program.graphs import args_of, parameter_of
from gnnexport.program.program import Program

aten = torch.ops.aten

_MATRIX_AT = {
    aten.linear.default: 1,
    aten.mm.default: 1,
    aten.matmul.default: 1,
    aten.addmm.default: 2,
}
"""Products, and the place of the matrix among their arguments."""

_TURNS = {aten.t.default, aten.transpose.int, aten.permute.default}


@dataclass(frozen=True)
class Weight:
    """A matrix that values are multiplied by.

    Args:
        name: of the parameter in the body; of a shared one the first.
        shape: outputs and inputs.
        turned: it is stored as [inputs, outputs].
        readers: names of the products.
        learned: it may change in training.
    """

    name: str
    shape: tuple[int, int]
    turned: bool
    readers: tuple[str, ...]
    learned: bool

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.shape[0] * self.shape[1]

    def matrix(self, stored: Tensor) -> Tensor:
        """Return what is stored, or a mask of it, as [outputs, inputs], and the other way round."""
        return stored.t() if self.turned else stored


def find_weights(program: Program) -> list[Weight]:
    """List the weight matrices of a split Program in graph order: no biases, norms, embeddings or attention vectors.

    A matrix that several products share is one weight.
    """
    names = {id(value): name for name, value in program.body.named_parameters()}
    found: dict[str, Weight] = {}
    for node in program.body.graph.nodes:
        if node.op != "call_function" or node.target not in _MATRIX_AT:
            continue
        source, turned = _source(args_of(node)[_MATRIX_AT[node.target]])
        value = parameter_of(program.body, source)
        if value is None or value.dim() != 2 or value.dtype is not torch.float32 or id(value) not in names:
            continue
        name = names[id(value)]
        if name in found:
            known = found[name]
            found[name] = Weight(name, known.shape, known.turned, (*known.readers, node.name), known.learned)
            continue
        turned ^= node.target is not aten.linear.default
        outputs, inputs = reversed(value.shape) if turned else value.shape
        found[name] = Weight(name, (outputs, inputs), turned, (node.name,), value.requires_grad)
    return list(found.values())


def _source(node: Any) -> tuple[Any, bool]:
    """Return what a matrix is before it is transposed, and whether it is, an odd number of times."""
    turned = False
    while isinstance(node, fx.Node) and node.target in _TURNS:
        turned = not turned
        node = args_of(node)[0]
    return node, turned
