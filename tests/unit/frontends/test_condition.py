from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch_geometric.nn import APPNP, GCN, GCN2Conv, GCNConv, SAGEConv, SGConv, SSGConv

from gnnexport.errors import DataError, UnsupportedError, UsageError
from gnnexport.frontends.model import load_model, read_model
from gnnexport.frontends.signature import match_inputs, run_once
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.program import example_inputs
from tests.unit.frontends import hostile

X, EDGES = torch.arange(12.0).reshape(3, 4), torch.tensor([[0, 1, 2], [1, 2, 0]])
GRAPH = GraphData(name="small", inputs={"x": X, "edge_index": EDGES})


class Deep(nn.Module):
    """A caching layer inside a list, of a class that takes the first features too."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([GCN2Conv(4, 0.5, cached=True)])

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        """Run the layer."""
        out: torch.Tensor = self.layers[0](x, x, edge_index)
        return out


class Stuck(nn.Module):
    """Keep the training graph in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(4, 3)
        self.register_buffer("edges", EDGES)

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        """Ignore the graph that is given."""
        out: torch.Tensor = self.conv(x, self.edges)
        return out


class Placed(nn.Module):
    """Remember where it was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.device, self.conv = torch.device("cuda:1"), GCNConv(4, 3)

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        """Move the features there first."""
        out: torch.Tensor = self.conv(x.to(self.device), edge_index)
        return out


CACHING: dict[str, Callable[[], nn.Module]] = {
    "gcn": lambda: GCNConv(4, 3, cached=True),
    "sgc": lambda: SGConv(4, 3, K=2, cached=True),
    "ssgc": lambda: SSGConv(4, 3, alpha=0.1, K=2, cached=True),
    "appnp": lambda: APPNP(2, 0.1, cached=True),
    "gcn2": Deep,
}


@pytest.mark.parametrize("name", CACHING)
def test_a_layer_that_caches_goes_through(name: str, tmp_path: Path) -> None:
    """After training, and after the run that precedes capture, another graph gets its own answer."""
    torch.manual_seed(0)
    model = CACHING[name]().train()
    model(X, EDGES)
    torch.save(model, tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt", trust=True)
    inputs = match_inputs(loaded, GRAPH)
    run_once(loaded, GRAPH, inputs)
    program = capture(loaded, inputs, example_inputs(inputs))
    other = {"x": torch.randn(5, 4), "edge_index": torch.tensor([[0, 1, 4, 4], [1, 2, 0, 3]])}
    with torch.no_grad():
        expected = load_model(tmp_path / "model.pt", trust=True)(**other)
        torch.testing.assert_close(program(other), expected, rtol=1e-4, atol=1e-5)


def test_a_model_that_ignores_the_graph_is_refused(tmp_path: Path) -> None:
    """A graph kept in a buffer would answer for every other graph: nothing reads the one that is given."""
    torch.save(Stuck(), tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt", trust=True)
    inputs = match_inputs(loaded, GRAPH)
    with pytest.raises(DataError, match=r"nothing reads the input 'edge_index'"):
        capture(loaded, inputs, example_inputs(inputs))


@pytest.mark.parametrize("trust", [False, True])
def test_a_model_trained_on_another_device_comes_to_the_cpu(trust: bool, tmp_path: Path) -> None:
    """Storages that the file keeps on a GPU are read on a machine without one."""
    model = GCN(4, 8, 2, 3).eval()
    torch.save(model, tmp_path / "cpu.pt", pickle_protocol=4)
    words = b"\x8c\x03cpu", b"\x8c\x06cuda:0"
    hostile.rewrite(
        tmp_path / "cpu.pt",
        tmp_path / "cuda.pt",
        lambda name, content: _unframed(content).replace(*words) if name.endswith(".pkl") else content,
    )
    loaded = load_model(tmp_path / "cuda.pt", trust=trust)
    torch.testing.assert_close(loaded(X, EDGES), model(X, EDGES))


def _unframed(pickled: bytes) -> bytes:
    """Take the frames out of a pickle, whose lengths a change of text would falsify."""
    import pickletools

    cuts = [position for opcode, _, position in pickletools.genops(pickled) if opcode.name == "FRAME"]
    for cut in reversed(cuts):
        pickled = pickled[:cut] + pickled[cut + 9 :]
    return pickled


def test_a_device_in_an_attribute_becomes_the_cpu(tmp_path: Path) -> None:
    """A forward that moves tensors to the device of training runs here."""
    torch.save(Placed(), tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt", trust=True)
    assert loaded(X, EDGES).shape == (3, 3)
    layer = GCNConv(4, 3)
    vars(layer)["device"] = torch.device("cuda:1")
    torch.save(layer, tmp_path / "model.pt")
    assert vars(load_model(tmp_path / "model.pt"))["device"] == torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_become_float32_with_a_note(dtype: torch.dtype, tmp_path: Path) -> None:
    """Weights, buffers and plain tensors alike; integers stay."""
    model = GCN(4, 8, 2, 3, norm="batch").to(dtype)
    torch.save(model, tmp_path / "model.pt")
    loaded = read_model(tmp_path / "model.pt")
    kinds = {tensor.dtype for tensor in loaded.model.state_dict().values()}
    assert kinds == {torch.float32, torch.int64}
    assert f"weights of {str(dtype)[6:]} were converted to float32" in loaded.notes[0]
    assert loaded.model(X, EDGES).dtype == torch.float32


def lazy() -> nn.Module:
    """Make a layer that has never run."""
    return SAGEConv(-1, 3)


def run_lazily() -> nn.Module:
    """Make a layer whose width came with its first data."""
    layer = SAGEConv(-1, 3)
    layer(X, EDGES)
    return layer


def with_nan() -> nn.Module:
    """Make a model whose training diverged."""
    model = GCN(4, 8, 2, 3)
    model.convs[0].lin.weight.data[1, 2] = float("nan")
    return model


def with_infinity() -> nn.Module:
    """Make a model with an endless weight."""
    model = GCN(4, 8, 2, 3)
    model.convs[1].bias.data[0] = float("inf")
    return model


def on_meta() -> nn.Module:
    """Make a model without values."""
    return GCN(4, 8, 2, 3).to("meta")


def quantised() -> nn.Module:
    """Make a model of quantised modules."""
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3)), {nn.Linear})


BAD: dict[str, tuple[Callable[[], nn.Module], type[Exception], str]] = {
    "lazy": (lazy, UsageError, r"never initialised.*Run the model once"),
    "nan": (with_nan, UsageError, r"'convs\.0\.lin\.weight' holds values that are no numbers: 1 of 32.*diverged"),
    "infinity": (with_infinity, UsageError, r"'convs\.1\.bias' holds values that are no numbers: 1 of 3"),
    "meta": (on_meta, UsageError, r"on the device 'meta'.*Load the weights first"),
    "quantised": (quantised, UnsupportedError, r"quantised already.*as it was before"),
}


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:.*quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_weights_that_cannot_be_used_are_named(name: str, trust: bool, tmp_path: Path) -> None:
    """Each says which weights, and what to do; so do weights that a builder's module takes."""
    make, kind, words = BAD[name]
    torch.save(make(), tmp_path / "model.pt")
    with pytest.raises(kind, match=words):
        load_model(tmp_path / "model.pt", trust=trust)


def test_a_lazy_layer_that_has_run_is_a_model(tmp_path: Path) -> None:
    """Its weights have their sizes, so it loads and answers."""
    layer = run_lazily().eval()
    torch.save(layer, tmp_path / "model.pt")
    torch.testing.assert_close(load_model(tmp_path / "model.pt")(X, EDGES), layer(X, EDGES))
    (tmp_path / "make_lazy.py").write_text(
        "from torch_geometric.nn import SAGEConv\n\ndef build():\n    return SAGEConv(-1, 3)\n"
    )
    torch.save(layer.state_dict(), tmp_path / "weights.pt")
    loaded = load_model(tmp_path / "weights.pt", builder="make_lazy.py:build")
    torch.testing.assert_close(loaded(X, EDGES), layer(X, EDGES))
