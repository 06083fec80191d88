"""The target `openvino` with our own kernels: one graph and graphs of any size, against PyTorch."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch_geometric.nn import GATv2Conv, GCNConv, TransformerConv

from gnnexport.errors import MissingExtraError, UnsupportedError
from gnnexport.native import library, openvino_extension
from gnnexport.program.program import Program
from gnnexport.targets import openvino as target
from gnnexport.targets.contract import Artefact, EmitContext
from gnnexport.targets.onnx import choice
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.onnx.translate_graphs import translate_graphs
from gnnexport.targets.openvino import MODEL_FILE, OpenVinoTarget
from tests.small_models import CLASSES, EDGE_WIDTH, INPUTS, WIDTH, run, split
from tests.targets.graphs import from_degrees
from tests.targets.networks import CHANNELS, NAMES, network
from tests.targets.requests import Request, feeds, prepared, random_edges, request_of
from tests.targets.sketch import Array, normal

pytest.importorskip("openvino")
from gnnexport.runtime.openvino import OpenVinoBackend, import_openvino

TOLERANCE = 1e-4
NO_EDGES = torch.empty(2, 0, dtype=torch.int64)
EDGES = {"isolated nodes": (random_edges(5, 30), 40), "no edges": (NO_EDGES, 7), "one node": (NO_EDGES, 1)}
MODELS = ("GCN", "GCN with weights", "GraphSAGE", "GIN", "GAT", "GATv2", "Transformer", "Transformer with edges")


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    """Skip where the kernels, or a compiler for their extension, are missing."""
    try:
        openvino_extension.extension(import_openvino("tests"))
    except MissingExtraError as error:
        pytest.skip(str(error))


def program(name: str) -> Program:
    """Return a small model by name."""
    inputs = (INPUTS["x"], INPUTS["edge_index"])
    if name == "GCN with weights":
        return prepared(GCNConv(WIDTH, CLASSES), (*inputs, INPUTS["edge_weight"]))
    if name == "GATv2":
        return prepared(GATv2Conv(WIDTH, CLASSES, heads=2), inputs)
    if name == "Transformer":
        return prepared(TransformerConv(WIDTH, CLASSES, heads=2), inputs)
    if name == "Transformer with edges":
        return prepared(TransformerConv(WIDTH, CLASSES, heads=2, edge_dim=EDGE_WIDTH), (*inputs, INPUTS["edge_attr"]))
    return split(name)


def emit(program: Program, folder: Path, request: Request, mode: str) -> Artefact:
    """Write a model that calls the kernels."""
    dialect = translate(program, request) if mode == "full" else translate_graphs(program, request)
    artefact = OpenVinoTarget(aggregate="native").emit(dialect, folder, EmitContext(threads=1))
    assert artefact.native == bool(operators(folder))
    return artefact


def operators(folder: Path) -> list[str]:
    """Name the operators of the kernels in what was written."""
    layers = ElementTree.parse(folder / MODEL_FILE).iter("layer")
    return [layer.attrib["type"] for layer in layers if layer.attrib["version"] == "gnnexport"]


def close(actual: Array, expected: Array) -> bool:
    """Tell whether the largest difference is small against the largest magnitude."""
    assert actual.shape == expected.shape
    return bool(abs(actual - expected).max(initial=0) <= TOLERANCE * max(1.0, abs(expected).max(initial=0)))


@pytest.mark.parametrize("edges", EDGES)
@pytest.mark.parametrize("name", MODELS)
def test_one_graph(name: str, edges: str, tmp_path: Path) -> None:
    """The kernels answer as PyTorch does; where a reduction has nothing to read its result is known without them."""
    model, request = program(name), request_of(*EDGES[edges])
    emit(model, tmp_path, request, "full")
    assert operators(tmp_path) or request["edge_index"].numel() == 0
    backend = OpenVinoBackend(tmp_path / MODEL_FILE, threads=1, native=True)
    assert close(backend.run({"x": request["x"].numpy()})["logits"], run(model, request).numpy())


@pytest.mark.parametrize("name", MODELS)
def test_graphs_of_any_size(name: str, tmp_path: Path) -> None:
    """One file answers requests of every size, without edges, too, and builds their structure with the kernels."""
    model = program(name)
    emit(model, tmp_path, request_of(*EDGES["isolated nodes"]), "graphs")
    assert operators(tmp_path)
    for threads in (1, 2):
        backend = OpenVinoBackend(tmp_path / MODEL_FILE, threads=threads, native=True)
        for edges in EDGES.values():
            request = request_of(*edges)
            assert close(backend.run(feeds(model, request))["logits"], run(model, request).numpy())
        backend.close()


@pytest.mark.parametrize("degrees", [[0, 1, 90, 3, 7, 200], [0] * 5], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_networks(name: str, degrees: list[int], tmp_path: Path) -> None:
    """Every operator answers as numpy does."""
    graph = from_degrees(degrees)
    x = normal((graph.num_nodes, CHANNELS))
    dialect, expected = network(name, graph, x)
    artefact = OpenVinoTarget(aggregate="native").emit(dialect, tmp_path, EmitContext())
    assert artefact.native == (graph.num_edges > 0)
    backend = OpenVinoBackend(tmp_path / MODEL_FILE, threads=2, native=True)
    assert close(backend.run({"x": x})["logits"], expected)


@pytest.mark.parametrize(
    ("name", "operator"), [("GraphSAGE", "Edges"), ("GCN", "WeightedEdges"), ("GCN with weights", "WeightedEdges")]
)
def test_edges_are_prepared_by_one_operator(name: str, operator: str, tmp_path: Path) -> None:
    """What OpenVINO makes of 64 bits, 32 of them, does for loops and weights of edges, too."""
    pytest.importorskip("onnxruntime")
    model = program(name)
    emit(model, tmp_path, request_of(*EDGES["isolated nodes"]), "graphs")
    assert operator in operators(tmp_path)
    backend = OpenVinoBackend(tmp_path / MODEL_FILE, threads=1, native=True)
    request = request_of(torch.tensor([[0, 1, 1, 0, 2, 2], [1, 0, 1, 1, 2, 2]]), 5)
    assert close(backend.run(feeds(model, request))["logits"], run(model, request).numpy())


def test_attention_is_one_operator(tmp_path: Path) -> None:
    """Nothing with a row for each edge is left in the model."""
    artefact = emit(program("GAT"), tmp_path, request_of(*EDGES["isolated nodes"]), "full")
    assert artefact.decisions["kernels"] == library.path_name()
    assert set(operators(tmp_path)) == {"Attention"}


@pytest.mark.parametrize("mode", ["full", "graphs"])
def test_a_sum_and_its_layers_are_one_operator(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No product, bias or activation of GraphSAGE is left to OpenVINO."""
    monkeypatch.setattr(choice, "path_name", lambda: "avx2")
    emit(program("GraphSAGE"), tmp_path, request_of(*EDGES["isolated nodes"]), mode)
    assert operators(tmp_path).count("AggregateLinear") == 2
    layers = {layer.attrib["type"] for layer in ElementTree.parse(tmp_path / MODEL_FILE).iter("layer")}
    assert not layers & {"MatMul", "Add", "ReLU", "Aggregate"}


