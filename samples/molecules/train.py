"""Train a graph network that predicts a number for each molecule, and save what `gnnexport compress` needs.

The set comes from an `.npz` of many graphs: `edge_index` [2, edges] counted over the whole set, `node_ptr` and
`edge_ptr` [graphs + 1], `y` [graphs, 1], masks [graphs], and features of the atoms `x` [nodes, channels], or the same
in CSR form as `x_data`, `x_indices`, `x_indptr` and `x_shape`: ESOL (solubility in water), for one.

    python samples/molecules/train.py mol_esol.npz demo/molecules

writes `weights.pt` (the state dict), `data.npz` (the set) and `gnnexport.toml`. A state dict holds no code; the
function of this file that builds the module is named beside it.

    gnnexport compress demo/molecules/weights.pt --builder samples/molecules/train.py:build_model
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
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GraphConv, global_add_pool, global_mean_pool

CHANNELS = 32
"""Features of an atom."""

HIDDEN = 64
LEARNING_RATE = 0.005
WEIGHT_DECAY = 1e-5
EPOCHS = 40
BATCH_SIZE = 64
SPLITS = ("train", "val", "test")
SET = ("edge_index", "node_ptr", "edge_ptr", "y", *(f"{split}_mask" for split in SPLITS))

SIDECAR = f"""\
schema = 1

[data]
path = "data.npz"

[task]
kind = "graph-regression"
metric = "rmse"

[training]
loss = "mse"
lr = {LEARNING_RATE / 5}
weight_decay = {WEIGHT_DECAY}
epochs = 20
patience = 10

[compress]
passes = "prune-channels{{keep=0.75}}"
target = "ort"
max_drop = "10%"
"""


class Regressor(nn.Module):
    """Three graph convolutions, sum and mean over each molecule, and two linear layers."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.layers = nn.ModuleList(GraphConv(width, HIDDEN) for width in (CHANNELS, HIDDEN, HIDDEN))
        self.hidden = nn.Linear(2 * HIDDEN, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1)
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """Return the target of each molecule, float32 [num_graphs, 1].

        Args:
            x: float32 [atoms, CHANNELS].
            edge_index: int64 [2, edges], both directions of every bond.
            batch: int64 [atoms], the molecule of each atom.
            num_graphs: molecules; counted, because the last one may have no atom.
        """
        for layer in self.layers:
            x = layer(x, edge_index).relu()
        sums, means = global_add_pool(x, batch, num_graphs), global_mean_pool(x, batch, num_graphs)
        # A sum over a molecule is some twenty times an atom; the factor brings both parts to one size.
        pooled = torch.cat([sums / 20, means], dim=-1)
        answer: Tensor = self.out(self.hidden(pooled).relu()) * self.scale + self.mean
        return answer


def build_model() -> Regressor:
    """Return the module that the weights belong to."""
    return Regressor()


def read_set(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a set of graphs, or end the program with what is missing."""
    if not path.is_file():
        raise SystemExit(f"{path} is absent. Give the .npz of a set of molecules")
    arrays = np.load(path, allow_pickle=False)
    form = ("x_data", "x_indices", "x_indptr", "x_shape") if "x_data" in arrays else ("x",)
    missing = [name for name in (*SET, *form) if name not in arrays]
    if missing:
        raise SystemExit(f"{path} has no {', '.join(missing)}. Give the .npz of a set of molecules")
    if "x_data" in arrays:
        *parts, shape = (arrays[name] for name in form)
        x = csr_matrix(tuple(parts), shape=tuple(shape)).toarray()
    else:
        x = arrays["x"]
    return {"x": x.astype(np.float32), **{name: arrays[name] for name in SET}}


def molecules(arrays: dict[str, np.ndarray], split: str) -> list[Data]:
    """Return the molecules of one split as graphs that count their atoms from 0."""
    found = []
    for graph in np.flatnonzero(arrays[f"{split}_mask"]):
        first, last = arrays["node_ptr"][graph : graph + 2]
        bonds = slice(*arrays["edge_ptr"][graph : graph + 2])
        edge_index = torch.from_numpy(arrays["edge_index"][:, bonds].astype(np.int64) - first)
        y = torch.from_numpy(arrays["y"][graph].reshape(1, 1))
        found.append(Data(torch.from_numpy(arrays["x"][first:last]), edge_index, y=y))
    return found


def train(arrays: dict[str, np.ndarray], seed: int, epochs: int = EPOCHS) -> tuple[Regressor, float]:
    """Train a model and return it at its best validation epoch, with its error on the test molecules."""
    torch.manual_seed(seed)
    parts = {split: molecules(arrays, split) for split in SPLITS}
    targets = torch.cat([graph.y for graph in parts["train"]])
    model = build_model()
    model.mean, model.scale = targets.mean(dim=0), targets.std(dim=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    best, best_state = float("inf"), {}
    for _ in range(epochs):
        model.train()
        for batch in DataLoader(parts["train"], BATCH_SIZE, shuffle=True):
            optimizer.zero_grad()
            F.mse_loss(model(batch.x, batch.edge_index, batch.batch, batch.num_graphs), batch.y).backward()
            optimizer.step()
        error = rmse(model, parts["val"])
        if error < best:
            best, best_state = error, {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(best_state)
    return model, rmse(model, parts["test"])


@torch.no_grad()
def rmse(model: Regressor, graphs: list[Data]) -> float:
    """Return the root of the mean squared error over some molecules, the model left in eval mode."""
    batch = next(iter(DataLoader(graphs, len(graphs))))
    answers = model.eval()(batch.x, batch.edge_index, batch.batch, batch.num_graphs)
    return float(F.mse_loss(answers, batch.y).sqrt())


def main() -> None:
    """Train the model and write its three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help=".npz of the molecules")
    parser.add_argument("folder", type=Path, help="where the files go; made if need be")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # sums then do not depend on how many cores there are
    arrays = read_set(arguments.data)
    model, error = train(arrays, arguments.seed, arguments.epochs)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), arguments.folder / "weights.pt")
    np.savez_compressed(arguments.folder / "data.npz", allow_pickle=False, **arrays)
    (arguments.folder / "gnnexport.toml").write_text(SIDECAR)
    print(f"{arguments.folder}: GraphConv on {len(arrays['y'])} molecules, test RMSE {error:.4f}")


if __name__ == "__main__":
    main()
