"""What sparsifying passes refuse before any work is done: an order that cannot be, and options that nothing acts on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnexport.cli import app
from gnnexport.passes.contract import PassContext, check_order, marks_of
from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.passes.sparsify_weights import SparsifyWeights
from gnnexport.program.data import GraphData
from gnnexport.registry import build_passes
from gnnexport.training.sparsity.weights import find_weights
from tests.passes.test_sparsify_weights import LABELLED, context
from tests.road import Arrays, write_road
from tests.small_models import WIDTH, split

UNLABELLED = PassContext(data=LABELLED.hide("test"))


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        ("sparsify-edges; sparsify-edges{rule=runtime}", "left out already"),
        ("sparsify-weights; prune-channels", "in front of sparsify-weights"),
        ("sparsify-edges{joint=0.5}; prune-channels", "in front of sparsify-weights"),
        ("sparsify-weights; sparsify-weights{pattern=row}", "channels out of them"),
        ("sparsify-edges{sparsity=0,joint=0.5}; sparsify-weights{pattern=column}", "channels out of them"),
        ("sparsify-weights; sparsify-edges{joint=0.5}", "choose their entries anew"),
        ("quantize; sparsify-weights", "quantised already"),
        ("a2q; sparsify-edges{joint=0.5}", "quantised already"),
    ],
)
def test_an_order_that_cannot_be_is_known_beforehand(specs: str, words: str) -> None:
    """No Program is needed to tell."""
    (problem,) = check_order(build_passes([specs]))
    assert words in str(problem)


@pytest.mark.parametrize(
    "specs",
    [
        "prune-channels; sparsify-edges; sparsify-weights; quantize",
        "sparsify-edges{sparsity=0}; sparsify-edges",
        "sparsify-weights{pattern=column}; sparsify-weights{pattern=row}; prune-channels",
        "sparsify-weights; sparsify-weights{sparsity=0.95}; a2q",
        "sparsify-edges{joint=0.5}; sparsify-weights",
        "quantize; sparsify-edges",
    ],
)
def test_other_orders_can_be(specs: str) -> None:
    """Nothing is refused that runs."""
    assert check_order(build_passes([specs])) == []


@pytest.mark.parametrize("item", build_passes(["sparsify-weights; sparsify-weights{pattern=row}; quantize"]))
def test_passes_leave_the_marks_they_tell(item: SparsifyWeights) -> None:
    """What is told beforehand is what the Program shows afterwards."""
    assert marks_of(split("GCN")) == frozenset()
    assert marks_of(item.run(split("GCN"), context())) == item.leaves


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_nothing_is_trained_for_an_order_that_cannot_be(
    dry: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command refuses it before the first pass, and so does a dry run."""
    path = write_road(tmp_path)
    assert app.run(["compress", str(path), "--passes", "sparsify-weights; prune-channels", *dry, "--json"]) == 6
    printed = capsys.readouterr()
    assert "in front of sparsify-weights" in json.loads(printed.out)["error"]["problems"][0]["mend"]
    assert "retraining" not in printed.err
    assert not (tmp_path / "model.bundle").exists()


@pytest.mark.parametrize("options", ["schedule=gradual", "retrain_epochs=50", "lr=0.1", "distil=0.5"])
def test_options_of_training_need_labels(options: str) -> None:
    """Without any, they would do nothing; pruning alone is done."""
    (item,) = build_passes([f"sparsify-weights{{{options}}}"])
    (problem,) = item.check(split("GCN"), UNLABELLED)
    assert options.partition("=")[0] in problem.what
    assert "labels" in problem.mend
    assert item.check(split("GCN"), context()) == []
    assert SparsifyWeights().check(split("GCN"), UNLABELLED) == []


@pytest.mark.parametrize("pattern", ["9999x9999", "9998:9999"])
def test_a_pattern_that_leaves_every_entry_is_refused(pattern: str) -> None:
    """Training for hours would come to the model as it was."""
    (problem,) = SparsifyWeights(pattern=pattern).check(split("GCN"), context())
    assert f"pattern={pattern} leaves every entry" in problem.what
    wide = max(item.shape[1] for item in find_weights(split("GCN")))
    assert SparsifyWeights(pattern=f"{wide - 1}:9999").check(split("GCN"), context()) == []
    assert SparsifyWeights(pattern=f"9999x{wide - 1}").check(split("GCN"), context()) == []


