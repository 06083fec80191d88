"""Where values of a Program can be rounded to few levels: find the operands, put quantisers in, list them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from gnnexport.program.dialect import dynamic as _dynamic  # noqa: F401  registers an op that is named below
from gnnexport.program.graphs import args_of, calls, module_of, parameter_of, replace_tensor
from gnnexport.program.program import EXAMPLE_NODES, Program, example_nodes
from gnnexport.program.shapes import DTYPE, SHAPES, like, rank_of, shape_of, sizes_of
from gnnexport.program.signs import Signs

aten = torch.ops.aten
gnn = torch.ops.gnn

What = Literal["input", "sum", "weight", "attention", "scores"]
"""What is rounded: what a linear map reads; what is aggregated, or gathered along edges; the weights of a linear map;
the vectors that score for attention; and the scores of nodes before they meet on an edge."""

By = Literal["rows", "columns", "nearest"]

QUANTISERS: dict[Any, By] = {
    gnn.quantize_rows.default: "rows",
    gnn.quantize_columns.default: "columns",
    gnn.quantize_nearest.default: "nearest",
}

ROUNDINGS: frozenset[Any] = frozenset({*QUANTISERS, gnn.quantize_dynamic.default})
"""Every op that rounds to levels; the last takes its steps from what it is given."""

_GATHERS = {gnn.aggregate.default, gnn.gather_source.default, gnn.gather_destination.default}
_SHAPES_ONLY = {aten.reshape.default, aten.view.default}


@dataclass(frozen=True)
class Operand:
    """A value that can be rounded.

    Args:
        what: see `What`.
        name: unique in the Program: module and role, such as `convs_0_lin_input`.
        value: of the body, before dropout.
        readers: of the value, or of the dropout behind it, that are to read it rounded.
        signed: it may be negative.
        width: entries of a row; of an attention vector those of a head.
        rows: how many steps quantisation by rows takes where they are constant: channels of a weight, heads; else 0.
        of_nodes: its rows are nodes.
        raw: it is made of features without a linear map.
    """

    what: What
    name: str
    value: fx.Node
    readers: tuple[fx.Node, ...]
    signed: bool
    width: int
    rows: int = 0
    of_nodes: bool = False
    raw: bool = False


@dataclass(frozen=True)
class Quantiser:
    """A quantiser in a body.

    Args:
        node: the call.
        what: see `What`.
        by: what has a step of its own.
        name: module and role.
        signed: levels below zero exist.
        local: step and bits learn from their own rows.
        width: entries of a row of the value.
        step: float32.
        bits: float32.
        of_nodes: the rows of the value are nodes.
        raw: it rounds features, or sums of them.
    """

    node: fx.Node
    what: What
    by: By
    name: str
    signed: bool
    local: bool
    width: int
    step: Tensor
    bits: Tensor
    of_nodes: bool
    raw: bool


def is_quantised(program: Program) -> bool:
    """Tell whether anything of a Program is rounded to levels."""
    return any(calls(program.body.graph, *ROUNDINGS))


def find_operands(program: Program) -> list[Operand]:
    """List what can be rounded, in graph order; the Program must be split and annotated."""
    return _Finder(program).operands()


class _Finder:
    """Collects the operands of one body."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = program.body.graph
        self.signs = Signs(program)
        self.raw = raw_values(program)
        self.node_counts = node_sizes(program)
        self.taken: set[str] = set(program.body.state_dict())

    def operands(self) -> list[Operand]:
        """Collect values first and then parameters, each in graph order."""
        found = list(self._values())
        return [*found, *self._weights(), *self._attention()]

    def _values(self) -> Iterator[Operand]:
        linear: dict[fx.Node, list[fx.Node]] = {}
        gathered: dict[fx.Node, list[fx.Node]] = {}
        for node in self.graph.nodes:
            if node.target is aten.linear.default and self._is_weight(args_of(node)[1]):
                linear.setdefault(_before_dropout(args_of(node)[0]), []).append(node)
            elif node.target in _GATHERS:
                gathered.setdefault(_before_dropout(args_of(node)[0]), []).append(node)
        for node in self.graph.nodes:
            if node in linear and self._is_float(node):
                yield self._value("input", node, linear[node], _path(args_of(linear[node][0])[1]))
            if node in gathered and self._is_float(node):
                yield from self._gathered(node, gathered[node])

    def _gathered(self, node: fx.Node, readers: list[fx.Node]) -> Iterator[Operand]:
        """Tell the scores of attention from what is summed; what is scored and summed is rounded for both."""
        module = _word(module_of(readers[0]).partition(" ")[0])
        if _is_score(node):
            yield self._value("scores", node, readers, module)
            return
        scored = any(item.target is aten.mul.Tensor and self._vector_of(item) for item in node.users)
        chosen = [user for user in node.users if user.target is not aten.sym_size.int] if scored else readers
        yield self._value("sum", node, chosen, module)

    def _value(self, what: What, node: fx.Node, readers: Sequence[fx.Node], module: str) -> Operand:
        return Operand(
            what, self._named(f"{module}_{what}"), node, tuple(readers), signed=not self.signs.nonnegative(node),
            width=math.prod((shape_of(node) or ())[1:]), of_nodes=sizes_of(node, 0) in self.node_counts,
            raw=node in self.raw,
        )  # fmt: skip

    def _weights(self) -> Iterator[Operand]:
        for node in self.graph.find_nodes(op="get_attr"):
            readers = [item for item in node.users if item.target is aten.linear.default and args_of(item)[1] is node]
            if readers and self._is_weight(node):
                rows, width = shape_of(node) or (0, 0)
                name = self._named(f"{_path(node)}_weight")
                yield Operand("weight", name, node, tuple(readers), signed=True, width=width, rows=rows)

    def _attention(self) -> Iterator[Operand]:
        for node in self.graph.find_nodes(op="get_attr"):
            readers = [item for item in node.users if item.target is aten.mul.Tensor and self._vector_of(item) is node]
            if readers:
                _, heads, width = shape_of(node) or (0, 0, 0)
                name = self._named(_word(str(node.target)))
                yield Operand("attention", name, node, tuple(readers), signed=True, width=width, rows=heads)

    def _vector_of(self, product: fx.Node) -> fx.Node | None:
        """Return the parameter [1, heads, channels] that a product weighs the channels of heads by."""
        for item in args_of(product):
            if parameter_of(self.program.body, item) is None or rank_of(item) != 3 or (shape_of(item) or (0,))[0] != 1:
                continue
            summed = [user for user in product.users if user.target is aten.sum.dim_IntList]
            if rank_of(product) == 3 and summed:
                found: fx.Node = item
                return found
        return None

    def _is_weight(self, node: Any) -> bool:
        value = parameter_of(self.program.body, node)
        return value is not None and value.dim() == 2 and value.dtype is torch.float32

    def _is_float(self, node: fx.Node) -> bool:
        return rank_of(node) >= 2 and node.meta.get(DTYPE) is torch.float32 and node.target not in QUANTISERS

    def _named(self, name: str) -> str:
        """Return a name that nothing has yet."""
        found, count = name, 1
        while f"{found}_step" in self.taken or f"{found}_bits" in self.taken:
            found, count = f"{name}_{count}", count + 1
        self.taken |= {f"{found}_step", f"{found}_bits"}
        return found


