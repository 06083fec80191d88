from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from gnnexport.errors import SpecError
from gnnexport.measure.amdahl import ProductShape, Shares
from gnnexport.measure.sparse_speed import Setting, Timed
from gnnexport.passes.a2q import A2Q
from gnnexport.passes.contract import PassContext
from gnnexport.passes.fold_norms import FoldNorms
from gnnexport.passes.prune_channels import PruneChannels
from gnnexport.passes.quantize import Quantize
from gnnexport.passes.sparsify_weights import SparsifyWeights
from gnnexport.program.data import GraphData
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.verify import verify
from gnnexport.registry import build_passes
from gnnexport.training.sparsity.densities import erk
from gnnexport.training.sparsity.weights import find_weights
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.small_models import CLASSES, HIDDEN, inputs_of, run, split

NODES = 60
INPUTS = example_inputs(inputs_of("GCN"), NODES)
PART = torch.arange(NODES) % 3
LABELLED = GraphData(
    "small",
    INPUTS,
    (torch.arange(NODES) // 3) % CLASSES,
    {name: index == PART for index, name in enumerate(("train", "val", "test"))},
)
METHODS = ("magnitude", "slr", "admm", "rigl", "set")
PATTERNS = ("unstructured", "2:4", "4x1", "column", "row")


def context(**options: object) -> PassContext:
    """Return a graph, and a trainer of few epochs."""
    data = LABELLED.hide("test")
    return replace(PassContext(data=data, trainer=Trainer(data, Task(epochs=4))), **options)  # type: ignore[arg-type]


def sparse(name: str, ctx: PassContext | None = None, **options: object) -> tuple[Program, list[str]]:
    """Run the pass on a model; return the result and its notes."""
    notes: list[str] = []
    item = SparsifyWeights(**options)  # type: ignore[arg-type]
    ctx = replace(ctx or context(), note=notes.append)
    before = split(name)
    state = {key: value.clone() for key, value in before.state_dict().items()}
    assert item.check(before, ctx) == []
    after = item.run(before, ctx)
    assert verify(after) == []
    assert all(torch.equal(value, state[key]) for key, value in before.state_dict().items())
    assert before.sparse_weights == frozenset()
    return after, notes


def left(program: Program) -> tuple[int, int]:
    """Return how many entries of all matrices differ from zero, and how many there are."""
    values = dict(program.body.named_parameters())
    weights = find_weights(program)
    return sum(int(values[item.name].count_nonzero()) for item in weights), sum(item.size for item in weights)


@pytest.mark.parametrize(("method", "pattern"), list(itertools.product(METHODS, PATTERNS)))
def test_every_method_makes_every_pattern(method: str, pattern: str) -> None:
    """As many entries as asked for differ from zero; channels are gone; what is not possible is refused."""
    given = {"method": method, "pattern": pattern} | ({} if pattern == "2:4" else {"sparsity": 0.75})
    if method in ("rigl", "set") and pattern in ("column", "row"):
        with pytest.raises(ValueError, match="shrinks the model"):
            SparsifyWeights(**given)  # type: ignore[arg-type]
        return
    after, notes = sparse("GraphSAGE", **given)
    assert any("counted, not saved" in note for note in notes)
    count, total = left(after)
    if pattern in ("column", "row"):
        assert after.sparse_weights == frozenset()
        assert total < left(split("GraphSAGE"))[1]
        assert {item.shape[0] for item in find_weights(after)} == {HIDDEN // 4, CLASSES}
        return
    assert total == left(split("GraphSAGE"))[1]
    assert after.sparse_weights == {item.name for item in find_weights(after)}
    # Entries that begin at zero may still be there.
    most = {"unstructured": round(0.25 * total), "4x1": round(0.25 * total), "2:4": total}[pattern]
    assert 0 < count <= most
    if method == "magnitude" and pattern == "unstructured":
        assert count == most
    for item in find_weights(after):
        value = dict(after.body.named_parameters())[item.name].detach()
        if pattern == "2:4":
            for part in value.split(4, dim=1):
                assert int(part.count_nonzero(1).max()) <= 2


def test_pruned_weights_are_the_smallest_ones() -> None:
    """Without training what stays is what was there, and the answers are those of the masked model."""
    after, _ = sparse("GCN", sparsity=0.7, retrain=False)
    kept, gone = [], []
    masked = split("GCN").clone()
    for item in find_weights(after):
        value, old = (it.body.get_parameter(item.name).detach() for it in (after, masked))
        mask = value != 0
        assert torch.equal(value[mask], old[mask])
        kept.append(old[mask].abs())
        gone.append(old[~mask].abs())
        old.mul_(mask)
    assert float(torch.cat(kept).min()) >= float(torch.cat(gone).max())
    assert torch.equal(run(after, INPUTS), run(masked, INPUTS))


def test_without_labels_the_largest_stay_as_they_are() -> None:
    """Magnitudes need no data."""
    after, notes = sparse("GCN", PassContext(), sparsity=0.5)
    count, total = left(after)
    assert count == round(0.5 * total)
    assert notes[-1] == "not retrained: without labels"


@pytest.mark.parametrize("option", ["schedule=gradual", "retrain_epochs=3", "lr=0.1", "distil=0.5"])
def test_options_of_training_need_labels(option: str) -> None:
    """Without any they would have no effect, and are refused."""
    (item,) = build_passes([f"sparsify-weights{{{option}}}"])
    (problem,) = item.check(split("GCN"), PassContext())
    name = option.split("=")[0]
    assert f"so {name} would have no effect" in problem.what
    assert f"Drop {name}" in problem.mend
    assert item.check(split("GCN"), context()) == []


def test_a_threshold_that_nothing_falls_below_changes_nothing() -> None:
    """Weights that are sparse already stay so, and are known to be."""
    before, _ = sparse("GCN", sparsity=0.5, retrain=False)
    notes: list[str] = []
    item = SparsifyWeights(score="norm", threshold=0.0, retrain=False)
    after = item.run(before, replace(context(), note=notes.append))
    assert after is not before
    assert after.sparse_weights == before.sparse_weights != frozenset()
    assert "no entry goes: the model stays as it is" in notes


def test_rounds_come_down_step_by_step() -> None:
    """Sparsity rises with each round, less and less, and training goes on in between."""
    _, notes = sparse("GCN", sparsity=0.8, schedule="gradual", rounds=3, epochs=4)
    shares = [float(note.split("sparsity ")[1].split(",")[0]) for note in notes if note.startswith("round")]
    assert shares == pytest.approx([0.8 * (1 - (2 / 3) ** 3), 0.8 * (1 - (1 / 3) ** 3)], abs=1e-3)
    assert any(note.startswith("29 of 144 weights differ from zero") for note in notes)


def test_sparse_training_begins_with_the_densities_of_erk() -> None:
    """From scratch each weight has its count of ERK; nothing of the trained weights is left."""
    after, notes = sparse("GraphSAGE", method="set", start="scratch", sparsity=0.6, epochs=2)
    weights = find_weights(after)
    assert after.sparse_weights == {item.name for item in weights}
    counts = erk([item.shape for item in weights], 0.6)
    found = [int(after.body.get_parameter(item.name).count_nonzero()) for item in weights]
    assert all(0 < count <= most for count, most in zip(found, counts, strict=True))
    assert any("were active at some time" in note for note in notes)


@pytest.mark.parametrize("later", ["quantize{bits=8,train=true,epochs=2}", "a2q{bits=4,epochs=2}", "cast{to=bf16}"])
def test_later_passes_keep_the_zeros(later: str) -> None:
    """What trains or rounds weights afterwards leaves every zero a zero."""
    after, _ = sparse("GraphSAGE", sparsity=0.8)
    (item,) = build_passes([later])
    assert item.check(after, context()) == []
    last = item.run(after, context())
    assert last.sparse_weights == after.sparse_weights
    for name in after.sparse_weights:
        zeros = after.body.get_parameter(name) == 0
        assert not bool(last.body.get_parameter(name)[zeros].any())
        assert not torch.equal(last.body.get_parameter(name), after.body.get_parameter(name))


def test_folded_weights_are_sparse_under_their_new_names() -> None:
    """A normalisation scales rows, and zeros stay."""
    after, _ = sparse("GCN batch norm", sparsity=0.8)
    folded = FoldNorms().run(after, PassContext())
    names = {name for name, _ in folded.body.named_parameters()}
    assert len(folded.sparse_weights) == 3
    assert folded.sparse_weights <= names
    assert folded.sparse_weights != after.sparse_weights
    assert left(folded) == left(after)


@pytest.mark.parametrize(("options", "gain"), [({"sparsity": 0.9}, "1.82"), ({"pattern": "2:4"}, "1.33")])
def test_the_most_that_can_be_gained_is_told_beforehand(options: dict[str, object], gain: str) -> None:
    """Amdahl's law for the share that linear maps have of an inference."""
    shares = Shares(0.5, 0.3, 0.2, 1.0, "an engine")
    _, notes = sparse("GCN", context(shares=lambda program: shares), retrain=False, **options)
    assert notes[0].startswith(f"can be at most {gain} times faster")


def test_zeros_are_recommended_by_timings() -> None:
    """Products of the very model are timed with zeros as asked, and what is found stands before any training."""
    product = ProductShape(40, 16, 8)
    shares = Shares(0.5, 0.3, 0.2, 1.0, "an engine", products=(product,))
    asked: list[Setting] = []

    def speeds(products: Sequence[ProductShape], setting: Setting) -> list[Timed]:
        asked.append(setting)
        return [Timed(product, 1.0, 4.0 if setting.pattern == "16x1" else 0.8)]

    ctx = context(shares=lambda program: shares, speeds=lambda: speeds)
    _, notes = sparse("GCN", ctx, retrain=False, pattern="2:4")
    assert asked == [Setting("2:4", 0.5), Setting("16x1", 0.5)]
    assert notes[1].endswith("pattern=2:4: 40×16→8 0.80, the model 1.00; sparsity=0.5,pattern=16x1: 40×16→8 4.00, "
                             "the model 1.60")  # fmt: skip
    assert notes[2].startswith("recommendation: sparsify-weights{sparsity=0.5,pattern=16x1}")
    asked.clear()
    sparse("GCN", ctx, retrain=False, pattern="row", sparsity=0.5)
    assert not asked  # channels that leave the model are not zeros


def test_a_target_that_skips_one_pattern_alone_says_so() -> None:
    """What it multiplies all the same is told beforehand; channels leave the model on any target."""
    ctx = context(sparse_pattern="2:4")
    told = "recommendation: pattern=2:4, the only zeros that the target's engine may skip"
    assert SparsifyWeights(pattern="16x1").foretell(split("GCN"), ctx) == [told]
    assert SparsifyWeights(pattern="2:4").foretell(split("GCN"), ctx) == []
    assert SparsifyWeights(pattern="row").foretell(split("GCN"), ctx) == []


def test_what_cannot_be_made_sparse_is_told() -> None:
    """Nothing to multiply by, nothing that may change, something quantised already: each has its mend."""
    item = SparsifyWeights()
    frozen = split("GCN").clone()
    frozen.body.requires_grad_(False)
    assert "requires a gradient" in str(item.check(frozen, context())[0])
    rounded = Quantize().run(split("GCN"), context())
    assert "quantised already" in str(item.check(rounded, context())[0])
    assert "needs labels" in str(SparsifyWeights(method="slr").check(split("GCN"), PassContext())[0])
    after, _ = sparse("GCN", sparsity=0.5)
    assert "sparse already" in str(SparsifyWeights(pattern="row").check(after, context())[0])
    assert "in front of sparsify-weights" in str(PruneChannels().check(after, context())[0])
    assert A2Q().check(after, context()) == []


def test_a_frozen_weight_stays_as_it_is() -> None:
    """The others make up for nothing: the sparsity is theirs."""
    program = split("GCN").clone()
    program.body.get_parameter("convs.0.lin.weight").requires_grad_(False)
    notes: list[str] = []
    after = SparsifyWeights(sparsity=0.5).run(program, context(note=notes.append))
    assert after.sparse_weights == {"convs.1.lin.weight"}
    assert torch.equal(after.body.get_parameter("convs.0.lin.weight"), program.body.get_parameter("convs.0.lin.weight"))
    assert "convs.0.lin.weight" in notes[0]


@pytest.mark.parametrize(
    "options",
    [
        {"rho": 0.1},
        {"method": "admm", "step": 0.1},
        {"start": "scratch"},
        {"method": "rigl", "retrain_epochs": 3},
        {"method": "rigl", "start": "scratch", "distribution": "global"},
        {"epochs": 3},
        {"rounds": 3},
        {"method": "slr", "schedule": "gradual"},
        {"pattern": "2:4", "sparsity": 0.5},
        {"pattern": "row", "distribution": "uniform"},
        {"retrain": False, "lr": 0.1},
        {"retrain": False, "retrain_epochs": 3},
        {"sparsity": 1.0},
        {"pattern": "stripes"},
    ],
)
def test_options_without_an_effect_are_refused(options: dict[str, object]) -> None:
    """Each names the option and what it would act with."""
    with pytest.raises(ValueError, match=r"alone|must be|pattern|compares"):
        SparsifyWeights(**options)  # type: ignore[arg-type]


def test_a_spec_says_what_is_wrong() -> None:
    """The error of an option reaches whoever wrote the spec."""
    with pytest.raises(SpecError, match="rho acts with method=slr and admm alone"):
        build_passes(["sparsify-weights{rho=0.1}"])
