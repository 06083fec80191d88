from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch_geometric.nn import GCN

from gnnexport.errors import UnsupportedError
from gnnexport.passes.a2q import A2Q
from gnnexport.passes.contract import PassContext
from gnnexport.passes.order_propagation import OrderPropagation
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.containers import CONTAINERS
from gnnexport.program.data import GraphData
from gnnexport.program.graphs import args_of, parameter_of
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.quantised import quantisers
from gnnexport.program.verify import verify
from gnnexport.training.quantisation.learning import counted_widths
from gnnexport.training.quantisation.widths import feature_bytes, learned_widths, mean_bits
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.passes.test_prune_channels import data
from tests.small_models import CLASSES, WIDTH, inputs_of, run, split

NAMES = ["GCN", "GCN batch norm", "GCN jumping knowledge", "GraphSAGE", "GIN", "GAT", "GATv2", "residual"]


def ordered(name: str) -> Program:
    """Return a model after the canonical passes."""
    return OrderPropagation().run(split(name), PassContext())


def quantise(item: A2Q, program: Program, *, epochs: int | None = 1, on: GraphData | None = None,
             mode: str = "full") -> tuple[Program, list[str]]:  # fmt: skip
    """Run the pass; return the result, annotated, and its notes."""
    notes: list[str] = []
    given = on or data()
    trainer = None if epochs is None else Trainer(given, Task(epochs=epochs))
    ctx = PassContext(data=given.hide("test"), trainer=trainer, mode=mode, note=notes.append)  # type: ignore[arg-type]
    assert item.check(program, ctx) == []
    after = item.run(program, ctx)
    assert verify(after) == []
    after.annotate()
    return after, notes


@pytest.mark.parametrize("name", NAMES)
def test_every_model_comes_down_to_the_target(name: str) -> None:
    """Hidden features take containers only and no more than the target on average; the Program given is left."""
    before = ordered(name)
    expected = run(before, data().inputs)
    after, notes = quantise(A2Q(bits=2), before)
    maps = learned_widths(after)
    assert maps
    assert mean_bits(maps) <= 2 + 1e-6
    assert {float(bit) for item in maps for bit in item.quantiser.bits} <= {1, 2, 4, 8}
    assert any(note.startswith("chosen by validation") for note in notes)
    assert run(after, data().inputs).isfinite().all()
    assert torch.equal(run(before, data().inputs), expected)


def test_weights_lie_on_their_levels() -> None:
    """Weights are stored as what they are rounded to, and nothing is left to be trained in steps and widths."""
    after, _ = quantise(A2Q(bits=2), ordered("GCN"))
    weights = [item for item in quantisers(after) if item.what == "weight"]
    assert len(weights) == 2
    for item in weights:
        value = parameter_of(after.body, args_of(item.node)[0])
        assert value is not None
        assert torch.equal(torch.ops.gnn.quantize_rows(value, item.step, item.bits, True, False), value)
        assert len(value.unique(dim=None)) <= 15 * len(value)
        assert not item.step.requires_grad
        assert not item.bits.requires_grad


def test_the_same_seed_gives_the_same_model() -> None:
    """All random choices follow the seed."""
    one, other = (quantise(A2Q(bits=2), ordered("GCN batch norm"), epochs=2)[0] for _ in range(2))
    assert all(torch.equal(one.state_dict()[key], value) for key, value in other.state_dict().items())


def test_memory_is_met() -> None:
    """A target in bytes is met with steps, codes and places counted."""
    after, notes = quantise(A2Q(memory=500), ordered("GCN"))
    assert feature_bytes(learned_widths(after)) <= 500
    assert any("bytes" in note for note in notes)


def test_too_little_memory_is_refused() -> None:
    """Steps and codes alone take more than some targets."""
    with pytest.raises(UnsupportedError, match="the target cannot be met"):
        quantise(A2Q(memory=100), ordered("GCN"))


@pytest.mark.parametrize(("widths", "groups"), [("error", 1000), ("degree", 1000)])
def test_widths_can_be_given(widths: str, groups: int) -> None:
    """Widths by error or in-degree stand through training."""
    after, notes = quantise(A2Q(bits=1.5, widths=widths, groups=groups), ordered("GCN"))  # type: ignore[arg-type]
    assert mean_bits(learned_widths(after)) <= 1.5 + 1e-6
    assert any(f"widths by {widths}" in note for note in notes)


