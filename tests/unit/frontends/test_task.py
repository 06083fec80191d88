from __future__ import annotations

from typing import Any

import pytest
import torch

from gnnexport.errors import DataError
from gnnexport.frontends.labels import LEVELS
from gnnexport.frontends.task import check_task, kind_of
from gnnexport.program.data import GraphData

CLASSES = torch.tensor([0, 1, 0, 1, 0, 1])
TARGETS = torch.tensor([0.5, 1, 2, 3, 4, 5])
SEVERAL = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]] * 2)


def data(level: str, y: torch.Tensor | None, **masks: Any) -> GraphData:
    """Make six rows at a level, two for each split; a mask given replaces one, `None` leaves it out."""
    place = torch.tensor([0, 0, 1, 1, 2, 2])
    split = {name: place == number for number, name in enumerate(("train", "val", "test"))}
    kept = {name: mask for name, mask in {**split, **masks}.items() if mask is not None}
    inputs = {"x": torch.ones(6, 1), "edge_index": torch.zeros(2, 0, dtype=torch.int64)}
    return GraphData("six", inputs, y, kept, level)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", LEVELS)
def test_each_kind_takes_its_own_labels(kind: str) -> None:
    """Labels of the level and form of a kind pass, and tell that kind."""
    for y in (TARGETS, SEVERAL * 2) if kind.endswith("regression") else (CLASSES,):
        good = data(LEVELS[kind], y)
        assert check_task(good, kind) == []
        assert kind_of(good) == kind


def test_several_labels_are_a_classification() -> None:
    """Columns of 0 and 1 are several labels; a label that only test rows have is worth a note."""
    assert kind_of(data("graph", SEVERAL)) == "graph-classification"
    assert check_task(data("node", SEVERAL), "node-classification") == []
    rare = SEVERAL.clone()
    rare[:, 1] = torch.tensor([0.0, 0, 0, 0, 1, 1])
    assert check_task(data("node", rare), "node-classification") == ["data: labels [1] are tested but never trained"]


@pytest.mark.parametrize(
    ("faulty", "kind", "words"),
    [
        (data("node", CLASSES), "classification", "unknown kind 'classification'.*Known"),
        (data("node", None), "node-classification", "has no labels.*Add y: one integer"),
        (data("graph", None), "graph-regression", "has no labels, so error.*one number per graph"),
        (data("graph", CLASSES), "node-classification", 'about graphs.*kind = "graph-classification"'),
        (data("node", TARGETS), "graph-regression", 'about nodes.*kind = "node-regression"'),
        (data("node", CLASSES), "link-prediction", "no pairs of nodes.*Add edge_label_index"),
        (data("pair", CLASSES), "node-classification", 'about pairs.*kind = "link-prediction"'),
        (data("graph", TARGETS), "graph-classification", 'floating numbers.*kind = "graph-regression"'),
        (data("graph", SEVERAL * 2), "graph-classification", "floating numbers"),
        (data("pair", TARGETS), "link-prediction", "floating numbers"),
        (data("pair", CLASSES * 2), "link-prediction", "not 0 and 1"),
        (data("pair", torch.ones(6, dtype=torch.int64)), "link-prediction", "all its training pairs have the label 1"),
        (data("pair", SEVERAL), "link-prediction", "not 0 and 1"),
        (data("node", CLASSES), "node-regression", "made of classes.*Write y as float32"),
        (data("graph", TARGETS, test=None), "graph-regression", "has no test mask, so error"),
        (data("graph", CLASSES, val=None), "graph-classification", "has no val mask, so accuracy.*boolean per graph"),
        (data("pair", CLASSES, test=torch.zeros(6, dtype=torch.bool)), "link-prediction", "selects no labelled pair"),
        (data("node", torch.full((6,), -1)), "node-classification", "train mask selects no labelled node"),
        (data("node", torch.full((6,), float("nan"))), "node-regression", "selects no labelled node"),
    ],
)
def test_what_a_task_lacks_is_named(faulty: GraphData, kind: str, words: str) -> None:
    """Labels of another level or form, missing ones and empty masks are errors with a mend."""
    with pytest.raises(DataError, match=words) as caught:
        check_task(faulty, kind)
    assert caught.value.exit_code == 2
    assert caught.value.problems[0].mend


def test_classes_that_are_never_trained_are_noted_up_to_ten() -> None:
    """A long list of unseen classes is cut."""
    y = torch.arange(30)
    place = torch.arange(30)
    masks = {"train": place < 5, "val": place == 5, "test": place > 5}
    inputs = {"x": torch.ones(30, 1), "edge_index": torch.zeros(2, 0, dtype=torch.int64)}
    notes = check_task(GraphData("many", inputs, y, masks), "node-classification")  # type: ignore[arg-type]
    assert notes == [f"data: classes {list(range(6, 16))} and 14 more are tested but never trained"]
