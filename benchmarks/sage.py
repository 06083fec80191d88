"""The whole model of the benchmarks: GraphSAGE of three layers on a power-law graph, untrained, and its exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch_geometric.nn import GraphSAGE

from benchmarks import usual
from benchmarks.power_law import PowerLaw
from gnnexport import api

CHANNELS = (128, 256, 40)
LAYERS = 3
WIDTHS = (CHANNELS[1],) * (LAYERS - 1) + (CHANNELS[2],)
"""Columns of what each layer gives."""

DESCRIPTION = {"name": "GraphSAGE", "channels": CHANNELS, "layers": LAYERS}


def build() -> GraphSAGE:
    """Make the model, from the seed that is set."""
    return GraphSAGE(CHANNELS[0], CHANNELS[1], num_layers=LAYERS, out_channels=CHANNELS[2]).eval()


class Sage:
    """The model with a graph and its features; nothing is exported yet."""

    def __init__(self, graph: PowerLaw) -> None:
        """Draw everything from the seed of the graph."""
        self.edge_index = graph.edge_index()
        torch.manual_seed(graph.seed)
        self.x = torch.randn(graph.num_nodes, CHANNELS[0])
        self.model = build()

    def csr(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the edges of each node begin [num_nodes + 1], and their sources [num_edges]."""
        source, destination = self.edge_index
        degree = np.bincount(destination, minlength=len(self.x))
        return np.concatenate([[0], np.cumsum(degree)]), source

    def usual_export(self, folder: Path) -> Path:
        """Export the usual way, for this graph's size."""
        edges = torch.from_numpy(self.edge_index)
        return usual.export(self.model, (self.x, edges), folder / "usual.onnx", ["x", "edge_index"])

    def our_export(self, folder: Path, target: str, *, threads: int, export_s: float, portable: bool = False) -> Path:
        """Return a bundle for a target, proven and measured as for any user; `export_s` bounds its timing."""
        torch.save(self.model, folder / "model.pt")
        np.savez(folder / "data.npz", x=self.x.numpy(), edge_index=self.edge_index.astype(np.int32))
        return api.export(
            folder / "model.pt",
            data=folder / "data.npz",
            target=f"{target}{{threads={threads},portable={str(portable).lower()}}}",
            output=folder / (f"{target}-portable" if portable else target),
            time_budget=f"{export_s:g}s",
        ).bundle
