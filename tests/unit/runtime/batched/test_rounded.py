"""Features and kept rows of few bits: answers are those of the whole graph with the same numbers rounded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnexport.bundle.stages import FeatureBits, StoreBits
from gnnexport.native import packed
from gnnexport.native.library import why_missing
from gnnexport.native.packed import pack, pack_bytes, unpack
from gnnexport.native.row_widths import choose_widths
from gnnexport.runtime.batched.kept_rows import ByteRows
from gnnexport.runtime.batched.model import BatchedModel
from gnnexport.runtime.batched.packed_tables import PackedFeatures
from gnnexport.runtime.batched.prediction import Prediction
from gnnexport.runtime.batched.store import RowStore, wanted_bytes
from tests.unit.runtime.batched.graphs import CHANNELS, MODELS, World, gcn, random_update, sage

Array = np.ndarray
TOLERANCE = 1e-5
UPDATES = 12
BUDGETS = {"none": 0, "little": 900, "all": 1 << 24}


def check(found: Array, expected: Array) -> None:
    """Compare answers."""
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def rounded(x: Array, bits: int) -> Array:
    """Round the features of a graph as a bundle has them: with a sign for all rows."""
    is_signed = bool((x < 0).any())
    return unpack(pack(x, *choose_widths(x, bits, is_signed=is_signed), is_signed=is_signed))


def rounded_anew(x: Array, bits: int) -> Array:
    """Round features that come later, each row by itself."""
    return np.concatenate([rounded(row[None], bits) for row in x]) if len(x) else x


def as_kept(change: dict[str, Any], bits: int) -> dict[str, Any]:
    """Return a change with its features rounded."""
    found = dict(change)
    if "features" in change:
        found["features"] = (change["features"][0], rounded_anew(change["features"][1], bits))
    if "new_features" in change:
        found["new_features"] = rounded_anew(change["new_features"], bits)
    return found


@given(
    st.sampled_from(list(MODELS)),
    st.sampled_from(list(BUDGETS)),
    st.sampled_from([8, 32]),
    st.sampled_from([None, 4, 8]),
    st.integers(0, 2**32),
    st.lists(st.booleans(), max_size=10),
)
@settings(max_examples=60)
def test_any_order_of_requests_and_updates(
    name: str, budget: str, store_bits: Any, packed: int | None, seed: int, steps: list[bool]
) -> None:
    """Whatever was asked, kept and changed before, answers are those of the graph as it is, its numbers rounded."""
    rng = np.random.default_rng(seed)
    world, model = World.random(int(rng.integers(1, 25)), int(rng.integers(0, 60)), seed), MODELS[name]()
    served = model.open(world, BUDGETS[budget], store_bits, packed=packed)
    world = world.copy()
    if packed is not None:
        world.x = rounded(world.x, packed)
    for is_update in steps:
        if is_update:
            change = random_update(world, model, rng)
            world.update(**(change if packed is None else as_kept(change, packed)))
            served.update(**change)
        else:
            ids = rng.integers(0, world.num_nodes, rng.integers(0, 12))
            check(served.predict(ids)["rows"], model.scratch(world, store_bits)[ids])
    everything = np.arange(world.num_nodes)
    check(served.predict(everything)["rows"], model.scratch(world, store_bits))
    check(served.predict(everything, rounded=False)["rows"], model.scratch(world))
    assert served.store_bytes <= BUDGETS[budget]


@pytest.mark.parametrize("store_bits", [8, 32])
@pytest.mark.parametrize("budget", ["none", "some", "all"])
def test_many_threads(budget: str, store_bits: StoreBits) -> None:
    """Requests of several threads, while another changes the graph, are answered from the version that they name."""
    rng = np.random.default_rng(0)
    world, model = World.random(80, 200), sage(3)
    served = BatchedModel(model.chain(world, {**BUDGETS, "some": 6_000}[budget], store_bits, concurrent=True, packed=8))
    first = world.copy()
    first.x = rounded(first.x, 8)
    versions, answered = [first], Semaphore(0)

    def change() -> None:
        for _ in range(UPDATES):
            answered.acquire()
            drawn = random_update(versions[-1], model, rng)
            following = versions[-1].copy()
            following.update(**as_kept(drawn, 8))
            versions.append(following)
            served.update(**drawn)

    def ask(seed: int) -> list[tuple[Array, Prediction]]:
        own, asked = np.random.default_rng(seed), []
        while not asked or asked[-1][1].version < UPDATES:
            ids = own.integers(0, 80, 20)
            asked.append((ids, served.predict(ids)))
            answered.release()
        return asked

    with ThreadPoolExecutor(5) as pool:
        changing = pool.submit(change)
        found = [answer for answers in pool.map(ask, range(4)) for answer in answers]
        changing.result()
    expected = [model.scratch(version, store_bits) for version in versions]
    for ids, answer in found:
        check(answer["rows"], expected[answer.version][ids])
    assert {answer.version for _, answer in found} >= {0, UPDATES}


def test_rounding_shows() -> None:
    """Kept rows of 8 bits move answers a little; unrounded requests neither read nor fill such a store."""
    world, model = World.random(60, 300), sage(3)
    served = model.open(world, store_bits=8)
    exact = served.predict(np.arange(60), rounded=False)
    assert exact.found == {"stage-1": 0, "stage-2": 0}
    first = served.predict(np.arange(60))
    assert first.found == {"stage-1": 0, "stage-2": 0}
    moved = abs(first["rows"] - exact["rows"]).max() / abs(exact["rows"]).max()
    assert 1e-6 < moved < 0.02
    again = served.predict(np.arange(60))
    assert again.found == {"stage-1": 0, "stage-2": 60}
    np.testing.assert_array_equal(again["rows"], first["rows"])


def test_what_was_kept_before_changes_nothing() -> None:
    """With a fan-out for the last stage, rows that were kept and rows that are computed give the same answers."""
    world, model = World.random(60, 300), sage(3)
    fresh, used = model.open(world, store_bits=8), model.open(world, store_bits=8)
    used.warm()
    answers = [served.predict(np.arange(60), fanout=[2, -1, -1], seed=5) for served in (fresh, used)]
    assert [answer.found["stage-2"] for answer in answers] == [0, 60]
    np.testing.assert_array_equal(*(answer["rows"] for answer in answers))


def test_room_for_rows_of_8_bits() -> None:
    """A row takes a byte for each number and 5 for its step and its zero, besides its marks."""
    assert wanted_bytes(100, 256) == 126 * (4 * 256 + 32)
    assert wanted_bytes(100, 256, 8) == 126 * (256 + 5 + 32)
    store = RowStore(10_000, 256, 1 << 20, 8)
    assert store.capacity > 3.5 * RowStore(10_000, 256, 1 << 20).capacity
    assert store.size_bytes <= 1 << 20


def test_a_store_that_grows_keeps_its_rows_as_they_are() -> None:
    """Moving rows of 8 bits into a larger store does not round them again."""
    rows = np.random.default_rng(0).standard_normal((40, 33)).astype(np.float32)
    store = RowStore(40, 33, 1 << 20, 8)
    store.put(np.arange(40), rows)
    before = store.fetch(np.arange(40)).rows
    np.testing.assert_array_equal(before, unpack(pack_bytes(rows)))
    store.grow(400)
    np.testing.assert_array_equal(store.fetch(np.arange(40)).rows, before)


def test_rows_of_either_kind_are_written() -> None:
    """Rows come as float32, and are rounded, or as they were rounded before; each by its own sign."""
    rows = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    rows[::2] = abs(rows[::2])
    kept = ByteRows(9, 5)
    kept.write(np.array([1, 3, 5]), rows, np.array([0, 1, 2]))
    kept.write(np.array([2, 4, 6]), pack_bytes(rows), np.array([0, 1, 2]))
    found = kept.read(np.arange(1, 7))
    np.testing.assert_array_equal(found[::2], found[1::2])
    largest = abs(rows[:3]).max(axis=1)
    most = np.array([255, 127, 255])
    assert (abs(found[::2] - rows[:3]).max(axis=1) <= largest / most / 2 * 1.001).all()


@pytest.mark.parametrize("missing", [None, "left out"])
def test_rows_that_hold_no_number_hand_it_on(missing: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN and infinity are not rounded away, and nobody is warned; by kernels and by numpy."""
    monkeypatch.setattr(packed, "why_missing", lambda: missing or why_missing())
    rows = np.array([[1, np.nan, 2], [1, np.inf, -2], [1, 2, 3]], np.float32)
    found = unpack(pack_bytes(rows))
    assert not np.isfinite(found[0]).any()
    assert not np.isfinite(found[1]).all()
    np.testing.assert_allclose(found[2], [1, 2, 3], atol=3 / 255)


