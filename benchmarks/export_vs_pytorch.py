"""Time gnnexport's bundle against PyTorch and against the usual export, side by side in one process.

    python -m benchmarks.export_vs_pytorch

GraphSAGE of three layers on a power-law graph, full graph, float32. Prints a table and writes JSON to
`benchmarks/results/`. The contenders take turns in blocks, so that all of them see the same machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray
from torch_geometric.nn import GraphSAGE

from benchmarks.power_law import PowerLaw
from benchmarks.real_data import ROOT
from gnnexport import api
from gnnexport.frontends.signature import match_inputs
from gnnexport.measure.environment import describe_environment
from gnnexport.measure.timing import Timing, compare, ratio
from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import CANONICAL, finalise, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.program import example_inputs
from gnnexport.runtime.runner import load
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.ort import OrtTarget

CHANNELS = (128, 256, 40)
LAYERS = 3
OURS = "gnnexport (ort)"
OURS_OPENVINO = "gnnexport (openvino)"
BASELINE = "PyG CSR"
RESULTS = ROOT / "benchmarks" / "results" / "export_vs_pytorch.json"
EXPORT_S = 20.0
NEAR = 8.0
USUAL = "torch.onnx.export + ONNX Runtime"

Run = Callable[[], NDArray[np.float32]]


@dataclass(frozen=True)
class Row:
    """One contender: its times, its difference from PyTorch, and how many times slower than ours it is."""

    name: str
    p50_ms: float
    p95_ms: float
    runs: int
    times_ours: float
    times_ours_ci95: tuple[float | None, float | None]
    max_rel_error: float


class Contenders:
    """The same model on the same graph, run in different ways."""

    def __init__(self, graph: PowerLaw, threads: int, folder: Path, export_s: float = EXPORT_S) -> None:
        """Make the model and the graph; nothing is exported yet.

        Args:
            graph: to run on.
            threads: of every contender.
            folder: takes what is exported.
            export_s: seconds that an export of ours may time for.
        """
        self.export_s = export_s
        self.threads = threads
        self.folder = folder
        self.edge_index = graph.edge_index()
        torch.manual_seed(graph.seed)
        self.x = torch.randn(graph.num_nodes, CHANNELS[0])
        self.model = GraphSAGE(CHANNELS[0], CHANNELS[1], num_layers=LAYERS, out_channels=CHANNELS[2]).eval()
        self.seconds: dict[str, float] = {}

    def all(self) -> dict[str, Run]:
        """Return every contender, ready to run."""
        edges = torch.from_numpy(self.edge_index)
        adjacency = self._adjacency()
        with self._clock("torch.onnx.export"):
            usual = self._usual_export(edges)
        with self._clock("gnnexport, from capture to model file"):
            self._capture_to_file(edges)
        with self._clock("gnnexport export, with golden vectors and all measurements"):
            bundle = self._our_export("ort")
        with self._clock("gnnexport export to OpenVINO, with golden vectors and all measurements"):
            converted = self._our_export("openvino")
        standard = self._our_export("ort", portable=True)
        return {
            USUAL: self._usual_ort(usual),
            "PyG eager": lambda: self._torch(edges),
            "torch.onnx.export + OpenVINO": self._openvino(usual),
            BASELINE: lambda: self._torch(adjacency),
            "gnnexport (standard operators in OpenVINO)": self._openvino(standard / "model.onnx"),
            "gnnexport (standard operators in ONNX Runtime)": self._ours(standard),
            OURS_OPENVINO: self._ours(converted),
            OURS: self._ours(bundle),
        }

    def _torch(self, structure: torch.Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(self.model(self.x, structure).numpy())

    def _adjacency(self) -> torch.Tensor:
        source, destination = self.edge_index
        count = len(self.x)
        rowptr = np.concatenate([[0], np.cumsum(np.bincount(destination, minlength=count))])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse ", UserWarning)
            return torch.sparse_csr_tensor(
                torch.from_numpy(rowptr), torch.from_numpy(source), torch.ones(len(source)), size=(count, count)
            )

    def _usual_export(self, edges: torch.Tensor) -> Path:
        path = self.folder / "usual.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                self.model, (self.x, edges), path, dynamo=True, input_names=["x", "edge_index"], verbose=False
            )
        return path

    def _capture_to_file(self, edges: torch.Tensor) -> None:
        data = GraphData("power-law", {"x": self.x, "edge_index": edges})
        inputs = match_inputs(self.model, data)
        program = run_passes(capture(self.model, inputs, example_inputs(inputs)), CANONICAL, PassContext()).program
        folder = self.folder / "file"
        folder.mkdir()
        OrtTarget(threads=self.threads).emit(
            translate(finalise(program, data).program, data.inputs), folder, EmitContext(threads=self.threads)
        )

    def _our_export(self, target: str, *, portable: bool = False) -> Path:
        torch.save(self.model, self.folder / "model.pt")
        np.savez(self.folder / "data.npz", x=self.x.numpy(), edge_index=self.edge_index.astype(np.int32))
        outcome = api.export(
            self.folder / "model.pt",
            data=self.folder / "data.npz",
            target=f"{target}{{threads={self.threads},portable={str(portable).lower()}}}",
            output=self.folder / f"{target}-{portable}",
            time_budget=f"{self.export_s:g}s",
        )
        return outcome.bundle

    def _ours(self, bundle: Path) -> Run:
        runner = load(bundle, threads=self.threads)
        feeds = {"x": self.x.numpy()}
        return lambda: next(iter(runner(feeds).values()))

    def _feeds(self, names: list[str]) -> dict[str, NDArray[Any]]:
        values = {"x": self.x.numpy(), "edge_index": self.edge_index}
        return {name: values[name] for name in names}

    def _usual_ort(self, path: Path) -> Run:
        """Run as by default, but give memory back after each run: the others need the 12 GB it would keep."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feeds = self._feeds([item.name for item in session.get_inputs()])
        give_back = onnxruntime.RunOptions()
        give_back.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return lambda: np.asarray(session.run(None, feeds, give_back)[0])

    def _openvino(self, path: Path) -> Run:
        settings = {"INFERENCE_NUM_THREADS": self.threads, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        request = compiled.create_infer_request()
        feeds = self._feeds([port.any_name for port in compiled.inputs])
        return lambda: np.asarray(request.infer(feeds)[compiled.output(0)])

    def _clock(self, name: str) -> _Clock:
        return _Clock(self.seconds, name)


class _Clock:
    """Write down how long a block takes."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds = seconds
        self._name = name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._name] = time.perf_counter() - self._start


def table(rows: list[Row]) -> str:
    """Render the rows as Markdown."""
    lines = [
        "| path | p50 ms | p95 ms | times ours | 95 % interval | largest relative error |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        interval = "–".join("?" if bound is None else f"{bound:.2f}" for bound in row.times_ours_ci95)
        numbers = f"{_ms(row.p50_ms)} | {_ms(row.p95_ms)} | {row.times_ours:.2f} | {interval}"
        lines.append(f"| {row.name} | {numbers} | {row.max_rel_error:.1e} |")
    return "\n".join(lines)


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def measure(contenders: Mapping[str, Run], budget_s: float, reference: str = BASELINE) -> list[Row]:
    """Compare outputs with those of the reference, then time in alternating blocks.

    All take turns first. The slowest takes most of that time, so those within `NEAR` of ours take further turns
    among themselves, and their figures are from these.
    """
    expected = contenders[reference]()
    scale = float(np.abs(expected).max())
    errors = {name: float(np.abs(run() - expected).max()) / scale for name, run in contenders.items()}
    together = compare(contenders, budget_s=0)
    near = {name for name, timing in together.items() if timing.p50_ms < NEAR * together[OURS].p50_ms}
    again = compare({name: run for name, run in contenders.items() if name in near}, budget_s=budget_s)
    rows = []
    for name in contenders:
        timings = again if name in near else together
        rows.append(_row(name, timings[name], timings[OURS], errors[name]))
    return rows


def _row(name: str, timing: Timing, ours: Timing, error: float) -> Row:
    times = ratio(timing, ours)
    return Row(name, timing.p50_ms, timing.p95_ms, timing.runs, times.value, (times.low, times.high), error)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=PowerLaw.num_nodes)
    parser.add_argument("--pairs", type=int, default=PowerLaw.num_pairs)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=90.0, help="seconds of timing of the fast ones")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the figures go, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    graph = PowerLaw(arguments.nodes, arguments.pairs)
    with tempfile.TemporaryDirectory() as folder:
        contenders = Contenders(graph, arguments.threads, Path(folder), min(EXPORT_S, arguments.budget))
        rows = measure(contenders.all(), arguments.budget)
    print(table(rows))
    for name, seconds in contenders.seconds.items():
        print(f"{name}: {seconds:.1f} s")
    results = {
        "graph": {**asdict(graph), "num_edges": contenders.edge_index.shape[1]},
        "model": {"name": "GraphSAGE", "channels": CHANNELS, "layers": LAYERS},
        "environment": {**describe_environment(), "threads": arguments.threads},
        "seconds": contenders.seconds,
        "rows": [asdict(row) for row in rows],
    }
    path = arguments.output
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