def raw_values(program: Program) -> set[fx.Node]:
    """Return the values that no weight has a part in: features, those of edges, and sums of them over neighbours."""
    learned: set[fx.Node] = set()
    for node in program.body.graph.nodes:
        read = [args_of(node)[0]] if node.target in QUANTISERS else node.all_input_nodes
        weights = [item for item in read if item.op == "get_attr" and math.prod(shape_of(item) or ()) > 1]
        if weights or any(item in learned for item in read):
            learned.add(node)
    return {node for node in program.body.graph.nodes if node not in learned and node.op != "get_attr"}


def node_sizes(program: Program) -> set[tuple[int, ...]]:
    """Return how many nodes of each kind there are in the runs that shapes were recorded on."""
    runs = [example_nodes(program.inputs, count) for count in EXAMPLE_NODES]
    return {tuple(run[name] for run in runs) for name in runs[0]}


def _is_score(node: fx.Node) -> bool:
    """Tell a sum over the channels of each head."""
    if node.target is not aten.sum.dim_IntList or rank_of(args_of(node)[0]) != 3:
        return False
    return [axis % 3 for axis in args_of(node)[1]] == [2]


def _before_dropout(node: Any) -> Any:
    while isinstance(node, fx.Node) and node.target is aten.dropout.default:
        node = args_of(node)[0]
    return node


def _path(parameter: fx.Node) -> str:
    return _word(str(parameter.target).rpartition(".")[0] or str(parameter.target))


def _word(path: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in path).strip("_") or "model"


def insert(
    program: Program, operand: Operand, step: Tensor, bits: Tensor, *, by: By, local: bool = False, signed: bool = True
) -> fx.Node:
    """Round an operand for its readers; the Program is changed, so pass a copy.

    A quantiser stands before dropout, which in training would otherwise show it other numbers than in an inference.

    Args:
        program: that the operand was found in.
        operand: not rounded yet.
        step: float32, as the op takes it; becomes a parameter.
        bits: likewise.
        by: what has a step of its own.
        local: step and bits learn from their own rows.
        signed: levels below zero exist.

    Returns:
        The call.
    """
    body, graph = program.body, program.body.graph
    target = next(op for op, known in QUANTISERS.items() if known == by)
    given: list[fx.Node] = []
    for part, value in (("step", step), ("bits", bits)):
        name = f"{operand.name}_{part}"
        body.register_parameter(name, nn.Parameter(value.detach().clone().float()))
        with graph.inserting_before(_first_call(graph)):
            parameter = graph.get_attr(name)
        parameter.meta |= {SHAPES: (tuple(value.shape),) * len(operand.value.meta[SHAPES]), DTYPE: torch.float32}
        given.append(parameter)
    first = _first_call(graph)
    start = first if operand.value < first else operand.value.next
    with graph.inserting_before(start):
        source = _heads_in_front(graph, operand)
        call = like(graph.call_function(target, (source, *given, signed, local)), source)
        result = call if source is operand.value else _reshaped(graph, call, operand.value)
    for reader in operand.readers:
        _let_read(graph, reader, operand.value, result)
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    body.recompile()
    return call


