from __future__ import annotations

import pytest

from gnnexport.pipeline.inspection import slow_ops
from gnnexport.program.channels import Channels
from tests.small_models import split
from tests.targets.requests import graph_program


@pytest.mark.parametrize("name", ["GCN", "GAT", "PNA", "attended", "stacked", "multiplied", "GCN graph layer norm"])
def test_recognised_message_passing_is_not_slow(name: str) -> None:
    """Nothing is slow where all messages were recognised."""
    assert slow_ops(split(name)) == []


def test_a_row_for_each_graph_given_to_its_nodes_is_not_slow() -> None:
    """That is one gather of as many rows as there are nodes."""
    assert slow_ops(graph_program("softmax")) == []


def test_a_scatter_is_slow() -> None:
    """A scatter that is no sum over edges writes one message after the other."""
    (found,) = slow_ops(split("narrow_index"))
    assert found["op"] == "aten.scatter_add.default"
    assert "one message after the other" in found["why"]


def test_messages_that_are_reordered_are_slow() -> None:
    """Messages that hang on the order of the edges are computed in it, and moved once more."""
    (found,) = slow_ops(split("sorted_channels"))
    assert found["op"] == "aten.index_select.default"
    assert "reordered" in found["why"]


def test_groups_of_channels_are_listed() -> None:
    """Every group stands there with what makes and reads it, and with what blocks it."""
    assert [str(group) for group in Channels(split("GCN").clone()).groups] == [
        "16 channels from convs.0.lin (Linear) to convs.1.lin (Linear)"
    ]
    (blocked,) = Channels(split("narrow_index").clone()).groups
    assert "first (Linear) to no linear map: model (Handwritten) reads them by aten.scatter_add" in str(blocked)
