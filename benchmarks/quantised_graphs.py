"""What few bits cost on what a model meets for the first time: graphs of a set, and nodes added to a graph.

    python -m benchmarks.quantised_graphs --data tu_proteins tu_imdb_binary grids cora coauthor_cs --seeds 5

Rows of unknown nodes take the nearest of the groups of steps and widths that A²Q learned. A set of graphs is learned by
a GIN of three layers, each seed on a split of its own (of the TU sets, one of the published folds). Of one graph a half
of the test nodes is taken away in training, with all its edges; a GCN of two layers then answers for them on the whole
graph. Float32 models are trained by several recipes, of which the one with the best mean validation accuracy is the
baseline. Epochs, states and settings are selected on validation rows; accuracy and bits are those of what is new.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

import torch
from torch import nn
from torch_geometric.nn import GINConv, global_add_pool
from torch_geometric.nn import Sequential as Steps

from benchmarks import unseen
from benchmarks.bit_trials import FloatRecipe, Row, Trained, accuracy, best_recipe, fit, quantise, table
from benchmarks.figures import options, save
from benchmarks.real_data import find, require
from benchmarks.training import build_model
from benchmarks.unseen import Trial
from gnnexport.frontends.data import load_data
from gnnexport.passes.a2q import A2Q
from gnnexport.passes.contract import Pass
from gnnexport.passes.quantize import Quantize
from gnnexport.pipeline.bits import count_bits
from gnnexport.program.data import GraphData
from gnnexport.program.inputs import Mode
from gnnexport.program.program import Program
from gnnexport.training.task import Task

GRAPHS = ("cora", "coauthor_cs")
"""To which nodes are added; all others are sets of graphs."""

LAYERS, HIDDEN = 3, 32

STEP_BYTES = 64 << 20
"""That a step on graphs of a set may take, which makes mini-batches of them."""

RECIPES: dict[str, tuple[FloatRecipe, ...]] = {
    "GIN": ({"weight_decay": 0, "dropout": 0}, {"weight_decay": 5e-4, "dropout": 0.5}),
    "GCN": ({"weight_decay": 5e-4, "dropout": 0.5}, {"weight_decay": 5e-3, "dropout": 0.5}),
}
"""Of float32 training, from which validation picks."""

FLOAT_EPOCHS = {"GIN": 60, "GCN": 200}


def a2q(bits: float, epochs: int, groups: int = 1000) -> Pass:
    """Return the pass by the settings that validation liked best.

    Weights have 8 bits, which takes no more bytes in the file: of all operands those of a GIN with 4 bits cost most.
    """
    return A2Q(
        bits=bits, assign="nearest", groups=groups, start=math.ceil(bits), weight_bits=8, distil=0.5, lr=0.003,
        epochs=epochs,
    )  # fmt: skip


WAYS: dict[str, Callable[[float, int], Pass]] = {
    "a2q": a2q,
    "a2q, one group": lambda bits, epochs: a2q(bits, epochs, groups=1),
    "4 bits, trained": lambda bits, epochs: Quantize(bits=4, train=True, lr=0.003, epochs=3 * epochs // 2),
}
"""By the target average, and the epochs in which widths are learned; half as many follow."""

QUICK_GRAPHS = 20
"""Of each split, where only a look is taken."""


def gin(channels: int, classes: int, dropout: float, seed: int) -> nn.Module:
    """Return an untrained model: GIN layers, the sum over each graph, a linear layer."""
    torch.manual_seed(seed)
    layers = [(convolution(width), "x, edge_index -> x") for width in (channels, *[HIDDEN] * (LAYERS - 1))]
    readout = [(global_add_pool, "x, batch, num_graphs -> x"), nn.Dropout(dropout), nn.Linear(HIDDEN, classes)]
    model: nn.Module = Steps("x, edge_index, batch, num_graphs", [*layers, *readout])
    return model.eval()


def convolution(width: int) -> GINConv:
    """Return a GIN layer from `width` to `HIDDEN` channels."""
    inner = nn.Linear(width, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU()
    return GINConv(nn.Sequential(*inner, nn.Linear(HIDDEN, HIDDEN), nn.ReLU()))


def train(name: str, trials: Sequence[Trial], epochs: int | None, recipe: FloatRecipe, seed: int) -> Trained:
    """Train one model in float32 on what is known."""
    data = trials[seed].known
    if name == "GIN":
        model = gin(data.inputs["x"].shape[1], unseen.number_of_classes(trials), recipe["dropout"], seed)
    else:
        model = build_model(name, data, layers=2, hidden=16, seed=seed, dropout=recipe["dropout"])
    task = Task(weight_decay=recipe["weight_decay"], epochs=epochs or FLOAT_EPOCHS[name], patience=100)
    return fit(model, data, task, seed, STEP_BYTES if name == "GIN" else None)


def row_bits(program: Program, data: GraphData) -> tuple[float, float]:
    """Return the mean bits of hidden maps on some data, and the bits stored for a number with all that it takes."""
    found = count_bits(program, data.inputs)
    assert found is not None
    assert found.average_paper is not None
    hidden = [item for item in found.operands if item.kind == "input"]
    return found.average_paper, 8 * sum(item.size_bytes for item in hidden) / sum(item.count for item in hidden)


def run_trials(graphs: str, name: str, trials: Sequence[Trial], given: argparse.Namespace) -> list[Row]:
    """Train and quantise one kind of model on all trials of some data."""
    rows = []
    mode: Mode = "graphs" if name == "GIN" else "full"
    training = partial(train, name, trials, 2 * given.epochs if given.quick else None)
    for seed, trained in enumerate(best_recipe(f"{graphs} {name}", RECIPES[name], training, given.seeds)):
        known, asked = trials[seed].known, trials[seed].asked
        before = accuracy(trained.program, asked, "test")
        for way in given.ways:
            program, seconds = quantise(trained, known, WAYS[way](given.bits, given.epochs), seed, mode)
            after, validation = accuracy(program, asked, "test"), accuracy(program, known, "val")
            bits = row_bits(program, asked)
            rows.append(Row(graphs, name, seed, way, before, after, validation, *bits, seconds))
            print(rows[-1].line(), flush=True)
    return rows


def run(graphs: str, given: argparse.Namespace) -> list[Row]:
    """Train and quantise on one data set."""
    if graphs in GRAPHS:
        data, _ = load_data(require(graphs))
        return run_trials(graphs, "GCN", [unseen.new_nodes(data, seed) for seed in range(given.seeds)], given)
    most = QUICK_GRAPHS if given.quick else None
    return run_trials(graphs, "GIN", [unseen.new_graphs(graphs, seed, most) for seed in range(given.seeds)], given)


def main() -> None:
    """Run all data and ways asked for, print a table, and write it as JSON."""
    parser = options((__doc__ or "").splitlines()[0], quick=True)
    parser.add_argument("--data", nargs="+", default=["tu_proteins", "tu_imdb_binary", unseen.GRIDS, *GRAPHS])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--bits", type=float, default=3.65, help="target average")
    parser.add_argument("--epochs", type=int, default=30, help="in which widths are learned; half as many follow")
    given = parser.parse_args()
    if given.quick:
        given.data = [unseen.GRIDS, *(name for name in GRAPHS[:1] if find(name))]
        given.seeds, given.epochs = 1, 2
    torch.set_num_threads(given.threads)
    rows: list[Row] = []
    for graphs in given.data:
        rows += run(graphs, given)
    print(table(rows))
    save({"rows": [asdict(row) for row in rows]}, "quantised_graphs", given)


if __name__ == "__main__":
    main()
