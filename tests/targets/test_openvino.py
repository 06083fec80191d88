"""The target `openvino` against numpy, by way of its backend."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from torch_geometric.nn import ARMAConv, MedianAggregation, SAGEConv

from gnnexport.errors import MissingExtraError, UnsupportedError
from gnnexport.targets import openvino as target
from gnnexport.targets.contract import Artefact, DialectModel, EmitContext
from gnnexport.targets.onnx.choice import Lowering
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.onnx.translate_graphs import translate_graphs
from gnnexport.targets.openvino import DATA_FILE, MODEL_FILE, OpenVinoTarget
from tests.small_models import CLASSES, INPUTS, WIDTH, split
from tests.targets.graphs import Csr, from_degrees, graphs
from tests.targets.networks import CHANNELS, NAMES, network
from tests.targets.requests import agrees, feeds, prepared, random_edges, request_of
from tests.targets.sketch import Array, normal

pytest.importorskip("openvino")
from gnnexport.runtime.openvino import OpenVinoBackend

GRAPHS = {
    "mixed": from_degrees([0, 1, 90, *([3] * 80), *([7] * 70), 200]),
    "no edges": from_degrees([0] * 5),
    "one node": from_degrees([0]),
    "one edge": Csr(np.array([0, 1]), np.array([0])),
}
MIXED = GRAPHS["mixed"]
TOLERANCE = 1e-5


def emit(dialect: DialectModel, folder: Path, lowering: Lowering = "auto", ctx: EmitContext | None = None) -> Artefact:
    """Write a model into a folder that need not exist."""
    folder.mkdir(exist_ok=True)
    return OpenVinoTarget(aggregate=lowering).emit(dialect, folder, ctx or EmitContext())


def answer(folder: Path, x: Array) -> Array:
    """Run what was written."""
    backend = OpenVinoBackend(folder / MODEL_FILE, threads=2)
    assert [(item.name, item.dtype, item.shape) for item in backend.inputs] == [("x", "float32", x.shape)]
    assert [item.name for item in backend.outputs] == ["logits"]
    return backend.run({"x": x})["logits"]


def agree(actual: Array, expected: Array) -> bool:
    """Tell whether the largest difference is small against the largest magnitude."""
    assert actual.shape == expected.shape
    return bool(abs(actual - expected).max(initial=0) <= TOLERANCE * max(1.0, abs(expected).max(initial=0)))


@pytest.mark.parametrize("lowering", ["ell", "dense", "scatter"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("graph", GRAPHS)
def test_networks(name: str, graph: str, lowering: Lowering, tmp_path: Path) -> None:
    """Each network answers as numpy does, whatever the graph and the lowering, and keeps the names of its ports."""
    x = normal((GRAPHS[graph].num_nodes, CHANNELS))
    dialect, expected = network(name, GRAPHS[graph], x)
    emit(dialect, tmp_path, lowering)
    assert agree(answer(tmp_path, x), expected)


@settings(max_examples=8)
@given(graph=graphs())
def test_attention_on_any_graph(graph: Csr, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Softmax over neighbours holds for isolated nodes and hubs."""
    folder, x = tmp_path_factory.mktemp("openvino"), normal((graph.num_nodes, CHANNELS))
    dialect, expected = network("gat", graph, x)
    emit(dialect, folder, "ell")
    assert agree(answer(folder, x), expected)


def test_several_matrices_of_weights_for_one_of_nodes(tmp_path: Path) -> None:
    """OpenVINO takes that product for a linear layer, and loses the rows where their number is open."""
    program = prepared(ARMAConv(WIDTH, CLASSES, num_stacks=2), (INPUTS["x"], INPUTS["edge_index"]))
    request = request_of(random_edges(20, 60), 20)
    emit(translate_graphs(program, request), tmp_path, "ell")
    backend = OpenVinoBackend(tmp_path / MODEL_FILE, threads=1)
    for asked in (request, request_of(random_edges(5, 9), 5)):
        assert agrees(program, asked, backend.run(feeds(program, asked))["logits"])
    backend.close()


def test_equal_values_of_features_keep_their_order(tmp_path: Path) -> None:
    """The median sorts its values by destination; edges, a single column, are sorted without that cost."""
    import openvino

    program = prepared(SAGEConv(WIDTH, CLASSES, aggr=MedianAggregation()), (INPUTS["x"], INPUTS["edge_index"]))
    request = request_of(random_edges(20, 300), 20)
    emit(translate(program, request), tmp_path / "one")
    backend = OpenVinoBackend(tmp_path / "one" / MODEL_FILE, threads=1)
    assert agrees(program, request, backend.run({"x": request["x"].numpy()})["logits"])
    backend.close()
    emit(translate_graphs(split("GraphSAGE"), request), tmp_path / "any", "ell")
    for folder, stable in (("one", True), ("any", False)):
        ops = openvino.Core().read_model(tmp_path / folder / MODEL_FILE).get_ordered_ops()
        assert {op.get_attributes()["stable"] for op in ops if op.get_type_name() == "TopK"} == {stable}


