"""Products that skip the zeros of weights: where they are chosen, how that is told, and that answers stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gnnexport.native import library
from gnnexport.native.kernels import LAYOUTS
from gnnexport.targets.contract import DialectModel, EmitContext
from gnnexport.targets.onnx import schemas, sparse_products
from gnnexport.targets.onnx.choice import Choices, sizes_of
from gnnexport.targets.onnx.native import native_graphs
from gnnexport.targets.onnx.sparse_products import BLOCKS, DENSE, ENGINE, SPARSE, Product, choose
from gnnexport.targets.openvino import OpenVinoTarget
from gnnexport.targets.ort import OrtTarget
from tests.targets.reduced_layers import (
    ENGINES,
    GRAPHS,
    OUT,
    Build,
    Layers,
    activation_first,
    both,
    close,
    own_with_bias,
    request,
    same_matrix_twice,
    weighted,
)
from tests.targets.sketch import Array, normal, run

pytestmark = pytest.mark.skipif(library.why_missing() is not None, reason=f"the kernels: {library.why_missing()}")

TARGETS = [OrtTarget(aggregate="native"), OpenVinoTarget(aggregate="native")]
BUILDS = {
    "own layer": both,
    "own layer turned": own_with_bias,
    "weights of edges": weighted,
    "shared matrix": same_matrix_twice,
    "layer by itself": activation_first,
}


def thinned(weights: Array, pattern: str) -> Array:
    """Put zeros into four fifths of some weights, anywhere or for sixteen outputs at a time."""
    rng = np.random.default_rng(weights.size)
    if pattern == "runs":
        zeros = np.repeat(rng.random((-(-len(weights) // 16), weights.shape[1])) < 0.8, 16, axis=0)[: len(weights)]
    else:
        zeros = rng.random(weights.shape) < 0.8
    return np.where(zeros, np.float32(0), weights)


def network(build: Build, *, fixed: bool, pattern: str = "anywhere") -> tuple[Layers, DialectModel]:
    """Return a network most of whose weights are zero."""
    m = Layers(GRAPHS["hub"], fixed=fixed)
    out = build(m)
    for value in m.weights:
        assert value.const_value is not None
        array = value.const_value.numpy()
        if array.ndim == 2:
            standing = array if len(array) == OUT else array.T
            thin = thinned(standing, pattern)
            value.const_value = ir.Tensor(np.ascontiguousarray(thin if standing is array else thin.T), name=value.name)
    return m, m.finish(out)


def answer(build: Build, pattern: str) -> Array:
    """Run a network as it was written."""
    m, dialect = network(build, fixed=False, pattern=pattern)
    return run(ir.to_proto(dialect.model).SerializeToString(), request(m))


@pytest.fixture(autouse=True)
def small_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small matrices be worth a choice."""
    monkeypatch.setattr(sparse_products, "FEWEST", 1)


@pytest.fixture
def fastest(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[set[str]]]:
    """Let one candidate be the fastest; return the candidates of each choice, as they come."""
    seen: list[set[str]] = []

    def wins(name: str) -> list[set[str]]:
        def time(runs: Mapping[str, Callable[[], object]], budget_s: float) -> tuple[dict[str, float], float]:
            seen.append(set(runs))
            for call in runs.values():
                call()
            return {each: 1.0 if each == name else 2.0 for each in runs}, 0.0

        monkeypatch.setattr(sparse_products, "time_candidates", time)
        return seen

    return wins


def held(path: Path) -> list[tuple[str, list[str]]]:
    """Return the operators of an ONNX model that multiply, and how they hold their matrices."""
    found = []
    for node in onnx.load(path).graph.node:
        words = {item.name: item.s.decode() for item in node.attribute if item.name in ("weights", "own_weights")}
        if node.op_type in (schemas.LINEAR, schemas.AGGREGATE_LINEAR, "MatMul", "Gemm"):
            found.append((node.op_type, [words[name] for name in sorted(words, reverse=True)]))
    return found


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("layout", [SPARSE, BLOCKS])
@pytest.mark.parametrize("name", BUILDS)
def test_answers_stay(name: str, layout: str, target: OrtTarget | OpenVinoTarget, tmp_path: Path, fastest: Any) -> None:
    """A model whose products skip zeros answers as the one that was written does."""
    if target.name == "openvino":
        pytest.importorskip("openvino")
    fastest(layout)
    m, dialect = network(BUILDS[name], fixed=True, pattern="runs")
    artefact = target.emit(dialect, tmp_path, EmitContext(threads=1))
    (got,) = ENGINES[target.name](tmp_path / artefact.model_file).run(request(m)).values()
    assert close(got, answer(BUILDS[name], "runs"))
    assert layout in artefact.decisions["lowerings"].values()


