from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch_geometric.nn import APPNP, GCN, SAGEConv

from gnnexport.errors import UnsupportedError
from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import CANONICAL, FINAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.cut import narrowest_cut
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.run_stages import known_of, run_stages
from gnnexport.program.stage_bodies import StageProgram, write_stages
from gnnexport.program.stages import check_stages, cut_program
from tests.small_models import BUILDERS, WIDTH, inputs_of, run, split

REFUSED = {
    "GCN batch norm of the batch": "norms.0.module (BatchNorm1d) computes a row from all rows",
    "GCN graph layer norm": "norms.0 (LayerNorm) computes a row from all rows",
    "Sequential": "2 different structures",
    "two_structures": "2 different structures",
    "masked": "neither a value of each node nor of each edge",
    "narrow_index": "neither a value of each node nor of each edge",
    "stacked": "neither a value of each node nor of each edge",
    "stacked_max": "computes a row from all rows",
    "sorted_channels": "neither a value of each node nor of each edge",
}
"""Models whose rows depend on more than their neighbourhood, and the words that say so."""


@cache
def finished(name: str) -> Program:
    """Bring a model into the form that is cut."""
    return run_passes(split(name), FINAL, PassContext(mode="batched")).program


def program_of(model: nn.Module) -> Program:
    """Capture a model of plain inputs and bring it into the form that is cut."""
    inputs = inputs_of("GCN")
    captured = capture(model.eval(), inputs, example_inputs(inputs))
    ctx = PassContext(mode="batched")
    return run_passes(run_passes(captured, CANONICAL, ctx).program, FINAL, ctx).program


def stages_of(program: Program) -> list[StageProgram]:
    """Cut a Program and write its stages."""
    return write_stages(cut_program(program))


@pytest.mark.parametrize("name", sorted(set(BUILDERS) - set(REFUSED)))
@settings(max_examples=5, deadline=None)
@given(count=st.integers(2, 24), seed=st.integers(0, 99), asked=st.lists(st.integers(0, 1), min_size=1, max_size=5))
def test_stages_give_the_rows_of_the_program(name: str, count: int, seed: int, asked: list[int]) -> None:
    """Stage after stage on blocks gives for some nodes what the whole Program gives, to the last digits."""
    program = finished(name)
    graph = program.example(count, seed)
    cut = cut_program(program)
    targets = torch.tensor([count - 1, 0, *asked])
    answer = run_stages(write_stages(cut), known_of(cut, program, graph), targets)
    torch.testing.assert_close(answer, run(program, graph)[targets], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_depends_on_all_nodes_is_refused(name: str) -> None:
    """The refusal names the module, or what the graph would have to be."""
    (problem,) = check_stages(finished(name))
    assert REFUSED[name] in problem.what
    assert "--mode" in problem.mend
    with pytest.raises(UnsupportedError, match="mode batched"):
        cut_program(finished(name))


def test_a_model_without_neighbours_is_refused() -> None:
    """What no edge matters to has no stages."""
    program = finished("GCN").clone()
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(torch.ops.aten.relu.default, (x,)))
    program.body = fx.GraphModule(program.body, graph)
    program.prepare = fx.GraphModule(nn.Module(), _nothing())
    (problem,) = check_stages(program)
    assert "does not depend on neighbours" in problem.what


def _nothing() -> fx.Graph:
    graph = fx.Graph()
    graph.output(())
    return graph


def test_jumping_knowledge_reads_earlier_records_of_the_targets_alone() -> None:
    """The last stage takes the first layer's rows for the targets, not for their neighbours."""
    last = stages_of(program_of(GCN(WIDTH, 32, 3, 3, jk="cat")))[-1]
    read = {item.value: item.part for item in last.inputs if item.part in ("source", "target")}
    assert read["stage-1"] == "target"
    assert len(cut_program(program_of(GCN(WIDTH, 32, 3, 3, jk="cat"))).records) == 3


