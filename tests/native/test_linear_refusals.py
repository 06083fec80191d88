"""Linear layers refuse what does not fit and what has no room, and a matrix is freed once."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
from ctypes import byref, c_int32, c_int64, c_void_p
from typing import Any

import numpy as np
import pytest

from gnnexport.errors import KernelError
from gnnexport.native import kernels
from gnnexport.native.library import library, path_name
from tests.native import calls
from tests.native.calls import address
from tests.native.test_refusals import (
    INDEX,
    MOST,
    NULL,
    NUMBERS,
    OK,
    OPTION,
    SHAPE,
    STRUCTURES,
    aggregation,
    named,
    status,
)

pytestmark = pytest.mark.usefixtures("native")

MEMORY = 5
SIDE = 6

LINEARS = [
    ({}, OK),
    *(({f"sum.{name}": value for name, value in changes.items()}, code) for changes, code in STRUCTURES),
    ({"matrix": None, "own_matrix": None}, NULL),
    ({"out": None}, NULL),
    ({"own": None}, NULL),
    ({"own": None, "own_matrix": None}, OK),
    ({"sum.x": None}, NULL),
    ({"sum.weight": None}, SHAPE),
    ({"sum.width": 0}, SHAPE),
    ({"sum.width": -6}, SHAPE),
    ({"sum.width": MOST - 1}, SHAPE),
    ({"sum.heads": 0}, SHAPE),
    ({"sum.heads": 4}, SHAPE),
    ({"sum.type": 6}, OPTION),
    ({"sum.reduce": 5}, OPTION),
    ({"sum.reduce": 2}, OPTION),
    ({"sum.row_scale": NUMBERS}, OPTION),
    ({"epilogue.activation": 4}, OPTION),
    ({"epilogue.activation": -1}, OPTION),
    # These two are not read.
    ({"sum.epilogue.activation": 9}, OK),
    ({"sum.out": None}, OK),
    ({"matrix": (6, 5)}, SHAPE),
    ({"matrix": (6, 0)}, SHAPE),
    ({"matrix": (5, 6)}, SHAPE),
    ({"own_matrix": (5, 6)}, SHAPE),
    ({"own_matrix": (0, 6)}, SHAPE),
    ({"own_matrix": (6, 0), "own": None}, OK),
    ({"matrix": (6, 0), "sum.width": 0, "sum.x": None}, OK),
    ({"matrix": (0, 6), "own_matrix": (0, 6), "own": None, "out": None}, OK),
    ({"matrix": (0, 6), "own_matrix": None, "sum.csr.num_slots": 5}, INDEX),
    # Without a matrix only the number of rows is read.
    ({"matrix": None, "sum.x": None, "sum.width": -1, "sum.csr.rowptr": None, "sum.csr.index_bits": 3}, OK),
    ({"matrix": None, "own": None}, NULL),
    ({"matrix": None, "own": None, "out": None, "sum.csr.num_rows": 0}, OK),
    ({"matrix": None, "sum.csr.num_rows": -1}, SHAPE),
    ({"matrix": None, "sum.csr.num_rows": MOST}, SHAPE),
    ({"matrix": None, "sum.csr.num_rows": 2**57}, SHAPE),
    ({"matrix": None, "own_matrix": (0, 6), "own": None, "out": None, "sum.csr.num_rows": 2**54}, OK),
]


def matrix(shape: tuple[int, int]) -> kernels.Matrix:
    """Lay out ones."""
    made = calls.matrix_of(np.ones(shape, np.float32))
    assert made is not None
    return made


@pytest.mark.parametrize(("changes", "expected"), named(LINEARS))
def test_linear(path: str, changes: dict[str, Any], expected: int) -> None:
    """Each wrong argument has its status, and what is valid has none; nothing is written beside the output."""
    square = matrix((SIDE, SIDE))
    others = {name: matrix(value) for name, value in changes.items() if isinstance(value, tuple)}
    pointers = {name: made.pointer for name, made in others.items()}

    def build(out: int) -> Any:
        terms = (square.pointer, address(NUMBERS), square.pointer, kernels.PLAIN._c(), out)
        return kernels._Linear(aggregation(0), *terms)

    assert status(build, "gnx_run_linear", changes | pointers) == expected


def test_nothing_at_all() -> None:
    """A null pointer in place of the arguments is refused; there is nothing to free in one."""
    assert library().gnx_run_linear(None, None) == NULL
    library().gnx_free_matrix(None)


def test_matrices_of_different_instruction_sets(path: str) -> None:
    """Two matrices made under different instruction sets do not go together; two of another set than is in use do."""
    own, out = np.ones((3, SIDE), np.float32), np.zeros((3, SIDE), np.float32)
    here = matrix((SIDE, SIDE))
    kernels.use_path("portable" if path != "portable" else None)
    other = path_name()
    assert other != path
    rowptr = np.zeros(4, np.int64)
    csr = kernels.Csr(address(rowptr), 0, 3, 0, 0)
    reduced = kernels.Reduced(csr, 0, SIDE)
    try:
        kernels.linear(reduced, address(out), matrix=here, own=address(own), own_matrix=here)
        np.testing.assert_array_equal(out, np.full((3, SIDE), SIDE))
        with pytest.raises(KernelError, match=r"is not known.* matrices made with one instruction set"):
            kernels.linear(reduced, address(out), matrix=here, own=address(own), own_matrix=matrix((SIDE, SIDE)))
    finally:
        kernels.use_path(path)


def pack(values: Any, out_width: int, width: int, layout: int = 0) -> tuple[int, int]:
    """Run `gnx_pack_matrix`; return its status and what it made, if anything."""
    made = c_void_p()
    sizes = (c_int64(out_width), c_int64(width), c_int32(layout))
    found = library().gnx_pack_matrix(c_void_p(address(values)), *sizes, byref(made))
    return found, made.value or 0


@pytest.mark.parametrize(
    ("out_width", "width", "expected"),
    [
        (-1, 3, SHAPE),
        (3, -1, SHAPE),
        (MOST, 3, SHAPE),
        (3, MOST, SHAPE),
        (2**31, 1, SHAPE),
        (1, 2**31, SHAPE),
        (2**31 - 1, 2**31 - 1, SHAPE),
        # Five times as many bytes as these have numbers wrap around to few.
        (1_717_986_918, 2**31 - 1, SHAPE),
        (2**28, 2**28, MEMORY),
    ],
)
def test_sizes_of_a_matrix(path: str, out_width: int, width: int, expected: int) -> None:
    """A matrix that is negative, has too long rows or no room is refused, and nothing is made."""
    assert pack(NUMBERS, out_width, width) == (expected, 0)
    if expected == SHAPE:
        for layout in kernels.LAYOUTS.values():
            assert pack(NUMBERS, out_width, width, layout) == (SHAPE, 0)


@pytest.mark.parametrize("layout", [-1, 3, 2**31 - 1])
def test_layouts_of_a_matrix(path: str, layout: int) -> None:
    """A layout that is not known is refused."""
    assert pack(NUMBERS, 2, 3, layout) == (OPTION, 0)


@pytest.mark.parametrize("layout", kernels.LAYOUTS.values())
def test_numbers_of_a_matrix(path: str, layout: int) -> None:
    """Numbers are needed where there are any, and a place for what is made is always."""
    assert pack(None, 2, 3, layout) == (NULL, 0)
    sizes = (c_int64(2), c_int64(3), c_int32(layout))
    assert library().gnx_pack_matrix(c_void_p(address(NUMBERS)), *sizes, None) == NULL
    for out_width, width in ((0, 3), (3, 0), (0, 0), (0, 2**31 - 1), (2**20, 0)):
        found, made = pack(None, out_width, width, layout)
        assert found == OK
        library().gnx_free_matrix(c_void_p(made))


def test_errors_in_words() -> None:
    """Who calls from Python gets the error of the kernels, or Python's own where memory runs out."""
    with pytest.raises(KernelError, match="sizes do not fit each other"):
        kernels.Matrix(address(NUMBERS), 3, -1)
    with pytest.raises(KernelError, match="a pointer that is needed is null"):
        kernels.Matrix(0, 3, 3)
    with pytest.raises(MemoryError, match="native kernels: memory ran out"):
        kernels.Matrix(address(NUMBERS), 2**28, 2**28)
    with pytest.raises(KernelError, match="a pointer that is needed is null"):
        kernels.linear(3, address(NUMBERS))


