"""Capture a model with torch.export as a functional, trainable Program with dynamic sizes."""

from __future__ import annotations

import copy
import io
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from gnnexport.errors import DataError, UnsupportedError
from gnnexport.program.calling import call, collected_arguments, takes_positional
from gnnexport.program.explanation import explain
from gnnexport.program.functional import functionalise, training_argument, training_arguments_cleared
from gnnexport.program.graphs import args_of, module_of
from gnnexport.program.inputs import LEVELS, NUM_GRAPHS, ROWS, Input, Level, Role, suffix_of
from gnnexport.program.kinds import without_unread_kinds
from gnnexport.program.num_graphs import name_num_graphs
from gnnexport.program.padded import check_padding, columns_asked, columns_needed
from gnnexport.program.program import Program, arguments_of, example_inputs, example_rows, placeholder_names
from gnnexport.program.recurrent import expand_cells
from gnnexport.program.relations import choose_after_product, one_by_one
from gnnexport.program.simplify import drop_dead
from gnnexport.program.standins import standins
from gnnexport.program.strides import LEAST_ROWS, even_parts, uneven_parts
from gnnexport.program.ties import keep_ties_in_order

aten = torch.ops.aten
_ASSERTIONS = {aten._assert_scalar.default, aten._assert_tensor_metadata.default, aten._assert_async.msg}
_COMPARISONS = {operator.ge, operator.le, operator.eq, operator.gt, operator.lt, operator.ne}
_MINIMUM = 2
_MAXIMUM = 2**48
"""More than there will be, and few enough for sums of two counts."""

_ROWS_MEND = "Return one row for each node, graph or pair of nodes"
_COUNTED_MEND = (
    f"{_ROWS_MEND}. Graphs counted from the ids that a pooling keeps lose those at the end without nodes: let forward "
    "take num_graphs, and hand it to the readout"
)


def capture(
    model: nn.Module, inputs: Sequence[Input], example: Mapping[str, Tensor], sizes: Mapping[str, int] | None = None
) -> Program:
    """Capture `model` in evaluation mode.

    Where the model counts the graphs of a batch, by `batch.max() + 1`, the Program gets the input `num_graphs`; graph
    ids that the model takes and does not read stay out of it.

    Args:
        model: takes the inputs by name and returns one tensor.
        inputs: the arguments with their roles.
        example: a value for each input; sizes of nodes and edges become dynamic.
        sizes: how many nodes and edges there will be, as `GraphData.sizes` names them, where that is known.

    Raises:
        UnsupportedError: what torch.export cannot capture, with the module's name.
        DataError: a declared input that nothing reads.
    """
    model = copy.deepcopy(model)
    sizes = sizes or {}
    body = _functional_capture(model.eval(), inputs, example, sizes)
    _check_evaluation_mode(body)
    columns = columns_needed(model, body, inputs)
    if columns > 1:
        body = _functional_capture(model, inputs, example, sizes, columns)
    check_padding(model, body, inputs)
    blocker = _TrainingCheck(_calls(body), model, inputs, dict(example), dict(sizes), columns)
    inputs = _without_unread_ids(body, without_unread_kinds(body, inputs))
    _check_inputs_are_read(body)
    if NUM_GRAPHS in placeholder_names(body) and all(item.role is not Role.NUM_GRAPHS for item in inputs):
        inputs = (*inputs, Input(NUM_GRAPHS, Role.NUM_GRAPHS, "int64", ()))
    level, target = _level(body, inputs)
    source = type(model).__name__
    return Program(body, inputs, level=level, target=target, source=source, training_blocker=blocker)


def _level(body: fx.GraphModule, inputs: Sequence[Input]) -> tuple[Level, str]:
    """Find out on a small graph what a row of the output is about, and of several kinds of nodes which.

    Raises:
        UnsupportedError: the output has neither a row for each node, nor for each graph or pair.
    """
    example = example_inputs(inputs)
    with torch.no_grad():
        output = body(*arguments_of(example, placeholder_names(body)))
    rows = example_rows(example)
    for level in LEVELS:
        for name, count in rows.items():
            if name.startswith(ROWS[level]) and output.dim() in (1, 2) and output.shape[0] == count:
                return level, suffix_of(name)
    counts = " and ".join(f"{count} {name.removeprefix('num_')}" for name, count in rows.items())
    what = f"gives a result of shape {list(output.shape)} for {counts}"
    graphs = any(item.role is Role.GRAPH_IDS for item in inputs)
    raise UnsupportedError.at("forward", what, _COUNTED_MEND if graphs else _ROWS_MEND)


