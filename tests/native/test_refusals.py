"""Wrong arguments give a status, never a crash, and nothing is written beside the outputs."""

from __future__ import annotations

from ctypes import Structure, byref, c_int32, c_int64, c_void_p
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gnnexport.errors import KernelError
from gnnexport.native import kernels
from gnnexport.native.library import library
from tests.native import calls
from tests.native.calls import address
from tests.native.strategies import chunk_of, hub_graph
from tests.native.twins import Array

pytestmark = pytest.mark.usefixtures("native")

OK, NULL, SHAPE, INDEX, OPTION = range(5)
MOST = 2**63 - 1

ROWPTR = np.array([0, 2, 2, 4])
COL = np.array([0, 3, 1, 2])
NUMBERS = np.ones(64, np.float32)
FALLS = np.array([0, 3, 2, 4])
STARTS_LATE = np.array([1, 2, 2, 4])
ENDS_EARLY = np.array([0, 2, 2, 3])
ENDS_LATE = np.array([0, 2, 2, 5])
NEGATIVE = np.array([0, -1, 2, 4])
TOO_LARGE = np.array([0, 4, 1, 2])
BELOW_ZERO = np.array([0, -1, 1, 2])


def csr() -> Any:
    """Build a structure of 3 rows, 4 slots and 4 sources."""
    return kernels.Csr(address(ROWPTR), address(COL), 3, 4, 4)._c()


def aggregation(out: int) -> Any:
    """Build a valid aggregation of width 6 with two heads."""
    terms = (0, 0, 0, 0, address(NUMBERS), 2)
    return kernels._Aggregate(csr(), address(NUMBERS), 6, *terms, kernels.PLAIN._c(), out)


def attention(out: int) -> Any:
    """Build a valid attention of width 6 with two heads and scores of GATv2."""
    terms = (2, *[address(NUMBERS)] * 5, 0.2, 1.0)
    return kernels._Attention(csr(), address(NUMBERS), 6, 2, *terms, kernels.PLAIN._c(), out)


def changed(work: Structure, changes: dict[str, Any]) -> Structure:
    """Set fields by their dotted names."""
    for name, value in changes.items():
        *parents, field = name.split(".")
        target = work
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, field, address(value) if isinstance(value, np.ndarray) else value)
    return work


def status(build: Any, call: str, changes: dict[str, Any]) -> int:
    """Run a kernel with these changes; its output has 3 rows of 6."""
    found: list[int] = []

    def run(out: int) -> None:
        found.append(getattr(library(), call)(byref(changed(build(out), changes)), None))

    calls.into((3, 6), np.float32, run)
    return found[0]


STRUCTURES = [
    ({"csr.rowptr": None}, NULL),
    ({"csr.num_rows": -1}, SHAPE),
    ({"csr.num_rows": MOST}, SHAPE),
    ({"csr.num_slots": -1}, SHAPE),
    ({"csr.num_slots": MOST}, SHAPE),
    ({"csr.num_src": -1}, SHAPE),
    ({"csr.num_src": MOST}, SHAPE),
    ({"csr.num_src": 2**31, "csr.index_bits": 32}, SHAPE),
    ({"csr.num_slots": 3}, INDEX),
    ({"csr.num_slots": 5}, INDEX),
    ({"csr.col": None, "csr.num_src": 3}, SHAPE),
    ({"csr.col": None}, OK),
    ({"csr.num_src": 3}, INDEX),
    ({"csr.num_src": 0}, INDEX),
    ({"csr.rowptr": FALLS}, INDEX),
    ({"csr.rowptr": STARTS_LATE}, INDEX),
    ({"csr.rowptr": ENDS_EARLY}, INDEX),
    ({"csr.rowptr": ENDS_LATE}, INDEX),
    ({"csr.rowptr": NEGATIVE}, INDEX),
    ({"csr.col": TOO_LARGE}, INDEX),
    ({"csr.col": BELOW_ZERO}, INDEX),
    ({"csr.index_bits": 0}, OPTION),
    ({"csr.index_bits": 16}, OPTION),
    ({"csr.index_bits": -64}, OPTION),
]

