"""How many edges and weights a model can do without at once, for a point of accuracy.

    python -m benchmarks.joint_sparsity --data cora amazon_computers coauthor_cs --models GCN --seeds 5

Each model is trained densely, then loses edges and trains on, then loses weights and trains on. The baseline is the
dense model trained for as many epochs in all, on labels alone, while the pruned ones learn from its answers, too
(`--distil 0` leaves that out). Accuracy is that of the pruned graph with the pruned weights. Epochs are
selected on validation nodes, and so is, for each set, the setting that leaves least of both within the drop allowed;
accuracy is reported on test nodes.
"""

from __future__ import annotations

import argparse
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
from gnnexport.training.task import Task

EDGES = (0.25, 0.5, 0.75)
WEIGHTS = (0.75, 0.9, 0.95)


@dataclass(frozen=True)
class Row:
    """One model of one seed without some edges and weights.

    Args:
        edges: share asked for of the edges between different nodes.
        weights: share asked for of the entries of weight matrices.
        zeros: share of these that are zero.
        baseline: test accuracy of the dense model on all edges.
        test: of the pruned model on the edges that are left.
        baseline_validation: of the dense model.
        validation: of the pruned one.
    """

    data: str
    model: str
    seed: int
    edges: float
    weights: float
    zeros: float
    baseline: float
    test: float
    baseline_validation: float
    validation: float

    def line(self) -> str:
        """Return what is printed when it is done."""
        found = f"{self.baseline:.4f} -> {self.test:.4f}, validation {self.validation:.4f}"
        return f"  {self.seed} without {self.edges:.0%} of the edges, {self.weights:.0%} of the weights: {found}"


def run_seed(graph: str, name: str, data: GraphData, given: argparse.Namespace, seed: int) -> list[Row]:
    """Train one model, and take edges and weights from it in every combination."""
    task = Task(weight_decay=given.weight_decay, epochs=given.epochs, patience=given.epochs)
    trained = fit(build(name, data, seed), data, task, seed)
    longer, history = trained.trainer.fit(trained.program, seed=seed, epochs=2 * given.epochs)
    baseline = accuracy(longer, data, "test")
    ctx = PassContext(data.hide("test"), trained.trainer, seed)
    rows = []
    for edges in given.edges:
        sparse = SparsifyEdges(edges, distil=given.distil).run(trained.program, ctx) if edges else trained.program
        for weights in given.weights:
            done = SparsifyWeights(sparsity=weights, distil=given.distil).run(sparse, ctx)
            found = accuracy(done, data, "test"), history.best, accuracy(done, data, "val")
            rows.append(Row(graph, name, seed, edges, weights, zeros_of(done), baseline, *found))
            print(rows[-1].line(), flush=True)
    return rows


def summary(rows: Sequence[Row], allowed: float) -> str:
    """Give mean and spread over the seeds of each setting, and mark the one that validation chooses for each model."""
    heads = ("data", "model", "edges gone", "weights gone", "dense", "test", "drop in points", "on validation",
             "chosen", "seeds")  # fmt: skip
    cells = []
    for case in dict.fromkeys((row.data, row.model) for row in rows):
        of_case = [row for row in rows if (row.data, row.model) == case]
        settings = list(dict.fromkeys((row.edges, row.weights) for row in of_case))
        drops = {setting: _drops(of_case, setting) for setting in settings}
        fitting = [item for item in settings if statistics.mean(drops[item][1]) <= allowed]
        chosen = min(fitting, key=lambda item: (1 - item[0]) * (1 - item[1]), default=None)
        for setting in settings:
            of = [row for row in of_case if (row.edges, row.weights) == setting]
            cells.append([
                *case, f"{setting[0]:.0%}", f"{setting[1]:.0%}", spread([100 * row.baseline for row in of]),
                spread([100 * row.test for row in of]), *(spread(item) for item in drops[setting]),
                "chosen" if setting == chosen else "", str(len(of)),
            ])  # fmt: skip
    return markdown(heads, cells)


def _drops(rows: Sequence[Row], setting: tuple[float, float]) -> tuple[list[float], list[float]]:
    """Return the drops in points of all seeds, on test and on validation nodes."""
    of = [row for row in rows if (row.edges, row.weights) == setting]
    on_test = [100 * (row.baseline - row.test) for row in of]
    return on_test, [100 * (row.baseline_validation - row.validation) for row in of]


def main() -> None:
    """Run all graphs and models asked for, print a table, and write it as JSON."""
    parser = options((__doc__ or "").splitlines()[0], quick=True)
    parser.add_argument("--data", nargs="+", default=["cora", "amazon_computers", "coauthor_cs"])
    parser.add_argument("--models", nargs="+", default=["GCN"], choices=list(MODELS))
    parser.add_argument("--edges", nargs="+", type=float, default=list(EDGES), help="shares of edges that go")
    parser.add_argument("--weights", nargs="+", type=float, default=list(WEIGHTS), help="shares of weights that go")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=200, help="of dense training, and of each training after it")
    parser.add_argument("--distil", type=float, default=0.5, help="of the training after pruning")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--max-drop", type=float, default=1.0, help="points that the chosen setting may cost")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.quick:
        given.seeds, given.epochs, given.edges, given.weights, given.data = 1, 3, [0.5], [0.9], ["made up"]
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
