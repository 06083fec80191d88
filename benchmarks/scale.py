"""What capture and lowering take on large graphs: seconds, and memory over what graph and features take themselves.

    python -m benchmarks.scale

GraphSAGE of three layers on power-law graphs of 2.3 and 20 million edges, each in a process of its own; from the module
and the arrays in memory to the model's file. Prints a table and writes JSON to `benchmarks/results/`.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.figures import markdown, options, save
from benchmarks.power_law import PowerLaw
from benchmarks.room import resident_bytes, start_peak
from benchmarks.sage import Sage
from gnnexport.frontends.signature import match_inputs
from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import CANONICAL, finalise, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.program import example_inputs
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.ort import OrtTarget

GRAPHS = (PowerLaw(), PowerLaw(1_000_000, 10_000_000, 1))


@dataclass(frozen=True)
class Taken:
    """What one graph took.

    Args:
        edges: of the graph.
        data_bytes: of graph and features.
        capture_s: from the module to the simplified Program.
        lower_s: from there to the model's file.
        growth_bytes: the most memory over what the process held with its data loaded.
        peak_bytes: the most memory of the process, libraries and data included.
    """

    edges: int
    data_bytes: int
    capture_s: float
    lower_s: float
    growth_bytes: int
    peak_bytes: int


def measure(graph: PowerLaw) -> Taken:
    """Capture and lower on one graph, in this process."""
    sage = Sage(graph)
    data = GraphData("power-law", {"x": sage.x, "edge_index": torch.from_numpy(sage.edge_index)})
    data_bytes = sum(value.nbytes for value in data.inputs.values())
    before = resident_bytes("VmRSS")
    start_peak()
    start = time.perf_counter()
    inputs = match_inputs(sage.model, data)
    program = run_passes(capture(sage.model, inputs, example_inputs(inputs)), CANONICAL, PassContext()).program
    captured = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        dialect = translate(finalise(program, data).program, data.inputs)
        OrtTarget(aggregate="ell").emit(dialect, Path(folder), EmitContext())
    end = time.perf_counter()
    peak = resident_bytes("VmHWM")
    return Taken(sage.edge_index.shape[1], data_bytes, captured - start, end - captured, peak - before, peak)


def main() -> None:
    """Run the benchmark."""
    given = options(__doc__, threads=False).parse_args()
    found = []
    for graph in GRAPHS:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            found.append(process.submit(measure, graph).result())
    heads = ("edges", "capture s", "lowering s", "growth MB", "times data", "peak MB")
    print(markdown(heads, map(_cells, found)))
    save({"rows": [asdict(taken) for taken in found]}, "scale", given)


def _cells(taken: Taken) -> list[str]:
    return [
        f"{taken.edges:,}",
        f"{taken.capture_s:.1f}",
        f"{taken.lower_s:.1f}",
        f"{taken.growth_bytes / 1e6:,.0f}",
        f"{taken.growth_bytes / taken.data_bytes:.2f}",
        f"{taken.peak_bytes / 1e6:,.0f}",
    ]


if __name__ == "__main__":
    main()
