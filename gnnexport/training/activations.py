"""What linear maps of a Program read on data, at some rows, within a limit of memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from gnnexport.errors import UnsupportedError
from gnnexport.program.footprint import Footprint, measure_footprint, peak_bytes, value_bytes
from gnnexport.program.graphs import args_of
from gnnexport.program.neighbourhoods import Neighbourhood, Neighbourhoods, find_neighbourhoods
from gnnexport.program.program import EXAMPLE_NODES, Program
from gnnexport.program.shapes import rank_of, shape_of, sizes_of
from gnnexport.program.values import body_values
from gnnexport.training.memory import default_limit
from gnnexport.training.sampling import fits_into, too_small
from gnnexport.training.selection import Rows

gnn = torch.ops.gnn

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class _Sample:
    """Nodes whose neighbourhoods are read instead of the whole graph.

    Args:
        nodes: int64 [nodes], drawn.
        limit: bytes in all.
        left: of these for computing, besides the rows that two readings keep.
    """

    nodes: Tensor
    limit: int
    left: int


@dataclass(frozen=True)
class Activations:
    """Rows that linear maps read, drawn from all there are: the same ones in every reading.

    Args:
        inputs: the graph or graphs, by name.
        rows: at most so many nodes, edges, or after a readout graphs.
        seed: of the draw.
        limit: bytes that computing them may take; by default half of what is free.
    """

    inputs: Mapping[str, Tensor]
    rows: int
    seed: int
    limit: int | None = None
    _samples: list[_Sample | None] = field(default_factory=list)

    def read(self, program: Program, maps: Sequence[fx.Node]) -> dict[fx.Node, Rows]:
        """Return what linear maps read, as their results see it: aggregated where the result is aggregated later.

        The whole graph is run where that fits, else neighbourhoods of the nodes that were drawn, with all their
        neighbours: rows are the same but for which were drawn. The first reading decides for later ones, so that their
        rows are about the same nodes; these are to be of some of its maps, in what is left of the Program.

        Args:
            program: annotated and in evaluation mode.
            maps: of its body.

        Returns:
            For each map float32 [rows, columns]; maps that read as many rows are given the same ones.

        Raises:
            UnsupportedError: the limit is too small for a single node.
        """
        structure = program.structure(self.inputs)
        if not self._samples:
            self._samples.append(self._sample(program, maps, structure))
        sample = self._samples[0]
        if sample is None:
            found = _read(program, self.inputs, structure, maps)
            return {node: self._drawn(rows).numpy() for node, rows in found.items()}
        neighbourhoods = find_neighbourhoods(program, self.inputs, structure)
        kept: dict[fx.Node, list[Tensor]] = {node: [] for node in maps}
        for part in _cut(neighbourhoods, sample, _footprint(program, neighbourhoods, maps)):
            found = _read(program, part.inputs, part.structure, maps)
            for node, rows in found.items():
                # A copy, so that the rows of nodes further out are let go.
                kept[node].append(rows[: _count(program, part, node)].clone())
        return {node: self._drawn(torch.cat(rows)).numpy() for node, rows in kept.items()}

    def _drawn(self, values: Tensor) -> Tensor:
        """Draw rows, the same ones of every value with as many."""
        if len(values) <= self.rows:
            return values
        generator = torch.Generator().manual_seed(self.seed)
        return values[torch.randperm(len(values), generator=generator)[: self.rows]]

    def _sample(self, program: Program, maps: Sequence[fx.Node], structure: Sequence[Any]) -> _Sample | None:
        """Draw the nodes to read at; `None` where the whole graph fits, or cannot be cut."""
        limit = default_limit() if self.limit is None else self.limit
        if limit is None or value_bytes(program, self.inputs, structure) <= limit:
            return None
        try:
            neighbourhoods = find_neighbourhoods(program, self.inputs, structure)
        except UnsupportedError:
            return None
        num_nodes, num_slots = neighbourhoods.num_nodes, neighbourhoods.num_slots
        if len(neighbourhoods.csrs) > 1 and not all(_reads_nodes(node) for node in maps):
            return None
        if _footprint(program, neighbourhoods, maps).bytes(num_nodes, num_slots) <= limit:
            return None
        degree = math.ceil(num_slots / num_nodes)
        of_node = _FLOAT_BYTES * sum(
            math.prod((shape_of(args_of(node)[0]) or (0,))[1:]) * (1 if _reads_nodes(node) else degree) for node in maps
        )
        # The rows of this reading are held while those of a smaller network are read: each a third of the limit.
        count = min(self.rows, max(limit // 3 // max(of_node, 1), 1))
        generator = torch.Generator().manual_seed(self.seed)
        nodes = torch.randperm(num_nodes, generator=generator)[:count]
        return _Sample(nodes, limit, limit - 2 * len(nodes) * of_node)


def _footprint(program: Program, neighbourhoods: Neighbourhoods, maps: Sequence[fx.Node]) -> Footprint:
    """Measure what reading takes."""

    def measured(part: Neighbourhood) -> int:
        return peak_bytes(
            lambda: _read(program, part.inputs, part.structure, maps), [*part.inputs.values(), *part.structure]
        )

    return measure_footprint(neighbourhoods, measured)


def aggregated(linear: fx.Node) -> list[fx.Node]:
    """Follow a linear map through the aggregations of its result; the map itself comes first."""
    chain = [linear]
    while len(chain[-1].users) == 1:
        user = next(iter(chain[-1].users))
        linear_sum = user.target is gnn.aggregate.default and args_of(user)[4] in ("sum", "mean") and rank_of(user) == 2
        if not linear_sum or args_of(user)[0] is not chain[-1]:
            break
        chain.append(user)
    return chain


def _read(
    program: Program, inputs: Mapping[str, Tensor], structure: Sequence[Any], maps: Sequence[fx.Node]
) -> dict[fx.Node, Tensor]:
    """Run the body, and return what maps read at every row."""
    values = body_values(program, inputs, _wanted(maps), structure)
    found = {}
    for node in maps:
        rows = values[args_of(node)[0]]
        for aggregation in aggregated(node)[1:]:
            arguments = [values[item] if isinstance(item, fx.Node) else item for item in args_of(aggregation)[1:]]
            rows = gnn.aggregate.default(rows, *arguments)
        found[node] = rows
    return found


def _wanted(maps: Sequence[fx.Node]) -> set[fx.Node]:
    """Return the values that tell what maps read."""
    found = set()
    for node in maps:
        found.add(args_of(node)[0])
        for aggregation in aggregated(node)[1:]:
            found.update(item for item in args_of(aggregation)[1:] if isinstance(item, fx.Node))
    return found


def _reads_nodes(linear: fx.Node) -> bool:
    """Tell whether a map is fitted at nodes rather than at edges."""
    return sizes_of(args_of(linear)[0], 0) == EXAMPLE_NODES or len(aggregated(linear)) > 1


def _count(program: Program, part: Neighbourhood, linear: fx.Node) -> int:
    """Return how many rows that a map reads are of the targets, or of edges that lead to them: these come first."""
    if _reads_nodes(linear):
        return part.num_targets
    rowptr = next(name for name in program.structure_names if name.startswith("rowptr"))
    return int(part.structure[program.structure_names.index(rowptr)][part.num_targets])


def _cut(neighbourhoods: Neighbourhoods, sample: _Sample, footprint: Footprint) -> Iterator[Neighbourhood]:
    """Yield neighbourhoods of the nodes drawn, as many of these in each as fit."""
    fits = fits_into(sample.left, footprint, neighbourhoods)
    waiting = [sample.nodes]
    while waiting:
        some = waiting.pop()
        found = neighbourhoods.around(some, fits=fits)
        if found is not None:
            yield found
        elif len(some) == 1:
            raise too_small(sample.limit, f"all neighbours of node {int(some)}")
        else:
            half = len(some) // 2
            waiting += [some[half:], some[:half]]
