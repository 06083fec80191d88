"""What each scheme of channel pruning takes from the paper's model, and which budget it meets."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.paper_sage import PaperSage
from gnnexport.passes.contract import PassContext
from gnnexport.passes.order_propagation import OrderPropagation
from gnnexport.passes.prune_channels import PruneChannels
from gnnexport.pipeline.steps import CANONICAL, finalise, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.cost import measure_cost
from gnnexport.program.data import GraphData
from gnnexport.program.inputs import NUM_EDGES, NUM_NODES, Input, Role
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.verify import verify
from gnnexport.training.trainer import History
from tests.small_models import ops, run, split

FEATURES, HIDDEN, CLASSES, NODES = 40, 16, 3, 300
INPUTS = (
    Input("x", Role.NODE_FEATURES, "float32", (NUM_NODES, FEATURES)),
    Input("edge_index", Role.EDGE_INDEX, "int64", (2, NUM_EDGES)),
)


@cache
def graph() -> GraphData:
    """Make a random graph whose features lie near a space of few dimensions."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(NODES, 12, generator=generator) @ torch.randn(12, FEATURES, generator=generator)
    edges = torch.randint(0, NODES, (2, 4 * NODES), generator=generator)
    return GraphData("random", {"x": x, "edge_index": edges})


def program_of(model: nn.Module) -> Program:
    """Capture and simplify a model."""
    captured = capture(model.eval(), INPUTS, example_inputs(INPUTS))
    return run_passes(captured, CANONICAL, PassContext()).program


@cache
def paper(hidden: int = HIDDEN) -> Program:
    """Capture the paper's model; nobody may change the result."""
    torch.manual_seed(3)
    return program_of(PaperSage(FEATURES, CLASSES, hidden))


def prune(item: PruneChannels, program: Program, **more: Any) -> tuple[Program, list[str]]:
    """Run the pass; return the result and its notes."""
    notes: list[str] = []
    ctx = replace(PassContext(data=graph(), note=notes.append), **more)
    assert item.check(program, ctx) == []
    after = item.run(program, ctx)
    assert verify(after) == []
    final = finalise(after, graph()).program
    torch.testing.assert_close(run(final, graph().inputs), run(after, graph().inputs), rtol=1e-3, atol=1e-4)
    return after, notes


def widths(program: Program) -> dict[str, tuple[int, ...]]:
    """Return the shapes of matrices and the sizes of norms by name."""
    return {
        name.removesuffix(".weight").replace(".linear", ""): tuple(value.shape)
        for name, value in program.body.named_parameters()
        if name.endswith("weight")
    }


def lost(program: Program, item: PruneChannels) -> float:
    """Return the share of the output that pruning changes."""
    before, after = run(program, graph().inputs), run(prune(item, program)[0], graph().inputs)
    return float((after - before).norm() / before.norm())


def test_full_inference_shrinks_every_hidden_value() -> None:
    """Both layers and the classifier lose half of what they read, raw features stay, and norms have the new sizes."""
    after, notes = prune(PruneChannels(keep=0.5, multiple=1, retrain=False), paper())
    found = widths(after)
    first = found["first.own"][0] + found["first.neighbours"][0]
    second = found["second.own"][0] + found["second.neighbours"][0]
    assert (first, second) == (HIDDEN, HIDDEN)
    assert found["first.own"][1] == found["first.neighbours"][1] == FEATURES
    assert found["second.own"][1] == found["second.neighbours"][1] == first
    assert found["classifier"] == (CLASSES, second)
    assert all(found[f"{name}.norm"] == found[name][:1] for name in ("first.own", "second.neighbours"))
    assert notes[0].startswith("32 channels from second.own.linear (Linear), second.neighbours.linear (Linear) to")


def test_segments_of_a_concatenation_are_multiples() -> None:
    """Each branch keeps a multiple of a vector, whatever the other does."""
    after, _ = prune(PruneChannels(keep=0.5, multiple=4, retrain=False), paper())
    found = widths(after)
    assert all(found[name][0] % 4 == 0 for name in ("first.own", "first.neighbours", "second.own"))