@pytest.mark.parametrize(
    "item",
    [
        SparsifyWeights(sparsity=0.001),
        SparsifyWeights(sparsity=0.001, distribution="uniform"),
        SparsifyWeights(sparsity=0.001, method="rigl"),
        SparsifyWeights(sparsity=0.01, pattern="column"),
        SparsifyWeights(sparsity=0.01, pattern="row", method="slr"),
    ],
    ids=str,
)
def test_a_share_that_leaves_everything_is_refused(item: SparsifyWeights) -> None:
    """Before anything is foretold or trained; ten times the share is enough."""
    (problem,) = item.check(split("GCN"), context())
    assert f"at sparsity={item.sparsity}" in problem.what or f"sparsity={item.sparsity} leaves every" in problem.what
    assert problem.mend.startswith("Give a higher sparsity")
    assert replace(item, sparsity=0.1).check(split("GCN"), context()) == []


def test_a_joint_share_that_leaves_every_entry_is_refused() -> None:
    """As of the pass for weights alone: training would come to weights that are all there."""
    (problem,) = SparsifyEdges(joint=0.001).check(split("GCN"), context())
    assert problem.what.startswith("joint=0.001 leaves every entry of ")
    assert problem.mend == "Give a higher share, or drop joint"
    assert SparsifyEdges(joint=0.1).check(split("GCN"), context()) == []


@pytest.mark.parametrize(
    ("edges", "options", "words"),
    [
        (torch.zeros(2, 0, dtype=torch.int64), {}, "between different nodes"),
        (torch.arange(12).repeat(2, 1), {"threshold": 0.1}, "between different nodes"),
        (torch.arange(12).view(2, 6), {"sparsity": 0.01}, "none of 12 edges"),
    ],
    ids=["no edges", "loops alone", "too small a share"],
)
def test_a_graph_without_edges_that_can_go_is_refused(
    edges: torch.Tensor, options: dict[str, float], words: str
) -> None:
    """Nothing would be left out, whatever the bound promised; with `joint` weights go all the same."""
    ctx = PassContext(data=GraphData("few", {"x": torch.randn(12, WIDTH), "edge_index": edges}))
    (problem,) = SparsifyEdges(retrain=False, **options).check(split("GCN"), ctx)  # type: ignore[arg-type]
    assert words in problem.what
    assert "rop this pass" in problem.mend
    assert SparsifyEdges(retrain=False, joint=0.5, **options).check(split("GCN"), ctx) == []  # type: ignore[arg-type]


def test_joint_is_trained_where_no_edge_goes() -> None:
    """Options of training act then, and what cannot be trained is refused."""
    (item,) = build_passes(["sparsify-edges{sparsity=0,joint=0.5,rounds=2,epochs=4,lr=0.01}"])
    program = split("GCN")
    assert item.check(program, context()) == []
    program = program.clone()
    program.training_blocker = "a module that cannot be trained"
    assert "cannot be trained" in str(item.check(program, context())[0])
    assert "cannot be trained" in str(SparsifyWeights().check(program, context())[0])
    assert SparsifyWeights(retrain=False).check(program, context()) == []
    with pytest.raises(ValueError, match="nothing is trained"):
        SparsifyEdges(sparsity=0.0, rounds=2)


def test_the_command_refuses_options_without_labels(tmp_path: Path) -> None:
    """With 6, and leaves nothing."""

    def unlabelled(arrays: Arrays) -> Arrays:
        return {name: np.asarray(arrays[name]) for name in ("x", "edge_index")}

    path = write_road(tmp_path, unlabelled)
    assert app.run(["compress", str(path), "--passes", "sparsify-weights{retrain_epochs=9}"]) == 6
    assert not (tmp_path / "model.bundle").exists()
