"""How many edges and weights a model can do without at once, for a point of accuracy.

    python -m benchmarks.joint_sparsity --data cora amazon_computers github_social --models GCN --seeds 5

Each model is trained densely, then loses edges and trains on, then loses weights and trains on: on labels alone
(`--distil 0`), or on the answers that the model gave before for all nodes of the graph (`--distil 1`). The baseline is
the dense model trained for as many epochs in all, on labels alone; next to it stands the dense model that learned from
its own answers for as many, as that alone makes some models better. Accuracy is that of the pruned graph with the
pruned weights. Epochs are selected on validation nodes, and so is, for each set, the setting that leaves least of both
within the drop allowed; accuracy is reported on test nodes.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from benchmarks.bit_trials import accuracy, fit
from benchmarks.figures import markdown, options, save, spread
from benchmarks.real_data import require
from benchmarks.sparse_edges import MODELS, build, made_up
from benchmarks.sparse_training import zeros_of
from gnnexport.frontends.data import load_data
from gnnexport.passes.contract import PassContext
from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.passes.sparsify_weights import SparsifyWeights
from gnnexport.program.data import GraphData
from gnnexport.training.edges.choosing import Method
from gnnexport.training.task import Task

EDGES = (0.25, 0.5, 0.75, 1.0)
"""Shares of edges that go; with the last one a model has no graph left, which an honest figure shows."""

WEIGHTS = (0.9, 0.95)
METHODS: tuple[Method, ...] = ("norm", "top-k", "agreement")
DISTIL = (0.0, 1.0)


@dataclass(frozen=True)
class Row:
    """One model of one seed without some edges and weights.

    Args:
        method: that chose the edges.
        distil: share of the loss that is the divergence from the answers of the model before.
        edges: share asked for of the edges between different nodes.
        weights: share asked for of the entries of weight matrices.
        zeros: share of these that are zero.
        baseline: test accuracy of the dense model on all edges.
        distilled: of the one that learned from its own answers.
        test: of the pruned model on the edges that are left.
        baseline_validation: of the dense model.
        validation: of the pruned one.
    """

    data: str
    model: str
    seed: int
    method: Method
    distil: float
    edges: float
    weights: float
    zeros: float
    baseline: float
    distilled: float
    test: float
    baseline_validation: float
    validation: float

    def line(self) -> str:
        """Return what is printed when it is done."""
        found = f"{self.baseline:.4f} -> {self.test:.4f}, validation {self.validation:.4f}"
        gone = f"without {self.edges:.0%} of the edges, {self.weights:.0%} of the weights"
        return f"  {self.seed} {self.method}, distil {self.distil:g}, {gone}: {found}"


def run_seed(graph: str, name: str, data: GraphData, given: argparse.Namespace, seed: int) -> list[Row]:
    """Train one model, and take edges and weights from it in every combination."""
    task = Task(weight_decay=given.weight_decay, epochs=given.epochs, patience=given.epochs)
    trained = fit(build(name, data, seed), data, task, seed)
    longer, history = trained.trainer.fit(trained.program, seed=seed, epochs=2 * given.epochs)
    ctx = PassContext(data.hide("test"), trained.trainer, seed)
    taught, _ = trained.trainer.fit(
        trained.program, seed=seed, epochs=2 * given.epochs, teacher=trained.program, distil=1.0, everywhere=True
    )
    dense = accuracy(longer, data, "test"), accuracy(taught, data, "test")
    rows = []
    for method, distil, edges in itertools.product(given.methods, given.distil, given.edges):
        item = SparsifyEdges(edges, method=method, distil=distil) if edges else None
        sparse = trained.program if item is None else item.run(trained.program, ctx)
        for weights in given.weights:
            done = SparsifyWeights(sparsity=weights, distil=distil).run(sparse, ctx)
            found = accuracy(done, data, "test"), history.best, accuracy(done, data, "val")
            rows.append(Row(graph, name, seed, method, distil, edges, weights, zeros_of(done), *dense, *found))
            print(rows[-1].line(), flush=True)
    return rows


Setting = tuple[Method, float, float, float]
"""Method, share of distillation, and shares of edges and of weights that went."""


def summary(rows: Sequence[Row], allowed: float) -> str:
    """Give mean and spread over the seeds of each setting, and mark the one that validation chooses for each model."""
    heads = ("data", "model", "edges by", "distil", "edges gone", "weights gone", "dense", "dense, distilled", "test",
             "drop in points", "on validation", "chosen", "seeds")  # fmt: skip
    cells = []
    for case in dict.fromkeys((row.data, row.model) for row in rows):
        settings: dict[Setting, list[Row]] = {}
        for row in rows:
            if (row.data, row.model) == case:
                settings.setdefault((row.method, row.distil, row.edges, row.weights), []).append(row)
        drops = {key: [100 * (row.baseline_validation - row.validation) for row in of] for key, of in settings.items()}
        fitting = [key for key in settings if key[2] < 1 and statistics.mean(drops[key]) <= allowed]
        chosen = min(fitting, key=lambda key: ((1 - key[2]) * (1 - key[3]), statistics.mean(drops[key])), default=None)
        for key, of in settings.items():
            tests = (spread([100 * getattr(row, what) for row in of]) for what in ("baseline", "distilled", "test"))
            cells.append([
                *case, key[0], f"{key[1]:g}", f"{key[2]:.0%}", f"{key[3]:.0%}", *tests,
                spread([100 * (row.baseline - row.test) for row in of]), spread(drops[key]),
                "chosen" if key == chosen else "", str(len(of)),
            ])  # fmt: skip
    return markdown(heads, cells)


def main() -> None:
    """Run all graphs and models asked for, print a table, and write it as JSON."""
    parser = options((__doc__ or "").splitlines()[0], quick=True)
    parser.add_argument("--data", nargs="+", default=["cora", "amazon_computers", "github_social"])
    parser.add_argument("--models", nargs="+", default=["GCN"], choices=list(MODELS))
    parser.add_argument("--edges", nargs="+", type=float, default=list(EDGES), help="shares of edges that go")
    parser.add_argument("--weights", nargs="+", type=float, default=list(WEIGHTS), help="shares of weights that go")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=200, help="of dense training, and of each training after it")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), help="that choose edges")
    parser.add_argument("--distil", nargs="+", type=float, default=list(DISTIL), help="of the training after pruning")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--max-drop", type=float, default=1.0, help="points that the chosen setting may cost")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.quick:
        given.seeds, given.epochs, given.edges, given.weights, given.data = 1, 3, [0.5], [0.9], ["made up"]
        given.methods, given.distil = ["norm"], [1.0]
    rows: list[Row] = []
    for graph in given.data:
        data = made_up() if given.quick else load_data(require(graph))[0]
        for name in given.models:
            print(f"{graph}, {name}")
            for seed in range(given.seeds):
                rows += run_seed(graph, name, data, given, seed)
    print(summary(rows, given.max_drop))
    save({"rows": [asdict(row) for row in rows]}, "joint_sparsity", given)


if __name__ == "__main__":
    main()