BOTH = [
    *STRUCTURES,
    ({}, OK),
    ({"x": None}, NULL),
    ({"out": None}, NULL),
    ({"width": -6}, SHAPE),
    ({"width": MOST - 1}, SHAPE),
    ({"width": 0}, OK),
    ({"width": 0, "x": None, "out": None}, OK),
    ({"heads": 0}, SHAPE),
    ({"heads": -2}, SHAPE),
    ({"heads": 4}, SHAPE),
    ({"heads": 12}, SHAPE),
    ({"heads": MOST}, SHAPE),
    ({"epilogue.activation": 4}, OPTION),
    ({"epilogue.activation": -1}, OPTION),
]

AGGREGATES = [
    *BOTH,
    ({"weight": None}, SHAPE),
    ({"weight": None, "heads": 1}, OK),
    ({"type": 6}, OPTION),
    ({"type": -1}, OPTION),
    ({"reduce": 5}, OPTION),
    ({"reduce": -1}, OPTION),
    ({"reduce": 2}, OPTION),
    ({"reduce": 3}, OPTION),
    ({"reduce": 4}, OPTION),
    ({"reduce": 2, "weight": None, "heads": 1}, OK),
    ({"row_scale": NUMBERS}, OPTION),
    ({"column_scale": NUMBERS}, OPTION),
    ({"row_scale": NUMBERS, "type": 2}, OPTION),
    ({"row_scale": NUMBERS, "type": 3}, OK),
    ({"type": 3, "reduce": 2, "weight": None, "heads": 1, "row_scale": NUMBERS}, OPTION),
    ({"type": 3, "reduce": 3, "weight": None, "heads": 1, "column_scale": NUMBERS}, OPTION),
]

ATTENTIONS = [
    *BOTH,
    ({"score": 4}, OPTION),
    ({"score": -1}, OPTION),
    ({"score": 0, "edge": None}, NULL),
    ({"score": 0, "source": None, "destination": None, "att": None, "edge_value": None}, OK),
    *(({"score": score, "source": None}, NULL) for score in (1, 2, 3)),
    *(({"score": score, "destination": None}, NULL) for score in (1, 2, 3)),
    *(({"score": score, "edge": None, "edge_value": None}, OK) for score in (1, 2, 3)),
    ({"att": None}, NULL),
    ({"score": 3, "att": None}, OK),
]


def named(cases: list[tuple[dict[str, Any], int]]) -> list[Any]:
    """Name each case after its changes."""

    def word(value: Any) -> str:
        return "-".join(map(str, value)) if isinstance(value, np.ndarray) else str(value)

    return [
        pytest.param(*case, id=",".join(f"{name}={word(value)}" for name, value in case[0].items())) for case in cases
    ]


@pytest.mark.parametrize(("changes", "expected"), named(AGGREGATES))
def test_aggregate(changes: dict[str, Any], expected: int) -> None:
    """Each wrong argument has its status, and what is valid has none."""
    assert status(aggregation, "gnx_run_aggregate", changes) == expected


@pytest.mark.parametrize(("changes", "expected"), named(ATTENTIONS))
def test_attention(changes: dict[str, Any], expected: int) -> None:
    """Each wrong argument has its status, and what is valid has none."""
    assert status(attention, "gnx_run_attention", changes) == expected


SOFTMAXES = [
    *((change, code) for change, code in STRUCTURES if not {"csr.col", "csr.num_src"} & set(change)),
    ({}, OK),
    # The columns are not read.
    ({"csr.num_src": -1}, OK),
    ({"csr.col": TOO_LARGE}, OK),
]


@pytest.mark.parametrize(("changes", "expected"), named(SOFTMAXES))
def test_softmax(changes: dict[str, Any], expected: int) -> None:
    """Each wrong structure has its status, and what is valid has none."""
    changes = {name.removeprefix("csr."): value for name, value in changes.items()}
    assert soften(changed(csr(), changes)) == expected


def soften(structure: Any, scores: Array | None = NUMBERS, heads: int = 4, out: bool = True) -> int:
    """Run the softmax of 4 slots."""
    found: list[int] = []

    def call(to: int) -> None:
        pointers = (c_void_p(address(scores)), c_int64(heads), c_void_p(to if out else 0))
        found.append(library().gnx_run_softmax(byref(structure), *pointers, None))

    calls.into((4, 4), np.float32, call)
    return found[0]


