"""Sparse weights of layers that have several matrices in one parameter, and of those that are mixed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch_geometric.nn import GINEConv

from gnnexport.passes.contract import PassContext
from gnnexport.passes.sparsify_weights import SparsifyWeights
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.verify import verify
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx.sparse_weights import Weight
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.ort import OrtTarget
from gnnexport.training.sparsity.flops import Counted, TrainingFlops
from gnnexport.training.sparsity.weights import dense_parameters, find_weights
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.passes.edge_models import graph, program_of
from tests.small_models import EDGE_WIDTH, HIDDEN, INPUTS, WIDTH, run
from tests.unit.program.test_relations import RELATIONS, captured

NODES, EDGES, OUT = 40, 150, 4


@cache
def relational(name: str) -> Program:
    """Return the Program of a layer; nobody may change it."""
    return captured(name)[1]


def inputs() -> dict[str, Tensor]:
    """Return a graph with types of edges."""
    generator = torch.Generator().manual_seed(2)
    return {
        "x": torch.randn(NODES, WIDTH, generator=generator),
        "edge_index": torch.randint(0, NODES, (2, EDGES), generator=generator),
        "edge_type": torch.randint(0, RELATIONS, (EDGES,), generator=generator),
    }


def data() -> GraphData:
    """Return it with labels."""
    part = torch.arange(NODES) % 3
    masks = {name: part == place for place, name in enumerate(("train", "val", "test"))}
    return GraphData("typed", inputs(), torch.arange(NODES) % OUT, masks)


def context(notes: list[str] | None = None) -> PassContext:
    """Return a graph, and a trainer of few epochs."""
    given = data().hide("test")
    return PassContext(given, Trainer(given, Task(epochs=3)), note=([] if notes is None else notes).append)


def matrices(program: Program) -> dict[str, Tensor]:
    """Return each matrix as [outputs, inputs], by label."""
    return {item.label: item.matrix(program.body.get_parameter(item.name).detach()) for item in find_weights(program)}


@pytest.mark.parametrize("name", ["loop", "gathered matrices", "attention"])
def test_every_relation_has_a_matrix(name: str) -> None:
    """Whether products read one after the other or all at once, of each its outputs by inputs."""
    program = relational(name)
    found = [item for item in find_weights(program) if item.name == "weight"]
    assert [item.label for item in found] == [f"weight[{place}]" for place in range(RELATIONS)]
    assert all(item.shape == (OUT, WIDTH) and item.learned and len(item.readers) == 1 for item in found)
    assert "weight" not in dense_parameters(program)


@pytest.mark.parametrize("name", ["loop", "gathered matrices"])
@pytest.mark.parametrize(
    ("method", "pattern"), [("magnitude", "4x1"), ("magnitude", "2:4"), ("rigl", "unstructured"), ("slr", "2:4")]
)
def test_each_of_them_gets_sparse(name: str, method: str, pattern: str) -> None:
    """Patterns are of each matrix, later training leaves zeros alone, and as many entries as asked for are left."""
    program = relational(name)
    given = {} if pattern == "2:4" else {"sparsity": 0.5, "distribution": "uniform"}
    after = SparsifyWeights(method=method, pattern=pattern, **given).run(program, context())  # type: ignore[arg-type]
    assert verify(after) == []
    assert {"weight", "root"} == after.sparse_weights
    for matrix in matrices(after).values():
        assert 0 < int(matrix.count_nonzero()) <= (OUT * WIDTH * 2 // 3 if pattern == "2:4" else OUT * WIDTH // 2)
        if pattern == "2:4":
            assert all(int(part.count_nonzero(1).max()) <= 2 for part in matrix.split(4, dim=1))
        if pattern == "4x1" and method == "magnitude":
            assert set(matrix.count_nonzero(0).tolist()) == {0, OUT}


@pytest.mark.parametrize("name", ["loop", "gathered matrices"])
def test_a_relation_counts_what_its_own_edges_bring(name: str) -> None:
    """Read one after the other, the matrix of a type of edges that a graph has none of multiplies nothing and goes."""
    program = relational(name)
    given = inputs()
    given["edge_type"] = given["edge_type"].clamp(max=1)
    item = SparsifyWeights(score="norm", sparsity=0.4, retrain=False)
    after = matrices(item.run(program, PassContext(GraphData("two types", given))))
    left = [int(after[f"weight[{place}]"].count_nonzero()) for place in range(RELATIONS)]
    assert sum(left) + int(after["root"].count_nonzero()) == round(0.6 * 4 * OUT * WIDTH)
    if name == "loop":
        assert left[2] == 1
        norms = torch.linalg.vector_norm(given["x"], dim=0)
        score, kept = matrices(program)["root"].abs() * norms, after["root"] != 0
        assert not bool((~kept).any()) or float(score[kept].min()) >= float(score[~kept].max())


@pytest.mark.parametrize("name", ["loop", "gathered matrices"])
def test_operations_count_the_entries_of_all_relations(name: str) -> None:
    """At half of the entries, a step takes half of the operations of products with nodes."""
    program = relational(name)
    counted = []
    for sparsity in (None, 0.5):
        flops = TrainingFlops()
        item = SparsifyWeights(sparsity=0.5, distribution="uniform", retrain=False)
        given = program if sparsity is None else item.run(program, context())
        Trainer(data(), Task(epochs=2)).fit(given, seed=0, regime=Counted(flops))
        counted.append(flops.linear)
    # Features need no gradient: forwards, and that of the weights.
    assert counted[0] == 2 * 2 * 2 * NODES * WIDTH * OUT * (RELATIONS + 1)
    assert counted[1] == counted[0] // 2


@pytest.mark.parametrize(("name", "dense"), [("bases", ["comp", "weight"]), ("blocks", ["weight"])])
def test_what_is_mixed_stays_dense_and_is_told(name: str, dense: list[str]) -> None:
    """Zeros of bases are none of the matrices that they are mixed to; a note says which parameters, and how large."""
    program = relational(name)
    assert sorted(dense_parameters(program)) == dense
    notes: list[str] = []
    after = SparsifyWeights(sparsity=0.5).run(program, context(notes))
    assert after.sparse_weights == {"root"}
    (told,) = (note for note in notes if note.startswith("left dense"))
    assert f"weight ({program.body.get_parameter('weight').numel()} numbers)" in told
    assert all(bool(after.body.get_parameter("weight").all()) for _ in dense)


def stored(program: Program, given: dict[str, Tensor], folder: Path) -> dict[str, Weight]:
    """Emit a model for one graph and return the matrices in its files."""
    dialect = translate(program, {item.name: given[item.name] for item in program.inputs})
    return {item.name: item for item in OrtTarget().emit(dialect, folder, EmitContext(time_budget_s=0)).weights}


@pytest.mark.parametrize("name", ["loop", "gathered matrices"])
def test_zeros_of_relations_are_found_in_files(name: str, tmp_path: Path) -> None:
    """All numbers of all relations are counted, and nothing else, as the zeros that sums over relations begin with."""
    program = relational(name)
    after = SparsifyWeights(sparsity=0.5, distribution="uniform", retrain=False).run(program, PassContext())
    found = stored(after, inputs(), tmp_path).values()
    assert sum(item.numbers for item in found) == (RELATIONS + 1) * OUT * WIDTH
    assert sum(item.zeros for item in found) == (RELATIONS + 1) * OUT * WIDTH // 2
    assert not bool((run(after, inputs()) == run(program, inputs())).all())


def gine() -> Program:
    """Return a layer whose edge features are multiplied by a matrix."""
    torch.manual_seed(0)
    layer = GINEConv(torch.nn.Linear(WIDTH, HIDDEN), edge_dim=EDGE_WIDTH).eval()
    given = tuple(INPUTS[key] for key in ("x", "edge_index", "edge_attr"))
    return run_passes(capture(layer, given, example_inputs(given)), CANONICAL, PassContext()).program


@pytest.mark.parametrize("name", ["GINE", "GAT edge features"])
def test_what_weights_make_of_edge_features_is_no_weight(name: str, tmp_path: Path) -> None:
    """On one graph the map is done once, and a row for each edge is kept: of that no zeros are counted."""
    program = gine() if name == "GINE" else program_of(name)
    after = SparsifyWeights(sparsity=0.5, distribution="uniform", retrain=False).run(program, PassContext())
    assert any("edge" in item.name or item.name == "lin.weight" for item in find_weights(after))
    found = stored(after, graph(), tmp_path)
    whole = {item.name: item.size for item in find_weights(after)}
    assert found.keys() < whole.keys()
    assert all(item.numbers == whole[key] and 2 * item.zeros == whole[key] for key, item in found.items())
