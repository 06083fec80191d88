"""Channels that are read by their place, masked, or read by maps whose results do not simply add up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gnnexport.passes.prune_channels import PruneChannels
from gnnexport.program.channels import Channels
from gnnexport.program.program import Program
from gnnexport.training.fitting import summed_readers
from tests.passes.test_prune_channels_schemes import CLASSES, FEATURES, graph, program_of, prune
from tests.small_models import run

WIDTH = 16
DEAD = [0, 1, 2, 3]


class Reading(nn.Module):
    """Two hidden values of which four channels are always zero, so that an exact answer can do without them."""

    def __init__(self, read: Callable[[Reading, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other = nn.Linear(FEATURES, WIDTH), nn.Linear(FEATURES, WIDTH)
        self.narrow, self.tail, self.wide = (nn.Linear(WIDTH, size) for size in (CLASSES, CLASSES, WIDTH))
        self.read = read
        for linear in (self.one, self.other):
            linear.weight.data[DEAD] = 0
            linear.bias.data[DEAD] = 0

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Aggregate, transform, and read."""
        x = torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]])
        return self.read(self, self.one(x), self.other(x))


def answers(read: Callable[[Reading, Tensor, Tensor], Tensor]) -> tuple[Program, Program]:
    """Return the Program before and after it lost a quarter of its channels, the dead ones."""
    before = program_of(Reading(read))
    after, notes = prune(PruneChannels(keep=0.75, multiple=1, retrain=False), before)
    assert any(note.endswith(("kept 12", "kept 10")) for note in notes)
    return before, after


READINGS: dict[str, Callable[[Reading, Tensor, Tensor], Tensor]] = {
    "window": lambda model, one, other: model.narrow(one) + one[:, 8:11],
    "window from the end": lambda model, one, other: model.narrow(one) + one[:, -3:],
    "place": lambda model, one, other: model.narrow(one) * one[:, 5].unsqueeze(1),
    "place from the end": lambda model, one, other: model.narrow(one) * one[:, -2].unsqueeze(1),
    "mask": lambda model, one, other: model.narrow(one.masked_fill(other > 0, 0.0)) + model.wide(other)[:, :3],
}


@pytest.mark.parametrize("name", READINGS)
def test_what_is_read_by_its_place_stays_what_it_was(name: str) -> None:
    """Where channels before it go, a window or a place moves; a mask loses the channels that the masked value loses."""
    before, after = answers(READINGS[name])
    torch.testing.assert_close(run(after, graph().inputs), run(before, graph().inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("count", "read"),
    [
        (1, lambda model, one, other: model.narrow(one) + model.tail(one)),
        (2, lambda model, one, other: torch.add(model.narrow(one), model.tail(one), alpha=0.5)),
        (2, lambda model, one, other: model.narrow(one) + model.tail(one.mean(0, keepdim=True))),
    ],
    ids=["plain", "weighted", "one row for all"],
)
def test_maps_are_fitted_together_where_their_results_add_up(
    count: int, read: Callable[[Reading, Tensor, Tensor], Tensor]
) -> None:
    """Results that a sum weighs differently, or that have other rows, are fitted one by one."""
    before = program_of(Reading(read))
    (group,) = Channels(before.clone()).groups
    assert len(summed_readers(group)) == count
    answers(read)
