"""Kinds of task and names of losses, as people write them. Free of torch."""

from __future__ import annotations

from typing import Literal, get_args

TaskKind = Literal[
    "node-classification", "graph-classification", "node-regression", "graph-regression", "link-prediction"
]
"""What a model answers; a classification whose labels have a second axis is one of several labels."""

LossName = Literal["cross-entropy", "nll", "bce", "mse", "l1"]
"""`bce` takes logits, one for each label."""

KINDS: tuple[TaskKind, ...] = get_args(TaskKind)

Rows = Literal["all", "train"]
"""Which answers of a teacher a model learns from."""
