"""A model in mode `batched`: answers for some nodes of a graph that changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from gnnexport.errors import UsageError, nearest
from gnnexport.runtime.batched.chain import Chain
from gnnexport.runtime.batched.change import Update, check_change, make_change
from gnnexport.runtime.batched.computation import Computation, Terms
from gnnexport.runtime.batched.lock import ReadersWriter
from gnnexport.runtime.batched.prediction import Prediction
from gnnexport.runtime.batched.request import node_ids, terms

_WARM_ROWS = 4096
"""Rows of a stage that are computed at once while the store is filled."""


class BatchedModel:
    """Answer for some nodes; any number of threads may ask, while others change the graph."""

    def __init__(self, chain: Chain, where: str = "runner", threads: int | None = None) -> None:
        """Take over what was loaded.

        Args:
            chain: nobody else changes it.
            where: names the model in messages.
            threads: to look for neighbours with; `None` for all.
        """
        self._chain = chain
        self._where = where
        self._threads = threads or 0
        self._lock = ReadersWriter()
        self._version = 0
        self._broken = False
        self._marks = _Marks()

    @property
    def version(self) -> int:
        """How many updates the graph has seen."""
        return self._version

    @property
    def num_nodes(self) -> int:
        """How many nodes the graph has."""
        return self._chain.num_nodes

    @property
    def store_bytes(self) -> int:
        """Memory that the rows kept between requests take at most."""
        return sum(store.size_bytes for store in self._chain.stores.values())

    @property
    def feature_bytes(self) -> int:
        """What the tables of features take: the files that are mapped, and what came with updates."""
        return sum(table.nbytes for table in self._chain.tables.values())

    def store_capacity(self) -> dict[str, int]:
        """Return how many rows of each stage there is room for."""
        return {name: store.capacity for name, store in self._chain.stores.items()}

    @property
    def evicted(self) -> int:
        """How many rows had to make room so far."""
        return sum(store.evicted for store in self._chain.stores.values())

    def predict(
        self,
        nodes: Any,
        *,
        fanout: Sequence[int] | None = None,
        seed: int = 0,
        staleness: int = 0,
        rounded: bool = True,
    ) -> Prediction:
        """Answer for some nodes.

        Args:
            nodes: their ids, any integers; one may come more than once.
            fanout: most neighbours that each stage reads of a node, drawn evenly; first the stage next to the nodes
                asked for, -1 for all. `None` reads all: the answers are those of the whole graph.
            seed: of the draws.
            staleness: how many versions old the rows taken from the store may be.
            rounded: where rows are kept with 8 bits, round them on their way from stage to stage. Without it they are
                computed anew and left as they are: what the models of the stages give.

        Raises:
            UsageError: an id that there is not, or a fan-out or staleness that does not fit.
        """
        with self._reading():
            wanted = node_ids(f"{self._where}: node_ids", nodes, self.num_nodes)
            asked = terms(self._where, self._chain, fanout, seed, staleness, self._version, rounded=rounded)
            last = self._chain.links[-1]
            with self._computation(asked) as computation:
                rows = computation.rows(last.name, wanted) if len(wanted) else np.zeros(0, np.float32)
            outputs = {last.spec.output: rows.reshape(len(wanted), *last.tail)}
            return Prediction(outputs, self._version, computation.computed, computation.found)

    def update(self, **change: Unpack[Update]) -> int:
        """Change the graph or its features: all of it, or on an error nothing.

        Args:
            change: see `Update`.

        Returns:
            The version of the graph from now on.

        Raises:
            UsageError: it does not fit the graph, or the bundle does not say how the model follows it.
        """
        with self._lock.writing():
            self._check_whole()
            checked = check_change(self._where, self._chain, **change)
            # Memory that runs out, or an interrupt, leaves a graph that is neither the old nor the new one.
            self._broken = True
            make_change(self._chain, checked, self._version + 1)
            self._broken = False
            self._version += 1
            return self._version

    def warm(self, nodes: Any = None) -> int:
        """Fill the store, stage by stage, as far as there is room.

        Args:
            nodes: ids, those first that matter most; `None` for all, those first that most others read.

        Returns:
            How many rows were computed.
        """
        computed = 0
        for name, store in self._chain.stores.items():
            with self._reading():
                order = (
                    self._chain.most_read()
                    if nodes is None
                    else node_ids(f"{self._where}: warm", nodes, self.num_nodes)
                )
            # What matters most is computed last, and so stays longest.
            order = order[: store.capacity][::-1]
            for begin in range(0, len(order), _WARM_ROWS):
                with self._reading(), self._computation(Terms()) as computation:
                    computation.fill(name, order[begin : begin + _WARM_ROWS])
                computed += sum(computation.computed.values())
        return computed

    def rows(self, stage: str, nodes: Any) -> NDArray[np.float32]:
        """Return the rows of a stage for some nodes, as `Stage.rows_file` holds them for all.

        Args:
            stage: its name, such as `stage-1`.
            nodes: their ids.

        Raises:
            UsageError: a stage or an id that there is not.
        """
        if stage not in self._chain.by_name:
            raise UsageError.at(self._where, f"unknown stage '{stage}'", nearest(stage, self._chain.by_name))
        with self._reading(), self._computation(Terms()) as computation:
            return computation.rows(stage, node_ids(f"{self._where}: rows", nodes, self.num_nodes))

    def close(self) -> None:
        """Release the engines."""
        with self._lock.writing():
            for link in self._chain.links:
                link.backend.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock.reading():
            self._check_whole()
            yield

    def _check_whole(self) -> None:
        if self._broken:
            what = "an update broke off, and left a part of it in the graph"
            raise UsageError.at(self._where, what, "Load the bundle again, and make the updates again")

    @contextmanager
    def _computation(self, asked: Terms) -> Iterator[Computation]:
        with self._marks.lent(self.num_nodes) as marks:
            yield Computation(self._chain, asked, marks, self._threads)


class _Marks:
    """Scratch of requests that are over, for those to come: int32 [nodes], -1 everywhere."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.int32]] = []
        self._lock = Lock()

    @contextmanager
    def lent(self, num_nodes: int) -> Iterator[NDArray[np.int32]]:
        """Lend one; after an error it is not taken back, since it may hold marks."""
        with self._lock:
            marks = self._free.pop() if self._free else np.zeros(0, np.int32)
        if len(marks) < num_nodes:
            marks = np.full(num_nodes + num_nodes // 4, -1, np.int32)
        yield marks
        with self._lock:
            self._free.append(marks)
