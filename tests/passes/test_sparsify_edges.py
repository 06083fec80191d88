"""Edges that layers go without, on one fixed graph."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch_geometric.utils import scatter

from gnnexport.passes.contract import PassContext
from gnnexport.passes.reorder_nodes import ReorderNodes
from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.pipeline.sparsity import count_sparsity
from gnnexport.pipeline.steps import Stepped, finalise, run_pass
from gnnexport.program import edge_sets
from gnnexport.program.cost import measure_cost
from gnnexport.program.data import GraphData
from gnnexport.program.dialect import kernels
from gnnexport.program.edge_layers import find_layers
from gnnexport.program.factored import factor_weights
from gnnexport.program.neighbourhoods import find_neighbourhoods
from gnnexport.program.program import Program
from gnnexport.targets.contract import Artefact
from tests.graph_strategies import graphs
from tests.passes.checks import assert_equal_on
from tests.passes.edge_models import (
    CONVOLUTIONS,
    FAMILIES,
    NODES,
    built,
    context,
    frozen,
    graph,
    others,
    program_of,
    sets,
)
from tests.small_models import WIDTH, run


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("options", [{"sparsity": 0.0}, {"threshold": 0.0}])
def test_nothing_left_out_changes_no_bit(name: str, options: dict[str, float]) -> None:
    """With sparsity or threshold 0 the answers are those of the model, bit for bit."""
    assert torch.equal(run(frozen(name, **options), graph()), run(program_of(name), graph()))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("sparsity", [0.3, 0.7])
def test_sets_are_nested_and_of_the_size_asked_for(name: str, sparsity: float) -> None:
    """Each layer has some edges of the one before and all loops; together they lose the share, to the edge."""
    before, after = sets(program_of(name), graph()), sets(frozen(name, sparsity=sparsity), graph())
    assert all(layer <= earlier for earlier, layer in pairwise(after))
    assert all(layer <= whole for layer, whole in zip(after, before, strict=True))
    for layer, whole in zip(after, before, strict=True):
        assert layer - others(layer) == whole - others(whole)
    total, left = (sum(others(layer).total() for layer in layers) for layers in (before, after))
    assert abs(left - (1 - sparsity) * total) <= 0.5


def reference(name: str, program: Program, inputs: dict[str, Tensor]) -> Tensor:
    """Run a PyG model with other edges in each layer, reduced over those alone."""
    net = built(name)
    program = program.clone()
    program.annotate()
    values = dict(zip(program.structure_names, program.structure(inputs), strict=True))
    body = {node.name: node for node in program.body.graph.nodes}
    h = inputs["x"]
    layers = find_layers(program)
    for place, (layer, conv) in enumerate(zip(layers, net.convs, strict=True)):  # type: ignore[arg-type]
        row, col = kernels.rows_of(values[layer.structure.rowptr]), values[layer.col]
        if name == "GCN":
            weight = values[str(body[layer.reductions[0]].args[3].target)]  # type: ignore[union-attr]
            h = scatter(conv.lin(h)[col] * weight[:, None], row, 0, NODES, "sum") + conv.bias
        else:
            h = conv(h, torch.stack([col, row]))
        if place < len(layers) - 1:
            h = net.act(net.norms[place](h) if name == "GIN" else h)
    return h


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_layer_computes_what_it_would_without_the_edges(name: str) -> None:
    """Sums lack the messages, means and attention are over what stays; a GCN goes on dividing by all degrees."""
    program = frozen(name, sparsity=0.6)
    with torch.no_grad():
        expected = reference(name, program, graph())
    assert_equal_on(program, graph(), expected)


def test_more_sparsity_never_brings_edges_back() -> None:
    """In the first layer, whose input stays, edges of a sparser set are edges of a denser one; so with thresholds."""
    for key, steps in (("sparsity", (0.2, 0.5, 0.9)), ("threshold", (0.1, 0.4, 0.8))):
        found = [sets(frozen("GAT", **{key: step}), graph())[0] for step in steps]
        assert found[2] <= found[1] <= found[0]
        assert found[2].total() < found[0].total()


def test_without_other_nodes_a_gcn_is_an_mlp() -> None:
    """With all edges between nodes gone each row is its own, times the weight of its loop in every layer."""
    program, net = frozen("GCN", sparsity=1.0), built("GCN")
    loop = run_loops(graph())
    with torch.no_grad():
        h = net.convs[0].lin(graph()["x"]) * loop + net.convs[0].bias  # type: ignore[index]
        expected = net.convs[1].lin(net.act(h)) * loop + net.convs[1].bias  # type: ignore[index,operator]
    assert_equal_on(program, graph(), expected)
    assert [(layer.kept, layer.loops) for layer in edge_sets.kept(program)] == [(0, NODES), (0, NODES)]


def run_loops(inputs: dict[str, Tensor]) -> Tensor:
    """Return the weight of each node's loop in a GCN, [nodes, 1]."""
    source, destination = inputs["edge_index"]
    apart = destination[source != destination]
    return (1 / (1 + torch.bincount(apart, minlength=NODES)).float())[:, None]


