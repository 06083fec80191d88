from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gnnexport.errors import DataError, SpecError
from gnnexport.training.kinds import KINDS, LossName
from gnnexport.training.task import LOSSES, Task, check_logits, compute_loss, infer_kind, infer_task, loss_for

CLASSES = torch.tensor([0, 1, 2])
TARGETS = torch.tensor([0.5, -1.0, 3.0])
SEVERAL = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, float("nan")]])
PAIRS = torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("level", "y", "width", "kind", "metric", "loss"),
    [
        ("node", CLASSES, 3, "node-classification", "accuracy", "cross-entropy"),
        ("graph", CLASSES, 3, "graph-classification", "accuracy", "cross-entropy"),
        ("graph", PAIRS, 1, "graph-classification", "accuracy", "bce"),
        ("graph", SEVERAL, 2, "graph-classification", "f1-multilabel", "bce"),
        ("node", TARGETS, 1, "node-regression", "mae", "mse"),
        ("graph", torch.stack([TARGETS, TARGETS], 1), 2, "graph-regression", "mae", "mse"),
        ("pair", PAIRS, 1, "link-prediction", "roc-auc", "bce"),
        ("pair", PAIRS.float(), 2, "link-prediction", "roc-auc", "cross-entropy"),
        ("pair", None, None, "link-prediction", "roc-auc", "bce"),
        ("node", None, None, "node-classification", "accuracy", "cross-entropy"),
    ],
)
def test_labels_and_output_tell_the_task(level, y, width, kind, metric, loss) -> None:
    """What nobody says is inferred: kind, metric, and a loss that suits the number of outputs."""
    task = infer_task(level, y, width)
    assert (task.kind, task.metric, task.loss) == (kind, metric, loss)


def test_what_is_said_counts() -> None:
    """A kind, metric, loss and settings that are named are taken as they are."""
    task = infer_task("graph", TARGETS, 1, kind="graph-regression", metric="rmse", loss="l1", epochs=3)
    assert (task.kind, task.metric, task.loss, task.epochs) == ("graph-regression", "rmse", "l1", 3)
    assert not task.higher_is_better
    with pytest.raises(SpecError, match="Did you mean 'rmse'"):
        infer_task("graph", TARGETS, 1, metric="rmsee")


@pytest.mark.parametrize(
    ("level", "y", "kind", "words"),
    [
        (
            "node",
            CLASSES,
            "graph-classification",
            r"for each graph, but .* each node. Write kind = .node-classification",
        ),
        ("graph", PAIRS, "link-prediction", "for each pair, but the data has labels for each graph"),
        ("graph", TARGETS, "graph-classification", r"not classes: \[3\] numbers .* Write kind = .graph-regression"),
    ],
)
def test_kinds_that_the_labels_are_not_of(level, y, kind, words) -> None:
    """A kind of another level, or classes that are no classes, are refused with the kind that fits."""
    with pytest.raises(DataError, match=words):
        infer_task(level, y, 3, kind=kind)


def test_every_kind_has_a_loss() -> None:
    """No kind is without a loss, and every loss named exists."""
    assert {loss_for(kind) for kind in KINDS} <= set(LOSSES)
    assert infer_kind("node", CLASSES) in KINDS


@pytest.mark.parametrize("name", ["bce", "mse", "l1"])
@pytest.mark.parametrize("shapes", [((4,), (4, 1)), ((4, 1), (4,)), ((4, 1), (4, 1)), ((4,), (4,))])
def test_one_column_is_compared_row_by_row(name, shapes) -> None:
    """[rows, 1] against [rows] is brought into line instead of comparing each row with all."""
    y, output = torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([0.5, -2.0, 3.0, 1.0])
    expected = LOSSES[name](output, y)
    assert torch.equal(compute_loss(name, output.reshape(shapes[1]), y.reshape(shapes[0])), expected)


def test_classes_may_be_targets_of_numbers() -> None:
    """Classes 0 and 1 are targets of bce; floats that are classes are classes of cross-entropy."""
    logits = torch.tensor([0.5, -2.0, 3.0])
    assert torch.equal(
        compute_loss("bce", logits, PAIRS), functional.binary_cross_entropy_with_logits(logits, PAIRS.float())
    )
    scores = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(compute_loss("cross-entropy", scores, PAIRS.float()), functional.cross_entropy(scores, PAIRS))


@pytest.mark.parametrize(
    ("name", "output", "y", "words"),
    [
        ("cross-entropy", torch.ones(3, 1), PAIRS, r"wants scores \[rows, classes\].*not \[3, 1\].* Use bce"),
        ("nll", torch.ones(3), PAIRS, r"not \[3\] and \[3\]"),
        ("cross-entropy", torch.ones(3, 2), SEVERAL, "one class a row"),
        ("mse", torch.ones(3, 3), TARGETS, r"one number for each target, not \[3, 3\] for \[3\]"),
        ("bce", torch.ones(3, 2), PAIRS, r"not \[3, 2\] for \[3\]. Use cross-entropy"),
        ("l1", torch.ones(3), torch.ones(3, 2), r"not \[3\] for \[3, 2\]"),
    ],
)
def test_losses_that_would_misread(name, output: Tensor, y: Tensor, words) -> None:
    """A loss never broadcasts, and a loss of classes never sees a single score."""
    with pytest.raises(DataError, match=words):
        compute_loss(name, output, y)


@pytest.mark.parametrize(
    ("metric", "columns"), [("accuracy", 0), ("accuracy", 1), ("f1-macro", 1), ("f1-multilabel", 3)]
)
def test_probabilities_are_no_logits(metric: str, columns: int) -> None:
    """A model that ends in a sigmoid is refused where the sign of its answers is what counts."""
    logits = torch.linspace(-9, 9, 12).reshape(-1, columns) if columns else torch.linspace(-9, 9, 12)
    task = Task(metric=metric)
    with pytest.raises(DataError, match=f"numbers from 0 to 1, but {metric} takes logits.* Leave the sigmoid"):
        check_logits(task, logits.sigmoid(), "Net")
    for fine in (logits, torch.zeros_like(logits), logits.sigmoid() * torch.nan):
        check_logits(task, fine, "Net")


@pytest.mark.parametrize(("metric", "columns"), [("accuracy", 3), ("roc-auc", 1), ("roc-auc", 3), ("mae", 1)])
def test_probabilities_do_where_signs_do_not_count(metric: str, columns: int) -> None:
    """The best class, an order and a number can be read from numbers between 0 and 1."""
    check_logits(Task(metric=metric), torch.linspace(0.1, 0.9, 12).reshape(-1, columns), "Net")


@pytest.mark.parametrize("loss", ["bce", "mse", "l1"])
def test_unknown_labels_have_no_part_in_the_loss(loss: LossName) -> None:
    """A row whose labels are known in part counts with that part; its gradient is finite."""
    output = torch.tensor([[0.3, -1.0], [2.0, 0.5], [0.1, 0.7]], requires_grad=True)
    flat = compute_loss(loss, output.flatten()[:5], SEVERAL.flatten()[:5])
    whole = compute_loss(loss, output, SEVERAL)
    assert float(whole.detach()) == pytest.approx(float(flat.detach()))
    whole.backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()
    assert output.grad[2, 1] == 0