def test_rows_that_every_step_returns_to_are_computed_once() -> None:
    """APPNP mixes its first rows into every step: they are a stage of their own, which reads no neighbours."""

    class Propagated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin, self.steps = nn.Linear(WIDTH, 3), APPNP(3, 0.1)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.steps(self.lin(x).relu(), edge_index)

    stages = stages_of(program_of(Propagated()))
    assert [stage.depth for stage in stages] == [0, 1, 2, 3]
    assert stages[0].structure is None
    assert {item.value for item in stages[-1].inputs if item.part == "target"} == {"stage-0"}


def test_columns_that_neighbours_are_read_by_are_a_table_of_their_own() -> None:
    """A pruned neighbour branch reads its columns from a table; the branch of the node itself reads them all."""

    class Pruned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.tensor([0, 2, 5]))
            self.neighbours, self.own = SAGEConv(3, 8, root_weight=False), nn.Linear(WIDTH, 8)
            self.last = SAGEConv(8, 3)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            h = self.neighbours(x.index_select(1, self.kept), edge_index) + self.own(x)
            return self.last(h.relu(), edge_index)

    cut = cut_program(program_of(Pruned()))
    assert [table.columns for table in cut.tables] == [None, (0, 2, 5)]
    first = write_stages(cut)[0]
    assert {item.part: item.value for item in first.inputs if item.value} == {
        "source": "features-1",
        "target": "features",
    }
    assert first.direct


@pytest.mark.parametrize(
    ("name", "fair"), [("GraphSAGE", True), ("GraphSAGE max", True), ("GCN", True), ("GAT", True), ("GIN", False)]
)
def test_sums_of_drawn_neighbours_are_refused_where_nothing_scales_them(name: str, fair: bool) -> None:
    """Means, largest values and softmaxes need nothing, weights of the graph are scaled; a plain sum is too small."""
    stages = [stage for stage in stages_of(finished(name)) if stage.depth]
    assert all((stage.sampling is None) is fair for stage in stages)
    assert all(stage.scaled == ({"weight_0"} if name == "GCN" else frozenset()) for stage in stages)


def test_narrowest_cut_prefers_few_values_late() -> None:
    """Of cuts of one width, the one of fewest values, nearest to what reads them."""
    graph = fx.Graph()
    made = graph.placeholder("made")
    late = graph.call_function(torch.relu, (made,))
    halves = [graph.call_function(torch.neg, (late,)), graph.call_function(torch.abs, (late,))]
    reads = {made: [], late: [made], halves[0]: [late], halves[1]: [late]}
    assert narrowest_cut({made: 8, late: 8, halves[0]: 4, halves[1]: 4}, reads, [made], halves) == [late]
    assert narrowest_cut({made: 8, late: 8, halves[0]: 3, halves[1]: 4}, reads, [made], halves) == halves


def test_narrowest_cut_of_values_that_cannot_be_kept_and_very_wide_ones() -> None:
    """What cannot be kept never is, however wide the rest; sums of widths beyond 32 bits are no matter."""
    graph = fx.Graph()
    made = graph.placeholder("made")
    several, late = graph.call_function(torch.split, (made, 1)), graph.call_function(torch.relu, (made,))
    reads = {made: [], several: [made], late: [several]}
    assert narrowest_cut({made: 2, several: None, late: 1 << 30}, reads, [made], [late]) == [made]
    assert narrowest_cut({made: 1 << 31, several: None, late: 1 << 30}, reads, [made], [late]) == [late]


def test_a_deep_model_of_gates_is_cut() -> None:
    """Many ops with several results between two steps are no obstacle."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = SAGEConv(WIDTH, 4), SAGEConv(4, 3)
            self.gates = nn.ModuleList(nn.Linear(4, 8) for _ in range(20))

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            x = self.first(x, edge_index)
            for gate in self.gates:
                value, share = gate(x).chunk(2, -1)
                x = value * share.sigmoid()
            return self.last(x, edge_index)

    assert [stage.depth for stage in stages_of(program_of(Gated()))] == [1, 2]
