"""One graph with what a model reads from it, what it should answer, and which nodes may be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from gnnexport.program.inputs import NAMES, Role

Split = Literal["train", "val", "test"]
UNLABELLED = -1


@dataclass(frozen=True)
class GraphData:
    """Hold one graph.

    Args:
        name: for messages and the report.
        inputs: the model's arguments by the names of its `forward`: `x` float32 [num_nodes, channels],
            `edge_index` int64 [2, num_edges] (source row, destination row), and where the model takes
            them `edge_weight` float32 [num_edges], `edge_attr` float32 [num_edges, channels].
        y: int64 [num_nodes], `UNLABELLED` where no label is known; `None` without labels.
        masks: bool [num_nodes] for `train`, `val` and `test`, as far as the data has them.
    """

    name: str
    inputs: Mapping[str, Tensor]
    y: Tensor | None = None
    masks: Mapping[Split, Tensor] = field(default_factory=dict)

    @property
    def num_nodes(self) -> int:
        """Rows of the node features."""
        return int(self.by_role(Role.NODE_FEATURES).shape[0])

    @property
    def num_edges(self) -> int:
        """Columns of the edge index: directed edges."""
        return int(self.by_role(Role.EDGE_INDEX).shape[1])

    def by_role(self, role: Role) -> Tensor:
        """Return the input that plays a role; `KeyError` when the data has none."""
        return next(self.inputs[name] for name, known in NAMES.items() if known is role and name in self.inputs)

    def hide(self, split: Split) -> GraphData:
        """Return the same graph with the labels of one split set to `UNLABELLED` and its mask emptied."""
        if self.y is None or split not in self.masks:
            return self
        mask = self.masks[split]
        y = torch.where(mask, torch.full_like(self.y, UNLABELLED), self.y)
        return replace(self, y=y, masks={**self.masks, split: torch.zeros_like(mask)})