class Counting:
    """The library, with a list of what is freed in place of freeing it."""

    def __init__(self) -> None:
        self.freed: list[int | None] = []
        self.gnx_pack_matrix, self.gnx_message = library().gnx_pack_matrix, library().gnx_message

    def gnx_free_matrix(self, made: c_void_p) -> None:
        """Free, and remember it."""
        self.freed.append(made.value)
        library().gnx_free_matrix(made)


def test_freed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix is freed when nobody has it any more; it cannot be copied, and a refused one has nothing to free."""
    counting = Counting()
    monkeypatch.setattr(kernels, "library", lambda: counting)
    made = matrix((2, 3))
    pointer = made.pointer
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied"):
            duplicate(made)
    assert not counting.freed
    del made
    gc.collect()
    assert counting.freed == [pointer]
    with pytest.raises(KernelError):
        kernels.Matrix(address(NUMBERS), 3, -1)
    gc.collect()
    assert counting.freed == [pointer]


AT_EXIT = """
import atexit
import numpy as np

def last():
    out = np.zeros((1, 2), np.float32)
    kernels.linear(1, out.ctypes.data, own=own.ctypes.data, own_matrix=matrix)
    print(out.tolist(), freed)

atexit.register(last)
from gnnexport.native import kernels, library
real, freed = library.library(), []

