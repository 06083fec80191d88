from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCN

from gnnexport.errors import UnsafeFileError, UsageError
from gnnexport.frontends.data import load_data
from gnnexport.frontends.data_forward import wrap_data_forward
from gnnexport.frontends.model import load_model
from gnnexport.frontends.signature import match_inputs
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.program import example_inputs
from tests.unit.frontends import hostile

SCRIPT = """
import sys
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv, MessagePassing, Sequential

class Own(MessagePassing):
    def __init__(self):
        super().__init__(aggr="add")
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.propagate(edge_index, x=self.lin(x))

    def message(self, x_j: Tensor) -> Tensor:
        return x_j.relu()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.own, self.conv = Own(), GCNConv(4, 3)
        self.block = Sequential("x, edge_index", [(GCNConv(4, 4), "x, edge_index -> x"), nn.ReLU()])

    def forward(self, data):
        x = self.block(self.own(data.x, data.edge_index), data.edge_index)
        return self.conv(x, data.edge_index)

def make():
    torch.manual_seed(0)
    return Net().eval()

if __name__ == "__main__":
    import train_own
    model = make()
    torch.save(model, "main.pt")
    torch.save(train_own.make(), "named.pt")
    torch.save(model.state_dict(), "weights.pt")
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": {"net": model}}, "checkpoint.pt")
    from torch_geometric.data import Data
    x = torch.arange(12.).reshape(3, 4)
    torch.save(model(Data(x=x, edge_index=torch.tensor([[0, 1, 2], [1, 2, 0]]))).detach(), "answer.pt")
"""
X, EDGES = torch.arange(12.0).reshape(3, 4), torch.tensor([[0, 1, 2], [1, 2, 0]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has: a training script, run once, and the files that it wrote."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "train_own.py").write_text(SCRIPT)
    subprocess.run([sys.executable, "train_own.py"], cwd=folder, check=True, timeout=120)
    return folder


def assert_answers(model: nn.Module, folder: Path) -> None:
    """The model computes what it computed in the script, alone and captured."""
    inputs = {"x": X, "edge_index": EDGES}
    wrapped, _ = wrap_data_forward(copy.deepcopy(model), inputs)
    expected = torch.load(folder / "answer.pt")
    torch.testing.assert_close(wrapped(**inputs), expected)
    declared = match_inputs(wrapped, GraphData(name="small", inputs=inputs))
    with torch.no_grad():
        captured = capture(wrapped, declared, example_inputs(declared))(inputs)
    torch.testing.assert_close(captured, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["main.pt", "named.pt"])
def test_a_class_of_the_script_is_found_and_captured(name: str, folder: Path) -> None:
    """`__main__.Net` and `train_own.Net` are the script's; a forward(data) of own layers goes all the way."""
    before = {key: sys.modules.get(key) for key in ("__main__", "train_own")}
    path = list(sys.path)
    model = load_model(folder / name, trust=True, code=folder / "train_own.py")
    assert {key: sys.modules.get(key) for key in before} == before
    assert sys.path == path
    assert type(model).__name__ == "Net"
    assert type(model).__module__ not in before
    assert_answers(model, folder)


def test_a_script_is_found_beside_the_model(folder: Path) -> None:
    """The name alone is enough."""
    assert type(load_model(folder / "main.pt", trust=True, code="train_own.py")).__name__ == "Net"


def test_a_package_of_the_users_own_is_found_without_the_script(folder: Path) -> None:
    """A module beside the model is importable while a trusted file is read."""
    try:
        assert type(load_model(folder / "named.pt", trust=True)).__module__ == "train_own"
    finally:
        sys.modules.pop("train_own", None)


def test_the_ways_for_an_own_class_are_named(folder: Path) -> None:
    """Without trust, and with trust but without the script, the message names what works, and it does."""
    with pytest.raises(UnsafeFileError, match=r"'__main__\.Net'.*--trust --code train\.py.*--builder train\.py:build"):
        load_model(folder / "main.pt")
    with pytest.raises(UsageError, match=r"'Net' cannot be found: it was defined in the training script.*--code train"):
        load_model(folder / "main.pt", trust=True)
    for name in ("weights.pt", "checkpoint.pt"):
        assert_answers(load_model(folder / name, builder="train_own.py:make"), folder)


def test_code_needs_trust(folder: Path) -> None:
    """A script is not run because it was named."""
    with pytest.raises(UsageError, match=r"--code .*train_own.py: is given without --trust.*Add --trust"):
        load_model(folder / "main.pt", code=folder / "train_own.py")


def test_a_failed_load_leaves_no_trace(folder: Path, tmp_path: Path) -> None:
    """The script that lacks the class says what it has, and `__main__` is itself again."""
    (tmp_path / "other_own.py").write_text("class Nett: pass\nclass Data: pass\n")
    before = sys.modules["__main__"]
    with pytest.raises(UsageError, match=r"other_own\.py: defines no '(Net|Own)'.*Known: Data, Nett"):
        load_model(folder / "main.pt", trust=True, code=tmp_path / "other_own.py")
    assert sys.modules["__main__"] is before
    with pytest.raises(UsageError, match="no such file"):
        load_model(folder / "main.pt", trust=True, code=tmp_path / "absent.py")


class Stubborn(nn.Module):
    """Refuse to come back."""

    def __setstate__(self, state: object) -> None:
        raise RuntimeError("not today")


def test_a_trusted_file_that_fails_is_a_usage_error(tmp_path: Path) -> None:
    """What a class raises while it is restored is shown, and so is a file that is no file."""
    torch.save(Stubborn(), tmp_path / "model.pt")
    with pytest.raises(UsageError, match=r"cannot be loaded \(RuntimeError: not today\)"):
        load_model(tmp_path / "model.pt", trust=True)
    with pytest.raises(UsageError, match="is not a file"):
        load_model(tmp_path, trust=True)
    with pytest.raises(UsageError, match="no such file"):
        load_model(tmp_path / "absent.pt", trust=True)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_wrappers_are_taken_off(tmp_path: Path) -> None:
    """The module inside `DataParallel` or `torch.compile`, or in a checkpoint, is the model."""
    model = GCN(4, 8, 2, 3).eval()
    expected = model(X, EDGES)
    wrapped = {
        "parallel": nn.DataParallel(model),
        "compiled": torch.compile(model, backend="eager"),
        "kept": {"model": model, "epoch": 3},
    }
    for name, thing in wrapped.items():
        path = tmp_path / f"{name}.pt"
        torch.save(thing, path)
        for trust in (True, False):
            if trust or name != "kept":
                torch.testing.assert_close(load_model(path, trust=trust)(X, EDGES), expected)
    with pytest.raises(UsageError, match="holds a dict, not a model"):
        load_model(tmp_path / "kept.pt")


def test_a_wrapper_hides_no_code(tmp_path: Path) -> None:
    """What stands beside the wrapped module is never made, and a file that names what does harm is refused."""
    marker = tmp_path / "it_ran"
    model = nn.DataParallel(GCN(4, 8, 2, 3))
    vars(model)["note"] = hostile.by_system(marker)
    torch.save(model, tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError, match=r"\.system', which no checkpoint needs"):
        load_model(tmp_path / "model.pt")
    vars(model)["note"] = hostile.Calls(Path.touch, marker)
    torch.save(model, tmp_path / "model.pt")
    assert isinstance(load_model(tmp_path / "model.pt"), GCN)
    assert not marker.exists()


GRAPHS = """
import torch
from torch_geometric.data import Data

class Molecule(Data):
    pass

if __name__ == "__main__":
    edges = torch.tensor([[0, 1], [1, 0]])
    graphs = [Molecule(x=torch.ones(2, 3), edge_index=edges, y=torch.tensor([label])) for label in (0, 1, 1)]
    torch.save(graphs, "graphs.pt")
"""


def test_graphs_of_a_class_of_the_script_load(tmp_path: Path) -> None:
    """A list of the user's own kind of Data is found by --code as a model is; without it, the mend says so."""
    (tmp_path / "own_graphs.py").write_text(GRAPHS)
    subprocess.run([sys.executable, "own_graphs.py"], cwd=tmp_path, check=True, timeout=120)
    data, _ = load_data(tmp_path / "graphs.pt", trust=True, code=Path("own_graphs.py"))
    assert (data.num_graphs, data.num_nodes) == (3, 6)
    with pytest.raises(UsageError, match=r"'Molecule' cannot be found.*--trust --code train\.py\. Or: Save a PyG Data"):
        load_data(tmp_path / "graphs.pt", trust=True)


def test_a_file_of_graphs_that_ends_the_program_is_refused(tmp_path: Path) -> None:
    """What a trusted file does is its own, but it does not end us without a word."""
    torch.save([hostile.Calls(sys.exit, 3)], tmp_path / "graphs.pt")
    with pytest.raises(UsageError, match=r"cannot be loaded \(SystemExit"):
        load_data(tmp_path / "graphs.pt", trust=True)
