"""Which edges go first, by each method of choosing them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.pipeline.steps import Stepped, run_pass
from gnnexport.program import edge_sets
from gnnexport.program.dialect import kernels
from tests.passes.edge_models import (
    NODES,
    built,
    context,
    frozen,
    graph,
    others,
    program_of,
    sets,
)


def test_the_smallest_messages_go() -> None:
    """In the first layer of a GCN edges go by their weight times the norm of the transformed row."""
    program, net = frozen("GCN", sparsity=0.5), built("GCN")
    values = dict(zip(program_of("GCN").structure_names, program_of("GCN").structure(graph()), strict=True))
    rowptr, col, weight = (values[f"{name}_0"] for name in ("rowptr", "col", "weight"))
    row = kernels.rows_of(rowptr)
    first = others(sets(program, graph())[0])
    with torch.no_grad():
        norms = (net.convs[0].lin(graph()["x"])[col] * weight[:, None]).norm(dim=1)  # type: ignore[index]
    norms[row == col] = -1
    order = norms.argsort(descending=True)[: first.total()]
    assert first == Counter(zip(col[order].tolist(), row[order].tolist(), strict=True))


@pytest.mark.parametrize("method", ["norm", "random", "top-k", "effective-resistance"])
def test_every_method_meets_the_share(method: str) -> None:
    """All of them keep loops, nest, and come to the same number of edges; draws are of the seed."""
    program = frozen("GCN", sparsity=0.5, method=method)
    first, second = sets(program, graph())
    whole = sets(program_of("GCN"), graph())[0]
    assert second <= first
    assert first - others(first) == whole - others(whole)
    assert abs(others(first).total() + others(second).total() - others(whole).total()) <= 1
    assert sets(frozen("GCN", sparsity=0.5, method=method), graph()) == [first, second]


def test_top_k_leaves_equally_many_to_each_node() -> None:
    """No node loses an edge to another that has two more left."""
    program = frozen("GraphSAGE", sparsity=0.6, method="top-k", schedule="equal")
    before, after = (
        torch.bincount(torch.tensor([row for _, row in others(edges).elements()]), minlength=NODES)
        for edges in (sets(program_of("GraphSAGE"), graph())[0], sets(program, graph())[0])
    )
    most = int(after.max())
    assert bool((after >= torch.minimum(before, torch.tensor(most - 1))).all())


def test_edges_to_the_same_class_stay() -> None:
    """Those that the model gives the same class stay, equally many for each node, and draws play no part."""
    program = run_pass(
        Stepped(program_of("GCN")), SparsifyEdges(sparsity=0.5, method="agreement", retrain=False), context(epochs=1)
    ).program
    answers = program_of("GCN").train(False)(graph()).detach().softmax(1)
    first, second = (others(item) for item in sets(program, graph()))
    whole = others(sets(program_of("GCN"), graph())[0])
    assert second <= first <= whole
    assert abs(first.total() + second.total() - whole.total()) <= 1
    for row in range(NODES):
        stay = [float(answers[src] @ answers[row]) for src, dst in second.elements() if dst == row]
        gone = [float(answers[src] @ answers[row]) for src, dst in (whole - second).elements() if dst == row]
        assert min(stay, default=1.0) >= max(gone, default=0.0) - 1e-6


def test_rows_of_few_edges_resist() -> None:
    """The estimate of the effective resistance is largest where both ends have few edges."""
    program = frozen("GraphSAGE", sparsity=0.8, method="effective-resistance", schedule="equal")
    kept = others(sets(program, graph())[0])
    whole = others(sets(program_of("GraphSAGE"), graph())[0])
    assert sum(count for (_, row), count in kept.items() if row == 0) / kept.total() < (
        sum(count for (_, row), count in whole.items() if row == 0) / whole.total()
    )


def test_baselines_prune_a_maximum() -> None:
    """What does not go by norms serves layers that take the largest message, too."""
    assert len(edge_sets.kept(frozen("GraphSAGE max", method="random"))) == 2
