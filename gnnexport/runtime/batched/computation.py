"""One request: find from the last stage down which rows are missing, then compute them from the first stage up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.stages import StageInput
from gnnexport.native.neighbours import Block, gather_rows, number
from gnnexport.native.packed import PackedRows, pack_bytes, unpack
from gnnexport.runtime.batched.chain import Chain, Link
from gnnexport.runtime.batched.growing import Ids
from gnnexport.runtime.batched.store import RowStore

Rows = NDArray[np.float32]

_SEED_STEP = 0x9E3779B97F4A7C15
_SEEDS = 1 << 64
_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Terms:
    """How a request wants its rows.

    Args:
        fanouts: most neighbours of a node that a stage draws, by its depth; all where it is not among them.
        seed: of the draws.
        oldest: version from which on rows may be; `None` for the present one alone.
        rounded: rows between stages are rounded as a store of 8 bits has them; without it they are computed anew where
            there is such a store, and left as they are.
    """

    fanouts: Mapping[int, int] = field(default_factory=dict)
    seed: int = 0
    oldest: int | None = None
    rounded: bool = True


@dataclass
class _Level:
    """What a request needs of one stage.

    Args:
        wanted: distinct nodes whose rows are read.
        index: of everything that reads, one after the other, the place among `wanted`.
        bounds: where the reads of each reader begin in `index`, and where the last end.
        missing: places among `wanted` that are computed.
        block: the neighbours of what is missing.
        sources: distinct neighbours; `None` where tables are read through `col` as they are.
        col: of the block, the row of the source that each slot reads.
        rows: of `wanted`; `None` where they are in a store that is whole and stay there.
    """

    wanted: Ids
    index: Ids
    bounds: list[int]
    missing: Ids
    block: Block | None = None
    sources: Ids | None = None
    col: Ids = field(default_factory=lambda: _NONE)
    rows: Rows | None = None
    exact: bool = True
    reads: dict[str, int] = field(default_factory=dict)

    @property
    def targets(self) -> Ids:
        """Return the nodes that are computed."""
        return self.wanted[self.missing]


class Computation:
    """The rows of one stage for some nodes, and all that they depend on."""

    def __init__(self, chain: Chain, terms: Terms, marks: NDArray[np.int32], threads: int = 0) -> None:
        """Begin a request.

        Args:
            chain: what it is answered from; it does not change meanwhile.
            terms: how it wants its rows.
            marks: int32 [nodes], -1 everywhere, for this request alone.
            threads: to look for neighbours with; 0 for all.
        """
        self._chain = chain
        self._terms = terms
        self._marks = marks
        self._threads = threads
        self._needs: dict[str, list[Ids]] = {}
        self._levels: dict[str, _Level] = {}
        self._exact = self._exact_stages()
        self.computed = {link.name: 0 for link in chain.links}
        self.found = dict.fromkeys(chain.stores, 0)

    def rows(self, name: str, nodes: Ids) -> Rows:
        """Return the rows of a stage, one for each node given."""
        self.fill(name, nodes)
        return self._read(name, 0)

    def fill(self, name: str, nodes: Ids) -> None:
        """Have the rows of a stage computed, and kept where there is room."""
        self._need(name, nodes)
        needed = [link for link in self._chain.links if link.spec.depth <= self._chain.by_name[name].spec.depth]
        for link in reversed(needed):
            if link.name in self._needs:
                self._levels[link.name] = self._plan(link)
        for link in needed:
            if link.name in self._levels:
                self._compute(link, self._levels[link.name])

    def _exact_stages(self) -> dict[str, bool]:
        """Tell of each stage whether its rows are sure to be those of the whole present graph."""
        exact: dict[str, bool] = {}
        for link in self._chain.links:
            sources = [exact[given.value] for given in link.inputs("source", "target") if given.value in exact]
            drawn = link.spec.depth in self._terms.fanouts
            exact[link.name] = all(sources) and not drawn and self._terms.oldest is None
        return exact

    def _stays(self, name: str) -> bool:
        """Tell whether the rows of a stage are computed into its store and read there."""
        store = self._store(self._chain.by_name[name])
        return store is not None and store.whole and self._exact[name]

    def _store(self, link: Link) -> RowStore | None:
        """Return the store that rows of a stage are read from and written to."""
        return None if link.rounds and not self._terms.rounded else link.store

    def _need(self, name: str, nodes: Ids) -> int:
        """Note that rows are read; return which of the reads of this stage it is."""
        reads = self._needs.setdefault(name, [])
        reads.append(nodes)
        return len(reads) - 1

    def _plan(self, link: Link) -> _Level:
        """Look up what is there of the rows that are read, and note what the others read in turn."""
        reads = self._needs[link.name]
        bounds = np.cumsum([0, *map(len, reads)]).tolist()
        wanted, index = number(np.concatenate(reads), self._marks)
        level = _Level(wanted, index, bounds, np.arange(len(wanted)))
        self._look_up(link, level)
        if len(level.missing):
            self._expand(link, level)
        return level

    def _look_up(self, link: Link, level: _Level) -> None:
        store = self._store(link)
        if store is None:
            level.rows = np.empty((len(level.wanted), link.spec.width), np.float32)
            return
        if self._stays(link.name):
            level.missing = np.flatnonzero(~store.has(level.wanted))
        else:
            found = store.fetch(level.wanted, self._terms.oldest)
            level.rows = np.empty((len(level.wanted), link.spec.width), np.float32)
            level.rows[found.mask] = found.rows
            level.missing = np.flatnonzero(~found.mask)
            level.exact = found.current
        self.found[link.name] = len(level.wanted) - len(level.missing)

    def _expand(self, link: Link, level: _Level) -> None:
        spec, targets = link.spec, level.targets
        if spec.structure is not None:
            rows = self._chain.structures[spec.structure].adjacency
            seed = (self._terms.seed + spec.depth * _SEED_STEP) % _SEEDS
            fanout, slots = self._terms.fanouts.get(spec.depth), any(link.inputs("slot_values"))
            level.block = rows.neighbours(targets, fanout, seed, slots=slots, threads=self._threads)
            if self._through(link):
                level.col = level.block.col
            else:
                level.sources, level.col = number(level.block.col, self._marks)
        for given in link.inputs("source"):
            if given.value in self._chain.by_name:
                level.reads[given.name] = self._need(given.value, level.col if level.sources is None else level.sources)
        for given in link.inputs("target"):
            if given.value in self._chain.by_name:
                level.reads[given.name] = self._need(given.value, targets)

    def _through(self, link: Link) -> bool:
        """Tell whether a stage is given whole tables as its sources."""
        values = [given.value for given in link.inputs("source")]
        return link.spec.direct and all(self._is_table(value) for value in values)

    def _is_table(self, name: str) -> bool:
        """Tell whether all rows of a name lie side by side as float32."""
        table = self._chain.tables.get(name)
        if table is not None:
            return table.whole is not None
        return self._stays(name) and not self._chain.by_name[name].rounds

    def _compute(self, link: Link, level: _Level) -> None:
        if not len(level.missing):
            return
        rows = link.run(self._feeds(link, level)).reshape(len(level.missing), link.spec.width)
        self.computed[link.name] = len(level.missing)
        read = (self._levels[given.value] for given in link.inputs("source", "target") if given.value in self._levels)
        exact = all(part.exact for part in read) and self._drew_all(link, level)
        level.exact = level.exact and exact
        kept: Rows | PackedRows = rows
        if link.rounds and self._terms.rounded:
            kept = pack_bytes(rows, threads=self._threads)
        store = self._store(link)
        if store is not None and exact:
            store.put(level.targets, kept)
        if level.rows is None:
            return
        if isinstance(kept, PackedRows):
            rows = unpack(kept, threads=self._threads)
        if len(level.missing) == len(level.wanted):
            level.rows = rows
        else:
            level.rows[level.missing] = rows

    def _drew_all(self, link: Link, level: _Level) -> bool:
        if level.block is None or link.spec.structure is None or link.spec.depth not in self._terms.fanouts:
            return True
        length = self._chain.structures[link.spec.structure].adjacency.length
        return int(length[level.targets].sum()) == len(level.block.col)

    def _feeds(self, link: Link, level: _Level) -> dict[str, NDArray[Any]]:
        make: dict[str, Callable[[StageInput], NDArray[Any]]] = {
            "source": lambda given: self._source(given, level),
            "target": lambda given: self._target(given, level),
            "rowptr": lambda given: _block(level).rowptr,
            "col": lambda given: level.col,
            "row": lambda given: np.repeat(np.arange(len(level.missing)), np.diff(_block(level).rowptr)),
            "slot_values": lambda given: self._slot_values(given, link, level),
            "source_values": lambda given: self._chain.node_values[given.value][level.sources],
            "target_values": lambda given: self._chain.node_values[given.value][level.targets],
        }
        return {given.name: make[given.part](given) for given in link.spec.inputs}

    def _source(self, given: StageInput, level: _Level) -> Rows:
        table = self._chain.tables.get(given.value)
        if level.sources is None:
            rows = self._kept(given.value).table if table is None else table.whole
            assert rows is not None
            return rows
        if table is not None:
            return table.gather(level.sources, self._threads)
        return self._read(given.value, level.reads[given.name])

    def _target(self, given: StageInput, level: _Level) -> Rows:
        table = self._chain.tables.get(given.value)
        if table is not None:
            return table.gather(level.targets, self._threads)
        return self._read(given.value, level.reads[given.name])

    def _kept(self, name: str) -> RowStore:
        store = self._chain.by_name[name].store
        assert store is not None
        return store

    def _read(self, name: str, read: int) -> Rows:
        """Return the rows that one of the reads of a stage asked for."""
        level = self._levels[name]
        begin, end = level.bounds[read], level.bounds[read + 1]
        index = level.index[begin:end]
        if level.rows is None:
            return self._kept(name).read(level.wanted[index], self._threads)
        # The first read of distinct nodes numbers them as they come.
        distinct = begin == 0 and (end == 0 or int(index[-1]) == end - 1)
        return level.rows[:end] if distinct else gather_rows(level.rows, index, threads=self._threads)

    def _slot_values(self, given: StageInput, link: Link, level: _Level) -> NDArray[Any]:
        assert link.spec.structure is not None
        structure, block = self._chain.structures[link.spec.structure], _block(level)
        values: NDArray[Any] = structure.value(given.value)[block.slots]
        if given.value not in self._chain.scaled or link.spec.depth not in self._terms.fanouts:
            return values
        drawn = np.diff(block.rowptr)
        shares = structure.adjacency.length[level.targets] / np.maximum(drawn, 1)
        scale = np.repeat(shares, drawn).astype(values.dtype)
        values *= scale.reshape(-1, *[1] * (values.ndim - 1))
        return values


def _block(level: _Level) -> Block:
    assert level.block is not None
    return level.block
