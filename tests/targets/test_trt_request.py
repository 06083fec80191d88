"""The target `trt` for graphs of any size: a model in front, the engine, and the bounds of its requests."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch_geometric.nn import MFConv, NNConv

from gnnexport.bundle.layout import ENGINE
from gnnexport.errors import UnsupportedError
from gnnexport.program.program import Program
from gnnexport.runtime.trt import ONNX_FILE, PREPARE_FILE, open_onnx
from gnnexport.targets.contract import Artefact, DialectModel, EmitContext
from gnnexport.targets.onnx.translate_graphs import translate_graphs
from gnnexport.targets.trt import target
from gnnexport.targets.trt.engine import build_engine, open_builder, parse
from gnnexport.targets.trt.request import Limits, profile_of, request_of
from gnnexport.targets.trt.target import TrtTarget
from tests.small_models import CLASSES, EDGE_WIDTH, INPUTS, WIDTH, split
from tests.targets.requests import agrees, feeds, graph_program, hub_edges, pair_program, prepared, random_edges
from tests.targets.requests import request_of as ask

trt = pytest.importorskip("tensorrt_rtx")
RTX = "tensorrt_rtx"
NAMES = ("readout sum", "readout max", "pairs", "GCN", "GAT edge features", "edge network", "PNA")
SAMPLE = ask(random_edges(60, 300), 60, 4)
REQUESTS = {
    "sample": SAMPLE,
    "larger": ask(random_edges(200, 900, 1), 200, 9),
    "hub": ask(hub_edges(100), 100, 3),
    "no edges": ask(torch.zeros(2, 0, dtype=torch.int64), 5, 2),
    "one node": ask(torch.zeros(2, 1, dtype=torch.int64), 1),
}


class EdgeNetwork(nn.Module):
    """A layer whose weights come from the features of each edge."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = NNConv(WIDTH, CLASSES, nn.Linear(EDGE_WIDTH, WIDTH * CLASSES))

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """Return a row for each node."""
        out: Tensor = self.conv(x, edge_index, edge_attr)
        return out


@cache
def program(name: str) -> Program:
    """Return a Program by name."""
    if name == "edge network":
        return prepared(EdgeNetwork(), tuple(INPUTS[key] for key in ("x", "edge_index", "edge_attr")))
    if name == "by degree":
        return prepared(MFConv(WIDTH, CLASSES, 2), (INPUTS["x"], INPUTS["edge_index"]))
    if name == "pairs":
        return pair_program()
    return graph_program(name.removeprefix("readout ")) if name.startswith("readout") else split(name)


@cache
def dialect(name: str) -> DialectModel:
    """Translate a Program, with the sample as its typical request."""
    return translate_graphs(program(name), SAMPLE)


def emit(name: str, folder: Path, **options: Any) -> Artefact:
    """Write a model."""
    return TrtTarget(library="tensorrt_rtx", **options).emit(dialect(name), folder, EmitContext())


@pytest.mark.parametrize("name", NAMES)
def test_what_runs_in_front_and_the_model_answer_as_the_program(name: str, tmp_path: Path) -> None:
    """The engine builds, and its two ONNX models one after the other are exact on graphs of all sizes."""
    assert TrtTarget().check(program(name), "graphs") == []
    artefact = emit(name, tmp_path)
    assert artefact.prepare == "runtime"
    assert artefact.files == (ENGINE, ONNX_FILE, PREPARE_FILE)
    assert {path.name for path in tmp_path.iterdir()} == set(artefact.files)
    assert sum(artefact.sizes.values()) == sum((tmp_path / file).stat().st_size for file in artefact.files)
    backend = open_onnx(tmp_path, 1, prepared=True)
    assert {item.name for item in backend.inputs} == {item.name for item in program(name).inputs}
    for kind, request in REQUESTS.items():
        assert agrees(program(name), request, backend.run(feeds(program(name), request))["logits"]), kind
    backend.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_reads_tables_without_scatter(name: str, tmp_path: Path) -> None:
    """Nothing in the network scatters, sorts or takes int64; the indices are gathered as int32."""
    emit(name, tmp_path)
    module, builder, log = open_builder(RTX)
    network = parse(module, builder, tmp_path / ONNX_FILE, log)
    kinds = {network.get_layer(index).type for index in range(network.num_layers)}
    assert not kinds & {trt.LayerType.SCATTER, trt.LayerType.TOPK, trt.LayerType.NON_ZERO}
    types = {network.get_input(index).dtype for index in range(network.num_inputs)}
    assert types <= {trt.DataType.FLOAT, trt.DataType.INT32, trt.DataType.BOOL}
    assert trt.DataType.INT32 in types


