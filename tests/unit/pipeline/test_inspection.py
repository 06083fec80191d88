from __future__ import annotations

from pathlib import Path

import pytest

from gnnexport import api
from gnnexport.pipeline.inspection import slow_ops
from gnnexport.program.channels import Channels
from tests.road import write_road
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


def test_stages_are_listed_in_mode_batched(tmp_path: Path) -> None:
    """Each stage says what it reads of neighbours and what it hands on."""
    found = api.inspect(write_road(tmp_path), mode="batched").to_dict()
    assert found["stages"] == [
        "stage-1 reads neighbours' rows of features and gives linear_1, 3 channels",
        "stage-2 reads neighbours' rows of stage-1 and gives add_1, 3 channels",
    ]
    assert "builds no engines" in found["targets"]["trt"][0]
