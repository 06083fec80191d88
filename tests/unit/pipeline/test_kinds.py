"""Models over several kinds of nodes on their way in."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnexport.errors import DataError
from gnnexport.frontends.sidecar import Sidecar
from gnnexport.pipeline.model_answers import ask_model
from gnnexport.pipeline.source import Given, capture_source, load_source, unread_note

SCRIPT = """
import torch
from torch_geometric.nn import HeteroConv, SAGEConv

class Sides(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = SAGEConv((2, 3), 2)

    def forward(self, x_src, x_dst, edge_index):
        return self.conv((x_src, x_dst), edge_index)

class Weighed(Sides):
    def forward(self, x_src, x_dst, edge_index, edge_weight=None):
        return super().forward(x_src, x_dst, edge_index) * (1 if edge_weight is None else edge_weight.mean())

class Numbered(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = HeteroConv({key: SAGEConv((2, 2), 2) for key in (("0", "0", "1"), ("1", "1", "0"))})

    def forward(self, x_dict, edge_index_dict):
        return self.conv(x_dict, edge_index_dict)
"""


def given(folder: Path, name: str, mode: str | None = None) -> Given:
    """Write a model of the script, and say how it is loaded."""
    (folder / "net.py").write_text(SCRIPT)
    model = runpy.run_path(str(folder / "net.py"))[name]
    torch.manual_seed(0)
    torch.save(model().state_dict(), folder / "model.pt")
    return Given(folder / "model.pt", str(folder / "data.npz"), mode, builder=f"{folder / 'net.py'}:{name}")


@pytest.mark.parametrize("mode", ["full", "graphs"])
def test_a_model_of_two_sides_is_captured(mode: str, tmp_path: Path) -> None:
    """The capture answers for destinations, as the model does on the data."""
    random = np.random.default_rng(0)
    edges = np.stack([random.integers(0, 9, 30), random.integers(0, 6, 30)])
    split = {f"{name}_mask__item": np.arange(6) % 3 == place for place, name in enumerate(("train", "val", "test"))}
    np.savez(
        tmp_path / "data.npz", x__user=random.normal(size=(9, 2)), x__item=random.normal(size=(6, 3)),
        edge_index__user__buys__item=edges, y__item=np.arange(6) // 3, **split,
    )  # fmt: skip
    source = load_source(given(tmp_path, "Sides", mode), Sidecar())
    program = capture_source(source)
    assert (source.mode, source.data.target, source.logits.shape) == (mode, "__item", (6, 2))
    assert program.rows == "num_nodes__item"


def test_the_report_names_what_was_given_and_need_not_be(tmp_path: Path) -> None:
    """It is of the data alone that a model gets its options."""
    random = np.random.default_rng(0)
    data = {
        "x__user": random.normal(size=(9, 2)),
        "x__item": random.normal(size=(6, 3)),
        "edge_index__user__buys__item": np.stack([random.integers(0, 9, 30), random.integers(0, 6, 30)]),
        "y__item": np.arange(6) // 3,
        **{f"{name}_mask__item": np.arange(6) % 3 == place for place, name in enumerate(("train", "val", "test"))},
    }
    told = "Weighed.forward, which can do without 'edge_weight', was given what the data has of it"
    np.savez(tmp_path / "data.npz", **data)
    assert told not in load_source(given(tmp_path, "Weighed"), Sidecar()).notes
    np.savez(tmp_path / "data.npz", **data, edge_weight__user__buys__item=np.ones(30))
    assert told in load_source(given(tmp_path, "Weighed"), Sidecar()).notes


def typed(folder: Path, edge_type: list[int]) -> None:
    """Write one graph whose nodes and edges have types, as numbers."""
    np.savez(
        folder / "data.npz", x=np.arange(10, dtype=np.float32).reshape(5, 2), node_type=np.array([0, 1, 0, 1, 0]),
        edge_index=np.array([[0, 2, 1, 3], [1, 3, 2, 4]]), edge_type=np.array(edge_type),
        y=np.array([0, -1, 1, -1, 0]), **{f"{name}_mask": np.arange(5) == 2 * place
                                          for place, name in enumerate(("train", "val", "test"))},
    )  # fmt: skip


def test_types_become_the_kinds_of_a_model_that_takes_dictionaries(tmp_path: Path) -> None:
    """Its dictionaries are by the numbers of the types; the labelled type is answered."""
    typed(tmp_path, [0, 0, 1, 1])
    source = load_source(given(tmp_path, "Numbered"), Sidecar())
    assert [item.name for item in source.inputs] == ["x__0", "x__1", "edge_index__0__0__1", "edge_index__1__1__0"]
    assert (source.mode, source.data.target, source.logits.shape) == ("full", "__0", (3, 2))
    typed(tmp_path, [0, 0, 0, 0])
    with pytest.raises(DataError, match="edges of type 0 join nodes of several types"):
        load_source(given(tmp_path, "Numbered"), Sidecar())


def test_the_model_answers_without_the_kinds_that_its_answer_does_not_need(tmp_path: Path) -> None:
    """One layer answers for the first kind without the edges to the other, which made-up graphs then do not have."""
    typed(tmp_path, [0, 0, 1, 1])
    source = load_source(given(tmp_path, "Numbered", "graphs"), Sidecar())
    program = capture_source(source)
    inputs = {item.name: source.data.inputs[item.name] for item in program.inputs}
    assert list(inputs) == ["x__0", "x__1", "edge_index__1__1__0"]
    assert unread_note(source, program) == ["model: its answer does not depend on edge_index__0__0__1"]
    answer = ask_model(source, inputs, [5])
    assert answer is not None
    assert torch.equal(answer, source.logits)