def test_features_of_edges_go_to_the_engine_unless_they_are_scattered() -> None:
    """What runs in front of an edge network only sorts edges; attention that fills self-loops reads them there."""
    notes: list[str] = []
    front, body = target.split_features(dialect("edge network"), notes.append)
    assert [value.name for value in front.graph.inputs] == ["x", "edge_index"]
    assert "edge_attr" in {value.name for value in body.graph.inputs}
    assert all(value.dtype != ir.DataType.FLOAT for value in front.graph.outputs)
    assert notes == []
    front, body = target.split_features(dialect("GAT edge features"), notes.append)
    assert "edge_attr" in {value.name for value in front.graph.inputs}
    assert "edge_attr" not in {value.name for value in body.graph.inputs}
    assert any(note.startswith("edge features go through prepare.onnx") for note in notes)


def test_limits_come_from_the_sample_unless_told(tmp_path: Path) -> None:
    """They are told in the manifest, because a larger request does not go through the engine."""
    assert set(emit("GCN", tmp_path).requirements) & {"max_graphs", "max_graph_nodes", "max_pairs"} == set()
    degree = max(int(torch.bincount(row).max()) for row in SAMPLE["edge_index"])
    graph = int(torch.bincount(SAMPLE["batch"]).max())
    needed = emit("readout sum", tmp_path, max_edges=5000).requirements
    limits = {key: value for key, value in needed.items() if key.startswith("max_")}
    assert limits == {
        "max_nodes": 240,
        "max_edges": 5000,
        "max_degree": 4 * degree,
        "max_graphs": 16,
        "max_graph_nodes": 4 * graph,
    }


def test_limits_below_the_sample(tmp_path: Path) -> None:
    """Whoever serves smaller requests than the sample may say so; the typical request is cut down."""
    told = {"max_nodes": 10, "max_edges": 20, "max_degree": 4, "max_graphs": 2, "max_graph_nodes": 8}
    needed = emit("readout sum", tmp_path, **told).requirements
    assert told.items() <= needed.items()


def test_limits_of_generated_graphs_are_told_as_such(tmp_path: Path) -> None:
    """Without data nothing is known of the requests to come: the report names each limit that was not set."""
    made_up = replace(dialect("GCN"), generated=True)
    for told, named in (({}, "max_nodes, max_edges, max_degree"), ({"max_nodes": 300}, "max_edges, max_degree")):
        notes: list[str] = []
        TrtTarget(library="tensorrt_rtx", **told).emit(made_up, tmp_path, EmitContext(note=notes.append))
        (line,) = [note for note in notes if "generated graphs" in note]
        assert line.endswith(f"or set {named}")


def test_how_many_nodes_a_mask_picks_is_bounded_by_all_of_them(tmp_path: Path) -> None:
    """Weights chosen by degree: any share of the nodes may have each, which no single request reaches for all."""
    emit("by degree", tmp_path, max_nodes=300)
    module, builder, log = open_builder(RTX)
    network = parse(module, builder, tmp_path / ONNX_FILE, log)
    limits = Limits.of(dialect("by degree"), {"nodes": 300})
    profile = profile_of(dialect("by degree"), ir.load(tmp_path / ONNX_FILE), tmp_path / PREPARE_FILE, limits, 1)
    picked = [name for name, (low, _, high) in profile.items() if low.shape[:1] == (0,) and high.shape[:1] == (300,)]
    assert len(picked) >= 3, profile
    assert {network.get_input(index).name for index in range(network.num_inputs)} == profile.keys()
    backend = open_onnx(tmp_path, 1, prepared=True)
    for kind, request in REQUESTS.items():
        answer = backend.run(feeds(program("by degree"), request))["logits"]
        assert agrees(program("by degree"), request, answer), kind
    backend.close()


def test_a_limit_below_the_sample_bounds_values_as_well() -> None:
    """TensorRT is told the values of an input that is a size: the typical one lies between the other two."""
    limits = Limits(nodes=240, edges=900, degree=40, graphs=2, graph_nodes=200, pairs=9)
    low, typical, high = profile_of(dialect("readout sum"), dialect("readout sum").model, None, limits, 1)["num_graphs"]
    assert SAMPLE["num_graphs"] == 4
    assert (low, typical, high) == (1, 2, 2)


