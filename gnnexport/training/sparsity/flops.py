"""Operations of training, counted while it runs: at the density that weights have, whatever the machine computes.

A multiply-accumulate is two operations. Counted are products with weights and sums over edges, forwards and backwards;
what acts on entries one by one is not. No number here is a saving: dense kernels compute zeros like anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from gnnexport.program.cost import cost_of
from gnnexport.program.graphs import args_of, parameter_of
from gnnexport.program.program import Program
from gnnexport.training.feeding import Feed
from gnnexport.training.parts import Part
from gnnexport.training.regime import Regime
from gnnexport.training.sparsity.weights import find_weights

aten = torch.ops.aten

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


@dataclass(frozen=True)
class _Product:
    """A product: its multiply-accumulates, which weights it reads, and which gradients it has."""

    macs: int
    weights: tuple[str, ...]
    of_input: bool
    of_weight: bool


@dataclass(frozen=True)
class Work:
    """What a forward run on a part does."""

    products: Sequence[_Product]
    sums: int
    sums_backward: int


@dataclass
class Meter:
    """Counts the steps of one run of training.

    Args:
        program: that is trained; only its graph and which of its parameters are learned matter.
        flops: where to.
    """

    program: Program
    flops: TrainingFlops
    _known: dict[Any, Work] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.program = self.program.clone().train(False)
        weights = find_weights(self.program)
        self.weights = tuple(weights)
        self._sizes = {item.label: item.size for item in weights}
        self._read: dict[str, tuple[str, ...]] = {}
        for item in weights:
            for reader in item.readers:
                self._read[reader] = (*self._read.get(reader, ()), item.label)

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

    def _share(self, item: _Product, active: Active) -> int:
        """Return the multiply-accumulates with entries that differ from zero."""
        sizes = {label: self._sizes[label] for label in item.weights}
        if active.keys().isdisjoint(sizes):
            return item.macs
        return item.macs * sum(active.get(label, size) for label, size in sizes.items()) // sum(sizes.values())

    def work(self, part: Part) -> Work:
        """Return what a run on a part does."""
        values = [*(part.inputs[item.name] for item in self.program.features), *part.structure]
        key = tuple(tuple(value.shape) if isinstance(value, Tensor) else value for value in values)
        if key not in self._known:
            self._known[key] = _work(self.program, values, self._read)
        return self._known[key]


def _work(program: Program, values: Sequence[Any], read_by: Mapping[str, tuple[str, ...]]) -> Work:
    """Find out what a run on some values does."""
    named = {node.name: node for node in program.body.graph.nodes}
    learned = _learned(program)
    products, sums, backward = [], 0, 0
    for op in cost_of(program.body, values).ops:
        node = named[op.name]
        read = [item for item in node.all_input_nodes if item in learned]
        if op.kind == "aggregation":
            sums += op.macs
            backward += op.macs * len(read)
        elif op.kind == "linear":
            matrix = _matrix(program, node)
            of_input = any(item in learned for item in _factors(node) if item is not matrix)
            products.append(_Product(op.macs, read_by.get(op.name, ()), of_input, matrix in learned))
    return Work(products, sums, backward)


def _factors(node: fx.Node) -> Sequence[fx.Node]:
    """Return the two values that a product multiplies; the third is a bias."""
    given = args_of(node)
    return given[1:3] if node.target is aten.addmm.default else given[:2]


def _matrix(program: Program, node: fx.Node) -> fx.Node | None:
    """Return the weight of a product, where it has one; of two values neither is one."""
    return next((item for item in _factors(node) if _is_constant(program, item)), None)


def _is_constant(program: Program, node: fx.Node) -> bool:
    """Tell what is computed from parameters alone, such as a matrix that is mixed from others."""
    if node.op == "call_function" and node.all_input_nodes:
        return all(_is_constant(program, item) for item in node.all_input_nodes)
    return parameter_of(program.body, node) is not None


def _learned(program: Program) -> set[fx.Node]:
    """Return all values with a gradient: what is learned, and what is computed from it."""
    found: set[fx.Node] = set()
    for node in program.body.graph.nodes:
        if node.target in (aten.sym_size.int, aten.detach.default):
            continue
        value = parameter_of(program.body, node)
        if (value is not None and value.requires_grad) or any(item in found for item in node.all_input_nodes):
            found.add(node)
    return found


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