class Counting:
    gnx_pack_matrix, gnx_run_linear, gnx_message = real.gnx_pack_matrix, real.gnx_run_linear, real.gnx_message
    gnx_free_matrix = freed.append

kernels.library = Counting
own, values = np.ones((1, 3), np.float32), np.ones((2, 3), np.float32)
matrix = kernels.Matrix(values.ctypes.data, 2, 3)
"""


def test_in_use_at_exit() -> None:
    """A matrix that somebody still has when the interpreter exits is not taken from under them."""
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("[[3.0, 3.0]] []\n", 0), done.stderr


NO_ROOM = """
import resource, sys
import numpy as np
from gnnexport.native import kernels

assert kernels.use_path(sys.argv[1])
width, rows, threads = 1 << 17, 300, int(sys.argv[2])
rowptr, col = np.arange(0, 2 * rows + 2, 2), np.zeros(2 * rows, np.int64)
csr = kernels.Csr(rowptr.ctypes.data, col.ctypes.data, rows, 2 * rows, 1)
x, spread, out = np.ones((1, width), np.float32), np.zeros(2 * rows, np.float32), np.zeros((rows, 1), np.float32)
matrix, reduced = kernels.Matrix(x.ctypes.data, 1, width), kernels.Reduced(csr, x.ctypes.data, width)
# The threads are there before the memory is short.
kernels.spread(csr, x.ctypes.data, 1, spread.ctypes.data, threads=threads)

def call():
    kernels.linear(reduced, out.ctypes.data, matrix=matrix, threads=threads)

with open("/proc/self/statm") as sizes:
    room = int(sizes.read().split()[0]) * resource.getpagesize() + (8 << 20)
_, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (room, most))
try:
    call()
except MemoryError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
call()
assert (out == 2 * width).all()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory is asked of Linux")
@pytest.mark.parametrize("threads", [1, 3])
def test_no_room_for_rows(path: str, threads: int) -> None:
    """Where a thread has no room for rows, the call says so and the next one that has room is right."""
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, path, str(threads)], capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.returncode) == ("native kernels: memory ran out\n", 0), done.stderr
