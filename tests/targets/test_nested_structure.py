"""Structures of which others hold every slot, in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_ir.passes.common import RemoveUnusedNodesPass

from gnnexport.native import library
from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.targets.contract import DialectModel, EmitContext
from gnnexport.targets.onnx import nested_structure, schemas
from gnnexport.targets.onnx.files import MODEL_FILE, write
from gnnexport.targets.onnx.nested_structure import Structure, places, share_nested
from gnnexport.targets.onnx.session import profile_model
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.openvino import OpenVinoTarget
from gnnexport.targets.ort import OrtTarget
from tests.passes import edge_models
from tests.small_models import run as run_model
from tests.targets.graphs import Csr, graphs
from tests.targets.sketch import Array, Sketch, normal, reduce, run

CHANNELS = 5


def simple(degrees: list[int], seed: int = 0) -> Csr:
    """Return a graph with these in-degrees and no edge twice."""
    random = np.random.default_rng(seed)
    cols = [random.permutation(len(degrees))[:degree] for degree in degrees]
    return Csr(np.concatenate([[0], np.cumsum(degrees)]), np.concatenate(cols))


GRAPH = simple([0, 1, 90, *([30] * 80), *([27] * 70), 150])
OTHER = simple([30] * GRAPH.num_nodes, seed=9)
FEEDS = {"x": normal((GRAPH.num_nodes, CHANNELS))}

ORT, OPENVINO = OrtTarget(aggregate="native"), OpenVinoTarget(aggregate="native")

needs_kernels = pytest.mark.skipif(library.why_missing() is not None, reason=f"the kernels: {library.why_missing()}")

Layer = tuple[Csr, Array]
"""A structure, and the weights of its slots."""


def some_of(graph: Csr, stays: Array) -> Csr:
    """Return the slots of a graph that stay."""
    counts = np.bincount(graph.row[stays], minlength=graph.num_nodes)
    return Csr(np.concatenate([[0], np.cumsum(counts)]), graph.col[stays])


def rising(shares: list[float], seed: int = 0) -> list[Layer]:
    """Return nested sets: of each, so large a share of the one before it stays."""
    random = np.random.default_rng(seed)
    graph, weights = GRAPH, normal((GRAPH.num_edges,), seed)
    found = []
    for share in shares:
        stays = random.random(graph.num_edges) < share
        graph, weights = some_of(graph, stays), weights[stays]
        found.append((graph, weights))
    return found


def stacked(layers: list[Layer]) -> DialectModel:
    """Return a model that sums over one structure after the other, not lowered yet."""
    sketch = Sketch()
    h = sketch.features("x", (layers[0][0].num_nodes, CHANNELS))
    for place, (graph, weights) in enumerate(layers):
        arrays = {"rowptr": graph.rowptr, "col": graph.col, "weight": weights}
        given = [sketch.structure(f"{name}_{place}", array) for name, array in arrays.items()]
        h = sketch.op(schemas.AGGREGATE, [h, *given], (graph.num_nodes, CHANNELS), reduce="sum")
    return sketch.finish(h)


def lowered(layers: list[Layer]) -> ir.Model:
    """Return the same as our kernels run it, without what nothing reads."""
    model, _ = ORT.lowered(stacked(layers), EmitContext(time_budget_s=0.5))
    RemoveUnusedNodesPass()(model)
    return model


def answer(layers: list[Layer], x: Array) -> Array:
    """Compute it in numpy."""
    for graph, weights in layers:
        x = reduce(graph, x[graph.col] * weights[:, None], "sum")
    return x


def held(rowptr: Array, col: Array) -> Structure:
    """Return a structure as a model holds it."""
    rowptr, col = (ir.val("v", const_value=ir.tensor(item.astype(np.int32))) for item in (rowptr, col))
    return Structure(rowptr, col, ())


@given(graphs(), st.floats(0, 1), st.integers(0, 2**16))
def test_slots_that_stay_are_found(graph: Csr, share: float, seed: int) -> None:
    """Whatever stays of a graph, repeated edges included, is found in it in order."""
    some = some_of(graph, np.random.default_rng(seed).random(graph.num_edges) < share)
    found = places(held(some.rowptr, some.col), held(graph.rowptr, graph.col))
    if not some.num_edges:
        assert found is None
        return
    assert found is not None
    assert (np.diff(found) > 0).all()
    np.testing.assert_array_equal(graph.col[found], some.col)
    np.testing.assert_array_equal(graph.row[found], some.row)


@pytest.mark.parametrize(
    ("rowptr", "col"),
    [([0, 2, 3], [1, 0, 1]), ([0, 1, 2], [0, 0]), ([0, 2, 2], [0, 0]), ([0, 1], [0]), ([0, 0, 0], [])],
    ids=["in another order", "another source", "twice", "fewer nodes", "nothing"],
)
def test_what_is_no_part_of_another_is_not_found(rowptr: list[int], col: list[int]) -> None:
    """Each edge as often as it is there, and in the same order."""
    whole = held(np.array([0, 2, 4]), np.array([0, 1, 1, 2]))
    assert places(held(np.array(rowptr), np.array(col)), whole) is None
    assert places(held(np.array([0, 1, 2]), np.array([1, 2])), whole) is not None


def graph_bytes(model: ir.Model) -> int:
    """Return what all constants of a model take."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)


