"""Rows repeated for each of their slots."""

from __future__ import annotations

import numpy as np
import pytest

from gnnexport.errors import KernelError
from gnnexport.native import kernels
from tests.native.calls import address, into
from tests.native.strategies import hub_graph

pytestmark = pytest.mark.usefixtures("native")


def spread(rowptr: np.ndarray, x: np.ndarray, slots: int, threads: int = 1) -> np.ndarray:
    """Run `gnx_run_spread`."""
    bits = 8 * rowptr.itemsize
    csr = kernels.Csr(address(rowptr), 0, len(rowptr) - 1, slots, slots, bits)
    width = x.shape[1]

    def call(out: int) -> None:
        kernels.spread(csr, address(x), width, out, threads=threads)

    return into((slots, width), np.float32, call)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("width", [1, 7, 200])
@pytest.mark.parametrize("bits", [32, 64])
def test_rows_are_repeated(bits: int, width: int, threads: int) -> None:
    """A row comes once for each of its slots, hubs and rows without slots among them."""
    graph = hub_graph(5_000)
    x = np.random.default_rng(0).standard_normal((graph.num_rows, width)).astype(np.float32)
    out = spread(graph.rowptr.astype(f"int{bits}"), x, graph.num_slots, threads)
    np.testing.assert_array_equal(out, np.repeat(x, np.diff(graph.rowptr), axis=0))


@pytest.mark.parametrize("rowptr", [[0, 2, 1], [1, 2, 3], [0, 1, 2], [0, 5, 3]])
def test_pointers_that_do_not_rise(rowptr: list[int]) -> None:
    """What does not begin at nothing, falls or ends elsewhere is refused, and nothing is written outside."""
    with pytest.raises(KernelError, match="rowptr falls or ends elsewhere"):
        spread(np.array(rowptr), np.ones((2, 4), np.float32), 3)


def test_nothing() -> None:
    """No rows, no slots."""
    assert spread(np.zeros(1, np.int64), np.ones((0, 4), np.float32), 0).shape == (0, 4)
