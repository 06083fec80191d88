"""Time requests of many small graphs: gnnexport's bundles against PyTorch and against the usual export.

    python -m benchmarks.graph_sets

A GIN of three layers on handwritten digits drawn as graphs, in mode `graphs`: one graph a request, and many.
Prints a table for each size and writes JSON to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import json
import logging
import runpy
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from benchmarks.export_vs_pytorch import OURS, OURS_OPENVINO, USUAL, Row, Run, measure, table
from benchmarks.real_data import ROOT
from gnnexport import api
from gnnexport.measure.environment import describe_environment
from gnnexport.runtime.runner import load

SIZES = (1, 16, 64, 256)
EAGER = "PyG eager"
RESULTS = ROOT / "benchmarks" / "results" / "graph_sets.json"


def request_of(graphs: list[Data]) -> dict[str, Tensor]:
    """Return the inputs of some graphs in one request."""
    batch: Any = Batch.from_data_list(graphs)
    return {"x": batch.x, "edge_index": batch.edge_index, "batch": batch.batch, "num_graphs": torch.tensor(len(graphs))}


class Ways:
    """The same model, run in different ways on requests of any size."""

    def __init__(self, model: nn.Module, graphs: dict[str, list[Data]], folder: Path, threads: int) -> None:
        """Export the model in every way."""
        self.model = model.eval()
        torch.save(model, folder / "model.pt")
        torch.save(graphs, folder / "data.pt")
        self._runners = {name: load(_export(folder, name, threads), threads=threads) for name in ("ort", "openvino")}
        self._folder, self._threads = folder, threads

    def on(self, request: Mapping[str, Tensor]) -> dict[str, Run]:
        """Return every contender on one request."""
        feeds = {name: value.numpy() for name, value in request.items()}
        arguments = (request["x"], request["edge_index"], request["batch"], int(request["num_graphs"]))
        usual = self._usual(request)
        needed = {item.name: feeds[item.name] for item in usual.get_inputs()}

        def eager() -> Any:
            with torch.inference_mode():
                return self.model(*arguments).numpy()

        return {
            USUAL: lambda: np.asarray(usual.run(None, needed)[0]),
            EAGER: eager,
            OURS_OPENVINO: lambda: next(iter(self._runners["openvino"](feeds).values())),
            OURS: lambda: next(iter(self._runners["ort"](feeds).values())),
        }

    def _usual(self, request: Mapping[str, Tensor]) -> onnxruntime.InferenceSession:
        """Export as by default, for this number of graphs and any number of nodes and edges, and load it."""
        count, path = int(request["num_graphs"]), self._folder / f"usual_{int(request['num_graphs'])}.onnx"
        nodes, edges = torch.export.Dim("nodes", min=3), torch.export.Dim("edges", min=3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _OfSize(self.model, count),
                (request["x"], request["edge_index"], request["batch"]),
                path,
                dynamo=True,
                input_names=["x", "edge_index", "batch"],
                dynamic_shapes=({0: nodes}, {1: edges}, {0: nodes}),
                verbose=False,
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _export(folder: Path, target: str, threads: int) -> Path:
    return api.export(
        folder / "model.pt",
        data=folder / "data.pt",
        target=f"{target}{{threads={threads}}}",
        output=folder / target,
        time_budget="20s",
    ).bundle


class _OfSize(nn.Module):
    """A model for one number of graphs: as an int it is no input of what `torch.onnx.export` makes."""

    def __init__(self, model: nn.Module, num_graphs: int) -> None:
        super().__init__()
        self.model, self.num_graphs = model, num_graphs

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """Answer for that many graphs."""
        return torch.as_tensor(self.model(x, edge_index, batch, self.num_graphs))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of timing for each size")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the figures go, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    sample = runpy.run_path(str(ROOT / "samples" / "grids" / "train.py"))
    graphs = sample["grids"](0)
    model, _ = sample["train"](graphs, 0)
    found: dict[int, list[Row]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ways = Ways(model, graphs, Path(folder), arguments.threads)
        for size in SIZES:
            found[size] = measure(ways.on(request_of(graphs["test"][:size])), arguments.budget, EAGER)
            print(f"\n{size} graphs a request\n\n{table(found[size])}")
    results = {
        "model": {"name": "GIN", "sample": "grids"},
        "environment": {**describe_environment(), "threads": arguments.threads},
        "rows": {size: [asdict(row) for row in rows] for size, rows in found.items()},
    }
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