@needs_kernels
@pytest.mark.parametrize("shares", [[1.0, 0.5], [0.6, 0.6], [0.9, 0.7, 0.5]], ids=str)
def test_files_are_smaller_and_answer_the_same(shares: list[float], tmp_path: Path) -> None:
    """A byte for each slot instead of eight, and the same answer to the last bit."""
    layers = rising(shares)
    plain = lowered(layers)
    expected = run(ir.to_proto(plain).SerializeToString(), FEEDS)
    before = graph_bytes(plain)
    write(plain, tmp_path)
    inner = sum(graph.num_edges for graph, _ in layers[1:])
    saved = 7 * inner + 4 * (len(shares) - 1) * len(GRAPH.rowptr)
    assert before - graph_bytes(plain) == pytest.approx(saved, abs=100)
    assert (tmp_path / MODEL_FILE).stat().st_size < before - saved + 4000
    found = run(str(tmp_path / MODEL_FILE), FEEDS)
    assert found.tobytes() == expected.tobytes()
    np.testing.assert_allclose(found, answer(layers, FEEDS["x"]), rtol=1e-4, atol=1e-2)


@needs_kernels
def test_the_runtime_writes_structures_out_when_it_loads() -> None:
    """Nothing of it is left to be done at a request."""
    model = lowered(rising([0.9, 0.7, 0.5]))
    assert share_nested(model) == 2
    assert {timed.op_type for timed in profile_model(model, 1, FEEDS)} == {schemas.AGGREGATE}


@needs_kernels
def test_weights_of_their_own_stay() -> None:
    """Sources are shared where numbers of the edges differ; means and attention count the edges that stay."""
    (first, weights), (second, _) = rising([1.0, 0.8])
    layers = [(first, weights), (second, normal((second.num_edges,), 7))]
    model = lowered(layers)
    before, expected = graph_bytes(model), run(ir.to_proto(model).SerializeToString(), FEEDS)
    assert share_nested(model) == 1
    assert before - graph_bytes(model) == pytest.approx(3 * second.num_edges + 4 * len(second.rowptr), abs=100)
    assert run(ir.to_proto(model).SerializeToString(), FEEDS).tobytes() == expected.tobytes()