@settings(max_examples=12)
@given(inputs=graphs())
def test_any_graph_can_lose_edges(inputs: dict[str, Tensor]) -> None:
    """One node, no edges, isolated nodes, duplicates, loops and hubs: what is left is right, down to nothing."""
    for name in ("GCN", "GraphSAGE", "GAT edge features"):
        for sparsity in (0.0, 0.4, 1.0):
            program = SparsifyEdges(sparsity=sparsity, retrain=False).run(program_of(name), context_of(inputs))
            first, *_, last = sets(program, inputs)
            assert last <= first
            if sparsity == 1:
                assert not others(first)
            assert bool(run(program, inputs).isfinite().all())


def context_of(inputs: dict[str, Tensor]) -> PassContext:
    """Return the context of a pass on a graph without labels."""
    return PassContext(data=GraphData("any", inputs))


def test_equal_sets_are_one() -> None:
    """With schedule=equal all layers read one CSR; what nothing reads any more is not kept."""
    shared, rising = frozen("GCN", schedule="equal"), frozen("GCN")
    assert [name for name in shared.structure_names if name.startswith("rowptr")] == ["rowptr_1"]
    assert len([name for name in rising.structure_names if name.startswith("rowptr")]) == 2
    assert len(shared.structure_names) == len(program_of("GCN").structure_names)
    one, two = edge_sets.kept(shared)
    assert one.kept == two.kept


def test_what_is_left_is_listed() -> None:
    """Every layer has its name, what it keeps and what it had, loops apart; a whole model lists nothing."""
    assert edge_sets.kept(program_of("GCN")) == []
    first, second = edge_sets.kept(frozen("GCN", sparsity=0.5))
    whole = sets(program_of("GCN"), graph())[0]
    assert (first.total, first.loops) == (second.total, second.loops) == (others(whole).total(), NODES)
    assert first.kept > second.kept
    assert first.name.startswith("convs.0")
    assert second.name.startswith("convs.1")


def test_less_is_computed() -> None:
    """Multiply-accumulates of aggregation count the edges that stay."""
    before, after = (measure_cost(item, graph()) for item in (program_of("GCN"), frozen("GCN", schedule="equal")))
    layer = edge_sets.kept(frozen("GCN", schedule="equal"))[0]
    kept, total = layer.kept + layer.loops, layer.total + layer.loops
    assert after.macs("aggregation") * total == before.macs("aggregation") * kept
    assert after.macs("linear") == before.macs("linear")


def test_another_graph_keeps_its_edges() -> None:
    """Sets are of one graph; one of another size is computed whole."""
    generator = torch.Generator().manual_seed(3)
    other = {"x": torch.randn(9, WIDTH), "edge_index": torch.randint(0, 9, (2, 30), generator=generator)}
    assert torch.equal(run(frozen("GCN", sparsity=1.0), other), run(program_of("GCN"), other))


