"""Time one aggregation, and one attention, by our kernels and by what else computes the same, in one process.

    python -m benchmarks.aggregate

Three graphs: a power law of 2.3 million edges, as many edges spread evenly, and a power law of 20 million edges. The
contenders take turns in blocks, so that all of them see the same machine, and one of them reads memory from end to end.
Prints tables and writes JSON to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.aggregation_ways import Aggregation, Attention, LeftOut, Run, Structure
from benchmarks.power_law import PowerLaw
from benchmarks.real_data import ROOT
from gnnexport.measure.environment import busy_note, describe_environment
from gnnexport.measure.timing import Timing, compare, ratio
from gnnexport.native.library import library, path_name

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

RESULTS = ROOT / "benchmarks" / "results" / "aggregate.json"


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
class Row:
    """One contender: its times, how many times longer than ours it takes, and its difference from ours."""

    name: str
    p50_ms: float
    p95_ms: float
    runs: int
    times_ours: float
    times_ours_ci95: tuple[float | None, float | None]
    max_rel_error: float | None
    read_gb_per_s: float | None


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
    runs, left_out = _prepare(work.ways())
    errors, first = _try(runs)
    memory = torch.ones(read_bytes // 4)
    slow = {name: runs[name] for name in runs if first[name] > NEAR * first[OURS]}
    near = {name: runs[name] for name in runs if name not in slow}
    again = compare({**near, READ: memory.sum}, budget_s=budget_s)
    apart = compare({OURS: runs[OURS], **slow}, budget_s=0) if slow else {}
    rows = []
    for name, timing in again.items():
        read = read_bytes if name == READ else _bytes_read(work, name)
        rows.append(_row(name, timing, again[OURS], errors.get(name), read))
    rows += [_row(name, apart[name], apart[OURS], errors[name], None) for name in slow]
    return rows, left_out


def _prepare(ways: Mapping[str, Callable[[], Run]]) -> tuple[dict[str, Run], dict[str, str]]:
    runs, left_out = {}, {}
    for name, prepare in ways.items():
        try:
            runs[name] = prepare()
        except LeftOut as reason:
            left_out[name] = str(reason)
    return runs, left_out


def _try(runs: Mapping[str, Run]) -> tuple[dict[str, float], dict[str, float]]:
    """Compare rows from all over the outputs, and tell about how long each way takes."""
    expected: NDArray[np.float32] | None = None
    errors, seconds = {}, {}
    for name, run in runs.items():
        start = time.perf_counter()
        out = np.asarray(run())
        seconds[name] = time.perf_counter() - start
        found = out[:: max(1, len(out) // CHECKED)].copy()
        expected = found if expected is None else expected
        errors[name] = float(np.abs(found - expected).max() / np.abs(expected).max())
        if seconds[name] < LONG_S:  # what is longer hardly warms up
            seconds[name] = _seconds(run)
    return errors, seconds


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


def _row(name: str, timing: Timing, ours: Timing, error: float | None, read: int | None) -> Row:
    times = ratio(timing, ours)
    speed = None if read is None else read / timing.p50_ms / 1e6
    return Row(name, timing.p50_ms, timing.p95_ms, timing.runs, times.value, (times.low, times.high), error, speed)


def text(table: Table) -> str:
    """Render a table as Markdown."""
    lines = [
        f"\n{table.graph}, {table.work}, width {table.width}\n",
        "| way | p50 ms | p95 ms | times ours | 95 % interval | reads GB/s | largest relative error |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(table.rows, key=lambda row: row.p50_ms):
        interval = "–".join("?" if bound is None else f"{bound:.2f}" for bound in row.times_ours_ci95)
        speed = "" if row.read_gb_per_s is None else f"{row.read_gb_per_s:.1f}"
        error = "" if row.max_rel_error is None else f"{row.max_rel_error:.0e}"
        numbers = f"{row.p50_ms:.3g} | {row.p95_ms:.3g} | {row.times_ours:.2f} | {interval}"
        lines.append(f"| {row.name} | {numbers} | {speed} | {error} |")
    return "\n".join([*lines, *(f"{name}: left out, {reason}" for name, reason in table.left_out.items())])


def _works(structure: Structure, widths: Sequence[int], threads: int) -> Iterator[tuple[str, int, Maker]]:
    """Yield what is measured: its name, its width, and what makes its features."""
    for width in widths:
        for form in ("sum", "weighted sum"):
            yield form, width, partial(Aggregation, structure, width, form == "weighted sum", threads)
    yield "GAT", HEADS * CHANNELS, partial(Attention, structure, HEADS, CHANNELS, threads)


def _read_bytes(quick: bool) -> int:
    """Return how much is read to find the bandwidth: far more than caches hold, unless it has to be quick."""
    return READ_BYTES // 256 if quick else READ_BYTES


def run_graph(name: str, graph: PowerLaw | Uniform, arguments: argparse.Namespace) -> list[Table]:
    """Measure everything on one graph."""
    structure = Structure.of(graph.edge_index(), graph.num_nodes)
    tables = []
    for form, width, make in _works(structure, arguments.widths, arguments.threads):
        rows, left_out = measure(make(), 0.0 if arguments.quick else arguments.budget, _read_bytes(arguments.quick))
        tables.append(Table(name, form, width, rows, left_out))
        print(text(tables[-1]), flush=True)
        gc.collect()  # engines hold gigabytes in cycles
    return tables


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graph", choices=list(GRAPHS), action="append", help="only this one; may be repeated")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="of the features")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=30.0, help="seconds of timing for each table")
    parser.add_argument("--quick", action="store_true", help="tiny graphs and few runs, to see that all of it works")
    parser.add_argument(
        "--output", type=Path, help="where the figures go, as JSON; those of --quick go nowhere unless told"
    )
    arguments = parser.parse_args()
    library()  # says what to do where the kernels are not installed
    torch.set_num_threads(arguments.threads)
    graphs = QUICK if arguments.quick else GRAPHS
    chosen = {name: graphs[name] for name in arguments.graph or graphs}
    tables = [table for name, graph in chosen.items() for table in run_graph(name, graph, arguments)]
    notes = busy_note(arguments.threads)
    print("".join(f"\n{note}" for note in notes))
    results: dict[str, Any] = {
        "graphs": {name: {"drawn": type(graph).__name__, **asdict(graph)} for name, graph in chosen.items()},
        "environment": {**describe_environment(), "threads": arguments.threads, "kernels": path_name()},
        "read": f"{READ}: torch.sum over float32 with the same threads, {_read_bytes(arguments.quick) >> 20} MiB",
        "notes": notes,
        "tables": [asdict(table) for table in tables],
    }
    output = arguments.output or (None if arguments.quick else RESULTS)
    if output is not None:
        output.parent.mkdir(exist_ok=True)
        output.write_text(json.dumps(results, indent=1) + "\n")
        print(f"written to {output}")


if __name__ == "__main__":
    main()
