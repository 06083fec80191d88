"""Rows that are kept, within a budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnnexport.runtime.batched.store import RowStore, share_out, wanted_bytes

WIDTH = 3


def rows(nodes: np.ndarray) -> np.ndarray:
    """Return rows that tell their node."""
    return np.repeat(nodes.astype(np.float32)[:, None], WIDTH, axis=1)


def keep(store: RowStore, *nodes: int) -> None:
    """Put the rows of some nodes in."""
    ids = np.array(nodes, np.int64)
    store.put(ids, rows(ids))


def there(store: RowStore, nodes: int = 100) -> list[int]:
    """List the nodes that have a row."""
    return np.flatnonzero(store.has(np.arange(nodes))).tolist()


def small(capacity: int, nodes: int = 100) -> RowStore:
    """Make a store with so many rows."""
    spare = nodes + nodes // 4 + 1
    store = RowStore(nodes, WIDTH, 4 * spare + capacity * (4 * WIDTH + 32))
    assert store.capacity == capacity
    assert not store.whole
    return store


def test_room_for_all() -> None:
    """With room for all nodes, and some to come, the row of a node is that of its number in the table."""
    store = RowStore(100, WIDTH, wanted_bytes(100, WIDTH))
    keep(store, 7, 3)
    assert store.whole
    assert there(store) == [3, 7]
    np.testing.assert_array_equal(store.table[[3, 7]], rows(np.array([3, 7])))
    assert not RowStore(100, WIDTH, wanted_bytes(100, WIDTH) - 1).whole


def test_the_least_recently_read_eighth_goes() -> None:
    """Where a store is full, the eighth of its rows makes room that was not read for longest."""
    store = small(16)
    keep(store, *range(16))
    store.fetch(np.array([0, 1, 2, 3]))
    keep(store, 50)
    assert store.evicted == 2
    assert len(there(store)) == 15
    assert {0, 1, 2, 3, 50} <= set(there(store))


def test_rows_out_of_date_go_first() -> None:
    """A row that is out of date makes room before any that is not, however long that was not read."""
    store = small(16)
    keep(store, *range(16))
    store.fetch(np.arange(16))
    store.fetch(np.array([4, 5]))
    store.invalidate(np.array([4, 5]), 1)
    keep(store, 50, 51)
    assert there(store) == [*range(4), *range(6, 16), 50, 51]


def test_more_rows_than_there_is_room() -> None:
    """Of rows that do not fit at once the first are kept."""
    store = small(4)
    keep(store, *range(20, 30))
    assert there(store) == [20, 21, 22, 23]
    nothing = RowStore(100, WIDTH, 0)
    keep(nothing, 1, 2)
    assert there(nothing) == []
    assert nothing.size_bytes == 0


def test_a_row_that_is_there_stays() -> None:
    """Putting a row again does not write it, as another thread may be reading it; one out of date is written."""
    store = RowStore(10, WIDTH, 1 << 20)
    keep(store, 1)
    store.put(np.array([1]), rows(np.array([9])))
    np.testing.assert_array_equal(store.table[[1]], rows(np.array([1])))
    store.invalidate(np.array([1]), 1)
    store.put(np.array([1]), rows(np.array([9])))
    np.testing.assert_array_equal(store.table[[1]], rows(np.array([9])))


def test_versions() -> None:
    """A row shows the version before the first change that reached it, and serves whoever takes that one."""
    store = RowStore(10, WIDTH, 1 << 20)
    keep(store, 1, 2)
    store.invalidate(np.array([1]), 5)
    store.invalidate(np.array([1, 3]), 7)
    ask = np.array([1, 2, 3])
    assert store.has(ask).tolist() == [False, True, False]
    assert store.has(ask, 5).tolist() == [False, True, False]
    assert store.has(ask, 4).tolist() == [True, True, False]
    assert store.has(ask, -1).tolist() == [True, True, False]
    assert not store.fetch(ask, 4).current
    assert store.fetch(np.array([2, 3]), 4).current


@pytest.mark.parametrize("limit", [2_000, 6_000])
def test_growth(limit: int) -> None:
    """A store of a grown graph keeps up-to-date rows as far as its budget goes, and stays within it."""
    store = RowStore(20, WIDTH, limit)
    keep(store, *range(20))
    held = there(store, 20)
    for nodes in (22, 40, 80, 100):
        store.grow(nodes)
        assert store.size_bytes <= limit
        keep(store, nodes - 1)
        assert nodes - 1 in there(store, nodes)
    found = store.fetch(np.arange(100))
    np.testing.assert_array_equal(found.rows, rows(np.flatnonzero(found.mask)))
    assert limit == 2_000 or set(held) <= set(there(store))


@given(st.integers(1, 30), st.lists(st.lists(st.integers(0, 99), max_size=12, unique=True), max_size=20))
def test_any_order_of_reads_and_writes(capacity: int, steps: list[list[int]]) -> None:
    """What a store says it has is what was put there, and never more than there is room for."""
    store = small(capacity)
    for number, nodes in enumerate(steps):
        ids = np.array(nodes, np.int64)
        if number % 3 == 2:
            store.invalidate(ids, number)
            assert not store.has(ids).any()
        elif number % 3 == 1:
            found = store.fetch(ids)
            np.testing.assert_array_equal(found.rows, rows(ids[found.mask]))
        else:
            new = ids[~store.has(ids)]
            keep(store, *nodes)
            assert store.has(new[:capacity]).all()
        assert len(there(store)) <= capacity


def test_budgets_are_shared() -> None:
    """Each gets as much as any other; what one does not want goes to those that do."""
    assert share_out(90, [100, 100, 100]) == [30, 30, 30]
    assert share_out(90, [10, 100, 50]) == [10, 40, 40]
    assert share_out(1_000, [10, 100]) == [10, 100]
    assert share_out(5, []) == []