@pytest.mark.parametrize("kind", ["rcm", "degree"])
@pytest.mark.parametrize("name", ["GCN", "GAT", "GIN"])
def test_numbering_nodes_anew_keeps_the_sets(name: str, kind: str) -> None:
    """`reorder-nodes` behind this pass changes no bit: edges are told by their place in the input."""
    program = frozen(name, sparsity=0.6)
    after = run_pass(Stepped(program), ReorderNodes(order=kind, cache_kib=0), context()).program  # type: ignore[arg-type]
    assert torch.equal(run(after, graph()), run(program, graph()))


@pytest.mark.parametrize("name", FAMILIES)
def test_final_passes_keep_the_answers(name: str) -> None:
    """Folding norms, changing sides of products and merging duplicates leave the answers on the graph as they were."""
    program = frozen(name, sparsity=0.6)
    assert_equal_on(finalise(program, context().data).program, graph(), run(program, graph()))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*CONVOLUTIONS, "GAT edge features", "GCN weighted"])
def test_neighbourhoods_are_cut_out_of_the_sets(name: str) -> None:
    """Mini-batches of training see what the layers have left: rows of nodes are those of the whole graph."""
    program, inputs = frozen(name, sparsity=0.6), graph()
    targets = torch.tensor([7, 0, 39])
    found = find_neighbourhoods(program, {key: inputs[key] for key in inputs}).around(targets)
    assert found is not None
    with torch.no_grad():
        rows = program.run_body(found.inputs, found.structure)[: len(targets)]
    torch.testing.assert_close(rows, run(program, inputs)[targets], rtol=1e-5, atol=1e-5)


def test_weights_of_a_gcn_are_still_products() -> None:
    """Sums over fewer edges are rewritten to plain ones as sums over all are."""
    for program in (program_of("GCN"), frozen("GCN", sparsity=0.6)):
        before = run(program, graph())
        program = program.clone()
        program.annotate()
        assert factor_weights(program) == 2
        assert_equal_on(program, graph(), before)


def test_training_goes_on_with_the_edges_left() -> None:
    """Retraining changes weights and no set."""
    notes: list[str] = []
    item = SparsifyEdges(sparsity=0.5, distil=0.5)
    after = run_pass(Stepped(program_of("GCN")), item, context(notes=notes, epochs=3))
    assert sets(after.program, graph()) == sets(frozen("GCN", sparsity=0.5), graph())
    said = after.steps[-1].notes
    assert any("after retraining" in line for line in said)
    assert any(line.startswith("left out ") and "(50.0%)" in line for line in said)
    assert after.steps[-1].macs < measure_cost(program_of("GCN"), graph()).macs()


def test_rounds_come_to_the_same_share() -> None:
    """Three rounds train three times and end at the share that one round would."""
    item = SparsifyEdges(sparsity=0.6, rounds=3, epochs=3)
    step = run_pass(Stepped(program_of("GraphSAGE")), item, context(epochs=9))
    assert [line.partition(":")[0] for line in step.steps[-1].notes if line.startswith("round")] == [
        "round 1 of 3", "round 2 of 3", "round 3 of 3"
    ]  # fmt: skip
    assert sum(layer.kept for layer in edge_sets.kept(step.program)) == sum(
        layer.kept for layer in edge_sets.kept(frozen("GraphSAGE", sparsity=0.6))
    )


def test_layers_that_keep_all_edges_are_not_counted() -> None:
    """Beside a layer that takes a maximum, shares are of the other one alone: of the choice, notes and report."""
    notes: list[str] = []
    item = SparsifyEdges(sparsity=0.5, retrain=False)
    program = item.run(program_of("sum and max"), context(notes=notes))
    total = others(sets(program_of("sum and max"), graph())[0]).total()
    (layer,) = edge_sets.kept(program)
    assert (layer.total, layer.kept) == (total, total - round(total / 2))
    assert any(line.startswith(f"left out {round(total / 2):,} of {total:,} edges") for line in notes)
    assert any(line.startswith("kept all edges of ") and "the max of messages" in line for line in notes)
    found = count_sparsity(program, Artefact("model.onnx", ("model.onnx",)))
    assert found is not None
    assert found.edges == pytest.approx(0.5, abs=1 / total)
    first, second = sets(program, graph())
    assert len({first.total(), second.total()}) == 2
