"""What each argument of a model's `forward` means."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Role(enum.Enum):
    """The part an input plays in message passing."""

    NODE_FEATURES = "node_features"
    EDGE_INDEX = "edge_index"
    EDGE_WEIGHT = "edge_weight"
    EDGE_FEATURES = "edge_features"

    @property
    def is_structure(self) -> bool:
        """Tell whether the input belongs to the graph rather than to one inference."""
        return self is not Role.NODE_FEATURES


NAMES: dict[str, Role] = {
    "x": Role.NODE_FEATURES,
    "edge_index": Role.EDGE_INDEX,
    "edge_weight": Role.EDGE_WEIGHT,
    "edge_attr": Role.EDGE_FEATURES,
}
"""PyG's names for the arguments of `forward`, and what they mean."""

NUM_NODES = "num_nodes"
NUM_EDGES = "num_edges"


@dataclass(frozen=True)
class Input:
    """One argument of the model.

    Args:
        name: as in the model's `forward`.
        role: its part in message passing.
        dtype: numpy name, such as `float32`.
        shape: sizes; a dynamic one is `num_nodes` or `num_edges`.
    """

    name: str
    role: Role
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        sizes = ", ".join(str(size) for size in self.shape)
        return f"{self.name}: {self.dtype} [{sizes}]"
