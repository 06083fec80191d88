"""Tasks: whether data has what training and judging a model of a kind of task takes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gnnexport.errors import DataError, nearest
from gnnexport.frontends.graph_sets import SPLITS
from gnnexport.frontends.labels import LEVELS, NAMES
from gnnexport.program.data import GraphData, labelled_rows
from gnnexport.program.inputs import Level
from gnnexport.training.kinds import TaskKind
from gnnexport.training.task import infer_kind

MOST_LISTED = 10
CLASSIFICATION: Mapping[Level, str] = {
    "node": "node-classification",
    "graph": "graph-classification",
    "pair": "link-prediction",
}


def kind_of(data: GraphData) -> TaskKind:
    """Tell the kind of task that labels are for: by what they are about, and whether they are whole numbers."""
    return infer_kind(data.level, data.y)


def check_task(data: GraphData, kind: str = "node-classification") -> list[str]:
    """Check that data can train and judge a model of a kind of task; returns what is worth a note.

    Raises:
        DataError: labels or a mask are missing or empty, or are not what the task is about.
    """
    if kind not in LEVELS:
        raise DataError.at("task", f"unknown kind '{kind}'", nearest(kind, LEVELS))
    level = LEVELS[kind]
    if level == "pair" and data.level != "pair":
        mend = "Add edge_label_index: int64 [2, num_pairs], and edge_label: 1 for a true pair, 0 for another"
        raise DataError.at(data.name, "has no pairs of nodes to predict", mend)
    if data.y is None:
        mend = f"Add y: one {_form(kind)} per {level}"
        raise DataError.at(data.name, f"has no labels, so {_measure(kind)} cannot be measured", mend)
    if level != data.level:
        what = f"its labels are about {NAMES[data.level]}, which is not {kind}"
        raise DataError.at(data.name, what, f'Set kind = "{kind_of(data)}" under [task], or give one y per {level}')
    _check_form(data, data.y, kind)
    return _check_masks(data, data.y, kind)


def _measure(kind: str) -> str:
    return "error" if kind.endswith("regression") else "accuracy"


def _form(kind: str) -> str:
    return "number" if kind.endswith("regression") else "integer (-1 where unknown)"


def _check_form(data: GraphData, y: Tensor, kind: str) -> None:
    """Check that labels are classes, several labels or targets, as the kind wants."""
    if kind.endswith("regression"):
        if not y.is_floating_point():
            mend = f'Write y as float32, or set kind = "{CLASSIFICATION[data.level]}" under [task]'
            raise DataError.at(data.name, f"y is made of classes, which is not {kind}", mend)
        return
    if y.is_floating_point() and not _is_several(y):
        what = f"y is made of floating numbers, which is not {kind}"
        mend = "Write classes as int64, several labels as 0 and 1"
        other = f'; targets are for kind = "{data.level}-regression"' if data.level != "pair" else ""
        raise DataError.at(data.name, what, mend + other)
    if kind == "link-prediction" and (y.dim() != 1 or bool((y > 1).any())):
        raise DataError.at(data.name, "the labels of its pairs are not 0 and 1", "Give edge_label as 0 and 1")


def _check_masks(data: GraphData, y: Tensor, kind: str) -> list[str]:
    level = LEVELS[kind]
    for split in SPLITS:
        if split not in data.masks:
            mend = f"Add {split}_mask: one boolean per {level}"
            raise DataError.at(data.name, f"has no {split} mask, so {_measure(kind)} cannot be measured", mend)
        if not bool((data.masks[split] & labelled_rows(y)).any()):
            raise DataError.at(data.name, f"its {split} mask selects no labelled {level}", f"Fill {split}_mask")
    if y.is_floating_point():
        return _unseen_labels(y, data) if _is_several(y) else []
    trained, tested = (set(y[data.masks[split]].tolist()) for split in ("train", "test"))
    if level == "pair" and len(trained) < 2:
        mend = "Add pairs of the other label: RandomLinkSplit(add_negative_train_samples=True)"
        raise DataError.at(data.name, f"all its training pairs have the label {min(trained)}", mend)
    unseen = sorted(tested - trained)
    if not unseen:
        return []
    listed = (
        f"{unseen}" if len(unseen) <= MOST_LISTED else f"{unseen[:MOST_LISTED]} and {len(unseen) - MOST_LISTED} more"
    )
    return [f"data: classes {listed} are tested but never trained"]


def _unseen_labels(y: Tensor, data: GraphData) -> list[str]:
    trained, tested = ((y[data.masks[split]] > 0).any(0) for split in ("train", "test"))
    unseen = torch.nonzero(tested & ~trained)[:, 0].tolist()
    return [f"data: labels {unseen[:MOST_LISTED]} are tested but never trained"] if unseen else []


def _is_several(y: Tensor) -> bool:
    """Tell several labels, 0 and 1 in columns, from targets."""
    return y.dim() == 2 and bool(((y == 0) | (y == 1) | y.isnan()).all())
