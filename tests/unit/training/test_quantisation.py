from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gnnexport.native.packed import pack
from gnnexport.passes.a2q import A2Q
from gnnexport.passes.contract import PassContext
from gnnexport.passes.order_propagation import OrderPropagation
from gnnexport.program.dialect.quantize import largest_level, reach
from gnnexport.program.program import Program
from gnnexport.training.quantisation.allocation import allocate, by_degree, rows_read, set_widths
from gnnexport.training.quantisation.calibration import best_steps, exact_rows, group_steps, squared_errors
from gnnexport.training.quantisation.learning import Learning, Rates, counted_widths, histogram
from gnnexport.training.quantisation.placing import Placement, factored, place
from gnnexport.training.quantisation.widths import (
    Learned,
    Target,
    average_bits,
    feature_bytes,
    learned_widths,
    mean_bits,
    nearest_containers,
    smallest_containers,
    snap,
)
from gnnexport.training.regime import Regime
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.passes.test_prune_channels import NODES, data
from tests.small_models import HIDDEN, WIDTH, split

CONTAINERS = (1, 2, 4, 8)


def trainer(epochs: int = 3) -> Trainer:
    """Train on the random graph."""
    return Trainer(data(), Task(epochs=epochs))


def placed(name: str, **options: float) -> Program:
    """Round a model by calibration."""
    program, _ = factored(OrderPropagation().run(split(name), PassContext()))
    parts = list(trainer().feed(program).judged("train"))
    return place(program, parts, Placement(**{"bits": 4.0, **options})).program  # type: ignore[arg-type]


def maps_of(program: Program, bits: Tensor | None = None) -> list[Learned]:
    """List hidden features, with other widths where they are given."""
    program.annotate()
    maps = learned_widths(program)
    for item in maps:
        if bits is not None:
            item.quantiser.bits.data = bits.clone()
    return maps


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [1.0, 2.0, 4.0, 8.0])
def test_calibrated_steps_beat_the_largest_magnitude(signed: bool, bits: float) -> None:
    """Each row's step leaves no more squared error than one that reaches the row's largest magnitude."""
    x = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    x = x if signed else x.relu()
    width = torch.tensor([bits])
    step = best_steps(x, width, signed=signed)
    widest = x.abs().amax(1) / largest_level(width, signed).clamp(min=1)
    best, plain = (squared_errors(x, each, width, signed=signed) for each in (step, widest))
    assert bool((best <= plain).all())
    assert bool((best < plain).any()) or (signed and bits in (1, 8)) or bits == 8


def test_a_row_of_zeros_has_a_step() -> None:
    """Nothing is learned from a row of zeros; it takes the middle step of the others."""
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [4.0, 8.0]])
    step = best_steps(x, torch.tensor([4.0]), signed=False)
    assert step[0] == step[2]


def test_groups_reach_what_rows_do() -> None:
    """Reaches of groups are spread as the largest magnitudes of rows."""
    x = torch.arange(1.0, 101.0)[:, None]
    step = group_steps(x, 4, 10, signed=False)
    assert (step * 15).tolist() == pytest.approx([6, 16, 26, 36, 46, 56, 66, 76, 86, 96])
    assert len(group_steps(x[:3], 4, 10, signed=False)) == 3


def test_exact_rows_are_found() -> None:
    """Words that are there or not need one bit; counts need more; other numbers have no exact step."""
    x = torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.0, 0.0], [1.0, 3.0, 0.0], [2.0, 10.0, 4.0]])
    found = exact_rows(x, CONTAINERS, signed=False)
    assert found is not None
    assert found[1].tolist() == [1, 1, 2, 4]
    assert exact_rows(torch.tensor([[1.0, 1.5]]), CONTAINERS, signed=False) is None


