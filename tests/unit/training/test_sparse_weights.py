"""Weights in places that are out of the ordinary, and training that is."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCN2Conv

from gnnexport.passes.contract import PassContext
from gnnexport.passes.sparsify_weights import SparsifyWeights
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.verify import verify
from gnnexport.training.parts import Part
from gnnexport.training.sparsity.flops import TrainingFlops
from gnnexport.training.sparsity.growing import Growing, Growth
from gnnexport.training.sparsity.patterns import UNSTRUCTURED, Pattern
from gnnexport.training.sparsity.projection import Entries
from gnnexport.training.sparsity.recipe import Recipe, prunable, sparsify, values_of
from gnnexport.training.sparsity.weights import dense_parameters, find_weights
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.small_models import CLASSES, WIDTH, Handwritten, inputs_of, split, summed
from tests.unit.training.test_minibatch import LITTLE, NODES, data


def shared(model: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Multiply by the same weights twice."""
    hidden = model.middle(model.middle(model.first(x).relu()).relu()).relu()
    return model.last(summed(hidden, edge_index))


class Initial(nn.Module):
    """A layer that multiplies by a parameter as it is stored, inputs by outputs."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, 8), nn.Linear(8, CLASSES)
        self.conv = GCN2Conv(8, alpha=0.2, theta=0.5, layer=1)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return logits."""
        hidden = self.first(x).relu()
        return self.last(self.conv(hidden, hidden, edge_index).relu())  # type: ignore[no-any-return]


class Turned(nn.Module):
    """A layer of two matrices that are stored with the one of each input side by side."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.stored, self.last = nn.Parameter(torch.rand(WIDTH, 2, 8)), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return logits."""
        hidden = torch.matmul(x, self.stored.permute(1, 0, 2)).sum(0)
        return self.last(summed(hidden, edge_index).relu())  # type: ignore[no-any-return]


def captured(model: nn.Module) -> Program:
    """Capture and split a model."""
    inputs = inputs_of("GCN")
    return run_passes(capture(model.eval(), inputs, example_inputs(inputs)), CANONICAL, PassContext()).program


def trainer(epochs: int = 3) -> Trainer:
    """Return one on a graph whose classes show."""
    return Trainer(data(), Task(epochs=epochs, patience=epochs))


@pytest.mark.parametrize("method", ["magnitude", "slr", "rigl"])
def test_shared_weights_are_one(method: str) -> None:
    """They are pruned once, count for both maps that read them, and stay shared."""
    torch.manual_seed(0)
    program = captured(Handwritten(shared))
    weights = find_weights(program)
    assert [len(item.readers) for item in weights] == [1, 2, 1]
    flops = TrainingFlops()
    recipe = Recipe(method=method, sparsity=0.5, distribution="uniform", epochs=3, retrain_epochs=3)  # type: ignore[arg-type]
    after = sparsify(program, trainer(), recipe, lambda line: None, flops)
    assert verify(after) == []
    assert [len(item.readers) for item in find_weights(after)] == [1, 2, 1]
    for item in weights:
        assert int(values_of(after)[item.name].count_nonzero()) <= item.size // 2
    if method == "magnitude":
        first, middle, last = (item.size for item in weights)
        # The first map reads features, which need no gradient.
        assert flops.linear == 3 * 2 * NODES * (2 * first + 3 * 2 * middle + 3 * last) // 2


@pytest.mark.parametrize("pattern", ["1:4", "4x1", "unstructured"])
def test_a_weight_stored_the_other_way_round(pattern: str) -> None:
    """Patterns are of outputs by inputs, however the parameter is stored."""
    torch.manual_seed(0)
    program = captured(Initial())
    turned = [item for item in find_weights(program) if item.turned]
    assert [item.shape for item in turned] == [(8, 8)]
    given = {} if pattern == "1:4" else {"sparsity": 0.75}
    after = SparsifyWeights(pattern=pattern, retrain=False, **given).run(program, PassContext())  # type: ignore[arg-type]
    matrix = turned[0].matrix(values_of(after)[turned[0].name].detach())
    assert matrix.count_nonzero() > 0
    if pattern == "1:4":
        assert matrix.reshape(8, 2, 4).count_nonzero(2).tolist() == [[1, 1]] * 8
    elif pattern == "4x1":
        blocks = matrix.reshape(2, 4, 8).count_nonzero(1)
        assert set(blocks.flatten().tolist()) <= {0, 4}


class Listened(Growing):
    """Counts the steps whose gradients decide."""

    collected = 0

    def stepped(self, part: Part) -> None:
        """Look whether gradients of this step were kept."""
        before = self.flops.dense_gradients
        super().stepped(part)
        self.collected += self.flops.dense_gradients > before


def grown(growth: Growth, given: Trainer) -> Listened:
    """Train sparse weights and return what did it."""
    program = split("GraphSAGE").clone()
    weights = prunable(program)
    masks = Entries(weights, UNSTRUCTURED, "uniform").masks(values_of(program), 0.75)
    regime = Listened(growth, weights, masks, TrainingFlops())
    fitted, _ = given.fit(program, seed=0, epochs=growth.epochs, regime=regime)
    assert all(not bool(values_of(fitted)[name][~mask].any()) for name, mask in regime.fired.items())
    return regime


def test_gradients_of_small_mini_batches_are_averaged() -> None:
    """Several of them decide on places together; on a whole graph one does, for it has all rows."""
    small = Trainer(data(), Task(epochs=3, patience=3), memory_bytes=LITTLE)
    regime = grown(Growth("rigl", UNSTRUCTURED, 3, every=6), small)
    assert regime.changes > 0
    assert regime.collected > 2 * regime.changes
    whole = grown(Growth("rigl", UNSTRUCTURED, 8, every=2), trainer(8))
    assert whole.collected == whole.changes == 3


def test_time_that_is_over_leaves_sparse_weights() -> None:
    """Each stage takes a step at least, and the number of entries is what was asked for."""
    late = Trainer(data(), Task(epochs=50), deadline=time.perf_counter() - 1)
    recipes: Sequence[Recipe] = [
        Recipe(rounds=4, epochs=40, retrain_epochs=40),
        Recipe(method="slr", epochs=40, retrain_epochs=40),
        Recipe(method="set", distribution="erk", epochs=40),
        Recipe(method="admm", pattern=Pattern(group=4, most=2), epochs=40, retrain_epochs=40),
    ]
    for recipe in recipes:
        flops, notes = TrainingFlops(), []  # type: ignore[var-annotated]
        after = sparsify(split("GraphSAGE"), late, recipe, notes.append, flops)
        assert flops.steps <= 2
        weights = prunable(after)
        left = sum(int(values_of(after)[item.name].count_nonzero()) for item in weights)
        total = sum(item.size for item in weights)
        assert left <= (total if recipe.pattern != UNSTRUCTURED else round(0.1 * total) + len(weights))
        assert after.sparse_weights


def test_dimensions_in_another_order_are_no_transposed_matrix() -> None:
    """A stack that is stored with each input's matrices side by side stays dense, and is named."""
    program = captured(Turned())
    assert [item.name for item in find_weights(program)] == ["last.weight"]
    assert dense_parameters(program) == ["stored"]
