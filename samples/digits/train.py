"""Train a graph network on handwritten digits, and save what `gnnexport compress` needs.

The 1,797 digits that ship with scikit-learn become one graph: a node is an image, its features are
the 64 grey values, and it is joined to the images nearest to it. Nothing is downloaded.

    python samples/digits/train.py gcn  demo/gcn
    python samples/digits/train.py sage demo/sage

writes `model.pt` (the module, pickled), `data.npz` (the graph) and `gnnexport.toml` (task, training
settings, passes, target and budget). On one machine the numbers are the same on every run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.nn import GCN, GraphSAGE

NEIGHBOURS = 8
HIDDEN = 128
CLASSES = 10
LEARNING_RATE = 0.01
WEIGHT_DECAY = 5e-4
EPOCHS = 40
PATIENCE = 20
MODELS = {"gcn": GCN, "sage": GraphSAGE}

SIDECAR = f"""\
schema = 1

[data]
path = "data.npz"

[task]
kind = "node-classification"
metric = "accuracy"

[training]
loss = "cross-entropy"
lr = {LEARNING_RATE}
weight_decay = {WEIGHT_DECAY}
epochs = {EPOCHS}
patience = {PATIENCE}

[compress]
passes = "prune-channels{{keep=0.5}}"
target = "ort"
max_drop = "1pp"
"""


def digits_graph(seed: int) -> dict[str, np.ndarray]:
    """Return the arrays of the digits graph, a fifth of the nodes for training and a fifth for validation."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    fifth = len(images) // 5
    masks = np.zeros((3, len(images)), dtype=bool)
    for mask, nodes in zip(masks, np.split(order, [fifth, 2 * fifth]), strict=True):
        mask[nodes] = True
    return {
        "x": (images / 16).astype(np.float32),
        "edge_index": nearest_images(images.astype(np.int64)),
        "num_nodes": np.int64(len(images)),
        "y": labels.astype(np.int64),
        "train_mask": masks[0],
        "val_mask": masks[1],
        "test_mask": masks[2],
    }


def nearest_images(images: np.ndarray) -> np.ndarray:
    """Return the edge index that joins each image to its nearest ones, in both directions.

    Grey values are integers, so distances are exact and ties, which are common, go to the smaller node.
    """
    squares = (images**2).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * images @ images.T
    np.fill_diagonal(distances, np.iinfo(np.int64).max)
    nearest = distances.argsort(axis=1, kind="stable")[:, :NEIGHBOURS]
    source, destination = nearest.ravel(), np.arange(len(images)).repeat(NEIGHBOURS)
    both = np.stack([np.append(source, destination), np.append(destination, source)])
    return np.unique(both, axis=1).astype(np.int32)


def train(name: str, graph: dict[str, np.ndarray], seed: int) -> tuple[torch.nn.Module, float]:
    """Train a model and return it at its best validation epoch, with its test accuracy.

    The number of layers is two; BatchNorm stands between them.
    """
    torch.manual_seed(seed)
    x, y = torch.from_numpy(graph["x"]), torch.from_numpy(graph["y"])
    edge_index = torch.from_numpy(graph["edge_index"]).long()
    train_mask, val_mask, test_mask = (torch.from_numpy(graph[f"{split}_mask"]) for split in ("train", "val", "test"))
    model = MODELS[name](x.shape[1], HIDDEN, num_layers=2, out_channels=CLASSES, norm="batch_norm", dropout=0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    best, best_state = -1.0, {}
    for _ in range(EPOCHS):
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(x, edge_index)[train_mask], y[train_mask]).backward()
        optimizer.step()
        score = accuracy(model, x, edge_index, y, val_mask)
        if score > best:
            best, best_state = score, {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(best_state)
    return model, accuracy(model, x, edge_index, y, test_mask)


@torch.no_grad()
def accuracy(model: torch.nn.Module, x: Tensor, edge_index: Tensor, y: Tensor, mask: Tensor) -> float:
    """Return the share of the masked nodes that the model, left in eval mode, classifies right."""
    predicted = model.eval()(x, edge_index).argmax(dim=-1)
    return float((predicted == y)[mask].float().mean())


def main() -> None:
    """Train the model named on the command line and write its three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("folder", type=Path, help="where the files go; made if need be")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # sums then do not depend on how many cores there are
    graph = digits_graph(arguments.seed)
    model, test_accuracy = train(arguments.model, graph, arguments.seed)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.save(model, arguments.folder / "model.pt")
    np.savez_compressed(arguments.folder / "data.npz", allow_pickle=False, **graph)
    (arguments.folder / "gnnexport.toml").write_text(SIDECAR)
    edges = graph["edge_index"].shape[1]
    print(
        f"{arguments.folder}: {arguments.model} on {graph['num_nodes']} digits and {edges} edges, "
        f"test accuracy {test_accuracy:.4f}"
    )


if __name__ == "__main__":
    main()
