"""Entries of weights that go by what they multiply, alone and together with edges."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import SAGEConv

from gnnexport.errors import SpecError
from gnnexport.measure.amdahl import Shares
from gnnexport.passes.contract import PassContext
from gnnexport.passes.quantize import Quantize
from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.passes.sparsify_weights import SparsifyWeights
from gnnexport.pipeline.steps import Stepped, run_pass
from gnnexport.program import edge_sets
from gnnexport.program.edge_rules import rules
from gnnexport.program.program import Program
from gnnexport.program.verify import verify
from gnnexport.registry import build_passes
from gnnexport.training.sparsity.weights import find_weights
from tests.passes.edge_models import built, context, graph, program_of
from tests.small_models import HIDDEN, WIDTH, Handwritten, run, summed
from tests.targets.requests import graph_program
from tests.unit.training.test_sets import graph_set
from tests.unit.training.test_sparse_weights import captured

Columns = dict[str, Tensor]
"""What a matrix is multiplied by, by name of the matrix, [rows, inputs]."""


def pruned(name: str, ctx: PassContext | None = None, program: Program | None = None, **options: object) -> Program:
    """Run `sparsify-weights{score=norm}` without training."""
    item = SparsifyWeights(score="norm", retrain=False, **options)  # type: ignore[arg-type]
    program = program_of(name) if program is None else program
    assert item.check(program, ctx or context()) == []
    after = item.run(program, ctx or context())
    assert verify(after) == []
    return after


def masks(program: Program) -> dict[str, Tensor]:
    """Return which entries of each matrix differ from zero."""
    return {item.name: program.body.get_parameter(item.name).detach() != 0 for item in find_weights(program)}


def read_by(model: nn.Module, inputs: dict[str, Tensor]) -> Columns:
    """Run a PyTorch model and keep what its linear layers read."""
    found: Columns = {}
    names = {id(layer): f"{name}.weight" for name, layer in model.named_modules()}

    def keep(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        found[names[id(layer)]] = given[0].detach()

    hooks = [layer.register_forward_pre_hook(keep) for layer in model.modules() if not list(layer.children())]
    with torch.no_grad():
        model(inputs["x"], inputs["edge_index"])
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", ["GCN", "GraphSAGE", "GAT"])
@pytest.mark.parametrize("sparsity", [0.3, 0.6])
def test_what_goes_multiplies_least(name: str, sparsity: float) -> None:
    """Over all matrices, |W[o,i]| times the norm of X[:,i] as PyTorch's layers read it is smallest where entries go."""
    model = built(name)
    read, after = read_by(model, graph()), pruned(name, sparsity=sparsity)
    kept, gone = [], []
    for key, mask in masks(after).items():
        score = model.get_parameter(key).detach().abs() * torch.linalg.vector_norm(read[key], dim=0)
        kept.append(score[mask])
        gone.append(score[~mask])
    assert float(torch.cat(kept).min()) >= float(torch.cat(gone).max()) * (1 - 1e-4)
    total = sum(mask.numel() for mask in masks(after).values())
    assert len(torch.cat(kept)) == round((1 - sparsity) * total)


def test_a_column_that_is_always_zero_goes_first() -> None:
    """However large its weights are; magnitudes alone would keep them."""
    inputs = graph()
    inputs["x"][:, 2] = 0
    program = program_of("GraphSAGE").clone()
    first = find_weights(program)[0].name
    with torch.no_grad():
        program.body.get_parameter(first)[:, 2] = 100.0
    after = masks(pruned("", context(inputs), program, sparsity=0.3))[first]
    assert not bool(after[:, 2].any())
    by_size = SparsifyWeights(sparsity=0.3, retrain=False).run(program, context(inputs))
    assert bool(masks(by_size)[first][:, 2].all())


