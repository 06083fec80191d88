"""What a backend is: it maps named arrays to named arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from numpy.typing import NDArray

from gnnexport.bundle.manifest import Tensor


class Backend(ABC):
    """An inference engine with one model loaded."""

    concurrent: ClassVar[bool] = False
    """Whether several threads may run it at once; else one result may lie where the one before did."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @abstractmethod
    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model on arrays that were checked already; return every output by name."""

    @abstractmethod
    def close(self) -> None:
        """Release the engine."""
