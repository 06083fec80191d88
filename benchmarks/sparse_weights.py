"""From how many zeros on a product that skips them is faster than one of all numbers, by width and by pattern.

    python -m benchmarks.sparse_weights

Rows [N, F] times weights [F, F]: our kernel in every layout of the weights, and ONNX Runtime's `MatMul`, all of them in
ONNX Runtime, which write to the same memory and take turns in blocks. Zeros stand anywhere, two in any four inputs of
an output, in runs of sixteen outputs at one input, or in tiles of sixteen outputs by 32 inputs. With one thread it is
processor time that counts, which other work on the machine disturbs less. Prints tables and writes JSON to
`benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from benchmarks import figures
from benchmarks.room import LeftOut, demand
from gnnexport.measure.timing import Timing, compare, ratio
from gnnexport.runtime.ort import offer_kernels
from gnnexport.targets.onnx.sparse_products import BLOCKS, DENSE, ENGINE, RUN, SPARSE, Product

WIDTHS = (64, 128, 256, 512, 1024)
ROWS = (2_000, 170_000)
SHARES = (0.5, 0.75, 0.9, 0.95, 0.98)
QUICK_WIDTHS, QUICK_ROWS, QUICK_SHARES = (64,), (100,), (0.5, 0.9)

ANYWHERE, TWO_OF_FOUR, RUNS, TILES = "anywhere", "2:4", f"{RUN}×1", f"{RUN}×32"
PATTERNS: Mapping[str, tuple[str, ...]] = {
    ANYWHERE: (SPARSE,),
    TWO_OF_FOUR: (SPARSE,),
    RUNS: (BLOCKS, SPARSE),
    TILES: (BLOCKS, SPARSE),
}
"""The layouts that suit each pattern."""

COMPARED = 4096
"""Rows of which the numbers are compared."""

WHOLE = (DENSE, ENGINE)
"""Contenders that multiply all numbers."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """A contender on weights of one pattern.

    Args:
        layout: of the weights, or `engine`.
        zeros: their share; `None` where it makes no difference.
        p50_ms: median of its runs.
        times_faster: than the faster one of those that multiply all numbers, from runs side by side.
        times_faster_ci95: interval of that.
        max_rel_error: largest difference from the dense kernel over the largest number, in the first rows.
    """

    layout: str
    zeros: float | None
    p50_ms: float
    times_faster: float
    times_faster_ci95: tuple[float | None, float | None]
    max_rel_error: float


@dataclass(frozen=True)
class Table:
    """All contenders of one size and pattern; `wins_from` is the least share of zeros that it pays to skip."""

    num_rows: int
    width: int
    pattern: str
    rows: list[Row]
    wins_from: float | None
    left_out: str = ""


def weights(width: int, pattern: str, share: float) -> Array:
    """Draw weights [width, width] with a share of zeros."""
    random = np.random.default_rng(0)
    drawn = random.standard_normal((width, width)).astype(np.float32)
    if pattern == TWO_OF_FOUR:
        order = random.random((width, width // 4, 4)).argsort(axis=2).argsort(axis=2)
        zeros = (order < 2).reshape(width, width)
    else:
        height, breadth = {ANYWHERE: (1, 1), RUNS: (RUN, 1), TILES: (RUN, 32)}[pattern]
        count = (width // height) * (width // breadth)
        places = random.permutation(count) < round(share * count)
        zeros = places.reshape(width // height, -1).repeat(height, axis=0).repeat(breadth, axis=1)
    drawn[zeros] = 0
    return drawn


def opened(product: Product, how: str, x: Array, out: Array, threads: int) -> Callable[[], object]:
    """Return a function that multiplies `x` once, into `out`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    offer_kernels(options)
    proto = ir.to_proto(product.alone(how)).SerializeToString()
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("out", "cpu", 0, np.float32, out.shape, out.ctypes.data)
    return lambda: session.run_with_iobinding(binding)


def shares_of(pattern: str, given: argparse.Namespace) -> tuple[float, ...]:
    """Return the shares of zeros that a pattern can have."""
    return (0.5,) if pattern == TWO_OF_FOUR else tuple(given.zeros)


