from __future__ import annotations

from typing import Literal

import pytest
import torch

from gnnexport.passes.contract import PassContext
from gnnexport.passes.order_propagation import OrderPropagation
from gnnexport.passes.prune_channels import PruneChannels
from gnnexport.passes.quantize import Quantize
from gnnexport.program.data import GraphData
from gnnexport.program.program import Program
from gnnexport.program.verify import verify
from gnnexport.training.budgets import round_up
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.small_models import CLASSES, EDGE_WIDTH, HIDDEN, WIDTH, run, split

NODES, EDGES = 60, 240


def data() -> GraphData:
    """Make a random graph with labels and masks."""
    generator = torch.Generator().manual_seed(1)
    share = torch.rand(NODES, generator=generator)
    return GraphData(
        "random",
        {
            "x": torch.randn(NODES, WIDTH, generator=generator),
            "edge_index": torch.randint(0, NODES, (2, EDGES), generator=generator),
            "edge_weight": torch.rand(EDGES, generator=generator) + 0.1,
            "edge_attr": torch.randn(EDGES, EDGE_WIDTH, generator=generator),
        },
        torch.randint(0, CLASSES, (NODES,), generator=generator),
        {"train": share < 0.5, "val": (share >= 0.5) & (share < 0.75), "test": share >= 0.75},
    )


def prune(item: PruneChannels, program: Program, *, train: bool = False) -> tuple[Program, list[str]]:
    """Run the pass; return the result and its notes."""
    notes: list[str] = []
    trainer = Trainer(data(), Task(epochs=2)) if train else None
    ctx = PassContext(data=data().hide("test"), trainer=trainer, note=notes.append)
    assert item.check(program, ctx) == []
    after = item.run(program, ctx)
    assert verify(after) == []
    return after, notes


def weight_shapes(program: Program) -> list[tuple[int, ...]]:
    """List the shapes of all matrices of the body."""
    return [tuple(value.shape) for value in program.body.parameters() if value.dim() == 2]


@pytest.mark.parametrize(
    "name",
    ["GCN", "GCN improved", "GCN batch norm", "GCN layer norm", "GCN graph layer norm", "GraphSAGE", "GraphSAGE max",
     "GraphSAGE project", "GIN", "Sequential", "residual"],
)  # fmt: skip
def test_hidden_values_shrink(name: str) -> None:
    """Hidden channels halve, inputs and outputs keep theirs, and the Program given keeps all."""
    before = split(name)
    expected = run(before, data().inputs)
    after, notes = prune(PruneChannels(keep=0.5, multiple=1), before, train=True)
    assert sum(map(torch.Size.numel, map(torch.Size, weight_shapes(after)))) < sum(
        map(torch.Size.numel, map(torch.Size, weight_shapes(before)))
    )
    assert run(after, data().inputs).shape == (NODES, CLASSES)
    assert any("kept " in note for note in notes)
    assert torch.equal(run(before, data().inputs), expected)


def test_all_layers_shrink_together() -> None:
    """Rows, biases, norms and columns of a hidden value lose the same channels."""
    after, _ = prune(PruneChannels(keep=0.5), split("GCN batch norm"))
    half = HIDDEN // 2
    assert sorted(weight_shapes(after)) == sorted([(half, WIDTH), (half, half), (CLASSES, half)])


def test_everything_kept_changes_no_bit() -> None:
    """keep=1 leaves outputs bit for bit as they were and does not retrain."""
    before = split("GraphSAGE")
    after, notes = prune(PruneChannels(keep=1.0), before, train=True)
    assert torch.equal(run(after, data().inputs), run(before, data().inputs))
    assert notes == ["keep=1: nothing to prune"]


def test_refit_recovers_a_dead_channel() -> None:
    """Channels that no reader uses go without changing the output."""
    program = split("GCN improved").clone()
    weights = {tuple(value.shape): value for value in program.body.parameters()}
    weights[CLASSES, HIDDEN].data[:, HIDDEN // 2 :] = 0
    after, _ = prune(PruneChannels(keep=0.5, retrain=False), program)
    torch.testing.assert_close(run(after, data().inputs), run(program, data().inputs), rtol=1e-3, atol=1e-4)


def test_pruned_after_reordering() -> None:
    """Layers whose product comes before the sum are fitted to what the sum sees."""
    ordered = OrderPropagation().run(split("GraphSAGE"), PassContext())
    after, _ = prune(PruneChannels(keep=0.5, retrain=False), ordered)
    assert run(after, data().inputs).isfinite().all()


@pytest.mark.parametrize(
    ("width", "keep", "multiple", "kept"),
    [(256, 0.5, 8, 128), (256, 0.25, 8, 64), (100, 0.07, 1, 7), (37, 0.25, 1, 10), (16, 0.25, 8, 8), (4, 0.5, 8, 4),
     (100, 0.001, 1, 1)],
)  # fmt: skip
def test_widths_round_up_to_vectors(width: int, keep: float, multiple: int, kept: int) -> None:
    """The kept width is the rounded-up share, rounded up again to the multiple, never above the width."""
    assert round_up(keep * width, multiple, width) == kept


def test_rounding_up_to_all_is_told() -> None:
    """Where the multiple leaves nothing to prune, the note says so."""
    _, notes = prune(PruneChannels(keep=0.9, multiple=16), split("GCN"))
    assert notes == ["kept 16 channels from convs.0.lin (Linear) to convs.1.lin (Linear): "
                     "0.9 of them rounds up to all (multiple=16)"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("stacked", "8 channels from first (Linear) to no linear map: model (Handwritten) reads them by"),
        ("narrow_index", "8 channels from first (Linear) to no linear map: model (Handwritten) reads them by"),
    ],
)
def test_what_cannot_shrink_is_refused_with_its_reason(name: str, reason: str) -> None:
    """A hidden value that something else reads keeps its width, and the problem names the reader."""
    problems = PruneChannels().check(split(name), PassContext(data=data()))
    assert problems
    assert reason in str(problems[0])


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_what_is_quantised_is_refused(mode: Literal["static", "dynamic"]) -> None:
    """The mend is the other order."""
    quantised = Quantize(mode=mode).run(split("GCN"), PassContext(data=data()))
    (problem,) = PruneChannels().check(quantised, PassContext(data=data()))
    assert (problem.what, problem.mend) == ("the model is quantised already", "Put prune-channels in front of that")


def test_data_is_required() -> None:
    """Without features there is nothing to fit to."""
    problems = PruneChannels().check(split("GCN"), PassContext())
    assert "Give data with --data" in str(problems[0])


@pytest.mark.parametrize(("field", "value"), [("keep", 0.0), ("keep", 1.5), ("multiple", 0), ("lr", 0.0), ("rows", 0)])
def test_senseless_options_are_errors(field: str, value: float) -> None:
    """Options out of range are refused when the pass is made."""
    with pytest.raises(ValueError, match=field):
        PruneChannels(**{field: value})  # type: ignore[arg-type]
