"""Channel groups: the parameters that must shrink together when a hidden channel goes.

A channel of a hidden value is made by rows of the weights before it and read by columns of the weights after it; what
stands between acts on each channel by itself. Labels tell which entries of which values are the same channel; a unit is
all entries that go together, and a group the units that one linear map reads or makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx

from gnnexport.program.cutting import cut_node, cut_splits, rectangle, replace_everywhere
from gnnexport.program.graphs import args_of, calls, module_of, parameter_of
from gnnexport.program.label_rules import is_pointwise, label
from gnnexport.program.labels import OUTPUT, Labelling
from gnnexport.program.program import Program
from gnnexport.program.shapes import shape_of

aten = torch.ops.aten

Units = NDArray[np.int64]
Mask = NDArray[np.bool_]

UNREAD = "no linear map reads"
_EXPECTED = (OUTPUT, UNREAD)
"""Reasons of values that nobody expects to shrink."""


@dataclass(eq=False)
class Group:
    """Channels that are chosen together.

    Args:
        units: all of them, ascending.
        sizes: channels of each; more than one where a unit is a whole head.
        segments: places in `units` of those that may go, by the maps that make them.
        ties: segments of which equally many units must stay: the heads of one value.
        producers: linear maps whose outputs are the channels, and selections of columns.
        consumers: linear maps that read them.
        blockers: why some or all cannot go.
    """

    units: Units
    sizes: Units
    segments: list[Units] = field(default_factory=list)
    ties: list[list[int]] = field(default_factory=list)
    producers: list[fx.Node] = field(default_factory=list)
    consumers: list[fx.Node] = field(default_factory=list)
    blockers: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Number of channels."""
        return int(self.sizes.sum())

    @property
    def free(self) -> int:
        """Number of units that may go."""
        return sum(map(len, self.segments))

    def __str__(self) -> str:
        makers = ", ".join(dict.fromkeys(name_of(node) for node in self.producers))
        readers = ", ".join(dict.fromkeys(name_of(node) for node in self.consumers)) or "no linear map"
        text = f"{self.width} channels from {makers} to {readers}"
        return f"{text}: {'; '.join(self.blockers)}" if self.blockers else text


def name_of(node: fx.Node) -> str:
    """Name what makes or reads channels."""
    if node.target is aten.index_select.default:
        return f"columns of the input '{args_of(node)[0].name}'"
    name = str(getattr(args_of(node)[1], "target", ""))
    # A map that was moved over an aggregation is said to come from there.
    if node.target is aten.linear.default and name.endswith(".weight") and not module_of(node).endswith("Linear)"):
        return f"{name.removesuffix('.weight')} (Linear)"
    return module_of(node)


