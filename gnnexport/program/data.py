"""What a model reads, what it should answer, and which of its answers may be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from gnnexport.program.inputs import NAMES, NUM_GRAPHS, Level, Role

Split = Literal["train", "val", "test"]
UNLABELLED = -1


@dataclass(frozen=True)
class GraphData:
    """Hold one graph, or a set of graphs laid side by side as PyG batches them.

    Args:
        name: for messages and the report.
        inputs: the model's arguments by the names of its `forward`: `x` float32 [num_nodes, channels],
            `edge_index` int64 [2, num_edges] (source row, destination row), and where there are any
            `edge_weight` float32 [num_edges], `edge_attr` float32 [num_edges, channels]. A set of graphs also
            has `batch` int64 [num_nodes], ascending, and `num_graphs` int64 []; link prediction has
            `edge_label_index` int64 [2, num_pairs].
        y: one row for each node, graph or pair, as `level` says: classes int64 [rows], `UNLABELLED` where none is
            known; several labels float32 [rows, labels] of 0 and 1, or targets float32 [rows] or [rows, targets],
            NaN where none is known; `None` without labels.
        masks: bool [rows] for `train`, `val` and `test`, as far as the data has them.
        level: what a row of `y` is about.
    """

    name: str
    inputs: Mapping[str, Tensor]
    y: Tensor | None = None
    masks: Mapping[Split, Tensor] = field(default_factory=dict)
    level: Level = "node"

    @property
    def num_nodes(self) -> int:
        """Rows of the node features."""
        return int(self.by_role(Role.NODE_FEATURES).shape[0])

    @property
    def num_edges(self) -> int:
        """Columns of the edge index: directed edges."""
        return int(self.by_role(Role.EDGE_INDEX).shape[1])

    @property
    def num_graphs(self) -> int | None:
        """Graphs in a set; `None` for one graph."""
        count = self.inputs.get(NUM_GRAPHS)
        return None if count is None else int(count)

    def by_role(self, role: Role) -> Tensor:
        """Return the input that plays a role; `KeyError` when the data has none."""
        found = next((name for name, known in NAMES.items() if known is role and name in self.inputs), None)
        if found is None:
            raise KeyError(role.value)
        return self.inputs[found]

    def hide(self, split: Split) -> GraphData:
        """Return the same data with the labels of one split unknown and its mask emptied."""
        if self.y is None or split not in self.masks:
            return self
        mask = self.masks[split]
        unknown = float("nan") if self.y.is_floating_point() else UNLABELLED
        y = self.y.clone()
        y[mask] = unknown
        return replace(self, y=y, masks={**self.masks, split: torch.zeros_like(mask)})

    def select(self, graphs: Tensor) -> GraphData:
        """Return the set of some of the graphs, in the order given.

        Args:
            graphs: int64 [n], numbers of graphs of this set; `ValueError` where this is not a set.
        """
        if self.num_graphs is None:
            raise ValueError(f"{self.name} is one graph, not a set")
        batch, edges = self.inputs["batch"], self.inputs["edge_index"]
        counts = torch.bincount(batch, minlength=self.num_graphs)
        nodes = _rows_of(graphs, counts)
        new_ids = torch.full((self.num_nodes,), -1, dtype=torch.int64)
        new_ids[nodes] = torch.arange(len(nodes))
        owner = batch[edges[0]]
        order = torch.argsort(owner, stable=True)
        kept = order[_rows_of(graphs, torch.bincount(owner, minlength=self.num_graphs))]
        chosen: dict[str, Tensor] = {}
        for name, value in self.inputs.items():
            role = NAMES[name]
            if role is Role.NODE_FEATURES:
                chosen[name] = value[nodes]
            elif role is Role.EDGE_INDEX:
                chosen[name] = new_ids[value[:, kept]]
            elif role in (Role.EDGE_WEIGHT, Role.EDGE_FEATURES):
                chosen[name] = value[kept]
            elif role is Role.GRAPH_IDS:
                chosen[name] = torch.repeat_interleave(torch.arange(len(graphs)), counts[graphs])
            elif role is Role.NUM_GRAPHS:
                chosen[name] = torch.tensor(len(graphs))
        rows = graphs if self.level == "graph" else nodes
        masks = {split: mask[rows] for split, mask in self.masks.items()}
        return replace(self, inputs=chosen, y=None if self.y is None else self.y[rows], masks=masks)


def labelled_rows(y: Tensor) -> Tensor:
    """Tell which rows of `GraphData.y` have a label, bool [rows]; of several labels or targets one is enough."""
    known = ~y.isnan() if y.is_floating_point() else y != UNLABELLED
    return known if known.dim() == 1 else known.flatten(1).any(1)


def _rows_of(graphs: Tensor, counts: Tensor) -> Tensor:
    """Return the rows of some graphs, one graph after the other, where rows are grouped by graph."""
    ends = counts.cumsum(0)
    starts = ends - counts
    parts = [torch.arange(int(starts[graph]), int(ends[graph])) for graph in graphs.tolist()]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
