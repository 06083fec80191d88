"""What requests are answered from: stages, tables, structures, stores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.stages import Batched, Part, Stage, StageInput, StoreBits
from gnnexport.runtime.backend import Backend
from gnnexport.runtime.batched.growing import Ids
from gnnexport.runtime.batched.packed_tables import Table
from gnnexport.runtime.batched.store import RowStore, share_out, wanted_bytes
from gnnexport.runtime.batched.structure import GraphStructure


def stage_name(depth: int) -> str:
    """Return what the inputs of stages call the rows of the stage of this depth."""
    return f"stage-{depth}"


@dataclass(frozen=True)
class Link:
    """One stage, the engine that runs it, and the rows of it that are kept.

    Args:
        spec: what the manifest says of it.
        backend: with its model loaded.
        store: `None` for the last stage, whose rows are the answer.
    """

    spec: Stage
    backend: Backend
    store: RowStore | None
    _turn: Lock = field(default_factory=Lock)

    @property
    def tail(self) -> tuple[int, ...]:
        """Return the shape of one row as the model gives it."""
        shape = next((tensor.shape[1:] for tensor in self.backend.outputs if tensor.name == self.spec.output), ())
        sizes = tuple(size for size in shape if isinstance(size, int))
        return sizes if len(sizes) == len(shape) and math.prod(sizes) == self.spec.width else (self.spec.width,)

    @cached_property
    def name(self) -> str:
        """Return what other stages call its rows."""
        return stage_name(self.spec.depth)

    @property
    def rounds(self) -> bool:
        """Tell whether its rows are rounded for the stages that read them."""
        return self.store is not None and self.store.bits < 32

    def inputs(self, *parts: Part) -> list[StageInput]:
        """Return the inputs that hold one of these parts."""
        return [given for given in self.spec.inputs if given.part in parts]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Run the model; where the engine takes one request at a time, others wait."""
        turn: AbstractContextManager[Any] = nullcontext() if self.backend.concurrent else self._turn
        with turn:
            rows = self.backend.run(feeds)[self.spec.output]
            # The next request of such an engine may write where this one did.
            return rows if self.backend.concurrent else rows.copy()


class Chain:
    """Everything that a model in mode `batched` is made of. It guards nothing by itself."""

    def __init__(
        self,
        spec: Batched,
        tables: Mapping[str, Table],
        structures: Mapping[str, GraphStructure],
        node_values: Mapping[str, NDArray[Any]],
        backends: Sequence[Backend],
        store_bytes: int,
        store_bits: StoreBits = 32,
    ) -> None:
        """Join what was loaded.

        Args:
            spec: of the manifest.
            tables: of features.
            structures: of the graph.
            node_values: [nodes, …], values of the graph that belong to no slot.
            backends: one for each stage.
            store_bytes: memory for the rows of all stages that are kept.
            store_bits: of a number of these.
        """
        self.spec = spec
        self.tables = dict(tables)
        self.structures = dict(structures)
        self.node_values = dict(node_values)
        self.scaled = {value.name for value in spec.values if value.scales}
        kept = spec.stages[:-1]
        shares = share_out(store_bytes, [wanted_bytes(self.num_nodes, stage.width, store_bits) for stage in kept])
        stores: list[RowStore | None] = [
            RowStore(self.num_nodes, stage.width, share, store_bits) for stage, share in zip(kept, shares, strict=True)
        ]
        found = zip(spec.stages, backends, [*stores, None], strict=True)
        self.links = [Link(stage, backend, store) for stage, backend, store in found]
        self.by_name = {link.name: link for link in self.links}

    @property
    def num_nodes(self) -> int:
        """How many nodes the graph has."""
        return len(next(iter(self.tables.values())))

    @property
    def stores(self) -> dict[str, RowStore]:
        """Return the stores by stage."""
        return {link.name: link.store for link in self.links if link.store is not None}

    def most_read(self) -> Ids:
        """Return all nodes, those first that most slots read."""
        counts = [structure.read_counts() for structure in self.structures.values()]
        return np.argsort(-np.sum(counts, axis=0), kind="stable") if counts else np.arange(self.num_nodes)

    @property
    def sampled(self) -> list[Link]:
        """Return the stages that reduce over neighbours, the last one first."""
        return [link for link in reversed(self.links) if link.spec.structure is not None]