def test_what_is_written(tmp_path: Path, fastest: Any) -> None:
    """Each matrix has its own attribute; the report tells what was chosen among what, and what is skipped."""
    seen = fastest(SPARSE)
    _, dialect = network(both, fixed=True)
    target = OrtTarget(aggregate="native")
    model, choices = target.lowered(dialect, EmitContext(threads=1))
    artefact = target.emit(dialect, tmp_path, EmitContext(threads=1))
    (operator,) = [item for item in held(tmp_path / artefact.model_file) if item[0] == schemas.AGGREGATE_LINEAR]
    assert operator[1] == [SPARSE, SPARSE]
    assert all(names == {DENSE, SPARSE} for names in seen)
    rows = [row for row in artefact.lowering if row["op"].startswith("product with")]
    assert len(rows) == 2
    for row in rows:
        assert row["chosen"] == SPARSE
        assert {item["name"]: item["latency_ms"] for item in row["candidates"]} == {SPARSE: 1.0, DENSE: 2.0}
    weights = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()
               if value.const_value is not None}  # fmt: skip
    for name, (zeros, numbers, layout) in choices.sparse.items():
        assert (zeros, numbers, layout) == (int((weights[name] == 0).sum()), weights[name].size, SPARSE)
    assert len(choices.sparse) == 2


def layer_behind_layer(m: Layers) -> ir.Value:
    """A layer with so many numbers that its zeros are not stored either."""
    return m.gemm(m.op("Tanh", [m.gemm(m.reduced())], (m.rows, OUT)))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_neither_stored_nor_multiplied(target: OrtTarget | OpenVinoTarget, tmp_path: Path, fastest: Any) -> None:
    """Weights that files hold without their zeros reach the kernels, and the artefact tells which zeros are skipped."""
    if target.name == "openvino":
        pytest.importorskip("openvino")
    fastest(SPARSE)
    m, dialect = network(layer_behind_layer, fixed=True)
    artefact = target.emit(dialect, tmp_path, EmitContext(threads=1))
    (got,) = ENGINES[target.name](tmp_path / artefact.model_file).run(request(m)).values()
    assert close(got, answer(layer_behind_layer, "anywhere"))
    (large,) = (weight for weight in artefact.weights if weight.numbers == OUT * OUT)
    assert large.stored_bytes < large.dense_bytes
    assert (large.layout, large.skipped) == (SPARSE, large.zeros)


@pytest.mark.parametrize("layout", [DENSE, SPARSE, BLOCKS])
def test_replayed(layout: str, tmp_path: Path, fastest: Any) -> None:
    """Decisions of an earlier run give the same file, and nothing is timed."""
    seen = fastest(layout)
    target = OrtTarget(aggregate="native")
    files, decisions = [], None
    for times in (2, 0):
        del seen[:]
        _, dialect = network(both, fixed=True, pattern="runs")
        artefact = target.emit(dialect, tmp_path, EmitContext(decisions=decisions))
        files.append((tmp_path / artefact.model_file).read_bytes())
        decisions = artefact.decisions
        assert len(seen) == times
    assert files[0] == files[1]


def test_few_zeros_are_not_timed(tmp_path: Path, fastest: Any) -> None:
    """Weights of which fewer than half are zero are multiplied whole, and nothing is timed."""
    seen = fastest(SPARSE)
    m = Layers(GRAPHS["hub"], fixed=True)
    OrtTarget(aggregate="native").emit(m.finish(both(m)), tmp_path, EmitContext(threads=1))
    assert not seen


@pytest.mark.parametrize(("pattern", "expected"), [("runs", {DENSE, SPARSE, BLOCKS}), ("anywhere", {DENSE, SPARSE})])
def test_blocks_want_runs(pattern: str, expected: set[str], tmp_path: Path, fastest: Any) -> None:
    """Runs of sixteen outputs are offered where the zeros stand in such."""
    seen = fastest(DENSE)
    _, dialect = network(both, fixed=True, pattern=pattern)
    OrtTarget(aggregate="native").emit(dialect, tmp_path, EmitContext(threads=1))
    assert seen[0] == expected


@pytest.mark.parametrize("made_for", library.PATHS)
@pytest.mark.parametrize("layout", [SPARSE, DENSE])
def test_layers_of_the_engine(made_for: str, layout: str, tmp_path: Path, fastest: Any) -> None:
    """A layer that the engine would multiply becomes ours where skipping its zeros is faster, and only there."""
    seen = fastest(layout if layout == SPARSE else ENGINE)
    m, dialect = network(activation_first, fixed=False)
    choices = Choices("native", EmitContext(threads=1), OrtTarget().timer(1), True)
    choices.sizes = sizes_of(dialect.model.graph, request(m))
    model = native_graphs(dialect.model, made_for, edges=False, choices=choices)
    kinds = [node.op_type for node in model.graph if node.op_type in ("Linear", "Gemm")]
    assert kinds == ["Linear" if layout == SPARSE or made_for == "amx" else "Gemm"]
    assert (ENGINE in set().union(*seen)) == (made_for != "amx")
    path = tmp_path / "model.onnx"
    path.write_bytes(ir.to_proto(model).SerializeToString())
    (got,) = ENGINES["ort"](path).run(request(m)).values()
    assert close(got, answer(activation_first, "anywhere"))


