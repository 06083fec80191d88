"""Channel labels: which entries of the values in a body are the same channel, whatever shape they stand in.

Every entry of a value, its rows left out, has an atom: `[num_nodes, 2, 8]` has an array of shape `[1, 2, 8]`. What
acts on channels one by one joins the atoms of its arguments; a concatenation lays arrays side by side, a reshape
reshapes them; and what mixes channels in a way that no smaller value has, pins them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import fx

from gnnexport.program.graphs import module_of, parameter_of
from gnnexport.program.shapes import SHAPES

Atoms = NDArray[np.int64]

OUTPUT = "they are the model's output"


class Labelling:
    """Labels of one body, as far as it has been read.

    Args:
        body: annotated.
        whole_heads: join all channels of an attention head.

    Attributes:
        of: atoms of each value.
        tensors: atoms of each parameter and buffer that has some, by the identity of the tensor.
        joins: pairs of arrays whose atoms are the same channels.
        pins: atoms that must stay, and why.
        makers: linear maps, embeddings and selections of columns, with the atoms they make.
        readers: linear maps, with the atoms of their columns.
        parts: atoms of each of several results of a call.
    """

    def __init__(self, body: fx.GraphModule, *, whole_heads: bool) -> None:
        self.body = body
        self.whole_heads = whole_heads
        self.count = 0
        self.of: dict[fx.Node, Atoms] = {}
        self.tensors: dict[int, Atoms] = {}
        self.joins: list[tuple[Atoms, Atoms]] = []
        self.pins: list[tuple[Atoms, str]] = []
        self.makers: list[tuple[fx.Node, Atoms]] = []
        self.readers: list[tuple[fx.Node, Atoms]] = []
        self.parts: dict[fx.Node, list[Atoms]] = {}

    def atoms(self, node: fx.Node) -> Atoms | None:
        """Return a value's atoms; those of a parameter are made when first asked for."""
        if node.op != "get_attr":
            return self.of.get(node)
        value = parameter_of(self.body, node)
        if value is None:
            return None
        if id(value) not in self.tensors:
            self.tensors[id(value)] = self.fresh(tuple(value.shape))
        self.of[node] = self.tensors[id(value)]
        return self.of[node]

    def fresh(self, shape: Sequence[int]) -> Atoms:
        """Make new atoms."""
        size = int(np.prod(shape, dtype=np.int64))
        self.count += size
        return np.arange(self.count - size, self.count).reshape(shape)

    def pin(self, atoms: Atoms | None, reason: str) -> None:
        """Let atoms stay for a reason."""
        if atoms is not None and atoms.size:
            self.pins.append((atoms.reshape(-1), reason))

    def pinned(self, node: fx.Node, reason: str) -> Atoms:
        """Make atoms for a value that must stay as it is."""
        atoms = self.fresh(template(node))
        self.pin(atoms, reason)
        return atoms

    def join(self, one: Atoms, other: Atoms) -> None:
        """Let atoms be the same channels; `one` is broadcast to the shape of `other`."""
        self.joins.append((np.broadcast_to(one, other.shape).reshape(-1), other.reshape(-1)))

    def spread(self, atoms: Atoms, over: Atoms, node: fx.Node) -> None:
        """Enter a factor with fewer entries than the channels it meets: one for all of them, or one for each head."""
        if self.whole_heads and atoms.size > 1:
            self.join(atoms, over)
        else:
            self.pin(atoms, f"{module_of(node)} spreads each of them over many")


def template(node: fx.Node) -> tuple[int, ...]:
    """Return a value's shape with one in place of every size that grows with the graph."""
    sizes = zip(*node.meta[SHAPES], strict=True)
    return tuple(found[0] if len(set(found)) == 1 else 1 for found in sizes)