@pytest.mark.parametrize("reorder", [False, True])
def test_batched_inference_reads_fewer_columns_of_neighbours(reorder: bool) -> None:
    """The neighbour branch of the first layer reads selected columns; self branch and classifier stay whole."""
    before = paper()
    if reorder:
        before = OrderPropagation(margin=1.0).run(before, PassContext())
    after, notes = prune(PruneChannels(keep=0.5, multiple=1, scheme="batched", retrain=False), before)
    found = widths(after)
    assert found["first.own"][1] == FEATURES
    assert found["first.neighbours"][1] == FEATURES // 2
    assert found["first.own"][0] + found["first.neighbours"][0] == HIDDEN
    assert found["classifier"] == (CLASSES, 2 * HIDDEN)
    assert ops(after).count("aten.index_select") == 1
    (columns,) = [value for name, value in after.body.named_buffers() if name.startswith("columns")]
    assert columns.dtype == torch.int64
    assert columns.tolist() == sorted(set(columns.tolist()))
    assert any("only the nodes asked for have them" in note for note in notes)


def test_scheme_follows_the_deployment() -> None:
    """Without a scheme, `batched` deployment prunes for batched inference."""
    after, _ = prune(PruneChannels(keep=0.5, multiple=1, retrain=False), paper(), mode="batched")
    assert widths(after)["first.neighbours"][1] == FEATURES // 2


def test_a_first_layer_keeps_as_many_columns_as_it_makes_channels() -> None:
    """Fewer inputs than outputs would leave outputs that depend on each other: the guard of the paper."""
    after, _ = prune(PruneChannels(keep=0.5, multiple=1, scheme="batched", retrain=False), paper(64))
    made, read = widths(after)["first.neighbours"]
    assert FEATURES * 0.5 < made == read < FEATURES


def test_dead_columns_go_first() -> None:
    """Columns that are zero everywhere go, and the answers stay."""
    x = graph().inputs["x"].clone()
    x[:, ::2] = 0
    data = replace(graph(), inputs={**graph().inputs, "x": x})
    program = split_gcn()
    notes: list[str] = []
    item = PruneChannels(keep=0.5, multiple=1, scheme="batched", retrain=False)
    after = item.run(program, PassContext(data=data, note=notes.append))
    (columns,) = [value for name, value in after.body.named_buffers() if name.startswith("columns")]
    assert columns.tolist() == list(range(1, FEATURES, 2))


def split_gcn() -> Program:
    """Capture a GCN with more features than channels."""
    from torch_geometric.nn import GCN

    torch.manual_seed(4)
    return program_of(GCN(FEATURES, 8, 2, CLASSES))