class Channels:
    """The units of a body, and its groups in graph order, those that nothing linear reads only where an op blocks them.

    Args:
        program: split; annotated here, and its body is what `cut` changes.
        whole_heads: heads stay or go as a whole; otherwise channels inside heads do, equally many of each head.
    """

    def __init__(self, program: Program, *, whole_heads: bool = False) -> None:
        bypass_expansions(program)
        program.annotate()
        self.body = program.body
        self.whole_heads = whole_heads
        found = label(program.body, whole_heads=whole_heads)
        self._unit, self.count = _resolve(found)
        self.labels = {node: self._unit[atoms] for node, atoms in found.of.items()}
        self._tensors = {key: self._unit[atoms] for key, atoms in found.tensors.items()}
        self.made = {node: self._unit[atoms] for node, atoms in found.makers}
        self.read = {node: self._unit[atoms] for node, atoms in found.readers}
        self._reason, self._reasons = self._pins(found)
        self.groups = self._groups()

    def _pins(self, found: Labelling) -> tuple[Units, list[str]]:
        """Return for each unit the place of the first reason why it must stay, -1 for those that may go."""
        pins = [(self._unit[atoms], why) for atoms, why in found.pins]
        read = np.concatenate([np.zeros(0, np.int64), *self.read.values()])
        pins += [
            (np.setdiff1d(units, read), f"{UNREAD} what {name_of(node)} makes") for node, units in self.made.items()
        ]
        reason: Units = np.full(self.count, -1)
        for place, (units, _) in reversed(list(enumerate(pins))):
            reason[units] = place
        for table in self._heads():
            fixed = reason[table] >= 0
            if fixed.all() or (table.ndim == 2 and not fixed.any()):
                continue
            reason[table[~fixed]] = len(pins)
        return reason, [*(why for _, why in pins), "they stand in heads of which a part cannot shrink"]

    def _heads(self) -> list[Units]:
        """Return the units of each value whose channels stand in a table, such as heads by channels."""
        tables: dict[bytes, Units] = {}
        for array in (*self.labels.values(), *self._tensors.values()):
            squeezed = np.squeeze(array)
            if squeezed.ndim >= 2 and any(len(np.unique(row)) > 1 for row in squeezed):
                tables.setdefault(squeezed.tobytes(), squeezed)
        return list(tables.values())

    def _groups(self) -> list[Group]:
        pinned = self._reason >= 0
        chains = [*self.made.values(), *self.read.values()]
        pairs = [_chain(units[mask[units]]) for units in chains for mask in (pinned, ~pinned)]
        component = _components(pairs, self.count)
        heads = self._heads()
        groups = []
        for place in dict.fromkeys(component[units[0]] for units in _runs(self.made.values(), pinned)):
            units = np.flatnonzero(component == place)
            group = self._group(units, heads)
            if group.consumers or any(not reason.startswith(_EXPECTED) for reason in group.blockers):
                groups.append(group)
        return sorted(groups, key=lambda group: min(group.producers))

    def _group(self, units: Units, heads: Sequence[Units]) -> Group:
        sizes = np.zeros(len(units), np.int64)
        producers = [node for node, made in self.made.items() if np.isin(made, units).any()]
        for node in producers:
            made = self.made[node]
            sizes = np.maximum(sizes, np.bincount(np.searchsorted(units, made[np.isin(made, units)]),
                                                  minlength=len(units)))  # fmt: skip
        blockers = [self._reasons[place] for place in np.unique(self._reason[units]) if place >= 0]
        group = Group(units, sizes, blockers=list(dict.fromkeys(blockers)))
        group.producers = producers
        group.consumers = [node for node, read in self.read.items() if np.isin(read, units).any()]
        if not blockers:
            self._segment(group, heads)
        return group

    def _segment(self, group: Group, heads: Sequence[Units]) -> None:
        """Tell apart the units that different maps make or that stand in different heads."""
        rows = [(table, row) for table, array in enumerate(heads) for row in range(len(array))
                if np.isin(array[row], group.units).any()]  # fmt: skip
        marks = [np.isin(group.units, self.made[node]) for node in group.producers]
        marks += [np.isin(group.units, heads[table][row]) for table, row in rows]
        kinds, segment = np.unique(np.stack(marks, 1), axis=0, return_inverse=True)
        segment = segment.reshape(-1)
        group.segments = [np.flatnonzero(segment == kind) for kind in range(len(kinds))]
        ties: dict[int, set[int]] = {}
        for table in dict.fromkeys(table for table, _ in rows):
            members = [set(segment[np.isin(group.units, row)].tolist()) for row in heads[table]]
            if any(len(row) != 1 for row in members):
                group.blockers.append("their heads are made of several parts")
                continue
            tied = set().union(*members, *(ties.get(item, set()) for row in members for item in row))
            ties.update(dict.fromkeys(tied, tied))
        group.ties = [sorted(tied) for tied in {id(tied): tied for tied in ties.values()}.values()]
        group.ties += [[index] for index in range(len(kinds)) if index not in ties]

    def cut(self, keep: Mask) -> None:
        """Take units out of the body: rows of what makes them, entries of vectors, columns of what reads them.

        Args:
            keep: for each unit whether it stays.
        """
        masks = {node: keep[units] for node, units in self.labels.items()}
        tensors = self._labelled_tensors()
        for node, mask in masks.items():
            # A window on what is cut moves, even one whose own entries all stay.
            around = (masks[item] for item in node.all_input_nodes if item in masks)
            if node.op != "get_attr" and not all(item.all() for item in (mask, *around)):
                cut_node(node, masks)
        cut_splits(self.body, masks)
        for weight, axes in self._weights().items():
            value = parameter_of(self.body, weight)
            for axis, units in axes.items():
                if value is not None and not keep[units].all():
                    value = value.index_select(axis, torch.from_numpy(np.flatnonzero(keep[units])))
            if value is not None:
                replace_everywhere(self.body, weight, value)
        self._tensors = {}
        for node, value, units in tensors:
            mask = keep[units]
            cut = value if mask.all() else value[torch.from_numpy(mask)].reshape(rectangle(mask))
            self._tensors[id(replace_everywhere(self.body, node, cut))] = _cut_units(units, keep)
        self.labels = {node: _cut_units(units, keep) for node, units in self.labels.items()}
        self.made = {node: units[keep[units]] for node, units in self.made.items()}
        self.read = {node: units[keep[units]] for node, units in self.read.items()}
        self.body.recompile()

    def _labelled_tensors(self) -> list[tuple[fx.Node, Tensor, Units]]:
        """Return each parameter and buffer that has labels once, whatever its names."""
        found: dict[int, tuple[fx.Node, Tensor, Units]] = {}
        for node in self.body.graph.nodes:
            value = parameter_of(self.body, node)
            if value is not None and id(value) in self._tensors:
                found[id(value)] = node, value, self._tensors[id(value)]
        return list(found.values())

    def _weights(self) -> dict[fx.Node, dict[int, Units]]:
        """Return the units along the axes of each weight."""
        found: dict[fx.Node, dict[int, Units]] = {}
        for units_of, axis in ((self.made, 0), (self.read, 1)):
            for node, units in units_of.items():
                if node.target is aten.linear.default:
                    found.setdefault(args_of(node)[1], {})[axis] = units
                elif node.target is aten.embedding.default:
                    found.setdefault(args_of(node)[0], {})[1] = units
        return found


