"""Tasks other than one class for each node, on real data: the export keeps the metric."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import nn
from torch_geometric.nn import SAGEConv, Sequential, global_mean_pool

from benchmarks.real_data import ROOT, find, reason
from gnnexport import api
from gnnexport.frontends.data import load_data
from gnnexport.training.task import compute_loss

SAMPLES = ROOT / "samples"


def real(name: str) -> Path:
    """Return the file of a data set, or skip the test."""
    path = find(name)
    if path is None:
        pytest.skip(reason(name))
    return path


def run_sample(sample: str, data: str, folder: Path, epochs: int) -> None:
    """Train a sample for some epochs and let it write its files, as a program of its own."""
    command = [str(SAMPLES / sample / "train.py"), str(real(data)), str(folder), "--epochs", str(epochs)]
    subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)


def metrics_of(bundle: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the report says of the metric of the original and of the result."""
    report = json.loads((bundle / "report.json").read_text())
    return report["baseline"]["metric"], report["result"]["metric"]


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sample of links lies, trained."""
    folder = tmp_path_factory.mktemp("links")
    run_sample("links", "cora", folder, epochs=15)
    return folder


@pytest.mark.parametrize("mode", ["full", "graphs"])
def test_links_of_cora_keep_their_metric(mode: str, links: Path, tmp_path: Path) -> None:
    """Pairs ranked on the target as by PyTorch, whether the graph is baked in or comes with each request."""
    code = SAMPLES / "links" / "train.py"
    outcome = api.export(
        links / "model.pt", trust=True, code=code, mode=mode, output=tmp_path / "bundle", time_budget="1s"
    )
    before, after = metrics_of(outcome.bundle)
    assert (outcome.exit_code, before["name"], before["n"]) == (0, "roc-auc", 1054)
    assert before["value"] > 0.6
    assert before == after


def test_molecules_keep_their_metric(tmp_path: Path) -> None:
    """A state dict with its builder; the error over the test molecules is that of PyTorch."""
    run_sample("molecules", "mol_esol", tmp_path, epochs=8)
    builder = f"{SAMPLES / 'molecules' / 'train.py'}:build_model"
    outcome = api.export(tmp_path / "weights.pt", builder=builder, time_budget="1s")
    before, after = metrics_of(outcome.bundle)
    assert (outcome.exit_code, before["name"], before["n"]) == (0, "rmse", 113)
    assert before["value"] < 2
    # An error moves with every rounding of a float32 output, a ranking does not.
    assert after["value"] == pytest.approx(before["value"], rel=1e-6)
    row = re.search(r"rmse.*test, 113 graphs.*", (outcome.bundle / "report.md").read_text())
    assert row is not None
    printed = [cell.strip() for cell in row[0].split("|")[1:-1]]
    assert printed == [printed[0]] * 3


def fit(model: nn.Module, path: Path, folder: Path, steps: int = 5) -> None:
    """Train on the training rows for some steps, and save beside where the export goes."""
    data, _ = load_data(path)
    assert data.y is not None
    rows = data.masks["train"]
    arguments = {name: value for name, value in data.inputs.items() if name in model.signature.param_dict}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loss: Literal["bce", "cross-entropy"] = "bce" if data.y.dim() == 2 else "cross-entropy"
    for _ in range(steps):
        optimizer.zero_grad()
        compute_loss(loss, model(**arguments)[rows], data.y[rows]).backward()
        optimizer.step()
    torch.save(model.eval(), folder / "model.pt")


def sage(channels: int, outputs: int, *, readout: bool = False) -> nn.Module:
    """Make two GraphSAGE layers, with the mean over each graph and a linear layer where there are many graphs."""
    torch.manual_seed(0)
    steps: list[Any] = [(SAGEConv(channels, 16), "x, edge_index -> x"), nn.ReLU()]
    if not readout:
        model: nn.Module = Sequential("x, edge_index", [*steps, (SAGEConv(16, outputs), "x, edge_index -> x")])
        return model
    steps.append((global_mean_pool, "x, batch, num_graphs -> x"))
    return Sequential("x, edge_index, batch, num_graphs", [*steps, nn.Linear(16, outputs)])  # type: ignore[no-any-return]


def write_task(folder: Path, kind: str, metric: str) -> None:
    """Write the sidecar."""
    (folder / "gnnexport.toml").write_text(f'[task]\nkind = "{kind}"\nmetric = "{metric}"\n')


def test_mines_keep_their_ranking(tmp_path: Path) -> None:
    """Two classes of which one is rare, on one graph; the metric is average precision."""
    path = real("minesweeper")
    fit(sage(7, 2), path, tmp_path)
    write_task(tmp_path, "node-classification", "average-precision")
    outcome = api.export(tmp_path / "model.pt", data=path, time_budget="1s")
    before, after = metrics_of(outcome.bundle)
    assert (before["name"], before["n"]) == ("average-precision", 2500)
    assert after["value"] == pytest.approx(before["value"], abs=1e-6)


@pytest.mark.slow
def test_inhibitors_keep_their_ranking(tmp_path: Path) -> None:
    """A few per cent of the molecules inhibit the virus; the metric reads the margin of two logits."""
    some_molecules(real("mol_hiv"), tmp_path / "some.npz", 600)
    fit(sage(32, 2, readout=True), tmp_path / "some.npz", tmp_path)
    write_task(tmp_path, "graph-classification", "roc-auc")
    outcome = api.export(tmp_path / "model.pt", data=tmp_path / "some.npz", time_budget="1s")
    before, after = metrics_of(outcome.bundle)
    assert before["n"] == 200
    assert after["value"] == pytest.approx(before["value"], abs=1e-6)


def some_molecules(path: Path, smaller: Path, count: int) -> None:
    """Write so many graphs of a set, a third in each split, both classes in each."""
    arrays = np.load(path, allow_pickle=False)
    y = arrays["y"]
    first, second = (np.flatnonzero(y == label)[: count // 2] for label in (0, 1))
    chosen = np.stack([first, second], axis=1).ravel()
    nodes = [np.arange(*arrays["node_ptr"][graph : graph + 2]) for graph in chosen]
    edges = [np.arange(*arrays["edge_ptr"][graph : graph + 2]) for graph in chosen]
    new = np.zeros(int(arrays["num_nodes"]), dtype=np.int64)
    new[np.concatenate(nodes)] = np.arange(sum(map(len, nodes)))
    x = csr_matrix((arrays["x_data"], arrays["x_indices"], arrays["x_indptr"]), shape=tuple(arrays["x_shape"]))
    part = np.arange(count) * 3 // count
    np.savez(
        smaller,
        x=x[np.concatenate(nodes)].toarray(),
        edge_index=new[arrays["edge_index"][:, np.concatenate(edges)]],
        node_ptr=np.cumsum([0, *map(len, nodes)]),
        edge_ptr=np.cumsum([0, *map(len, edges)]),
        y=y[chosen],
        **{f"{name}_mask": part == number for number, name in enumerate(("train", "val", "test"))},
    )


@pytest.mark.slow
def test_several_labels_on_degrees_alone(tmp_path: Path) -> None:
    """A set without features gets its degrees, and each node any number of 39 labels."""
    path = real("blogcatalog_multilabel")
    model = sage(1, 39)
    fit(model, path, tmp_path)
    outcome = api.export(tmp_path / "model.pt", data=path, time_budget="1s")
    before, after = metrics_of(outcome.bundle)
    assert before["name"] == "f1-multilabel"
    assert after["value"] == pytest.approx(before["value"], abs=1e-6)
    assert any("in-degree" in note for note in outcome.report.to_dict()["notes"])
