"""Neighbourhoods that are cut out of a graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gnnexport.errors import UnsupportedError
from gnnexport.program.neighbourhoods import Neighbourhoods, find_neighbourhoods
from gnnexport.program.program import Program, example_inputs
from tests.small_models import ATTRIBUTED, EDGE_WIDTH, WEIGHTED, WIDTH, inputs_of, split

NODES = 400
SEES_A_PART = ("GCN", "GCN weighted", "GCN batch norm", "GraphSAGE", "GraphSAGE max", "GraphSAGE normalised", "GIN",
               "GAT", "GAT edge features", "GATv2", "PNA", "Sequential", "two_structures", "residual")  # fmt: skip


def sparse_graph(names: tuple[str, ...] = ATTRIBUTED, seed: int = 0) -> dict[str, Tensor]:
    """Make a graph of about one edge for each node, so that few nodes see all of it."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        "x": torch.randn(NODES, WIDTH, generator=generator),
        "edge_index": torch.randint(0, NODES, (2, NODES), generator=generator),
    }
    if names == WEIGHTED:
        inputs["edge_weight"] = torch.rand(NODES, generator=generator) + 0.1
    elif names == ATTRIBUTED:
        inputs["edge_attr"] = torch.randn(NODES, EDGE_WIDTH, generator=generator)
    return inputs


def cut(name: str) -> tuple[Program, dict[str, Tensor], Neighbourhoods]:
    """Return a model's Program, a sparse graph, and what cuts it."""
    program = split(name)
    inputs = sparse_graph(tuple(item.name for item in inputs_of(name)))
    return program, inputs, find_neighbourhoods(program, inputs)


@pytest.mark.parametrize("name", SEES_A_PART)
def test_all_neighbours_give_the_rows_of_the_whole_graph(name: str) -> None:
    """Rows of the targets are those of the whole graph, normalised by its degrees, though most of it is left out."""
    program, inputs, neighbourhoods = cut(name)
    targets = torch.tensor([7, 3, 399, 0, 22])
    found = neighbourhoods.around(targets)
    assert found is not None
    assert len(targets) < len(found.nodes) < NODES / 2
    assert len(found.nodes.unique()) == len(found.nodes)
    with torch.no_grad():
        rows = program.run_body(found.inputs, found.structure)[: found.num_targets]
        torch.testing.assert_close(rows, program(inputs)[targets], rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_whole_graph() -> None:
    """A loss on some nodes pulls at the weights as it does on the whole graph."""
    program, inputs, neighbourhoods = cut("GAT")
    program = program.clone()
    targets = torch.tensor([5, 6, 300])
    found = neighbourhoods.around(targets)
    assert found is not None
    program(inputs)[targets].square().sum().backward()
    expected = [item.grad for item in program.body.parameters()]
    program.body.zero_grad(set_to_none=True)
    program.run_body(found.inputs, found.structure)[:3].square().sum().backward()
    for item, grad in zip(program.body.parameters(), expected, strict=True):
        torch.testing.assert_close(item.grad, grad, rtol=1e-4, atol=1e-5)


def test_draws_are_of_the_seed_and_at_most_as_many_as_asked() -> None:
    """The same seed draws the same neighbours, another one others, and no hop draws more than its share."""
    program = split("GraphSAGE")
    inputs = example_inputs(program.inputs, 60, 1)
    neighbourhoods = find_neighbourhoods(program, inputs)
    targets = torch.arange(10)
    one, same, other = (neighbourhoods.around(targets, (3, 2), seed) for seed in (0, 0, 1))
    assert one is not None
    assert same is not None
    assert other is not None
    assert torch.equal(one.nodes, same.nodes)
    assert not torch.equal(one.nodes, other.nodes)
    rowptr = one.structure[program.structure_names.index("rowptr_0")]
    assert int(rowptr.diff()[:10].max()) == 3
    assert int(rowptr.diff()[10:].max()) == 2
    assert one.num_slots == int(rowptr[-1])


def test_sums_over_draws_are_fair() -> None:
    """Weights of a GCN are scaled by neighbours over neighbours drawn: the mean over many draws is the whole sum."""
    program = split("GCN")
    inputs = example_inputs(program.inputs, 30, 1)
    neighbourhoods = find_neighbourhoods(program, inputs)
    hub = torch.tensor([0])
    name = next(iter(neighbourhoods.scaled))
    place = program.structure_names.index(name)
    whole = neighbourhoods.around(hub, (1000,))
    assert whole is not None
    degree = int(whole.structure[program.structure_names.index("rowptr_0")][1])
    sums = []
    for seed in range(3000):
        drawn = neighbourhoods.around(hub, (4,), seed)
        assert drawn is not None
        sums.append(float(drawn.structure[place][:4].sum()))
    assert sum(sums) / len(sums) == pytest.approx(float(whole.structure[place][:degree].sum()), rel=0.02)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("GIN", "takes the sum over its neighbours"), ("multiplied", "takes the prod"), ("GAT", None), ("PNA", None)],
)
def test_reductions_that_draws_would_change(name: str, reason: str | None) -> None:
    """Means, largest values and attention may be taken over some neighbours, plain sums and products may not."""
    _, _, neighbourhoods = cut(name)
    if reason is None:
        assert neighbourhoods.sampling is None
    else:
        assert reason in str(neighbourhoods.sampling)


def test_what_does_not_fit_is_not_made() -> None:
    """The question is asked before each hop, with the nodes and slots there would be."""
    _, _, neighbourhoods = cut("GraphSAGE")
    asked: list[tuple[int, int]] = []

    def fits(nodes: int, slots: int) -> bool:
        asked.append((nodes, slots))
        return len(asked) < 2

    assert neighbourhoods.around(torch.arange(50), fits=fits) is None
    assert len(asked) == 2
    assert asked[0][0] == 50 < asked[1][0]
    assert asked[0][1] < asked[1][1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("GCN graph layer norm", r"norms\.0 \(LayerNorm\) computes a row from all rows"),
     ("stacked", "neither a value of each node nor of each edge")],
)  # fmt: skip
def test_rows_that_depend_on_everything(name: str, reason: str) -> None:
    """A Program whose rows depend on more than neighbours is refused, with the module."""
    with pytest.raises(UnsupportedError, match=reason):
        cut(name)
