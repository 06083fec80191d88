"""What sparse weights cost in accuracy, and their training in operations: all methods in as many epochs, over seeds.

    python -m benchmarks.sparse_training --data cora amazon_computers github_social --seeds 5

A model of each seed is trained densely for all epochs. The others divide them as the publication does for graph
convolutions ("Towards Sparsification of Graph Neural Networks", ICCD 2022: 200 + 50 + 50 epochs against 300). Train and
prune (magnitude, gradual, slr, admm) gets two thirds for a dense model of its own and one third for what follows;
sparse training (rigl, set) begins with weights drawn anew and gets them all. Every state is selected on validation
rows, the metric is that of test rows. Operations are counted as training runs, at the density of the weights: they are
not what a machine with dense kernels executes.

Of the graphs without features links are predicted (AUC): nodes get their degree and singular vectors of the training
links, two GraphSAGE layers give each node a code, and two linear maps score a pair of codes, against as many pairs that
are no links.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import SAGEConv

from benchmarks.figures import markdown, options, save, spread
from benchmarks.real_data import require
from benchmarks.training import build_model
from gnnexport.frontends.data import load_data
from gnnexport.frontends.signature import match_inputs
from gnnexport.measure import metrics
from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData, Split
from gnnexport.program.program import Program, example_inputs
from gnnexport.training.sparsity.flops import Counted, TrainingFlops
from gnnexport.training.sparsity.recipe import Recipe, prunable, sparsify, values_of
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer

HIDDEN = 64
LINK_FEATURES = 64
PAIRS = ("temporal_collegemsg", "large_email_euall")
"""Graphs of which links are predicted."""

MOST_PAIRS = 200_000
"""Links of each split that are asked about, at most."""

METHODS = ("magnitude", "gradual", "slr", "admm", "rigl", "set")
CHANGES = 12
"""Of places in sparse training, if it went on to the last epoch."""

SPARSITIES = (0.5, 0.75, 0.9, 0.95, 0.98)


@dataclass(frozen=True)
class Row:
    """One model of one seed, made sparse in one way; `flops` and `dense_flops` are of all training that led to it.

    Args:
        sparsity: asked for; 0 is the dense model.
        zeros: share of the entries of all weight matrices.
        dense_flops: of the dense model of as many epochs.
        evaluation_flops: besides.
    """

    data: str
    seed: int
    method: str
    sparsity: float
    zeros: float
    metric: str
    test: float
    validation: float
    flops: int
    dense_flops: int
    evaluation_flops: int
    dense_gradient_flops: int
    seconds: float


class LinkModel(nn.Module):
    """Two GraphSAGE layers give each node a code; two linear maps score the product and the sum of two codes."""

    def __init__(self, channels: int, hidden: int) -> None:
        """Make the layers for nodes with so many features."""
        super().__init__()
        self.first, self.second = SAGEConv(channels, hidden), SAGEConv(hidden, hidden)
        self.inner, self.last = nn.Linear(2 * hidden, hidden), nn.Linear(hidden, 1)

    def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor) -> Tensor:
        """Return a logit for each pair."""
        hidden = functional.dropout(self.first(x, edge_index).relu(), 0.5, self.training)
        code = self.second(hidden, edge_index)
        source, destination = code[edge_label_index[0]], code[edge_label_index[1]]
        pairs = torch.cat([source * destination, source + destination], 1)
        logits: Tensor = self.last(self.inner(pairs).relu()).squeeze(-1)
        return logits


def link_data(name: str, seed: int, most: int = MOST_PAIRS) -> GraphData:
    """Return a graph of its training links, with links of each split and as many pairs that are none."""
    arrays = np.load(require(name), allow_pickle=False)
    edges, part = torch.from_numpy(arrays["edge_index"]).long(), torch.from_numpy(arrays["edge_split"])
    nodes = int(arrays["num_nodes"])
    generator = torch.Generator().manual_seed(seed)
    known = torch.cat([edges[:, part == 0], edges[:, part == 0].flip(0)], 1)
    known = torch.unique(known, dim=1)
    seen, taken = _keys(known, nodes), _keys(torch.cat([edges, edges.flip(0)], 1), nodes)
    pairs, labels, of = [], [], []
    for place in range(3):
        links = torch.unique(edges[:, part == place], dim=1)
        if place:  # what training has seen is no question
            links = links[:, ~torch.isin(_keys(links, nodes), seen)]
        links = links[:, torch.randperm(links.shape[1], generator=generator)[:most]]
        drawn = torch.randint(0, nodes, (2, 2 * links.shape[1]), generator=generator)
        others = drawn[:, ~torch.isin(_keys(drawn, nodes), taken)][:, : links.shape[1]]
        pairs += [links, others]
        labels += [torch.ones(links.shape[1]), torch.zeros(others.shape[1])]
        of.append(torch.full((links.shape[1] + others.shape[1],), place))
    inputs = {"x": link_features(known, nodes), "edge_index": known, "edge_label_index": torch.cat(pairs, 1)}
    splits: tuple[Split, ...] = ("train", "val", "test")
    masks = {split: torch.cat(of) == place for place, split in enumerate(splits)}
    return GraphData(name, inputs, torch.cat(labels), masks, "pair")


def link_features(known: Tensor, nodes: int) -> Tensor:
    """Return the degree of each node, and its places in the largest singular vectors of the normalised links.

    Args:
        known: int64 [2, edges], both directions of each link.
        nodes: how many there are.
    """
    degree = np.bincount(known[1].numpy(), minlength=nodes)
    scale = 1 / np.sqrt(np.maximum(degree, 1))
    source, destination = known.numpy()
    links = csr_array((scale[source] * scale[destination], (source, destination)), shape=(nodes, nodes))
    vectors, sizes, _ = svds(links, k=LINK_FEATURES - 1, v0=np.ones(nodes))
    # Columns of a length that suits the layers, whatever the number of nodes.
    columns = [vectors * np.sqrt(nodes * sizes), np.log1p(degree)[:, None]]
    return torch.from_numpy(np.concatenate(columns, 1)).float()


def _keys(edges: Tensor, nodes: int) -> Tensor:
    return edges[0] * nodes + edges[1]


def case(name: str, seed: int, given: argparse.Namespace) -> tuple[GraphData, nn.Module, Task]:
    """Return data, an untrained model and the task, whose epochs are never cut short."""
    torch.manual_seed(seed)
    if name in PAIRS:
        data = link_data(name, seed, given.pairs)
        model: nn.Module = LinkModel(LINK_FEATURES, given.hidden).eval()
        task = Task("link-prediction", "roc-auc", "bce")
    else:
        data, _ = load_data(require(name))
        model = build_model("GCN", data, layers=2, hidden=given.hidden, seed=seed)
        task = Task()
    return data, model, replace(task, epochs=given.epochs, patience=given.epochs)


def captured(model: nn.Module, data: GraphData) -> Program:
    """Return the Program of a model."""
    inputs = match_inputs(model, data)
    return run_passes(capture(model, inputs, example_inputs(inputs)), CANONICAL, PassContext(data=data)).program


def recipe_of(method: str, sparsity: float, epochs: int, seed: int) -> Recipe:
    """Return how a method spends its epochs, of which train and prune has spent some on a dense model."""
    left = epochs - dense_epochs(epochs)
    given: dict[str, Any] = {"sparsity": sparsity, "seed": seed}
    if method in ("rigl", "set"):
        sparse = {"start": "scratch", "distribution": "erk", "every": max(1, epochs // CHANGES)}
        return Recipe(method=method, epochs=epochs, **sparse, **given)  # type: ignore[arg-type]
    if method == "magnitude":
        return Recipe(retrain_epochs=left, **given)
    if method == "gradual":
        return Recipe(rounds=4, epochs=left // 2, retrain_epochs=left - left // 2, **given)
    return Recipe(method=method, epochs=left // 2, retrain_epochs=left - left // 2, **given)  # type: ignore[arg-type]


def dense_epochs(epochs: int) -> int:
    """Return how many epochs train and prune has for its dense model."""
    return epochs * 2 // 3


def score(program: Program, data: GraphData, metric: str) -> float:
    """Return the metric on the test rows."""
    assert data.y is not None
    rows = data.masks["test"]
    with torch.no_grad():
        output = program.clone().train(False)(data.inputs)
    return metrics.evaluate(metric, data.y[rows].numpy(), output[rows].numpy())


def zeros_of(program: Program) -> float:
    """Return the share of zeros in all weight matrices."""
    values, weights = values_of(program), prunable(program)
    kept = sum(int(item.matrix(values[item.name].detach()).count_nonzero()) for item in weights)
    return 1 - kept / sum(item.size for item in weights)


def run_seed(name: str, seed: int, given: argparse.Namespace) -> list[Row]:
    """Train one model densely, and make it sparse in every way."""
    data, model, task = case(name, seed, given)
    program, trainer = captured(model, data), Trainer(data.hide("test"), task)
    rows: list[Row] = []
    dense_flops = 0

    def add(method: str, sparsity: float, done: Program, flops: TrainingFlops, begun: float) -> None:
        found = score(done, data, task.metric), trainer.evaluate(done)
        seconds = time.perf_counter() - begun
        rows.append(Row(name, seed, method, sparsity, zeros_of(done), task.metric, *found, flops.total,
                        dense_flops or flops.total, flops.evaluation, flops.dense_gradients, seconds))  # fmt: skip
        print(f"  {name} {seed} {method:<9} {sparsity:.2f}: {found[0]:.4f}, {flops}", flush=True)

    begun, flops = time.perf_counter(), TrainingFlops()
    dense, _ = trainer.fit(program, seed=seed, regime=Counted(flops))
    add("dense", 0.0, dense, flops, begun)
    dense_flops = flops.total
    begun, first = time.perf_counter(), TrainingFlops()
    ready, _ = trainer.fit(program, seed=seed, epochs=dense_epochs(given.epochs), regime=Counted(first))
    ready_seconds = time.perf_counter() - begun
    for method in given.methods:
        for sparsity in given.sparsities:
            recipe = recipe_of(method, sparsity, given.epochs, seed)
            from_scratch = recipe.start == "scratch"
            flops = TrainingFlops() if from_scratch else replace(first)
            begun = time.perf_counter() - (0 if from_scratch else ready_seconds)
            done = sparsify(program if from_scratch else ready, trainer, recipe, lambda line: None, flops)
            add(method, sparsity, done, flops, begun)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Give mean and spread over the seeds."""
    heads = ("data", "method", "sparsity", "metric", "test", "drop in points", "GFLOP of training", "of dense", "seeds")
    dense = {(row.data, row.seed): row.test for row in rows if row.method == "dense"}
    cells = []
    for key in dict.fromkeys((row.data, row.method, row.sparsity) for row in rows):
        of = [row for row in rows if (row.data, row.method, row.sparsity) == key]
        drops = [100 * (dense[row.data, row.seed] - row.test) for row in of]
        flops = statistics.mean(row.flops for row in of)
        share = flops / statistics.mean(row.dense_flops for row in of)
        cells.append([key[0], key[1], f"{key[2]:.2f}", of[0].metric, spread([100 * row.test for row in of]),
                      spread(drops), f"{flops / 1e9:,.2f}", f"{share:.3f}", str(len(of))])  # fmt: skip
    return markdown(heads, cells)


def main() -> None:
    """Run all data sets, methods and sparsities asked for, print a table, and write it as JSON."""
    parser = options((__doc__ or "").splitlines()[0], quick=True)
    parser.add_argument("--data", nargs="+", default=["cora", "amazon_computers", "github_social", *PAIRS])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--sparsities", nargs="+", type=float, default=list(SPARSITIES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=300, help="of each method, in all")
    parser.add_argument("--hidden", type=int, default=HIDDEN)
    parser.add_argument("--pairs", type=int, default=MOST_PAIRS, help="links of each split at most")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.epochs, given.hidden, given.pairs, given.sparsities = 1, 8, 8, 500, [0.9]
        given.data = given.data[:1]
    torch.set_num_threads(given.threads)
    rows: list[Row] = []
    for name in given.data:
        for seed in range(given.seeds):
            rows += run_seed(name, seed, given)
    print(table(rows))
    save({"rows": [asdict(row) for row in rows]}, "sparse_training", given)


if __name__ == "__main__":
    main()
