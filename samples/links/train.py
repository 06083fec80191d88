"""Train a graph network that predicts missing links, and save what `gnnexport compress` needs.

The graph comes from an `.npz` with `edge_index` [2, edges], both directions of every edge, and node features `x`
[nodes, channels], or the same in CSR form as `x_data`, `x_indices`, `x_indptr` and `x_shape`: Cora, for one.

    python samples/links/train.py cora.npz demo/links

writes `model.pt` (the module, pickled), `data.pt` (the three parts of PyG's `RandomLinkSplit`) and `gnnexport.toml`.
The model's class stands in this file, which Python therefore names `__main__` in `model.pt`: to load it again, this
file is needed, and it is run.

    gnnexport compress demo/links/model.pt --trust --code samples/links/train.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv
from torch_geometric.transforms import RandomLinkSplit
from torch_geometric.utils import negative_sampling

HIDDEN = 128
CODE = 64
LEARNING_RATE = 0.01
WEIGHT_DECAY = 0.0
EPOCHS = 100

SIDECAR = f"""\
schema = 1

[data]
path = "data.pt"

[task]
kind = "link-prediction"
metric = "roc-auc"

[training]
loss = "bce"
lr = {LEARNING_RATE}
weight_decay = {WEIGHT_DECAY}
epochs = 40
patience = 20

[compress]
passes = "prune-channels{{keep=0.5}}"
target = "ort"
max_drop = "1pp"
"""


class LinkPredictor(nn.Module):
    """Two GCN layers give each node a code; the score of a pair is the dot product of its codes."""

    def __init__(self, channels: int) -> None:
        """Make the layers for nodes with so many features."""
        super().__init__()
        self.first = GCNConv(channels, HIDDEN)
        self.second = GCNConv(HIDDEN, CODE)

    def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor) -> Tensor:
        """Return a logit for each pair.

        Args:
            x: float32 [nodes, channels].
            edge_index: int64 [2, edges], the links that are known.
            edge_label_index: int64 [2, pairs], the pairs asked about.
        """
        hidden = F.dropout(self.first(x, edge_index).relu(), 0.5, self.training)
        code = self.second(hidden, edge_index)
        source, destination = edge_label_index
        logits: Tensor = (code[source] * code[destination]).sum(dim=-1)
        return logits


def read_graph(path: Path) -> Data:
    """Read the features and edges of an `.npz`, or end the program with what is missing."""
    if not path.is_file():
        raise SystemExit(f"{path} is absent. Give the .npz of a graph with x and edge_index")
    arrays = np.load(path, allow_pickle=False)
    form = ("x_data", "x_indices", "x_indptr", "x_shape") if "x_data" in arrays else ("x",)
    missing = [name for name in (*form, "edge_index") if name not in arrays]
    if missing:
        raise SystemExit(f"{path} has no {', '.join(missing)}. Give the .npz of a graph with x and edge_index")
    if "x_data" in arrays:
        *parts, shape = (arrays[name] for name in form)
        x = csr_matrix(tuple(parts), shape=tuple(shape)).toarray()
    else:
        x = arrays["x"]
    x = x / np.maximum(np.abs(x).sum(axis=1, keepdims=True), 1)
    return Data(torch.from_numpy(x).float(), torch.from_numpy(arrays["edge_index"]).long())


def split_links(graph: Data, seed: int) -> tuple[Data, Data, Data]:
    """Hide a twentieth of the links for validation and a tenth for the test, with as many pairs that are none."""
    torch.manual_seed(seed)
    train, val, test = RandomLinkSplit(num_val=0.05, num_test=0.1, is_undirected=True)(graph)
    return train, val, test


def train(parts: tuple[Data, Data, Data], seed: int, epochs: int = EPOCHS) -> tuple[LinkPredictor, float]:
    """Train a model and return it at its best validation epoch, with its share of test pairs told right.

    Pairs that are no links are drawn anew in each epoch. Every pair is judged from the training links alone.
    """
    torch.manual_seed(seed)
    known, val, test = parts
    links = known.edge_label_index[:, known.edge_label == 1]
    model = LinkPredictor(known.num_features)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    best, best_state = -1.0, {}
    for _ in range(epochs):
        model.train()
        optimizer.zero_grad()
        others = negative_sampling(known.edge_index, known.num_nodes, links.shape[1])
        labels = torch.cat([torch.ones(links.shape[1]), torch.zeros(others.shape[1])])
        logits = model(known.x, known.edge_index, torch.cat([links, others], dim=1))
        F.binary_cross_entropy_with_logits(logits, labels).backward()
        optimizer.step()
        score = ranked_right(model, known, val)
        if score > best:
            best, best_state = score, {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(best_state)
    return model, ranked_right(model, known, test)


@torch.no_grad()
def ranked_right(model: LinkPredictor, known: Data, part: Data) -> float:
    """Return how often a link scores higher than a pair that is none: the area under the ROC curve."""
    logits = model.eval()(known.x, known.edge_index, part.edge_label_index)
    links, others = logits[part.edge_label == 1], logits[part.edge_label == 0]
    higher = (links[:, None] > others[None, :]).double() + (links[:, None] == others[None, :]).double() / 2
    return float(higher.mean())


def main() -> None:
    """Train the model and write its three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help=".npz of the graph")
    parser.add_argument("folder", type=Path, help="where the files go; made if need be")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # sums then do not depend on how many cores there are
    graph = read_graph(arguments.data)
    parts = split_links(graph, arguments.seed)
    model, score = train(parts, arguments.seed, arguments.epochs)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.save(model, arguments.folder / "model.pt")
    torch.save(parts, arguments.folder / "data.pt")
    (arguments.folder / "gnnexport.toml").write_text(SIDECAR)
    nodes, links = graph.num_nodes, graph.num_edges // 2
    print(f"{arguments.folder}: GCN on {nodes} nodes and {links} links, test ROC-AUC {score:.4f}")


if __name__ == "__main__":
    main()
