"""Choose what each layer keeps: nested sets, layer by layer, each by what the layers below make on theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from gnnexport.program.edge_layers import EdgeLayer
from gnnexport.program.edge_sets import Slots, freeze, slots_of
from gnnexport.program.edge_walk import EdgeWalk, own_sets
from gnnexport.program.program import Program
from gnnexport.training.edges.agreement import agreement
from gnnexport.training.edges.scores import drawn, looked_at, message_norms, no_norm, resistances

Method = Literal["norm", "random", "top-k", "effective-resistance", "agreement"]
Schedule = Literal["rising", "equal"]

BY_NORM: tuple[Method, ...] = ("norm", "top-k")
BY_ROW: tuple[Method, ...] = ("top-k", "agreement")
"""Those that leave each node equally many edges."""


@dataclass(frozen=True)
class Plan:
    """How edges are chosen.

    Args:
        sparsity: share of the edges between different nodes of all layers that goes; `None` with a threshold.
        threshold: norm of messages below which edges go.
        method: what tells edges apart.
        schedule: whether later layers lose more.
        seed: of draws.
        chances: of each node to be of each class, float32 [nodes, classes]; with method `agreement`.
    """

    sparsity: float | None
    threshold: float | None = None
    method: Method = "norm"
    schedule: Schedule = "rising"
    seed: int = 0
    chances: Tensor | None = None


@dataclass(frozen=True)
class Chosen:
    """What a layer keeps.

    Args:
        layer: of the whole Program.
        stays: bool [slots], loops included.
        loops: slots of nodes to themselves.
        threshold: between the scores of what went and of what stayed; infinite where all went, 0 where all stayed.
        reason: why nothing was left out; empty where something could have been.
    """

    layer: EdgeLayer
    stays: Tensor
    loops: int
    threshold: float = 0.0
    reason: str = ""

    @property
    def edges(self) -> int:
        """Edges between different nodes, in the whole graph."""
        return self.stays.numel() - self.loops

    @property
    def removed(self) -> int:
        """Of these, how many went."""
        return self.stays.numel() - int(self.stays.sum())


@dataclass(frozen=True)
class Choice:
    """What all layers keep.

    Args:
        layers: in graph order.
        slots: of their structures.
    """

    layers: tuple[Chosen, ...]
    slots: Mapping[str, Slots]

    def apply(self, program: Program) -> Program:
        """Return the Program that this was chosen for on what was chosen, whatever its weights are now."""
        sets = {place: item.stays for place, item in enumerate(self.layers) if not item.reason}
        return freeze(program, [item.layer for item in self.layers], self.slots, sets)


def shares_kept(layers: int, sparsity: float, schedule: Schedule) -> list[float]:
    """Return the share of edges that each of so many layers keeps.

    `equal`: the same in each. `rising`: each keeps the same share of what the one before kept, q, q², q³ …, so that it
    goes by its own messages; q is such that all layers together keep one minus the sparsity.
    """
    if schedule == "equal" or layers == 1:
        return [1 - sparsity] * layers
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        total = sum(middle**place for place in range(1, layers + 1))
        low, high = (middle, high) if total < layers * (1 - sparsity) else (low, middle)
    return [high**place for place in range(1, layers + 1)]


def choose(program: Program, inputs: Mapping[str, Tensor], layers: list[EdgeLayer], plan: Plan) -> Choice:
    """Choose the edges of every layer.

    Args:
        program: with all edges, annotated, in evaluation mode.
        inputs: the graph, by name.
        layers: found in it.
        plan: what goes.
    """
    return Chooser(program, inputs, layers, plan).choose()


class Chooser:
    """Chooses the edges of every layer on one graph, as often as weights change.

    Args:
        program: with all edges, annotated, in evaluation mode.
        inputs: the graph, by name.
        layers: found in it.
        plan: what goes.
    """

    def __init__(self, program: Program, inputs: Mapping[str, Tensor], layers: list[EdgeLayer], plan: Plan) -> None:
        self._inputs, self._layers, self._plan = inputs, layers, plan
        self._slots = slots_of(program, inputs, layers)
        self._reasons = [_refusal(layer, program, plan, self._slots[layer.structure.rowptr]) for layer in layers]
        self._targets = _targets(layers, self._slots, self._reasons, plan)
        self._given = program
        self._fixed: dict[str, Tensor] = {}

    @property
    def edges(self) -> int:
        """Edges between different nodes, over all layers that can lose any."""
        return sum(self._free(place) for place in self._losing)

    @property
    def going(self) -> int:
        """Of these, how many go at the share of the plan."""
        return sum(self._free(place) - count for place, count in self._targets.items())

    @property
    def slots(self) -> int:
        """Edges that all layers read, those of nodes to themselves among them."""
        return sum(len(self._slots[layer.structure.rowptr].row) for layer in self._layers)

    def _free(self, place: int) -> int:
        return int((~self._slots[self._layers[place].structure.rowptr].is_loop).sum())

    @cached_property
    def program(self) -> Program:
        """The Program with all edges, in which each layer that may lose some reads edges of its own."""
        return own_sets(self._given, self._layers, self._slots, self._losing)

    @property
    def _losing(self) -> list[int]:
        return [place for place, reason in enumerate(self._reasons) if not reason]

    def walk(self, program: Program) -> EdgeWalk:
        """Return what edges are decided on in.

        Args:
            program: this one's `program`, or a copy of it with other weights.
        """
        sets = {place: self._slots[self._layers[place].structure.rowptr] for place in self._losing}
        looks = [looked_at(self._layers[place], program.body) for place in self._losing] if self._by_norm else []
        return EdgeWalk(program, self._inputs, sets, [node for look in looks for node in look])

    @property
    def _by_norm(self) -> bool:
        return self._plan.method in BY_NORM

    def choose(self, walk: EdgeWalk | None = None) -> Choice:
        """Choose by the weights as they are.

        Args:
            walk: in which nothing is decided yet; takes what is chosen. By default that of the Program as given.
        """
        if walk is None and self._by_norm and self._losing:
            walk = self.walk(self.program)
        left = {name: torch.ones(item.row.shape, dtype=torch.bool) for name, item in self._slots.items()}
        chosen: list[Chosen] = []
        for place, layer in enumerate(self._layers):
            name = layer.structure.rowptr
            whole = self._slots[name]
            loops = int(whole.is_loop.sum())
            if self._reasons[place]:
                all_stay = torch.ones_like(whole.is_loop)
                chosen.append(Chosen(layer, all_stay, loops, reason=self._reasons[place]))
                continue
            candidates = torch.nonzero(left[name]).flatten()
            free = ~whole.is_loop.index_select(0, candidates)
            target, threshold = self._targets.get(place), 0.0
            if target is None or target < int(free.sum()):
                scores = self._scores(place, candidates, left[name], walk)
                stays, threshold = _pick(scores, free, whole.row.index_select(0, candidates), target, self._plan)
                left[name] = torch.zeros_like(whole.is_loop).index_fill(0, candidates[stays], True)
            if walk is not None:
                walk.let(place, left[name], decided=True)
            chosen.append(Chosen(layer, left[name], loops, threshold))
        return Choice(tuple(chosen), self._slots)

    def _scores(self, place: int, candidates: Tensor, left: Tensor, walk: EdgeWalk | None) -> Tensor:
        """Return a number for each candidate; the largest stay.

        Args:
            place: of the layer.
            candidates: int64, slots.
            left: bool [slots], true of candidates.
            walk: in which layers before this one are decided on.
        """
        layer = self._layers[place]
        name = layer.structure.rowptr
        if self._by_norm:
            assert walk is not None
            walk.let(place, left, decided=False)
            seen = walk.observe(looked_at(layer, walk.body))
            return message_norms(layer.calls(walk.body), seen, candidates, self._slots[name])
        if name not in self._fixed:
            self._fixed[name] = self._of_graph(self._slots[name])
        return self._fixed[name].index_select(0, candidates)

    def _of_graph(self, slots: Slots) -> Tensor:
        if self._plan.chances is not None:
            return agreement(self._plan.chances, slots)
        weights = torch.ones(slots.row.shape) if self._plan.method == "random" else resistances(slots)
        return drawn(weights, self._plan.seed)


def _refusal(layer: EdgeLayer, program: Program, plan: Plan, slots: Slots) -> str:
    if layer.blocker:
        return layer.blocker
    if not layer.col and plan.method != "random":
        return f"{layer.name} does not read which nodes its edges come from"
    if plan.chances is not None and not (slots.one_kind and len(slots.degree) == len(plan.chances)):
        return f"{layer.name} has edges of other nodes than the model answers for"
    return no_norm(layer, program.body) if plan.method in BY_NORM else ""


def _targets(
    layers: Sequence[EdgeLayer], slots: Mapping[str, Slots], reasons: Sequence[str], plan: Plan
) -> dict[int, int]:
    """Return how many edges between different nodes each layer keeps; empty with a threshold."""
    if plan.sparsity is None:
        return {}
    chains: dict[str, list[int]] = {}
    for place, layer in enumerate(layers):
        if not reasons[place]:
            chains.setdefault(layer.structure.rowptr, []).append(place)
    found: dict[int, int] = {}
    for name, places in chains.items():
        edges = int((~slots[name].is_loop).sum())
        exact = [share * edges for share in shares_kept(len(places), plan.sparsity, plan.schedule)]
        counts = [round(count) for count in exact]
        if plan.schedule == "rising":
            # The sum over the layers is rounded, not each of them; no layer may keep more than the one before.
            counts = [math.floor(count) for count in exact]
            for index in range(round(sum(exact)) - sum(counts)):
                counts[index] += 1
        found |= dict(zip(places, counts, strict=True))
    return found


def _pick(scores: Tensor, free: Tensor, row: Tensor, target: int | None, plan: Plan) -> tuple[Tensor, float]:
    """Return which candidates stay, bool [candidates], and the threshold between them and the others.

    Args:
        scores: of the candidates.
        free: bool, may go.
        row: destination of each.
        target: how many of the free ones stay; `None` with a threshold.
        plan: tells the threshold and the method.
    """
    if target is None:
        assert plan.threshold is not None
        return ~free | (scores >= plan.threshold), plan.threshold
    if plan.method in BY_ROW:
        scores = _by_row(scores, row, free)
    places = torch.nonzero(free).flatten()
    order = places[scores[places].argsort(descending=True, stable=True)]
    stays = (~free).index_fill(0, order[:target], True)
    last = float(scores[order[target - 1]]) if target else float("inf")
    return stays, (last + float(scores[order[target]])) / 2


def _by_row(scores: Tensor, row: Tensor, free: Tensor) -> Tensor:
    """Rank by the place among the edges of the same destination, then by score: every row keeps equally many."""
    scores = torch.where(free, scores, scores.new_full((), -1.0))
    order = scores.argsort(descending=True, stable=True)
    order = order[row[order].argsort(stable=True)]
    counts = torch.bincount(row, minlength=int(row.max()) + 1 if row.numel() else 0)
    first = counts.cumsum(0) - counts
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order)) - first[row[order]]
    largest = scores.max().clamp(min=1e-30) if scores.numel() else scores.new_ones(())
    return (scores / largest).double() / 2 - place.double()
