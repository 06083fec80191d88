"""Rows of slots that grow and shrink, against lists."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gnnexport.runtime.batched.adjacency import Adjacency

NODES = 6
Pairs = st.lists(st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1)), max_size=12)


def adjacency(pairs: list[tuple[int, int]], nodes: int = NODES) -> Adjacency:
    """Make the rows of pairs (row, source) whose values are their places."""
    order = sorted(range(len(pairs)), key=lambda place: pairs[place][0])
    rowptr = np.searchsorted([pairs[place][0] for place in order], np.arange(nodes + 1)).astype(np.int64)
    col = np.array([pairs[place][1] for place in order], np.int64)
    return Adjacency(rowptr, col, {"place": np.array(order, np.float32).reshape(-1, 1)})


def contents(found: Adjacency) -> list[list[tuple[int, float]]]:
    """Return source and value of each slot, row by row."""
    rows = []
    for row in range(found.num_nodes):
        block = found.neighbours(np.array([row]))
        values = found.values["place"][block.slots, 0]
        rows.append(list(zip(block.col.tolist(), values.tolist(), strict=True)))
    return rows


def arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and sources."""
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


@given(Pairs, st.lists(Pairs, max_size=6), st.integers(0, 3))
def test_slots_come_and_go(first: list[tuple[int, int]], steps: list[list[tuple[int, int]]], more: int) -> None:
    """What is added stands at the end of its row, what is removed is the first of its kind, and values move along."""
    found = adjacency(first)
    wanted: list[list[tuple[int, float]]] = [[] for _ in range(NODES)]
    for place, (row, source) in enumerate(first):
        wanted[row].append((source, place))
    for number, pairs in enumerate(steps):
        if number % 2:
            there = [(row, source) for row, source in pairs if any(source == slot[0] for slot in wanted[row])]
            there = list(dict.fromkeys(there))
            for row, source in there:
                wanted[row].remove(next(slot for slot in wanted[row] if slot[0] == source))
            found.remove(*arrays(there))
        else:
            values = 100.0 * (number + 1) + np.arange(len(pairs), dtype=np.float32)
            for (row, source), value in zip(pairs, values, strict=True):
                wanted[row].append((source, float(value)))
            found.add(*arrays(pairs), {"place": values.reshape(-1, 1)})
    found.add_nodes(more)
    assert contents(found) == wanted + [[] for _ in range(more)]
    for source, rows in enumerate(_readers(wanted)):
        assert sorted(found.transposed().neighbours(np.array([source])).col.tolist()) == rows


def _readers(rows: list[list[tuple[int, float]]]) -> list[list[int]]:
    """Return by source who reads it."""
    return [
        sorted(row for row, slots in enumerate(rows) for slot in slots if slot[0] == source) for source in range(NODES)
    ]


def test_slots_before_the_last() -> None:
    """A slot that stays behind those added is the last one afterwards, with its value."""
    found = adjacency([(0, 0), (1, 3), (1, 1)])
    found.add(np.array([1, 0, 1]), np.array([4, 5, 2]), {"place": np.array([[7], [8], [9]], np.float32)}, behind=1)
    assert contents(found)[:2] == [[(5, 8), (0, 0)], [(3, 1), (4, 7), (2, 9), (1, 2)]]


def test_pairs_that_are_there() -> None:
    """A pair that is asked for twice has to be there twice."""
    found = adjacency([(0, 1), (0, 1), (2, 5)])
    rows, sources = arrays([(0, 1), (0, 1), (0, 1), (2, 5), (2, 4), (5, 5)])
    assert found.has(rows, sources).tolist() == [True, True, False, True, False, False]


def test_what_was_given_is_left_alone() -> None:
    """Arrays that an adjacency was made of never change."""
    rowptr, col, values = np.array([0, 1, 3]), np.array([0, 1, 0]), np.arange(3.0)
    found = Adjacency(rowptr, col, {"place": values})
    found.remove(np.array([1]), np.array([1]))
    found.add(np.array([0]), np.array([1]), {"place": np.ones(1)})
    assert (rowptr.tolist(), col.tolist(), values.tolist()) == ([0, 1, 3], [0, 1, 0], [0.0, 1.0, 2.0])


def test_room_is_bounded() -> None:
    """However often rows grow and shrink, the slots take a few times what is there at most."""
    found = adjacency([])
    rng = np.random.default_rng(0)
    for _ in range(300):
        rows, sources = rng.integers(0, NODES, (2, 50))
        found.add(rows, sources, {"place": np.zeros((50, 1), np.float32)})
        found.remove(rows, sources)
    assert len(found.col) < 6_000