def measure(num_rows: int, width: int, pattern: str, given: argparse.Namespace) -> Table:
    """Time all contenders on one size and pattern.

    Raises:
        LeftOut: there is no room for the rows.
    """
    demand(4 * 4 * num_rows * width, f"{num_rows} rows of {width} numbers")
    x = np.random.default_rng(1).standard_normal((num_rows, width), np.float32)
    out = np.empty_like(x)
    runs: dict[tuple[str, float | None], Callable[[], object]] = {}
    errors: dict[tuple[str, float | None], float] = {}
    wanted = out[:0]
    for share in shares_of(pattern, given):
        product = Product(weights(width, pattern, share), num_rows)
        for how in (*WHOLE, *PATTERNS[pattern]):
            key = (how, None if how in WHOLE else share)
            runs[key] = opened(product, how, x, out, given.threads)
            runs[key]()
            wanted = out[:COMPARED].copy() if how == DENSE else wanted
            errors[key] = float(np.abs(out[:COMPARED] - wanted).max() / (np.abs(wanted).max() or 1.0))
    named = {str(key): run for key, run in runs.items()}
    # Without threads of its own no engine disturbs the next one, so that no pause is needed.
    clock, pause_s = (time.process_time, 0.0) if given.threads == 1 else (time.perf_counter, 0.05)
    blocks = 2 if given.quick else 3
    timed = compare(named, budget_s=given.budget, min_blocks=blocks, pause_s=pause_s, clock=clock)
    timings = {key: timed[str(key)] for key in runs}
    rows = [row(key, timings, errors[key]) for key in timings]
    return Table(num_rows, width, pattern, rows, wins_from(rows))


def row(key: tuple[str, float | None], timings: Mapping[Any, Timing], error: float) -> Row:
    """Compare one contender with the best that multiplies all numbers."""
    whole = min((timings[how, None] for how in WHOLE), key=lambda timing: timing.p50_ms)
    times = ratio(whole, timings[key])
    return Row(*key, timings[key].p50_ms, times.value, (times.low, times.high), error)


def wins_from(rows: list[Row]) -> float | None:
    """Return the least share of zeros from which skipping them is faster for certain, there and above."""
    best: dict[float, float] = {}
    for item in rows:
        if item.zeros is not None:
            best[item.zeros] = max(best.get(item.zeros, 0.0), item.times_faster_ci95[0] or 0.0)
    won = None
    for share in sorted(best, reverse=True):
        if best[share] <= 1:
            break
        won = share
    return won


def tables(given: argparse.Namespace) -> Iterator[Table]:
    """Measure all sizes and patterns, and print each."""
    for num_rows in given.rows:
        for width in given.widths:
            for pattern in PATTERNS:
                try:
                    table = measure(num_rows, width, pattern, given)
                except LeftOut as reason:
                    table = Table(num_rows, width, pattern, [], None, str(reason))
                print(f"\n{num_rows:,} rows, {width} to {width} columns, zeros {pattern} {table.left_out}\n")
                print(figures.markdown(HEADS, map(cells, table.rows)), flush=True)
                yield table


HEADS = ("weights", "zeros", "p50 ms", "times as fast as all numbers", "95 % interval", "largest relative error")


def cells(item: Row) -> list[str]:
    """Render one contender."""
    interval = "–".join("?" if bound is None else f"{bound:.2f}" for bound in item.times_faster_ci95)
    zeros = "" if item.zeros is None else f"{item.zeros:.0%}"
    figures_of = [f"{item.p50_ms:.3g}", f"{item.times_faster:.2f}", interval, f"{item.max_rel_error:.1e}"]
    return [item.layout, zeros, *figures_of]


def main() -> None:
    """Run everything asked for, print tables, and write them as JSON."""
    parser = figures.options((__doc__ or "").splitlines()[0], budget_s=20.0, quick=True)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS), help="multiples of 32")
    parser.add_argument("--zeros", type=float, nargs="+", default=list(SHARES), help="shares of them")
    given = parser.parse_args()
    if given.quick:
        given.rows, given.widths, given.zeros = list(QUICK_ROWS), list(QUICK_WIDTHS), list(QUICK_SHARES)
        given.budget = 0.5
    found = list(tables(given))
    print("\nFaster than all numbers from this share of zeros on:\n")
    summary: dict[tuple[int, int], dict[str, float | None]] = {(item.num_rows, item.width): {} for item in found}
    for item in found:
        summary[item.num_rows, item.width][item.pattern] = item.wins_from
    shown = ([f"{rows:,}", str(width), *map(share_or_never, won.values())] for (rows, width), won in summary.items())
    print(figures.markdown(("rows", "columns", *PATTERNS), shown))
    notes = figures.busy(given.threads)
    figures.save({"tables": [asdict(item) for item in found], "notes": notes}, "sparse_weights", given)


def share_or_never(share: float | None) -> str:
    """Render a share of zeros."""
    return "never" if share is None else f"{share:.0%}"


if __name__ == "__main__":
    main()
