"""The target `trt`: its ONNX model against numpy, its network as TensorRT reads it, and its engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper

from gnnexport.bundle.layout import ENGINE
from gnnexport.errors import MissingExtraError, UnsupportedError
from gnnexport.runtime.trt import ONNX_FILE
from gnnexport.targets.contract import Artefact, DialectModel, EmitContext
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.trt import engine, target
from gnnexport.targets.trt.engine import build_engine, choose_library, open_builder, parse
from gnnexport.targets.trt.target import TrtTarget
from tests.small_models import EDGE_WIDTH, WIDTH, captured, inputs_of, run_model, split
from tests.targets.graphs import Csr, from_degrees, graphs
from tests.targets.networks import CHANNELS, NAMES, network
from tests.targets.sketch import Array, normal, run

trt = pytest.importorskip("tensorrt_rtx")
RTX = "tensorrt_rtx"

GRAPHS = {
    "mixed": from_degrees([0, 1, 90, *([3] * 80), *([7] * 70), 200]),
    "no edges": from_degrees([0] * 5),
    "one node": from_degrees([0]),
    "one edge": Csr(np.array([0, 1]), np.array([0])),
}
MIXED = GRAPHS["mixed"]
TOLERANCE = 1e-5


def emit(dialect: DialectModel, folder: Path, ctx: EmitContext | None = None, **options: Any) -> Artefact:
    """Write a model into a folder that need not exist."""
    folder.mkdir(exist_ok=True)
    return TrtTarget(library="tensorrt_rtx", **options).emit(dialect, folder, ctx or EmitContext())


def layers(path: Path) -> list[tuple[Any, Any]]:
    """Return the layers of the network that TensorRT makes of an ONNX file, gathers with the type of their indices."""
    module, builder, log = open_builder(RTX)
    made = parse(module, builder, path, log)
    assert [str(made.get_input(index).dtype) for index in range(made.num_inputs)] == ["DataType.FLOAT"]
    return [(made.get_layer(index).type, _index_type(made.get_layer(index))) for index in range(made.num_layers)]


def _index_type(layer: Any) -> Any:
    return layer.get_input(1).dtype if layer.type == trt.LayerType.GATHER else None


@pytest.mark.parametrize(("graph", "lowering"), [*((graph, "ell") for graph in GRAPHS), ("mixed", "dense")])
@pytest.mark.parametrize("name", NAMES)
def test_networks(name: str, graph: str, lowering: str, tmp_path: Path) -> None:
    """Each network becomes an engine; its ONNX model answers as numpy does, and TensorRT sees no scatter in it."""
    x = normal((GRAPHS[graph].num_nodes, CHANNELS))
    dialect, expected = network(name, GRAPHS[graph], x)
    artefact = emit(dialect, tmp_path, aggregate=lowering)
    assert (tmp_path / ENGINE).stat().st_size > 0
    actual = run(str(tmp_path / ONNX_FILE), {"x": x})
    assert abs(actual - expected).max(initial=0) <= TOLERANCE * max(1.0, abs(expected).max(initial=0))
    found = layers(tmp_path / ONNX_FILE)
    assert trt.LayerType.SCATTER not in {kind for kind, _ in found}
    assert {index for kind, index in found if kind == trt.LayerType.GATHER} <= {trt.DataType.INT32}
    operators = {node.op_type for node in onnx.load(tmp_path / ONNX_FILE).graph.node}
    assert not {kind for kind in operators if "Scatter" in kind}
    assert artefact.prepare == "baked"


@settings(max_examples=5)
@given(graph=graphs())
def test_attention_on_any_graph(graph: Csr, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Softmax over neighbours builds for isolated nodes and hubs."""
    folder, x = tmp_path_factory.mktemp("trt"), normal((graph.num_nodes, CHANNELS))
    dialect, expected = network("gat", graph, x)
    emit(dialect, folder)
    assert abs(run(str(folder / ONNX_FILE), {"x": x}) - expected).max(initial=0) <= TOLERANCE


