from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCN, GATConv, GCNConv, global_add_pool, global_mean_pool

from gnnexport.errors import DataError, UnsupportedError, UsageError
from gnnexport.frontends.data_forward import takes_data, wrap_data_forward, wrap_without_data
from gnnexport.frontends.signature import match_inputs
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.program import example_inputs


class Nodes(nn.Module):
    """Answer each node, with weights where there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dropout, self.head = GCNConv(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, data: Any) -> Tensor:
        """Take a graph."""
        data = data.to("cpu")
        x, edge_index = data.x, data.edge_index
        h = self.conv(x, edge_index, data.edge_weight).relu()
        data.x = self.dropout(h)
        assert data.num_nodes == x.size(0)
        return self.head(data["x"])


class Pooled(Nodes):
    """Answer each graph, counting graphs by the largest id."""

    def forward(self, data: Batch) -> Tensor:
        """Take a graph."""
        h = self.conv(data.x, data.edge_index).relu()
        return self.head(global_mean_pool(h, data.batch))


class Counted(Nodes):
    """Answer each graph, asking the batch for their number."""

    def forward(self, batch) -> Tensor:  # type: ignore[no-untyped-def]
        """Take a graph."""
        h = self.conv(batch.x, batch.edge_index).relu()
        return self.head(global_add_pool(h, batch.batch, size=batch.num_graphs))


class Edged(nn.Module):
    """Use edge features where the graph has them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GATConv(4, 3, edge_dim=2)

    def forward(self, graph, plain=None) -> Tensor:  # type: ignore[no-untyped-def]
        """Take a graph."""
        if "edge_attr" in graph:
            return self.conv(graph.x, graph.edge_index, edge_attr=graph.edge_attr)
        return self.conv(graph.x, graph.edge_index)


class Placed(Nodes):
    """Read positions."""

    def forward(self, data: Data) -> Tensor:
        """Take a graph."""
        return self.head(self.conv(torch.cat([data.x, data.pos], dim=1), data.edge_index))


class Probing(Nodes):
    """Ask for what it can do without, by which it would answer otherwise."""

    def forward(self, data: Data) -> Tensor:
        """Take a graph."""
        shift = int(data.y is not None or hasattr(data, "ptr"))
        h = self.conv(data.x, data.edge_index, data.edge_weight) + shift
        return self.head(h if data.pos is None else h + data.pos)


class Late(Probing):
    """Read positions last, after a layer that wants its own width."""

    def forward(self, data: Data) -> Tensor:
        """Take a graph."""
        if data.y is not None:
            return data.y
        return self.head(torch.cat([self.conv(data.x, data.edge_index), data.pos], dim=1))


def batch_of(counts: list[int], edges: int, seed: int = 0) -> dict[str, Tensor]:
    """Make a batch of graphs with edges inside each; the last graphs may be empty."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    starts = torch.tensor([0, *counts[:-1]]).cumsum(0)
    owner = torch.randint(0, sum(count > 0 for count in counts), (edges,), generator=generator)
    offsets = torch.stack([torch.randint(0, 10**6, (edges,), generator=generator) for _ in range(2)])
    edge_index = offsets % torch.tensor(counts)[owner] + starts[owner]
    x = torch.randn(sum(counts), 4, generator=generator)
    return {"x": x, "edge_index": edge_index, "batch": ids, "num_graphs": torch.tensor(len(counts))}


def one_graph(**more: Tensor) -> dict[str, Tensor]:
    """Make a single graph."""
    batch = batch_of([7], 12)
    return {"x": batch["x"], "edge_index": batch["edge_index"], **more}


def as_data(values: Mapping[str, Tensor]) -> Data:
    """Make the PyG object that the model was written for."""
    rest = {name: value for name, value in values.items() if name != "num_graphs"}
    if "num_graphs" not in values:
        return Data(**rest)
    batch = Batch(**rest)
    batch._num_graphs = int(values["num_graphs"])
    return batch


CASES: dict[str, tuple[type[nn.Module], dict[str, Tensor], list[str]]] = {
    "nodes": (Nodes, one_graph(), ["x", "edge_index"]),
    "weighted": (Nodes, one_graph(edge_weight=torch.rand(12)), ["x", "edge_index", "edge_weight"]),
    "pooled": (Pooled, batch_of([3, 4, 2], 12), ["x", "edge_index", "batch"]),
    "counted": (Counted, batch_of([3, 4, 2], 12), ["x", "edge_index", "batch", "num_graphs"]),
    "edge features": (Edged, one_graph(edge_attr=torch.rand(12, 2)), ["x", "edge_index", "edge_attr"]),
    "no edge features": (Edged, one_graph(), ["x", "edge_index"]),
}


@pytest.mark.parametrize("name", CASES)
def test_the_wrapper_takes_what_the_model_reads(name: str) -> None:
    """Its signature names exactly those tensors, and it answers as the model does on a Data."""
    kind, inputs, names = CASES[name]
    torch.manual_seed(0)
    model = kind().eval()
    wrapped, _ = wrap_data_forward(model, inputs)
    assert list(inspect.signature(wrapped.forward).parameters) == names
    assert type(wrapped).__name__ == kind.__name__
    arguments = {key: int(inputs[key]) if key == "num_graphs" else inputs[key] for key in names}
    torch.testing.assert_close(wrapped(**arguments), model(as_data(inputs)))


@pytest.mark.parametrize("name", ["weighted", "pooled", "counted", "edge features"])
def test_a_wrapped_model_is_captured_for_graphs_of_any_size(name: str) -> None:
    """The captured program answers on other sizes as the model on a Data, an empty last graph included."""
    kind, inputs, names = CASES[name]
    torch.manual_seed(1)
    model = kind().eval()
    wrapped, _ = wrap_data_forward(model, inputs)
    level = "graph" if "batch" in names else "node"
    declared = match_inputs(wrapped, GraphData(name="small", inputs=inputs, level=level))
    program = capture(wrapped, declared, example_inputs(declared))
    if "batch" in names:
        other = batch_of([5, 1, 9, 0], 20, seed=2)
    else:
        generator = torch.Generator().manual_seed(3)
        more = {key: torch.rand(20, *inputs[key].shape[1:], generator=generator) for key in names[2:]}
        other = {**batch_of([30], 20, seed=2), **more}
        del other["batch"], other["num_graphs"]
    with torch.no_grad():
        answer = program(other)
    expected = model(as_data(other))
    if name == "pooled":
        assert answer.shape == (4, 3)
        assert expected.shape == (3, 3)
        answer = answer[:3]
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-5)


def test_a_wrapped_model_can_still_be_trained() -> None:
    """Dropout inside follows the mode of the program."""
    inputs = one_graph()
    wrapped, _ = wrap_data_forward(Nodes().eval(), inputs)
    declared = match_inputs(wrapped, GraphData(name="small", inputs=inputs))
    assert capture(wrapped, declared, example_inputs(declared)).training_blocker is None


def test_a_model_that_takes_tensors_is_left_alone() -> None:
    """A wrapper is made only where the one required argument is a Data."""
    model = GCN(4, 8, 2, 3)
    assert wrap_data_forward(model, one_graph()) == (model, [])
    assert not takes_data(nn.Linear(4, 3))
    assert takes_data(Edged())


def test_an_attribute_that_nobody_knows_is_named() -> None:
    """Positions are no input: the message names them, and what may be read."""
    with pytest.raises(UnsupportedError, match=r"Placed\.forward: reads 'pos' of its Data.*Let it read only x,"):
        wrap_data_forward(Placed().eval(), one_graph())


def test_an_attribute_that_the_graph_lacks_is_named() -> None:
    """A batch model on one graph says what is missing."""
    with pytest.raises(DataError, match=r"has no 'num_graphs', which Counted\.forward reads"):
        wrap_data_forward(Counted().eval(), {**one_graph(), "batch": torch.zeros(7, dtype=torch.int64)})


def test_a_model_that_cannot_run_on_the_graph_says_so() -> None:
    """Features of another width are the data's fault."""
    with pytest.raises(DataError, match=r"Nodes cannot run on it .*it reads edge_weight too"):
        wrap_data_forward(Nodes().eval(), {**one_graph(), "x": torch.ones(7, 5)})


