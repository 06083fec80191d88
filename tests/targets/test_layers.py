"""Linear layers that no reduction takes: which ones the kernels multiply, and that numbers stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import onnx
import onnx_ir as ir
import pytest
from torch import nn
from torch_geometric.nn import GAT, GIN, GraphSAGE

from gnnexport.native import kernels, library
from gnnexport.program.program import Program
from gnnexport.runtime.peak import read_peak
from gnnexport.targets.contract import DialectModel, EmitContext
from gnnexport.targets.onnx import choice
from gnnexport.targets.onnx.batches import repeat_for_batches
from gnnexport.targets.onnx.native import native_graphs
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.onnx.translate_graphs import translate_graphs
from gnnexport.targets.openvino import OpenVinoTarget
from gnnexport.targets.ort import OrtTarget
from tests.small_models import CLASSES, INPUTS, WIDTH
from tests.targets.graphs import Csr
from tests.targets.layers import CASES, GRAPHS, TAKEN, Build, Layers
from tests.targets.reduced_layers import ENGINES, close
from tests.targets.requests import agrees, feeds, prepared, random_edges, request_of
from tests.targets.sketch import Array, normal, run

pytestmark = pytest.mark.skipif(library.why_missing() is not None, reason=f"the kernels: {library.why_missing()}")


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "GIN": (lambda: GIN(WIDTH, 64, 2, CLASSES), 2),
    "GIN with norms": (lambda: GIN(WIDTH, 64, 2, CLASSES, norm="batch_norm"), 2),
    "GAT": (lambda: GAT(WIDTH, 64, 2, CLASSES, heads=2), 1),
    "GraphSAGE": (lambda: GraphSAGE(WIDTH, 64, 2, CLASSES), 0),
    "GraphSAGE that projects": (lambda: GraphSAGE(WIDTH, 64, 2, CLASSES, project=True), 1),
}
"""What builds each model, and how many layers stand alone that are wide enough."""

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Where Linux tells the peak of resident memory, and forgets it."""

TARGETS = {"ort": OrtTarget(aggregate="native"), "openvino": OpenVinoTarget(aggregate="native")}