def test_bits_are_counted_as_stored() -> None:
    """Bytes are those of packed rows: numbers, a step and a code for each row, and a place for each 64 rows."""
    program = placed("GCN")
    maps = maps_of(program, torch.full((NODES,), 2.0))
    assert mean_bits(maps) == 2
    size = NODES * (HIDDEN * 2 / 8 + 4 + 2 / 8) + 8
    assert feature_bytes(maps) == size
    assert average_bits(program) == (2.0, 8 * size / (NODES * HIDDEN))
    assert histogram(maps) == {2: NODES}
    assert histogram([replace(maps[0], counts=torch.zeros(NODES))]) == {}
    widths = torch.tensor([1, 2, 4, 8]).repeat(NODES // 4)
    packed = pack(np.zeros((NODES, HIDDEN), np.float32), np.ones(NODES, np.float32), widths.numpy(), is_signed=False)
    assert feature_bytes(maps_of(program, widths.float())) == packed.nbytes


def test_rows_begin_at_a_byte() -> None:
    """Where rows end within a byte, the rest of it counts, in the target too."""
    program = placed("GCN")
    (narrow,) = maps_of(program, torch.full((NODES,), 1.0))
    item = replace(narrow, quantiser=replace(narrow.quantiser, width=9))
    packed = pack(np.zeros((NODES, 9), np.float32), np.ones(NODES, np.float32), np.ones(NODES), is_signed=False)
    assert feature_bytes([item]) == packed.nbytes == Target(bytes=1).least([item])


@pytest.mark.parametrize("name", ["GCN", "GraphSAGE max"])
@pytest.mark.parametrize("mean", [1.0, 1.3, 1.7, 2.0, 3.5, 8.0])
def test_snapping_meets_the_target(name: str, mean: float) -> None:
    """Containers only, no more than the target on average, near it, and never wider for a narrower row."""
    learned = 1 + 7 * torch.rand(NODES, generator=torch.Generator().manual_seed(1))
    maps = maps_of(placed(name), learned)
    widths = snap(maps, Target(bits=mean))
    average = sum(float(item.mean()) for item in widths) / len(widths)
    assert {float(value) for item in widths for value in item} <= set(CONTAINERS)
    assert average <= mean + 1e-6
    assert average > mean - 0.2 or average > float(learned.mean()) - 0.5
    for bits in widths:
        order = learned.argsort()
        assert bool((bits[order].diff() >= -1e-6).all())


def test_snapping_to_bytes() -> None:
    """A target in bytes counts steps, codes and places too."""
    maps = maps_of(placed("GCN"), torch.full((NODES,), 6.0))
    target = Target(bytes=int(NODES * (HIDDEN * 3 + 35) / 8))
    for item, bits in zip(maps, snap(maps, target), strict=True):
        item.quantiser.bits.data = bits
    assert target.bytes is not None
    assert 0.9 * target.bytes < feature_bytes(maps) <= target.bytes
    assert target.is_met(maps, [item.bits for item in maps])
    assert Target(bytes=NODES * 4).least(maps) > NODES * 4


def test_allocated_widths_leave_less_error_than_equal_ones() -> None:
    """Without training, rows that gain most from bits get them, within the target."""
    program = placed("GCN")
    maps = maps_of(program)
    parts = list(trainer().feed(program).judged("train"))
    rows = rows_read(program, parts, maps)
    x = next(iter(rows.values()))

    def error(bits: Tensor) -> float:
        return float(squared_errors(x, best_steps(x, bits, signed=False), bits, signed=False).sum())

    widths = allocate(maps, rows, Target(bits=2))[0]
    assert float(widths.mean()) <= 2
    assert error(widths) <= 1.03 * error(torch.full((NODES,), 2.0))  # rows are whole: a little of the budget is left
    assert allocate(maps, rows, Target(bits=8))[0].eq(8).float().mean() > 0.5


def test_widths_by_degree() -> None:
    """Nodes with most neighbours get the wider container."""
    maps = maps_of(placed("GCN"))
    degrees = torch.arange(NODES).float()
    bits = by_degree(maps, degrees, Target(bits=1.5))[0]
    assert bits.tolist() == [1.0] * (NODES // 2) + [2.0] * (NODES // 2)


def test_widths_by_degree_of_maps_that_may_take_others() -> None:
    """A map whose rows may be negative stays at two bits where another comes down to one, within the target."""
    (item,) = maps_of(placed("GCN"))
    signed = replace(item, containers=(2,))
    free, kept = by_degree([replace(item, containers=(1, 2)), signed], torch.arange(NODES).float(), Target(bits=1.75))
    assert free.tolist() == [1.0] * (NODES // 2) + [2.0] * (NODES // 2)
    assert kept.tolist() == [2.0] * NODES


def test_more_pressure_means_fewer_bits() -> None:
    """A stronger penalty lowers the mean of the widths learned."""
    means = []
    for penalty in (0.0, 0.02, 0.2, 5.0):
        program = placed("GCN", bits=6.0)
        learning = Learning(Rates(), Target(bits=1), CONTAINERS, penalty)
        learned, _ = trainer().fit(program, seed=0, epochs=25, regime=learning)
        maps = maps_of(learned)
        means.append(mean_bits(maps, [item.bits for item in maps]))
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1] + 1


def test_widths_stand_without_a_target() -> None:
    """Tuning moves steps and weights and leaves every width."""
    program = placed("GCN")
    tuned, _ = trainer().fit(program, seed=0, epochs=2, regime=Learning(Rates(), Target(bits=8), CONTAINERS))
    before, after = program.body.state_dict(), tuned.body.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if key.endswith("_bits"))


@pytest.mark.parametrize("mean", [1.3, 1.7, 2.5])
def test_learning_itself_meets_the_target(mean: float) -> None:
    """Pressure grows until the widths meet the target in their containers; snapping has nothing left to take away."""
    learning = Learning(Rates(), Target(bits=mean), CONTAINERS, 1.0)
    learned, history = trainer().fit(placed("GCN"), seed=0, epochs=60, regime=learning)
    maps = maps_of(learned)
    reached = mean_bits(maps, nearest_containers(maps))
    assert mean - 0.35 < reached <= mean + 1e-6
    assert 0 < history.best_epoch <= 60
    assert mean_bits(maps, snap(maps, Target(bits=mean))) >= reached


def test_rows_with_a_sign_never_get_one_bit() -> None:
    """One bit and a sign have no level but zero: no way of choosing widths offers it, and learning keeps above it."""
    program = placed("zeros_like")
    maps = maps_of(program)
    assert {item.containers for item in maps} == {(2, 4, 8)}
    rows = rows_read(program, list(trainer().feed(program).judged("train")), maps)
    for count in range(1, 12):  # means that are not exact in floating point
        assert Target(bits=2).is_met(maps * count, smallest_containers(maps * count))
    assert not Target(bits=1.9).is_met(maps, smallest_containers(maps))
    target = Target(bits=2.2)
    degrees = torch.arange(NODES).float()
    for chosen in (allocate(maps, rows, target), snap(maps, target), by_degree(maps, degrees, target)):
        assert all(float(bits.min()) == 2 for bits in chosen)
    learned, _ = trainer().fit(program, seed=0, epochs=40, regime=Learning(Rates(), Target(bits=2), CONTAINERS, 5.0))
    assert all(float(item.bits.min()) >= 2 for item in maps_of(learned))


def test_steps_suit_what_rows_have_become() -> None:
    """With their containers rows get the steps that leave least error now, also where the width used stays the same."""
    program = placed("GCN")
    (item,) = maps_of(program, torch.full((NODES,), 2.2))
    rows = rows_read(program, list(trainer().feed(program).judged("train")), [item])
    item.quantiser.step.data = torch.full((NODES,), 0.123)
    bits = torch.tensor([2.0, 4.0]).repeat(NODES // 2)
    set_widths([item], [bits], rows)
    assert torch.equal(item.quantiser.step.detach(), best_steps(rows[item.quantiser.name], bits, signed=False))


def test_no_nodes_have_no_rows() -> None:
    """A graph, or a kind of it, may be empty."""
    program = placed("GCN")
    maps = maps_of(program)
    inputs = {"x": torch.zeros(0, WIDTH), "edge_index": torch.zeros(2, 0, dtype=torch.int64)}
    (part,) = trainer().feed(program).judged("train")
    empty = replace(part, inputs=inputs, structure=program.structure(inputs))
    assert rows_read(program, [empty], maps)[maps[0].quantiser.name].shape == (0, HIDDEN)


def test_groups_keep_their_reach() -> None:
    """Given other widths without training, a group reaches as far as before."""
    program = placed("GCN", assign="nearest", groups=10)
    (item,) = maps_of(program)
    before = reach(item.quantiser.step.detach(), item.bits, signed=False)
    set_widths([item], snap([item], Target(bits=2), [torch.full_like(item.bits, 2.0)]), {})
    assert mean_bits([item]) <= 2
    torch.testing.assert_close(reach(item.quantiser.step.detach(), item.bits, signed=False), before)


def test_tuning_keeps_groups_within_the_target() -> None:
    """Rows change their groups when steps move; weights with which they need more bits than allowed are not kept."""
    program = placed("GCN", assign="nearest", groups=10)
    feed = trainer().feed(program)
    target = Target(bits=3)
    maps = counted_widths(program, feed, CONTAINERS)
    set_widths(maps, snap(maps, target), {})
    regime = Learning(Rates(steps=0.2), target, CONTAINERS)
    tuned, _ = trainer().fit(program, seed=0, epochs=20, regime=regime)
    assert mean_bits(counted_widths(tuned, feed, CONTAINERS)) <= 3


def test_small_steps_move_slowly() -> None:
    """An update changes each step by a share of itself: small ones are not thrown below zero."""
    program = placed("GCN")
    (item,) = maps_of(program)
    first = torch.logspace(-4, 0, NODES)
    item.quantiser.step.data = first.clone()
    regime = Learning(Rates(), Target(bits=8), CONTAINERS)
    tuned, _ = trainer().fit(program, seed=0, epochs=5, regime=regime)
    (after,) = maps_of(tuned)
    ratio = after.quantiser.step.detach() / first
    assert 0.85 < float(ratio.min()) <= float(ratio.max()) < 1.15


def test_nothing_is_spent_on_rows_that_gain_nothing() -> None:
    """Rows of zeros are exact in the smallest container."""
    program = placed("GCN")
    (item,) = maps_of(program)
    rows = torch.rand(NODES, HIDDEN, generator=torch.Generator().manual_seed(0))
    rows[: NODES // 2] = 0
    (bits,) = allocate([item], {item.quantiser.name: rows}, Target(bits=3.9))
    assert bool((bits[: NODES // 2] == 1).all())
    assert float(bits.double().mean()) <= 3.9


def test_what_is_not_admitted_is_not_chosen() -> None:
    """Weights that a regime does not admit are returned only where it admits none, and then the last ones."""

    class Late(Regime):
        def __init__(self, first: int) -> None:
            self.epoch, self.first = -1, first

        def admits(self) -> bool:
            self.epoch += 1
            return self.epoch >= self.first

    for first in (2, 99):
        _, history = trainer().fit(split("GCN"), seed=0, epochs=4, regime=Late(first))
        assert history.best_epoch >= 2
        assert first == 2 or history.best_epoch == 4


def test_eight_bits_are_close_to_float() -> None:
    """With all bits everywhere, answers hardly change."""
    ctx = PassContext(data=data().hide("test"))
    before = split("GCN")
    after = A2Q(bits=8, weight_bits=8, sum_bits=8).run(before, ctx)
    with torch.no_grad():
        expected, actual = before(data().inputs), after(data().inputs)
    assert float((actual - expected).abs().max() / expected.abs().max()) < 0.03
