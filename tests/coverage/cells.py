"""Run a recipe on a target in a mode, and say how it went."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from gnnexport.errors import GnnExportError, UnsupportedError
from gnnexport.frontends.signature import match_inputs
from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.inspection import slow_ops
from gnnexport.pipeline.steps import CANONICAL, finalise, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.inputs import Mode
from gnnexport.program.program import Program, example_inputs
from gnnexport.runtime.backend import Backend
from gnnexport.runtime.openvino import OpenVinoBackend
from gnnexport.runtime.ort import OrtBackend
from gnnexport.runtime.trt import open_onnx
from gnnexport.targets.contract import Artefact, EmitContext, Target
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.onnx.translate_graphs import translate_graphs
from gnnexport.targets.openvino import OpenVinoTarget
from gnnexport.targets.ort import OrtTarget
from gnnexport.targets.trt.target import TrtTarget
from tests.coverage.recipe import EDGE_WIDTH, RELATIONS, WIDTH, Recipe

TOLERANCE = 1e-4
TARGETS: dict[str, Target] = {
    "ort": OrtTarget(aggregate="ell", threads=1),
    "native": OrtTarget(aggregate="native", threads=1),
    "openvino": OpenVinoTarget(aggregate="ell", threads=1),
    "trt": TrtTarget(library="tensorrt_rtx"),
}
MODES: tuple[Mode, ...] = ("full", "graphs")
Outcome = Literal["exact", "slow", "refused", "wrong", "broken"]
BEST: tuple[Outcome, ...] = ("exact", "slow", "refused", "broken", "wrong")
"""From the best to the worst: an answer that is wrong is worse than none."""


@dataclass(frozen=True)
class Cell:
    """How a recipe went.

    Args:
        outcome: `exact`, within `TOLERANCE` of the largest output; `slow`, exact where some message passing was not
            recognised; `refused`, with an error meant for users; `wrong`; `broken`, another error.
        reason: why, unless exact.
    """

    outcome: Outcome
    reason: str = ""


def graph(recipe: Recipe, sizes: Sequence[int], seed: int) -> dict[str, Tensor]:
    """Make a batch of graphs with whatever the recipe reads; the last node of each has no edges, the first is a hub."""
    generator = torch.Generator().manual_seed(seed)
    parts, begin = [torch.zeros(2, 0, dtype=torch.int64)], 0
    for size in sizes:
        if recipe.edges is not None:
            parts.append(recipe.edges(size) + begin)
        elif size > 1:
            edges = torch.randint(0, size - 1, (2, 4 * size), generator=generator)
            edges[1, :size] = 0
            parts.append(edges + begin)
        begin += size
    edge_index = torch.cat(parts, 1)
    count = edge_index.shape[1]
    values = {
        "x": torch.randn(begin, WIDTH, generator=generator),
        "edge_index": edge_index,
        "edge_weight": torch.rand(count, generator=generator) + 0.1,
        "edge_attr": torch.rand(count, EDGE_WIDTH, generator=generator),
        "edge_type": torch.randint(0, RELATIONS, (count,), generator=generator),
        "batch": torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)),
        "num_graphs": torch.tensor(len(sizes)),
        "edge_label_index": torch.randint(0, begin, (2, 2 * begin + 1), generator=generator),
    }
    return {name: values[name] for name in recipe.inputs}


def error(model: nn.Module, request: Mapping[str, Tensor], answer: Tensor) -> float:
    """Return the largest difference from the model itself, over its largest output."""
    arguments = {name: int(value) if name == "num_graphs" else value for name, value in request.items()}
    with torch.no_grad():
        expected = model(**arguments)
    if expected.shape != answer.shape:
        return float("inf")
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    return float((answer - expected).abs().max()) / max(largest, 1e-12) if expected.numel() else 0.0


class Row:
    """One recipe: captured once, then lowered for each target and mode."""

    def __init__(self, recipe: Recipe) -> None:
        """Make the module with seeded weights."""
        torch.manual_seed(0)
        self.recipe = recipe
        self.model = recipe.make().eval()
        self._program: Program | None = None

    def program(self) -> Program:
        """Capture the module, on graphs that no cell is asked about."""
        if self._program is None:
            inputs = match_inputs(self.model, GraphData("data", graph(self.recipe, [12, 9], 1)))
            captured = capture(self.model, inputs, example_inputs(inputs))
            self._program = run_passes(captured, CANONICAL, PassContext()).program
        return self._program

    def cell(self, target: str, mode: Mode, folder: Path) -> Cell:
        """Lower for a target, run what was written, and compare with the module."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                worst = self._worst(TARGETS[target], mode, folder)
        except GnnExportError as problem:
            kind: Outcome = "refused" if isinstance(problem, UnsupportedError) else "broken"
            return Cell(kind, str(problem).splitlines()[0])
        except Exception as problem:
            return Cell(
                "broken", f"{type(problem).__name__}: {str(problem).strip().splitlines()[0] if str(problem) else ''}"
            )
        if not worst <= TOLERANCE:
            return Cell("wrong", f"off by {worst:.2g} of the largest output")
        slow = slow_ops(self.program())
        return Cell("slow", f"{slow[0]['module']}: {slow[0]['op']}") if slow else Cell("exact")

    def _worst(self, target: Target, mode: Mode, folder: Path) -> float:
        program = self.program()
        batches = [[23, 14, 1, 30], [7], [1], [5, 4]] if mode == "graphs" else [[40]]
        requests = [graph(self.recipe, sizes, seed) for seed, sizes in enumerate(batches, 2)]
        data = GraphData("data", requests[0])
        final = finalise(program, data).program
        problems = target.check(final, mode)
        if problems:
            raise UnsupportedError(*problems)
        dialect = translate(final, data.inputs) if mode == "full" else translate_graphs(final, data.inputs)
        artefact = target.emit(dialect, folder, EmitContext(threads=1))
        backend = _open(target, artefact, folder)
        try:
            return max(error(self.model, request, _run(backend, request)) for request in requests)
        finally:
            backend.close()


def _open(target: Target, artefact: Artefact, folder: Path) -> Backend:
    if target.name == "trt":
        return open_onnx(folder, 1, prepared=artefact.prepare == "runtime")
    kind = OpenVinoBackend if target.name == "openvino" else OrtBackend
    return kind(folder / artefact.model_file, 1)


def _run(backend: Backend, request: Mapping[str, Tensor]) -> Tensor:
    feeds = {tensor.name: request[tensor.name].contiguous().numpy() for tensor in backend.inputs}
    (answer,) = backend.run(feeds).values()
    return torch.from_numpy(np.array(answer))