def _cut_units(units: Units, keep: Mask) -> Units:
    mask = keep[units]
    return units if mask.all() else units[mask].reshape(rectangle(mask))


def _chain(units: Units) -> tuple[Units, Units]:
    return units[:-1], units[1:]


def _runs(made: Iterable[Units], pinned: Mask) -> list[Units]:
    """Return what each map makes, what may go and what must stay apart."""
    runs = [units[mask[units]] for units in made for mask in (~pinned, pinned)]
    return [units for units in runs if len(units)]


def _components(pairs: Sequence[tuple[Units, Units]], count: int) -> Units:
    ones, others = (np.concatenate([np.zeros(0, np.int64), *(pair[side] for pair in pairs)]) for side in (0, 1))
    graph = coo_array((np.ones(len(ones), np.int8), (ones, others)), shape=(count, count))
    labels: Units = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def _resolve(found: Labelling) -> tuple[Units, int]:
    """Return the unit of each atom and the number of units, numbered in graph order of their first atoms."""
    if not found.count:
        return np.zeros(0, np.int64), 0
    label = _components([*found.joins, (np.zeros(0, np.int64),) * 2], found.count)
    return label, int(label.max()) + 1


def bypass_expansions(program: Program) -> None:
    """Let what acts on channels one by one read a value as it was before it was expanded: it broadcasts on its own."""
    program.annotate()
    graph = program.body.graph
    for node in calls(graph, aten.expand.default, aten.expand_as.default):
        for user in list(node.users):
            whole = [item for item in user.all_input_nodes if item is not node and shape_of(item) == shape_of(user)]
            if whole and is_pointwise(user):
                user.replace_input_with(node, args_of(node)[0])
        if not node.users:
            graph.erase_node(node)
    program.body.recompile()
