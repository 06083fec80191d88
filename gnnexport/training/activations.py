"""What linear maps of a Program read on data, at some rows, within a limit of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from gnnexport.errors import UnsupportedError
from gnnexport.program.footprint import measure_footprint, peak_bytes, value_bytes
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
class Activations:
    """Rows that linear maps read, drawn from all there are.

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

    def read(self, program: Program, maps: Sequence[fx.Node]) -> dict[fx.Node, Rows]:
        """Return what linear maps read, as their results see it: aggregated where the result is aggregated later.

        The whole graph is run where that fits, else neighbourhoods of the nodes that were drawn, with all their
        neighbours: rows are the same but for which were drawn.

        Args:
            program: annotated and in evaluation mode.
            maps: of its body.

        Returns:
            For each map float32 [rows, columns]; maps that read as many rows are given the same ones.

        Raises:
            UnsupportedError: the limit is too small for a single node.
        """
        limit = default_limit() if self.limit is None else self.limit
        structure = program.structure(self.inputs)
        parts = None
        if limit is not None and value_bytes(program, self.inputs, structure) > limit:
            parts = self._parts(program, maps, structure, limit)
        if parts is None:
            found = _read(program, self.inputs, structure, maps)
            return {node: self._drawn(rows).numpy() for node, rows in found.items()}
        kept: dict[fx.Node, list[Tensor]] = {node: [] for node in maps}
        for part in parts:
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

    def _parts(
        self, program: Program, maps: Sequence[fx.Node], structure: Sequence[Any], limit: int
    ) -> Iterator[Neighbourhood] | None:
        """Return neighbourhoods of nodes drawn; `None` where the whole fits after all, or cannot be cut."""
        try:
            neighbourhoods = find_neighbourhoods(program, self.inputs, structure)
        except UnsupportedError:
            return None
        if len(neighbourhoods.csrs) > 1 and not all(_reads_nodes(node) for node in maps):
            return None

        def measured(part: Neighbourhood) -> int:
            return peak_bytes(
                lambda: _read(program, part.inputs, part.structure, maps), [*part.inputs.values(), *part.structure]
            )

        footprint = measure_footprint(neighbourhoods, measured)
        if footprint.bytes(neighbourhoods.num_nodes, neighbourhoods.num_slots) <= limit:
            return None
        of_row = _FLOAT_BYTES * sum(math.prod((shape_of(args_of(node)[0]) or (0,))[1:]) for node in maps)
        # Rows that are kept take up to half of the limit, and leave the other half to compute them in.
        count = min(self.rows, max(limit // 2 // max(of_row, 1), 1))
        generator = torch.Generator().manual_seed(self.seed)
        nodes = torch.randperm(neighbourhoods.num_nodes, generator=generator)[:count]
        left = limit - len(nodes) * of_row
        return _cut(neighbourhoods, nodes, fits_into(left, footprint, neighbourhoods), limit)


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


def _cut(
    neighbourhoods: Neighbourhoods, nodes: Tensor, fits: Callable[[int, int], bool], limit: int
) -> Iterator[Neighbourhood]:
    """Yield neighbourhoods of nodes, as many of these in each as fit."""
    waiting = [nodes]
    while waiting:
        some = waiting.pop()
        found = neighbourhoods.around(some, fits=fits)
        if found is not None:
            yield found
        elif len(some) == 1:
            raise too_small(limit, f"all neighbours of node {int(some)}")
        else:
            half = len(some) // 2
            waiting += [some[half:], some[:half]]
