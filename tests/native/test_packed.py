"""Rows of a few bits: packed by kernels and by numpy alike, and unpacked to what the definition of a level says."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnexport.errors import KernelError
from gnnexport.native import kernels, library, packed, packed_numpy
from gnnexport.native.packed import PackedRows, empty_rows, pack, put, unpack, unpack_levels, why_unsound
from gnnexport.native.row_widths import choose_widths

Array = np.ndarray


@pytest.fixture(params=["numpy", *library.PATHS])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run in numpy, and with each instruction set that this processor has."""
    if request.param == "numpy":
        monkeypatch.setattr(packed, "why_missing", lambda: "left out")
        yield request.param
        return
    if library.why_missing():
        pytest.skip(f"native kernels: {library.why_missing()}")
    before = library.path_name()
    if not kernels.use_path(request.param):
        pytest.skip(f"this processor lacks {request.param}")
    yield request.param
    kernels.use_path(before)


def level(x: Array, step: Array, bits: Array, is_signed: bool) -> Array:
    """Return the numbers of rows as the definition has them, one operation in float32 after the other."""
    z = x * (np.float32(1) / step)[:, None]
    if is_signed:
        most = (2.0 ** (bits - 1) - 1).astype(np.float32)[:, None]
        return np.sign(z) * np.floor(np.minimum(np.abs(z), most) + np.float32(0.5))
    most = (2.0**bits - 1).astype(np.float32)[:, None]
    return np.floor(np.minimum(np.maximum(z, 0), most) + np.float32(0.5))


def drawn(rows: int, columns: int, seed: int, is_signed: bool) -> tuple[Array, Array, Array]:
    """Draw numbers, steps and widths; some numbers lie between two levels, some beyond the largest."""
    rng = np.random.default_rng(seed)
    bits = rng.choice([1, 2, 4, 8], rows)
    step = rng.uniform(0.01, 3, rows).astype(np.float32)
    halves = np.round(rng.uniform(-1, 1, (rows, columns)) * 2.0 ** (bits[:, None] + 1)) / 2
    x = np.where(rng.random((rows, columns)) < 0.5, halves, rng.standard_normal((rows, columns)) * 2.0 ** bits[:, None])
    return (x * step[:, None]).astype(np.float32), step, bits


@given(st.integers(0, 200), st.integers(0, 70), st.booleans(), st.integers(0, 2**32))
@settings(max_examples=60)
def test_kernels_and_numpy_agree_to_the_bit(rows: int, columns: int, is_signed: bool, seed: int) -> None:
    """What is stored, where it lies, and what comes out is the same, by whoever and in whatever order."""
    if library.why_missing():
        pytest.skip(f"native kernels: {library.why_missing()}")
    x, step, bits = drawn(rows, columns, seed, is_signed)
    native = pack(x, step, bits, is_signed=is_signed)
    ids = np.random.default_rng(seed).integers(0, max(rows, 1), 50 if rows else 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "why_missing", lambda: "left out")
        plain = pack(x, step, bits, is_signed=is_signed)
        wanted = unpack(plain, ids), unpack_levels(plain, ids)
    np.testing.assert_array_equal(native.payload, plain.payload)
    np.testing.assert_array_equal(unpack(native, ids), wanted[0])
    np.testing.assert_array_equal(unpack_levels(native, ids), wanted[1])
    assert why_unsound(native) is None


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("columns", [1, 7, 8, 9, 63, 64, 65, 511, 513, 1_040])
def test_what_comes_out_is_the_level_times_the_step(columns: int, is_signed: bool) -> None:
    """Unpacking what was packed gives the fake-quantised rows, bit for bit, and packing those again changes nothing."""
    x, step, bits = drawn(150, columns, columns, is_signed)
    rows = pack(x, step, bits, is_signed=is_signed)
    number = level(x, step, bits, is_signed)
    np.testing.assert_array_equal(unpack(rows), number.astype(np.float32) * step[:, None])
    np.testing.assert_array_equal(unpack_levels(rows), number + 128 * is_signed)
    again = pack(unpack(rows), step, bits, is_signed=is_signed)
    np.testing.assert_array_equal(again.payload, rows.payload)