@pytest.mark.parametrize("epochs", [None, 1])
def test_widths_by_degree_need_no_training(epochs: int | None) -> None:
    """Without labels, and without epochs, widths asked for by in-degree are not those by error."""
    given = data() if epochs else replace(data(), y=None, masks={})
    after, _ = quantise(A2Q(bits=1.5, widths="degree", epochs=0), ordered("GCN"), epochs=epochs, on=given)
    (item,) = learned_widths(after)
    degrees = torch.bincount(data().inputs["edge_index"][1], minlength=len(item.bits))
    assert item.bits.unique().tolist() == [1, 2]
    assert int(degrees[item.bits == 2].min()) >= int(degrees[item.bits == 1].max())


@pytest.mark.parametrize("widths", ["learned", "error", "degree"])
def test_without_hidden_features_no_width_is_claimed(widths: str) -> None:
    """One layer reads nothing but features: weights and sums are rounded, and the notes tell no average."""
    given = inputs_of("GCN")
    model = GCN(WIDTH, CLASSES, num_layers=1).eval()
    program = run_passes(capture(model, given, example_inputs(given)), CANONICAL, PassContext()).program
    after, notes = quantise(A2Q(bits=2, widths=widths), program)  # type: ignore[arg-type]
    assert {item.what for item in quantisers(after)} == {"weight", "sum"}
    assert any("no hidden features" in note for note in notes)
    assert not any("0.00" in note.replace("validation 0.00", "") for note in notes)


def test_a_target_that_signs_forbid_is_refused() -> None:
    """Rows that may be negative take two bits at least, and the message says so."""
    with pytest.raises(UnsupportedError, match="rows that may be negative take 2 bits"):
        quantise(A2Q(bits=1.5), ordered("zeros_like"))
    with pytest.raises(UnsupportedError, match="one bit and a sign leave nothing"):
        quantise(A2Q(bits=2, containers=(1,)), ordered("zeros_like"))


def test_features_take_a_container() -> None:
    """No width is learned for features, so that theirs is one that is stored."""
    after, _ = quantise(A2Q(bits=2.5, inputs="rows"), ordered("GraphSAGE"))
    assert {float(item.bits.max()) for item in quantisers(after) if item.raw and item.what == "input"} == {8}


def test_without_labels_it_is_calibrated() -> None:
    """Steps and widths come from the features; nothing is trained, and the note says so."""
    after, notes = quantise(A2Q(bits=2), ordered("GCN"), epochs=None, on=replace(data(), y=None, masks={}))
    assert mean_bits(learned_widths(after)) <= 2
    assert notes[0].startswith("not trained: without labels")


def test_other_modes_take_the_nearest_group() -> None:
    """Where nodes are not known beforehand, rows find their group by magnitude."""
    after, _ = quantise(A2Q(bits=4, groups=20), ordered("GIN"), mode="graphs")
    by = {item.by for item in quantisers(after) if item.what == "input" and not item.raw}
    assert by == {"nearest"}
    assert all(len(item.step) <= 20 for item in quantisers(after) if item.by == "nearest")
    problems = A2Q(assign="node").check(ordered("GIN"), PassContext(data=data(), mode="graphs"))
    assert "Use assign=nearest" in str(problems[0])


@pytest.mark.parametrize("epochs", [0, 3])
def test_groups_meet_the_target_on_their_rows(epochs: int) -> None:
    """Narrower groups change what later layers read, whose rows take other groups: those rows count."""
    program = ordered("GIN")
    after, _ = quantise(A2Q(bits=3, groups=20, assign="nearest", epochs=epochs), program)
    feed = Trainer(data(), Task()).feed(after)
    maps = counted_widths(after, feed, CONTAINERS)
    assert len(maps) == 3
    assert 2 < mean_bits(maps) <= 3 + 1e-6