def _functional_capture(
    model: nn.Module, inputs: Sequence[Input], example: Mapping[str, Tensor], sizes: Mapping[str, int], columns: int = 1
) -> fx.GraphModule:
    captured = _export(model, inputs, example, columns)
    graph = _plain_graph(captured, inputs)
    if any(item.role is Role.GRAPH_IDS for item in inputs):
        name_num_graphs(graph)
    expand_cells(graph)
    functionalise(graph)
    keep_ties_in_order(graph)
    choose_after_product(graph, sizes)
    drop_dead(graph)
    return fx.GraphModule(captured, graph, class_name=type(model).__name__)


def _export(
    model: nn.Module, inputs: Sequence[Input], example: Mapping[str, Tensor], columns: int = 1, even: bool = False
) -> fx.GraphModule:
    sizes = dict.fromkeys(size for item in inputs for size in item.shape if isinstance(size, str))
    dims = {name: Dim(name, min=LEAST_ROWS if even else _MINIMUM, max=_MAXIMUM) for name in sizes}
    dynamic: dict[str, Any] = {
        item.name: {axis: dims[size] for axis, size in enumerate(item.shape) if isinstance(size, str)}
        for item in inputs
    }
    arguments: dict[str, Any] = {item.name: example[item.name] for item in inputs}
    if NUM_GRAPHS in arguments:
        arguments[NUM_GRAPHS], dynamic[NUM_GRAPHS] = int(arguments[NUM_GRAPHS]), Dim.DYNAMIC
    shapes: Any = tuple(dynamic.values())
    collected = collected_arguments(model)
    if collected is not None:
        shapes = {collected: shapes}
    positional = takes_positional(model)

    def export(strict: bool) -> fx.GraphModule:
        with _quiet(), one_by_one(), standins(model, columns), even_parts(even):
            if positional:
                found = torch.export.export(model, tuple(arguments.values()), dynamic_shapes=shapes, strict=strict)
            else:
                found = torch.export.export(model, (), kwargs=arguments, dynamic_shapes=dynamic, strict=strict)
            return found.module()

    def run() -> object:
        return call(model, arguments)

    try:
        return export(strict=False)
    except Exception as error:
        if (asked := columns_asked(error) or 0) > columns:
            return _export(model, inputs, example, asked, even)
        if not even and uneven_parts(error):
            return _export(model, inputs, example, columns, even=True)
        if all(item.role is not Role.GRAPH_IDS for item in inputs):
            raise explain(model, run, error) from error
        traced = error
    # Tracing stumbles over `int(batch.max()) + 1`, which only the compiler of bytecode can follow.
    try:
        return export(strict=True)
    except Exception:
        raise explain(model, run, traced) from traced


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch.export from writing whole graphs to the error stream; its exception says what matters."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled


def _plain_graph(captured: fx.GraphModule, inputs: Sequence[Input]) -> fx.Graph:
    """Copy the graph without guards and with plainly named inputs and a single output."""
    graph = fx.Graph()
    values: dict[fx.Node, Any] = {}
    placeholders = iter(inputs)
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            values[node] = graph.placeholder(next(placeholders).name)
            values[node].meta = dict(node.meta)
        elif node.op == "output":
            graph.output(values[_single_output(node)])
        elif _is_guard(node):
            continue
        else:
            values[node] = graph.node_copy(node, values.__getitem__)
    return graph


def _is_guard(node: fx.Node) -> bool:
    """Tell whether a node only asserts, compares for an assertion, or counts batches."""
    if node.op == "call_module" or node.target in _ASSERTIONS:
        return True
    if node.target in _COMPARISONS:
        return all(user.target in _ASSERTIONS for user in node.users)
    return _counts_batches(node)


def _counts_batches(node: fx.Node) -> bool:
    """Tell whether a node adds to a count of batches, which nothing reads; a shared norm adds to it twice."""
    while node.target is aten.add_.Tensor:
        node = args_of(node)[0]
        if node.op == "get_attr":
            return "num_batches_tracked" in str(node.target)
    return False


