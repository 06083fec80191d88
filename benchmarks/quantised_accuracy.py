"""What few bits cost in accuracy: A²Q on real graphs, over seeds, against float32 models selected in the same way.

    python -m benchmarks.quantised_accuracy --data cora coauthor_cs --models GCN GAT --seeds 10

Each model is trained in float32 by several recipes, of which the one with the best mean validation accuracy is the
baseline; each seed's model of that recipe is then quantised in every way. Epochs and states are selected on validation
nodes, accuracy is reported on test nodes. Bits are those of hidden feature maps as stored, 1 to 8 to a number; `bytes`
counts what is stored of these maps with steps, widths and anchors.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.figures import markdown, options, save
from benchmarks.real_data import require
from benchmarks.training import build_model
from gnnexport.frontends.data import load_data
from gnnexport.frontends.signature import match_inputs
from gnnexport.passes.a2q import A2Q
from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData, Split
from gnnexport.program.program import Program, example_inputs
from gnnexport.training.quantisation.widths import average_bits
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer

FLOAT_BITS = 32
MODELS: dict[str, dict[str, Any]] = {
    "GCN": {"hidden": 16},
    "GAT": {"hidden": 64, "heads": 8},
    "GIN": {"hidden": 16},
}
"""Two layers each; widths as in the literature on these sets."""

RECIPES: tuple[dict[str, float], ...] = (
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


@dataclass(frozen=True)
class Row:
    """One model of one seed, quantised in one way.

    Args:
        bits: mean over hidden maps of the mean over nodes.
        true_bits: stored bytes of these maps, with all that belongs to them, over their numbers.
    """

    data: str
    model: str
    seed: int
    way: str
    float32: float
    accuracy: float
    validation: float
    bits: float
    true_bits: float
    seconds: float

    @property
    def drop(self) -> float:
        """How much worse than in float32."""
        return self.float32 - self.accuracy


def accuracy(program: Program, data: GraphData, split: Split) -> float:
    """Return the share of nodes of a split that are classified rightly."""
    assert data.y is not None
    with torch.no_grad():
        answers = program.clone().train(False)(data.inputs).argmax(1)
    rows = data.masks[split] & (data.y >= 0)
    return float((answers == data.y)[rows].float().mean())


@dataclass(frozen=True)
class Trained:
    """A float32 model of one seed and one recipe."""

    program: Program
    trainer: Trainer
    validation: float


def train(name: str, data: GraphData, recipe: dict[str, float], seed: int, epochs: int) -> Trained:
    """Train one model in float32."""
    given = {**MODELS[name], "dropout": recipe["dropout"]}
    model = build_model(name, data, layers=2, seed=seed, **given)
    inputs = match_inputs(model, data)
    program = run_passes(capture(model, inputs, example_inputs(inputs)), CANONICAL, PassContext(data=data)).program
    task = Task(weight_decay=recipe["weight_decay"], epochs=epochs, patience=100)
    trainer = Trainer(data.hide("test"), task)
    program, history = trainer.fit(program, seed=seed)
    return Trained(program, trainer, history.best)


def best_recipe(name: str, data: GraphData, given: argparse.Namespace) -> list[Trained]:
    """Return the models of all seeds by the recipe that validation likes best."""
    found = {}
    for place, recipe in enumerate(RECIPES):
        found[place] = [train(name, data, recipe, seed, given.epochs) for seed in range(given.seeds)]
        mean = statistics.mean(item.validation for item in found[place])
        print(f"  {name} float32 {recipe}: validation {mean:.4f}", flush=True)
    return max(found.values(), key=lambda models: statistics.mean(item.validation for item in models))


def quantise(trained: Trained, data: GraphData, way: dict[str, Any], seed: int) -> tuple[Program, float]:
    """Quantise one model; tell how long it took."""
    start = time.perf_counter()
    ctx = PassContext(data.hide("test"), trained.trainer, seed)
    program = A2Q(**way).run(trained.program, ctx)
    return program, time.perf_counter() - start


def run_model(name: str, graph: str, data: GraphData, given: argparse.Namespace) -> list[Row]:
    """Train and quantise one kind of model on one graph."""
    rows = []
    models = best_recipe(name, data, given)
    for seed, trained in enumerate(models):
        before = accuracy(trained.program, data, "test")
        for way in given.ways:
            program, seconds = quantise(trained, data, {"bits": given.bits, **WAYS[way]}, seed)
            program.annotate()
            bits, true_bits = average_bits(program)
            after, validation = accuracy(program, data, "test"), accuracy(program, data, "val")
            rows.append(Row(graph, name, seed, way, before, after, validation, bits, true_bits, seconds))
            print(f"  {seed} {way:<16} {before:.4f} -> {after:.4f} at {bits:.2f} bits, {seconds:.0f} s", flush=True)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Give mean and spread over the seeds."""
    heads = ("data", "model", "way", "float32", "accuracy", "drop in points", "bits", "ratio", "true bits",
             "true ratio", "seeds")  # fmt: skip
    cells = []
    for key in dict.fromkeys((row.data, row.model, row.way) for row in rows):
        of = [row for row in rows if (row.data, row.model, row.way) == key]
        bits, true_bits = (statistics.mean(getattr(row, what) for row in of) for what in ("bits", "true_bits"))
        cells.append([
            *key, _spread([100 * row.float32 for row in of]), _spread([100 * row.accuracy for row in of]),
            _spread([100 * row.drop for row in of]), _spread([row.bits for row in of]), f"{FLOAT_BITS / bits:.1f}",
            f"{true_bits:.2f}", f"{FLOAT_BITS / true_bits:.1f}", str(len(of)),
        ])  # fmt: skip
    return markdown(heads, cells)


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


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