def test_without_data_the_width_is_tried_out() -> None:
    """The first width among the weights that runs is the features'; nothing that runs is a usage error."""
    wrapped, _ = wrap_without_data(Counted().eval(), {})
    assert list(inspect.signature(wrapped.forward).parameters) == ["x", "edge_index", "batch", "num_graphs"]
    with pytest.raises(UsageError, match=r"nothing tells how wide 'x' of Counted is.*--input x=N,16"):
        wrap_without_data(Counted().eval(), {"x": 5})
    with pytest.raises(UnsupportedError, match="reads 'pos'"):
        wrap_without_data(Placed().eval(), {"x": 4})


def test_what_a_model_asks_for_in_vain_is_told() -> None:
    """A branch that is not taken because no model gets such an attribute is a note for each of them."""
    model = Probing().eval()
    _, notes = wrap_data_forward(model, {**one_graph(), "edge_weight": torch.rand(12)})
    assert [note.split("'")[1] for note in notes] == ["y", "ptr", "pos"]
    assert notes[0].startswith("model: Probing.forward asks for 'y' of its Data and was captured without it; only x, ")
    _, notes = wrap_data_forward(Nodes().eval(), one_graph())
    assert notes == []


def test_edge_values_asked_for_in_vain_are_told_where_there_is_no_data() -> None:
    """Without data nobody knows whether the graphs have edge features: the note says how to give them."""
    wrapped, notes = wrap_without_data(Edged().eval(), {})
    assert list(inspect.signature(wrapped.forward).parameters) == ["x", "edge_index"]
    assert len(notes) == 1
    assert "asks for 'edge_attr'" in notes[0]
    assert "--input edge_attr=E,4, or --data" in notes[0]
    wrapped, notes = wrap_without_data(Edged().eval(), {"edge_attr": 2})
    assert list(inspect.signature(wrapped.forward).parameters) == ["x", "edge_index", "edge_attr"]
    assert notes == []


def test_a_harmless_question_does_not_hide_the_fault() -> None:
    """Features of another width are named though the model asked for labels before, and another width is tried."""
    with pytest.raises(DataError, match=r"Late cannot run on it \(RuntimeError: .*it reads y too"):
        wrap_data_forward(Late().eval(), {**one_graph(), "x": torch.ones(7, 5)})
    model = Probing()
    # The layers' 8 is tried before 4 is.
    wrapped, _ = wrap_without_data(model.eval(), {})
    assert wrapped(torch.ones(2, 4), torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 3)
    with pytest.raises(UnsupportedError, match="reads 'pos'"):
        wrap_without_data(Late().eval(), {})


def test_a_width_beyond_the_memory_is_refused() -> None:
    """No batch is made to try a width that no machine holds."""
    with pytest.raises(UsageError, match=r"--input: graphs with 100000000000 features would take .* GiB"):
        wrap_without_data(Counted().eval(), {"x": 10**11})
