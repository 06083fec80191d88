from __future__ import annotations

from pathlib import Path

import pytest

from gnnexport.errors import UsageError
from gnnexport.frontends.data import load_data
from gnnexport.frontends.sidecar import read_sidecar

SCRIPT = """
import sys
import numpy as np
import torch
from torch.utils.data import Subset
from torch_geometric.data import Batch, Data, HeteroData, InMemoryDataset

def graph(size=3, label=1):
    nodes = torch.arange(size)
    return Data(x=torch.ones(size, 2), edge_index=torch.stack([nodes, nodes]), y=torch.tensor([label]))

class Rings(InMemoryDataset):
    def __init__(self):
        super().__init__()
        self.data, self.slices = self.collate([graph(size) for size in (2, 3, 4, 5)])

def one():
    return graph()
def listed():
    return [graph(size) for size in (2, 3, 4, 5)]
def batch():
    return Batch.from_data_list(listed())
def dataset():
    return Rings()
def sliced():
    return Rings()[:]
def subset():
    return Subset(Rings(), [0, 1, 2, 3])
def arrays():
    joined = batch()
    named = {name: joined[name].numpy() for name in ("x", "edge_index", "y", "batch")}
    return {**named, "num_graphs": 4}
def splits():
    return listed()[:2], listed()[2:3], Rings()[3:]
def number():
    return 7
def text():
    return "graph.npz"
def array():
    return np.ones(3)
def nothing():
    return None
def hetero():
    return [HeteroData()]
def fails():
    raise ValueError("no such\\nfile")
def exits():
    sys.exit(3)
def wants(path):
    return path
def complex_features():
    return {"x": np.ones((2, 1), dtype=complex), "edge_index": np.zeros((2, 0), dtype=int)}
class Broken:
    def __len__(self):
        return 2
    def __getitem__(self, number):
        raise OSError("gone")
def broken():
    return Broken()
value = 3
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Write the script with all the loaders."""
    (tmp_path / "rings.py").write_text(SCRIPT)
    return tmp_path / "rings.py"


@pytest.mark.parametrize("name", ["listed", "batch", "dataset", "sliced", "subset", "arrays", "splits"])
def test_a_loader_returns_a_set_in_any_form(name: str, script: Path) -> None:
    """Lists, batches, data sets and their parts, arrays, and lists by split give the same set."""
    data, _ = load_data(f"{script}:{name}")
    assert (data.name, data.level, data.num_graphs, data.num_nodes) == (name, "graph", 4, 14)
    assert data.inputs["edge_index"][0].tolist() == list(range(14))
    assert set(data.masks) == {"train", "val", "test"}


def test_a_loader_is_found_beside_the_sidecar_and_in_modules(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script is looked for in the folder given, a module in the current folder."""
    data, _ = load_data("rings.py:one", folder=script.parent, kind="graph-classification")
    assert data.num_graphs == 1
    monkeypatch.chdir(script.parent)
    assert load_data("rings:listed")[0].num_graphs == 4


def test_a_file_with_a_colon_in_its_name_is_a_file(script: Path, tmp_path: Path) -> None:
    """A path that exists is never taken for a function."""
    (tmp_path / "a:b").write_text("")
    with pytest.raises(UsageError, match="unknown kind of data file"):
        load_data(tmp_path / "a:b")


def test_the_path_in_a_sidecar_runs_nothing(tmp_path: Path) -> None:
    """A sidecar that came with a model may name a file; a function written there as a path is not called."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w').close()\ndef load(): pass\n")
    (tmp_path / "gnnexport.toml").write_text('schema = 1\n[data]\npath = "evil.py:load"\n')
    path = read_sidecar(tmp_path / "model.pt").data_path
    assert path is not None
    with pytest.raises(UsageError, match="no such file"):
        load_data(path)
    assert not (tmp_path / "it_ran").exists()
    with pytest.raises(UsageError, match="returned a NoneType"):
        load_data(str(path))
    assert (tmp_path / "it_ran").exists()


FAULTS = {
    "fails": r"raised ValueError: no such. The function is called without arguments",
    "exits": "raised SystemExit",
    "wants": "raised TypeError.*called without arguments",
    "number": "returned a int, not graphs. Return a PyG Data",
    "text": "returned a str, not graphs",
    "array": "returned a ndarray, not graphs",
    "nothing": "returned a NoneType, not graphs",
    "broken": r"the graphs of its Broken cannot be read \('gone'\)",
    "complex_features": "x is complex",
    "value": "has no function 'value'",
    "absent": "has no function 'absent'",
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_loaders_are_named(name: str, script: Path) -> None:
    """A loader that is missing, fails or returns something else is an error of exit code 2 with a mend."""
    with pytest.raises(UsageError, match=FAULTS[name]) as caught:
        load_data(f"{script}:{name}")
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(f"data '{script}:{name}'")
    assert caught.value.problems[0].mend


def test_loaders_that_cannot_be_imported_are_named(tmp_path: Path) -> None:
    """No such file, no such module, and a script with an error in it."""
    (tmp_path / "wrong.py").write_text("def load(:")
    for text, words in (
        (f"{tmp_path}/absent.py:load", "there is no file"),
        ("no_such_module_anywhere:load", "cannot be imported"),
        (f"{tmp_path}/wrong.py:load", "cannot be imported: SyntaxError"),
    ):
        with pytest.raises(UsageError, match=words):
            load_data(text)