@pytest.mark.usefixtures("way")
def test_rows_take_the_bytes_that_were_promised() -> None:
    """A row takes its bits, rounded up to bytes, two bits for the width, a step, and 8 bytes for every 64 rows."""
    x, step, bits = drawn(1_000, 33, 0, is_signed=False)
    rows = pack(x, step, bits, is_signed=False)
    sizes = -(-33 * bits // 8)
    assert len(rows.payload) == sizes.sum()
    assert rows.nbytes == sizes.sum() + 1_000 * 4 + 250 + 16 * 8
    np.testing.assert_array_equal(rows.bits, bits)
    np.testing.assert_array_equal(rows.anchors, np.append(0, np.cumsum(sizes))[:-1][::64])


@pytest.mark.usefixtures("way")
def test_how_rows_lie_in_memory() -> None:
    """The first number stands in the lowest bits of the first byte; what is signed is stored above its zero."""
    x = np.array([[1, 0, 3, 2, 1], [1, 0, 1, 1, 0], [15, 0, 7, 9, 1], [255, 0, 7, 1, 2]], np.float32)
    rows = pack(x, np.ones(4, np.float32), np.array([2, 1, 4, 8]), is_signed=False)
    assert rows.payload.tolist() == [0b10110001, 0b01, 0b01101, 0x0F, 0x97, 0x01, 255, 0, 7, 1, 2]
    assert rows.codes is not None
    assert rows.codes.tolist() == [0b11100001]
    signed = pack(np.array([[-1, 1, 0]], np.float32), np.ones(1, np.float32), np.array([2]), is_signed=True)
    assert signed.payload.tolist() == [0b101101]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("is_signed", [False, True])
def test_numbers_that_are_none(is_signed: bool) -> None:
    """NaN and what is infinite are stored as some level, and nothing beside them is touched."""
    x = np.array([[np.nan, 1, np.inf, -np.inf, 2]], np.float32)
    rows = pack(x, np.ones(1, np.float32), np.array([4]), is_signed=is_signed)
    wanted = [7, 1, 7, -7, 2] if is_signed else [0, 1, 15, 0, 2]
    assert unpack(rows).tolist() == [wanted]


@pytest.mark.usefixtures("way")
def test_rows_of_bytes_with_zeros_of_their_own() -> None:
    """Rows of 8 bits need neither widths nor anchors, may each have a sign, and are written in any order."""
    x, step, _ = drawn(90, 21, 5, is_signed=True)
    zero = np.where(np.arange(90) % 3, 128, 0).astype(np.uint8)
    rows = PackedRows(np.zeros(90 * 21, np.uint8), step, 21, zero=zero)
    order = np.random.default_rng(0).permutation(90)
    put(rows, x[order], order)
    for sign in (False, True):
        of_sign = np.flatnonzero((zero > 0) == sign)
        number = level(x[of_sign], step[of_sign], np.full(len(of_sign), 8), sign)
        np.testing.assert_array_equal(unpack(rows, of_sign), number.astype(np.float32) * step[of_sign, None])
        np.testing.assert_array_equal(unpack_levels(rows, of_sign), number + 128 * sign)
    assert why_unsound(rows) is None
    assert rows.nbytes == 90 * (21 + 4 + 1)


@pytest.mark.usefixtures("way")
def test_threads_change_nothing() -> None:
    """Rows of several tasks are the same on one thread and on several."""
    x, step, bits = drawn(9_000, 65, 1, is_signed=True)
    one, three = (pack(x, step, bits, is_signed=True, threads=threads) for threads in (1, 3))
    np.testing.assert_array_equal(one.payload, three.payload)
    ids = np.random.default_rng(2).integers(0, 9_000, 20_000)
    out = np.empty((20_000, 65), np.float32)
    assert unpack(one, ids, out, threads=3) is out
    np.testing.assert_array_equal(out, unpack(one, ids, threads=1))


@pytest.mark.usefixtures("way")
def test_rows_behind_four_gigabytes(tmp_path: Path) -> None:
    """The place of a row may be larger than 32 bits hold; what is between stays a hole in the file."""
    count, columns = 70_000, 1 << 16
    codes, anchors, size = packed_numpy.layout(np.full(count, 8), columns)
    payload = np.memmap(tmp_path / "rows", np.uint8, "w+", shape=(size,))
    step, ids = np.ones(count, np.float32), np.array([count - 1, 0])
    x = np.stack([np.arange(columns) % 251, np.arange(columns) % 241]).astype(np.float32)
    for rows in (PackedRows(payload, step, columns, False, codes, anchors), PackedRows(payload, step, columns)):
        put(rows, x, ids)
        np.testing.assert_array_equal(payload[-columns:], x[0])
        np.testing.assert_array_equal(unpack(rows, ids), x)
        payload[-columns:] = 0


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("ids", [[0, 5], [-1], [2**62]])
def test_rows_that_there_are_not(ids: list[int]) -> None:
    """An id out of range is refused, in reading and in writing."""
    rows = pack(np.ones((5, 3), np.float32), np.ones(5, np.float32), np.full(5, 2), is_signed=False)
    numbers = np.array(ids)
    for call in (unpack, unpack_levels):
        with pytest.raises(KernelError, match="out of range"):
            call(rows, numbers)
    with pytest.raises(KernelError, match="out of range"):
        put(rows, np.ones((len(ids), 3), np.float32), numbers)


@pytest.mark.usefixtures("way")
def test_arrays_that_do_not_fit() -> None:
    """Other shapes and types are refused, and rows that lie in a file are not written."""
    rows = pack(np.ones((5, 3), np.float32), np.ones(5, np.float32), np.full(5, 2), is_signed=False)
    for x in (np.ones((5, 4), np.float32), np.ones((4, 3), np.float32), np.ones((5, 3))):
        with pytest.raises(KernelError, match=r"Pass float32 \[5, 3\]"):
            put(rows, x)
        with pytest.raises(KernelError, match=r"Pass float32 \[5, 3\]"):
            unpack(rows, out=x)
    rows.payload.flags.writeable = False
    with pytest.raises(KernelError, match="cannot be written"):
        put(rows, np.ones((5, 3), np.float32))


def test_parts_that_kernels_would_read_beside() -> None:
    """Arrays that are too short, of another type or in pieces are no parts of rows."""
    rows = pack(np.ones((70, 3), np.float32), np.ones(70, np.float32), np.full(70, 2), is_signed=False)
    assert rows.codes is not None
    assert rows.anchors is not None
    changes = {
        "payload": rows.payload[::2],
        "step": rows.step.astype(np.float64),
        "codes": rows.codes[:-1],
        "anchors": rows.anchors[:1],
    }
    for name, value in changes.items():
        with pytest.raises(KernelError, match=rf"'{name}' is .*Pass .* in one piece"):
            PackedRows(**{**vars(rows), name: value})
    with pytest.raises(KernelError, match=r"'zero' is uint8 \[1\]. Pass uint8 \[2\]"):
        PackedRows(np.zeros(6, np.uint8), np.ones(2, np.float32), 3, zero=np.zeros(1, np.uint8))
    with pytest.raises(KernelError, match="'step' is float32"):
        PackedRows(np.zeros(6, np.uint8), np.ones(4, np.float32)[::2], 3)
    for name in ("codes", "anchors"):
        with pytest.raises(KernelError, match="do not go together"):
            PackedRows(**{**vars(rows), name: None})
    with pytest.raises(KernelError, match="do not go together"):
        PackedRows(**{**vars(rows), "zero": np.zeros(70, np.uint8)})


@pytest.mark.parametrize(
    ("step", "bits", "words"),
    [
        ([1, 0], [8, 8], "a step that is not positive"),
        ([1, np.nan], [8, 8], "a step that is not positive"),
        ([1, np.inf], [8, 8], "a step that is not positive"),
        ([1, 1e-9], [8, 8], "a step that is not positive"),
        ([1, 1], [8, 3], "widths other than"),
        ([1, 1], [8, 0], "widths other than"),
        ([1, 1], [8], "not one for each row"),
    ],
)
def test_layouts_that_are_refused(step: list[float], bits: list[int], words: str) -> None:
    """Steps are positive, widths those of containers."""
    with pytest.raises(KernelError, match=words):
        empty_rows(np.array(step, np.float32), np.array(bits), 3, is_signed=False)


def test_files_that_lie_are_told() -> None:
    """Widths, anchors, steps and bytes that do not belong together are found before a row is read."""
    x, step, bits = drawn(200, 9, 0, is_signed=False)
    rows = pack(x, step, bits, is_signed=False)
    assert rows.codes is not None
    assert rows.anchors is not None
    changes = {
        "payload": rows.payload[:-1],
        "anchors": rows.anchors + np.uint64(1),
        "codes": rows.codes ^ np.uint8(1),
        "step": -rows.step,
    }
    for name, value in changes.items():
        assert why_unsound(PackedRows(**{**vars(rows), name: value})) is not None, name
    of_bytes = PackedRows(np.zeros(18, np.uint8), step[:2], 9, zero=np.array([0, 7], np.uint8))
    assert why_unsound(of_bytes) == "a zero is neither 0 nor 128"
    assert why_unsound(PackedRows(np.zeros(17, np.uint8), step[:2], 9)) == "2 rows do not fit 17 bytes"


@given(st.integers(0, 2**32), st.sampled_from([2, 4, 8]), st.booleans())
def test_the_fewest_bits_that_are_near_enough(seed: int, most_bits: int, is_signed: bool) -> None:
    """Every row is as near as the most bits promise, and no narrower width with its largest as largest is."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((30, 6)).astype(np.float32)
    x[::3] = rng.integers(0, 4, (10, 6)) * np.float32(rng.uniform(0.1, 5))
    x[::5] = (rng.random((6, 6)) < 0.5) * np.float32(0.3)
    x[7] = 0
    x = x if is_signed else abs(x)
    step, bits = choose_widths(x, most_bits, is_signed=is_signed)
    error = abs(unpack(pack(x, step, bits, is_signed=is_signed)) - x).max(axis=1)
    largest = abs(x).max(axis=1)
    bound = largest / (2 * (2 ** (most_bits - is_signed) - 1)) * 1.0001
    assert (error <= bound).all()
    for row in np.flatnonzero(bits > 1):
        fewer = np.array([bits[row] // 2])
        most = 2 ** (fewer - is_signed) - 1
        if most:
            narrow = pack(x[[row]], largest[[row]] / most.astype(np.float32), fewer, is_signed=is_signed)
            assert abs(unpack(narrow) - x[row]).max() > bound[row] * 0.999


def test_numbers_near_the_largest_of_float32() -> None:
    """Rows of numbers whose multiples no float32 holds have a step and a width like any other."""
    x = np.array([[3e38, 1e38, 1], [-3e38, 1e38, 2]], np.float32)
    for rows, is_signed in ((x[:1], False), (x, True)):
        step, bits = choose_widths(rows, 8, is_signed=is_signed)
        found = unpack(pack(rows, step, bits, is_signed=is_signed))
        np.testing.assert_allclose(found, rows, atol=3e38 / 254)


def test_few_columns_take_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding rows in numpy takes the widths of their groups: so few columns make parts no longer."""
    monkeypatch.setattr(packed, "why_missing", lambda: "left out")
    rows = pack(np.ones((200_000, 1), np.float32), np.ones(200_000, np.float32), np.full(200_000, 2), is_signed=False)
    tracemalloc.start()
    try:
        unpack(rows)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def test_rows_that_few_bits_hold_exactly() -> None:
    """A row of 0 and one value takes 1 bit, of three steps 2, of whole numbers up to 200 8, and all are exact."""
    x = np.array([[0, 0, 0, 0], [0.3, 0, 0.3, 0.3], [0.2, 0.6, 0.4, 0], [1, 0, 200, 7], [3, 6, 9, 45]], np.float32)
    step, bits = choose_widths(x, 8, is_signed=False)
    assert bits.tolist() == [1, 1, 2, 8, 4]
    np.testing.assert_allclose(unpack(pack(x, step, bits, is_signed=False)), x, rtol=1e-6)
    step, bits = choose_widths(-x, 8, is_signed=True)
    assert bits[:3].tolist() == [1, 2, 4]
