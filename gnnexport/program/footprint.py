"""What running a Program takes of the memory, measured on a small part of a graph and carried over to larger ones."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gnnexport.program.neighbourhoods import Neighbourhood, Neighbourhoods
from gnnexport.program.program import Program, arguments_of
from gnnexport.program.shapes import record_shapes

PROBE_NODES = 1024
PROBE_FANOUTS = (8, 1)
"""Two probes of different numbers of slots tell what nodes and what slots take."""

_FLOAT_BYTES = 4
_INSIDE = 1.7
_INSIDE_SLOT = 40
"""What ops take inside, and the allocator keeps of steps before, was measured to be up to two thirds and so many bytes
of a slot."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that a run takes at its peak."""

    fixed: float
    per_node: float
    per_slot: float

    def bytes(self, nodes: int, slots: int) -> float:
        """Return what a run on so many nodes and slots takes."""
        return self.fixed + nodes * self.per_node + slots * self.per_slot


class _Tracker(TorchDispatchMode):
    """Follow the tensors that ops make until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            # Shapes alone take no memory.
            if isinstance(value, Tensor) and not value.is_meta and not isinstance(value, FakeTensor):
                self._follow(value.untyped_storage())
        return result

    def ignore(self, tensors: Iterable[Any]) -> None:
        """Leave out what was there before."""
        self._known |= {value.untyped_storage()._cdata for value in tensors if isinstance(value, Tensor)}

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def peak_bytes(run: Callable[[], object], given: Iterable[Any] = ()) -> int:
    """Return how much memory tensors take at the peak of a run, besides those given and what ops need inside."""
    tracker = _Tracker()
    tracker.ignore(given)
    with tracker:
        run()
    return tracker.peak


def measure_footprint(
    neighbourhoods: Neighbourhoods, measured: Callable[[Neighbourhood], int], fixed: float = 0
) -> Footprint:
    """Return what runs take, from two small ones.

    Args:
        neighbourhoods: to make them of.
        measured: runs one and returns its bytes.
        fixed: bytes of each run that do not grow with the graph.
    """
    probes = [neighbourhoods.probe(PROBE_NODES, fanout) for fanout in PROBE_FANOUTS]
    many, few = probes
    most, least = (max(measured(probe) - fixed, 0) for probe in probes)
    slots = many.num_slots - few.num_slots
    per_slot = max(most - least, 0) / slots if slots else 0
    per_node = max(most - per_slot * many.num_slots, 0) / len(many.nodes)
    return Footprint(fixed, _INSIDE * per_node, _INSIDE * per_slot + _INSIDE_SLOT)


def value_bytes(program: Program, inputs: Mapping[str, Tensor], structure: Sequence[Any]) -> int:
    """Return the bytes of all values of a body together, counted without computing them."""
    given = program.inputs if program.prepare is None else program.features
    shapes = record_shapes(program.body, [*arguments_of(inputs, [item.name for item in given]), *structure])
    return sum(math.prod(shape) * _FLOAT_BYTES for node, shape in shapes.items() if node.op == "call_function")
