"""A small trained model with its data and sidecar, made in a moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch_geometric.nn import GCN

CHANNELS = 6
CLASSES = 3
NODES = 60

SIDECAR = """\
schema = 1

[data]
path = "data.npz"

[task]
kind = "node-classification"
metric = "accuracy"

[training]
loss = "cross-entropy"
lr = 0.01
weight_decay = 5e-4
epochs = 5

[compress]
passes = "prune-channels{keep=0.5}"
target = "ort"
max_drop = "100pp"
"""

Arrays = dict[str, np.ndarray]


def small_graph() -> Arrays:
    """Return a graph whose features tell the label, so that a few epochs teach it."""
    random = np.random.default_rng(0)
    y = np.arange(NODES) % CLASSES
    x = random.normal(size=(NODES, CHANNELS)).astype(np.float32)
    x[np.arange(NODES), y] += 2
    source = random.integers(0, NODES, 4 * NODES)
    destination = (source + CLASSES * random.integers(1, NODES // CLASSES, 4 * NODES)) % NODES
    part = np.arange(NODES) // CLASSES % 3
    return {
        "x": x,
        "edge_index": np.stack([source, destination]).astype(np.int32),
        "y": y.astype(np.int64),
        **{f"{name}_mask": part == index for index, name in enumerate(("train", "val", "test"))},
    }


def write_road(folder: Path, spoil: Callable[[Arrays], Arrays] = lambda arrays: arrays) -> Path:
    """Write model, data and sidecar into a folder and return the model's path; `spoil` changes the data."""
    torch.manual_seed(0)
    graph = small_graph()
    model = GCN(CHANNELS, 16, num_layers=2, out_channels=CLASSES)
    x, y = torch.from_numpy(graph["x"]), torch.from_numpy(graph["y"])
    edge_index = torch.from_numpy(graph["edge_index"]).long()
    mask = torch.from_numpy(graph["train_mask"])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x, edge_index)[mask], y[mask]).backward()
        optimizer.step()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.eval(), folder / "model.pt")
    np.savez(folder / "data.npz", allow_pickle=False, **spoil(graph))
    (folder / "gnnexport.toml").write_text(SIDECAR)
    return folder / "model.pt"
