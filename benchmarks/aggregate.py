"""Time one aggregation, and one attention, by our kernels and by what else computes the same, in one process.

    python -m benchmarks.aggregate

Three graphs: a power law of 2.3 million edges, as many edges spread evenly, and a power law of 20 million edges. The
contenders take turns in blocks, so that all of them see the same machine, and one of them reads memory from end to end.
Prints tables and writes JSON to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import figures
from benchmarks.aggregation_ways import Aggregation, Attention, Run, Structure
from benchmarks.power_law import PowerLaw
from benchmarks.room import LeftOut, demand
from gnnexport.measure.timing import compare
from gnnexport.native.library import library

OURS = "kernel float32"
READ = "reading memory from end to end"
WIDTHS = (64, 128, 256)
HEADS, CHANNELS = 8, 16
READ_BYTES = 1 << 30
NEAR = 12.0
"""What takes this many times longer than ours is timed in a round of its own, and less often."""

LONG_S = 1.0

CHECKED = 2000
"""Rows whose numbers are compared."""

Maker = Callable[[], Aggregation | Attention]


@dataclass(frozen=True)
class Uniform:
    """A graph whose nodes have equally many neighbours, drawn evenly."""

    num_nodes: int = 170_000
    degree: int = 14
    seed: int = 0

    def edge_index(self) -> NDArray[np.int64]:
        """Return source and destination [2, num_edges], sorted by destination."""
        source = np.random.default_rng(self.seed).integers(0, self.num_nodes, self.num_nodes * self.degree)
        return np.stack([source, np.repeat(np.arange(self.num_nodes), self.degree)])


GRAPHS: Mapping[str, PowerLaw | Uniform] = {
    "power-law": PowerLaw(),
    "uniform": Uniform(),
    "large": PowerLaw(1_000_000, 10_000_000, 1),
}
QUICK: Mapping[str, PowerLaw | Uniform] = {
    "power-law": PowerLaw(2000, 6000),
    "uniform": Uniform(1000, 6),
    "large": PowerLaw(4000, 20_000, 1),
}


@dataclass(frozen=True)
class Row(figures.Row):
    """One contender, and how fast it reads memory; `None` where that is not counted."""

    read_gb_per_s: float | None

    def cells(self) -> list[str]:
        """Return what `COLUMNS` heads."""
        return [*super().cells(), "" if self.read_gb_per_s is None else f"{self.read_gb_per_s:.1f}"]


COLUMNS = (*figures.TIMED, "reads GB/s")


@dataclass(frozen=True)
class Table:
    """Everything that was timed side by side."""

    graph: str
    work: str
    width: int
    rows: list[Row]
    left_out: dict[str, str]


def measure(work: Aggregation | Attention, budget_s: float, read_bytes: int) -> tuple[list[Row], dict[str, str]]:
    """Prepare every way, compare its numbers with ours, and time them all against each other."""
    memory = torch.ones(read_bytes // 4)
    runs, first, errors, left_out = _start(work)
    slow = {name: runs[name] for name in runs if first[name] > NEAR * first[OURS]}
    near = {name: runs[name] for name in runs if name not in slow}
    again = compare({**near, READ: memory.sum}, budget_s=budget_s)
    apart = compare({OURS: runs[OURS], **slow}, budget_s=0) if slow else {}
    rows = []
    for name, timing in again.items():
        read = read_bytes if name == READ else _bytes_read(work, name)
        speed = None if read is None else read / timing.p50_ms / 1e6
        rows.append(Row.of(name, timing, again[OURS], errors.get(name), read_gb_per_s=speed))
    rows += [Row.of(name, apart[name], apart[OURS], errors[name], read_gb_per_s=None) for name in slow]
    return rows, left_out


def _start(
    work: Aggregation | Attention,
) -> tuple[dict[str, Run], dict[str, float], dict[str, float], dict[str, str]]:
    """Prepare each way and run it: the ways, how long each takes, its largest error, and why others are left out.

    Each holds its memory before the next is prepared, so that the next sees what is really free.

    Raises:
        LeftOut: there is no room for ours.
    """
    expected: NDArray[np.float32] | None = None
    runs: dict[str, Run] = {}
    seconds, errors, left_out = {}, {}, {}
    for name, prepare in work.ways().items():
        try:
            demand(_room_bytes(work), "it")
            runs[name] = prepare()
        except LeftOut as reason:
            if name == OURS:
                raise
            left_out[name] = str(reason)
            continue
        seconds[name], found = _first(runs[name])
        expected = found if expected is None else expected
        errors[name] = float(np.abs(found - expected).max() / np.abs(expected).max())
    return runs, seconds, errors, left_out


def _room_bytes(work: Aggregation | Attention) -> int:
    """Return what any way but those with rows of edges was seen to take at most: tables of neighbours are the largest.

    Memory for the answer, for parts of it and their copies, and some numbers for each edge.
    """
    nodes, edges = work.structure.num_nodes, work.structure.num_edges
    return 4 * nodes * work.width * 4 + 100 * edges


def _first(run: Run) -> tuple[float, NDArray[np.float32]]:
    """Return about how long a run takes, and rows from all over its output."""
    start = time.perf_counter()
    out = np.asarray(run())
    seconds = time.perf_counter() - start
    found = out[:: max(1, len(out) // CHECKED)].copy()
    # What is longer hardly warms up.
    return _seconds(run) if seconds < LONG_S else seconds, found


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _bytes_read(work: Aggregation | Attention, name: str) -> int | None:
    """Count what our kernel reads: a row and an index for each edge, and what else there is by edge or row."""
    if not name.startswith("kernel"):
        return None
    item = 1 if "int8" in name else 2 if "bfloat16" in name else 4
    edges, nodes = work.structure.num_edges, work.structure.num_nodes
    if isinstance(work, Attention):
        return edges * (work.width * 4 + work.heads * 4 + 4) + nodes * (work.heads * 4 + 4)
    return edges * (work.width * item + 4 + 4 * work.weighted) + nodes * 4


def text(table: Table) -> str:
    """Render a table as Markdown."""
    rows = sorted(table.rows, key=lambda row: row.p50_ms)
    return "\n".join(
        [
            f"\n{table.graph}, {table.work}, width {table.width}\n",
            figures.markdown(COLUMNS, (row.cells() for row in rows)),
            *(f"{name}: left out, {reason}" for name, reason in table.left_out.items()),
        ]
    )


def _works(structure: Structure, widths: Sequence[int], threads: int) -> Iterator[tuple[str, int, Maker]]:
    """Yield what is measured: its name, its width, and what makes its features."""
    for width in widths:
        for form in ("sum", "weighted sum"):
            yield form, width, partial(Aggregation, structure, width, form == "weighted sum", threads)
    yield "GAT", HEADS * CHANNELS, partial(Attention, structure, HEADS, CHANNELS, threads)


def _read_bytes(quick: bool) -> int:
    """Return how much is read to find the bandwidth: far more than caches hold, unless it has to be quick."""
    return READ_BYTES // 256 if quick else READ_BYTES


def run_graph(name: str, graph: PowerLaw | Uniform, given: argparse.Namespace) -> list[Table]:
    """Measure everything on one graph; what there is no room for says so."""
    structure = Structure.of(graph.edge_index(), graph.num_nodes)
    tables = []
    for form, width, make in _works(structure, given.widths, given.threads):
        rows: list[Row] = []
        try:
            demand(4 * graph.num_nodes * width * 4, "its features")
            rows, left_out = measure(make(), 0.0 if given.quick else given.budget, _read_bytes(given.quick))
        except LeftOut as reason:
            left_out = {"everything": str(reason)}
        tables.append(Table(name, form, width, rows, left_out))
        print(text(tables[-1]), flush=True)
        gc.collect()  # engines hold gigabytes in cycles
    return tables


def main() -> None:
    """Run the benchmark."""
    parser = figures.options(__doc__, budget_s=30.0, quick=True)
    parser.add_argument("--graph", choices=list(GRAPHS), action="append", help="only this one; may be repeated")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="of the features")
    given = parser.parse_args()
    library()  # says what to do where the kernels are not installed
    torch.set_num_threads(given.threads)
    graphs = QUICK if given.quick else GRAPHS
    chosen = {name: graphs[name] for name in given.graph or graphs}
    drawn: dict[str, Any] = {}
    tables: list[Table] = []
    notes: list[str] = []
    for name, graph in chosen.items():
        drawn[name] = {"drawn": type(graph).__name__, **asdict(graph)}
        tables += run_graph(name, graph, given)
        notes += [f"{name}: {note}" for note in figures.busy(given.threads)]
        results = {
            "graphs": drawn,
            "read": f"{READ}: torch.sum over float32 with the same threads, {_read_bytes(given.quick) >> 20} MiB",
            "notes": notes,
            "tables": [asdict(table) for table in tables],
        }
        figures.save(results, "aggregate", given)  # after each, for a larger graph may be too large for this machine


if __name__ == "__main__":
    main()
