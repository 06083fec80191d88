"""Neighbours of some nodes, numbers of their sources, rows that these name: kernels and numpy alike."""

from __future__ import annotations

from threading import Thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnnexport.errors import KernelError
from gnnexport.native import library, neighbours
from gnnexport.native.neighbours import Block, expand, gather_rows, number


@pytest.fixture(params=["kernels", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run with the kernels, where they serve, and without."""
    if request.param == "numpy":
        monkeypatch.setattr(neighbours, "why_missing", lambda: "left out")
    elif library.why_missing():
        pytest.skip(f"native kernels: {library.why_missing()}")
    return request.param


def structure(lengths: list[int], num_src: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make rows that lie in any order with room between them."""
    rng = np.random.default_rng(seed)
    length = np.array(lengths, np.int64)
    start = np.zeros_like(length)
    end = 0
    for row in rng.permutation(len(lengths)):
        start[row] = end + rng.integers(3)
        end = int(start[row] + length[row])
    return start, length, rng.integers(0, num_src, end + 2)


def without_kernels(*args: np.ndarray, fanout: int | None, seed: int) -> Block:
    """Expand in numpy."""
    start, length, col, targets = args
    return Block(*neighbours.neighbours_numpy.expand(start, length, col, targets, fanout, seed, len(start)))


def same(left: Block, right: Block) -> None:
    """Compare two blocks, number by number."""
    for part in ("rowptr", "col", "slots"):
        np.testing.assert_array_equal(getattr(left, part), getattr(right, part))


@pytest.mark.usefixtures("way")
def test_places_are_told_where_they_are_asked_for() -> None:
    """Without them the neighbours are the same; of those drawn they are known anyway."""
    start, length, col = structure([3, 0, 5, 1], 4)
    targets = np.array([2, 1, 0, 2])
    told, untold = (expand(start, length, col, targets, slots=slots) for slots in (True, False))
    np.testing.assert_array_equal(untold.col, told.col)
    np.testing.assert_array_equal(untold.rowptr, told.rowptr)
    assert len(untold.slots) == 0
    same(expand(start, length, col, targets, fanout=2, slots=False), expand(start, length, col, targets, fanout=2))
    with pytest.raises(KernelError):
        expand(start, length, np.full_like(col, 9), targets, slots=False)


@pytest.mark.usefixtures("way")
def test_all_neighbours_in_order() -> None:
    """Without a fan-out a target has every slot of its row, in order, as often as it is asked for."""
    start, length, col = structure([3, 0, 5, 1], 4)
    targets = np.array([2, 0, 2, 1, 3])
    block = expand(start, length, col, targets)
    slots = [np.arange(start[row], start[row] + length[row]) for row in targets]
    np.testing.assert_array_equal(block.rowptr, [0, 5, 8, 13, 13, 14])
    np.testing.assert_array_equal(block.slots, np.concatenate(slots))
    np.testing.assert_array_equal(block.col, col[np.concatenate(slots)])


@given(
    st.lists(st.one_of(st.integers(0, 12), st.sampled_from([200, 3_000])), min_size=1, max_size=30),
    st.sampled_from([0, 1, 2, 5, 64, 65, 190]),
    st.integers(0, 2**64 - 1),
)
def test_kernels_draw_what_numpy_draws(lengths: list[int], fanout: int, seed: int) -> None:
    """For one seed both give the same neighbours: distinct slots of the row in order, or all of few."""
    start, length, col = structure(lengths, len(lengths))
    targets = np.random.default_rng(1).integers(0, len(lengths), 40)
    block = expand(start, length, col, targets, fanout=fanout, seed=seed)
    same(block, without_kernels(start, length, col, targets, fanout=fanout, seed=seed))
    for place, row in enumerate(targets):
        slots = block.slots[block.rowptr[place] : block.rowptr[place + 1]]
        assert len(slots) == min(length[row], fanout)
        assert (np.diff(slots) > 0).all()
        assert ((slots >= start[row]) & (slots < start[row] + length[row])).all()
    np.testing.assert_array_equal(block.col, col[block.slots])


@pytest.mark.usefixtures("way")
def test_a_draw_depends_on_node_and_seed_alone() -> None:
    """The neighbours drawn for a node are the same in any company, and others for another seed."""
    start, length, col = structure([500] * 50, 50)
    together = expand(start, length, col, np.arange(50), fanout=10, seed=3)
    for row in (0, 17, 49):
        alone = expand(start, length, col, np.array([row]), fanout=10, seed=3)
        np.testing.assert_array_equal(alone.slots, together.slots[10 * row : 10 * row + 10])
    assert (expand(start, length, col, np.arange(50), fanout=10, seed=4).slots != together.slots).any()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("degree", "fanout"), [(7, 3), (100, 70)])
def test_draws_are_uniform(degree: int, fanout: int) -> None:
    """Every slot of a row is drawn as often as any other, and so is every pair of slots."""
    rows = 20_000
    start, length = np.arange(rows) * degree, np.full(rows, degree)
    col = np.zeros(rows * degree, np.int64)
    block = expand(start, length, col, np.arange(rows), fanout=fanout, seed=1)
    drawn = np.zeros((rows, degree))
    drawn[np.repeat(np.arange(rows), fanout), block.slots % degree] = 1
    share = fanout / degree
    assert abs(drawn.mean(0) - share).max() < 5 * np.sqrt(share * (1 - share) / rows)
    both = share * (fanout - 1) / (degree - 1)
    pairs = (drawn.T @ drawn / rows)[~np.eye(degree, dtype=bool)]
    assert abs(pairs - both).max() < 5.5 * np.sqrt(both * (1 - both) / rows)


def test_threads_change_nothing() -> None:
    """Many targets, one of them a hub, come out the same on one thread and on several."""
    lengths = [*np.random.default_rng(0).integers(0, 40, 20_000).tolist(), 300_000]
    start, length, col = structure(lengths, len(lengths))
    targets = np.random.default_rng(1).permutation(len(lengths))
    for fanout in (None, 10):
        one = expand(start, length, col, targets, fanout=fanout, threads=1)
        same(one, expand(start, length, col, targets, fanout=fanout, threads=3))
    same(one, without_kernels(start, length, col, targets, fanout=10, seed=0))


@pytest.mark.usefixtures("way")
def test_sources_of_another_kind() -> None:
    """Sources may be more than the rows."""
    block = expand(np.array([0]), np.array([2]), np.array([7, 9]), np.array([0]), num_src=10)
    np.testing.assert_array_equal(block.col, [7, 9])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "wrong",
    [
        {"targets": [4]},
        {"targets": [-1]},
        {"start": [0, 3, 0, 0]},
        {"start": [-1, 0, 0, 0]},
        {"length": [9, 0, 0, 0]},
        {"length": [-1, 0, 0, 0]},
        {"length": [2**62, 0, 0, 0], "start": [2**62, 0, 0, 0]},
        {"col": [0, 4, 0, 0]},
        {"col": [0, -1, 0, 0]},
        {"fanout": -1},
    ],
)
@pytest.mark.parametrize("fanout", [None, 2])
def test_expansions_that_are_refused(wrong: dict[str, list[int]], fanout: int | None) -> None:
    """Targets, rows and sources out of range are refused."""
    given = {"start": [0, 3, 3, 3], "length": [3, 1, 0, 0], "col": [0, 1, 2, 3], "targets": [0, 1], "fanout": fanout}
    arrays = {name: np.array(value) if isinstance(value, list) else value for name, value in {**given, **wrong}.items()}
    if wrong == {"start": [0, 3, 0, 0]}:
        arrays["length"] = np.array([3, 2, 0, 0])
    if "col" in wrong and fanout:
        arrays["length"] = np.array([2, 1, 0, 0])
    with pytest.raises(KernelError, match=r"out of range|slots that there are not|fan-out of -1"):
        expand(**arrays)


