"""Time whole models that passes made small against the same models in float32, on the same kernels.

GraphSAGE and GCN of three layers on power-law graphs of 2.3 and 20 million edges, untrained: what a pass takes away is
given, and decides numbers but not arithmetic. Contenders of one table take turns in blocks. Memory is that of a process
that runs nothing else. `quantised_models` and `sparse_models` say which passes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.figures import TIMED, Row, busy, markdown, options, save
from benchmarks.power_law import PowerLaw
from benchmarks.training import MODELS
from gnnexport.bundle.writer import BundleWriter
from gnnexport.frontends.sidecar import Sidecar
from gnnexport.measure.timing import compare
from gnnexport.passes.contract import Pass, PassContext
from gnnexport.pipeline.emission import Emitter
from gnnexport.pipeline.run import simplify
from gnnexport.pipeline.source import Given, Source, load_source
from gnnexport.pipeline.steps import finalise
from gnnexport.program.program import Program
from gnnexport.runtime.peak import peak_memory_bytes
from gnnexport.runtime.runner import load
from gnnexport.targets.ort import OrtTarget

GRAPHS = {"2.3 million edges": PowerLaw(), "20 million edges": PowerLaw(1_000_000, 10_000_000, 1)}
QUICK = {"tiny": PowerLaw(300, 900, 0)}
WIDTHS = (64, 128, 256)
CLASSES = 40
LAYERS = 3
FLOAT = "float32"


@dataclass(frozen=True)
class Table:
    """One model on one graph.

    Args:
        lowerings: of each contender, what was chosen for its quantised operands.
        peak_memory_bytes: of each contender.
    """

    graph: str
    model: str
    width: int
    rows: list[Row]
    lowerings: dict[str, list[str]]
    peak_memory_bytes: dict[str, int | None]


def make_source(name: str, width: int, graph: PowerLaw, folder: Path) -> Source:
    """Draw features and weights, and load them as `compress` does; the labels are of no use but to be there."""
    torch.manual_seed(graph.seed)
    model = MODELS[name](width, width, num_layers=LAYERS, out_channels=CLASSES).eval()
    torch.save(model, folder / "model.pt")
    x = torch.randn(graph.num_nodes, width).relu()
    np.savez(folder / "data.npz", x=x.numpy(), edge_index=graph.edge_index().astype(np.int32))
    return load_source(Given(folder / "model.pt", str(folder / "data.npz"), "full"), Sidecar())


def write(program: Program, source: Source, folder: Path, threads: int) -> tuple[Path, list[str]]:
    """Lower a Program; tell what was chosen for its operands."""
    emitter = Emitter(source, OrtTarget(threads=threads), threads, 20.0, 0, 0)
    final = finalise(program, source.data, "full").program
    with BundleWriter(folder) as writer:
        artefact = emitter.write_model(final, writer, {})
        return writer.commit(), [f"{row['op']}: {row['chosen']}" for row in artefact.lowering]


def run(
    graph: str, drawn: PowerLaw, name: str, width: int, given: argparse.Namespace, ways: Mapping[str, Pass]
) -> Table:
    """Time one model on one graph in every way that is asked for."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = make_source(name, width, drawn, folder)
        program = simplify(source).program
        ctx = PassContext(source.data, None, 0)
        programs = {FLOAT: program, **{way: ways[way].run(program, ctx) for way in given.ways}}
        bundles: dict[str, Path] = {}
        lowerings: dict[str, list[str]] = {}
        for way, item in programs.items():
            bundles[way], lowerings[way] = write(item, source, folder / f"{len(bundles)}.bundle", given.threads)
        runners = {way: load(path, threads=given.threads) for way, path in bundles.items()}
        feeds: dict[str, Any] = {"x": source.data.inputs["x"].numpy()}
        contenders = {way: (lambda runner=runner: runner(feeds)) for way, runner in runners.items()}
        timings = compare(contenders, budget_s=given.budget)
        for runner in runners.values():
            runner.close()
        rows = [Row.of(way, timing, timings[FLOAT], None) for way, timing in timings.items()]
        memory = {way: peak_memory_bytes(path) for way, path in bundles.items()}
    return Table(graph, name, width, rows, lowerings, memory)


def show(table: Table) -> str:
    """Render one table."""
    cells = [[*row.cells(), _mebibytes(table.peak_memory_bytes[row.name])] for row in table.rows]
    heads = (*(head.replace("ours", "float32") for head in TIMED), "peak MiB")
    return f"{table.model}, {table.width} channels, {table.graph}\n\n{markdown(heads, cells)}\n"


def _mebibytes(count: int | None) -> str:
    return "?" if count is None else f"{count >> 20:,}"


def main(about: str, file: str, ways: Mapping[str, Pass]) -> None:
    """Run all graphs, models and widths asked for, print the tables, and write them as JSON.

    Args:
        about: what is timed, for `--help`.
        file: where figures go.
        ways: of making models fast, by name.
    """
    parser = options(about.splitlines()[0], budget_s=20.0, quick=True)
    parser.add_argument("--models", nargs="+", default=["GraphSAGE", "GCN"], choices=list(MODELS))
    parser.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS))
    parser.add_argument("--graphs", nargs="+", default=list(GRAPHS), choices=list(GRAPHS))
    parser.add_argument("--ways", nargs="+", default=list(ways), choices=list(ways))
    given = parser.parse_args()
    graphs = {name: GRAPHS[name] for name in given.graphs}
    if given.quick:
        graphs, given.widths, given.budget = QUICK, [16], 0.0
    torch.set_num_threads(given.threads)
    tables = []
    for graph, drawn in graphs.items():
        for name in given.models:
            for width in given.widths:
                tables.append(run(graph, drawn, name, width, given, ways))
                print(show(tables[-1]), flush=True)
    found = {
        "graphs": {name: asdict(drawn) for name, drawn in graphs.items()},
        "tables": [asdict(table) for table in tables],
        "notes": busy(given.threads),
    }
    save(found, file, given)
