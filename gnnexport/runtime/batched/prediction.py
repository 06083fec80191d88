"""What a request in mode `batched` gets back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """Answers for some nodes.

    Args:
        outputs: [nodes asked for, …] by name, in the order asked for.
        version: of the graph that was read: how many updates it had seen.
        computed: of each stage, by name, how many rows were computed.
        found: of each stage how many rows the store had.
    """

    outputs: dict[str, NDArray[Any]]
    version: int
    computed: dict[str, int]
    found: dict[str, int]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.outputs[name]
