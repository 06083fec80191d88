from __future__ import annotations

import numpy as np
import pytest
import torch

from gnnexport.program.channels import Channels
from gnnexport.program.graphs import args_of, parameter_of
from gnnexport.program.program import Program
from gnnexport.program.verify import verify
from tests.small_models import run, split


def every_other(channels: Channels) -> np.ndarray:
    """Return a mask that takes every other unit of each segment; of pairs of heads both lose the same number."""
    keep = np.ones(channels.count, bool)
    for group in channels.groups:
        for segment in group.segments:
            keep[group.units[segment[1::2]]] = False
    return keep


def silence(program: Program, channels: Channels, keep: np.ndarray) -> None:
    """Zero the columns that read what goes."""
    for node, units in channels.read.items():
        weight = parameter_of(program.body, args_of(node)[1])
        assert weight is not None
        weight.data[:, torch.from_numpy(~keep[units])] = 0


@pytest.mark.parametrize("name", ["GCN", "GraphSAGE", "GIN", "GCN batch norm", "GCN jumping knowledge", "residual",
                                  "PNA", "views", "Sequential"])  # fmt: skip
def test_compact_equals_full_with_channels_zeroed(name: str) -> None:
    """Cutting channels equals zeroing what reads them, as long as no norm and no attention mixes channels."""
    full, compact = split(name).clone(), split(name).clone()
    channels, twin = Channels(full), Channels(compact)
    keep = every_other(channels)
    assert not keep.all()
    silence(full, channels, keep)
    twin.cut(keep)
    inputs = full.example(17, seed=2)
    torch.testing.assert_close(run(compact, inputs), run(full, inputs), rtol=1e-4, atol=1e-5)
    assert sum(map(torch.Tensor.numel, compact.parameters())) < sum(map(torch.Tensor.numel, full.parameters()))
    assert verify(compact) == []


@pytest.mark.parametrize("name", ["GAT", "GATv2", "GAT edge features"])
def test_whole_heads_go_as_if_nothing_read_them(name: str) -> None:
    """A head that is cut with its attention takes nothing else along."""
    full, compact = split(name).clone(), split(name).clone()
    channels, twin = Channels(full, whole_heads=True), Channels(compact, whole_heads=True)
    (group,) = channels.groups
    assert len(group.units) == 2
    keep = np.ones(channels.count, bool)
    keep[group.units[0]] = False
    silence(full, channels, keep)
    twin.cut(keep)
    inputs = full.example(17, seed=2)
    torch.testing.assert_close(run(compact, inputs), run(full, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("whole", [False, True])
def test_keeping_all_channels_changes_no_bit(whole: bool) -> None:
    """A body cut to its own widths computes what it did."""
    for name in ("GraphSAGE", "GAT"):
        program = split(name).clone()
        channels = Channels(program, whole_heads=whole)
        channels.cut(np.ones(channels.count, bool))
        inputs = program.example(17, seed=2)
        assert np.array_equal(run(program, inputs).numpy(), run(split(name), inputs).numpy())


def test_masks_and_widths_agree() -> None:
    """After a cut, what maps make and read has as many units as their weights have rows and columns."""
    program = split("PNA").clone()
    channels = Channels(program)
    channels.cut(every_other(channels))
    for node, units in channels.made.items():
        weight = parameter_of(program.body, args_of(node)[1])
        assert weight is not None
        assert tuple(weight.shape) == (len(units), len(channels.read.get(node, np.zeros(weight.shape[1]))))