def test_the_smallest_containers_are_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where snapping does not come to the target, the target is met all the same."""
    monkeypatch.setattr("gnnexport.training.quantisation.recipe.MOST_ROUNDS", 0)
    after, _ = quantise(A2Q(bits=3, groups=20, assign="nearest", epochs=0), ordered("GCN"))
    assert mean_bits(learned_widths(after)) == 1


def test_a_set_of_graphs_learns_groups() -> None:
    """Sets of graphs are trained with the task's gradient on groups."""
    from tests.targets.requests import graph_program
    from tests.unit.training.test_sets import graph_set

    after, _ = quantise(A2Q(bits=3, groups=8), graph_program("sum"), on=graph_set(), mode="graphs")
    assert {item.local for item in quantisers(after)} == {False}


@pytest.mark.parametrize(("inputs", "bits"), [("none", None), ("exact", 1.0), ("rows", 4.0)])
def test_features(inputs: str, bits: float | None) -> None:
    """Features stay, or are rounded where that changes none, or are rounded in any case."""
    words = {**data().inputs, "x": (data().inputs["x"] > 0).float() * 0.5}
    given = replace(data(), inputs=words)
    after, _ = quantise(A2Q(bits=2, inputs=inputs), ordered("GraphSAGE"), on=given)  # type: ignore[arg-type]
    raw = [item for item in quantisers(after) if item.raw and item.what == "input"]
    if bits is None:
        assert raw == []
        return
    assert float(raw[0].bits.detach().max()) == bits
    if inputs == "exact":
        x = words["x"]
        assert len(raw) == 1
        assert torch.equal(torch.ops.gnn.quantize_rows(x, raw[0].step, raw[0].bits, raw[0].signed, False), x)


def test_features_that_are_not_exact_stay() -> None:
    """A note says so."""
    after, notes = quantise(A2Q(bits=2, inputs="exact"), ordered("GraphSAGE"))
    assert not any(item.raw for item in quantisers(after) if item.what == "input")
    assert any("not every row is exactly representable" in note for note in notes)


@pytest.mark.parametrize("gradient", ["local", "task"])
def test_gradient(gradient: str) -> None:
    """Features learn from their own error or from the loss; weights always from the loss."""
    after, _ = quantise(A2Q(bits=2, gradient=gradient), ordered("GCN"))  # type: ignore[arg-type]
    assert {item.local for item in quantisers(after) if item.what == "input"} == {gradient == "local"}
    assert {item.local for item in quantisers(after) if item.what == "weight"} == {False}


def test_distilled() -> None:
    """Training may follow the answers of the model as it was."""
    after, _ = quantise(A2Q(bits=2, distil=0.5), ordered("GCN"), epochs=2)
    assert mean_bits(learned_widths(after)) <= 2


def test_small_batches_take_groups() -> None:
    """Where a step on the whole graph does not fit, tables of nodes are of no use, and the note says so."""
    notes: list[str] = []
    trainer = Trainer(data(), Task(epochs=1), memory_bytes=40_000)
    ctx = PassContext(data=data().hide("test"), trainer=trainer, note=notes.append)
    after = A2Q(bits=2, groups=8).run(ordered("GraphSAGE"), ctx)
    after.annotate()
    assert notes[0].startswith("assign=nearest: trained in mini-batches")
    assert {item.by for item in quantisers(after) if item.what == "input"} == {"nearest"}


def test_what_is_quantised_already_is_refused() -> None:
    """A second quantising pass has nothing to do."""
    after, _ = quantise(A2Q(bits=2, epochs=0), ordered("GCN"))
    problems = A2Q().check(after, PassContext(data=data()))
    assert "quantised already" in str(problems[0])


@pytest.mark.parametrize(
    "options",
    [{"bits": 0.5}, {"bits": 2, "memory": 5}, {"memory": 0}, {"weight_bits": 1}, {"score_bits": 1}, {"start": 9},
     {"containers": (3,)}, {"groups": 0}, {"penalty": -1}, {"lr": 0}, {"distil": 2}, {"epochs": -1},
     {"groups": 5, "assign": "node"}, {"penalty": 2, "widths": "error"}, {"start": 4, "widths": "degree"}],
)  # fmt: skip
def test_senseless_options_are_errors(options: dict[str, float]) -> None:
    """Options out of range, or without effect beside the others, are refused when the pass is made."""
    with pytest.raises(ValueError, match=r"bits|memory|start|containers|groups|penalty|lr|distil|epochs"):
        A2Q(**options)  # type: ignore[arg-type]