def test_what_follows_a_layer_of_the_engine(fastest: Any) -> None:
    """It takes over its bias and its activation, as other operators of ours do."""
    fastest(SPARSE)

    def build(m: Layers) -> ir.Value:
        hidden = m.op("Tanh", [m.reduced()], (m.rows, 6))
        return m.op("Relu", [m.gemm(hidden, bias=(OUT,))], (m.rows, OUT))

    _, dialect = network(build, fixed=False)
    choices = Choices("native", EmitContext(threads=1), OrtTarget().timer(1), True)
    model = native_graphs(dialect.model, "portable", edges=False, choices=choices)
    assert [node.op_type for node in model.graph] == ["Aggregate", "Tanh", "Linear"]


def test_no_reductions_no_kernels(fastest: Any) -> None:
    """A model without reductions runs without the kernels, however many zeros its weights have."""
    seen = fastest(SPARSE)
    m = Layers(GRAPHS["no edges"], fixed=True)
    out = both(m)
    for value in m.weights:
        assert value.const_value is not None
        value.const_value = ir.Tensor(np.zeros_like(value.const_value.numpy()), name=value.name)
    model, choices = OrtTarget().lowered(m.finish(out), EmitContext(threads=1))
    assert not seen
    assert not choices.sparse
    assert schemas.DOMAIN not in {node.domain for node in model.graph}


def product(zeros: float, rows: int = 100) -> Product:
    """Return a product whose weights are zero in their first rows."""
    weights = normal((64, 64))
    weights[: int(64 * zeros)] = 0
    return Product(weights, rows)


@pytest.mark.parametrize(("zeros", "expected"), [(0.45, ENGINE), (0.8, ENGINE), (0.95, SPARSE), (1.0, BLOCKS)])
def test_where_nothing_can_be_timed(zeros: float, expected: str) -> None:
    """Nearly empty matrices are surely faster without their zeros."""
    assert choose(product(zeros), ENGINE, Choices("native", EmitContext(), None)) == expected


def test_timed_once(fastest: Any) -> None:
    """Products that are alike are timed once, on a bounded number of rows; others for themselves."""
    seen = fastest(SPARSE)
    shapes = []

    def timer(model: ir.Model, feeds: Mapping[str, Array]) -> Callable[[], object]:
        shapes.extend(array.shape for array in feeds.values())
        return lambda: None

    choices = Choices("native", EmitContext(), timer)
    for rows in (100, 100, 10**9):
        assert choose(product(0.8, rows), DENSE, choices) == SPARSE
    assert len(seen) == len(choices.rows) == 2
    assert set(shapes) == {(100, 64), (sparse_products.MOST_NUMBERS // 64, 64)}


def test_no_time_left(fastest: Any) -> None:
    """When the time for choosing lowerings is spent nothing more is timed."""
    seen = fastest(SPARSE)
    choices = Choices("native", EmitContext(time_budget_s=1.0), lambda model, feeds: lambda: None, spent_s=2.0)
    assert choose(product(0.8), DENSE, choices) == DENSE
    assert not seen


def test_what_a_layout_skips() -> None:
    """Runs count where all sixteen outputs are zero, and at the end as many as there are."""
    weights = np.ones((20, 3), np.float32)
    weights[:16, 0] = weights[16:, 1] = weights[:15, 2] = 0
    assert [Product(weights, 1).skipped(layout) for layout in (DENSE, ENGINE, SPARSE, BLOCKS)] == [0, 0, 35, 20]


def test_words_of_layouts() -> None:
    """The words of the attribute are those of the kernels."""
    assert {DENSE, SPARSE, BLOCKS} == set(LAYOUTS)


@pytest.mark.parametrize("engine", ENGINES)
def test_unknown_layouts_are_refused(engine: str, tmp_path: Path, fastest: Any) -> None:
    """A word that names no layout is an error when the model is loaded."""
    _, dialect = network(both, fixed=False)
    model = native_graphs(dialect.model, "avx2", edges=False)
    for node in model.graph:
        if node.op_type == schemas.AGGREGATE_LINEAR:
            node.attributes["own_weights"] = ir.AttrString("own_weights", "hollow")
    path = tmp_path / "model.onnx"
    path.write_bytes(ir.to_proto(model).SerializeToString())
    with pytest.raises(Exception, match="unknown own_weights 'hollow'"):
        ENGINES[engine](path)
