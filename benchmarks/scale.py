"""What capture and lowering take on large graphs: seconds, and memory over what graph and features take themselves.

    python -m benchmarks.scale

GraphSAGE of three layers on power-law graphs of 2.3 and 20 million edges, each in a process of its own; from the module
and the arrays in memory to the model's file. Prints a table and writes JSON to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch_geometric.nn import GraphSAGE

from benchmarks.export_vs_pytorch import CHANNELS, LAYERS
from benchmarks.power_law import PowerLaw
from benchmarks.real_data import ROOT
from gnnexport.frontends.signature import match_inputs
from gnnexport.measure.environment import describe_environment
from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import CANONICAL, finalise, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.program import example_inputs
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.ort import OrtTarget

RESULTS = ROOT / "benchmarks" / "results" / "scale.json"
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
    edges = torch.from_numpy(graph.edge_index())
    torch.manual_seed(graph.seed)
    data = GraphData("power-law", {"x": torch.randn(graph.num_nodes, CHANNELS[0]), "edge_index": edges})
    model = GraphSAGE(CHANNELS[0], CHANNELS[1], num_layers=LAYERS, out_channels=CHANNELS[2]).eval()
    data_bytes = sum(value.nbytes for value in data.inputs.values())
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    start = time.perf_counter()
    inputs = match_inputs(model, data)
    program = run_passes(capture(model, inputs, example_inputs(inputs)), CANONICAL, PassContext()).program
    captured = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        dialect = translate(finalise(program, data).program, data.inputs)
        OrtTarget(aggregate="ell").emit(dialect, Path(folder), EmitContext())
    end = time.perf_counter()
    peak = _resident("VmHWM")
    return Taken(edges.shape[1], data_bytes, captured - start, end - captured, peak - before, peak)


def _resident(field: str) -> int:
    """Return a figure of this process in bytes, as Linux keeps it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the figures go, as JSON")
    arguments = parser.parse_args()
    found = []
    print("| edges | capture s | lowering s | growth MB | times data | peak MB |\n|---|---|---|---|---|---|")
    for graph in GRAPHS:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            taken = process.submit(measure, graph).result()
        found.append(taken)
        times = taken.growth_bytes / taken.data_bytes
        memory = f"{taken.growth_bytes / 1e6:,.0f} | {times:.2f} | {taken.peak_bytes / 1e6:,.0f}"
        print(f"| {taken.edges:,} | {taken.capture_s:.1f} | {taken.lower_s:.1f} | {memory} |", flush=True)
    results = {"environment": describe_environment(), "rows": [asdict(row) for row in found]}
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
