"""Find the PyTorch module from which on an artefact computes something else.

The Program is lowered again, with what its modules hand on as outputs, and each is compared with PyTorch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from gnnexport.bundle.golden import GoldenCase
from gnnexport.bundle.reader import Bundle
from gnnexport.bundle.writer import BundleWriter
from gnnexport.conformance.laws import Derived, derive
from gnnexport.pipeline.capture_divergence import Recorder
from gnnexport.pipeline.emission import Emission, Emitter
from gnnexport.pipeline.law_checks import error_of_model
from gnnexport.program.graphs import module_of, output_node, rebuild
from gnnexport.program.program import Program, arguments_of, placeholder_names
from gnnexport.program.verify import TOLERANCE, relative_error
from gnnexport.runtime.runner import load_to_prove
from gnnexport.validate.conformance import Failure, law_error

MOST_VALUES = 40_000_000
"""Numbers that one run gives back; where modules hand on more, they are looked at in several runs."""

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Divergence:
    """Where numbers go wrong.

    Args:
        module: path and class of the PyTorch module, such as `convs.0 (GCNConv)`.
        value: the value of the Program that is wrong.
        error: relative to its largest magnitude.
    """

    module: str
    value: str
    error: float

    def __str__(self) -> str:
        return f"outputs first diverge in {self.module}, by {self.error:.2g}"


@dataclass(frozen=True)
class _Watched:
    """A value of the body that a module hands on."""

    node: fx.Node
    module: str
    expected: Tensor


def first_divergence(emitter: Emitter, emission: Emission, feeds: Feeds) -> Divergence | None:
    """Return the first value that differs on a request; `None` where none does once the Program is lowered again.

    Args:
        emitter: that wrote the artefact.
        emission: with the Program as it was lowered, and what timing decided.
        feeds: of the request, by input name.
    """
    program = emission.program.clone().train(False)
    for watched in _chunks(_watched(program, _inputs(emitter, feeds))):
        probe = program.clone()
        names = {item.node.name for item in watched}
        _return_values(probe, names)
        answer = _lowered(emitter, emission, probe, feeds)
        begin = 0
        for item in watched:
            end = begin + item.expected.numel()
            error = relative_error(item.expected.flatten().float(), answer[begin:end])
            if error > TOLERANCE:
                return Divergence(item.module, item.node.name, error)
            begin = end
    return None


def blame(emitter: Emitter, emission: Emission, bundle: Bundle, failures: Sequence[Failure]) -> str:
    """Say where the first failure comes from.

    Args:
        emitter: that wrote the artefact.
        emission: of it.
        bundle: with the golden cases.
        failures: golden cases first.
    """
    first = failures[0]
    case = next(case for case in bundle.golden() if case.name == first.case)
    try:
        changes = list(_changes(bundle, first, case))
        for feeds in (case.feeds(), *(changed.feeds for changed in changes)):
            found = first_divergence(emitter, emission, feeds)
            if found is not None:
                return f"on '{first.case}' {found}"
        error = _error_of_program(emitter, emission, case, changes)
        of_model = error_of_model(emitter.source, case, changes) or 0.0
    except Exception as problem:  # it only helps to understand an error that is told anyway
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        return f"which module is at fault could not be found out: {reason}"
    if of_model > TOLERANCE / 10:  # as one that decides by chance may, though it obeyed the law when it was asked
        return f"the lowering is not at fault: the model itself breaks the law by {of_model:.2g}"
    if error > TOLERANCE / 10:
        return f"the lowering is not at fault: what was captured breaks the law by {error:.2g} in PyTorch itself"
    return "no module is at fault: lowered again, the model gives the right numbers, so the files were changed"


def _changes(bundle: Bundle, failure: Failure, case: GoldenCase) -> Iterator[Derived]:
    """Make the requests of a broken law; none for a golden case."""
    rows = str(bundle.manifest.outputs[0].shape[0])
    for check in bundle.laws().checks:
        if (check.law, check.case) == (failure.law, failure.case):
            yield from derive(check, case, bundle.manifest.inputs, rows)


def _error_of_program(emitter: Emitter, emission: Emission, case: GoldenCase, changes: Sequence[Derived]) -> float:
    """Return how far the Program itself, in PyTorch, breaks the law that makes these requests of a case."""
    program = emission.program.clone().train(False)

    def answer(feeds: Feeds) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            return {program.output: program(_inputs(emitter, feeds)).numpy()}

    base = answer(case.feeds()) if changes else {}
    return max((law_error(changed, base, answer(changed.feeds)) for changed in changes), default=0.0)


def _inputs(emitter: Emitter, feeds: Feeds) -> dict[str, Tensor]:
    """Return what the Program is given for a request; indices of fewer bits are widened, as a runner does."""
    given = {name: torch.from_numpy(np.array(array)) for name, array in feeds.items()}
    request = {name: value if value.is_floating_point() else value.long() for name, value in given.items()}
    return {**emitter.source.data.inputs, **request} if emitter.source.mode == "full" else request


def _watched(program: Program, inputs: Mapping[str, Tensor]) -> list[_Watched]:
    """Run the body; return what its modules hand on to others, in the order computed."""
    recorder = Recorder(program.body)
    given = program.inputs if program.prepare is None else program.features
    features = arguments_of(inputs, [item.name for item in given])
    with torch.no_grad():
        recorder.run(*features, *program.structure(inputs))
    modules = {**{node: module_of(node) for node in recorder.found}, **_prepared(program)}
    asked = {item.name for item in program.inputs}
    return [
        _Watched(node, modules[node], value)
        for node, value in recorder.found.items()
        if str(node.target) not in asked
        and any(user.op == "output" or modules.get(user) != modules[node] for user in node.users)
    ]


def _prepared(program: Program) -> dict[fx.Node, str]:
    """Name the modules that the structure values come from: in the body they are inputs."""
    if program.prepare is None:
        return {}
    values: Any = output_node(program.prepare.graph).args[0]
    names = placeholder_names(program.body)[len(program.features) :]
    made = dict(zip(names, values, strict=True))
    return {
        node: module_of(made[str(node.target)])
        for node in program.body.graph.nodes
        if node.op == "placeholder" and isinstance(made.get(str(node.target)), fx.Node)
    }


def _chunks(watched: Sequence[_Watched]) -> Iterator[list[_Watched]]:
    chunk: list[_Watched] = []
    for item in watched:
        if chunk and sum(each.expected.numel() for each in chunk) + item.expected.numel() > MOST_VALUES:
            yield chunk
            chunk = []
        chunk.append(item)
    if chunk:
        yield chunk


def _return_values(program: Program, names: set[str]) -> None:
    """Let the body return values in place of its result: all in one vector."""
    graph = program.body.graph
    values = [node for node in graph.nodes if node.name in names]
    last = output_node(graph)
    with graph.inserting_before(last):
        flat = [graph.call_function(torch.ops.aten.reshape.default, (node, [-1])) for node in values]
        last.args = (graph.call_function(torch.ops.aten.cat.default, (flat, 0)),)
    program.body = rebuild(program.body, graph)


def _lowered(emitter: Emitter, emission: Emission, probe: Program, feeds: Feeds) -> Tensor:
    """Lower a Program as the artefact was, and run it."""
    with (
        tempfile.TemporaryDirectory(prefix="gnnexport-") as folder,
        BundleWriter(Path(folder) / "probe.bundle") as writer,
    ):
        emitter.write_model(probe, writer, emission.artefact.decisions)
        with load_to_prove(writer.folder, threads=emitter.threads) as runner:
            read = {tensor.name for tensor in runner.inputs}
            answer = runner({name: array for name, array in feeds.items() if name in read})
            return torch.from_numpy(np.array(answer[runner.outputs[0].name]))
