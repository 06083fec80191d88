"""Widths without training: give each row the container that is worth it, by the error that it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gnnexport.program.dialect.quantize import LEAST_STEP, largest_level
from gnnexport.program.graphs import args_of
from gnnexport.program.program import Program
from gnnexport.program.quantised import Quantiser
from gnnexport.program.values import body_values
from gnnexport.training.parts import Part
from gnnexport.training.quantisation.calibration import best_steps, squared_errors
from gnnexport.training.quantisation.widths import Learned, Target, snap


def rows_read(program: Program, parts: Sequence[Part], maps: Sequence[Learned]) -> dict[str, Tensor]:
    """Return what quantisers of rows are given, float32 [rows, width], by name; those of groups are left out.

    Args:
        program: with quantisers, in evaluation mode.
        parts: the whole graph.
        maps: of the Program.
    """
    wanted = {item.quantiser.name: args_of(item.quantiser.node)[0] for item in maps if item.quantiser.by == "rows"}
    found: dict[str, list[Tensor]] = {name: [] for name in wanted}
    for part in parts if wanted else ():
        values = body_values(program, part.inputs, list(wanted.values()), part.structure)
        for name, node in wanted.items():
            found[name].append(values[node].reshape(len(values[node]), -1))
    return {name: torch.cat(rows) for name, rows in found.items() if rows}


def allocate(
    maps: Sequence[Learned], rows: Mapping[str, Tensor], target: Target, containers: Sequence[int]
) -> list[Tensor]:
    """Return the container of each entry that leaves the least error, relative to the map, within a target.

    What a bit may cost is found by bisection. Groups, whose rows change with their steps, are given the target's mean.

    Args:
        maps: hidden features.
        rows: what they are.
        target: to be met.
        containers: ascending.
    """
    if any(item.quantiser.name not in rows for item in maps):
        return _even(maps, target, containers)
    shares, limit = target.shares(maps), target.limit(maps)
    errors = [_errors(item.quantiser, rows[item.quantiser.name], containers) for item in maps]
    widths = torch.tensor([float(width) for width in containers])

    def at(price: float) -> list[Tensor]:
        return [widths[(error + price * share[:, None].double() * widths).argmin(1)]
                for error, share in zip(errors, shares, strict=True)]  # fmt: skip

    low, high = 0.0, 1e12
    if _cost(shares, at(low)) <= limit:
        return at(low)
    for _ in range(100):
        middle = (low * high) ** 0.5 if low else high * 1e-3
        low, high = (low, middle) if _cost(shares, at(middle)) <= limit else (middle, high)
        if not low and high < 1e-12:
            break
    return _filled(at(high), errors, shares, containers, limit)


def _filled(
    chosen: list[Tensor], errors: Sequence[Tensor], shares: Sequence[Tensor], containers: Sequence[int], limit: float
) -> list[Tensor]:
    """Spend what one price for all leaves over on the rows that gain most from their next container."""
    widths = torch.tensor([float(width) for width in containers])
    place = [torch.searchsorted(widths, bits) for bits in chosen]
    above = [(item + 1).clamp(max=len(widths) - 1) for item in place]
    gain = torch.cat([error.gather(1, now[:, None]) - error.gather(1, after[:, None])
                      for error, now, after in zip(errors, place, above, strict=True)]).flatten()  # fmt: skip
    cost = torch.cat([(widths[after] - widths[now]).double() * share.double()
                      for now, after, share in zip(place, above, shares, strict=True)])  # fmt: skip
    left = limit * (1 + 1e-12) - _cost(shares, chosen)
    fits = (cost > 0) & (cost <= left)
    order = torch.argsort(torch.where(fits, gain / cost.clamp(min=1e-30), -1.0), descending=True, stable=True)
    wider = torch.zeros(len(order), dtype=torch.bool)
    wider[order] = torch.where(fits, cost, left + 1)[order].cumsum(0) <= left
    parts = wider.split([len(item) for item in place])
    return [widths[torch.where(part, after, now)] for part, after, now in zip(parts, above, place, strict=True)]


def by_degree(maps: Sequence[Learned], degrees: Tensor, target: Target, containers: Sequence[int]) -> list[Tensor]:
    """Return containers that grow with the in-degree of nodes, within a target: the way without learning.

    The nodes with most neighbours have the container above the target's mean, the others the one below.

    Args:
        maps: hidden features by node.
        degrees: float32 [num_nodes].
        target: to be met.
        containers: ascending.
    """
    shares, limit = target.shares(maps), target.limit(maps)
    mean = limit / sum(float(share.sum()) for share in shares)
    below = max((width for width in containers if width <= mean), default=containers[0])
    above = min((width for width in containers if width > below), default=below)
    share = (mean - below) / (above - below) if above > below else 0.0
    rank = torch.argsort(torch.argsort(degrees, descending=True, stable=True), stable=True)
    wide = rank < int(min(share, 1.0) * len(degrees))
    return [torch.where(wide, float(above), float(below)) for _ in maps]


def _cost(shares: Sequence[Tensor], chosen: Sequence[Tensor]) -> float:
    return sum(float((share.double() * bits).sum()) for share, bits in zip(shares, chosen, strict=True))


def _errors(item: Quantiser, rows: Tensor, containers: Sequence[int]) -> Tensor:
    """Return the error of each row in each container, float64 [rows, containers], relative to all of the map."""
    found = []
    for width in containers:
        bits = torch.tensor([float(width)])
        step = best_steps(rows, bits, signed=item.signed)
        found.append(squared_errors(rows, step, bits, signed=item.signed))
    return torch.stack(found, 1).double() / rows.double().square().sum().clamp(min=1e-30)


def _even(maps: Sequence[Learned], target: Target, containers: Sequence[int]) -> list[Tensor]:
    for item in maps:
        item.quantiser.bits.data.fill_(target.bits or 8.0)
    return snap(maps, target, containers)


def set_widths(maps: Sequence[Learned], widths: Sequence[Tensor], rows: Mapping[str, Tensor]) -> None:
    """Give quantisers new widths, and rows whose width changes the step that suits it; the Program is changed.

    Args:
        maps: of the Program.
        widths: one for each entry.
        rows: what the maps are, where nodes have their own widths; a group keeps its reach.
    """
    for item, bits in zip(maps, widths, strict=True):
        quantiser = item.quantiser
        before = quantiser.bits.detach().clone()
        changed = before != bits
        if quantiser.name in rows:
            step = best_steps(rows[quantiser.name], bits, signed=quantiser.signed)
        else:
            old, new = (largest_level(each, quantiser.signed).clamp(min=1) for each in (before, bits))
            step = quantiser.step.detach() * old / new
        quantiser.step.data = torch.where(changed, step, quantiser.step.detach()).clamp(min=LEAST_STEP)
        quantiser.bits.data = bits.clone()