@needs_kernels
@pytest.mark.parametrize(
    "layers",
    [
        [*rising([1.0]), (OTHER, normal((OTHER.num_edges,)))],
        rising([0.02, 0.5]),
        rising([1.0, 1.0]),
    ],
    ids=["not nested", "small", "equal"],
)
def test_what_would_not_be_smaller_stays(layers: list[Layer]) -> None:
    """Other edges, few edges, and sets that are one array already."""
    model = lowered(layers)
    before = graph_bytes(model)
    assert share_nested(model) == 0
    assert graph_bytes(model) == before


@needs_kernels
@pytest.mark.parametrize(("gap", "dtype"), [(255, "UINT8"), (256, "UINT16"), (70_000, None)])
def test_gaps_of_any_size(gap: int, dtype: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes where one does not hold the places between slots, and nothing is shared beyond that."""
    monkeypatch.setattr(nested_structure, "NODES_BYTES", -1_000_000)
    count = gap + 5
    whole = Csr(np.array([0, *[count] * count]), np.arange(count))
    stays = np.zeros(count, bool)
    stays[[0, gap, gap + 1]] = True
    weights = normal((count,))
    model = lowered([(whole, weights), (some_of(whole, stays), weights[stays])])
    feeds = {"x": normal((count, CHANNELS))}
    expected = run(ir.to_proto(model).SerializeToString(), feeds)
    assert share_nested(model) == (dtype is not None)
    assert run(ir.to_proto(model).SerializeToString(), feeds).tobytes() == expected.tobytes()
    narrow = {str(value.dtype) for value in model.graph.initializers.values()} & {"UINT8", "UINT16"}
    assert narrow == (set() if dtype is None else {dtype})


@needs_kernels
def test_openvino_writes_structures_out_too(tmp_path: Path) -> None:
    """Its own files are as small, and it answers the same; the bytes of the graph are those of the files."""
    pytest.importorskip("openvino")
    from gnnexport.runtime.openvino import OpenVinoBackend

    layers = rising([0.9, 0.7, 0.5])
    artefact = OPENVINO.emit(stacked(layers), tmp_path, EmitContext(time_budget_s=0.5))
    inner = sum(graph.num_edges for graph, _ in layers[1:])
    stored = 8 * layers[0][0].num_edges + inner + 4 * len(GRAPH.rowptr)
    assert artefact.sizes["graph_bytes"] == pytest.approx(stored, abs=100)
    assert artefact.sizes["graph_bytes"] <= (tmp_path / "model.bin").stat().st_size
    (found,) = OpenVinoBackend(tmp_path / artefact.model_file, 1, native=True).run(FEEDS).values()
    np.testing.assert_allclose(found, answer(layers, FEEDS["x"]), rtol=1e-4, atol=1e-2)


@needs_kernels
@pytest.mark.parametrize(
    ("name", "target"),
    [("GCN", ORT), ("GraphSAGE", ORT), ("GAT", ORT), ("GCN", OPENVINO)],
    ids=lambda item: getattr(item, "name", item),
)
def test_rising_sets_of_any_layers_answer_as_the_pruned_model(
    name: str, target: OrtTarget | OpenVinoTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Program on fewer edges and the files that share its sets agree."""
    if target.name == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.setattr(nested_structure, "NODES_BYTES", -1_000_000)
    inputs = edge_models.graph()
    program = SparsifyEdges(sparsity=0.5).run(edge_models.program_of(name), edge_models.context(inputs))
    expected = run_model(program, inputs).numpy()
    target.emit(translate(program, inputs), tmp_path, EmitContext(time_budget_s=0.5))
    if target.name == "ort":
        written = [node.op_type for node in onnx.load(tmp_path / MODEL_FILE).graph.node]
        assert written.count("ConstantOfShape") >= 2
        found = run(str(tmp_path / MODEL_FILE), {"x": inputs["x"].numpy()})
    else:
        from gnnexport.runtime.openvino import OpenVinoBackend

        (found,) = OpenVinoBackend(tmp_path / "model.xml", 1, native=True).run({"x": inputs["x"].numpy()}).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
