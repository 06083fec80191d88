"""Fit the linear maps that read a group of channels to what they computed before some of the channels went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from gnnexport.program.channels import Channels, Group, Mask
from gnnexport.program.graphs import args_of, parameter_of, replace_tensor
from gnnexport.program.program import Program
from gnnexport.program.shapes import rank_of, sizes_of
from gnnexport.training.activations import Activations, aggregated
from gnnexport.training.selection import Matrix, Places, Readers, Rows, refit

aten = torch.ops.aten
gnn = torch.ops.gnn


class Fit:
    """What the readers of a group compute in the unpruned network.

    Args:
        channels: of the body that is pruned.
        group: of it.
        activations: that the readers read.
        read: what they read in the unpruned network, by reader.
    """

    def __init__(
        self, channels: Channels, group: Group, activations: Activations, read: Mapping[fx.Node, Rows]
    ) -> None:
        self._activations = activations
        self._channels = channels
        self._body = channels.body
        self.group = group
        self.sums = summed_readers(group)
        columns = {node: _places(group, channels.read[node]) for node in group.consumers}
        self._readers = [
            Readers([read[node] for node in nodes], [weight_of(self._body, node) for node in nodes],
                    [columns[node] for node in nodes])
            for nodes in self.sums
        ]  # fmt: skip

    def gram(self) -> Matrix:
        """Return the Gram matrix of the units' contributions with the weights as they are now, [units, units]."""
        count = len(self.group.units)
        total = np.zeros((count, count))
        for readers in self._reweighted():
            total += readers.gram(count)
        return total

    def magnitudes(self) -> Matrix:
        """Return for each unit the sum of the absolute weights that read it."""
        total = np.zeros(len(self.group.units))
        for readers in self._readers:
            for weight, columns in zip(readers.weights, readers.columns, strict=True):
                np.add.at(total, columns[columns >= 0], np.abs(weight).sum(0)[columns >= 0])
        return total

    def _reweighted(self) -> list[Readers]:
        """Take the weights anew: rows go when the channels they make do."""
        self._readers = [
            readers.reweighted([weight_of(self._body, node) for node in nodes])
            for nodes, readers in zip(self.sums, self._readers, strict=True)
        ]
        return self._readers

    def least(self, keep: Mask | None = None) -> int:
        """Return how many columns of raw features stay at least: as many as the widest map makes channels of them.

        Args:
            keep: for each unit whether it stays; by default all that are there.
        """
        if all(node.target is aten.linear.default for node in self.group.producers):
            return 1
        made = [self._channels.made[node] for node in self.group.consumers]
        return max(len(units) if keep is None else int(keep[units].sum()) for units in made)

    def cut(self, kept: Places) -> str:
        """Take all other units of the group out of the body, and leave the weights that read it as they were.

        Returns:
            The channels left of each part of the group, as text.
        """
        channels = self._channels
        keep = np.ones(channels.count, bool)
        keep[np.delete(self.group.units, kept)] = False
        # A residual connection makes a map read and make the same channels.
        self._rows = {node: keep[channels.made[node]] for node in self.group.consumers}
        self._reweighted()
        left = [self.group.sizes[np.intersect1d(segment, kept)].sum() for segment in self.group.segments]
        channels.cut(keep)
        return "+".join(str(int(width)) for width in left)

    def refit(self, program: Program) -> None:
        """Fit the cut weights to the sums of before, on what the maps read in the smaller network.

        What is read changes with the channels: a normalisation over them has other statistics.
        """
        read = self._activations.read(program, self.group.consumers)
        for nodes, readers in zip(self.sums, self._readers, strict=True):
            target: Any = sum(
                rows @ weight[self._rows[node]].T.astype(rows.dtype)
                for node, rows, weight in zip(nodes, readers.inputs, readers.weights, strict=True)
            )
            start = [weight_of(self._body, node) for node in nodes]
            for node, weight in zip(nodes, refit([read[node] for node in nodes], start, target), strict=True):
                old = parameter_of(self._body, args_of(node)[1])
                assert old is not None
                replace_tensor(self._body, args_of(node)[1], torch.from_numpy(weight).to(old.dtype))


def _places(group: Group, units: NDArray[np.int64]) -> Places:
    """Return the places of units in a group, -1 for those of no place."""
    places = np.searchsorted(group.units, units).clip(max=len(group.units) - 1)
    return np.where(group.units[places] == units, places, -1)


def weight_of(body: fx.GraphModule, node: fx.Node) -> Matrix:
    """Return the weight of a linear map, float64 [outputs, columns]."""
    value = parameter_of(body, args_of(node)[1])
    assert value is not None
    return value.detach().numpy().astype(np.float64)


def summed_readers(group: Group) -> list[list[fx.Node]]:
    """Collect the linear maps whose results are added up: they are fitted to the sum they make."""
    sums: dict[fx.Node, list[fx.Node]] = {}
    for node in group.consumers:
        result = aggregated(node)[-1]
        while len(result.users) == 1:
            user = next(iter(result.users))
            if not _adds(user, result):
                break
            result = user
        sums.setdefault(result, []).append(node)
    return list(sums.values())


def _adds(node: fx.Node, value: fx.Node) -> bool:
    """Tell a plain sum of a value and another one with the same rows, or a bias of rank one."""
    if node.target is not aten.add.Tensor or node.kwargs.get("alpha", 1) != 1:
        return False
    return all(
        isinstance(item, fx.Node) and (rank_of(item) == 1 or sizes_of(item, 0) == sizes_of(value, 0))
        for item in args_of(node)
    )
