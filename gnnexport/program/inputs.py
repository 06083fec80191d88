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
    EDGE_TYPE = "edge_type"
    NODE_TYPE = "node_type"
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

TYPES = (Role.EDGE_TYPE, Role.NODE_TYPE)
"""Roles of numbers that tell kinds apart."""

NAMES: dict[str, Role] = {
    "x": Role.NODE_FEATURES,
    "edge_index": Role.EDGE_INDEX,
    "edge_weight": Role.EDGE_WEIGHT,
    "edge_attr": Role.EDGE_FEATURES,
    "edge_type": Role.EDGE_TYPE,
    "node_type": Role.NODE_TYPE,
    "batch": Role.GRAPH_IDS,
    NUM_GRAPHS: Role.NUM_GRAPHS,
    "edge_label_index": Role.LABEL_EDGES,
}
"""PyG's names for the arguments of `forward`, and what they mean."""

OF = "__"
"""Stands before the kind of nodes, or the three parts of a kind of edges, that an input or a size belongs to."""

LEVELS: tuple[Level, ...] = ("pair", "graph", "node")
ROWS: dict[Level, str] = {"node": NUM_NODES, "graph": NUM_GRAPHS, "pair": NUM_PAIRS}
"""How many rows an output has."""

Mode = Literal["full", "batched", "graphs"]
"""How a model is deployed: for one fixed graph, for requests about some nodes of one graph that grows, or for new
graphs of any size in every request."""


def role_of(name: str) -> Role | None:
    """Return what an input means by its name, `x` or `x__paper`; `None` for a name PyG does not use."""
    return NAMES.get(name.partition(OF)[0])


def suffix_of(name: str) -> str:
    """Return what stands behind the name of an input: `__paper` of `x__paper`, nothing of `x`."""
    return name[len(name.partition(OF)[0]) :]


def ends_of(name: str) -> tuple[str, str]:
    """Return which nodes the two rows of an edge index count, by its name.

    Those of `edge_index__author__writes__paper` count `num_nodes__author` and `num_nodes__paper`.
    """
    parts = name.split(OF)
    return (NUM_NODES, NUM_NODES) if len(parts) == 1 else (NUM_NODES + OF + parts[1], NUM_NODES + OF + parts[-1])


@dataclass(frozen=True)
class Input:
    """One argument of the model.

    Args:
        name: as in the model's `forward`.
        role: its part in message passing.
        dtype: numpy name, such as `float32`.
        shape: sizes; a dynamic one is `num_nodes`, `num_edges`, `num_graphs` or `num_pairs`, of a kind of nodes or
            edges `num_nodes__paper`; `num_graphs` itself is int64 [].
        types: how many values there are where the role is a type, numbered from 0.
    """

    name: str
    role: Role
    dtype: str
    shape: tuple[int | str, ...]
    types: int | None = None

    def __str__(self) -> str:
        sizes = ", ".join(str(size) for size in self.shape)
        return f"{self.name}: {self.dtype} [{sizes}]"
