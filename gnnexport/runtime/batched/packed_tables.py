"""Tables of node features as packed rows: mapped into memory, unpacked where a request reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gnnexport.bundle.stages import FeatureBits
from gnnexport.native.packed import PackedRows, pack, pack_bytes, unpack
from gnnexport.native.row_widths import choose_widths
from gnnexport.runtime.batched.growing import Growing, Ids
from gnnexport.runtime.batched.tables import FeatureRows, Rows

_NOWHERE = -1


class PackedFeatures:
    """Some or all of the features of every node, rounded.

    Rows that an update brings are rounded as they would be in a bundle, the step and the levels of each chosen anew.
    They lie in memory beside the file, 8 bits a number whatever they need.
    """

    def __init__(self, rows: PackedRows, bits: FeatureBits, columns: Sequence[int] | None = None) -> None:
        """Take over rows.

        Args:
            rows: [nodes, width]; they are never written to.
            bits: most that a number of a new row has.
            columns: which of the features they hold; `None` for all.
        """
        self._base = rows
        self._bits = bits
        self._columns = None if columns is None else np.array(columns, np.int64)
        self._place: Growing | None = None
        numbers = np.zeros((0, rows.columns), np.uint8)
        self._numbers, self._step, self._zero = Growing(numbers), Growing(rows.step[:0]), Growing(np.zeros(0, np.uint8))

    def __len__(self) -> int:
        return len(self._base) if self._place is None else len(self._place.array)

    @property
    def whole(self) -> Rows | None:
        """Return nothing: a stage cannot read packed rows."""
        return None

    @property
    def nbytes(self) -> int:
        """Bytes of the file that is mapped, and of what came with updates."""
        later = (self._numbers, self._step, self._zero, *([] if self._place is None else [self._place]))
        return self._base.nbytes + sum(part.nbytes for part in later)

    def gather(self, nodes: Ids, threads: int = 0) -> Rows:
        """Return the rows of some nodes, float32 [count, width]."""
        if self._place is None:
            return unpack(self._base, nodes, threads=threads)
        place = self._place.array[nodes]
        early, later = np.flatnonzero(place == _NOWHERE), np.flatnonzero(place != _NOWHERE)
        found = np.empty((len(nodes), self._base.columns), np.float32)
        found[early] = unpack(self._base, nodes[early], threads=threads)
        found[later] = unpack(self._later(), place[later], threads=threads)
        return found

    def replace(self, nodes: Ids, features: Rows) -> Ids:
        """Put other features in the place of some rows; return the nodes whose rows are others now."""
        rows = self._packed(features)
        others: Ids = nodes[(self.gather(nodes) != unpack(rows)).any(axis=1)]
        place = self._places()
        known = place[nodes]
        old = np.flatnonzero(known != _NOWHERE)
        self._write(known[old], rows.take(old))
        new = np.flatnonzero(known == _NOWHERE)
        place[nodes[new]] = self._append(rows.take(new))
        return others

    def extend(self, features: Rows) -> None:
        """Add the rows of new nodes."""
        if not len(features):
            return
        self._places()
        assert self._place is not None
        self._place.extend(self._append(self._packed(features)))

    def _packed(self, features: Rows) -> PackedRows:
        """Round rows of all features, of which those columns stay that there are here."""
        negative = features.min(axis=1, initial=0) < 0
        rounded, step = np.empty_like(features), np.empty(len(features), np.float32)
        for sign in (False, True):
            rows = np.flatnonzero(negative == sign)
            step[rows], bits = choose_widths(features[rows], self._bits, is_signed=sign)
            rounded[rows] = unpack(pack(features[rows], step[rows], bits, is_signed=sign))
        return pack_bytes(rounded if self._columns is None else rounded[:, self._columns], step)

    def _places(self) -> Ids:
        """Return where the rows of nodes lie that came later, int64 [nodes]."""
        if self._place is None:
            self._place = Growing(np.full(len(self._base), _NOWHERE, np.int64))
        return self._place.array

    def _append(self, rows: PackedRows) -> Ids:
        first = len(self._step.array)
        self._numbers.extend(rows.payload.reshape(len(rows), rows.columns))
        self._step.extend(rows.step)
        assert rows.zero is not None
        self._zero.extend(rows.zero)
        return np.arange(first, first + len(rows))

    def _write(self, places: Ids, rows: PackedRows) -> None:
        self._numbers.array[places] = rows.payload.reshape(len(rows), rows.columns)
        self._step.array[places], self._zero.array[places] = rows.step, rows.zero

    def _later(self) -> PackedRows:
        numbers = self._numbers.array
        return PackedRows(numbers.reshape(-1), self._step.array, numbers.shape[1], zero=self._zero.array)


Table = FeatureRows | PackedFeatures
