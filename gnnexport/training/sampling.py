"""Train and judge on neighbourhoods of some nodes at a time, none of which takes more memory than a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gnnexport.errors import UnsupportedError
from gnnexport.program.data import GraphData, Split
from gnnexport.program.footprint import Footprint, measure_footprint, peak_bytes
from gnnexport.program.neighbourhoods import Fits, Neighbourhood, Neighbourhoods
from gnnexport.program.program import Program
from gnnexport.training.feeding import Feed
from gnnexport.training.parts import Part, rows_of

FANOUTS: tuple[tuple[int, ...] | None, ...] = (None, (25, 10), (10, 5), (5, 3), (3, 2))
"""Neighbours drawn at each hop, the more the better; `None` for all of them."""
LEAST_ROWS = 64
"""Mini-batches of fewer nodes are taken only where nothing else fits."""

_COPIES = 5
"""Of the parameters: gradients, two moments of Adam, the best so far, and the Program that they came from."""
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Batches:
    """Mini-batches of training.

    Args:
        rows: training nodes in each.
        fanout: neighbours drawn at each hop from these outwards; `None` for all.
        step: what a training step takes.
    """

    rows: int
    fanout: tuple[int, ...] | None
    step: Footprint


@dataclass(frozen=True)
class SampledFeed(Feed):
    """Neighbourhoods of some nodes of one graph; nodes are judged on all their neighbours, whatever they learn from.

    Args:
        data: the graph.
        neighbourhoods: cuts them out.
        limit: bytes that a part may take.
        forward: what running one takes.
        whole: makes the graph one part; `None` where running it does not fit.
        batches: of training; `None` where nothing is to be trained.
        note: how training is done.
    """

    data: GraphData
    neighbourhoods: Neighbourhoods
    limit: int
    forward: Footprint
    whole: Callable[[Split], Part] | None
    batches: Batches | None = None
    note: str = ""
    _sizes: dict[Split, int] = field(default_factory=dict)

    def judged(self, split: Split) -> Iterator[Part]:
        """Return the whole graph where it fits, else neighbourhoods of as many nodes as do."""
        if self.whole is not None:
            yield self.whole(split)
            return
        places = torch.arange(len(rows_of(self.data, split)))
        # What the first pass found to fit is where later ones start.
        size = self._sizes.pop(split, max(len(places), 1))
        for some in places.split(size):
            for _, part in self._cut(split, some, self.forward):
                self._sizes[split] = max(len(part.y), self._sizes.get(split, 1))
                yield part

    def steps(self, teacher: Sequence[Tensor] | None) -> Iterator[Part]:
        """Return mini-batches of nodes in random order; one that would take too much is cut in halves."""
        assert self.batches is not None
        answers = None if teacher is None else torch.cat(list(teacher))
        order = torch.randperm(len(rows_of(self.data, "train")))
        for places in order.split(self.batches.rows):
            seed = int(torch.randint(2**62, ()))
            for some, part in self._cut("train", places, self.batches.step, self.batches.fanout, seed):
                yield part if answers is None else part.taught(answers[some])

    def _cut(
        self, split: Split, places: Tensor, footprint: Footprint, fanout: Sequence[int] | None = None, seed: int = 0
    ) -> Iterator[tuple[Tensor, Part]]:
        """Yield parts for some of the labelled rows of a split, with the places of these among them."""
        assert self.data.y is not None
        rows = rows_of(self.data, split)
        fits = fits_into(self.limit, footprint, self.neighbourhoods)
        waiting = [places]
        while waiting:
            some = waiting.pop()
            found = self.neighbourhoods.around(rows[some], fanout, seed, fits)
            if found is not None:
                yield some, _part(found, self.data.y[rows[some]])
            elif len(some) == 1:
                raise too_small(self.limit, f"all neighbours of node {int(rows[some])}")
            else:
                half = len(some) // 2
                waiting += [some[half:], some[:half]]


def fits_into(limit: int, footprint: Footprint, neighbourhoods: Neighbourhoods) -> Fits:
    """Return what tells whether a neighbourhood, and running it, stay within a limit."""

    def fits(nodes: int, slots: int) -> bool:
        return footprint.bytes(nodes, slots) + neighbourhoods.copied_bytes(nodes, slots) <= limit

    return fits


def too_small(limit: int, what: str) -> UnsupportedError:
    """Return the error of a limit that not even one node fits into."""
    where = "[training] memory"
    return UnsupportedError.at(where, f"{limit / _MEGABYTE:.0f} MB are too few for {what}", "Allow more with --memory")


def forward_footprint(program: Program, neighbourhoods: Neighbourhoods) -> Footprint:
    """Measure what it takes to run a Program."""
    program = program.clone().train(False)

    def measured(part: Neighbourhood) -> int:
        with torch.no_grad():
            return peak_bytes(lambda: program.run_body(part.inputs, part.structure), _given(part))

    return measure_footprint(neighbourhoods, measured)


def step_footprint(program: Program, neighbourhoods: Neighbourhoods) -> Footprint:
    """Measure what a training step takes, with all that training holds besides."""
    program = program.clone().train(True)
    parameters = sum(item.numel() * item.element_size() for item in program.body.parameters())

    def measured(part: Neighbourhood) -> int:
        program.body.zero_grad(set_to_none=True)
        # What random ops draw here must not be missing in training.
        with torch.random.fork_rng():
            peak = peak_bytes(lambda: program.run_body(part.inputs, part.structure).sum().backward(), _given(part))
        return peak + (_COPIES - 1) * parameters

    return measure_footprint(neighbourhoods, measured, _COPIES * parameters)


def choose_batches(neighbourhoods: Neighbourhoods, rows: Tensor, step: Footprint, limit: int) -> Batches:
    """Return the largest mini-batches that stay within a limit, with as many neighbours as go with enough rows.

    Args:
        neighbourhoods: of the graph.
        rows: to train on.
        step: what a step takes.
        limit: bytes.

    Raises:
        UnsupportedError: not even one node fits, or neighbours would have to be drawn that cannot be.
    """
    fits = fits_into(limit, step, neighbourhoods)
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    hub = rows[torch.argmax(neighbourhoods.degrees[rows])].reshape(1)
    fanouts = FANOUTS if neighbourhoods.sampling is None else FANOUTS[:1]
    largest: dict[tuple[int, ...] | None, int] = {}
    for fanout in fanouts:
        if neighbourhoods.around(hub, fanout, 0, fits) is None:
            continue
        size = len(rows)
        while size > 1 and neighbourhoods.around(order[:size], fanout, 0, fits) is None:
            size = (size + 1) // 2
        if size >= min(LEAST_ROWS, len(rows)):
            return Batches(size, fanout, step)
        largest[fanout] = size
    if not largest:
        reason = f", of which none can be left out: {neighbourhoods.sampling}" if neighbourhoods.sampling else ""
        raise too_small(limit, f"a training step on the neighbours of one node{reason}")
    fanout = max(largest, key=lambda item: largest[item])
    return Batches(largest[fanout], fanout, step)


def describe(batches: Batches, neighbourhoods: Neighbourhoods, limit: int) -> str:
    """Tell how training is done, and why."""
    whole = batches.step.bytes(neighbourhoods.num_nodes, neighbourhoods.num_slots)
    drawn = "" if batches.fanout is None else f" with up to {', then '.join(map(str, batches.fanout))} neighbours drawn"
    return (
        f"in mini-batches of {batches.rows} nodes{drawn}: a step on the whole graph takes up to "
        f"{whole / _MEGABYTE:.0f} MB, and {limit / _MEGABYTE:.0f} MB are allowed"
    )


def _part(found: Neighbourhood, y: Tensor) -> Part:
    return Part(found.inputs, found.structure, torch.arange(found.num_targets), y, len(found.nodes))


def _given(part: Neighbourhood) -> list[object]:
    return [*part.inputs.values(), *part.structure]
