"""What a model takes where there is no data to tell: widths from its attributes and weights, values made up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.models.basic_gnn import BasicGNN

from gnnexport.errors import UsageError, nearest
from gnnexport.frontends.memory import require_memory
from gnnexport.frontends.signature import (
    arguments_of,
    call_arguments,
    input_width,
    reads,
    require_known,
    shape_of,
    told_kinds,
)
from gnnexport.program.data import GraphData
from gnnexport.program.generated import EDGES_PER_NODE, by_destination, generate
from gnnexport.program.inputs import NAMES, NUM_GRAPHS, TYPES, Input, Role

GENERATED = "generated graphs"
SIZES = (1, 2, 5, 9, 3, 30, 17, 4, 12, 7)
"""Nodes of the graphs that stand in for data."""

_INPUT = re.compile(r"(?P<name>\w+)=(?P<rows>[NE])(?:,(?P<width>[1-9]\d*))?")
_ROWS = {
    Role.NODE_FEATURES: "N",
    Role.EDGE_WEIGHT: "E",
    Role.EDGE_FEATURES: "E",
    Role.EDGE_TYPE: "E",
    Role.NODE_TYPE: "N",
}
_INTEGERS = (Role.EDGE_INDEX, Role.GRAPH_IDS, Role.NUM_GRAPHS, Role.LABEL_EDGES, *TYPES)


def parse_inputs(texts: Sequence[str]) -> dict[str, int | None]:
    """Parse `x=N,16`, `edge_weight=E`, `edge_attr=E,4`, `edge_type=E,3` into widths, or numbers of types, by name.

    Raises:
        UsageError: another form, or rows that the input does not have.
    """
    found: dict[str, int | None] = {}
    for text in texts:
        match = _INPUT.fullmatch(text.replace(" ", ""))
        rows = _ROWS.get(NAMES.get(match["name"], Role.EDGE_INDEX)) if match else None
        if match is None or rows != match["rows"] or (match["width"] is None) != (match["name"] == "edge_weight"):
            mend = "Write x=N,16 for node features, edge_weight=E for edge weights, edge_attr=E,4 for edge features"
            mend += ", edge_type=E,3 for 3 types of edges"
            raise UsageError.at("--input", f"'{text}' is not such a size", mend)
        found[match["name"]] = None if match["width"] is None else int(match["width"])
    return found


def generated_data(model: torch.nn.Module, given: Mapping[str, int | None], seed: int = 0) -> GraphData:
    """Make a set of small graphs of which a model can be asked.

    Raises:
        UsageError: a width that nothing tells, or a name that the model does not take.
        UnsupportedError: a required argument with a name PyG does not use.
    """
    inputs = declared_inputs(model, given)
    data = GraphData(name=GENERATED, inputs=_generate(inputs, seed))
    # An aggregation that depends on the order of neighbours, such as lstm, refuses edges in any order.
    in_order = GraphData(name=GENERATED, inputs=by_destination(inputs, data.inputs))
    return in_order if not _runs(model, data, inputs) and _runs(model, in_order, inputs) else data


def declared_inputs(model: torch.nn.Module, given: Mapping[str, int | None]) -> tuple[Input, ...]:
    """Return the inputs of a model of which there is no data.

    An optional argument stays out unless it is given, or tells the graphs of a batch apart.

    Args:
        model: in evaluation mode.
        given: widths by input name, as the user gave them; `None` where the input has no width.

    Raises:
        UsageError: a width that nothing tells, or a name that the model does not take.
        UnsupportedError: a required argument with a name PyG does not use.
    """
    arguments = arguments_of(model)
    require_known(model, arguments)
    names = [argument.name for argument in arguments if argument.name in NAMES]
    for name in given:
        if name not in names:
            what = f"{type(model).__name__}.forward takes no such input"
            raise UsageError.at(f"--input {name}", what, nearest(name, names))
    chosen = [
        argument.name
        for argument in arguments
        if argument.name in NAMES and (argument.required or argument.name in given or _implied(model, argument.name))
    ]
    widths = {name: given.get(name) or _told_width(model, name) for name in chosen}
    for name in chosen:
        if widths[name] is None and NAMES[name] in TYPES:
            what = f"nothing tells how many types '{name}' of {type(model).__name__} has, and no data is given"
            mend = f"Give the number with --input {name}={_ROWS[NAMES[name]]},3, or give the graph with --data FILE"
            raise UsageError.at("model", what, mend)
        if widths[name] is None:
            widths[name] = _tried_width(model, chosen, widths, name)
    return tuple(_input(name, widths[name]) for name in chosen)


def _input(name: str, width: int | None) -> Input:
    role = NAMES[name]
    kinds = width if role in TYPES else None
    return Input(name, role, "int64" if role in _INTEGERS else "float32", shape_of(role, width or 1), kinds)


def _implied(model: torch.nn.Module, name: str) -> bool:
    """Tell whether an optional argument is wanted although nobody asked for it."""
    if NAMES[name] in TYPES:
        return told_kinds(model, NAMES[name]) is not None
    if NAMES[name] is Role.EDGE_FEATURES:
        return isinstance(model, BasicGNN | MessagePassing) and _edge_width(model) is not None and reads(model, name)
    return NAMES[name] is Role.GRAPH_IDS and reads(model, name)


def _told_width(model: torch.nn.Module, name: str) -> int | None:
    role = NAMES[name]
    if role is Role.NODE_FEATURES:
        return input_width(model)
    if role in TYPES:
        return told_kinds(model, role)
    return _edge_width(model) if role is Role.EDGE_FEATURES else 1


def _edge_width(model: torch.nn.Module) -> int | None:
    widths = [getattr(module, "edge_dim", None) for module in model.modules()]
    return next((width for width in widths if isinstance(width, int)), None)


def _tried_width(model: torch.nn.Module, names: Sequence[str], widths: Mapping[str, int | None], name: str) -> int:
    """Try the widths that the model's weights read, in their order, and return the first that runs.

    Raises:
        UsageError: none does.
    """
    for width in dict.fromkeys(read_widths(model)):
        inputs = tuple(_input(item, width if item == name else widths[item]) for item in names)
        values = _generate(inputs, 0)
        if any(_runs(model, GraphData(GENERATED, each), inputs) for each in (values, by_destination(inputs, values))):
            return width
    what = f"nothing tells how wide '{name}' of {type(model).__name__} is, and no data is given"
    mend = f"Give it with --input {name}={_ROWS[NAMES[name]]},16, or give the graph with --data FILE"
    raise UsageError.at("model", what, mend)


def _runs(model: torch.nn.Module, data: GraphData, inputs: Sequence[Input]) -> bool:
    """Tell whether a model runs: on what does not suit it, it fails in ways of its own."""
    try:
        with torch.inference_mode():
            model(**call_arguments(data, tuple(inputs)))
    except (Exception, SystemExit):
        return False
    return True


def read_widths(model: torch.nn.Module) -> Iterator[int]:
    """Iterate over the second sizes of all weights: what they multiply is that wide."""
    for parameter in model.parameters():
        if parameter.dim() == 2:
            yield from parameter.shape[::-1]


def require_widths(widths: Sequence[int]) -> None:
    """Refuse widths with which the graphs that stand in for data would not fit into memory.

    Raises:
        DataError: they would not.
    """
    columns = sum(widths)
    rows = (EDGES_PER_NODE + 1) * sum(SIZES)
    require_memory(4 * rows * columns, "--input", f"graphs with {columns} features", "Give the width of the model")


def _generate(inputs: Sequence[Input], seed: int) -> dict[str, torch.Tensor]:
    require_widths([item.shape[1] for item in inputs if len(item.shape) == 2 and isinstance(item.shape[1], int)])
    values = generate(inputs, SIZES, seed=seed)
    if any(item.role is Role.GRAPH_IDS for item in inputs):
        values[NUM_GRAPHS] = torch.tensor(len(SIZES))
    return values
