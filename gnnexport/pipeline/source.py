"""Load a model with its data, and capture it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gnnexport.errors import ParityError, UsageError
from gnnexport.frontends.data import check_task, load_data
from gnnexport.frontends.model import load_model, model_digest
from gnnexport.frontends.sidecar import Sidecar
from gnnexport.frontends.signature import match_inputs, run_once
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.inputs import Input
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.verify import TOLERANCE, relative_error
from gnnexport.training.task import LOSSES, Task

NO_DATA = "no data is given"
NO_DATA_MEND = 'Give the graph with --data FILE, or name it in gnnexport.toml beside the model: [data] path = "…"'


@dataclass(frozen=True)
class Source:
    """A loaded model with all that is known of it.

    Args:
        path: of the model's file.
        model: in evaluation mode.
        data: the graph, test labels included.
        inputs: the model's arguments.
        logits: what the model gives on the data, float32 [num_nodes, classes].
        seconds: how long that took.
        task: metric and training settings.
        labelled: accuracy can be measured.
        notes: what loading found worth telling.
    """

    path: Path
    model: nn.Module
    data: GraphData
    inputs: tuple[Input, ...]
    logits: Tensor
    seconds: float
    task: Task
    labelled: bool
    notes: tuple[str, ...]

    @property
    def class_name(self) -> str:
        """Class of the model."""
        return type(self.model).__name__

    def digest(self) -> str:
        """Return the sha256 of the model's file."""
        return model_digest(self.path)


def load_source(model_path: Path, sidecar: Sidecar, *, data: Path | None, trust: bool, builder: str | None) -> Source:
    """Load model and data and run the model once.

    Args:
        model_path: a pickled module, or with a builder its state dict.
        sidecar: settings that lie beside the model.
        data: overrides the sidecar's.
        trust: let files run their code.
        builder: as given by the user; the sidecar's counts only with `trust`.

    Raises:
        UsageError: a file that cannot be used, or no data.
    """
    model = load_model(model_path, trust=trust, builder=builder or sidecar.builder(trust=trust))
    data_path = data or sidecar.data_path
    if data_path is None:
        raise UsageError.at(str(model_path), NO_DATA, NO_DATA_MEND)
    graph, notes = load_data(data_path, split=sidecar.data.split, trust=trust)
    labelled = graph.y is not None or bool(graph.masks)
    if labelled:
        notes += check_task(graph, sidecar.task.kind)
    else:
        notes.append("accuracy not measured: the data has no labels and no masks")
    inputs = match_inputs(model, graph)
    start = time.perf_counter()
    logits = run_once(model, graph, inputs)
    seconds = time.perf_counter() - start
    return Source(model_path, model, graph, inputs, logits, seconds, task_of(sidecar), labelled, tuple(notes))


def task_of(sidecar: Sidecar) -> Task:
    """Return the task that a sidecar describes, with defaults for what it leaves out.

    Raises:
        UsageError: an unknown loss.
    """
    given = {key: value for key, value in sidecar.training.model_dump().items() if value is not None}
    if given.get("loss", "cross-entropy") not in LOSSES:
        raise UsageError.at(
            "gnnexport.toml: [training] loss", f"'{given['loss']}' is unknown", f"Known: {', '.join(LOSSES)}"
        )
    return Task(kind=sidecar.task.kind, metric=sidecar.task.metric, **given)


def capture_source(source: Source) -> Program:
    """Capture the model and check the capture against the model on the data.

    Raises:
        UnsupportedError: what cannot be captured.
        ParityError: the capture computes something else.
    """
    program = capture(source.model, source.inputs, example_inputs(source.inputs))
    with torch.no_grad():
        captured = program(source.data.inputs)
    error = relative_error(source.logits, captured)
    if error > TOLERANCE:
        raise ParityError.at(
            source.class_name,
            f"the captured model differs from the model by {error:.2g} of the largest output",
            "A layer keeps values of another graph or behaves randomly in evaluation mode; export without it",
        )
    return program
