"""What a model reads, what it should answer, and which of its answers may be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from gnnexport.bundle import graph_sets
from gnnexport.program.inputs import NUM_EDGES, NUM_GRAPHS, NUM_NODES, Level, Role, role_of, suffix_of

Split = Literal["train", "val", "test"]
Kind = str | tuple[str, str, str]
"""A kind of nodes, or a kind of edges: source, relation, destination."""

UNLABELLED = -1


@dataclass(frozen=True)
class GraphData:
    """Hold one graph, or a set of graphs laid side by side as PyG batches them.

    Args:
        name: for messages and the report.
        inputs: the model's arguments by the names of its `forward`: `x` float32 [num_nodes, channels],
            `edge_index` int64 [2, num_edges] (source row, destination row), and where there are any
            `edge_weight` float32 [num_edges], `edge_attr` float32 [num_edges, channels], `edge_type` int64
            [num_edges], `node_type` int64 [num_nodes]. A set of graphs also has `batch` int64 [num_nodes],
            ascending, and `num_graphs` int64 []; link prediction has
            `edge_label_index` int64 [2, num_pairs].
        y: one row for each node, graph or pair, as `level` says: classes int64 [rows], `UNLABELLED` where none is
            known; several labels float32 [rows, labels] of 0 and 1, or targets float32 [rows] or [rows, targets],
            NaN where none is known; `None` without labels.
        masks: bool [rows] for `train`, `val` and `test`, as far as the data has them.
        level: what a row of `y` is about.
        target: which nodes `y` is about where there are several kinds: `__paper`; empty for one kind.
        keys: by what PyG names the kind of each input, where there are several: a kind of nodes, or source, relation
            and destination. The inputs are then `x__paper`, `edge_index__author__writes__paper` and so on.
    """

    name: str
    inputs: Mapping[str, Tensor]
    y: Tensor | None = None
    masks: Mapping[Split, Tensor] = field(default_factory=dict)
    level: Level = "node"
    target: str = ""
    keys: Mapping[str, Kind] = field(default_factory=dict)

    @property
    def num_nodes(self) -> int:
        """Nodes, of all kinds together."""
        return sum(count for name, count in self.sizes.items() if name.startswith(NUM_NODES))

    @property
    def num_edges(self) -> int:
        """Directed edges, of all kinds together."""
        return sum(count for name, count in self.sizes.items() if name.startswith(NUM_EDGES))

    @property
    def sizes(self) -> dict[str, int]:
        """How many nodes and edges there are of each kind, by name: `num_nodes`, `num_nodes__paper`."""
        found: dict[str, int] = {}
        for name, value in self.inputs.items():
            if role_of(name) is Role.NODE_FEATURES:
                found[NUM_NODES + suffix_of(name)] = int(value.shape[0])
            elif role_of(name) is Role.EDGE_INDEX:
                found[NUM_EDGES + suffix_of(name)] = int(value.shape[1])
        return found

    @property
    def num_graphs(self) -> int | None:
        """Graphs in a set; `None` for one graph."""
        count = self.inputs.get(NUM_GRAPHS)
        return None if count is None else int(count)

    def by_role(self, role: Role) -> Tensor:
        """Return the input that plays a role; `KeyError` when the data has none."""
        found = next((name for name in self.inputs if role_of(name) is role), None)
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

        Raises:
            DataError: the set has no such graph, or an edge leads from one graph to another.
        """
        if self.num_graphs is None:
            raise ValueError(f"{self.name} is one graph, not a set")
        batch, edge_index = self.inputs["batch"].numpy(), self.inputs["edge_index"].numpy()
        found = graph_sets.select(self.name, batch, edge_index, self.num_graphs, graphs.numpy())
        nodes, edges = torch.from_numpy(found.nodes), torch.from_numpy(found.edges)
        chosen: dict[str, Tensor] = {}
        for name, value in self.inputs.items():
            role = role_of(name)
            if role in (Role.NODE_FEATURES, Role.NODE_TYPE):
                chosen[name] = value[nodes]
            elif role is Role.EDGE_INDEX:
                chosen[name] = torch.from_numpy(found.edge_index)
            elif role in (Role.EDGE_WEIGHT, Role.EDGE_FEATURES, Role.EDGE_TYPE):
                chosen[name] = value[edges]
            elif role is Role.GRAPH_IDS:
                chosen[name] = torch.from_numpy(found.batch)
            elif role is Role.NUM_GRAPHS:
                chosen[name] = torch.tensor(len(graphs))
        rows = graphs if self.level == "graph" else nodes
        masks = {split: mask[rows] for split, mask in self.masks.items()}
        return replace(self, inputs=chosen, y=None if self.y is None else self.y[rows], masks=masks)


def labelled_rows(y: Tensor) -> Tensor:
    """Tell which rows of `GraphData.y` have a label, bool [rows]; of several labels or targets one is enough."""
    known = ~y.isnan() if y.is_floating_point() else y != UNLABELLED
    return known if known.dim() == 1 else known.flatten(1).any(1)
