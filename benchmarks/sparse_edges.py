"""What fewer edges cost in accuracy: models on the pruned graph itself, before and after training on it.

    python -m benchmarks.sparse_edges --data cora amazon_computers --models GCN GAT --seeds 5

Each model is trained on all edges, and then on for as many epochs again: that is the baseline, so that all figures are
of equal epochs. The first model loses edges by each method, and is judged on what is left: at once, and after those
epochs on what is left. Next to it stands the published protocol: as many epochs on edges that are chosen anew in each,
evaluated on all edges, by which the epoch is selected, too. With all edges between different nodes gone (`sparsity` 1)
an honest figure is that of a model without a graph: `without a graph` is the same model that never had those edges,
trained for all of the epochs (weights that a GCN gives to edges of nodes to themselves stay those of the whole graph).

Epochs are selected on validation nodes, accuracy is reported on test nodes. The share of edges that is gone is over all
layers, edges of nodes to themselves left out; `of all` counts them in.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch_geometric.nn import APPNP, GCN2Conv, SGConv

from benchmarks.bit_trials import Trained, accuracy, fit, program_of
from benchmarks.figures import markdown, options, save, spread
from benchmarks.real_data import require
from benchmarks.training import build_model
from gnnexport.frontends.data import load_data
from gnnexport.passes.contract import PassContext
from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.program.cost import measure_cost
from gnnexport.program.data import GraphData, Split
from gnnexport.program.edge_layers import find_layers
from gnnexport.program.edge_sets import kept
from gnnexport.program.program import Program
from gnnexport.training.edges.choosing import Method, Plan
from gnnexport.training.edges.published import fit_published
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer

SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)
"""Of the edges that go; the last one is the control."""

MODELS: Mapping[str, Mapping[str, Any]] = {
    "GCN": {"hidden": 64},
    "GAT": {"hidden": 64, "heads": 8},
    "GATv2": {"hidden": 64, "heads": 8, "v2": True},
    "GraphSAGE": {"hidden": 64},
    "GIN": {"hidden": 64},
    "GCNII": {"hidden": 64},
    "SGC": {},
    "APPNP": {"hidden": 64},
}
"""Two layers each, but for eight of GCNII; the last two propagate without weights in between."""

LAYERS = 8
"""Of GCNII, and hops of APPNP."""

HOPS = 2
"""Of SGC."""


class Deep(nn.Module):
    """GCNII between two linear layers."""

    def __init__(self, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, hidden), nn.Linear(hidden, classes)
        self.convs = nn.ModuleList(GCN2Conv(hidden, 0.1, 0.5, layer + 1) for layer in range(LAYERS))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Add the first layer's rows to each."""
        h = start = self.first(self.dropout(x)).relu()
        for conv in self.convs:
            h = conv(self.dropout(h), start, edge_index).relu()
        out: Tensor = self.last(self.dropout(h))
        return out


