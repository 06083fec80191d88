"""Load a model with its data, or with graphs made up in its place, and capture it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gnnexport.bundle.stages import NODE_IDS
from gnnexport.errors import DataError, ParityError, UnsupportedError, UsageError
from gnnexport.frontends.data import load_data
from gnnexport.frontends.data_forward import wrap_data_forward, wrap_without_data
from gnnexport.frontends.declared import generated_data, parse_inputs
from gnnexport.frontends.hetero import by_type
from gnnexport.frontends.hetero_forward import option_notes, takes_dictionaries, wrap_hetero_forward
from gnnexport.frontends.model import model_digest, read_model
from gnnexport.frontends.sidecar import Sidecar
from gnnexport.frontends.signature import arguments_of, match_inputs, run_once
from gnnexport.frontends.task import check_task, kind_of
from gnnexport.pipeline.typical import typical_request, typical_targets
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.inputs import NAMES, NUM_GRAPHS, Input, Level, Mode, Role, suffix_of
from gnnexport.program.matrices import check_matrices
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.verify import TOLERANCE, relative_error
from gnnexport.training.task import Task, check_logits, infer_task

NO_DATA_MEND = 'Give the graph with --data FILE, or name it in gnnexport.toml beside the model: [data] path = "…"'


@dataclass(frozen=True)
class Given:
    """What a user names to be loaded.

    Args:
        model: file of the model.
        data: file of the data, or a function that returns it; the sidecar's where it is not given.
        mode: how the model will be deployed; by default `full` for one graph and `graphs` for everything else.
        trust: let files run their code.
        builder: makes the module; the sidecar's counts only with `trust`.
        code: script that defines the model's class; only with `trust`.
        inputs: sizes of inputs, such as `x=N,16`, where there is no data to tell.
    """

    model: Path
    data: str | None = None
    mode: str | None = None
    trust: bool = False
    builder: str | None = None
    code: Path | None = None
    inputs: Sequence[str] = ()


@dataclass(frozen=True)
class Source:
    """A loaded model with all that is known of it.

    Args:
        path: of the model's file.
        model: in evaluation mode.
        data: the graph or graphs, test labels included; made up where there is no data.
        mode: how the model will be deployed.
        inputs: the model's arguments.
        logits: what the model gives on the data, float32 [rows, channels] or [rows].
        seconds: how long that took.
        level: what a row of the logits is about.
        task: metric and training settings.
        labelled: accuracy can be measured.
        generated: the graphs are made up.
        request: what one inference is given when it is timed: the data, or as many graphs of a set as a typical
            request holds.
        request_logits: what the model gives on the request.
        request_seconds: how long that took.
        notes: what loading found worth telling.
        targets: int64 [num_targets], the nodes that a typical request of mode `batched` asks about; else `None`.
    """

    path: Path
    model: nn.Module
    data: GraphData
    mode: Mode
    inputs: tuple[Input, ...]
    logits: Tensor
    seconds: float
    level: Level
    task: Task
    labelled: bool
    generated: bool
    request: GraphData
    request_logits: Tensor
    request_seconds: float
    notes: tuple[str, ...]
    targets: Tensor | None = None

    @property
    def class_name(self) -> str:
        """Class of the model."""
        return type(self.model).__name__

    @property
    def classes(self) -> int | None:
        """Columns of the output; `None` where it has one number a row."""
        return int(self.logits.shape[1]) if self.logits.dim() == 2 else None

    def feeds(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return the typical request as a runner takes it: the inputs of these names."""
        if self.targets is not None:
            return {NODE_IDS: self.targets.numpy()}
        return {name: self.request.inputs[name].numpy() for name in names}

    @property
    def request_answer(self) -> Tensor:
        """What the model gives for the rows that the typical request asks about."""
        return self.request_logits if self.targets is None else self.request_logits[self.targets]

    @property
    def request_run(self) -> tuple[Tensor, float]:
        """What the model gives on the request, and the seconds it took."""
        return self.request_logits, self.request_seconds

    def digest(self) -> str:
        """Return the sha256 of the model's file."""
        return model_digest(self.path)


def load_source(given: Given, sidecar: Sidecar) -> Source:
    """Load model and data and run the model once.

    Args:
        given: what the user named.
        sidecar: settings that lie beside the model.

    Raises:
        UsageError: a file that cannot be used, or no data where some is needed.
    """
    loaded = read_model(
        given.model,
        trust=given.trust,
        builder=given.builder or sidecar.builder(trust=given.trust),
        code=given.code or sidecar.code(trust=given.trust),
    )
    found = _data(given, sidecar)
    mode = _mode(given.mode or sidecar.compress.mode, None if found is None else found[0])
    if found is None and mode != "graphs":
        needs = "needs the graph that is to be baked in" if mode == "full" else "serves a graph that it has to know"
        what = f"no data is given, and mode '{mode}' {needs}"
        raise UsageError.at(str(given.model), what, NO_DATA_MEND)
    if found is None:
        widths = parse_inputs(given.inputs)
        model, notes = wrap_without_data(loaded.model, widths)
        data = generated_data(model, widths)
    else:
        data, _ = found
        if not data.keys and {"node_type", "edge_type"} <= data.inputs.keys() and takes_dictionaries(loaded.model):
            data = by_type(data)
        if data.keys:
            model, data = wrap_hetero_forward(loaded.model, data)
            notes = option_notes(model)
        else:
            model, notes = wrap_data_forward(loaded.model, data.inputs)
        notes = [*found[1], *notes]
    data = _with_graph_ids(data, model, mode)
    labelled = data.y is not None or bool(data.masks)
    kind = sidecar.task.kind or kind_of(data)
    if labelled:
        notes += check_task(data, kind)
    else:
        what = (
            "no data was given; numbers were checked on generated graphs" if found is None else "the data has no labels"
        )
        notes.append(f"accuracy not measured: {what}")
    data, inputs, (logits, level), seconds = _first_run(model, data)
    request_logits, request_seconds = logits, seconds
    request = typical_request(data, mode)
    if request is not data:
        start = time.perf_counter()
        request_logits, _ = run_once(model, request, inputs)
        request_seconds = time.perf_counter() - start
    task = task_of(sidecar, data, level, logits)
    if labelled:
        check_logits(task, logits, type(model).__name__)
    return Source(
        given.model, model, data, mode, inputs, logits, seconds, level, task, labelled, found is None, request,
        request_logits, request_seconds, (*loaded.notes, *notes), typical_targets(data) if mode == "batched" else None,
    )  # fmt: skip


