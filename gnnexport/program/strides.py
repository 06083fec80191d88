"""Every so manieth row, while a model is captured: the numbers of rows of `x[0::4]` and `x[2::4]` must be known equal.

A model that pairs such parts is made for a multiple of the step. The stand-ins count rows by it where their number is
open, so that all parts are equally long; what is left over is not read. That is right only where the parts are paired,
and nothing tells which are: a model that cuts open numbers of rows in more than one way is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.overrides import TorchFunctionMode

LEAST_ROWS = 8
"""Of what is cut into parts: torch.export takes a part of one row for a size that never changes."""


def uneven_parts(error: Exception) -> bool:
    """Tell whether an error says that every so manieth row of something gave parts of different lengths."""
    text = str(error)
    unequal = "must match the size of tensor" in text and text.count("//") >= 2
    return unequal or re.search(r"= \d+\*_", text) is not None


@contextmanager
def even_parts(wanted: bool = True) -> Iterator[None]:
    """Count the rows of each part by the step."""
    with _EvenParts() if wanted else nullcontext():
        yield


class _EvenParts(TorchFunctionMode):
    """Read and write parts by the numbers of their rows; make what will be written zero first."""

    def __init__(self) -> None:
        super().__init__()
        self.cuts: set[tuple[str, int]] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            return torch.zeros(*args, **kwargs)
        if func is torch.Tensor.__getitem__ and _is_part(args[1]):
            return args[0].index_select(0, self._rows(args[0], args[1]))
        if func is torch.Tensor.__setitem__ and _is_part(args[1]):
            args[0].index_copy_(0, self._rows(args[0], args[1]), args[2])
            return None
        return func(*args, **kwargs)

    def _rows(self, values: Tensor, part: slice) -> Tensor:
        """Return the numbers of the rows of a part; of a number of rows that is known, also what is left over.

        Raises:
            ValueError: another number of rows, or another step, than that of the parts before.
        """
        count, start = values.size(0), part.start or 0
        if isinstance(count, int):
            return torch.arange(min(start, count), count, part.step)
        if not statically_known_true(count % part.step == 0):
            self.cuts.add((str(count), part.step))
        if len(self.cuts) > 1:
            cut = f"[{start}::{part.step}] and another part"
            raise ValueError(f"{cut} are cut of different rows, and only parts of the same can be paired")
        rows: Tensor = torch.arange(count // part.step) * part.step + start
        return rows


def _is_part(index: Any) -> bool:
    return (
        isinstance(index, slice)
        and isinstance(index.step, int)
        and index.step > 1
        and index.stop is None
        and 0 <= (index.start or 0) < index.step
    )
