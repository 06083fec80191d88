"""How data is fed to a Program: all at once, or a set of graphs in few large pieces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gnnexport.program.data import Split
from gnnexport.training.parts import Part


class Feed(ABC):
    """Parts of the data for one Program.

    Args:
        note: how training is done, where it is not simply done on the whole.
    """

    note: str

    @abstractmethod
    def judged(self, split: Split) -> Iterator[Part]:
        """Return parts that hold every labelled row of a split once, always in the same order."""

    @abstractmethod
    def steps(self, teacher: Sequence[Tensor] | None) -> Iterator[Part]:
        """Return a part for each step of an epoch, in an order drawn from the global random state.

        Args:
            teacher: another Program's answers for the training rows, for each part in the order of `judged`.
        """


@dataclass(frozen=True)
class WholeFeed(Feed):
    """One graph at once, or a set in few pieces, prepared once."""

    made: Callable[[Split], list[Part]]
    note: str = ""
    _known: dict[Split, list[Part]] = field(default_factory=dict)

    def judged(self, split: Split) -> Iterator[Part]:
        """Return a part for each piece."""
        if split not in self._known:
            self._known[split] = self.made(split)
        yield from self._known[split]

    def steps(self, teacher: Sequence[Tensor] | None) -> Iterator[Part]:
        """Return the pieces in an order of their own."""
        parts = list(self.judged("train"))
        for index in torch.randperm(len(parts)).tolist() if len(parts) > 1 else [0]:
            yield parts[index] if teacher is None else parts[index].taught(teacher[index])
