from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCN, GATConv, GCNConv, GINEConv, NNConv, TransformerConv

from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.channels import Channels, Group
from gnnexport.program.cutting import rectangle
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.verify import verify
from tests.small_models import EDGE_WIDTH, INPUTS, WIDTH, split


class Model(nn.Module):
    """Layers by name and a forward written out."""

    def __init__(self, layers: dict[str, nn.Module], forward: Callable[..., Tensor]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.written = forward

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """Run what was written; every input takes part, if only by nothing."""
        out: Tensor = self.written(self, x, edge_index, edge_attr)
        return out + 0 * edge_attr.sum() + 0 * edge_index.sum()


def program_of(forward: Callable[..., Tensor], **layers: nn.Module) -> Program:
    """Capture a model of layers."""
    torch.manual_seed(0)
    inputs = tuple(INPUTS[name] for name in ("x", "edge_index", "edge_attr"))
    captured = capture(Model(layers, forward).eval(), inputs, example_inputs(inputs))
    return run_passes(captured, CANONICAL, PassContext()).program


def groups_of(program: Program, **options: Any) -> list[Group]:
    """Find the groups and check that each that can shrink leaves a sound Program when cut to half."""
    program = program.clone()
    channels = Channels(program, **options)
    groups = list(channels.groups)
    keep = np.ones(channels.count, bool)
    for group in groups:
        for segment in group.segments:
            keep[group.units[segment[: len(segment) // 2]]] = False
    channels.cut(keep)
    assert verify(program) == []
    return groups


def shown(groups: list[Group]) -> list[str]:
    """Return the groups as text."""
    return [str(group) for group in groups]


def test_concatenation_lays_segments_side_by_side() -> None:
    """What reads two branches side by side couples them, and each keeps a width of its own."""
    (group,) = groups_of(split("GCN jumping knowledge"))
    assert (
        str(group)
        == "32 channels from convs.0.lin (Linear), convs.1.lin (Linear) to convs.1.lin (Linear), lin (Linear)"
    )
    assert [len(segment) for segment in group.segments] == [16, 16]
    assert group.ties == [[0], [1]]


def test_largest_of_layers_is_one_set_of_channels() -> None:
    """Jumping knowledge by maximum compares channel with channel, so that all layers lose the same."""
    model = GCN(WIDTH, 16, 2, 3, jk="max")
    program = program_of(lambda m, x, edges, attr: m.net(x, edges), net=model)
    (group,) = groups_of(program)
    assert len(group.units) == group.width == 16
    assert len(group.producers) == 2


def test_recurrence_blocks_with_its_reason() -> None:
    """What an LSTM over layers reads keeps its channels, and the group says so."""
    program = program_of(lambda m, x, edges, attr: m.net(x, edges), net=GCN(WIDTH, 16, 2, 3, jk="lstm"))
    groups = groups_of(program)
    assert groups
    assert all("jk" in group.blockers[0] for group in groups)
    assert "lstm" in str(groups[0])


def test_channels_inside_heads_are_tied() -> None:
    """Each head may lose other channels, but equally many."""
    (group,) = groups_of(split("GAT"))
    assert [len(segment) for segment in group.segments] == [8, 8]
    assert group.ties == [[0, 1]]


def test_whole_heads_are_units_of_many_channels() -> None:
    """With whole heads there are as many units as heads."""
    (group,) = groups_of(split("GATv2"), whole_heads=True)
    assert group.sizes.tolist() == [8, 8]
    assert group.width == 16


def test_mean_of_heads_couples_them() -> None:
    """Where heads are averaged, the same channel goes from every head."""
    program = program_of(
        lambda m, x, edges, attr: m.last(m.conv(x, edges).relu()),
        conv=GATConv(WIDTH, 8, heads=3, concat=False), last=nn.Linear(8, 3),
    )  # fmt: skip
    (group,) = groups_of(program)
    assert len(group.units) == 8
    assert group.sizes.tolist() == [3] * 8
    assert [len(segment) for segment in group.segments] == [8]


def test_edge_features_join_the_channels_they_are_added_to() -> None:
    """GINE adds a linear map of edge features to its neighbours: that map loses the same channels."""
    program = program_of(
        lambda m, x, edges, attr: m.conv(m.first(x, edges).relu(), edges, attr),
        first=GCNConv(WIDTH, 8),
        conv=GINEConv(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), edge_dim=EDGE_WIDTH),
    )
    groups = groups_of(program)
    assert shown(groups)[0] == "8 channels from first.lin (Linear), conv.lin (Linear) to conv.nn.0 (Linear)"
    assert [group.width for group in groups] == [8, 16]


def test_edge_network_over_both_ends() -> None:
    """A map of both ends of an edge and its features reads each channel twice; raw edge features stay."""

    def forward(m: Any, x: Tensor, edges: Tensor, attr: Tensor) -> Tensor:
        h = m.first(x).relu()
        message = m.second(torch.cat([h[edges[0]], h[edges[1]], attr], 1)).relu()
        out: Tensor = m.last(torch.zeros(x.size(0), 8).index_add_(0, edges[1], message))
        return out

    program = program_of(forward, first=nn.Linear(WIDTH, 8), second=nn.Linear(16 + EDGE_WIDTH, 8), last=nn.Linear(8, 3))
    groups = groups_of(program)
    assert [group.width for group in groups] == [8, 8]
    assert not any(group.blockers for group in groups)


def test_computed_weights_block_with_their_reason() -> None:
    """A layer that computes a matrix for every edge keeps its channels, and says what reads them."""
    program = program_of(
        lambda m, x, edges, attr: m.last(m.conv(m.first(x).relu(), edges, attr)),
        first=nn.Linear(WIDTH, 8), conv=NNConv(8, 8, nn.Linear(EDGE_WIDTH, 64)), last=nn.Linear(8, 3),
    )  # fmt: skip
    blocked = [group for group in groups_of(program) if group.blockers]
    assert blocked
    assert any("conv (NNConv) reads them by" in str(group) for group in blocked)


def test_queries_and_keys_stay_where_no_map_reads_them() -> None:
    """Attention over products of queries and keys gives nothing to fit: they stay, and the values may go."""
    program = program_of(
        lambda m, x, edges, attr: m.last(m.conv(x, edges).relu()),
        conv=TransformerConv(WIDTH, 8, heads=2), last=nn.Linear(16, 3),
    )  # fmt: skip
    (group,) = groups_of(program)
    assert "lin_value" in str(group)
    assert "lin_query" not in str(group)
    assert [len(segment) for segment in group.segments] == [8, 8]


def test_parts_of_a_value_keep_their_places() -> None:
    """Slices and splits of a hidden value start and end where its channels now do."""

    def forward(m: Any, x: Tensor, edges: Tensor, attr: Tensor) -> Tensor:
        h = m.first(x).relu()
        one, other = torch.split(h, [6, 10], 1)
        out: Tensor = m.second(one) + m.third(other) + m.fourth(h[:, 4:12])
        return out

    program = program_of(
        forward, first=nn.Linear(WIDTH, 16), second=nn.Linear(6, 3), third=nn.Linear(10, 3), fourth=nn.Linear(8, 3)
    )
    (group,) = groups_of(program)
    assert group.width == 16


def test_one_channel_picked_by_place_stays() -> None:
    """A channel that is read by its number stays; the others may go."""
    groups = groups_of(split("two_structures"))
    assert sorted(group.width for group in groups) == [1, 7]
    (blocked,) = [group for group in groups if group.blockers]
    assert "picks them by their place" in str(blocked)


def test_tied_weights_stay() -> None:
    """A weight that two layers share cannot lose rows for one of them."""
    shared = nn.Linear(8, 8)
    program = program_of(
        lambda m, x, edges, attr: m.last(m.one(m.one(m.first(x).relu()).relu()).relu()),
        first=nn.Linear(WIDTH, 8), one=shared, last=nn.Linear(8, 3),
    )  # fmt: skip
    groups = groups_of(program)
    assert all("computed or shared" in str(group) for group in groups)


def test_embeddings_make_channels() -> None:
    """The columns of an embedding table go with the channels that it makes."""
    program = program_of(
        lambda m, x, edges, attr: m.last(m.table((x[:, 0] > 0).long()).relu()),
        table=nn.Embedding(2, 8), last=nn.Linear(8, 3),
    )  # fmt: skip
    (group,) = groups_of(program)
    assert str(group) == "8 channels from table (Embedding) to last (Linear)"


def test_rows_of_a_table_keep_equally_many() -> None:
    """A mask leaves a table only if its rows that are left keep the same number."""
    assert rectangle(np.array([[True, False], [False, False], [False, True]])) == (2, 1)
    with pytest.raises(ValueError, match="different numbers"):
        rectangle(np.array([[True, True], [False, True]]))
