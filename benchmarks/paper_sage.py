"""The model of the channel pruning paper: GraphSAGE with a self and a neighbour branch in every layer.

    python -m benchmarks.paper_sage --data cora

Zhou et al., "Accelerating Large Scale Real-Time GNN Inference using Channel Pruning", VLDB 2021. The command exports
an untrained one and prints where the bundle lies.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch_geometric.nn import MeanAggregation

from benchmarks.figures import options
from benchmarks.real_data import require
from gnnexport import api
from gnnexport.frontends.data import load_data

HIDDEN = 256


class Branch(nn.Module):
    """Linear map, ReLU, and layer normalisation over the branch's own channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels)
        self.norm = nn.LayerNorm(out_channels, eps=1e-9)

    def forward(self, x: Tensor) -> Tensor:
        """Return [num_nodes, out_channels]."""
        normed: Tensor = self.norm(self.linear(x).relu())
        return normed


class Layer(nn.Module):
    """A branch that reads a node, one that reads the mean of its neighbours, and their concatenation."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.mean = MeanAggregation()
        self.own = Branch(in_channels, out_channels)
        self.neighbours = Branch(in_channels, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return [num_nodes, 2 * out_channels]."""
        mean = self.mean(x.index_select(0, edge_index[0]), edge_index[1], dim_size=x.size(0))
        return torch.cat([self.own(x), self.neighbours(mean)], 1)


class PaperSage(nn.Module):
    """Two such layers, rows of length one, and a linear classifier.

    Args:
        in_channels: of the features.
        hidden: channels of each branch.
        num_classes: of the answers.
        dropout: of what each layer and the classifier read.
    """

    def __init__(self, in_channels: int, num_classes: int, hidden: int = HIDDEN, dropout: float = 0.3) -> None:
        super().__init__()
        self.first = Layer(in_channels, hidden)
        self.second = Layer(2 * hidden, hidden)
        self.classifier = nn.Linear(2 * hidden, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return logits, [num_nodes, num_classes]."""
        h = self.first(self.dropout(x), edge_index)
        h = self.second(self.dropout(h), edge_index)
        logits: Tensor = self.classifier(self.dropout(nn.functional.normalize(h)))
        return logits


def main() -> None:
    """Export the model for a data set."""
    parser = options((__doc__ or "").splitlines()[0], threads=False)
    parser.add_argument("--data", default="cora")
    parser.add_argument("--hidden", type=int, default=HIDDEN)
    parser.add_argument("-o", "--folder", type=Path, required=True)
    given = parser.parse_args()
    data, _ = load_data(require(given.data))
    assert data.y is not None
    model = PaperSage(data.inputs["x"].shape[1], int(data.y.max()) + 1, given.hidden)
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.save(model, given.folder / "model.pt")
    print(api.export(given.folder / "model.pt", data=require(given.data), trust=True, time_budget="10s").bundle)


if __name__ == "__main__":
    main()
