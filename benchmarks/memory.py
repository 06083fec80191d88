"""What memory a run of the whole model takes in each runtime, above an idle process.

    python -m benchmarks.memory

GraphSAGE of three layers on a power-law graph, full graph, float32. Each contender has a process of its own, in which
nothing else was ever loaded; what is counted is the most resident memory after everything was imported. Beside it
stands what the run cannot do without: features, graph, and the two widest activations. Prints a table and writes JSON
to `benchmarks/results/`.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.export_vs_pytorch import BASELINE, EXPORT_S, OURS, OURS_OPENVINO, STANDARD, USUAL
from benchmarks.figures import markdown, options, save
from benchmarks.power_law import PowerLaw
from benchmarks.real_data import ROOT
from benchmarks.room import LeftOut, demand
from benchmarks.sage import CHANNELS, DESCRIPTION, WIDTHS, Sage
from gnnexport.native.library import library

NAMES = {"ort": OURS, "openvino": OURS_OPENVINO, "ort-portable": STANDARD, "pytorch": BASELINE, "usual": USUAL}
REFERENCE = "pytorch"
QUICK = PowerLaw(2000, 6000)
QUICK_EXPORT_S = 1.0
RUNS = 3
USUAL_TIMES = 6
"""The usual export was seen to take five times the rows of all edges."""

SPARE = 1.1
"""What is allowed of what is needed."""


@dataclass(frozen=True)
class Need:
    """What no run of the model can do without.

    Args:
        features_bytes: of all nodes, in float32.
        graph_bytes: edges by destination, in 32 bits.
        activations_bytes: the two widest, in float32.
    """

    features_bytes: int
    graph_bytes: int
    activations_bytes: int

    @classmethod
    def of(cls, num_nodes: int, num_edges: int) -> Need:
        """Reckon it for a graph."""
        widest = sum(sorted(WIDTHS)[-2:])
        return cls(num_nodes * CHANNELS[0] * 4, (num_edges + num_nodes + 1) * 4, num_nodes * widest * 4)

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.features_bytes + self.graph_bytes + self.activations_bytes


@dataclass(frozen=True)
class Taken:
    """What one contender took.

    Args:
        name: of the contender.
        idle_bytes: resident memory of its process when everything was imported.
        loaded_bytes: the most above that until model and data were loaded.
        above_idle_bytes: the most above that of all.
        times_need: the same over what is needed.
        runs: predictions made.
        max_rel_error: largest difference from PyTorch over the largest number; `None` where PyTorch was left out.
    """

    name: str
    idle_bytes: int
    loaded_bytes: int
    above_idle_bytes: int
    times_need: float
    runs: int
    max_rel_error: float | None


def prepare(graph: PowerLaw, folder: Path, ways: Collection[str], threads: int, export_s: float) -> int:
    """Write what the contenders load, and return the number of edges. Large: best run in a process of its own."""
    torch.set_num_threads(threads)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    sage = Sage(graph)
    rowptr, col = sage.csr()
    arrays = {"x": sage.x.numpy(), "edge_index": sage.edge_index, "rowptr": rowptr, "col": col}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    torch.save(sage.model, folder / "model.pt")
    for way in {"ort", "openvino", "ort-portable"} & set(ways):
        target, _, portable = way.partition("-")
        sage.our_export(folder, target, threads=threads, export_s=export_s, portable=bool(portable))
    if "usual" in ways:
        sage.usual_export(folder)
    return len(col)


def measure(way: str, folder: Path, threads: int) -> dict[str, int]:
    """Run one contender in a fresh process.

    Raises:
        LeftOut: the system ended the process, as it does when memory runs out.
    """
    runs = 1 if way == "usual" else RUNS  # it takes a minute
    command = [sys.executable, "-m", "benchmarks.resident", way, str(folder), f"--threads={threads}", f"--runs={runs}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise LeftOut(f"its process was ended by signal {-done.returncode}")
    if done.returncode > 0:
        raise SystemExit(f"{way} failed:\n{done.stderr}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "runs": runs}


def error(folder: Path, way: str) -> float | None:
    """Compare a contender's answer with that of PyTorch, where both are there."""
    if not (folder / f"{REFERENCE}.npy").is_file():
        return None
    expected, found = np.load(folder / f"{REFERENCE}.npy"), np.load(folder / f"{way}.npy")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def compare(
    folder: Path, ways: Collection[str], threads: int, need: Need, known_bytes: Mapping[str, int]
) -> tuple[list[Taken], dict[str, str]]:
    """Measure one contender after the other, and say why others are left out.

    Args:
        folder: what `prepare` wrote.
        ways: the contenders.
        threads: of each.
        need: of the graph.
        known_bytes: what some contenders are known to take; they only run where that is free.
    """
    found: dict[str, dict[str, int]] = {}
    left_out: dict[str, str] = {}
    for way in ways:
        try:
            demand(known_bytes.get(way, 0), "it")
            found[way] = measure(way, folder, threads)
        except LeftOut as reason:
            left_out[NAMES[way]] = str(reason)
    return [_taken(way, figures, need, error(folder, way)) for way, figures in found.items()], left_out


