"""Every way a model comes in goes through to a bundle, or is refused with the way that works."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim
from torch_geometric.data import Data
from torch_geometric.nn import GCN, GINConv, Sequential, global_add_pool

from gnnexport.cli import app
from tests.road import CHANNELS, CLASSES, small_graph, write_road

SCRIPT = '''
"""Train a model, in the way scripts do."""

import torch
from torch_geometric.nn import GCNConv, global_mean_pool


class Net(torch.nn.Module):
    def __init__(self, channels=6):
        super().__init__()
        self.conv = GCNConv(channels, 8, cached=True)
        self.last = torch.nn.Linear(8, 3)

    def forward(self, data):
        x, edge_index = data.x, data.edge_index
        return self.last(self.conv(x, edge_index).relu())


def build():
    return Net()


if __name__ == "__main__":
    raise SystemExit("training must not start again")
'''


def run(arguments: Sequence[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    """Run a command with --json; return its exit code and document."""
    capsys.readouterr()
    code = app.run([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def message(document: Any) -> str:
    """Join the words of an error document."""
    return json.dumps(document)


@pytest.fixture
def pooled(tmp_path: Path) -> Path:
    """A saved model that answers for graphs."""
    torch.manual_seed(0)
    convolution = GINConv(nn.Sequential(nn.Linear(CHANNELS, 8), nn.ReLU(), nn.Linear(8, CLASSES)))
    steps = [(convolution, "x, edge_index -> x"), (global_add_pool, "x, batch -> x")]
    torch.save(Sequential("x, edge_index, batch", steps).eval(), tmp_path / "gin.pt")
    return tmp_path / "gin.pt"


def test_a_model_alone_is_enough(pooled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without data and sidecar the model is lowered for new graphs, checked on made-up ones, and says so."""
    code, report = run(["export", pooled, "--target=ort", "--time-budget", "5s"], capsys)
    assert code == 0
    assert any("accuracy not measured: no data was given" in note for note in report["notes"])
    assert report["parity"]["max_rel_error"] <= report["parity"]["tolerance"]
    manifest = json.loads((pooled.parent / "gin.bundle" / "manifest.json").read_text())
    assert manifest["mode"] == "graphs"
    assert [item["name"] for item in manifest["inputs"]] == ["x", "edge_index", "batch", "num_graphs"]
    assert manifest["outputs"][0]["shape"] == ["num_graphs", CLASSES]
    code, report = run(["validate", pooled.parent / "gin.bundle", "--time-budget", "1s"], capsys)
    assert code == 0
    assert report["parity"]["cases"] >= 6


