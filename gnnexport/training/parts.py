"""What a Program is run on in one go, and how sets of graphs are cut into such parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gnnexport.errors import DataError
from gnnexport.program.data import GraphData, Split, labelled_rows
from gnnexport.program.program import Program
from gnnexport.training.distillation import Objective

LARGE_NODES = 200_000
"""Sets of more nodes are cut."""

BATCH_NODES = 50_000
"""Nodes of one piece of a large set, unless a single graph has more."""


@dataclass(frozen=True)
class Part:
    """Inputs that a Program runs on in one go, and which of its answers count.

    Args:
        inputs: by name.
        structure: what `prepare` made of the graph.
        rows: of the output, int64 [n].
        y: labels of these rows.
        answers: how many rows the output is to have.
        level: what a row of the labels is about, for messages.
        teacher: another model's answers, for these rows or those that are guided.
        guided: rows of the output that the teacher answers for, int64; `None` where they are the same.
    """

    inputs: Mapping[str, Tensor]
    structure: tuple[Any, ...]
    rows: Tensor
    y: Tensor
    answers: int
    level: str = "node"
    teacher: Tensor | None = None
    guided: Tensor | None = None

    def run(self, program: Program) -> Tensor:
        """Return the answers that count.

        Raises:
            DataError: the Program answers for something else than the labels.
        """
        return self._all(program)[self.rows]

    def loss(self, program: Program, objective: Objective) -> Tensor:
        """Return the loss of a training step on this part.

        Raises:
            DataError: the Program answers for something else than the labels, or the loss does not suit them.
        """
        output = self._all(program)
        guided = None if self.guided is None else output[self.guided]
        return objective.of(output[self.rows], self.y, self.teacher, guided)

    def _all(self, program: Program) -> Tensor:
        output = program.run_body(self.inputs, self.structure)
        if len(output) != self.answers:
            what = f"the model answers for {len(output)} rows where there are labels for {self.answers}"
            mend = f"Labels are for each {self.level}: give a model that answers for each, or other labels"
            raise DataError.at("data", what, mend)
        return output

    def taught(self, answers: Tensor) -> Part:
        """Return the same part with a teacher's answers: for its rows, or for every row of the output."""
        guided = None if len(answers) == len(self.rows) else torch.arange(self.answers)
        return replace(self, teacher=answers, guided=guided)


def rows_of(data: GraphData, split: Split) -> Tensor:
    """Return the labelled rows of a split, int64 [n], ascending."""
    assert data.y is not None
    return torch.nonzero(data.masks[split] & labelled_rows(data.y)).flatten()


def whole_part(program: Program, data: GraphData, split: Split, structure: tuple[Any, ...] | None = None) -> Part:
    """Return all of the data as one part for a Program.

    Args:
        program: whose `prepare` makes the structure.
        data: with labels.
        split: whose rows count.
        structure: where it is made already.
    """
    assert data.y is not None
    rows = rows_of(data, split)
    made = program.structure(data.inputs) if structure is None else structure
    return Part(data.inputs, made, rows, data.y[rows], len(data.y), data.level)


def split_set(
    data: GraphData, split: Split, *, seed: int | None = None, most_nodes: int | None = None
) -> list[GraphData]:
    """Return the graphs of one split, all together or in mini-batches when they are large.

    Graphs with no labelled row in the split stay out, so that training never sees the features of others. One graph
    is one piece, whatever the split; so is a set whose rows are pairs, which may join graphs.

    Args:
        data: a graph or a set.
        split: whose labelled rows count.
        seed: shuffles the graphs before they are cut; `None` keeps their order.
        most_nodes: of a piece, unless a single graph has more; never more than `BATCH_NODES` once a set is cut.
    """
    if data.num_graphs is None or data.level == "pair":
        return [data]
    graphs = _graphs_of(data, split)
    nodes = torch.bincount(data.inputs["batch"], minlength=data.num_graphs)[graphs]
    if int(nodes.sum()) <= min(LARGE_NODES, most_nodes or LARGE_NODES):
        return [data.select(graphs)]
    if seed is not None:
        order = torch.randperm(len(graphs), generator=torch.Generator().manual_seed(seed))
        graphs, nodes = graphs[order], nodes[order]
    return [data.select(part) for part in _cut(graphs, nodes, min(BATCH_NODES, most_nodes or BATCH_NODES))]


def graphs_seen(data: GraphData, *, seed: int | None = None) -> list[GraphData]:
    """Return what a pass may look at to choose what goes: one graph, or of a set with labels those that are trained on.

    Args:
        data: a graph or a set.
        seed: of `split_set`.
    """
    return [data] if data.y is None else split_set(data, "train", seed=seed)


def _graphs_of(data: GraphData, split: Split) -> Tensor:
    """Return the graphs with a labelled row in a split, ascending; all of them when there is none to judge."""
    assert data.y is not None
    rows = data.masks[split] & labelled_rows(data.y)
    found = torch.nonzero(rows).flatten() if data.level == "graph" else data.inputs["batch"][rows].unique()
    return found if len(found) else torch.arange(data.num_graphs or 0)


def _cut(graphs: Tensor, nodes: Tensor, most: int) -> list[Tensor]:
    """Cut a list of graphs so that no piece has more nodes than allowed, unless a single graph has."""
    pieces: list[Tensor] = []
    start = total = 0
    for place, count in enumerate(nodes.tolist()):
        if total and total + count > most:
            pieces.append(graphs[start:place])
            start, total = place, 0
        total += count
    return [*pieces, graphs[start:]]
