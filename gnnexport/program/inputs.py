"""What each argument of a model's `forward` means."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

from gnnexport.bundle.graph_sets import Level as Level


class Role(enum.Enum):
    """The part an input plays in message passing."""

    NODE_FEATURES = "node_features"
    EDGE_INDEX = "edge_index"
    EDGE_WEIGHT = "edge_weight"
    EDGE_FEATURES = "edge_features"
    GRAPH_IDS = "graph_ids"
    NUM_GRAPHS = "num_graphs"
    LABEL_EDGES = "label_edges"

    @property
    def is_structure(self) -> bool:
        """Tell whether the input belongs to the graph rather than to one inference."""
        return self not in (Role.NODE_FEATURES, Role.LABEL_EDGES)


NUM_NODES = "num_nodes"
NUM_EDGES = "num_edges"
NUM_GRAPHS = "num_graphs"
NUM_PAIRS = "num_pairs"

NAMES: dict[str, Role] = {
    "x": Role.NODE_FEATURES,
    "edge_index": Role.EDGE_INDEX,
    "edge_weight": Role.EDGE_WEIGHT,
    "edge_attr": Role.EDGE_FEATURES,
    "batch": Role.GRAPH_IDS,
    NUM_GRAPHS: Role.NUM_GRAPHS,
    "edge_label_index": Role.LABEL_EDGES,
}
"""PyG's names for the arguments of `forward`, and what they mean."""

LEVELS: tuple[Level, ...] = ("pair", "graph", "node")
ROWS: dict[Level, str] = {"node": NUM_NODES, "graph": NUM_GRAPHS, "pair": NUM_PAIRS}
"""How many rows an output has."""

Mode = Literal["full", "graphs"]
"""How a model is deployed: for one fixed graph, or for new graphs of any size in every request."""


@dataclass(frozen=True)
class Input:
    """One argument of the model.

    Args:
        name: as in the model's `forward`.
        role: its part in message passing.
        dtype: numpy name, such as `float32`.
        shape: sizes; a dynamic one is `num_nodes`, `num_edges`, `num_graphs` or `num_pairs`; `num_graphs` itself is
            int64 [].
    """

    name: str
    role: Role
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        sizes = ", ".join(str(size) for size in self.shape)
        return f"{self.name}: {self.dtype} [{sizes}]"