def _taken(way: str, found: Mapping[str, int], need: Need, max_rel_error: float | None) -> Taken:
    idle, above = found["idle_bytes"], found["peak_bytes"] - found["idle_bytes"]
    loaded = found["loaded_bytes"] - idle
    return Taken(NAMES[way], idle, loaded, above, above / need.total_bytes, found["runs"], max_rel_error)


def table(rows: Sequence[Taken], need: Need) -> str:
    """Render the figures as Markdown, and what is needed below."""
    allowed = need.total_bytes * SPARE
    heads = ("path", "above idle MB", "needed MB", "with 10 % MB", "times needed", "idle MB", "largest relative error")
    cells = [
        (
            row.name,
            _mb(row.above_idle_bytes),
            _mb(need.total_bytes),
            _mb(allowed),
            f"{row.times_need:.2f}",
            _mb(row.idle_bytes),
            "" if row.max_rel_error is None else f"{row.max_rel_error:.1e}",
        )
        for row in rows
    ]
    parts = ", ".join(f"{name.removesuffix('_bytes')} {_mb(size)} MB" for name, size in asdict(need).items())
    return f"{markdown(heads, cells)}\n\nneeded: {parts}"


def _mb(count: float) -> str:
    return f"{count / 1e6:,.0f}" if count >= 1e7 else f"{count / 1e6:.3g}"


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__, quick=True)
    parser.add_argument(
        "--skip", choices=list(NAMES), action="append", default=[], help="leave it out; may be repeated"
    )
    given = parser.parse_args()
    library()  # says what to do where the kernels are not installed
    graph = QUICK if given.quick else PowerLaw()
    ways = [way for way in NAMES if way not in given.skip]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ProcessPoolExecutor(1, get_context("spawn")) as process:  # what it holds is free again afterwards
            export_s = QUICK_EXPORT_S if given.quick else EXPORT_S
            edges = process.submit(prepare, graph, folder, ways, given.threads, export_s).result()
        need = Need.of(graph.num_nodes, edges)
        rows, left_out = compare(folder, ways, given.threads, need, {"usual": USUAL_TIMES * edges * max(WIDTHS) * 4})
    left_out |= {NAMES[way]: "by --skip" for way in given.skip}
    print(table(rows, need))
    for name, reason in left_out.items():
        print(f"{name}: left out, {reason}")
    results = {
        "graph": {**asdict(graph), "num_edges": edges},
        "model": DESCRIPTION,
        "need": asdict(need),
        "rows": [asdict(row) for row in rows],
        "left_out": left_out,
    }
    save(results, "memory", given)


if __name__ == "__main__":
    main()
