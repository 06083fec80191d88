"""What fewer bits cost in accuracy: float32 models by the recipe that validation likes best, quantised, as a table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.figures import markdown, spread
from gnnexport.frontends.signature import match_inputs
from gnnexport.passes.contract import Pass, PassContext
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData, Split
from gnnexport.program.inputs import Mode
from gnnexport.program.program import Program, example_inputs
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer

FLOAT_BITS = 32

FloatRecipe = dict[str, float]
"""Settings of float32 training, of which validation picks one."""


@dataclass(frozen=True)
class Row:
    """One model of one seed, quantised in one way.

    Args:
        bits: mean over hidden maps of the mean over rows.
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

    def line(self) -> str:
        """Return what is printed when it is done."""
        change = f"{self.float32:.4f} -> {self.accuracy:.4f} at {self.bits:.2f} bits"
        return f"  {self.seed} {self.way:<16} {change}, validation {self.validation:.4f}, {self.seconds:.0f} s"


@dataclass(frozen=True)
class Trained:
    """A float32 model of one seed and one recipe."""

    program: Program
    trainer: Trainer
    validation: float


def fit(model: nn.Module, data: GraphData, task: Task, seed: int, memory_bytes: int | None = None) -> Trained:
    """Train one model in float32, selecting its epoch on validation rows; a step takes no more memory than told."""
    trainer = Trainer(data.hide("test"), task, memory_bytes=memory_bytes)
    program, history = trainer.fit(program_of(model, data), seed=seed)
    return Trained(program, trainer, history.best)


def program_of(model: nn.Module, data: GraphData) -> Program:
    """Capture a model as it is."""
    inputs = match_inputs(model, data)
    return run_passes(capture(model, inputs, example_inputs(inputs)), CANONICAL, PassContext(data=data)).program


def best_recipe(
    label: str, recipes: Sequence[FloatRecipe], train: Callable[[FloatRecipe, int], Trained], seeds: int
) -> list[Trained]:
    """Return the models of all seeds by the recipe that validation likes best."""
    found = []
    for recipe in recipes:
        found.append([train(recipe, seed) for seed in range(seeds)])
        print(f"  {label} float32 {recipe}: validation {_mean_validation(found[-1]):.4f}", flush=True)
    return max(found, key=_mean_validation)


def _mean_validation(models: Sequence[Trained]) -> float:
    return statistics.mean(item.validation for item in models)


def quantise(trained: Trained, data: GraphData, item: Pass, seed: int, mode: Mode = "full") -> tuple[Program, float]:
    """Quantise one model; tell how long it took."""
    start = time.perf_counter()
    ctx = PassContext(data.hide("test"), trained.trainer, seed, mode)
    program = item.run(trained.program, ctx)
    return program, time.perf_counter() - start


def accuracy(program: Program, data: GraphData, split: Split) -> float:
    """Return the share of the rows of a split that are classified rightly."""
    assert data.y is not None
    with torch.no_grad():
        answers = program.clone().train(False)(data.inputs).argmax(1)
    rows = data.masks[split] & (data.y >= 0)
    return float((answers == data.y)[rows].float().mean())


def table(rows: Sequence[Row]) -> str:
    """Give mean and spread over the seeds."""
    heads = ("data", "model", "way", "float32", "accuracy", "drop in points", "bits", "ratio", "true bits",
             "true ratio", "seeds")  # fmt: skip
    cells = []
    for key in dict.fromkeys((row.data, row.model, row.way) for row in rows):
        of = [row for row in rows if (row.data, row.model, row.way) == key]
        bits, true_bits = (statistics.mean(getattr(row, what) for row in of) for what in ("bits", "true_bits"))
        cells.append([
            *key, spread([100 * row.float32 for row in of]), spread([100 * row.accuracy for row in of]),
            spread([100 * row.drop for row in of]), spread([row.bits for row in of]), f"{FLOAT_BITS / bits:.1f}",
            f"{true_bits:.2f}", f"{FLOAT_BITS / true_bits:.1f}", str(len(of)),
        ])  # fmt: skip
    return markdown(heads, cells)
