"""Projections: what stays of the weights of a model at a sparsity, by pattern and by how it is shared out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnnexport.program.channels import Channels, Group
from gnnexport.program.graphs import args_of, parameter_of
from gnnexport.program.program import Program
from gnnexport.training.budgets import allocate
from gnnexport.training.sparsity.densities import Distribution, erk, left_of, uniform
from gnnexport.training.sparsity.patterns import Axis, Pattern, mask_above, mask_of, masks_of
from gnnexport.training.sparsity.weights import Weight, laid_out

Values = Mapping[str, Tensor]
"""By name of a parameter, something of its shape."""

aten = torch.ops.aten


class Projection(ABC):
    """Tells which entries of weights stay: those of largest magnitude that a pattern allows."""

    @abstractmethod
    def masks(self, values: Values, sparsity: float) -> dict[str, Tensor]:
        """Return what stays, by name, bool of the shape of the parameter.

        Args:
            values: of all weights; need not be those of the model.
            sparsity: share of entries, or of channels, that go.
        """


@dataclass(frozen=True)
class Entries(Projection):
    """Entries go, one by one, in blocks, or out of groups.

    Args:
        weights: of the model.
        pattern: of what stays.
        distribution: how the entries that stay are shared out; groups have their own share.
        read: squares of the norms of what each input of a weight reads, float64 [inputs], by label, which scores are
            multiplied by; `None` for magnitudes alone.
    """

    weights: Sequence[Weight]
    pattern: Pattern
    distribution: Distribution = "global"
    read: Values | None = None

    def counts(self, sparsity: float) -> list[int]:
        """Return how many entries of each weight stay, where that does not hang on their values."""
        shapes = [item.shape for item in self.weights]
        return erk(shapes, sparsity) if self.distribution == "erk" else uniform(shapes, sparsity)

    def masks(self, values: Values, sparsity: float) -> dict[str, Tensor]:
        """Return which entries stay: exactly as many as the sparsity leaves, but for whole blocks and groups."""
        scores = self._scores(values)
        if self.distribution == "global":
            total = left_of(sum(item.size for item in self.weights), sparsity)
            masks = masks_of(scores, self.pattern, total)
        else:
            counts = self.counts(sparsity)
            masks = [mask_of(score, self.pattern, count) for score, count in zip(scores, counts, strict=True)]
        return laid_out(self.weights, masks, values)

    def above(self, values: Values, threshold: float) -> dict[str, Tensor]:
        """Return which entries stay, by name: those of no smaller magnitude times norm, and the largest of each weight.

        Args:
            values: of all weights.
            threshold: see there; of blocks the root of the mean square counts.
        """
        masks = [mask_above(score, self.pattern, threshold**2) for score in self._scores(values)]
        return laid_out(self.weights, masks, values)

    def _scores(self, values: Values) -> list[Tensor]:
        """Return what entries are told apart by, float64 [outputs, inputs] of each weight."""
        squares = [item.matrix(values[item.name].detach()).double().square() for item in self.weights]
        if self.read is None:
            return squares
        return [square * self.read[item.label] for item, square in zip(self.weights, squares, strict=True)]


class WholeChannels(Projection):
    """Columns of what reads hidden channels go, or rows of what makes them: whole channels, in groups that go together.

    Args:
        program: split; a copy is looked at, so that names hold for all clones of it.
        axis: by which weights a channel is judged, and which are zero without it.
    """

    def __init__(self, program: Program, axis: Axis) -> None:
        self.axis = axis
        self._channels = Channels(program.clone().train(False))
        self.groups = [group for group in self._channels.groups if not group.blockers]
        self._units = self._places(axis)

    def _places(self, axis: Axis) -> dict[str, NDArray[np.int64]]:
        """Return the unit of each row or column, by name of a weight."""
        body = self._channels.body
        names = {id(value): name for name, value in body.named_parameters()}
        of = self._channels.read if axis == "column" else self._channels.made
        found = {}
        for node, units in of.items():
            value = parameter_of(body, args_of(node)[1]) if node.target is aten.linear.default else None
            if value is not None and id(value) in names:
                found[names[id(value)]] = units
        return found

    def kept(self, values: Values, sparsity: float) -> NDArray[np.bool_]:
        """Return for each unit of the model whether it stays, bool [units]."""
        keep = np.ones(self._channels.count, bool)
        scores = self._scores(values)
        for group in self.groups:
            keep[np.delete(group.units, self._best(group, scores[group.units], sparsity))] = False
        return keep

    def _scores(self, values: Values) -> NDArray[np.float64]:
        """Return the sum of squares of each unit's columns, or rows."""
        total = np.zeros(self._channels.count)
        for name, units in self._units.items():
            squares = values[name].detach().double().square().sum(0 if self.axis == "column" else 1)
            np.add.at(total, units, squares.numpy())
        return total

    def _best(self, group: Group, scores: NDArray[np.float64], sparsity: float) -> NDArray[np.int64]:
        order = np.argsort(-scores, kind="stable")
        return allocate(order, group.segments, group.ties, left_of(group.free, sparsity), 1)

    def masks(self, values: Values, sparsity: float) -> dict[str, Tensor]:
        """Return what stays of the columns, or rows, of each weight."""
        keep = self.kept(values, sparsity)
        found = {}
        for name, units in self._units.items():
            row = torch.from_numpy(keep[units])
            shape = values[name].shape
            found[name] = (row[None, :] if self.axis == "column" else row[:, None]).expand(shape).clone()
        return found

    def cut(self, program: Program, values: Values, sparsity: float) -> list[str]:
        """Take channels out of a Program, a clone of the one looked at, and tell what is left of each group."""
        keep = self.kept(values, sparsity)
        channels = Channels(program)
        lines = []
        for group in channels.groups:
            if not group.blockers:
                left = int(group.sizes[keep[group.units]].sum())
                lines.append(f"{group}: kept {left}")
        channels.cut(keep)
        return lines
