"""The whole way from a saved model to answers for some nodes of its graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import GAT, GCN, GIN, GraphSAGE

from gnnexport import api
from gnnexport.errors import UnsupportedError, UsageError
from gnnexport.runtime.runner import load
from tests.road import CHANNELS, CLASSES, NODES, small_graph, write_road

QUICK = "3s"
TARGETS = ("ort", "ort{portable=true}", "ort{aggregate=scatter}", "openvino", "openvino{portable=true}")
MODELS: dict[str, Callable[[], nn.Module]] = {
    "GCN": lambda: GCN(CHANNELS, 16, 2, CLASSES),
    "GraphSAGE": lambda: GraphSAGE(CHANNELS, 16, 3, CLASSES, jk="cat"),
    "GIN": lambda: GIN(CHANNELS, 16, 2, CLASSES),
    "GAT": lambda: GAT(CHANNELS, 16, 2, CLASSES, heads=2),
}


def written(folder: Path, name: str = "GCN") -> Path:
    """Write a model with its data and return its path."""
    path = write_road(folder)
    torch.manual_seed(1)
    torch.save(MODELS[name]().eval(), path)
    return path


def expected(path: Path) -> np.ndarray:
    """Answer for all nodes in PyTorch."""
    model = torch.load(path, weights_only=False)
    graph = small_graph()
    with torch.no_grad():
        return model(torch.from_numpy(graph["x"]), torch.from_numpy(graph["edge_index"]).long()).numpy()


def close(answer: np.ndarray, wanted: np.ndarray) -> None:
    """Hold answers against each other as far as float32 goes."""
    np.testing.assert_allclose(answer, wanted, atol=1e-5 * max(1.0, float(np.abs(wanted).max(initial=0))))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> api.Outcome:
    """One export."""
    return api.export(written(tmp_path_factory.mktemp("road")), mode="batched", time_budget=QUICK)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", TARGETS)
def test_answers_are_those_of_the_whole_graph(target: str, name: str, tmp_path: Path) -> None:
    """Every family on every engine, by our kernels and by standard operators: 1e-5 from full inference in PyTorch."""
    if target.startswith("openvino"):
        pytest.importorskip("openvino")
    path = written(tmp_path, name)
    outcome = api.export(path, mode="batched", target=target, time_budget=QUICK)
    assert outcome.exit_code == 0
    wanted = expected(path)
    with load(outcome.bundle, store_bytes=0) as cold, load(outcome.bundle) as warm:
        for nodes in ([5], [3, 59, 3, 0], [], list(range(NODES))):
            close(cold.predict(nodes)["logits"], wanted[nodes])
            close(warm.predict(nodes)["logits"], wanted[nodes])


def test_the_bundle_says_all_of_itself(made: api.Outcome) -> None:
    """Manifest, rows of the store, graph and features lie in the bundle; the report counts what a request costs."""
    manifest = json.loads((made.bundle / "manifest.json").read_text())
    assert manifest["mode"] == "batched"
    assert manifest["prepare"] == "runtime"
    assert [item["name"] for item in manifest["inputs"]] == ["node_ids"]
    assert [stage["rows_file"] for stage in manifest["batched"]["stages"]] == ["rows-1.npy", None]
    kinds = {file["path"]: file["kind"] for file in manifest["files"]}
    assert (kinds["features.npy"], kinds["rows-1.npy"], kinds["graph.npz"]) == ("graph", "data", "graph")
    (value,) = manifest["batched"]["values"]
    assert (value["form"], manifest["batched"]["structures"][0]["loops"]) == ("gcn", "replaced")
    report = made.report
    assert report.data.request == {"num_targets": 18}
    assert report.result.sizes is not None
    assert report.result.sizes.features_bytes >= NODES * CHANNELS * 4
    assert any("without rows kept" in note for note in report.notes)


def test_the_store_begins_with_the_rows_of_the_bundle(made: api.Outcome) -> None:
    """No row of an earlier stage is computed for the first request."""
    with load(made.bundle) as runner:
        assert runner.predict([1, 2, 3]).computed == {"stage-1": 0, "stage-2": 3}


def test_a_store_that_is_too_small_for_all_rows_begins_empty(tmp_path: Path) -> None:
    """Rows are left out of the bundle, which says so."""
    outcome = api.export(written(tmp_path), mode="batched", store="0.0005MB", time_budget=QUICK)
    assert not list(outcome.bundle.glob("rows-*"))
    assert any("the store begins empty" in note for note in outcome.report.notes)
    with load(outcome.bundle) as runner:
        assert runner.predict([1]).computed["stage-1"] > 0


def test_answers_follow_the_graph(made: api.Outcome) -> None:
    """A new node, edges and features: as PyTorch answers on the changed graph."""
    graph = small_graph()
    x = np.concatenate([graph["x"], np.ones((1, CHANNELS), np.float32)])
    x[7] = 0.5
    edges = np.array([[NODES, 4, 9], [4, NODES, 9]])
    with load(made.bundle) as runner:
        runner.update(new_features=x[NODES:], edges=edges, features=([7], x[7:8]))
        answer = runner.predict(np.arange(NODES + 1))
    model = torch.load(made.bundle.parent / "model.pt", weights_only=False)
    index = np.concatenate([graph["edge_index"], edges], 1)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x), torch.from_numpy(index).long()).numpy()
    assert answer.version == 1
    close(answer["logits"], wanted)


def test_weights_grow_with_the_graph(tmp_path: Path) -> None:
    """Normalised weights are made anew from those of the edges, old and new."""
    graph = small_graph()
    weights = np.linspace(0.1, 1, graph["edge_index"].shape[1]).astype(np.float32)
    path = write_road(tmp_path, lambda arrays: {**arrays, "edge_weight": weights})
    model = GCN(CHANNELS, 16, 2, CLASSES, add_self_loops=False).eval()
    torch.save(model, path)
    outcome = api.export(path, mode="batched", time_budget=QUICK)
    with load(outcome.bundle) as runner:
        runner.update(edges=[[3, 8], [5, 5]], edge_weight=np.array([0.7, 2], np.float32))
        answer = runner.predict(np.arange(NODES))["logits"]
    index = torch.from_numpy(np.concatenate([graph["edge_index"], [[3, 8], [5, 5]]], 1)).long()
    with torch.no_grad():
        wanted = model(
            torch.from_numpy(graph["x"]), index, torch.from_numpy(np.append(weights, np.float32([0.7, 2])))
        ).numpy()
    close(answer, wanted)


def test_validate_needs_neither_torch_nor_data(made: api.Outcome) -> None:
    """The bundle brings graph, features, labels and requests with their answers."""
    report = api.validate(made.bundle, time_budget="1s").report
    assert report.parity is not None
    assert report.parity.max_rel_error < 1e-5
    assert report.result.metric == made.report.result.metric
    with pytest.raises(UsageError, match=r"Leave --data out"):
        api.validate(made.bundle, data=made.bundle.parent / "data.npz")


def test_decisions_replay_to_the_same_digest(made: api.Outcome, tmp_path: Path) -> None:
    """Stages are lowered as they were, without timing."""
    again = api.export(
        made.bundle.parent / "model.pt", mode="batched", decisions=made.bundle / "decisions.json",
        output=tmp_path / "again", time_budget=QUICK,
    )  # fmt: skip
    digests = [json.loads((path / "manifest.json").read_text())["digest"] for path in (made.bundle, again.bundle)]
    assert digests[0] == digests[1]


def test_pruned_neighbours_are_read_from_columns_of_their_own(tmp_path: Path) -> None:
    """The features that neighbours are read by lie side by side in a file, beside the full ones."""
    path = written(tmp_path)
    torch.save(GraphSAGE(CHANNELS, 16, 2, CLASSES).eval(), path)
    passes = "prune-channels{keep=0.25,multiple=1,retrain=false}"
    outcome = api.compress(path, mode="batched", passes=passes, max_drop="100pp", time_budget=QUICK)
    manifest = json.loads((outcome.bundle / "manifest.json").read_text())
    whole, part = manifest["batched"]["tables"]
    assert whole["columns"] is None
    assert 0 < len(part["columns"]) < CHANNELS
    rows = np.load(outcome.bundle / part["file"])
    np.testing.assert_array_equal(rows, small_graph()["x"][:, part["columns"]])
    assert outcome.report.result.macs < outcome.report.exported.macs


def test_what_mode_batched_cannot_serve_is_refused(tmp_path: Path) -> None:
    """Engines of TensorRT, models whose rows depend on all nodes, and a store that no mode keeps."""
    path = written(tmp_path)
    with pytest.raises(UnsupportedError, match=r"builds no engines.*--target=ort"):
        api.export(path, mode="batched", target="trt")
    with pytest.raises(UsageError, match=r"--store: keeps rows.*--mode batched"):
        api.export(path, store="1MB")
    torch.save(GCN(CHANNELS, 16, 2, CLASSES, norm="graph_norm").eval(), path)
    with pytest.raises(UnsupportedError, match=r"norms.0 \(GraphNorm\) computes a row from all rows"):
        api.export(path, mode="batched")
    with pytest.raises(UnsupportedError, match=r"computes a row from all rows"):
        api.export(path, mode="batched", dry_run=True)
    assert not list(tmp_path.glob("*.bundle"))


def test_data_is_needed(tmp_path: Path) -> None:
    """Without a graph there is nothing to answer from."""
    path = written(tmp_path)
    (tmp_path / "gnnexport.toml").unlink()
    with pytest.raises(UsageError, match=r"serves a graph that it has to know"):
        api.export(path, mode="batched")