class Decoupled(nn.Module):
    """Propagation without weights: of features, or of what an MLP answers."""

    def __init__(self, width: int, hidden: int | None, classes: int) -> None:
        super().__init__()
        self.simple = hidden is None
        self.mlp = nn.Identity() if hidden is None else _mlp(width, hidden, classes)
        self.propagate: nn.Module = SGConv(width, classes, HOPS) if hidden is None else APPNP(LAYERS, 0.1)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Answer for each node."""
        out: Tensor = self.propagate(self.mlp(x), edge_index)
        return out


def _mlp(width: int, hidden: int, classes: int) -> nn.Module:
    layers = nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, classes)
    return nn.Sequential(nn.Dropout(0.5), *layers)


@dataclass(frozen=True)
class Row:
    """One model of one seed on the edges that one method leaves.

    Args:
        sparsity: asked for.
        gone: of the edges that layers sum over, edges of nodes to themselves counted in.
        baseline: test accuracy with all edges, after as many epochs.
        frozen: on the edges left, with the weights as they were.
        tuned: after training on them.
        validation: of that.
        published: by the published protocol, trained and selected with the edges put back for evaluation.
        graphless: of the same model without edges between different nodes from the start, after all epochs.
        macs_aggregation: that are left of those with all edges.
        seconds: that the pass took, training included.
    """

    data: str
    model: str
    seed: int
    method: str
    sparsity: float
    gone: float
    baseline: float
    frozen: float
    tuned: float
    validation: float
    published: float
    graphless: float
    macs_aggregation: float
    seconds: float

    def line(self) -> str:
        """Return what is printed when it is done."""
        found = f"{self.baseline:.4f} -> {self.frozen:.4f}, trained {self.tuned:.4f}, published {self.published:.4f}, "
        found += f"without a graph {self.graphless:.4f}"
        return f"  {self.seed} {self.method:<20} {self.sparsity:>4.0%}  {found}, {self.seconds:.0f} s"


def build(name: str, data: GraphData, seed: int) -> nn.Module:
    """Make an untrained model."""
    assert data.y is not None
    width, classes = data.inputs["x"].shape[1], int(data.y.max()) + 1
    given = dict(MODELS[name])
    if name in ("GCNII", "SGC", "APPNP"):
        torch.manual_seed(seed)
        hidden = given.get("hidden")
        made = Deep(width, int(hidden or 0), classes) if name == "GCNII" else Decoupled(width, hidden, classes)
        return made.eval()
    return build_model("GAT" if name == "GATv2" else name, data, layers=2, seed=seed, **given)


def run_seed(name: str, graph: str, data: GraphData, given: argparse.Namespace, seed: int) -> list[Row]:
    """Train one model and take edges from it in every way."""
    task = Task(weight_decay=given.weight_decay, epochs=given.epochs, patience=given.epochs)
    trained = fit(build(name, data, seed), data, task, seed)
    longer, _ = trained.trainer.fit(trained.program, seed=seed, epochs=given.epochs)
    accuracies = accuracy(longer, data, "test"), without_graph(build(name, data, seed), data, trained.trainer, seed)
    rows = []
    for method in given.methods:
        for share in given.sparsity:
            rows.append(_row(trained, method, share, given, data, (graph, name, seed), accuracies))
            print(rows[-1].line(), flush=True)
    return rows


def without_graph(model: nn.Module, data: GraphData, trainer: Trainer, seed: int) -> float:
    """Return the test accuracy of a model that is trained, twice the epochs, without edges between different nodes."""
    ctx = PassContext(data.hide("test"), trainer, seed)
    program = SparsifyEdges(1.0, method="random", schedule="equal", retrain=False).run(program_of(model, data), ctx)
    for _ in range(2):
        program, _ = trainer.fit(program, seed=seed)
    return accuracy(program, data, "test")


def published(trained: Trained, item: SparsifyEdges, data: GraphData, seed: int) -> float:
    """Return the test accuracy by the published protocol, in as many epochs as the honest figure has."""
    program = trained.program.clone().train(False)
    program.annotate()
    plan = Plan(item.sparsity, None, item.method, item.schedule, seed)
    inputs = data.inputs
    fitted, _ = fit_published(
        trained.trainer, program, inputs, find_layers(program), plan, seed=seed, epochs=item.epochs
    )  # fmt: skip
    return accuracy(fitted, data, "test")


def _row(
    trained: Trained, method: Method, share: float, given: argparse.Namespace, data: GraphData,
    of: tuple[str, str, int], accuracies: tuple[float, float],
) -> Row:  # fmt: skip
    baseline, graphless = accuracies
    ctx = PassContext(data.hide("test"), trained.trainer, of[2])
    at_once = SparsifyEdges(share, method=method, schedule=given.schedule, retrain=False).run(trained.program, ctx)
    start = time.perf_counter()
    item = SparsifyEdges(share, method=method, schedule=given.schedule, rounds=given.rounds, epochs=given.epochs)
    tuned = item.run(trained.program, ctx)
    seconds = time.perf_counter() - start
    left, total = (sum(getattr(layer, what) + layer.loops for layer in kept(tuned)) for what in ("kept", "total"))
    return Row(
        *of, method, share, 1 - left / max(total, 1), baseline, accuracy(at_once, data, "test"),
        accuracy(tuned, data, "test"), accuracy(tuned, data, "val"), published(trained, item, data, of[2]), graphless,
        _macs(tuned, data) / _macs(trained.program, data), seconds,
    )  # fmt: skip


def _macs(program: Program, data: GraphData) -> int:
    return measure_cost(program, data.inputs).macs("aggregation")


HEADS = ("data", "model", "method", "edges gone", "of all", "all edges", "at once", "trained", "drop in points",
         "published protocol", "without a graph", "seeds")  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Give mean and spread over the seeds."""
    cells = []
    for key in dict.fromkeys((row.data, row.model, row.method, row.sparsity) for row in rows):
        of = [row for row in rows if (row.data, row.model, row.method, row.sparsity) == key]
        drops = [100 * (row.baseline - row.tuned) for row in of]
        cells.append([
            *key[:3], f"{key[3]:.0%}", f"{statistics.mean(row.gone for row in of):.0%}",
            *(spread([100 * getattr(row, name) for row in of]) for name in ("baseline", "frozen", "tuned")),
            spread(drops), spread([100 * row.published for row in of]),
            spread([100 * row.graphless for row in of]), str(len(of)),
        ])  # fmt: skip
    return markdown(HEADS, cells)


def made_up() -> GraphData:
    """Return a small graph whose neighbours tell more than a node's own features."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 3
    x = torch.randn(120, 8, generator=generator)
    x[torch.arange(120), y] += 1
    source = torch.randint(0, 120, (600,), generator=generator)
    destination = (source + 3 * torch.randint(1, 40, (600,), generator=generator)) % 120
    part = torch.arange(120) // 3 % 3
    masks: dict[Split, Tensor] = {"train": part == 0, "val": part == 1, "test": part == 2}
    return GraphData("made up", {"x": x, "edge_index": torch.stack([source, destination])}, y, masks)


def main() -> None:
    """Run all graphs, models and methods asked for, print a table, and write it as JSON."""
    parser = options((__doc__ or "").splitlines()[0], quick=True)
    parser.add_argument("--data", nargs="+", default=["cora", "amazon_computers"])
    parser.add_argument("--models", nargs="+", default=["GCN", "GAT"], choices=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=["norm"], choices=list(get_args(Method)))
    parser.add_argument("--sparsity", nargs="+", type=float, default=list(SHARES), help="shares of edges that go")
    parser.add_argument("--schedule", default="rising", choices=["rising", "equal"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=200, help="on all edges, and again on those that are left")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.quick:
        given.seeds, given.epochs, given.sparsity, given.data = 1, 3, [0.5, 1.0], ["made up"]
    rows: list[Row] = []
    for graph in given.data:
        data = made_up() if given.quick else load_data(require(graph))[0]
        for name in given.models:
            print(f"{graph}, {name}")
            for seed in range(given.seeds):
                rows += run_seed(name, graph, data, given, seed)
    print(table(rows))
    save({"rows": [asdict(row) for row in rows]}, "sparse_edges", given)


if __name__ == "__main__":
    main()