def test_softmax_pointers_and_heads() -> None:
    """Scores and output are needed where there is a slot and a head; a number of heads has to fit."""
    assert soften(csr(), scores=None) == NULL
    assert soften(csr(), out=False) == NULL
    assert soften(csr(), heads=-1) == SHAPE
    assert soften(csr(), heads=MOST) == SHAPE
    assert soften(csr(), heads=0, scores=None, out=False) == OK


def test_null_structures() -> None:
    """A null pointer in place of the arguments is refused too."""
    assert library().gnx_run_aggregate(None, None) == NULL
    assert library().gnx_run_attention(None, None) == NULL
    assert library().gnx_run_softmax(None, c_void_p(0), c_int64(1), c_void_p(0), None) == NULL


@pytest.mark.parametrize("build", [aggregation, attention])
def test_no_rows_need_nothing(build: Any) -> None:
    """Without rows no pointer but `rowptr` is needed, and no width is too large to do nothing with."""
    call = "gnx_run_aggregate" if build is aggregation else "gnx_run_attention"
    empty = {"csr.num_rows": 0, "csr.num_slots": 0, "csr.num_src": 0, "x": None, "out": None}
    assert status(build, call, empty) == OK
    assert status(build, call, empty | {"width": 2**50, "heads": 2}) == OK
    assert status(build, call, empty | {"width": MOST - 1, "heads": 2}) == SHAPE


@pytest.mark.parametrize("score", [0, 1, 2, 3])
def test_no_slots_need_no_values(score: int) -> None:
    """Rows without slots are 0, whatever pointers are null: libraries give null for arrays of nothing."""
    zeros, out = np.zeros(4, np.int64), np.ones((2, 18), np.float32)
    nothing = {"csr.rowptr": zeros, "csr.col": None, "csr.num_slots": 0, "x": None}
    terms = dict.fromkeys(("source", "destination", "edge", "edge_value", "att"))
    assert status(attention, "gnx_run_attention", {**nothing, **terms, "score": score, "out": out[0]}) == OK
    assert status(aggregation, "gnx_run_aggregate", {**nothing, "weight": None, "out": out[1]}) == OK
    assert not out.any()
    integers = {**nothing, "weight": None, "type": 3, "heads": 2, "width": 64, "out": np.ones((3, 64), np.float32)}
    assert status(aggregation, "gnx_run_aggregate", integers) == OK
    assert not integers["out"].any()
    assert soften(changed(csr(), {"rowptr": zeros, "num_slots": 0}), scores=None, out=False, heads=2**50) == OK


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("where", ["first chunk", "last chunk", "hub"])
@pytest.mark.parametrize("bad", [-1, 50, "least", "most"])
def test_columns_anywhere(path: str, bits: int, threads: int, where: str, bad: int | str) -> None:
    """A source out of range is found in any chunk, and before anything is read there."""
    width = 200
    graph = hub_graph(3 * chunk_of(width))
    assert graph.col is not None
    slot = {"first chunk": 0, "last chunk": graph.num_slots - 1, "hub": int(graph.rowptr[1]) + 2 * chunk_of(width)}
    limits = np.iinfo(f"int{bits}")
    col = graph.col.copy()
    col[slot[where]] = {"least": limits.min, "most": limits.max}.get(str(bad), bad)
    wrong = replace(graph, col=col)
    x, scores = np.ones((50, width), np.float32), np.ones((graph.num_slots, 1), np.float32)
    with pytest.raises(KernelError, match="an index is out of range"):
        calls.aggregate(wrong, x, bits=bits, threads=threads)
    with pytest.raises(KernelError, match="an index is out of range"):
        calls.attention(wrong, x, 1, "given", {"edge": scores}, bits=bits, threads=threads)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("bad", [-1, 9, "least", "most"])