def test_an_accuracy_budget_without_data_is_inconclusive(pooled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A budget that the user set and nothing can decide exits 7."""
    arguments = ["compress", pooled, "--passes", "none", "--max-drop", "1pp", "--time-budget", "5s"]
    code, report = run(arguments, capsys)
    assert (code, report["verdict"]) == (7, "inconclusive")


@pytest.mark.parametrize("spec", ["a2q", "quantize{bits=8}", "prune-channels", "quantize{mode=dynamic};a2q"])
def test_nothing_is_fitted_to_graphs_that_are_made_up(
    spec: str, pooled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pass that needs features is refused where there is no data, and nothing is left behind."""
    code, document = run(["compress", pooled, "--passes", spec], capsys)
    assert code == 6
    assert "Give data with --data" in message(document)
    assert [path.name for path in pooled.parent.iterdir()] == ["gin.pt"]


def test_what_needs_no_data_runs_without(pooled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Steps that are taken when the model runs, and casts, need no features."""
    for spec in ("quantize{mode=dynamic}", "cast{to=bf16,rows=false}"):
        code, document = run(["compress", pooled, "--passes", spec, "--time-budget", "2s", "--force"], capsys)
        assert code == 0, message(document)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--mode", "full"], 2, "mode 'full' needs the graph"),
        (["--mode", "batched"], 2, "serves a graph that it has to know"),
        (["--mode", "fast"], 2, "unknown mode 'fast'"),
        (["--input", "x=N,7"], 2, "was trained on"),
        (["--input", "x=E,6"], 2, "Write x=N,16"),
        (["--input", "pos=N,3"], 2, "Write x=N,16"),
        (["--input", "edge_attr=E,4"], 2, "takes no such input"),
        (["--code", "train.py"], 2, "--trust"),
        (["--data", "absent.npz"], 2, "no such file"),
    ],
)
def test_wrong_ways(
    pooled: Path, options: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each wrong option has its exit code and says the mend, and nothing is left behind."""
    found, document = run(["export", pooled, "--target=ort", *options], capsys)
    assert found == code, document
    assert words in message(document)
    assert sorted(path.name for path in pooled.parent.iterdir()) == ["gin.pt"]


def test_a_width_that_nothing_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The width is read off attributes, else tried from the weights; where neither tells, `--input` does."""
    layers = [(nn.Linear(CHANNELS, 4), "x -> x"), (GCN(4, 8, 2, CLASSES), "x, edge_index -> x")]
    torch.save(Sequential("x, edge_index", layers).eval(), tmp_path / "told.pt")
    assert run(["export", tmp_path / "told.pt", "--dry-run"], capsys)[0] == 0
    torch.save(Sequential("x, edge_index", [(nn.ReLU(), "x -> x"), (nn.Softmax(-1), "x -> x")]), tmp_path / "any.pt")
    code, document = run(["export", tmp_path / "any.pt", "--dry-run"], capsys)
    assert code == 2
    assert "--input x=N,16" in message(document)


def test_a_class_of_the_training_script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`forward(data)`, `cached=True` and a class of the script go through with --trust --code, or with a builder."""
    write_road(tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT)
    namespace: dict[str, Any] = {"__name__": "training"}
    exec(compile(SCRIPT, "train.py", "exec"), namespace)
    torch.manual_seed(0)
    model = namespace["Net"]().eval()
    torch.save({"epoch": 3, "model_state_dict": model.state_dict()}, tmp_path / "weights.pt")
    data = ["--data", tmp_path / "data.npz", "--time-budget", "5s"]
    code, document = run(["export", tmp_path / "weights.pt", *data], capsys)
    assert code == 2
    assert "--builder" in message(document)
    with monkeypatch.context() as script:
        # A script that runs is called __main__, which is what the pickle then says.
        script.setattr(namespace["Net"], "__module__", "__main__")
        script.setattr(sys.modules["__main__"], "Net", namespace["Net"], raising=False)
        graph = Data(**{key: torch.from_numpy(value) for key, value in small_graph().items()})
        graph.edge_index = graph.edge_index.long()
        model(graph)  # fills the cache of the layer, as training does
        torch.save(model, tmp_path / "net.pt")
    code, document = run(["export", tmp_path / "net.pt", *data], capsys)
    assert (code, "--trust --code train.py" in message(document)) == (2, True)
    trusted = ["--trust", "--code", tmp_path / "train.py"]
    code, report = run(["export", tmp_path / "net.pt", *data, *trusted], capsys)
    assert code == 0, report
    assert report["drop"]["value"] == 0
    builder = ["--builder", f"{tmp_path / 'train.py'}:build"]
    code, report = run(["export", tmp_path / "weights.pt", *data, *builder], capsys)
    assert code == 0, report
    assert report["drop"]["value"] == 0


def test_a_lightning_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The weights of a Lightning checkpoint come in through a builder, whatever prefix they have."""
    write_road(tmp_path)
    torch.manual_seed(0)
    state = {f"model.{name}": value for name, value in GCN(CHANNELS, 8, 2, CLASSES).state_dict().items()}
    settings = {"pytorch-lightning_version": "2.5.0", "hyper_parameters": {"lr": 0.1}}
    checkpoint = {"epoch": 1, "state_dict": state, **settings}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    (tmp_path / "build.py").write_text(
        f"from torch_geometric.nn import GCN\n\ndef build():\n    return GCN({CHANNELS}, 8, 2, {CLASSES})\n"
    )
    data = ["--data", tmp_path / "data.npz", "--dry-run"]
    code, document = run(["export", tmp_path / "last.ckpt", *data], capsys)
    assert (code, "--builder" in message(document)) == (2, True)
    assert run(["export", tmp_path / "last.ckpt", *data, "--builder", f"{tmp_path / 'build.py'}:build"], capsys)[0] == 0


def test_an_exported_program_runs_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A .pt2 goes through with --trust, and is refused without."""
    write_road(tmp_path)
    graph = small_graph()
    nodes, edges = Dim("nodes", min=2), Dim("edges", min=2)
    arguments = {"x": torch.from_numpy(graph["x"]), "edge_index": torch.from_numpy(graph["edge_index"]).long()}
    shapes = {"x": {0: nodes}, "edge_index": {1: edges}}
    model = GCN(CHANNELS, 8, 2, CLASSES).eval()
    torch.export.save(torch.export.export(model, (), arguments, dynamic_shapes=shapes), tmp_path / "gcn.pt2")
    data = ["--data", tmp_path / "data.npz", "--dry-run"]
    code, document = run(["export", tmp_path / "gcn.pt2", *data], capsys)
    assert (code, "--trust" in message(document)) == (2, True)
    assert run(["export", tmp_path / "gcn.pt2", *data, "--trust"], capsys)[0] == 0


def test_a_loader_function_is_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--data load.py:graphs` calls the function, because the user named it; a sidecar's needs --trust."""
    model = write_road(tmp_path)
    np.savez(tmp_path / "graph.npz", **small_graph())
    (tmp_path / "load.py").write_text(
        "import pathlib\nimport numpy\n\ndef graph():\n"
        "    return dict(numpy.load(pathlib.Path(__file__).with_name('graph.npz')))\n"
    )
    source = f"{tmp_path / 'load.py'}:graph"
    assert run(["export", model, "--data", source, "--dry-run"], capsys)[0] == 0
    (tmp_path / "gnnexport.toml").write_text('schema = 1\n[data]\nloader = "load.py:graph"\n')
    code, document = run(["export", model, "--dry-run"], capsys)
    assert (code, "--trust" in message(document)) == (2, True)
    assert run(["export", model, "--dry-run", "--trust"], capsys)[0] == 0