@pytest.mark.parametrize("name", ["gcn", "gat", "sage-max"])
def test_replaying_decisions_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    """For a graph that is baked in, building is deterministic: the engine too is the same to the last byte."""
    dialect, _ = network(name, MIXED, normal((MIXED.num_nodes, CHANNELS)))
    first = emit(dialect, tmp_path / "a")
    again = emit(dialect, tmp_path / "b", EmitContext(decisions=first.decisions))
    assert again.decisions == first.decisions
    assert first.decisions["library"] == RTX
    for file in first.files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_decisions_of_another_target(tmp_path: Path) -> None:
    """Where ONNX Runtime was faster with scatter, TensorRT still gets tables, and the report says so."""
    dialect, _ = network("gcn", MIXED, normal((MIXED.num_nodes, CHANNELS)))
    lowerings = emit(dialect, tmp_path / "a").decisions["lowerings"]
    notes: list[str] = []
    ctx = EmitContext(decisions={"lowerings": dict.fromkeys(lowerings, "scatter")}, note=notes.append)
    assert emit(dialect, tmp_path / "b", ctx).decisions["lowerings"] == lowerings
    assert any("decisions for scatter are not replayed" in note for note in notes)


def test_files_and_sizes(tmp_path: Path) -> None:
    """The folder holds the engine and its ONNX model, and sizes by origin add up to both."""
    notes: list[str] = []
    dialect, _ = network("sage-mean", MIXED, normal((MIXED.num_nodes, CHANNELS)))
    artefact = emit(dialect, tmp_path, EmitContext(note=notes.append))
    assert artefact.model_file == ENGINE
    assert {path.name for path in tmp_path.iterdir()} == set(artefact.files) == {ENGINE, ONNX_FILE}
    assert sum(artefact.sizes.values()) == sum((tmp_path / name).stat().st_size for name in artefact.files)
    assert any(note.startswith(ENGINE) and "compute capability 8.0, 8.6" in note for note in notes)


def test_requirements_name_library_and_device(tmp_path: Path) -> None:
    """An engine runs only in the release that built it, on the GPUs it was built for."""
    dialect, _ = network("gcn", MIXED, normal((MIXED.num_nodes, CHANNELS)))
    needed = emit(dialect, tmp_path).requirements
    assert needed["device"] == "NVIDIA GPU"
    assert needed[RTX] == f"=={needed['versions'][RTX]}"
    assert {"8.6", "8.9", "12.0"} <= set(needed["compute_capabilities"])
    assert "7.5" not in needed["compute_capabilities"]


def test_tf32_is_an_option_that_builds_another_engine(tmp_path: Path) -> None:
    """TensorRT rounds products of float32 unless told not to; by default it is told."""
    dialect, _ = network("sage-mean", MIXED, normal((MIXED.num_nodes, CHANNELS)))
    for name, allowed in (("exact", False), ("rounded", True)):
        emit(dialect, tmp_path / name, tf32=allowed)
    exact, rounded = ((tmp_path / name / ENGINE).read_bytes() for name in ("exact", "rounded"))
    assert exact != rounded


def test_a_workspace_that_does_not_suffice(tmp_path: Path) -> None:
    """What TensorRT cannot build within the limit is unsupported, with its reason and the option."""
    graph = from_degrees([40] * 3000)
    dialect, _ = network("gat", graph, normal((graph.num_nodes, CHANNELS)))
    with pytest.raises(UnsupportedError, match=r"cannot build the engine \(.*workspace_mb"):
        emit(dialect, tmp_path, workspace_mb=1)


def test_options_are_checked() -> None:
    """A limit of nothing is no limit."""
    with pytest.raises(ValueError, match="workspace_mb must be at least 1"):
        TrtTarget(workspace_mb=0)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        TrtTarget(threads=0)


