"""Cutting rows into tables."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings

from gnnexport.targets.onnx.pieces import FREQUENT, LONGEST, cut
from tests.targets.graphs import Csr, from_degrees, graphs


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_every_slot_is_read_once_and_every_row_given_once(graph: Csr) -> None:
    """The tables hold each slot once, and the order is a permutation of the rows."""
    pieces = cut(graph.rowptr)
    assert sorted(pieces.slot_order.tolist()) == list(range(graph.num_edges))
    assert sorted(pieces.order.tolist()) == list(range(graph.num_nodes))


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_tables_hold_the_slots_of_their_rows(graph: Csr) -> None:
    """Reading rows back from the tables gives each row its own slots."""
    pieces = cut(graph.rowptr)
    partial = [row for table in pieces.partial for row in table.tolist()]
    found: list[list[int]] = [[] for _ in range(pieces.empty)]
    found += [row for table in pieces.direct for row in table.tolist()]
    found += [
        [slot for piece in row if piece >= 0 for slot in partial[piece]]
        for table in pieces.second
        for row in table.tolist()
    ]
    for row, slots in zip(pieces.order, found, strict=True):
        assert sorted(slots) == list(range(graph.rowptr[row], graph.rowptr[row + 1]))


def test_frequent_degrees_are_not_decomposed() -> None:
    """A degree that many rows share has a table of its own, without partial results."""
    pieces = cut(from_degrees([3] * FREQUENT).rowptr)
    assert [table.shape for table in pieces.direct] == [(FREQUENT, 3)]
    assert not pieces.partial
    assert not pieces.second


def test_hubs_of_many_degrees_share_few_tables() -> None:
    """The number of tables follows the longest piece, not the number of distinct degrees."""
    pieces = cut(from_degrees(list(range(500))).rowptr)
    assert len(pieces.partial) <= LONGEST.bit_length()
    assert pieces.table_count < 25


def test_equal_rows_stay_in_order() -> None:
    """A graph that is already in the order of its tables is left so."""
    graph = from_degrees([2] * FREQUENT + [3] * FREQUENT)
    assert cut(graph.rowptr).order.tolist() == list(range(2 * FREQUENT))
    assert np.array_equal(cut(graph.rowptr).slot_order, np.arange(graph.num_edges))
