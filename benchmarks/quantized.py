"""Time message passing over quantised rows against our own float32 kernels, in one process.

    python -m benchmarks.quantized

Part "aggregation": the sum of the neighbours' rows, by the storage of the rows and by how the result leaves.
Part "layer": the mean of the neighbours' rows and the linear layer behind it. The graphs are the power laws of 2.3 and
of 20 million edges; contenders take turns in blocks. Prints tables and writes JSON to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import figures
from benchmarks.aggregation_ways import Run, Structure
from benchmarks.power_law import PowerLaw
from benchmarks.room import LeftOut, demand
from gnnexport.measure.timing import compare
from gnnexport.native import kernels, levels

OURS = "float32"
WIDTHS = (64, 128, 256)
GRAPHS: Mapping[str, PowerLaw] = {"power-law": PowerLaw(), "large": PowerLaw(1_000_000, 10_000_000, 1)}
QUICK: Mapping[str, PowerLaw] = {"power-law": PowerLaw(2000, 6000), "large": PowerLaw(4000, 20_000, 1)}
STEP = 1 / 64
RELU = kernels.Epilogue(activation="relu")
ROOM = 4.0
"""Bytes of float32 features that all contenders together take, over those of one."""


@dataclass(frozen=True)
class Table:
    """Everything that was timed side by side."""

    graph: str
    part: str
    width: int
    rows: list[figures.Row]
    left_out: str = ""


class Rows:
    """Features that are whole numbers of 4 bits times a step, in every storage: all hold them exactly."""

    def __init__(self, structure: Structure, width: int, threads: int) -> None:
        self.structure, self.width, self.threads = structure, width, threads
        nodes, generator = structure.num_nodes, torch.Generator().manual_seed(0)
        self.whole = torch.randint(-7, 8, (nodes, width), dtype=torch.int8, generator=generator)
        self.step = torch.full((width,), STEP)
        self.ones = torch.ones(nodes)
        self.next_step = torch.full((width,), 8 * STEP)
        self.out = torch.empty(nodes, width)
        self.x = self.whole * STEP
        self.bytes, self.halves, self.bfloat16 = self._stored(8, 128), self._stored(4, 8), self.x.bfloat16()

    def _stored(self, bits: int, zero: int) -> Tensor:
        out = torch.empty(len(self.x), self.width if bits == 8 else (self.width + 1) // 2, dtype=torch.uint8)
        to = kernels.Levels(self.step.data_ptr(), bits, zero)
        levels.narrow(self.x.data_ptr(), len(self.x), self.width, to, out.data_ptr(), threads=self.threads)
        return out

    def storages(self) -> dict[str, tuple[Tensor, dict[str, Any]]]:
        """Return rows by their storage, and how the kernels are told."""
        step = {"column_scale": self.step.data_ptr()}
        return {
            OURS: (self.x, {"dtype": "float32"}),
            "bfloat16": (self.bfloat16, {"dtype": "bfloat16"}),
            "8 bits": (self.bytes, {"dtype": "levels8", "zero": 128, **step}),
            "4 bits": (self.halves, {"dtype": "levels4", "zero": 8, **step}),
            "8 bits, a step for each row": (
                self.bytes,
                {"dtype": "levels8", "zero": 128, "row_scale": self.ones.data_ptr(), **step},
            ),
        }

    def narrow(self, bits: int) -> kernels.Levels:
        """Return how a result leaves."""
        return kernels.Levels(self.next_step.data_ptr(), bits, 1 << (bits - 1))


def aggregations(rows: Rows) -> dict[str, Run]:
    """Return what sums rows, by their storage and by how the result leaves."""
    csr, out = rows.structure.csr(), rows.out

    def way(x: Tensor, options: dict[str, Any], narrow: kernels.Levels | None) -> Run:
        def run() -> Tensor:
            kernels.aggregate(
                csr, x.data_ptr(), rows.width, out.data_ptr(), narrow=narrow, threads=rows.threads, **options
            )
            return out

        return run

    found = {name: way(x, options, None) for name, (x, options) in rows.storages().items()}
    for bits in (8, 4):
        x, options = rows.storages()[f"{bits} bits"]
        found[f"{bits} bits, into {bits} bits"] = way(x, options, rows.narrow(bits))
    return found


class Layer:
    """The mean of rows and a matrix [width, width] of 4 bits behind it: of floats, or of levels of 8 bits by row."""

    def __init__(self, rows: Rows) -> None:
        generator, width = torch.Generator().manual_seed(1), rows.width
        self.rows, self.csr = rows, rows.structure.csr()
        self.whole = torch.randint(-7, 8, (width, width), dtype=torch.int8, generator=generator)
        self.step, self.row_step = torch.full((width,), STEP), torch.full((rows.structure.num_nodes,), STEP)
        self.bits = torch.full(self.row_step.shape, 8, dtype=torch.uint8)
        floats = (self.whole * STEP).contiguous()
        self.matrix = kernels.Matrix(floats.data_ptr(), width, width)
        quantiser = levels.Quantiser(self.row_step.data_ptr(), self.bits.data_ptr(), len(self.bits), is_signed=True)
        matrix = levels.LevelMatrix(self.whole.data_ptr(), width, width)
        self.product = levels.LevelProduct(quantiser, matrix, self.step.data_ptr())

    def _reduced(self, name: str) -> kernels.Reduced:
        x, options = self.rows.storages()[name]
        return kernels.Reduced(self.csr, x.data_ptr(), self.rows.width, reduce="mean", **options)

    def floats(self, name: str) -> Tensor:
        """Multiply as floats."""
        out, threads = self.rows.out, self.rows.threads
        kernels.linear(self._reduced(name), out.data_ptr(), matrix=self.matrix, epilogue=RELU, threads=threads)
        return out

    def integers(self, name: str, bits: int) -> Tensor:
        """Multiply as integers; the result leaves in so many bits, 32 for floats."""
        out, threads = self.rows.out, self.rows.threads
        narrow = self.rows.narrow(bits) if bits < 32 else None
        reduced, to = self._reduced(name), out.data_ptr()
        levels.level_linear(reduced, self.product, to, epilogue=RELU, narrow=narrow, threads=threads)
        return out


def layers(rows: Rows) -> dict[str, Run]:
    """Return what averages rows and multiplies them, by their storage, the product and how the result leaves."""
    layer = Layer(rows)
    found: dict[str, Run] = {name: partial(layer.floats, name) for name in (OURS, "8 bits", "4 bits")}
    for bits in (8, 4):
        name = f"{bits} bits, integer product"
        found[name] = partial(layer.integers, f"{bits} bits", 32)
        found[f"{name}, into {bits} bits"] = partial(layer.integers, f"{bits} bits", bits)
    return found


PARTS: Mapping[str, Callable[[Rows], dict[str, Run]]] = {"aggregation": aggregations, "layer": layers}


def measure(runs: dict[str, Run], budget_s: float) -> list[figures.Row]:
    """Time each way against float32; the error is that of results that leave as floats."""
    expected = runs[OURS]().numpy().copy()
    scale = float(np.abs(expected).max())
    errors = {
        name: None if "into" in name else float(np.abs(run().numpy() - expected).max()) / scale
        for name, run in runs.items()
    }
    times = compare(runs, budget_s=budget_s)
    return [figures.Row.of(name, timing, times[OURS], errors[name]) for name, timing in times.items()]


def text(table: Table) -> str:
    """Render a table as Markdown."""
    rows = sorted(table.rows, key=lambda row: row.p50_ms)
    head = f"\n{table.graph}, {table.part}, width {table.width}\n"
    return "\n".join([head, figures.markdown(figures.TIMED, (row.cells() for row in rows)), table.left_out])


def tables_of(name: str, graph: PowerLaw, given: argparse.Namespace) -> Iterator[Table]:
    """Measure every part on one graph; what there is no room for says so."""
    structure = Structure.of(graph.edge_index(), graph.num_nodes)
    for width in given.widths:
        try:
            demand(round(ROOM * 4 * graph.num_nodes * width), "its features")
        except LeftOut as reason:
            yield Table(name, "everything", width, [], str(reason))
            continue
        for part in given.part or PARTS:
            runs = PARTS[part](Rows(structure, width, given.threads))
            yield Table(name, part, width, measure(runs, 0.0 if given.quick else given.budget))
            del runs
            gc.collect()


def main() -> None:
    """Run the benchmark."""
    parser = figures.options(__doc__, budget_s=30.0, quick=True)
    parser.add_argument("--graph", choices=list(GRAPHS), action="append", help="only this one; may be repeated")
    parser.add_argument("--part", choices=list(PARTS), action="append", help="only this one; may be repeated")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="of the features")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    graphs = QUICK if given.quick else GRAPHS
    drawn, tables, notes = {}, [], []
    for name in given.graph or graphs:
        drawn[name] = asdict(graphs[name])
        for table in tables_of(name, graphs[name], given):
            tables.append(table)
            print(text(table), flush=True)
        notes += [f"{name}: {note}" for note in figures.busy(given.threads)]
        results = {"graphs": drawn, "notes": notes, "tables": [asdict(table) for table in tables]}
        figures.save(results, "quantized", given)  # after each, for a larger graph may be too large for this machine


if __name__ == "__main__":
    main()
