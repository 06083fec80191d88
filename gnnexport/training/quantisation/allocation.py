"""Widths without training: give each row the container that is worth it, by the error that it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gnnexport.program.dialect.quantize import LEAST_STEP, largest_level
from gnnexport.program.graphs import args_of
from gnnexport.program.program import Program
from gnnexport.program.values import body_values
from gnnexport.training.parts import Part
from gnnexport.training.quantisation.calibration import best_steps, squared_errors
from gnnexport.training.quantisation.widths import Learned, Target


def rows_read(program: Program, parts: Sequence[Part], maps: Sequence[Learned]) -> dict[str, Tensor]:
    """Return what quantisers of rows are given, float32 [rows, width], by name; those of groups are left out.

    Args:
        program: with quantisers, in evaluation mode.
        parts: the whole graph.
        maps: of the Program.
    """
    wanted = {item.quantiser: args_of(item.quantiser.node)[0] for item in maps if item.quantiser.by == "rows"}
    found: dict[str, list[Tensor]] = {item.name: [] for item in wanted}
    for part in parts if wanted else ():
        values = body_values(program, part.inputs, list(wanted.values()), part.structure)
        for item, node in wanted.items():
            found[item.name].append(values[node].reshape(len(values[node]), item.width))
    return {name: torch.cat(rows) for name, rows in found.items() if rows}


def allocate(maps: Sequence[Learned], rows: Mapping[str, Tensor], target: Target) -> list[Tensor]:
    """Return the container of each entry that leaves the least error, relative to the map, within a target.

    What a bit may cost is found by bisection.

    Args:
        maps: hidden features, of which each row has its own width.
        rows: what they are.
        target: to be met.
    """
    options = [_Options(item, maps, target, rows[item.quantiser.name]) for item in maps]
    limit = target.limit(maps)

    def at(price: float) -> list[Tensor]:
        return [(item.errors + price * item.costs).argmin(1) for item in options]

    low, high = 0.0, 1e12
    if _cost(options, at(low)) <= limit:
        return _widths(options, at(low))
    for _ in range(100):
        middle = (low * high) ** 0.5 if low else high * 1e-3
        low, high = (low, middle) if _cost(options, at(middle)) <= limit else (middle, high)
        if not low and high < 1e-12:
            break
    return _widths(options, _filled(options, at(high), limit))


class _Options:
    """What the containers of a map cost, and which error they leave.

    Args:
        item: the map.
        maps: all of them.
        target: that tells the cost.
        rows: of the map, float32 [rows, width].
    """

    def __init__(self, item: Learned, maps: Sequence[Learned], target: Target, rows: Tensor) -> None:
        self.widths = torch.tensor([float(width) for width in item.containers])
        place = [other is item for other in maps].index(True)
        costs, errors = [], []
        for width in self.widths:
            bits = [torch.full_like(other.bits, float(width)) for other in maps]
            costs.append(target.costs(maps, bits)[place])
            step = best_steps(rows, width[None], signed=item.quantiser.signed)
            errors.append(squared_errors(rows, step, width[None], signed=item.quantiser.signed))
        self.costs = torch.stack(costs, 1)
        """float64 [rows, containers]."""
        self.errors = torch.stack(errors, 1).double() / rows.double().square().sum().clamp(min=1e-30)
        """float64 [rows, containers], relative to all of the map."""


def _cost(options: Sequence[_Options], chosen: Sequence[Tensor]) -> float:
    return sum(float(item.costs.gather(1, place[:, None]).sum()) for item, place in zip(options, chosen, strict=True))


def _widths(options: Sequence[_Options], chosen: Sequence[Tensor]) -> list[Tensor]:
    return [item.widths[place] for item, place in zip(options, chosen, strict=True)]


def _filled(options: Sequence[_Options], chosen: Sequence[Tensor], limit: float) -> list[Tensor]:
    """Spend what one price for all leaves over on the rows that gain most from their next container."""
    above = [(place + 1).clamp(max=len(item.widths) - 1) for item, place in zip(options, chosen, strict=True)]
    gain, cost = (
        torch.cat([table.gather(1, after[:, None]) - table.gather(1, now[:, None])
                   for table, now, after in zip(tables, chosen, above, strict=True)]).flatten()
        for tables in ([-item.errors for item in options], [item.costs for item in options])
    )  # fmt: skip
    left = limit * (1 + 1e-12) - _cost(options, chosen)
    fits = (gain > 0) & (cost > 0) & (cost <= left)
    order = torch.argsort(torch.where(fits, gain / cost.clamp(min=1e-30), -1.0), descending=True, stable=True)
    wider = torch.zeros(len(order), dtype=torch.bool)
    wider[order] = torch.where(fits, cost, left + 1)[order].cumsum(0) <= left
    parts = wider.split([len(place) for place in chosen])
    return [torch.where(part, after, now) for part, after, now in zip(parts, above, chosen, strict=True)]


def by_degree(maps: Sequence[Learned], degrees: Tensor, target: Target) -> list[Tensor]:
    """Return containers that grow with the in-degree of nodes, within a target: the way without learning.

    The nodes with most neighbours have the container above the target's mean, the others the one below.

    Args:
        maps: hidden features by node.
        degrees: float32 [num_nodes].
        target: to be met; the smallest containers do.
    """
    offered = sorted({width for item in maps for width in item.containers})

    def at(width: int) -> list[Tensor]:
        found = [max((each for each in item.containers if each <= width), default=item.containers[0]) for item in maps]
        return [torch.full_like(item.bits, float(bits)) for item, bits in zip(maps, found, strict=True)]

    def cost(width: int) -> float:
        return target.cost(maps, at(width))

    limit = target.limit(maps)
    below = max((width for width in offered if cost(width) <= limit), default=offered[0])
    above = min((width for width in offered if width > below), default=below)
    share = (limit - cost(below)) / (cost(above) - cost(below)) if above > below else 0.0
    rank = torch.argsort(torch.argsort(degrees, descending=True, stable=True), stable=True)
    wide = rank < int(share * len(degrees))
    return [torch.where(wide, more, less) for more, less in zip(at(above), at(below), strict=True)]


def set_widths(maps: Sequence[Learned], widths: Sequence[Tensor], rows: Mapping[str, Tensor]) -> None:
    """Give quantisers new widths, and rows the steps that leave least error with these; the Program is changed.

    Args:
        maps: of the Program.
        widths: one for each entry.
        rows: what the maps are now, where nodes have their own widths; a group keeps its reach.
    """
    for item, bits in zip(maps, widths, strict=True):
        quantiser = item.quantiser
        if quantiser.name in rows:
            step = best_steps(rows[quantiser.name], bits, signed=quantiser.signed)
        else:
            old, new = (largest_level(each, quantiser.signed).clamp(min=1) for each in (item.bits, bits))
            step = quantiser.step.detach() * old / new
        quantiser.step.data = step.clamp(min=LEAST_STEP)
        quantiser.bits.data = bits.clone()
