"""Cut neighbourhoods out of a graph: all that the rows of some nodes depend on, as a body runs on it.

What `prepare` made of the whole graph is cut along with it rather than made again: normalisations by degree stay those
of the whole graph, and nothing is sorted for each neighbourhood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from gnnexport.errors import UnsupportedError
from gnnexport.native.neighbours import Block, expand, number
from gnnexport.program.draws import unfair
from gnnexport.program.graphs import args_of, module_of, output_node
from gnnexport.program.hops import STEPS, Hops, Space, find_hops
from gnnexport.program.inputs import Role
from gnnexport.program.program import Program
from gnnexport.program.shapes import sizes_of
from gnnexport.program.simplify import drop_dead

aten = torch.ops.aten
gnn = torch.ops.gnn

Ids = NDArray[np.int64]
Fits = Callable[[int, int], bool]
"""Tells whether so many nodes with so many slots are few enough."""

_WHERE = "neighbourhoods"
_MEND = "Use the whole graph"
_INT64_BYTES = 8
_SLOT_BYTES = 6 * _INT64_BYTES
"""Of one slot while it is found, numbered and copied."""


@dataclass(frozen=True)
class Neighbourhood:
    """Part of a graph that holds all that the rows of its first nodes depend on.

    Rows of nodes further out are computed as well, but of too few neighbours: they are only there to be read at the
    depth at which they are right.

    Args:
        nodes: int64 [nodes], their numbers in the graph; the targets come first, in the order asked for.
        num_targets: how many of them are targets.
        num_slots: in all structures together.
        inputs: features of these nodes.
        structure: what the body takes besides.
    """

    nodes: Tensor
    num_targets: int
    num_slots: int
    inputs: Mapping[str, Tensor]
    structure: tuple[Any, ...]


@dataclass(frozen=True)
class _Csr:
    """One structure of the body: the slots of each node, and the names of its parts and values."""

    rowptr: str
    parts: Mapping[str, str]
    start: Ids
    length: Ids
    col: Ids

    def count(self, nodes: Ids, fanout: int | None) -> int:
        length = self.length[nodes]
        return int((length if fanout is None else np.minimum(length, fanout)).sum())

    def expand(self, nodes: Ids, fanout: int | None, seed: int) -> Block:
        return expand(self.start, self.length, self.col, nodes, fanout=fanout, seed=seed)


@dataclass(frozen=True)
class Neighbourhoods:
    """What to cut neighbourhoods of one Program out of one graph with.

    Args:
        features: inputs that have a row for each node.
        structure: values by name, in the order the body takes them, of the whole graph.
        csrs: the structures.
        slot_values: the structure that a value belongs to, by the value's name.
        node_values: names of values of nodes.
        depth: message-passing steps that an answer depends on.
        scaled: values that are multiplied by neighbours over neighbours drawn, so that sums stay fair.
        sampling: why drawn neighbours cannot stand for all of them; `None` where they can.
    """

    features: Mapping[str, Tensor]
    structure: Mapping[str, Any]
    csrs: tuple[_Csr, ...]
    slot_values: Mapping[str, _Csr]
    node_values: frozenset[str]
    depth: int
    scaled: frozenset[str]
    sampling: str | None
    _marks: list[NDArray[np.int32]] = field(default_factory=list)

    @property
    def num_nodes(self) -> int:
        """Nodes of the whole graph."""
        return len(next(iter(self.features.values())))

    @property
    def num_slots(self) -> int:
        """Slots of the whole graph, in all structures together."""
        return sum(len(csr.col) for csr in self.csrs)

    @property
    def degrees(self) -> Tensor:
        """Slots of each node, in all structures together, int64 [nodes]."""
        return torch.stack([torch.from_numpy(csr.length) for csr in self.csrs]).sum(0)

    def copied_bytes(self, nodes: int, slots: int) -> int:
        """Return what a neighbourhood of so many nodes and slots takes by itself."""
        rows = [*self.features.values(), *(self.structure[name] for name in self.node_values)]
        values = [self.structure[name] for name in self.slot_values]
        of_node = sum(_row_bytes(value) for value in rows) + 2 * _INT64_BYTES
        of_slot = max((_row_bytes(value) for value in values), default=0) + _SLOT_BYTES
        return nodes * of_node + slots * of_slot

    def around(
        self, targets: Tensor, fanout: Sequence[int] | None = None, seed: int = 0, fits: Fits | None = None
    ) -> Neighbourhood | None:
        """Cut out what the rows of some nodes depend on; `None` where it does not fit.

        With all neighbours the targets' rows are those of the whole graph. With some drawn, means, largest values and
        attention are taken over these; sums that are weighted by the graph, as of a GCN, are scaled to what all
        neighbours would give on average.

        Args:
            targets: int64 [targets], distinct nodes.
            fanout: at most so many neighbours of each node, one number for each hop from the targets outwards, the
                last also for further hops; `None` for all neighbours.
            seed: of the draws.
            fits: asked before each hop, so that what is too much is never made.
        """
        nodes: Ids = targets.numpy()
        blocks: list[list[tuple[Block, Ids]]] = [[] for _ in self.csrs]
        done = slots = 0
        for hop in range(self.depth):
            most = None if fanout is None else fanout[min(hop, len(fanout) - 1)]
            frontier = nodes[done:]
            slots += sum(csr.count(frontier, most) for csr in self.csrs)
            if fits is not None and not fits(len(nodes), slots):
                return None
            found = [csr.expand(frontier, most, seed) for csr in self.csrs]
            done = len(nodes)
            nodes, index = number(np.concatenate([nodes, *(block.col for block in found)]), self._scratch())
            ends = np.cumsum([done, *(len(block.col) for block in found)])
            for place, block in enumerate(found):
                blocks[place].append((block, index[ends[place] : ends[place + 1]]))
        if fits is not None and not fits(len(nodes), slots):
            return None
        cut = {csr.rowptr: _Cut.of(csr, parts, nodes) for csr, parts in zip(self.csrs, blocks, strict=True)}
        return self._made(torch.from_numpy(nodes), len(targets), cut, scale=fanout is not None)

    def probe(self, count: int, fanout: int) -> Neighbourhood:
        """Make something of the same shapes to measure: some nodes, each with up to `fanout` neighbours among them."""
        nodes = np.linspace(0, self.num_nodes - 1, min(count, self.num_nodes)).astype(np.int64)
        cut = {}
        for csr in self.csrs:
            block = csr.expand(nodes, fanout, 0)
            cut[csr.rowptr] = _Cut.of(csr, [(block, block.col % len(nodes))], nodes)
        return self._made(torch.from_numpy(nodes), len(nodes), cut, scale=False)

    def _scratch(self) -> NDArray[np.int32]:
        if not self._marks:
            self._marks.append(np.full(self.num_nodes, -1, np.int32))
        return self._marks[0]

    def _made(self, nodes: Tensor, num_targets: int, cut: Mapping[str, _Cut], *, scale: bool) -> Neighbourhood:
        values: dict[str, Any] = {}
        for part in cut.values():
            values |= part.parts()
        for name, value in self.structure.items():
            if name in self.slot_values:
                part = cut[self.slot_values[name].rowptr]
                values[name] = value.index_select(0, part.slots)
                if scale and name in self.scaled:
                    values[name] = part.scaled(values[name])
            elif name in self.node_values:
                values[name] = value.index_select(0, nodes)
            elif name not in values:
                values[name] = value
        inputs = {name: value.index_select(0, nodes) for name, value in self.features.items()}
        num_slots = sum(len(part.slots) for part in cut.values())
        return Neighbourhood(nodes, num_targets, num_slots, inputs, tuple(values[name] for name in self.structure))


@dataclass(frozen=True)
class _Cut:
    """A structure between the nodes of a neighbourhood.

    Args:
        csr: it is a part of.
        rowptr: int64 [nodes + 1].
        col: int64 [slots], as the neighbourhood numbers nodes.
        slots: int64 [slots], places in the structure of the whole graph.
        length: int64 [nodes], how many slots each node has in the whole graph.
    """

    csr: _Csr
    rowptr: Tensor
    col: Tensor
    slots: Tensor
    length: Tensor

    @classmethod
    def of(cls, csr: _Csr, blocks: Sequence[tuple[Block, Ids]], nodes: Ids) -> _Cut:
        """Lay the blocks of hop after hop one behind the other; nodes beyond the last have no slots."""
        lengths = np.zeros(len(nodes), np.int64)
        counts = np.concatenate([np.diff(block.rowptr) for block, _ in blocks])
        lengths[: len(counts)] = counts
        rowptr = np.zeros(len(nodes) + 1, np.int64)
        np.cumsum(lengths, out=rowptr[1:])
        col = np.concatenate([index for _, index in blocks])
        slots = np.concatenate([block.slots for block, _ in blocks])
        return cls(csr, *(torch.from_numpy(array) for array in (rowptr, col, slots, csr.length[nodes])))

    @property
    def row(self) -> Tensor:
        lengths = self.rowptr.diff()
        return torch.repeat_interleave(torch.arange(len(lengths)), lengths)

    def parts(self) -> dict[str, Tensor]:
        """Return pointers and neighbours by name."""
        return {name: getattr(self, part) for part, name in self.csr.parts.items()}

    def scaled(self, values: Tensor) -> Tensor:
        """Multiply values of slots by how many of its slots each node has for one that was taken."""
        share = (self.length / self.rowptr.diff().clamp(min=1))[self.row]
        return values * share.view(-1, *[1] * (values.dim() - 1)).to(values.dtype)


def find_neighbourhoods(
    program: Program, inputs: Mapping[str, Tensor], structure: Sequence[Any] | None = None
) -> Neighbourhoods:
    """Find out how to cut neighbourhoods that a Program can be run on out of a graph.

    Args:
        program: split.
        inputs: the whole graph, by name.
        structure: what `prepare` made of it, where that is there.

    Raises:
        UnsupportedError: a row depends on more than a neighbourhood, or the graph is not of a single kind.
    """
    _check_inputs(program)
    known = _without_dropout(program)
    hops = find_hops(known)
    names = _structures(hops)
    made = program.structure(inputs) if structure is None else structure
    whole = dict(zip(program.structure_names, made, strict=True))
    csrs = {rowptr: _csr(rowptr, parts, whole) for rowptr, parts in names.items()}
    output: fx.Node = args_of(output_node(known.body.graph))[0]
    scaled: set[str] = set()
    sampling = next((reason for node in hops.steps if (reason := unfair(node, scaled)) is not None), None)
    values = hops.structure_values
    return Neighbourhoods(
        features={item.name: inputs[item.name] for item in program.features},
        structure=whole,
        csrs=tuple(csrs.values()),
        slot_values={name: csrs[_owner(known, names, name)] for name, space in values.items() if space is Space.SLOTS},
        node_values=frozenset(name for name, space in values.items() if space is Space.ROWS),
        depth=hops.depth[output],
        scaled=frozenset(scaled),
        sampling=sampling,
    )


def _refused(what: str) -> UnsupportedError:
    return UnsupportedError.at(_WHERE, what, _MEND)


def _check_inputs(program: Program) -> None:
    if program.prepare is None:
        raise _refused("the Program is not split yet")
    if program.level != "node" or program.target:
        raise _refused(f"the model answers for each {program.level}{program.target.replace('__', ' ')}")
    if [item.role for item in program.features] != [Role.NODE_FEATURES]:
        raise _refused("the model does not read one table of node features")
    if {Role.GRAPH_IDS, Role.NUM_GRAPHS} & {item.role for item in program.inputs}:
        raise _refused("the model reads which graph a node belongs to")


def _without_dropout(program: Program) -> Program:
    """Return an annotated copy in evaluation mode without what does nothing there, for trials of its ops."""
    program = program.clone().train(False)
    for node in program.body.graph.find_nodes(op="call_function", target=aten.dropout.default):
        node.replace_all_uses_with(args_of(node)[0])
    drop_dead(program.body.graph)
    program.body.recompile()
    program.annotate()
    return program


def _structures(hops: Hops) -> dict[str, dict[str, str]]:
    """Return the names of the parts of each structure, by the name of its pointers."""
    found: dict[str, dict[str, str]] = {}
    for node in hops.steps:
        parts = hops.parts(node)
        if any(value.op != "placeholder" for value in parts.values()):
            raise _refused(f"{module_of(node)} computes the neighbours it reduces over from features")
        names = {part: str(value.target) for part, value in parts.items()}
        known = found.setdefault(names["rowptr"], {})
        if any(known.setdefault(part, name) != name for part, name in names.items()):
            raise _refused(f"{module_of(node)} reads other neighbours than a layer with the same pointers")
    return found


def _csr(rowptr: str, parts: Mapping[str, str], structure: Mapping[str, Any]) -> _Csr:
    pointers: Ids = structure[rowptr].numpy()
    length = np.diff(pointers)
    # Slots that no row is read through lead nowhere.
    col = structure[parts["col"]].numpy() if "col" in parts else np.repeat(np.arange(len(length)), length)
    return _Csr(rowptr, parts, np.ascontiguousarray(pointers[:-1]), length, col)


def _owner(program: Program, names: Mapping[str, Mapping[str, str]], value: str) -> str:
    """Return the pointers of the structure that a value has as many rows as, and that is read along with it."""
    given = {str(node.target): node for node in program.body.graph.find_nodes(op="placeholder")}
    wanted = sizes_of(given[value], 0)
    owners = [
        rowptr
        for rowptr, parts in names.items()
        if wanted in [sizes_of(given[name], 0) for part, name in parts.items() if part != "rowptr"]
    ]
    if len(owners) > 1:  # layers that went without some edges have all of them in the examples
        owners = [rowptr for rowptr in owners if rowptr in _read_along(given[value])]
    if len(owners) != 1:
        raise _refused(f"'{value}' belongs to {len(owners)} structures")
    return owners[0]


def _read_along(value: fx.Node) -> set[str]:
    """Return the pointers by which a value, or what is computed of it, is first moved or reduced."""
    found, seen, left = set(), {value}, [value]
    while left:
        fresh = [user for user in left.pop().users if user not in seen]
        seen.update(fresh)
        found |= {str(args_of(user)[1].target) for user in fresh if user.target in STEPS}
        left += [user for user in fresh if user.target not in STEPS]
    return found


def _row_bytes(value: Tensor) -> int:
    return value.element_size() * math.prod(value.shape[1:])
