"""Operations of training, counted while it runs: at the density that weights have, whatever the machine computes.

A multiply-accumulate is two operations. Counted are products with weights and sums over edges, forwards and backwards;
what acts on entries one by one is not. No number here is a saving: dense kernels compute zeros like anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gnnexport.program.program import Program
from gnnexport.training.feeding import Feed
from gnnexport.training.parts import Part
from gnnexport.training.regime import Regime
from gnnexport.training.sparsity.weights import find_weights
from gnnexport.training.sparsity.work import Product, Work, Works

OF_ONE = 2
"""Operations of a multiply-accumulate."""

Active = Mapping[str, int]
"""How many entries of a weight differ from zero, by label; of weights that are not named all do."""


@dataclass
class TrainingFlops:
    """Operations by what they are for; one object counts several runs of training.

    Args:
        linear: products with weights: forwards, and the gradients of what they read and of weights.
        aggregation: sums over edges, forwards and backwards.
        dense_gradients: of entries that are zero, computed where it is decided which to make active.
        evaluation: of all this forwards, on validation rows.
        steps: of training.
    """

    linear: int = 0
    aggregation: int = 0
    dense_gradients: int = 0
    evaluation: int = 0
    steps: int = 0

    @property
    def total(self) -> int:
        """All of training, without evaluation."""
        return self.linear + self.aggregation + self.dense_gradients

    def __str__(self) -> str:
        parts = f"linear maps {_short(self.linear)}, sums over edges {_short(self.aggregation)}"
        if self.dense_gradients:
            parts += f", gradients of zeros {_short(self.dense_gradients)}"
        return (
            f"counted, not saved: {_short(self.total)} of training in {self.steps} steps, of which {parts}; "
            f"evaluation besides {_short(self.evaluation)}"
        )


def _short(count: int) -> str:
    for unit, name in ((10**12, "TFLOP"), (10**9, "GFLOP"), (10**6, "MFLOP")):
        if count >= unit:
            return f"{count / unit:,.2f} {name}"
    return f"{count:,} FLOP"


@dataclass
class Meter:
    """Counts the steps of one run of training.

    Args:
        program: that is trained; only its graph and which of its parameters are learned matter.
        flops: where to.
    """

    program: Program
    flops: TrainingFlops

    def __post_init__(self) -> None:
        self.program = self.program.clone().train(False)
        weights = find_weights(self.program)
        self.weights = tuple(weights)
        self._sizes = {item.label: item.size for item in weights}
        read: dict[str, tuple[str, ...]] = {}
        for item in weights:
            for reader in item.readers:
                read[reader] = (*read.get(reader, ()), item.label)
        self.works = Works(self.program, read)

    def step(self, part: Part, active: Active) -> None:
        """Count a step on a part."""
        work = self.work(part)
        for item in work.products:
            gradients = int(item.of_input) + int(item.of_weight)
            self.flops.linear += OF_ONE * (1 + gradients) * self._share(item, active)
        self.flops.aggregation += OF_ONE * (work.sums + work.sums_backward)
        self.flops.steps += 1

    def dense_gradients(self, part: Part, active: Active) -> None:
        """Count the gradients of entries that are zero, on a part whose step is counted already."""
        for item in self.work(part).products:
            if item.of_weight:
                self.flops.dense_gradients += OF_ONE * (item.macs - self._share(item, active))

    def evaluated(self, judged: Sequence[Work], active: Active) -> None:
        """Count one evaluation."""
        for work in judged:
            self.flops.evaluation += OF_ONE * (sum(self._share(item, active) for item in work.products) + work.sums)

    def _share(self, item: Product, active: Active) -> int:
        """Return the multiply-accumulates with entries that differ from zero."""
        sizes = {label: self._sizes[label] for label in item.weights}
        if active.keys().isdisjoint(sizes):
            return item.macs
        return item.macs * sum(active.get(label, size) for label, size in sizes.items()) // sum(sizes.values())

    def work(self, part: Part) -> Work:
        """Return what a run on a part does."""
        return self.works.of([*(part.inputs[item.name] for item in self.program.features), *part.structure])


class Counted(Regime):
    """The plain run, with its operations counted; sparse weights count at the density they begin with.

    Args:
        flops: where to.
    """

    def __init__(self, flops: TrainingFlops) -> None:
        self.flops = flops
        self.active: dict[str, int] = {}
        self._meter: Meter | None = None
        self._judged: list[Work] = []

    @property
    def meter(self) -> Meter:
        """What counts, once the run has begun."""
        assert self._meter is not None
        return self._meter

    def begin(self, program: Program, feed: Feed) -> None:
        """Find out what a step does, and how many entries of sparse weights there are."""
        self._meter = Meter(program, self.flops)
        named = dict(program.body.named_parameters())
        self.active = {
            item.label: int(item.matrix(named[item.name].detach()).count_nonzero())
            for item in self._meter.weights
            if item.name in program.sparse_weights
        }
        self._judged = [self.meter.work(part) for part in feed.judged("val")]

    def stepped(self, part: Part) -> None:
        """Count a step."""
        self.meter.step(part, self.active)

    def admits(self) -> bool:
        """Count an evaluation; all weights may be the best."""
        self.meter.evaluated(self._judged, self.active)
        return True
