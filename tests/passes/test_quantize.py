from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gnnexport.passes.contract import PassContext
from gnnexport.passes.quantize import Quantize
from gnnexport.program.data import GraphData
from gnnexport.program.dialect import dynamic
from gnnexport.program.dialect.quantize import levels
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.quantised import quantisers
from gnnexport.program.simplify import drop_dead
from gnnexport.program.verify import verify
from gnnexport.training.plain_quantisation import chances, protect_nodes, unprotect
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.small_models import CLASSES, captured, inputs_of, ops, run, split

NODES = 60
INPUTS = example_inputs(inputs_of("GCN"), NODES)
PART = torch.arange(NODES) % 3
LABELLED = GraphData(
    "small",
    INPUTS,
    (torch.arange(NODES) // 3) % CLASSES,
    {name: index == PART for index, name in enumerate(("train", "val", "test"))},
)


def context(**options: object) -> PassContext:
    """Return a graph, a trainer of two epochs, and where notes go."""
    data = LABELLED.hide("test")
    return replace(PassContext(data=data, trainer=Trainer(data, Task(epochs=2))), **options)  # type: ignore[arg-type]


def quantised(name: str, ctx: PassContext | None = None, **options: object) -> Program:
    """Quantise a model and check that the result is well formed."""
    after = Quantize(**options).run(split(name), ctx or context())  # type: ignore[arg-type]
    assert verify(after) == []
    return after


def error(program: Program, name: str) -> float:
    """Return the largest difference from the model on the graph that was calibrated on, over its largest output."""
    before, after = run(split(name), INPUTS), run(program, INPUTS)
    return float((before - after).abs().max() / before.abs().max())


@pytest.mark.parametrize("name", ["GCN batch norm", "GAT", "GraphSAGE", "GIN"])
def test_eight_bits_are_close_and_fewer_are_further(name: str) -> None:
    """Error falls with the width, and at 8 bits it is small, with steps calibrated or taken at run time."""
    wide, narrow = error(quantised(name), name), error(quantised(name, bits=3), name)
    assert wide < 0.05 < narrow * 3
    assert wide < narrow
    assert error(quantised(name, mode="dynamic"), name) < 0.05


@pytest.mark.parametrize(
    ("per", "weight", "value", "summed"),
    [("tensor", 1, 1, 1), ("channel", 16, 1, 16), ("row", 16, NODES, 16)],
)
def test_what_shares_a_step(per: str, weight: int, value: int, summed: int) -> None:
    """One step for all; one for each channel and column; and one for each node in what linear maps read."""
    found = {item.name: item for item in quantisers(annotated(quantised("GraphSAGE", per=per)))}
    assert len(found["convs_0_lin_l_weight"].step) == weight
    hidden = [item for item in found.values() if item.what == "input" and item.width == 16]
    assert [len(item.step) for item in hidden] == [value, value]
    sums = [item for item in found.values() if item.what == "sum" and item.width == 16]
    assert [len(item.step) for item in sums] == [summed]
    assert all(item.by == "columns" for item in sums)


def annotated(program: Program) -> Program:
    """Record shapes."""
    program.annotate()
    return program


def test_values_that_cannot_be_negative_have_levels_above_zero_alone() -> None:
    """After ReLU all levels are used for what is there."""
    found = {item.name: item.signed for item in quantisers(annotated(quantised("GraphSAGE")))}
    assert found["convs_0_lin_l_weight"]
    assert not found["convs_1_lin_r_input"]


def test_steps_stay_in_training_and_weights_move() -> None:
    """Training changes weights and no step, keeps nothing of the protection, and tells both metrics."""
    notes: list[str] = []
    ctx = context(note=notes.append)
    before = quantised("GCN", bits=4, ctx=replace(ctx, note=lambda line: None))
    after = quantised("GCN", bits=4, train=True, protect=0.5, epochs=2, lr=0.05, ctx=ctx)
    assert "gnn.protect" not in ops(after)
    assert not any("protect" in name for name in after.state_dict())
    steps = [name for name in before.body.state_dict() if name.endswith(("_step", "_bits"))]
    assert steps
    assert all(torch.equal(before.body.state_dict()[name], after.body.state_dict()[name]) for name in steps)
    assert "as calibrated" in notes[-1]


def test_degrees_decide_on_protection() -> None:
    """The chance grows from the lowest in-degree there is to the highest; alike nodes have the least."""
    found = chances(torch.tensor([0, 1, 2, 4, 9]), 0.1, 0.5)
    assert found[1] == pytest.approx(0.1)
    assert found[5] == pytest.approx(0.5)
    assert bool((found.diff() >= 0).all())
    assert chances(torch.tensor([0, 2, 4]), 0.1, 0.5)[2] == pytest.approx(0.1)
    assert chances(torch.tensor([0]), 0.1, 0.5).tolist() == []


def test_protected_rows_are_those_of_float_in_training_alone() -> None:
    """With a chance of one nothing is rounded in training, except weights; out of it everything is."""
    program = annotated(quantised("GraphSAGE", bits=2, per="tensor"))
    inference = run(program, INPUTS)
    assert protect_nodes(program, INPUTS, 1.0, 1.0) > 2
    assert verify(program) == []
    assert torch.equal(run(program, INPUTS), inference)
    whole = run(program.train(True), INPUTS)
    program.train(False)
    assert not torch.equal(whole, inference)
    for node in program.body.graph.nodes:
        if str(node.target).startswith("gnn.quantize") and node.args[0].op != "get_attr":
            node.replace_all_uses_with(node.args[0])
    program.body.recompile()
    torch.testing.assert_close(run(program, INPUTS), whole)


def test_protection_goes_without_a_trace() -> None:
    """Taken out again, the Program is what it was."""
    program = annotated(quantised("GraphSAGE"))
    before = ops(program)
    protect_nodes(program, INPUTS, 0.0, 0.5)
    unprotect(program)
    assert ops(program) == before


def test_gradients_reach_either_side() -> None:
    """A row that was left alone hands its gradient to the value, any other to its rounding."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, requires_grad=True)
    rounded = torch.randn(4, 3, requires_grad=True)
    rowptr, chance = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0.0, 1.0])
    out, drawn = torch.ops.gnn.protect(x, rounded, rowptr, chance, True)
    out.sum().backward()
    assert drawn.flatten().tolist() == [0, 1, 0, 1]
    assert x.grad is not None
    assert rounded.grad is not None
    assert x.grad[:, 0].tolist() == [0, 1, 0, 1]
    assert rounded.grad[:, 0].tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("by", ["rows", "tensor"])
def test_dynamic_rounding_is_that_of_its_largest_magnitude(signed: bool, by: str) -> None:
    """Levels are those of the dialect with the step that makes the largest magnitude the largest level."""
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(3)) * torch.logspace(-3, 3, 7)[:, None]
    x[2] = 0
    x = x if signed else x.abs()
    step = dynamic.dynamic_step(x, 4, signed, by)
    top = 7 if signed else 15
    largest = x.abs().amax(1, keepdim=True) if by == "rows" else x.abs().max().view(1, 1)
    torch.testing.assert_close(step, (largest / top).clamp(min=1e-8))
    expected = levels(x, step, torch.tensor(4.0), signed) * step
    assert torch.equal(torch.ops.gnn.quantize_dynamic(x, 4, signed, by), expected)
    assert torch.ops.gnn.quantize_dynamic(x[:0], 4, signed, by).shape == (0, 5) or by == "tensor"
    given = x.clone().requires_grad_()
    torch.ops.gnn.quantize_dynamic(given, 4, signed, by).sum().backward()
    assert torch.equal(given.grad, torch.ones_like(x))


def test_dynamic_needs_no_data() -> None:
    """Without features the dynamic form is had, the static one refused."""
    assert Quantize(mode="dynamic").check(split("GCN"), PassContext()) == []
    after = Quantize(mode="dynamic").run(split("GCN"), PassContext())
    assert ops(after).count("gnn.quantize_dynamic") == 2
    assert "Give data" in str(Quantize().check(split("GCN"), PassContext())[0])


def test_what_is_refused() -> None:
    """Programs that are not split, quantised already, of many graphs, or without labels where it is to train."""
    assert "not split" in str(Quantize().check(captured("GCN"), context())[0])
    for options in ({}, {"mode": "dynamic"}):
        assert "quantised already" in str(Quantize().check(quantised("GCN", **options), context())[0])
    bare = split("GCN").clone()
    for node in list(bare.body.graph.nodes):
        if str(node.target) in ("aten.linear.default", "gnn.aggregate.default", "aten.add.Tensor"):
            node.replace_all_uses_with(node.args[0])
    drop_dead(bare.body.graph)
    bare.body.recompile()
    assert "finds nothing" in str(Quantize().check(bare, context())[0])
    assert "mode=dynamic" in str(Quantize(per="row").check(split("GCN"), context(mode="graphs"))[0])
    of_all = Quantize(mode="dynamic", per="tensor")
    assert not of_all.check(split("GCN"), context())
    for mode in ("graphs", "batched"):
        assert "Use per=row" in str(of_all.check(split("GCN"), context(mode=mode))[0])
    assert "needs labels" in str(Quantize(train=True).check(split("GCN"), context(trainer=None))[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 1}, "bits must be"),
        ({"mode": "dynamic", "per": "channel"}, "per=row"),
        ({"percentile": 10.0}, "percentile must be"),
        ({"percentile": 99.0}, "calibrate=minmax"),
        ({"protect": 0.1}, "Add train=true"),
        ({"epochs": 3}, "Add train=true"),
        ({"train": True, "protect": 0.1, "protect_least": 0.2}, "not above the second"),
        ({"train": True, "lr": -1.0}, "lr positive"),
    ],
)
def test_options_that_do_nothing_are_refused(options: dict[str, object], words: str) -> None:
    """An option out of range, or without effect beside the others, is a mistake that says how to mend it."""
    with pytest.raises(ValueError, match=words):
        Quantize(**options)  # type: ignore[arg-type]
