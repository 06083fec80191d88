"""Time gnnexport's bundle against PyTorch and against the usual export, side by side in one process.

    python -m benchmarks.export_vs_pytorch

GraphSAGE of three layers on a power-law graph, full graph, float32. Prints a table and writes JSON to
`benchmarks/results/`. The contenders take turns in blocks, so that all of them see the same machine.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray

from benchmarks import usual
from benchmarks.figures import TIMED, Row, markdown, options, save
from benchmarks.power_law import PowerLaw
from benchmarks.sage import DESCRIPTION, Sage
from benchmarks.sparse import adjacency
from gnnexport.frontends.signature import match_inputs
from gnnexport.measure.timing import compare
from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import CANONICAL, finalise, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.program import example_inputs
from gnnexport.runtime.runner import load
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.ort import OrtTarget

OURS = "gnnexport (ort)"
OURS_OPENVINO = "gnnexport (openvino)"
BASELINE = "PyG CSR"
EXPORT_S = 20.0
NEAR = 8.0
STANDARD = "gnnexport (standard operators in ONNX Runtime)"
USUAL = "torch.onnx.export + ONNX Runtime"

Run = Callable[[], NDArray[np.float32]]


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
        self.sage = Sage(graph)
        self.seconds: dict[str, float] = {}

    def all(self) -> dict[str, Run]:
        """Return every contender, ready to run."""
        edges = torch.from_numpy(self.sage.edge_index)
        sparse = adjacency(*map(torch.from_numpy, self.sage.csr()))
        with self._clock("torch.onnx.export"):
            exported = self.sage.usual_export(self.folder)
        with self._clock("gnnexport, from capture to model file"):
            self._capture_to_file(edges)
        with self._clock("gnnexport export, with golden vectors and all measurements"):
            bundle = self._our_export("ort")
        with self._clock("gnnexport export to OpenVINO, with golden vectors and all measurements"):
            converted = self._our_export("openvino")
        standard = self._our_export("ort", portable=True)
        return {
            USUAL: self._usual_ort(exported),
            "PyG eager": lambda: self._torch(edges),
            "torch.onnx.export + OpenVINO": self._openvino(exported),
            BASELINE: lambda: self._torch(sparse),
            "gnnexport (standard operators in OpenVINO)": self._openvino(standard / "model.onnx"),
            STANDARD: self._ours(standard),
            OURS_OPENVINO: self._ours(converted),
            OURS: self._ours(bundle),
        }

    def _torch(self, structure: torch.Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(self.sage.model(self.sage.x, structure).numpy())

    def _capture_to_file(self, edges: torch.Tensor) -> None:
        data = GraphData("power-law", {"x": self.sage.x, "edge_index": edges})
        inputs = match_inputs(self.sage.model, data)
        program = run_passes(capture(self.sage.model, inputs, example_inputs(inputs)), CANONICAL, PassContext()).program
        folder = self.folder / "file"
        folder.mkdir()
        OrtTarget(threads=self.threads).emit(
            translate(finalise(program, data).program, data.inputs), folder, EmitContext(threads=self.threads)
        )

    def _our_export(self, target: str, *, portable: bool = False) -> Path:
        return self.sage.our_export(
            self.folder, target, threads=self.threads, export_s=self.export_s, portable=portable
        )

    def _ours(self, bundle: Path) -> Run:
        runner = load(bundle, threads=self.threads)
        feeds = {"x": self.sage.x.numpy()}
        return lambda: next(iter(runner(feeds).values()))

    def _feeds(self, names: list[str]) -> dict[str, NDArray[Any]]:
        values = {"x": self.sage.x.numpy(), "edge_index": self.sage.edge_index}
        return {name: values[name] for name in names}

    def _usual_ort(self, path: Path) -> Run:
        """Run as by default, but give memory back after each run: the others need the 12 GB it would keep."""
        session = usual.session(path, self.threads)
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
        rows.append(Row.of(name, timings[name], timings[OURS], errors[name]))
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__, budget_s=90.0)
    parser.add_argument("--nodes", type=int, default=PowerLaw.num_nodes)
    parser.add_argument("--pairs", type=int, default=PowerLaw.num_pairs)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    graph = PowerLaw(given.nodes, given.pairs)
    with tempfile.TemporaryDirectory() as folder:
        contenders = Contenders(graph, given.threads, Path(folder), min(EXPORT_S, given.budget))
        rows = measure(contenders.all(), given.budget)
    print(markdown(TIMED, (row.cells() for row in rows)))
    for name, seconds in contenders.seconds.items():
        print(f"{name}: {seconds:.1f} s")
    results = {
        "graph": {**asdict(graph), "num_edges": contenders.sage.edge_index.shape[1]},
        "model": DESCRIPTION,
        "seconds": contenders.seconds,
        "rows": [asdict(row) for row in rows],
    }
    save(results, "export_vs_pytorch", given)


if __name__ == "__main__":
    main()
