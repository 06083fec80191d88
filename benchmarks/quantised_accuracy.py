"""What few bits cost in accuracy: A²Q on real graphs, over seeds, against float32 models selected in the same way.

    python -m benchmarks.quantised_accuracy --data cora coauthor_cs --models GCN GAT --seeds 10

Each model is trained in float32 by several recipes, of which the one with the best mean validation accuracy is the
baseline; each seed's model of that recipe is then quantised in every way. Epochs and states are selected on validation
nodes, accuracy is reported on test nodes. Bits are those of hidden feature maps as stored, 1 to 8 to a number; `bytes`
counts what is stored of these maps with steps, widths and anchors.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.bit_trials import FloatRecipe, Row, Trained, accuracy, best_recipe, fit, quantise, table
from benchmarks.figures import options, save
from benchmarks.real_data import require
from benchmarks.training import build_model
from gnnexport.frontends.data import load_data
from gnnexport.passes.a2q import A2Q
from gnnexport.program.data import GraphData
from gnnexport.training.quantisation.widths import average_bits
from gnnexport.training.task import Task

MODELS: dict[str, dict[str, Any]] = {
    "GCN": {"hidden": 16},
    "GAT": {"hidden": 64, "heads": 8},
    "GIN": {"hidden": 16},
}
"""Two layers each; widths as in the literature on these sets."""

RECIPES: tuple[FloatRecipe, ...] = (
    {"weight_decay": 5e-4, "dropout": 0.5},
    {"weight_decay": 5e-3, "dropout": 0.5},
    {"weight_decay": 2e-2, "dropout": 0.35},
)
"""Of float32 training, from which validation picks."""

WAYS: dict[str, dict[str, Any]] = {
    "a2q": {},
    "a2q, distilled": {"distil": 0.5},
    "task gradient": {"gradient": "task"},
    "bits by degree": {"widths": "degree"},
}


def train(name: str, data: GraphData, recipe: FloatRecipe, seed: int, epochs: int) -> Trained:
    """Train one model in float32."""
    given = {**MODELS[name], "dropout": recipe["dropout"]}
    model = build_model(name, data, layers=2, seed=seed, **given)
    return fit(model, data, Task(weight_decay=recipe["weight_decay"], epochs=epochs, patience=100), seed)


def run_model(name: str, graph: str, data: GraphData, given: argparse.Namespace) -> list[Row]:
    """Train and quantise one kind of model on one graph."""
    rows = []

    def trained_by(recipe: FloatRecipe, seed: int) -> Trained:
        return train(name, data, recipe, seed, given.epochs)

    for seed, trained in enumerate(best_recipe(name, RECIPES, trained_by, given.seeds)):
        before = accuracy(trained.program, data, "test")
        for way in given.ways:
            program, seconds = quantise(trained, data, A2Q(**{"bits": given.bits, **WAYS[way]}), seed)
            program.annotate()
            bits, true_bits = average_bits(program)
            after, validation = accuracy(program, data, "test"), accuracy(program, data, "val")
            rows.append(Row(graph, name, seed, way, before, after, validation, bits, true_bits, seconds))
            print(rows[-1].line(), flush=True)
    return rows


def main() -> None:
    """Run all graphs, models and ways asked for, print a table, and write it as JSON."""
    parser = options((__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["cora", "coauthor_cs"])
    parser.add_argument("--models", nargs="+", default=["GCN", "GAT"], choices=list(MODELS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--bits", type=float, default=1.5, help="target average")
    parser.add_argument("--epochs", type=int, default=300)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows: list[Row] = []
    for graph in given.data:
        data, _ = load_data(require(graph))
        for name in given.models:
            rows += run_model(name, graph, data, given)
    print(table(rows))
    save({"rows": [asdict(row) for row in rows]}, "quantised_accuracy", given)


if __name__ == "__main__":
    main()
