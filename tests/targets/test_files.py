"""The files a target writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gnnexport.errors import UnsupportedError
from gnnexport.targets.contract import DialectModel, EmitContext
from gnnexport.targets.onnx.files import DATA_FILE, MODEL_FILE, write
from gnnexport.targets.onnx.target import OnnxTarget
from gnnexport.targets.ort import OrtTarget
from tests.targets.graphs import Csr, from_degrees
from tests.targets.networks import CHANNELS, NAMES, network
from tests.targets.sketch import normal, run

GRAPH = from_degrees([0, 1, 90, *([3] * 80), *([7] * 70), 200])
X = normal((GRAPH.num_nodes, CHANNELS))


def dialect(name: str = "sage-mean", graph: Csr = GRAPH) -> DialectModel:
    """Return a network in the dialect."""
    return network(name, graph, X)[0]


@pytest.mark.parametrize("name", NAMES)
def test_replaying_decisions_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    """What timing decided is all that is left to chance."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = OrtTarget().emit(dialect(name), tmp_path / "a", EmitContext())
    replayed = EmitContext(decisions=first.decisions)
    again = OrtTarget().emit(dialect(name), tmp_path / "b", replayed)
    assert again.decisions == first.decisions
    assert (tmp_path / "a" / MODEL_FILE).read_bytes() == (tmp_path / "b" / MODEL_FILE).read_bytes()


def test_a_replay_times_nothing(tmp_path: Path) -> None:
    """Candidates of a replay carry no latency."""
    first = OrtTarget().emit(dialect(), tmp_path, EmitContext())
    again = OrtTarget().emit(dialect(), tmp_path, EmitContext(decisions=first.decisions))
    latencies = {item["latency_ms"] for row in again.lowering for item in row["candidates"]}
    assert latencies == {None}


def test_large_models_keep_their_data_in_a_second_file(tmp_path: Path) -> None:
    """Above the limit the initialisers lie beside the model, and a runtime finds them."""
    value, expected = network("gat", GRAPH, X)
    model, _ = OnnxTarget(aggregate="ell").lowered(value, EmitContext())
    files = write(model, tmp_path, external_bytes=1000)
    assert files == (MODEL_FILE, DATA_FILE)
    assert (tmp_path / DATA_FILE).stat().st_size > (tmp_path / MODEL_FILE).stat().st_size / 10
    assert np.allclose(run(str(tmp_path / MODEL_FILE), {"x": X}), expected, atol=1e-5)


def test_the_model_holds_no_shapes_in_between(tmp_path: Path) -> None:
    """Shapes of values in between would be stale for tools that change the model."""
    OnnxTarget().emit(dialect(), tmp_path, EmitContext())
    model = onnx.load(tmp_path / MODEL_FILE)
    assert not model.graph.value_info
    assert [item.domain for item in model.opset_import] == [""]


def test_only_features_are_left_as_inputs(tmp_path: Path) -> None:
    """The structure is baked; inputs and outputs keep their names and sizes."""
    OnnxTarget().emit(dialect(), tmp_path, EmitContext())
    graph = onnx.load(tmp_path / MODEL_FILE).graph
    assert [item.name for item in graph.input] == ["x"]
    assert [item.name for item in graph.output] == ["logits"]
    sizes = [item.dim_value for item in graph.input[0].type.tensor_type.shape.dim]
    assert sizes == list(X.shape)


def test_the_dialect_model_is_left_as_it_was(tmp_path: Path) -> None:
    """Emitting twice from one model gives the same file."""
    value = dialect()
    OnnxTarget(aggregate="ell").emit(value, tmp_path, EmitContext())
    first = (tmp_path / MODEL_FILE).read_bytes()
    OnnxTarget(aggregate="ell").emit(value, tmp_path, EmitContext())
    assert (tmp_path / MODEL_FILE).read_bytes() == first


def test_layers_share_the_tables(tmp_path: Path) -> None:
    """A second layer over the same structure adds few bytes of graph."""
    two = OnnxTarget(aggregate="ell").emit(dialect("sage-mean"), tmp_path, EmitContext())
    one = OnnxTarget(aggregate="ell").emit(dialect("learned-nodes"), tmp_path, EmitContext())
    assert two.sizes["graph_bytes"] < 1.5 * one.sizes["graph_bytes"]


def test_sizes_add_up_to_the_files(tmp_path: Path) -> None:
    """Weights, graph, features and the rest are all that is in the files."""
    artefact = OnnxTarget().emit(dialect(), tmp_path, EmitContext())
    assert sum(artefact.sizes.values()) == sum((tmp_path / name).stat().st_size for name in artefact.files)
    assert all(size >= 0 for size in artefact.sizes.values())


def test_an_input_without_a_value_is_refused() -> None:
    """A model that is not translated for one graph says so."""
    value = dialect()
    x = next(item for item in value.model.graph.inputs if item.name == "x")
    x.shape = ir.Shape(["num_nodes", CHANNELS])
    with pytest.raises(UnsupportedError, match="no fixed size"):
        OnnxTarget().lowered(value, EmitContext())


def test_structure_computed_inside_the_model_is_refused() -> None:
    """Pointers that are no constant cannot be lowered."""
    value = dialect()
    missing = {key: array for key, array in value.structure.items() if key != "rowptr_0"}
    with pytest.raises(UnsupportedError, match="rowptr_0"):
        OnnxTarget().lowered(DialectModel(value.model, missing), EmitContext())
