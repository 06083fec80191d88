"""Train a graph network on handwritten digits drawn as small graphs, and save what `gnnexport compress` needs.

Each of the 1,797 digits that ship with scikit-learn becomes a graph of its own: a node is a pixel with ink, and it is
joined to the inked pixels around it. So no two graphs need be of one size. Nothing is downloaded.

    python samples/grids/train.py demo/grids

writes `model.pt` (a PyG `Sequential`, pickled), `data.pt` (lists of PyG `Data`, one for each split) and
`gnnexport.toml` (task, training settings, passes, target and budget). On one machine the numbers are the same on
every run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINConv, Sequential, global_add_pool

SIDE = 8
"""Pixels along each side of an image."""

HIDDEN = 64
CLASSES = 10
LEARNING_RATE = 0.02
WEIGHT_DECAY = 1e-4
EPOCHS = 25
BATCH_SIZE = 64

SIDECAR = f"""\
schema = 1

[data]
path = "data.pt"

[task]
kind = "graph-classification"
metric = "accuracy"

[training]
loss = "cross-entropy"
lr = 0.002
weight_decay = {WEIGHT_DECAY}
epochs = 5
patience = 5

[compress]
passes = "prune-channels{{keep=0.75}}"
target = "ort"
max_drop = "2pp"
"""


def grid(image: np.ndarray, label: int) -> Data:
    """Return an image as a graph of its inked pixels.

    Args:
        image: float [SIDE, SIDE], ink from 0 to 16.
        label: its digit.

    Returns:
        `x` float32 [nodes, 3]: ink, row and column, each from 0 to 1; `edge_index` int64 [2, edges], from each node to
        the up to eight around it; `y` int64 [1].
    """
    places = np.argwhere(image > 0)
    node = np.full((SIDE + 2, SIDE + 2), -1)
    node[tuple(places.T + 1)] = np.arange(len(places))
    around = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)]
    edges = []
    for step in around:
        neighbour = node[tuple((places + 1 + step).T)]
        here = np.flatnonzero(neighbour >= 0)
        edges.append(np.stack([neighbour[here], here]))
    ink = image[tuple(places.T)]
    x = np.column_stack([ink / 16, places / (SIDE - 1)]).astype(np.float32)
    return Data(torch.from_numpy(x), torch.from_numpy(np.hstack(edges)), y=torch.tensor([label]))


def grids(seed: int) -> dict[str, list[Data]]:
    """Return the digits as graphs, in seeded order: three fifths train, a fifth validates, a fifth tests."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    fifth = len(images) // 5
    parts = np.split(order, [len(images) - 2 * fifth, len(images) - fifth])
    drawn = [grid(image.reshape(SIDE, SIDE), int(label)) for image, label in zip(images, labels, strict=True)]
    return {split: [drawn[i] for i in part] for split, part in zip(("train", "val", "test"), parts, strict=True)}


def build_model() -> nn.Module:
    """Return an untrained model: three GIN layers, the sum over each graph, and a linear layer.

    The number of graphs is an argument of its own: the largest number in `batch` does not tell of an empty last graph.
    """
    convolutions = [(convolution(width), "x, edge_index -> x") for width in (3, HIDDEN, HIDDEN)]
    readout = (global_add_pool, "x, batch, num_graphs -> x")
    steps = [*convolutions, readout, nn.Linear(HIDDEN, CLASSES)]
    model: nn.Module = Sequential("x, edge_index, batch, num_graphs", steps)
    return model


def convolution(width: int) -> GINConv:
    """Return a GIN layer from `width` to `HIDDEN` channels."""
    steps = (nn.Linear(width, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU())
    return GINConv(nn.Sequential(*steps))


def train(graphs: dict[str, list[Data]], seed: int) -> tuple[nn.Module, float]:
    """Train a model and return it at its best validation epoch, with its test accuracy."""
    torch.manual_seed(seed)
    model = build_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rounds = EPOCHS * -(-len(graphs["train"]) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=rounds)
    best, best_state = -1.0, {}
    for _ in range(EPOCHS):
        model.train()
        for batch in DataLoader(graphs["train"], BATCH_SIZE, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(batch.x, batch.edge_index, batch.batch, batch.num_graphs), batch.y).backward()
            optimizer.step()
            schedule.step()
        score = accuracy(model, graphs["val"])
        if score > best:
            best, best_state = score, {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(best_state)
    return model, accuracy(model, graphs["test"])


@torch.no_grad()
def accuracy(model: nn.Module, graphs: list[Data]) -> float:
    """Return the share of graphs that the model, left in eval mode, classifies right."""
    model.eval()
    right = 0
    for batch in DataLoader(graphs, batch_size=512):
        logits = model(batch.x, batch.edge_index, batch.batch, batch.num_graphs)
        right += int((logits.argmax(dim=-1) == batch.y).sum())
    return right / len(graphs)


def main() -> None:
    """Train the model and write its three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go; made if need be")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # sums then do not depend on how many cores there are
    graphs = grids(arguments.seed)
    model, test_accuracy = train(graphs, arguments.seed)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.save(model, arguments.folder / "model.pt")
    torch.save(graphs, arguments.folder / "data.pt")
    (arguments.folder / "gnnexport.toml").write_text(SIDECAR)
    everything = [graph for part in graphs.values() for graph in part]
    sizes = [graph.num_nodes for graph in everything]
    print(
        f"{arguments.folder}: GIN on {len(sizes)} graphs of {min(sizes)} to {max(sizes)} nodes, "
        f"test accuracy {test_accuracy:.4f}"
    )


if __name__ == "__main__":
    main()