@pytest.mark.usefixtures("way")
@given(st.lists(st.integers(0, 20), max_size=60))
def test_numbers_in_order_of_first_appearance(ids: list[int]) -> None:
    """An id gets its number when it first comes, and the marks are what they were."""
    marks = np.full(21, -1, np.int32)
    unique, index = number(np.array(ids, np.int64), marks)
    assert unique.tolist() == list(dict.fromkeys(ids))
    np.testing.assert_array_equal(unique[index], ids)
    assert (marks == -1).all()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("ids", [[0, 5], [0, 1, -1], [2**62]])
def test_ids_that_are_refused(ids: list[int]) -> None:
    """An id that there is not is refused, and the marks are what they were."""
    marks = np.full(5, -1, np.int32)
    with pytest.raises(KernelError, match="out of range"):
        number(np.array(ids), marks)
    assert (marks == -1).all()
    with pytest.raises(KernelError, match="out of range"):
        gather_rows(np.ones((5, 3), np.float32), np.array(ids))


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("mark", [0, 1, 7])
def test_marks_of_somebody_else(mark: int) -> None:
    """Marks that were not -1 are refused, not handed out as numbers."""
    with pytest.raises(KernelError, match="out of range"):
        number(np.array([3, 4]), np.full(5, mark, np.int32))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("width", [0, 1, 7, 200])
def test_rows_are_gathered(width: int) -> None:
    """Rows come out bit by bit, NaN among them, of tables in pieces too, into room that is given."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((1_000, width)).astype(np.float32)
    table[::7] = np.nan
    ids = rng.integers(0, 1_000, 5_000)
    np.testing.assert_array_equal(gather_rows(table, ids), table[ids])
    np.testing.assert_array_equal(gather_rows(table[::2], ids // 2), table[::2][ids // 2])
    out = np.zeros((5_000, width), np.float32)
    assert gather_rows(table, ids, out, threads=3) is out
    np.testing.assert_array_equal(out, table[ids])


def test_room_that_does_not_fit() -> None:
    """Rows are written to float32 of the right shape in one piece, and to nothing else."""
    table, ids = np.ones((4, 2), np.float32), np.array([0, 1])
    for out in (np.ones((2, 2)), np.ones((3, 2), np.float32), np.ones((2, 4), np.float32)[:, ::2]):
        with pytest.raises(KernelError, match="room for float32"):
            gather_rows(table, ids, out)
    with pytest.raises(KernelError, match="float64"):
        gather_rows(np.ones((4, 2)), ids)


def test_several_callers() -> None:
    """Threads that expand at once get each their own neighbours."""
    start, length, col = structure([300] * 2_000, 2_000)
    wanted = [expand(start, length, col, np.arange(2_000), fanout=70, seed=seed) for seed in range(4)]
    found: dict[int, Block] = {}

    def work(seed: int) -> None:
        found[seed] = expand(start, length, col, np.arange(2_000), fanout=70, seed=seed)

    threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, block in enumerate(wanted):
        same(found[seed], block)