def test_squares_of_several_products_are_summed() -> None:
    """A matrix that is read twice counts what both of its products read."""

    def twice(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
        hidden = model.first(x).relu()
        return model.last(summed(model.middle(model.middle(hidden).relu()), edge_index))

    torch.manual_seed(0)
    model = Handwritten(twice)
    program = captured(model)
    after = pruned("", None, program, sparsity=0.5, distribution="uniform")
    weight = model.middle.weight.detach()
    with torch.no_grad():
        hidden = model.first(graph()["x"]).relu()
        norms = torch.linalg.vector_norm(torch.cat([hidden, model.middle(hidden).relu()]), dim=0)
    score = weight.abs() * norms
    assert torch.equal(masks(after)["middle.weight"], score >= score.flatten().sort().values[weight.numel() // 2])


@pytest.mark.parametrize("pattern", ["2:4", "4x1", "unstructured"])
@pytest.mark.parametrize("schedule", ["oneshot", "gradual"])
def test_every_pattern_of_entries_goes_by_norms(pattern: str, schedule: str) -> None:
    """Groups, blocks and rounds: as many stay as with magnitudes, and not the same ones."""
    if pattern == "2:4" and schedule == "gradual":
        return
    given = {"pattern": pattern, "schedule": schedule} | ({} if pattern == "2:4" else {"sparsity": 0.75})
    given |= {"epochs": 4, "rounds": 3} if schedule == "gradual" else {}
    found = {}
    for score in ("magnitude", "norm"):
        item = SparsifyWeights(score=score, retrain=False, **given)  # type: ignore[arg-type]
        found[score] = item.run(program_of("GraphSAGE"), context(epochs=4))
        assert found[score].sparse_weights
    counts = [sum(int(mask.sum()) for mask in masks(item).values()) for item in found.values()]
    assert counts[0] == counts[1]
    same = [bool(torch.equal(one, masks(found["norm"])[key])) for key, one in masks(found["magnitude"]).items()]
    assert not all(same)


@pytest.mark.parametrize("name", ["GCN", "GraphSAGE", "GAT edge features", "GCNII", "SIGN"])
def test_a_threshold_of_zero_changes_no_bit(name: str) -> None:
    """Nothing is smaller than zero, and nothing is trained."""
    item = SparsifyWeights(score="norm", threshold=0.0)
    notes: list[str] = []
    after = item.run(program_of(name), context(notes=notes, epochs=3))
    assert after.sparse_weights == frozenset()
    assert torch.equal(run(after, graph()), run(program_of(name), graph()))
    assert notes[-1].startswith("no entry goes")


@pytest.mark.parametrize("pattern", ["unstructured", "4x1"])
def test_a_larger_threshold_never_keeps_more(pattern: str) -> None:
    """What goes by a threshold goes by every larger one, and of each matrix something stays."""
    earlier: dict[str, Tensor] = {}
    for threshold in (0.0, 0.3, 1.0, 3.0, 1e6):
        found = masks(pruned("GCN", threshold=threshold, pattern=pattern))
        assert all(bool(mask.any()) for mask in found.values())
        assert all(not bool((mask & ~earlier.get(key, mask)).any()) for key, mask in found.items())
        earlier = found
    most = 4 if pattern == "4x1" else 1
    assert all(int(mask.sum()) <= most for mask in earlier.values())
    first = built("GCN").get_parameter("convs.0.lin.weight").detach()
    score = first.abs() * torch.linalg.vector_norm(graph()["x"], dim=0)
    if pattern == "unstructured":
        expected = score >= 1.0
        assert torch.equal(masks(pruned("GCN", threshold=1.0))["convs.0.lin.weight"], expected)


def test_behind_fewer_edges_norms_are_of_what_is_left() -> None:
    """A map behind a sum over neighbours reads other rows once edges are gone: with all gone, those of no neighbour."""
    torch.manual_seed(0)
    net = SAGEConv(WIDTH, HIDDEN, aggr="sum").eval()  # so wide that it sums first
    program = captured(net)
    inputs = graph()
    edges = SparsifyEdges(sparsity=1.0, retrain=False).run(program, context(inputs))
    after = masks(pruned("", context(inputs), edges, sparsity=0.5, distribution="uniform"))["lin_l.weight"]
    loops = (inputs["edge_index"][0] == inputs["edge_index"][1]).nonzero().flatten()
    alone = torch.zeros_like(inputs["x"]).index_add(
        0, inputs["edge_index"][1, loops], inputs["x"][inputs["edge_index"][0, loops]]
    )
    score = net.lin_l.weight.detach().abs() * torch.linalg.vector_norm(alone, dim=0)
    assert int(after.sum()) == after.numel() // 2
    assert float(score[after].min()) >= float(score[~after].max()) * (1 - 1e-5)


@pytest.mark.parametrize("name", ["GCN", "GAT", "GraphSAGE"])
def test_joint_is_the_one_rule_after_the_other(name: str) -> None:
    """Without training, edges go as they go alone, and entries as by `score=norm` on those edges."""
    options = {"sparsity": 0.5, "retrain": False}
    notes: list[str] = []
    both = run_pass(Stepped(program_of(name)), SparsifyEdges(joint=0.8, **options), context(notes=notes))  # type: ignore[arg-type]
    edges = SparsifyEdges(**options).run(program_of(name), context())  # type: ignore[arg-type]
    after = pruned("", None, edges, sparsity=0.8)
    assert torch.equal(run(both.program, graph()), run(after, graph()))
    assert both.program.sparse_weights == after.sparse_weights
    said = both.steps[-1].notes
    assert any(line.startswith("left out ") and "(50.0%)" in line for line in said)
    assert any(re.match(r"along with them: .* \((19|20)\.\d%\)", line) for line in said)


def test_edges_and_zeros_are_frozen_in_training() -> None:
    """Rounds raise both shares together; what is left at the end is what was asked for, however it was trained."""
    item = SparsifyEdges(sparsity=0.6, joint=0.8, rounds=3, epochs=6)
    step = run_pass(Stepped(program_of("GraphSAGE")), item, context(epochs=9))
    alone = SparsifyEdges(sparsity=0.6, retrain=False).run(program_of("GraphSAGE"), context())
    assert sum(layer.kept for layer in edge_sets.kept(step.program)) == sum(
        layer.kept for layer in edge_sets.kept(alone)
    )
    found = masks(step.program)
    total = sum(mask.numel() for mask in found.values())
    assert sum(int(mask.sum()) for mask in found.values()) <= round(0.2 * total)
    assert step.program.sparse_weights == set(found)
    assert sum("after retraining" in line for line in step.steps[-1].notes) == 3


def test_entries_go_where_no_edge_does() -> None:
    """With sparsity=0 the joint rule is that of weights alone."""
    both = SparsifyEdges(sparsity=0.0, joint=0.7, retrain=False).run(program_of("GCN"), context())
    assert torch.equal(run(both, graph()), run(pruned("GCN", sparsity=0.7), graph()))
    assert edge_sets.kept(both) == []


def test_entries_alone_are_trained_too() -> None:
    """Where entries go and edges stay, options of training act, and what cannot be trained is refused."""
    (item,) = build_passes(["sparsify-edges{sparsity=0,joint=0.7,rounds=2,epochs=2}"])
    notes: list[str] = []
    ctx = context(notes=notes, epochs=2)
    assert item.check(program_of("GCN"), ctx) == []
    assert item.run(program_of("GCN"), ctx).sparse_weights
    assert sum("after retraining" in note for note in notes) == 2
    blocked = program_of("GCN").clone()
    blocked.training_blocker = "a layer behaves otherwise in training"
    (problem,) = SparsifyEdges(sparsity=0.0, joint=0.7).check(blocked, ctx)
    assert "otherwise in training" in problem.what
    assert SparsifyEdges(sparsity=0.0).check(blocked, ctx) == []


def test_joint_beside_a_rule_of_requests() -> None:
    """In mode graphs edges go by a rule at run time, and entries by what is read where it holds."""
    ctx = replace(context(), mode="graphs")
    both = SparsifyEdges(sparsity=0.5, joint=0.7, retrain=False).run(program_of("GCN"), ctx)
    assert rules(both)
    ruled = SparsifyEdges(sparsity=0.5, retrain=False).run(program_of("GCN"), ctx)
    assert torch.equal(run(both, graph(3)), run(pruned("", ctx, ruled, sparsity=0.7), graph(3)))


def test_the_most_that_both_can_gain_is_told() -> None:
    """Half of the edges between nodes and all loops are left, 136 of 232, and a tenth of the linear maps."""
    notes: list[str] = []
    ctx = replace(context(notes=notes), shares=lambda program: Shares(0.5, 0.4, 0.1, 1.0, "an engine"))
    SparsifyEdges(sparsity=0.5, joint=0.9, retrain=False).run(program_of("GCN"), ctx)
    assert notes[0].startswith("can be at most 2.60 times faster: aggregation takes 40 %")


def test_what_has_nothing_to_go_by_is_refused() -> None:
    """No data, weights that are quantised, sparse already or frozen; each with its mend."""
    (problem,) = SparsifyWeights(score="norm").check(program_of("GCN"), PassContext())
    assert "on a graph" in problem.what
    assert "--data" in problem.mend
    both = SparsifyEdges(joint=0.9)
    assert both.check(program_of("GCN"), context()) == []
    rounded = Quantize().run(program_of("GCN"), context())
    assert "quantised already" in both.check(rounded, context())[0].what
    assert "sparse already" in both.check(pruned("GCN"), context())[0].what
    frozen = program_of("GCN").clone()
    frozen.body.requires_grad_(False)
    assert "may change" in both.check(frozen, context())[0].what


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("sparsify-weights{score=norm,method=slr}", "method=magnitude alone"),
        ("sparsify-weights{score=norm,method=rigl}", "method=magnitude alone"),
        ("sparsify-weights{score=norm,pattern=row}", "patterns of entries alone"),
        ("sparsify-weights{threshold=1}", "score=norm alone"),
        ("sparsify-weights{score=norm,threshold=1,sparsity=0.5}", "exclude each other"),
        ("sparsify-weights{score=norm,threshold=1,distribution=uniform}", "sparsity alone"),
        ("sparsify-weights{score=norm,threshold=1,schedule=gradual}", "sparsity alone"),
        ("sparsify-weights{score=norm,threshold=1,pattern=2:4}", "leave the sparsity open"),
        ("sparsify-weights{score=norm,threshold=-1}", "not be negative"),
        ("sparsify-weights{score=size}", "score"),
        ("sparsify-edges{joint=0}", "joint must be"),
        ("sparsify-edges{joint=1}", "joint must be"),
    ],
)
def test_options_that_do_not_go_together_are_refused(spec: str, words: str) -> None:
    """Each with words that say what to write."""
    with pytest.raises(SpecError, match=words):
        build_passes([spec])


def test_of_a_set_only_graphs_that_are_trained_on_are_looked_at() -> None:
    """What all others hold, be it no number at all, changes nothing."""
    data = graph_set()
    trained = data.masks["train"][data.inputs["batch"]]
    x = torch.where(trained[:, None], data.inputs["x"], torch.nan)
    other = replace(data, inputs={**data.inputs, "x": x})
    one, two = (pruned("", PassContext(data=item), graph_program("sum"), sparsity=0.6) for item in (data, other))
    assert masks(one).keys() == masks(two).keys()
    assert all(torch.equal(mask, masks(two)[key]) for key, mask in masks(one).items())