def test_all_of_a_graph_convolution_reads_the_selection() -> None:
    """Without a self branch, what nodes read of themselves shrinks with what they read of others."""
    after, _ = prune(PruneChannels(keep=0.5, multiple=1, scheme="batched", retrain=False), split_gcn())
    assert widths(after)["convs.0.lin"] == (4, FEATURES // 2)


def test_everything_kept_changes_no_bit() -> None:
    """keep=1 leaves answers bit for bit as they were in either scheme."""
    for scheme in ("full", "batched"):
        after, notes = prune(PruneChannels(keep=1, scheme=scheme), paper())
        assert torch.equal(run(after, graph().inputs), run(paper(), graph().inputs))
        assert notes == ["keep=1: nothing to prune"]


def test_readers_are_fitted_to_rows_of_the_new_length() -> None:
    """Rows are divided by their norm, which falls with the channels: the classifier learns the new scale."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(FEATURES, 8)
            self.last = nn.Linear(16, CLASSES)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            h = x + 0 * torch.zeros(x.size(0), FEATURES).index_add(0, edge_index[1], x[edge_index[0]])
            h = self.first(h)
            out: Tensor = self.last(nn.functional.normalize(torch.cat([h.relu(), (-h).relu()], 1)))
            return out

    torch.manual_seed(5)
    model = Twice()
    # Channels 4 to 7 repeat channels 0 to 3: without them every row is shorter by the square root of two.
    model.first.weight.data[4:] = model.first.weight.data[:4]
    model.first.bias.data[4:] = model.first.bias.data[:4]
    program = program_of(model)
    assert lost(program, PruneChannels(keep=0.5, multiple=1, retrain=False)) < 1e-3
    assert lost(program, PruneChannels(keep=0.5, multiple=1, retrain=False, refit=False)) > 0.1


def test_lasso_loses_least() -> None:
    """Before retraining, channels chosen by LASSO change the answers less than random ones; so does refitting."""
    options: dict[str, Any] = {"keep": 0.25, "multiple": 1, "retrain": False}
    lasso, drawn = (lost(paper(), PruneChannels(select=how, **options)) for how in ("lasso", "random"))
    assert lasso < drawn
    assert lasso < lost(paper(), PruneChannels(refit=False, **options))
    assert lost(paper(), PruneChannels(select="magnitude", **options)) < 1


@pytest.mark.parametrize("scheme", ["full", "batched"])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_a_budget_of_work_is_met(share: float, scheme: Any) -> None:
    """What is left of the multiply-accumulates is within two percent of what was asked for."""
    item = PruneChannels(macs=share, multiple=1, scheme=scheme, retrain=False)
    after, notes = prune(item, paper(32))
    left = measure_cost(after, graph().inputs).macs() / measure_cost(paper(32), graph().inputs).macs()
    assert left == pytest.approx(share, rel=0.02)
    assert any(note == f"{left:.3f} of multiply-accumulates left, {share:g} asked for" for note in notes)


def test_a_budget_out_of_reach_is_told() -> None:
    """Where every width is one vector already, the note says that no more can go."""
    _, notes = prune(PruneChannels(macs=0.01, multiple=8, retrain=False), paper())
    assert any(note.endswith("0.01 asked for: no more can go") for note in notes)


def test_a_budget_of_latency_is_measured() -> None:
    """The target measures a few smaller Programs, and the one nearest to the share is made."""
    measured: list[float] = []

    def latency(program: Program) -> float:
        measured.append(5.0 + measure_cost(program, graph().inputs).macs() / 1e5)
        return measured[-1]

    after, notes = prune(PruneChannels(latency=0.7, multiple=1, retrain=False), paper(), latency=latency)
    assert latency(after) / measured[0] == pytest.approx(0.7, abs=0.02)
    assert len(measured) < 15
    assert any("of the latency left, 0.7 asked for" in note for note in notes)


def test_latency_without_a_target_is_refused() -> None:
    """Where the target does not run, a budget of latency names another one."""
    (problem,) = PruneChannels(latency=0.5).check(paper(), PassContext(data=graph()))
    assert "the target does not run on this machine. Use macs=0.5" in str(problem)


def test_budgets_exclude_each_other() -> None:
    """Two budgets at once are an error, and without any half of the channels stay."""
    with pytest.raises(ValueError, match="keep and macs exclude each other"):
        PruneChannels(keep=0.5, macs=0.25)
    with pytest.raises(ValueError, match="macs must be in"):
        PruneChannels(macs=1.5)
    with pytest.raises(ValueError, match="distil must be in"):
        PruneChannels(distil=2)
    assert PruneChannels().keep == 0.5


@pytest.mark.parametrize("name", ["GAT", "GATv2", "GAT edge features"])
def test_heads_shrink_inside_or_go(name: str) -> None:
    """Channels inside heads go, equally many of each; or one of two heads goes with its attention."""
    from tests.passes.test_prune_channels import data

    for heads, expected in (("inside", (1, 2, 4)), ("whole", (1, 1, 8))):
        item = PruneChannels(keep=0.5, multiple=1, heads=heads, retrain=False)
        after = item.run(split(name), PassContext(data=data()))
        assert verify(after) == []
        attention = [value for key, value in after.body.named_parameters() if key.startswith("convs.0.att")]
        assert {tuple(value.shape) for value in attention if value.shape[1:] != (2, 8)} == {expected}
        assert run(after, data().inputs).isfinite().all()


class Recorder:
    """Stands for a trainer and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.task = type("Task", (), {"metric": "accuracy"})

    def fit(self, program: Program, **options: Any) -> tuple[Program, History]:
        """Return the Program as it is."""
        self.asked = options
        return program, History(0, [0.5])


def test_distillation_learns_from_the_unpruned_model() -> None:
    """With a share for it, the trainer gets the Program as it was given; without, it gets no teacher."""
    trainer = Recorder()
    prune(PruneChannels(keep=0.5, distil=0.7), paper(), trainer=trainer)
    assert trainer.asked["distil"] == 0.7
    assert torch.equal(run(trainer.asked["teacher"], graph().inputs), run(paper(), graph().inputs))
    prune(PruneChannels(keep=0.5), paper(), trainer=trainer)
    assert "teacher" not in trainer.asked
