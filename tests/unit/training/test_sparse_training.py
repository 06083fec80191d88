from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch_geometric.nn import GCN

from gnnexport.frontends.signature import match_inputs
from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.cost import measure_cost
from gnnexport.program.data import GraphData
from gnnexport.program.program import Program, example_inputs
from gnnexport.training.feeding import Feed
from gnnexport.training.parts import Part
from gnnexport.training.sparsity.flops import Counted, Meter, TrainingFlops
from gnnexport.training.sparsity.growing import Grower, Growing, Growth
from gnnexport.training.sparsity.patterns import UNSTRUCTURED, Pattern, parse_pattern
from gnnexport.training.sparsity.projection import Entries
from gnnexport.training.sparsity.recipe import prunable, values_of
from gnnexport.training.sparsity.scratch import reset
from gnnexport.training.sparsity.splitting import Splitter, Splitting
from gnnexport.training.sparsity.weights import find_weights
from gnnexport.training.sparsity.zeros import apply_masks
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.small_models import CLASSES, HIDDEN, WIDTH, inputs_of, split
from tests.unit.training.test_minibatch import LITTLE, data, feed

NODES = 60
INPUTS = example_inputs(inputs_of("GCN"), NODES)
PART = torch.arange(NODES) % 3
DATA = GraphData(
    "small",
    INPUTS,
    (torch.arange(NODES) // 3) % CLASSES,
    {name: index == PART for index, name in enumerate(("train", "val", "test"))},
)
LONG = Task(epochs=40, patience=40)


def trainer() -> Trainer:
    """Return one that never stops early."""
    return Trainer(DATA.hide("test"), LONG)


def pruned(name: str, sparsity: float = 0.8, pattern: str = "unstructured") -> tuple[Program, dict[str, Tensor]]:
    """Return a model with its largest weights, and their masks."""
    program = split(name).clone()
    found = parse_pattern(pattern)
    assert isinstance(found, Pattern)
    masks = Entries(prunable(program), found, "uniform").masks(values_of(program), sparsity)
    apply_masks(program, masks)
    return program, masks


class Watched(Counted):
    """Looks at weights and moments after each step."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        super().__init__(TrainingFlops())
        self.masks = masks
        self.steps = 0

    def begin(self, program: Program, feed: Feed) -> None:
        """Find the parameters that are trained."""
        super().begin(program, feed)
        self.values = values_of(program)

    def started(self, optimiser: torch.optim.Optimizer) -> None:
        """Remember the optimiser."""
        self.optimiser = optimiser

    def stepped(self, part: Part) -> None:
        """Look."""
        super().stepped(part)
        self.steps += 1
        for name, mask in self.masks.items():
            state = self.optimiser.state[self.values[name]]
            for value in (self.values[name].detach(), state["exp_avg"], state["exp_avg_sq"]):
                assert not bool(value[~mask].any())
            assert bool(state["exp_avg_sq"][mask].any())


@pytest.mark.parametrize("name", ["GCN batch norm", "GraphSAGE", "GAT"])
def test_zeros_stay_zero_in_every_later_training(name: str) -> None:
    """Pruned entries and both of their moments are exactly zero after each step, and all others move."""
    program, masks = pruned(name)
    regime = Watched(masks)
    fitted, _ = trainer().fit(program, seed=0, epochs=4, regime=regime)
    assert regime.steps == 4
    assert fitted.sparse_weights == program.sparse_weights == frozenset(masks)
    for key, value in values_of(fitted).items():
        if key in masks:
            assert not bool(value[~masks[key]].any())
    assert any(not torch.equal(values_of(fitted)[key], values_of(program)[key]) for key in masks)


class Followed(Growing):
    """Keeps masks and weights around each change of places."""

    def __init__(self, growth: Growth, program: Program, masks: Mapping[str, Tensor]) -> None:
        super().__init__(growth, prunable(program), masks, TrainingFlops())
        self.seen: list[tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]] = []
        self.deaths: list[float] = []

    def _change(self) -> None:
        before = {name: mask.clone() for name, mask in self.masks.items()}
        weights = {name: value.detach().clone() for name, value in self._values.items()}
        self.deaths.append(self.death())
        super()._change()
        self.seen.append((before, weights, {name: value.detach().clone() for name, value in self._values.items()}))


@pytest.mark.parametrize("how", ["rigl", "set"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4x1"])
def test_as_many_entries_are_active_after_each_change(how: Grower, pattern: str) -> None:
    """What is dropped is smallest, what is grown begins at zero, and the number of active entries never changes."""
    program, masks = pruned("GraphSAGE", 0.75, pattern)
    program.sparse_weights = frozenset()
    found = parse_pattern(pattern)
    assert isinstance(found, Pattern)
    regime = Followed(Growth(how, found, epochs=40, every=5), program, masks)
    fitted, history = trainer().fit(program, seed=0, epochs=40, regime=regime)
    assert len(regime.seen) == regime.changes == 6  # every fifth of the first 30 steps
    assert regime.deaths == sorted(regime.deaths, reverse=True)
    for place, (before, weights, after) in enumerate(regime.seen):
        masks_after = regime.seen[place + 1][0] if place + 1 < len(regime.seen) else regime.masks
        for name, mask in before.items():
            assert int(masks_after[name].sum()) == int(mask.sum())
            changed = masks_after[name] & ~mask
            assert not bool(after[name][changed].any())
            assert not bool(after[name][~masks_after[name]].any())
            if found is UNSTRUCTURED:
                gone = mask & (after[name] == 0) & (weights[name] != 0)
                kept = mask & (after[name] != 0)
                assert float(weights[name][gone].abs().max()) <= float(weights[name][kept].abs().min())
    assert any(not torch.equal(regime.masks[name], masks[name]) for name in masks)
    assert 0.25 < regime.coverage < 1
    # What grew is zero until the next step, so that no such state is chosen.
    assert history.best_epoch == 0 or history.best_epoch % 5 or history.best_epoch > 30
    assert all(int(values_of(fitted)[name].count_nonzero()) <= int(mask.sum()) for name, mask in masks.items())


def test_rigl_pays_for_gradients_of_zeros_only_where_places_change() -> None:
    """SET draws places and needs none."""
    counted = {}
    for how in ("rigl", "set"):
        program, masks = pruned("GCN", 0.75)
        program.sparse_weights = frozenset()
        regime = Growing(Growth(how, UNSTRUCTURED, 20, every=5), prunable(program), masks, TrainingFlops())  # type: ignore[arg-type]
        trainer().fit(program, seed=0, epochs=20, regime=regime)
        counted[how] = regime.flops
    weights = sum(op.macs for op in measure_cost(split("GCN"), INPUTS).ops if op.kind == "linear")
    zeros = sum(int((~mask).sum()) * NODES for mask in pruned("GCN", 0.75)[1].values())
    assert weights > zeros
    assert counted["set"].dense_gradients == 0
    assert counted["rigl"].dense_gradients == 3 * 2 * zeros  # at steps 5, 10 and 15
    assert counted["rigl"].linear == counted["set"].linear


@pytest.mark.parametrize("how", ["rigl", "set"])
def test_no_run_stops_while_places_change(how: Grower) -> None:
    """Whatever patience there is, it begins when places stay; a run of fixed places stops at once."""
    hasty = Trainer(DATA.hide("test"), Task(epochs=60, patience=1))
    program, masks = pruned("GraphSAGE", 0.75)
    program.sparse_weights = frozenset()
    regime = Growing(Growth(how, UNSTRUCTURED, epochs=60, every=5), prunable(program), masks, TrainingFlops())
    _, history = hasty.fit(program, seed=0, epochs=60, lr=0.5, regime=regime)
    assert regime.changes == 9  # every fifth of the first 45 steps
    assert 45 < len(history.train_loss) <= 60
    _, history = hasty.fit(program, seed=0, epochs=60, lr=0.5, regime=Counted(TrainingFlops()))
    assert len(history.train_loss) < 45


@pytest.mark.parametrize("name", ["GCN", "GraphSAGE", "GAT"])
def test_mini_batches_are_not_run_twice_to_be_counted(name: str) -> None:
    """What a batch of other sizes takes follows from a few that were measured, to the operation."""
    program, batches = split(name), feed(name, data(), LITTLE)
    followed, exact = Meter(program, TrainingFlops()), Meter(program, TrainingFlops())
    parts = [part for _ in range(5) for part in batches.steps(None)]
    found = [followed.work(part) for part in parts]
    assert len(parts) > 15
    assert followed.works.measured < 8
    assert found[-1] == exact.work(parts[-1])
    assert exact.works.measured == 1


def test_operations_of_a_step_are_those_counted_by_hand() -> None:
    """Two layers: the first reads features, which need no gradient; a sum over edges goes back as it came."""
    program, flops = split("GCN"), TrainingFlops()
    trainer().fit(program, seed=0, epochs=3, regime=Counted(flops))
    first, second = NODES * WIDTH * HIDDEN, NODES * HIDDEN * CLASSES
    sums = sum(op.macs for op in measure_cost(program, INPUTS).ops if op.kind == "aggregation")
    assert flops.steps == 3
    assert flops.linear == 3 * 2 * (2 * first + 3 * second)
    assert flops.aggregation == 3 * 2 * 2 * sums
    assert flops.evaluation == 4 * 2 * (first + second + sums)
    assert flops.total == flops.linear + flops.aggregation
    assert "counted, not saved" in str(flops)


def test_sparse_weights_count_at_their_density() -> None:
    """Half of the entries are half of the operations, in all three products of a map."""
    dense, sparse = TrainingFlops(), TrainingFlops()
    trainer().fit(split("GCN"), seed=0, epochs=2, regime=Counted(dense))
    trainer().fit(pruned("GCN", 0.5)[0], seed=0, epochs=2, regime=Counted(sparse))
    assert sparse.linear == dense.linear // 2
    assert sparse.aggregation == dense.aggregation


class Split(Splitting):
    """Keeps what each update saw."""

    def __init__(self, how: Splitter, program: Program, sparsity: float) -> None:
        projection = Entries(prunable(program), UNSTRUCTURED, "uniform")
        super().__init__(how, projection, sparsity, 1.0, 0.1, TrainingFlops())
        self.seen: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def update(self, loss: float) -> None:
        """Keep the weights before this update, and those after it."""
        before = self.before
        super().update(loss)
        self.seen.append((before, self.before))


def lost(program: Program, sparsity: float) -> float:
    """Return the share of the length of all weights that pruning takes."""
    values = values_of(program)
    masks = Entries(prunable(program), UNSTRUCTURED, "uniform").masks(values, sparsity)
    squares = [(values[name].square().sum(), (values[name] * ~mask).square().sum()) for name, mask in masks.items()]
    whole, gone = (float(sum(side).detach()) for side in zip(*squares, strict=True))  # type: ignore[union-attr, arg-type]
    return (gone / whole) ** 0.5


@pytest.mark.parametrize("how", ["admm", "slr"])
def test_weights_come_nearer_to_sparse_ones(how: Splitter) -> None:
    """Pruning costs less and less of them, Z has exactly its count, and the old weights are not the new ones."""
    program = split("GCN")
    regime = Split(how, program, 0.75)
    fitted, _ = trainer().fit(program, seed=0, epochs=100, lr=0.05, regime=regime)
    assert len(regime.distances) == 10
    assert regime.distances[-1] < max(regime.distances)
    assert lost(fitted, 0.75) < 0.5 * lost(program, 0.75)
    for weight in prunable(program):
        assert int(regime.sparse[weight.name].count_nonzero()) == round(0.25 * weight.size)
    for old, new in regime.seen:
        assert all(old[name] is not new[name] and not torch.equal(old[name], new[name]) for name in new)
    if how == "slr":
        assert 1 < regime.updates <= 1 + 2 * len(regime.seen)


def test_the_last_weights_of_a_pull_are_returned() -> None:
    """Weights that are not sparse yet validate best, and are not what the pull was for."""
    program = split("GCN")
    fitted, history = trainer().fit(program, seed=0, epochs=5, regime=Split("admm", program, 0.9))
    assert history.best_epoch == 5
    assert any(not torch.equal(values_of(fitted)[key], value) for key, value in values_of(program).items())


def test_matrices_are_found_whatever_the_product() -> None:
    """Weights of linear maps and of plain products, without biases, norms and attention vectors."""
    assert [item.shape for item in find_weights(split("GCN batch norm"))] == [
        (HIDDEN, WIDTH),
        (HIDDEN, HIDDEN),
        (CLASSES, HIDDEN),
    ]
    assert {item.name for item in find_weights(split("GAT"))} == {"convs.0.lin.weight", "convs.1.lin.weight"}


def test_everything_learned_is_forgotten() -> None:
    """Drawn by the seed, with norms as new; what is drawn twice is the same."""
    program, twin = split("GCN batch norm").clone(), split("GCN batch norm").clone()
    reset(program, 1)
    reset(twin, 1)
    for name, value in program.body.state_dict().items():
        assert torch.equal(value, twin.body.state_dict()[name])
        if value.is_floating_point():
            assert not torch.equal(value, split("GCN batch norm").body.state_dict()[name])
        if name.endswith("running_var") or ("norms" in name and name.endswith("weight")):
            assert bool((value == 1).all())


def test_scales_that_are_written_out_are_one() -> None:
    """A norm of plain ops begins as it does when it is made, so that what is below it learns."""
    x, edge_index = INPUTS["x"], INPUTS["edge_index"]
    model = GCN(x.shape[1], HIDDEN, 2, CLASSES, norm="GraphNorm", act="PReLU", act_kwargs={"num_parameters": HIDDEN})
    inputs = match_inputs(model, DATA)
    program = run_passes(
        capture(model.eval(), inputs, example_inputs(inputs)), CANONICAL, PassContext(data=DATA)
    ).program
    reset(program, 1)
    found = dict(program.body.named_parameters())
    assert all(bool((found[f"norms.0.{name}"] == 1).all()) for name in ("weight", "mean_scale"))
    assert bool((found["norms.0.bias"] == 0).all())
    assert any(bool((value == 0.25).all()) for name, value in found.items() if name.startswith("act"))
    program({"x": x, "edge_index": edge_index}).square().sum().backward()
    below = found["convs.0.lin.weight"].grad
    assert below is not None
    assert bool(below.any())