def test_tables_that_would_be_too_large_are_refused_before_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is told with the options that bound it; nothing runs to find out."""
    monkeypatch.setattr(target, "profile_of", None)
    told = {"max_nodes": 100_000, "max_edges": 500_000, "max_degree": 1000}
    told |= {"max_graphs": 20_000, "max_graph_nodes": 5000}
    with pytest.raises(UnsupportedError) as caught:
        emit("readout sum", tmp_path, **told)
    nodes, graphs = map(str, caught.value.problems)
    assert "100,000 nodes x 1,000 (degree)" in nodes
    assert "max_nodes and max_degree" in nodes
    assert "max_graphs and max_graph_nodes" in graphs


def test_a_node_has_no_more_edges_than_there_are() -> None:
    """Limits that grow with the sample stop where another does."""
    sample = {**dialect("readout sum").sample, "edge_index": np.zeros((2, 300), np.int64)}
    grown = Limits.of(replace(dialect("readout sum"), sample=sample), {"edges": 500, "nodes": 70})
    assert (grown.degree, grown.graph_nodes) == (500, 70)


def test_either_end_of_an_edge_may_be_the_hub() -> None:
    """A model may send messages against the edges, so the largest degree is that of either row."""
    hub = torch.stack([torch.zeros(50, dtype=torch.int64), torch.arange(50)])
    for edges in (hub, hub.flip(0)):
        sample = {**dialect("GCN").sample, "edge_index": edges.numpy()}
        assert Limits.of(replace(dialect("GCN"), sample=sample), {}).degree == 200


def test_limits_that_bound_nothing_are_told() -> None:
    """One graph that is baked in has no largest request, but for pairs; without a readout there are no graphs."""
    assert TrtTarget(max_pairs=9).check(program("pairs"), "full") == []
    assert TrtTarget(max_pairs=9, max_nodes=9, max_degree=9).check(program("pairs"), "graphs") == []
    assert TrtTarget(max_graphs=9, max_graph_nodes=9).check(program("readout sum"), "graphs") == []
    (problem,) = TrtTarget(max_nodes=9, max_pairs=9).check(program("pairs"), "full")
    assert str(problem) == (
        "target trt: max_nodes bounds nothing that a request of this model in mode full brings. Leave it out."
    )
    assert len(TrtTarget(max_graphs=9, max_pairs=9).check(program("GCN"), "graphs")) == 2


def test_what_runs_in_front_is_required_and_counted(tmp_path: Path) -> None:
    """ONNX Runtime runs it, and weights that edges go through lie in it."""
    artefact = emit("GAT edge features", tmp_path)
    assert artefact.requirements["onnxruntime"].startswith(">=")
    assert "onnxruntime" in artefact.requirements["versions"]
    assert "version" not in artefact.decisions
    held = program("GAT edge features").named_parameters()
    assert artefact.sizes["weights_bytes"] >= sum(value.numel() * value.element_size() for _, value in held)


def test_another_limit_builds_another_engine(tmp_path: Path) -> None:
    """The limits are built into the engine, and change nothing in what it is built from."""
    written = []
    for nodes in (100, 200_000):
        folder = tmp_path / str(nodes)
        folder.mkdir()
        files = emit("readout sum", folder, max_nodes=nodes).files
        written.append({file: (folder / file).read_bytes() for file in files})
    assert [file for file in written[0] if written[0][file] != written[1][file]] == [ENGINE]


@pytest.mark.parametrize(
    "limits",
    [
        Limits(nodes=50, edges=400, degree=30, graphs=5, graph_nodes=20, pairs=7),
        Limits(nodes=1, edges=3, degree=9, graphs=1, graph_nodes=4, pairs=1),
        Limits(nodes=6, edges=1000, degree=2, graphs=9, graph_nodes=9, pairs=1),
        Limits(nodes=4, edges=0, degree=0, graphs=1, graph_nodes=1, pairs=1),
    ],
)
def test_the_largest_request_reaches_its_limits(limits: Limits) -> None:
    """As far as they go together: no more edges than nodes with their degrees, indices that point somewhere."""
    made = request_of(dialect("readout sum"), limits)
    edges, ids = made["edge_index"], made["batch"]
    assert made["x"].shape == (limits.nodes, WIDTH)
    assert edges.shape == (2, min(limits.edges, limits.nodes * limits.degree))
    if edges.size:
        assert 0 <= edges.min() <= edges.max() < limits.nodes
        assert np.bincount(edges[1]).max() == min(limits.degree, limits.edges)
    assert (np.diff(ids) >= 0).all()
    assert 0 <= ids.min() <= ids.max() < made["num_graphs"] == limits.graphs
    assert np.bincount(ids)[0] == (limits.nodes if limits.graphs == 1 else min(limits.graph_nodes, limits.nodes))
    assert request_of(dialect("pairs"), limits)["edge_label_index"].shape == (2, limits.pairs)


@pytest.mark.parametrize("name", ["max_nodes", "max_graph_nodes"])
def test_limits_start_at_one(name: str) -> None:
    """An engine for no request is none."""
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        TrtTarget(**{name: 0})


def test_dense_needs_a_graph_that_is_known(tmp_path: Path) -> None:
    """There is no adjacency to store when every request brings its own."""
    (problem,) = TrtTarget(aggregate="dense").check(program("GCN"), "graphs")
    assert "aggregate=dense" in problem.what
    with pytest.raises(UnsupportedError, match="aggregate=dense"):
        emit("GCN", tmp_path, aggregate="dense")


def test_an_input_that_is_a_shape(tmp_path: Path) -> None:
    """TensorRT wants its values where it wants the sizes of others."""
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "shape"], ["y"], name="widen")],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3]),
            helper.make_tensor_value_info("shape", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    x = np.zeros((1, 3), np.float32)
    profile = {"x": (x, x, x), "shape": tuple(np.array([rows, 3]) for rows in (1, 4, 8))}
    assert build_engine(path, RTX, tf32=False, workspace_bytes=None, profile=profile).plan