def test_an_index_out_of_range_is_an_error(tmp_path: Path) -> None:
    """What a kernel refuses is an error that names the node, on one thread as on two."""
    model = program("GraphSAGE")
    emit(model, tmp_path, request_of(*EDGES["isolated nodes"]), "graphs")
    request = {**feeds(model, request_of(*EDGES["isolated nodes"]))}
    request["edge_index"] = np.full_like(request["edge_index"], 99)
    for threads in (1, 2):
        backend = OpenVinoBackend(tmp_path / MODEL_FILE, threads=threads, native=True)
        with pytest.raises(UnsupportedError, match="openvino failed while running it"):
            backend.run(request)


def test_kernels_are_chosen_by_timing(tmp_path: Path) -> None:
    """On OpenVINO itself, beside the other lowerings; who replays the decisions gets the same bytes."""
    graph = from_degrees([9] * 600)
    dialect, _ = network("sage-mean", graph, normal((600, CHANNELS)))
    first = OpenVinoTarget().emit(dialect, tmp_path, EmitContext())
    names = {item["name"] for row in first.lowering for item in row["candidates"] if item["latency_ms"]}
    assert {"native", "ell"} <= names
    content = [(tmp_path / name).read_bytes() for name in first.files]
    OpenVinoTarget().emit(dialect, tmp_path, EmitContext(decisions=first.decisions))
    assert [(tmp_path / name).read_bytes() for name in first.files] == content


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard operators serve, with a note; only who asks for the kernels gets an error."""

    def refuse(engine: object) -> Path:
        raise MissingExtraError.at("native kernels", "there is no compiler", "Install GCC")

    monkeypatch.setattr(target, "extension", refuse)
    dialect, notes = translate(program("GCN"), request_of(*EDGES["isolated nodes"])), list[str]()
    assert not OpenVinoTarget().emit(dialect, tmp_path, EmitContext(note=notes.append)).native
    assert "standard operators only: native kernels: there is no compiler. Install GCC." in notes
    with pytest.raises(MissingExtraError, match="aggregate=native asks for the kernels, and there is no compiler"):
        OpenVinoTarget(aggregate="native").emit(dialect, tmp_path, EmitContext())


def test_portable_models_need_nothing(tmp_path: Path) -> None:
    """Standard operators only, and no extension is asked for."""
    request = request_of(*EDGES["isolated nodes"])
    artefact = OpenVinoTarget(portable=True).emit(translate(program("GAT"), request), tmp_path, EmitContext())
    assert not artefact.native
    assert not operators(tmp_path)