def packed_table(x: Array, bits: FeatureBits = 8, columns: tuple[int, ...] | None = None) -> PackedFeatures:
    """Make a table of features, all of them or some."""
    step, widths = choose_widths(x, bits, is_signed=False)
    chosen = x if columns is None else np.ascontiguousarray(x[:, columns])
    return PackedFeatures(pack(chosen, step, widths, is_signed=False), bits, columns)


def test_tables_follow_updates() -> None:
    """Rows are replaced and added, of either sign, more than once; only those that differ as rounded are others."""
    rng = np.random.default_rng(0)
    x = rng.random((70, CHANNELS), np.float32)
    tables = [packed_table(x), packed_table(x, columns=(1, 4))]
    wanted = rounded(x, 8)
    for seed in range(6):
        nodes = rng.choice(len(wanted), 9, replace=False)
        rows = rng.standard_normal((9, CHANNELS)).astype(np.float32)
        rows[:3] = x[nodes[:3] % 70]
        new = rng.random((seed % 3, CHANNELS), np.float32) - 0.5
        kept = rounded_anew(rows, 8)
        for table in tables:
            columns = list(range(CHANNELS)) if table is tables[0] else [1, 4]
            others = table.replace(nodes, rows)
            differ = (kept[:, columns] != wanted[nodes][:, columns]).any(axis=1)
            np.testing.assert_array_equal(others, nodes[differ])
            assert len(table.replace(nodes, rows)) == 0
            table.extend(new)
        wanted[nodes] = kept
        wanted = np.concatenate([wanted, rounded_anew(new, 8)])
        everything = np.arange(len(wanted))
        np.testing.assert_array_equal(tables[0].gather(everything), wanted)
        np.testing.assert_array_equal(tables[1].gather(everything), wanted[:, [1, 4]])
        assert len(tables[0]) == len(wanted)


def test_tables_without_nodes_or_columns() -> None:
    """Nothing is packed, gathered and added to."""
    none = packed_table(np.zeros((0, CHANNELS), np.float32))
    none.extend(np.ones((2, CHANNELS), np.float32))
    np.testing.assert_array_equal(none.gather(np.array([1, 0, 1])), np.ones((3, CHANNELS)))
    narrow = packed_table(np.ones((3, CHANNELS), np.float32), columns=())
    assert len(narrow.replace(np.array([1]), np.zeros((1, CHANNELS), np.float32))) == 0
    assert narrow.gather(np.array([1, 2])).shape == (2, 0)


def test_what_tables_take_is_told() -> None:
    """The bytes of features are those of the packed rows, and grow with what updates bring."""
    world, model = World.random(200, 300), gcn()
    served = model.open(world, packed=8)
    assert served.feature_bytes == 200 * (CHANNELS + 4) + 50 + 4 * 8
    assert model.open(world).feature_bytes == 200 * CHANNELS * 4
    before = served.feature_bytes
    served.update(features=([3], np.ones((1, CHANNELS), np.float32)))
    assert served.feature_bytes >= before + 200 * 8 + CHANNELS + 5
