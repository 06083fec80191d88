from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gnnexport.passes.a2q import A2Q
from gnnexport.passes.contract import PassContext
from gnnexport.passes.order_propagation import OrderPropagation
from gnnexport.program.dialect.quantize import largest_level
from gnnexport.program.program import Program
from gnnexport.training.quantisation.allocation import allocate, by_degree, rows_read
from gnnexport.training.quantisation.calibration import best_steps, exact_rows, group_steps, squared_errors
from gnnexport.training.quantisation.learning import Learning, Rates, histogram
from gnnexport.training.quantisation.placing import Placement, factored, place
from gnnexport.training.quantisation.widths import (
    Learned,
    Target,
    average_bits,
    feature_bytes,
    learned_widths,
    mean_bits,
    snap,
)
from gnnexport.training.regime import Regime
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.passes.test_prune_channels import NODES, data
from tests.small_models import HIDDEN, split

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
    """Bytes are numbers, a step of 32 bits and a code of two for each row, and a place for each 64 rows."""
    program = placed("GCN")
    maps = maps_of(program, torch.full((NODES,), 2.0))
    assert mean_bits(maps) == 2
    bits = NODES * (HIDDEN * 2 + 32 + 2 + 0.5)
    assert feature_bytes(maps) == bits / 8
    assert average_bits(program) == (2.0, bits / (NODES * HIDDEN))
    assert histogram(maps) == {2: NODES}


@pytest.mark.parametrize("name", ["GCN", "GraphSAGE max"])
@pytest.mark.parametrize("mean", [1.0, 1.3, 1.7, 2.0, 3.5, 8.0])
def test_snapping_meets_the_target(name: str, mean: float) -> None:
    """Containers only, no more than the target on average, near it, and never wider for a narrower row."""
    learned = 1 + 7 * torch.rand(NODES, generator=torch.Generator().manual_seed(1))
    maps = maps_of(placed(name), learned)
    widths = snap(maps, Target(bits=mean), CONTAINERS)
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
    target = Target(bytes=int(NODES * (HIDDEN * 3 + 34.5) / 8))
    for item, bits in zip(maps, snap(maps, target, CONTAINERS), strict=True):
        item.quantiser.bits.data = bits
    assert target.bytes is not None
    assert 0.9 * target.bytes < feature_bytes(maps) <= target.bytes
    assert target.is_met(maps)
    assert not Target(bytes=NODES * 4).is_possible(maps, 1)


def test_allocated_widths_leave_less_error_than_equal_ones() -> None:
    """Without training, rows that gain most from bits get them, within the target."""
    program = placed("GCN")
    maps = maps_of(program)
    parts = list(trainer().feed(program).judged("train"))
    rows = rows_read(program, parts, maps)
    x = next(iter(rows.values()))

    def error(bits: Tensor) -> float:
        return float(squared_errors(x, best_steps(x, bits, signed=False), bits, signed=False).sum())

    widths = allocate(maps, rows, Target(bits=2), CONTAINERS)[0]
    assert float(widths.mean()) <= 2
    assert error(widths) <= 1.03 * error(torch.full((NODES,), 2.0))  # rows are whole: a little of the budget is left
    assert allocate(maps, rows, Target(bits=8), CONTAINERS)[0].eq(8).float().mean() > 0.5


def test_widths_by_degree() -> None:
    """Nodes with most neighbours get the wider container."""
    maps = maps_of(placed("GCN"))
    degrees = torch.arange(NODES).float()
    bits = by_degree(maps, degrees, Target(bits=1.5), CONTAINERS)[0]
    assert bits.tolist() == [1.0] * (NODES // 2) + [2.0] * (NODES // 2)


def test_more_pressure_means_fewer_bits() -> None:
    """A stronger penalty lowers the mean of the widths learned."""
    means = []
    for penalty in (0.0, 0.02, 0.2, 5.0):
        program = placed("GCN", bits=6.0)
        learning = Learning(Rates(), Target(bits=1), penalty)
        learned, _ = trainer().fit(program, seed=0, epochs=25, regime=learning)
        learned.annotate()
        means.append(mean_bits(learned_widths(learned), whole=False))
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1] + 1


def test_widths_stand_without_a_target() -> None:
    """Tuning moves steps and weights and leaves every width."""
    program = placed("GCN")
    tuned, _ = trainer().fit(program, seed=0, epochs=2, regime=Learning(Rates()))
    before, after = program.body.state_dict(), tuned.body.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if key.endswith("_bits"))


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