def _mode(asked: str | None, data: GraphData | None) -> Mode:
    """Return how the model is deployed: one graph is baked in unless told otherwise.

    Raises:
        UsageError: a mode for graphs of another kind.
    """
    if asked == "batched" and data is not None and data.num_graphs is not None:
        what = f"mode 'batched' serves the nodes of one graph, but {data.name} is a set of graphs"
        raise UsageError.at("--mode", what, "Use --mode graphs")
    if asked == "batched":
        return "batched"
    if asked == "full" and data is not None and data.num_graphs is not None and data.num_graphs > 1:
        what = f"mode 'full' bakes one graph in, but {data.name} holds {data.num_graphs}"
        raise UsageError.at("--mode", what, "Use --mode graphs")
    if asked is None:
        return "full" if data is not None and data.num_graphs is None else "graphs"
    return "full" if asked == "full" else "graphs"


def _data(given: Given, sidecar: Sidecar) -> tuple[GraphData, list[str]] | None:
    """Load the data there is; sizes are for where there is none.

    Raises:
        UsageError: sizes beside data that tells them.
    """
    path = given.data or sidecar.data_path or sidecar.loader(trust=given.trust)
    if path is None:
        return None
    if given.inputs:
        what = f"sizes of inputs are given, but so is the data '{path}', which tells them"
        raise UsageError.at("--input", what, "Leave out one of --input and --data")
    folder, code = given.model.parent, given.code or sidecar.code(trust=given.trust)
    if code is not None and not code.is_file():
        code = folder / code
    kind = sidecar.task.kind
    return load_data(path, split=sidecar.data.split, trust=given.trust, kind=kind, folder=folder, code=code)


def task_of(sidecar: Sidecar, data: GraphData, level: Level, output: Tensor) -> Task:
    """Return the task that a sidecar describes; what it leaves out is inferred from labels and output.

    Raises:
        DataError: a kind of task that the labels are not of.
    """
    given = {key: value for key, value in sidecar.training.model_dump(exclude={"memory"}).items() if value is not None}
    width = int(output.shape[1]) if output.dim() == 2 else 1
    task = sidecar.task
    rows = level if data.y is None else data.level
    return infer_task(rows, data.y, width, kind=task.kind, metric=task.metric, **given)


def _with_graph_ids(data: GraphData, model: nn.Module, mode: Mode) -> GraphData:
    """Make a set of one graph of a single graph where the model asks which graph a node belongs to."""
    asks = [item.required for item in arguments_of(model) if NAMES.get(item.name) is Role.GRAPH_IDS]
    if data.num_graphs is not None or not asks or (mode != "graphs" and not asks[0]):
        return data
    ids = {"batch": torch.zeros(data.num_nodes, dtype=torch.int64), NUM_GRAPHS: torch.tensor(1)}
    return replace(data, inputs={**data.inputs, **ids})


def _first_run(model: nn.Module, data: GraphData) -> tuple[GraphData, tuple[Input, ...], tuple[Tensor, Level], float]:
    """Run the model once; raises as `run_once` does.

    A model that may be told which graph a node belongs to, and answers neither for nodes nor for pairs unless it is,
    answers for the graph: only then the ids are given, as they cost time.

    Returns:
        The data as the model needs it, the model's arguments, its answer and the seconds it took.
    """
    inputs = match_inputs(model, data)
    start = time.perf_counter()
    try:
        answer = run_once(model, data, inputs)
    except UnsupportedError:
        told = _with_graph_ids(data, model, "graphs")
        if told is data:
            raise
        return _first_run(model, told)
    return data, inputs, answer, time.perf_counter() - start


def capture_source(source: Source) -> Program:
    """Capture the model and check the capture against the model on the data.

    Raises:
        UnsupportedError: what cannot be captured.
        ParityError: the capture computes something else.
    """
    program = capture(source.model, source.inputs, example_inputs(source.inputs), source.request.sizes)
    check_matrices(program, source.request.inputs)
    if program.level != source.level:
        what = f"answers for each {source.level} of the data, but for each {program.level} of other graphs"
        raise DataError.at(source.class_name, what, "Give data in which nodes, graphs and pairs differ in number")
    with torch.no_grad():
        captured = program(source.request.inputs)
    error = relative_error(source.request_logits, captured)
    if error > TOLERANCE:
        raise ParityError.at(
            source.class_name,
            f"the captured model differs from the model by {error:.2g} of the largest output",
            "A layer keeps values of another graph or behaves randomly in evaluation mode; export without it",
        )
    return program


def unread_note(source: Source, program: Program) -> list[str]:
    """Name what the data has of kinds that the answer does not depend on: relations may be left out unmeant."""
    read = {item.name for item in program.inputs}
    unread = sorted(item.name for item in source.inputs if suffix_of(item.name) and item.name not in read)
    return [f"model: its answer does not depend on {', '.join(unread)}"] if unread else []