@pytest.fixture(params=library.PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Use one instruction set, and afterwards what was in use before."""
    before = library.path_name()
    if not kernels.use_path(request.param):
        pytest.skip(f"this processor lacks {request.param}")
    yield request.param
    kernels.use_path(before)


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export as on a processor with tiles."""
    monkeypatch.setattr(choice, "path_name", lambda: "amx")


def request(m: Layers) -> dict[str, Array]:
    """Draw what the inputs of a network are given."""
    given = {} if m.fixed else dict(m.arrays)
    for seed, value in enumerate(m.inputs):
        if value.name not in m.arrays:
            assert value.shape is not None
            sizes = [size if isinstance(size, int) else m.graph.num_nodes for size in value.shape]
            given[str(value.name)] = normal(sizes, seed)
    return given


def written(build: Build, graph: Csr) -> tuple[dict[str, Array], Array]:
    """Return a request of a network of open sizes, and what the network as it was written answers."""
    m = Layers(graph, fixed=False)
    model = m.model(build)
    del model.graph.outputs[1:]
    given = request(m)
    return given, run(ir.to_proto(model).SerializeToString(), given)


def exported(build: Build, folder: Path) -> Path:
    """Write a network of open sizes as the kernels get it."""
    model = native_graphs(Layers(GRAPHS["one row"], fixed=False).model(build), choice.path_name(), edges=False)
    repeat_for_batches(model.graph)  # as the target for OpenVINO does
    path = folder / "model.onnx"
    path.write_bytes(ir.to_proto(model).SerializeToString())
    return path


def operators(path: Path) -> Counter[str]:
    """Count the operators of an ONNX model by name."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("name", CASES)
def test_what_is_taken(name: str, tiles: None, tmp_path: Path) -> None:
    """Wide layers of float32 with constant weights are, and a bias, a root term and an activation with them."""
    case = CASES[name]
    path = exported(case.build, tmp_path)
    counts = operators(path)
    assert (counts["Linear"], counts["Gemm"] + counts["MatMul"]) == (case.taken, case.left)
    assert [kind for kind in ("Add", "Relu", "LeakyRelu", "Elu") if counts[kind]] == list(case.behind)


@pytest.mark.parametrize("name", CASES)
def test_what_stays(name: str, tiles: None, tmp_path: Path) -> None:
    """Outputs keep their names, no matrix is stored for nobody, and no two values have one name."""
    graph = onnx.load(exported(CASES[name].build, tmp_path)).graph
    m = Layers(GRAPHS["one row"], fixed=False)
    outputs = [value.name for value in m.model(CASES[name].build).graph.outputs]
    assert [value.name for value in graph.output] == outputs
    stored = [item.name for item in graph.initializer]
    assert set(stored) <= {value for node in graph.node for value in node.input} | set(outputs)
    made = [value for node in graph.node for value in node.output if value]
    assert len({*stored, *made}) == len(stored) + len(made)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_graphs_of_any_size(name: str, engine: str, tiles: None, tmp_path: Path) -> None:
    """One file answers requests of any size, without rows, too, as the network that was written does."""
    build = CASES[name].build
    backend = ENGINES[engine](exported(build, tmp_path))
    for graph in GRAPHS.values():
        given, wanted = written(build, graph)
        assert close(backend.run(given)["logits"], wanted)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", TAKEN)
def test_other_processors(name: str, engine: str, path: str, tiles: None, tmp_path: Path) -> None:
    """A file that was made where there are tiles answers the same where there are none."""
    test_graphs_of_any_size(name, engine, tiles, tmp_path)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_one_graph(name: str, engine: str, tiles: None, tmp_path: Path) -> None:
    """So does a file for one graph."""
    build = CASES[name].build
    for graph in (GRAPHS["more than a tile"], GRAPHS["one row"]):
        _, wanted = written(build, graph)
        m = Layers(graph, fixed=True)
        artefact = TARGETS[engine].emit(DialectModel(m.model(build), m.arrays), tmp_path, EmitContext(threads=1))
        assert artefact.native
        backend = ENGINES[engine](tmp_path / artefact.model_file)
        assert close(backend.run(request(m))["logits"], wanted)


@pytest.mark.skipif(not RESET.exists(), reason="the system does not tell peaks of memory apart")
@pytest.mark.parametrize("engine", ENGINES)
def test_weights_are_laid_out_once(engine: str, tiles: None, tmp_path: Path) -> None:
    """No request takes memory for them again, though OpenVINO asks a copy of every operator for its sizes."""

    def build(m: Layers) -> ir.Value:
        return m.gemm(out=100_000)

    m = Layers(GRAPHS["one row"], fixed=False)
    weights_bytes = sum(value.const_value.nbytes for value in m.model(build).graph.initializers.values())
    backend, given = ENGINES[engine](exported(build, tmp_path)), request(m)
    backend.run(given)
    RESET.write_text("5")
    before = read_peak(STATUS)
    backend.run(given)
    assert read_peak(STATUS) - before < weights_bytes / 2


@pytest.mark.parametrize("name", library.PATHS)
def test_tiles_only(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without tiles the kernels multiply no faster than the runtimes do, which then keep their layers."""
    monkeypatch.setattr(choice, "path_name", lambda: name)
    counts = operators(exported(CASES["one behind another"].build, tmp_path))
    assert (counts["Linear"], counts["Gemm"]) == ((2, 0) if name == "amx" else (0, 2))


@cache
def program(name: str) -> Program:
    """Capture a model; nobody may change the result."""
    return prepared(MODELS[name][0](), (INPUTS["x"], INPUTS["edge_index"]))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, engine: str, tiles: None, tmp_path: Path) -> None:
    """Whole models answer as PyTorch does, for one graph and for graphs of any size."""
    model, edges = program(name), [(random_edges(50, 300), 60), (random_edges(1, 2), 1)]
    for given in (request_of(*edge) for edge in edges):
        artefact = TARGETS[engine].emit(translate(model, given), tmp_path, EmitContext(threads=1))
        backend = ENGINES[engine](tmp_path / artefact.model_file)
        assert agrees(model, given, backend.run({"x": given["x"].numpy()})["logits"])
    dialect = translate_graphs(model, request_of(*edges[0]))
    artefact = TARGETS[engine].emit(dialect, tmp_path, EmitContext(threads=1))
    assert layers(tmp_path / artefact.model_file) == MODELS[name][1]
    backend = ENGINES[engine](tmp_path / artefact.model_file)
    for given in (request_of(*edge) for edge in edges):
        assert agrees(model, given, backend.run(feeds(model, given))["logits"])


def layers(path: Path) -> int:
    """Count the layers that the kernels multiply by themselves, in a model of either runtime."""
    if path.suffix == ".onnx":
        return operators(path)["Linear"]
    return sum(layer.attrib["type"] == "Linear" for layer in ElementTree.parse(path).iter("layer"))