def write_nodes(path: Path, *nodes: onnx.NodeProto) -> Path:
    """Write a model of a few nodes from `x` [5, 3, 3] to `y`."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros((5, 3, 3), np.int64), "index")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_every_operator_that_tensorrt_lacks_is_named(tmp_path: Path) -> None:
    """A model with two of them leads to two problems, each with its node and a way out."""
    nodes = [helper.make_node("Det", ["x"], ["d"], name="area"), helper.make_node("Unique", ["d"], ["y"], name="once")]
    path = write_nodes(tmp_path / "m.onnx", *nodes)
    with pytest.raises(UnsupportedError) as caught:
        build_engine(path, RTX, tf32=False, workspace_bytes=None)
    first, second = map(str, caught.value.problems)
    assert first.startswith("target trt: Det 'area': TensorRT cannot do it: UNSUPPORTED_NODE. Use --target=ort")
    assert second.startswith("target trt: Unique 'once'")


@pytest.mark.parametrize("reduction", ["add", "max"])
def test_scatter_with_a_reduction_is_refused(reduction: str, tmp_path: Path) -> None:
    """It is found before TensorRT is asked, which does not name the node; a scatter that only writes may stay."""
    node = helper.make_node("ScatterElements", ["x", "index", "x"], ["y"], name="sum", axis=0, reduction=reduction)
    path = write_nodes(tmp_path / "m.onnx", node)
    with pytest.raises(UnsupportedError, match="target trt: sum: scatters with a reduction"):
        target.refuse_scatter(target.ir.load(path))
    with pytest.raises(UnsupportedError, match="Unsupported reduction type"):
        build_engine(path, RTX, tf32=False, workspace_bytes=None)
    plain = helper.make_node("ScatterElements", ["x", "index", "x"], ["y"], name="put", axis=0)
    target.refuse_scatter(target.ir.load(write_nodes(tmp_path / "n.onnx", plain)))


def test_message_passing_that_was_not_raised_is_refused_by_name() -> None:
    """Before anything is lowered the module is named whose scatter stayed; raised, nothing is left to refuse."""
    problems = TrtTarget().check(captured("GCN"))
    assert {f"convs.{layer}.aggr_module (SumAggregation)" for layer in (0, 1)} <= {item.where for item in problems}
    assert all("TensorRT cannot do" in problem.what for problem in problems)
    assert TrtTarget().check(split("GCN")) == []


@pytest.mark.parametrize("name", ["GCN batch norm", "GCN graph layer norm", "GAT edge features", "PNA"])
def test_families(name: str, tmp_path: Path) -> None:
    """Models as PyTorch Geometric builds them become engines, and their ONNX models answer as they do."""
    random = torch.Generator().manual_seed(0)
    inputs = {
        "x": torch.randn(20, WIDTH, generator=random),
        "edge_index": torch.randint(0, 20, (2, 60), generator=random),
        "edge_attr": torch.randn(60, EDGE_WIDTH, generator=random),
    }
    given = {item.name: inputs[item.name] for item in inputs_of(name)}
    emit(translate(split(name), given), tmp_path)
    features = {item.name: given[item.name].numpy() for item in split(name).features}
    expected = run_model(name, inputs).numpy()
    actual = run(str(tmp_path / ONNX_FILE), features)
    assert abs(actual - expected).max() <= TOLERANCE * abs(expected).max()
    assert not [node.name for node in onnx.load(tmp_path / ONNX_FILE).graph.node if "Scatter" in node.op_type]


def test_without_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing library is answered with the pip line, before anything is lowered."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    dialect, _ = network("gcn", MIXED, normal((MIXED.num_nodes, CHANNELS)))
    with pytest.raises(MissingExtraError, match=r"pip install 'gnnexport\[trt\]'"):
        emit(dialect, tmp_path)
    assert not list(tmp_path.iterdir())


def test_where_there_is_no_tensorrt_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS the pip line would install nothing: it is unsupported, and another target is named."""
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UnsupportedError, match=r"TensorRT has no build for macOS\. Use --target=ort"):
        choose_library("auto")


def test_a_library_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is told as such."""
    monkeypatch.setitem(sys.modules, RTX, None)
    with pytest.raises(MissingExtraError, match="cannot be imported"):
        build_engine(tmp_path / "m.onnx", RTX, tf32=False, workspace_bytes=None)


@pytest.mark.parametrize(
    ("installed", "driver", "expected"),
    [
        ({"tensorrt", RTX}, True, "tensorrt"),
        ({"tensorrt", RTX}, False, RTX),
        ({RTX}, True, RTX),
    ],
)
def test_which_library_builds(
    installed: set[str], driver: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tensorrt` builds only where there is a GPU."""
    monkeypatch.setattr(engine, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.setattr(engine, "DRIVER", tmp_path if driver else tmp_path / "absent")
    assert choose_library("auto") == expected


def test_sizes_of_blocks(tmp_path: Path) -> None:
    """A table that a processor would cut into blocks for its cache stays whole."""
    graph = from_degrees([50] * 20_000)
    dialect, _ = network("sage-max", graph, normal((graph.num_nodes, CHANNELS)))
    model, _ = TrtTarget().lowered(dialect, EmitContext())
    assert sum(node.op_type == "ReduceMax" for node in model.graph) == 2


def test_answers_do_not_depend_on_the_lowering(tmp_path: Path) -> None:
    """Both lowerings give the same numbers on the same graph."""
    x: Array = normal((MIXED.num_nodes, CHANNELS))
    dialect, _ = network("gcn", MIXED, x)
    answers = []
    for lowering in ("ell", "dense"):
        emit(dialect, tmp_path / lowering, aggregate=lowering)
        answers.append(run(str(tmp_path / lowering / ONNX_FILE), {"x": x}))
    np.testing.assert_allclose(*answers, atol=TOLERANCE)