@pytest.mark.parametrize("place", [0, 199_999])
def test_build_csr_out_of_range(bits: int, bad: int | str, place: int) -> None:
    """A destination out of range is refused wherever it stands."""
    limits = np.iinfo(f"int{bits}")
    dst = np.zeros(200_000, f"int{bits}")
    dst[place] = {"least": limits.min, "most": limits.max}.get(str(bad), bad)
    with pytest.raises(KernelError, match="an index is out of range"):
        calls.build_csr(dst, 9, bits=bits, threads=2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((COL, 4, 4, 64, ROWPTR, ROWPTR), OK),
        ((None, 4, 4, 64, ROWPTR, ROWPTR), NULL),
        ((COL, 4, 4, 64, None, ROWPTR), NULL),
        ((COL, 4, 4, 64, ROWPTR, None), NULL),
        ((None, 0, 4, 64, ROWPTR, None), OK),
        ((COL, -1, 4, 64, ROWPTR, ROWPTR), SHAPE),
        ((COL, 4, -1, 64, ROWPTR, ROWPTR), SHAPE),
        ((COL, MOST, 4, 64, ROWPTR, ROWPTR), SHAPE),
        ((COL, 4, MOST, 64, ROWPTR, ROWPTR), SHAPE),
        ((COL, 2**31, 4, 32, ROWPTR, ROWPTR), SHAPE),
        ((COL, 4, 2**31 - 1, 32, ROWPTR, ROWPTR), SHAPE),
        ((COL, 4, 0, 64, ROWPTR, ROWPTR), INDEX),
        ((COL, 4, 4, 8, ROWPTR, ROWPTR), OPTION),
    ],
)
def test_build_csr(given: Any, expected: int) -> None:
    """Each wrong argument has its status, and what is valid has none."""
    dst, num_edges, num_rows, bits, rowptr, perm = given
    outputs = [np.full(length, 77) if wanted is not None else None for length, wanted in ((6, rowptr), (5, perm))]
    sizes = (c_int64(num_edges), c_int64(num_rows), c_int32(bits))
    pointers = (c_void_p(address(output)) for output in outputs)
    assert library().gnx_build_csr(c_void_p(address(dst)), *sizes, *pointers, None) == expected
    assert all(output is None or output[-1] == 77 for output in outputs)


@pytest.mark.parametrize(
    ("rows", "bits", "rowptr", "words"),
    [
        (4, 64, 0, r"a pointer that is needed is null\. Pass an address"),
        (-1, 64, 1, r"sizes do not fit each other\. Pass sizes that belong to one structure"),
        (2, 64, 1, r"an index is out of range\. Pass nodes below the number of nodes"),
        (4, 8, 1, r"that is not known\. Pass a type"),
    ],
)
def test_a_refusal_says_what_helps(rows: int, bits: int, rowptr: int, words: str) -> None:
    """Each status has its mend; the error is of the project's tree, and a `ValueError`."""
    out = np.zeros(5, np.int64)
    with pytest.raises(KernelError, match=f"^native kernels: .*{words}") as caught:
        kernels.build_csr(address(COL), 4, rows, rowptr * address(out), address(out), index_bits=bits)
    assert isinstance(caught.value, ValueError)
    assert all(problem.mend for problem in caught.value.problems)


def test_memory_that_runs_out() -> None:
    """Who asks for more memory than there is gets Python's own error for it."""
    out = np.zeros(1, np.int64)
    with pytest.raises(MemoryError, match="native kernels: memory ran out"):
        kernels.build_csr(0, 0, 2**55, address(out), 0)
    with pytest.raises(MemoryError, match="native kernels: memory ran out"):
        kernels.prepare_edges(0, 0, 0, 2**55, lambda slots: (address(out), 0, 0))


def test_unknown_path() -> None:
    """An instruction set that nobody knows is refused, and the one in use stays."""
    before = kernels.library().gnx_path()
    assert not kernels.use_path("sse9")
    assert kernels.library().gnx_path() == before


def test_every_status_has_words() -> None:
    """Each status has its own message, and an unknown one has too."""
    messages = [bytes(library().gnx_message(c_int32(code))).decode() for code in range(-1, 7)]
    assert len(set(messages)) == 7
    assert messages[0] == messages[-1] == "an unknown status"
