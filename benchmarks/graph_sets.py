"""Time requests of many small graphs: gnnexport's bundles against PyTorch and against the usual export.

    python -m benchmarks.graph_sets

A GIN of three layers on handwritten digits drawn as graphs, in mode `graphs`: one graph a request, and many.
Prints a table for each size and writes JSON to `benchmarks/results/`.
"""

from __future__ import annotations

import logging
import runpy
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from benchmarks import usual
from benchmarks.export_vs_pytorch import OURS, OURS_OPENVINO, USUAL, Run, measure
from benchmarks.figures import TIMED, Row, markdown, options, save
from benchmarks.real_data import ROOT
from gnnexport import api
from gnnexport.runtime.runner import load

SIZES = (1, 16, 64, 256)
EAGER = "PyG eager"


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
        session = self._usual(request)
        needed = {item.name: feeds[item.name] for item in session.get_inputs()}

        def eager() -> Any:
            with torch.inference_mode():
                return self.model(*arguments).numpy()

        return {
            USUAL: lambda: np.asarray(session.run(None, needed)[0]),
            EAGER: eager,
            OURS_OPENVINO: lambda: next(iter(self._runners["openvino"](feeds).values())),
            OURS: lambda: next(iter(self._runners["ort"](feeds).values())),
        }

    def _usual(self, request: Mapping[str, Tensor]) -> Any:
        """Export as by default, for this number of graphs and any number of nodes and edges, and load it."""
        count = int(request["num_graphs"])
        nodes, edges = torch.export.Dim("nodes", min=3), torch.export.Dim("edges", min=3)
        path = usual.export(
            _OfSize(self.model, count),
            (request["x"], request["edge_index"], request["batch"]),
            self._folder / f"usual_{count}.onnx",
            ["x", "edge_index", "batch"],
            dynamic_shapes=({0: nodes}, {1: edges}, {0: nodes}),
        )
        return usual.session(path, self._threads)


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
    given = options(__doc__, budget_s=20.0).parse_args()
    torch.set_num_threads(given.threads)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    sample = runpy.run_path(str(ROOT / "samples" / "grids" / "train.py"))
    graphs = sample["grids"](0)
    model, _ = sample["train"](graphs, 0)
    found: dict[int, list[Row]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ways = Ways(model, graphs, Path(folder), given.threads)
        for size in SIZES:
            found[size] = measure(ways.on(request_of(graphs["test"][:size])), given.budget, EAGER)
            print(f"\n{size} graphs a request\n\n{markdown(TIMED, (row.cells() for row in found[size]))}")
    results = {
        "model": {"name": "GIN", "sample": "grids"},
        "rows": {size: [asdict(row) for row in rows] for size, rows in found.items()},
    }
    save(results, "graph_sets", given)


if __name__ == "__main__":
    main()