@pytest.mark.parametrize("kind", target._REDUCTIONS.values())
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("axis", [2, -1])
def test_a_reduction_of_the_last_of_three_dimensions(kind: str, keep: bool, axis: int) -> None:
    """A number for each channel behind it multiplies the channel, and nothing past the end of these numbers."""
    import openvino
    from openvino import opset13

    x, factors = normal((60, 3, 5)), normal((1, 3, 1)[: 3 if keep else 2])

    def model() -> openvino.Model:
        given = opset13.parameter([-1, 3, 5], np.float32)
        reduced = getattr(opset13, kind)(given, np.array([axis]), keep_dims=keep)
        return openvino.Model([opset13.multiply(reduced, opset13.constant(factors))], [given])

    mended, plain = model(), model()
    target._reduce_rows_of_four_dimensions(mended)
    # What the engine does not merge is right: a model that gives out the reduction, too.
    shown = [*plain.outputs, plain.get_results()[0].input_value(0).get_node().input_value(0)]
    right = openvino.Core().compile_model(openvino.Model(shown, plain.get_parameters()), "CPU")([x])[1] * factors
    assert agree(openvino.Core().compile_model(mended, "CPU")([x])[0], right)


def test_a_sort_of_which_no_dimensions_are_known() -> None:
    """A `TopK` of what has an open number of dimensions keeps ties in order, too."""
    import openvino
    from openvino import opset11

    x = opset11.parameter(openvino.PartialShape.dynamic(), np.float32)
    found = opset11.topk(x, np.int64(2), 0, "max", "value")
    model = openvino.Model([found.output(1)], [x])
    target._keep_ties_in_order(model)
    (topk,) = (op for op in model.get_ordered_ops() if op.get_type_name() == "TopK")
    assert topk.get_attributes()["stable"]


@pytest.mark.parametrize("name", ["gcn", "gat", "sage-max"])
def test_replaying_decisions_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    """What timing decided is all that is left to chance: converting twice in one process changes no name."""
    dialect, _ = network(name, MIXED, normal((MIXED.num_nodes, CHANNELS)))
    first = emit(dialect, tmp_path / "a")
    again = emit(dialect, tmp_path / "b", ctx=EmitContext(decisions=first.decisions))
    assert again.decisions == first.decisions
    for file in first.files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_folder_holds_the_files_and_nothing_else(tmp_path: Path) -> None:
    """The ONNX model on the way is gone, and sizes by origin add up to the files."""
    dialect, _ = network("sage-mean", MIXED, normal((MIXED.num_nodes, CHANNELS)))
    artefact = emit(dialect, tmp_path, "ell")
    assert {path.name for path in tmp_path.iterdir()} == set(artefact.files) == {MODEL_FILE, DATA_FILE}
    assert artefact.model_file == MODEL_FILE
    assert sum(artefact.sizes.values()) == sum((tmp_path / name).stat().st_size for name in artefact.files)
    weights = 2 * (5 * 4 + 4) + 2 * (4 * 3 + 3)
    assert artefact.sizes["weights_bytes"] == 4 * weights
    assert artefact.sizes["graph_bytes"] > 4 * MIXED.num_edges / 2


def test_lowerings_are_timed_on_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ONNX Runtime is missing the candidates still have their times."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    graph = from_degrees([5] * 200)
    dialect, _ = network("sage-max", graph, normal((graph.num_nodes, CHANNELS)))
    rows = emit(dialect, tmp_path).lowering
    assert any(len(row["candidates"]) > 1 for row in rows)
    assert all(item["latency_ms"] > 0 for row in rows for item in row["candidates"] if len(row["candidates"]) > 1)


def test_requirements_name_the_engine(tmp_path: Path) -> None:
    """The oldest release that reads the file, and the one that wrote it."""
    dialect, _ = network("gcn", MIXED, normal((MIXED.num_nodes, CHANNELS)))
    requirements = emit(dialect, tmp_path, "ell").requirements
    assert requirements["openvino"] == ">=2025.0"
    assert set(requirements["versions"]) == {"openvino"}


def test_without_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing engine is answered with the pip line, before anything is lowered."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    dialect, _ = network("gcn", MIXED, normal((MIXED.num_nodes, CHANNELS)))
    with pytest.raises(MissingExtraError, match=r"pip install 'gnnexport\[openvino\]'"):
        emit(dialect, tmp_path)


def test_a_model_that_openvino_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenVINO cannot convert is unsupported, with its reason and a way out."""

    class Core:
        def read_model(self, path: Path) -> None:
            raise RuntimeError("Exception from src/core.cpp:84:\nNo conversion for Sinh-99\n")

    monkeypatch.setattr(target, "import_openvino", lambda where: SimpleNamespace(Core=Core, __version__="1"))
    dialect, _ = network("gcn", MIXED, normal((MIXED.num_nodes, CHANNELS)))
    with pytest.raises(UnsupportedError, match=r"No conversion for Sinh-99\). Use --target=ort"):
        emit(dialect, tmp_path, "ell")


def test_a_full_disk_is_an_error_of_the_operating_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO tells it as a bug of its own; the writer of bundles knows only what the system says."""
    dialect, _ = network("gcn", MIXED, normal((MIXED.num_nodes, CHANNELS)))
    import openvino

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(openvino, "save_model", refuse)
    with pytest.raises(OSError, match="iostream error"):
        emit(dialect, tmp_path, "ell")
