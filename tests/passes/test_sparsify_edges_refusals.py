"""What leaving edges out refuses: models, data and options, each with its mend."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gnnexport.errors import SpecError
from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.registry import build_passes
from tests.passes.edge_models import (
    context,
    frozen,
    program_of,
)
from tests.small_models import captured


def test_answers_that_are_no_classes_say_nothing_of_edges() -> None:
    """Without labels, or where numbers are predicted, the method is refused with a mend."""
    item, ctx = SparsifyEdges(method="agreement"), context(epochs=1)
    assert ctx.trainer is not None
    numbers = replace(ctx, trainer=replace(ctx.trainer, task=replace(ctx.trainer.task, loss="mse")))
    for asked in (replace(ctx, trainer=None), numbers):
        (problem,) = item.check(program_of("GCN"), asked)
        assert "method=agreement" in problem.what
        assert problem.mend
    assert not item.check(program_of("GCN"), ctx)


@pytest.mark.parametrize(
    ("name", "method", "words"),
    [
        ("GraphSAGE max", "norm", "takes the max of messages"),
        ("GraphSAGE max", "top-k", "takes the max of messages"),
        ("sorted_channels", "random", "takes values of nodes to edges in a way that was not recognised"),
    ],
)
def test_what_cannot_go_is_refused_with_the_reason(name: str, method: str, words: str) -> None:
    """Layers whose messages are no terms of a sum, or depend on each other, keep their edges."""
    found = SparsifyEdges(method=method).check(program_of(name), context())  # type: ignore[arg-type]
    assert found
    assert all(words in problem.what for problem in found)


def test_what_has_no_graph_of_its_own_is_refused() -> None:
    """Requests about nodes of a store, data of many graphs, no data, and a second run; each with its mend."""
    item, program = SparsifyEdges(), program_of("GCN")
    ctx = context()
    assert ctx.data is not None
    many = replace(ctx.data, inputs={**ctx.data.inputs, "num_graphs": torch.tensor(2)})
    for asked, words in (
        (replace(ctx, mode="batched"), "a store of all edges"),
        (replace(ctx, data=many), "here are many"),
        (replace(ctx, data=None), "needs the graph"),
    ):
        (problem,) = item.check(program, asked)
        assert words in problem.what
        assert problem.mend
    assert "left out already" in item.check(frozen("GCN"), ctx)[0].what
    assert "not split" in item.check(captured("GCN"), ctx)[0].what


@pytest.mark.parametrize(
    "options",
    ["sparsity=2", "threshold=-1", "sparsity=0.5,threshold=1", "method=random,threshold=1", "rounds=0",
     "threshold=1,rounds=2", "lr=0", "lr=nan", "threshold=nan", "distil=2"],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: str) -> None:
    """Each with words that say what to write."""
    with pytest.raises(SpecError):
        build_passes([f"sparsify-edges{{{options}}}"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("rounds=2,retrain=false", "Drop rounds, or retrain=false"),
        ("epochs=3,lr=0.1,distil=0.5,retrain=false", "Drop epochs, lr, distil, or retrain=false"),
        ("published=true,retrain=false", "Drop published, or retrain=false"),
        ("sparsity=0,epochs=5", "Drop epochs, or sparsity=0"),
        ("threshold=0,published=true", "Drop published, or threshold=0"),
        ("epochs=0,lr=0.1", "Give epochs, or drop the other options of training"),
        ("epochs=2,rounds=3", "Give as many epochs as rounds"),
    ],
)
def test_options_without_effect_beside_others_are_refused(options: str, words: str) -> None:
    """What acts in training needs training, and every refusal tells what to drop."""
    with pytest.raises(SpecError, match=words):
        build_passes([f"sparsify-edges{{{options}}}"])


def test_options_of_training_need_what_trains() -> None:
    """Without labels, with parameters that stay, or with too few epochs they are refused before anything is done."""
    program = program_of("GCN")
    (problem,) = SparsifyEdges(epochs=3, distil=0.5).check(program, context())
    assert "epochs, distil would have no effect" in problem.what
    assert "labels" in problem.mend
    (problem,) = SparsifyEdges(rounds=3).check(program, context(epochs=2))
    assert "too few for 3 rounds" in problem.what
    assert problem.mend
    fixed = program.clone()
    for parameter in fixed.body.parameters():
        parameter.requires_grad_(False)
    (problem,) = SparsifyEdges().check(fixed, context(epochs=2))
    assert "retrain=false" in problem.mend
    assert SparsifyEdges(retrain=False).check(fixed, context(epochs=2)) == []