def _single_output(node: fx.Node) -> fx.Node:
    results = args_of(node)[0]
    while isinstance(results, tuple | list) and len(results) == 1:
        results = results[0]
    if not isinstance(results, fx.Node):
        raise UnsupportedError.at("forward", "the model returns several values", "Return one tensor from forward")
    return results


def _without_unread_ids(body: fx.GraphModule, inputs: Sequence[Input]) -> Sequence[Input]:
    """Drop graph ids of which only the number is read: a model for nodes may take them to suit a training loop."""
    placeholders = {str(node.target): node for node in body.graph.nodes if node.op == "placeholder"}
    x = next(placeholders[item.name] for item in inputs if item.role is Role.NODE_FEATURES)
    unread = set()
    for item in inputs:
        node = placeholders[item.name]
        counting = [user for user in node.users if user.target is aten.sym_size.int]
        if item.role not in (Role.GRAPH_IDS, Role.NUM_GRAPHS) or len(counting) < len(node.users):
            continue
        for user in counting:
            user.replace_input_with(node, x)
        body.graph.erase_node(node)
        unread.add(item.name)
    body.recompile()
    return tuple(item for item in inputs if item.name not in unread)


def _check_inputs_are_read(body: fx.GraphModule) -> None:
    placeholders = [node for node in body.graph.nodes if node.op == "placeholder"]
    # A size alone tells nothing of a graph or of its features.
    unread = [node for node in placeholders if all(user.target is aten.sym_size.int for user in node.users)]
    if unread:
        raise DataError.at(
            "model",
            f"nothing reads the {'values of the ' if unread[0].users else ''}input '{unread[0].target}'",
            "A layer has kept values of another graph, or the argument is not needed: clear caches, or leave it out",
        )


def _check_evaluation_mode(body: fx.GraphModule) -> None:
    training = [node for node in body.graph.nodes if training_argument(node)]
    if training:
        raise UnsupportedError.at(
            module_of(training[0]),
            f"{training[0].target} runs in training mode although the model is in evaluation mode",
            "Pass training=self.training there",
        )


@dataclass(frozen=True)
class _Call:
    """A node of a graph, so that it can be told from one of another graph.

    Args:
        does: operator and arguments, training arguments cleared; places stand for other nodes.
        module: it came from.
        evaluates: it has a training argument, which says evaluation.
    """

    does: tuple[Any, ...]
    module: str
    evaluates: bool


def _calls(body: fx.GraphModule) -> list[_Call]:
    numbers = {node: place for place, node in enumerate(body.graph.nodes)}
    return [_Call(_shape_of_call(node, numbers), module_of(node), training_argument(node) is False) for node in numbers]


class _TrainingCheck:
    """Tells what keeps a Program from being trained, by a second capture, in training mode, when first asked.

    Most Programs are never trained, and that capture takes as long as the first.
    """

    def __init__(self, calls: Sequence[_Call], model: nn.Module, *capture: Any) -> None:
        """Remember what a capture in evaluation mode gave, and of what; `capture` is what else was captured with."""
        self._calls, self._capture = calls, capture
        self._model: nn.Module | None = model
        self._answer: str | None = None

    def __call__(self) -> str | None:
        """Name the module where more than the training arguments differ; `None` where nothing does."""
        if self._model is not None:
            with torch.random.fork_rng(devices=[]):
                self._answer = self._compare(self._model.train())
            self._model = None
        return self._answer

    def _compare(self, model: nn.Module) -> str | None:
        try:
            trained = _calls(_functional_capture(model, *self._capture))
        except UnsupportedError as error:
            return f"capturing in training mode fails ({error})"
        for mine, other in zip(self._calls, trained, strict=False):
            if mine.does != other.does:
                return f"{mine.module} computes something else in training"
            if other.evaluates:
                return f"{mine.module} stays in evaluation mode in training"
        if len(self._calls) != len(trained):
            return f"{self._calls[-1].module} computes something else in training"
        return None


def _shape_of_call(node: fx.Node, numbers: dict[fx.Node, int]) -> tuple[Any, ...]:
    arguments = fx.node.map_arg(training_arguments_cleared(node), lambda item: ("node", numbers[item]))
    return node.op, str(node.target) if node.op == "get_attr" else node.target, arguments