def _first_call(graph: fx.Graph) -> fx.Node:
    first: fx.Node = next(node for node in graph.nodes if node.op not in ("placeholder", "get_attr"))
    return first


def _heads_in_front(graph: fx.Graph, operand: Operand) -> fx.Node:
    """Return the operand with the heads of an attention vector as rows."""
    if operand.what != "attention":
        return operand.value
    matrix = graph.call_function(aten.reshape.default, (operand.value, [operand.rows, operand.width]))
    like(matrix, operand.value).meta[SHAPES] = ((operand.rows, operand.width),) * len(operand.value.meta[SHAPES])
    return matrix


def _reshaped(graph: fx.Graph, node: fx.Node, shape_as: fx.Node) -> fx.Node:
    return like(graph.call_function(aten.reshape.default, (node, list(shape_of(shape_as) or ()))), shape_as)


def _let_read(graph: fx.Graph, reader: fx.Node, value: fx.Node, result: fx.Node) -> None:
    """Let a reader of a value, or of a dropout of it, read something else, through the same dropout."""
    for item in reader.all_input_nodes:
        if item is value:
            reader.replace_input_with(value, result)
        elif item.target is aten.dropout.default and _before_dropout(item) is value:
            reader.replace_input_with(item, _dropped(graph, item, value, result))


def _dropped(graph: fx.Graph, dropout: fx.Node, value: fx.Node, result: fx.Node) -> fx.Node:
    """Return the dropout of another value; one that is there already serves its further readers."""
    inner: fx.Node = args_of(dropout)[0]
    source = result if inner is value else _dropped(graph, inner, value, result)
    rest = args_of(dropout)[1:]
    for user in source.users:
        if user.target is aten.dropout.default and args_of(user)[1:] == rest and user.meta.get("dropped") is dropout:
            return user
    with graph.inserting_before(dropout):
        twin = like(graph.call_function(aten.dropout.default, (source, *rest)), dropout)
    twin.meta["dropped"] = dropout
    return twin


def quantisers(program: Program) -> list[Quantiser]:
    """List the quantisers of a Program, in graph order; it must be annotated."""
    raw, counts = raw_values(program), node_sizes(program)
    found = []
    for node in calls(program.body.graph, *QUANTISERS):
        value, *given, signed, local = args_of(node)
        step, bits = map(_table, given)
        of_step, of_bits = (parameter_of(program.body, item) for item in (step, bits))
        if of_step is None or of_bits is None:
            continue
        name = str(step.target).removesuffix("_step")
        width = math.prod((shape_of(value) or ())[1:])
        place = sizes_of(value, 0) in counts, value in raw
        kind = _role(program, node), QUANTISERS[node.target]
        found.append(Quantiser(node, *kind, name, signed, local, width, of_step, of_bits, *place))
    return found


def _table(given: fx.Node) -> fx.Node:
    """Return what entries are selected from, where nodes are numbered anew."""
    return args_of(given)[0] if given.target is aten.index_select.default else given


def fix_tables(body: fx.GraphModule, structure: Mapping[str, Tensor]) -> None:
    """Write the entries that quantisers select by structure values into their tables: the graph is fixed.

    Args:
        body: is changed; its parameters are nobody else's.
        structure: values by the name of the argument.
    """
    given_to = (given for call in calls(body.graph, *QUANTISERS) for given in args_of(call)[1:3])
    for given in dict.fromkeys(given_to):
        table = _table(given)
        if table is given:
            continue
        nodes, count = args_of(args_of(given)[2])
        value = parameter_of(body, table)
        assert value is not None
        replace_tensor(body, table, value[structure[nodes.target] % count])
        given.replace_all_uses_with(table)
        body.graph.erase_node(given)
    body.recompile()


def _role(program: Program, node: fx.Node) -> What:
    """Tell by its readers what a quantiser rounds."""
    value = args_of(node)[0]
    readers = list(_readers(node))
    if parameter_of(program.body, value) is not None:
        return "weight"
    if parameter_of(program.body, constant_of(value)) is not None:
        return "attention"
    if any(reader.target is aten.linear.default for reader in readers):
        return "input"
    return "scores" if _is_score(value) else "sum"


def constant_of(value: Any) -> Any:
    """Return what a quantiser of a constant rounds, without the reshape that lays heads out in rows."""
    return args_of(value)[0] if isinstance(value, fx.Node) and value.target in _SHAPES_ONLY else value


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    for user in node.users:
        if user.target is aten.dropout.default:
            yield from _readers(user)
        else:
            yield user
