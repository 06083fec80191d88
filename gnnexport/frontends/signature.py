"""Match the arguments of a model's `forward` to the data, by PyG's names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing, Sequential
from torch_geometric.nn.models.basic_gnn import BasicGNN

from gnnexport.errors import DataError, GnnExportError, UnsupportedError
from gnnexport.frontends.refusal import one_line
from gnnexport.program.data import UNLABELLED, GraphData
from gnnexport.program.inputs import (
    NAMES,
    NUM_EDGES,
    NUM_NODES,
    NUM_PAIRS,
    TYPES,
    Input,
    Level,
    Role,
    role_of,
    suffix_of,
)
from gnnexport.program.ties import TiesInOrder

WIDTH_NAMES = ("in_channels", "in_features", "num_features")
KIND_NAMES: Mapping[Role, tuple[str, ...]] = {
    Role.EDGE_TYPE: ("num_relations", "num_edge_types"),
    Role.NODE_TYPE: ("num_node_types",),
}
"""What layers call the number of types that they know."""


@dataclass(frozen=True)
class Argument:
    """A parameter of `forward`, and whether it must be given."""

    name: str
    required: bool


def match_inputs(model: torch.nn.Module, data: GraphData) -> tuple[Input, ...]:
    """Return the inputs of a model in the order of its `forward`.

    An optional argument without data stays out, and so does one that PyG's ready-made models accept and
    ignore.

    Raises:
        UnsupportedError: a required argument with a name PyG does not use.
        DataError: a required argument that the data lacks, or features of another width than the model's.
    """
    arguments = arguments_of(model)
    require_known(model, arguments)
    chosen = []
    for argument in arguments:
        if role_of(argument.name) is None:
            continue
        if argument.name not in data.inputs:
            if argument.required:
                what = f"has no '{argument.name}', which {type(model).__name__}.forward takes"
                raise DataError.at(data.name, what, f"Add {argument.name} to the data")
            continue
        if argument.required or reads(model, argument.name):
            chosen.append(_from_data(model, argument.name, data))
    _check_width(model, data)
    return tuple(chosen)


def call_arguments(data: GraphData, inputs: tuple[Input, ...]) -> dict[str, Any]:
    """Return the arguments of a call of the model by name; the number of graphs is a plain number."""
    return {
        item.name: int(data.inputs[item.name]) if item.role is Role.NUM_GRAPHS else data.inputs[item.name]
        for item in inputs
    }


def run_once(model: torch.nn.Module, data: GraphData, inputs: tuple[Input, ...]) -> tuple[Tensor, Level]:
    """Run the model once and check what it answers; where it sorts, equal values keep their order.

    Returns:
        Its output, float [rows, channels] or [rows], and what a row is about.

    Raises:
        DataError: the model cannot run on this data, or answers something else than the data's labels.
        UnsupportedError: the output has no row for each node, graph or pair, or is not of real numbers.
    """
    name = type(model).__name__
    try:
        with torch.inference_mode(), TiesInOrder():
            output: Any = model(**call_arguments(data, inputs))
    except GnnExportError:
        raise
    except (Exception, SystemExit) as error:
        shapes = ", ".join(f"{entry.name} {list(data.inputs[entry.name].shape)}" for entry in inputs)
        what = f"{name} cannot run on it ({type(error).__name__}: {one_line(error)}); it was given {shapes}"
        raise DataError.at(data.name, what, _mend(model, error)) from error
    level = _level(name, output, data, inputs)
    _check_numbers(name, output, data)
    if data.y is not None:
        _check_labels(name, output, data, level)
    return output, level


def _mend(model: torch.nn.Module, error: BaseException) -> str:
    """Say how to mend data that a model cannot run on: its layers may not take what its `forward` takes."""
    options: tuple[str, ...] = getattr(model, "options_given", ())
    if not options or not isinstance(error, TypeError):
        return "Use the data that the model was trained on"
    return f"Leave {' and '.join(options)} out of the data if the model was trained without"


def _level(name: str, output: Any, data: GraphData, inputs: tuple[Input, ...]) -> Level:
    is_table = isinstance(output, Tensor) and output.dim() in (1, 2)
    if is_table and NUM_NODES + data.target not in data.sizes:
        mend = "Give labels y to the kind of nodes that the model answers for"
        raise DataError.at(data.name, "has several kinds of nodes, and none has labels", mend)
    rows: dict[Level, int] = {"node": data.sizes.get(NUM_NODES + data.target, data.num_nodes)}
    roles = {item.role for item in inputs}
    if Role.GRAPH_IDS in roles:
        assert data.num_graphs is not None
        rows = {"graph": data.num_graphs, **rows}
    if Role.LABEL_EDGES in roles:
        rows = {"pair": int(data.by_role(Role.LABEL_EDGES).shape[1]), **rows}
    for level, count in rows.items():
        if is_table and output.shape[0] == count:
            return level
    got = f"shape {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    counted = " and ".join(f"{count} {level}s" for level, count in rows.items())
    what = f"returns {got} for {counted}"
    raise UnsupportedError.at(name, what, "Return one tensor with a row for each node, graph or pair of nodes")


def _check_numbers(name: str, output: Tensor, data: GraphData) -> None:
    if not output.is_floating_point():
        dtype = str(output.dtype).removeprefix("torch.")
        mend = "Return the float32 scores themselves; what is made of them, such as argmax, comes after the model"
        raise UnsupportedError.at(name, f"returns {dtype}, not floating-point numbers", mend)
    if output.numel() and bool(output.isnan().all()):
        mend = "Check the model's weights, as training may have diverged, and the size of the features"
        raise DataError.at(data.name, f"{name} answers nothing but NaN on it", mend)


def _check_labels(name: str, output: Tensor, data: GraphData, level: Level) -> None:
    assert data.y is not None
    mend = "Use the data that the model was trained on"
    if level != data.level:
        what = f"{name} answers for each {level}, but the labels are for each {data.level}"
        raise DataError.at(data.name, what, mend)
    width = output.shape[1] if output.dim() == 2 else 1
    if data.y.is_floating_point():
        wanted = data.y.shape[1] if data.y.dim() == 2 else 1
        if wanted != width:
            raise DataError.at(data.name, f"has {wanted} targets in a row, but {name} answers {width}", mend)
    elif data.y.numel():
        largest = int(data.y.max())
        if largest >= max(width, 2) and largest != UNLABELLED:
            raise DataError.at(data.name, f"has the label {largest}, but {name} answers {width} classes", mend)


def input_width(model: torch.nn.Module) -> int | None:
    """Return how many features per node a model reads, as far as it says so; `None` when it does not."""
    own = _width(model)
    if own is not None:
        return own
    if isinstance(model, Sequential) and model._children:
        first = model._children[0]
        step = getattr(model, first.name)
        reads_x = first.param_names[:1] == list(model.signature.param_dict)[:1] == ["x"]
        return _width(step) if reads_x and isinstance(step, torch.nn.Module) else None
    return None


def arguments_of(model: torch.nn.Module) -> list[Argument]:
    """Return what a model's `forward` takes by name, in order."""
    if isinstance(model, Sequential):
        return [Argument(name, required=True) for name in model.signature.param_dict]
    found = []
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        found.append(Argument(parameter.name, parameter.default is parameter.empty))
    return found


def require_known(model: torch.nn.Module, arguments: list[Argument]) -> None:
    """Refuse a model that needs what nobody here knows how to give.

    Raises:
        UnsupportedError: a required argument with a name PyG does not use, or no node features.
    """
    unknown = [argument.name for argument in arguments if argument.required and role_of(argument.name) is None]
    name = f"{type(model).__name__}.forward"
    if unknown:
        what = f"takes '{unknown[0]}', whose meaning is not known"
        mend = f"Wrap the model in a module whose forward takes {', '.join(NAMES)}"
        raise UnsupportedError.at(name, what, mend)
    if not any(role_of(argument.name) is Role.NODE_FEATURES for argument in arguments):
        raise UnsupportedError.at(name, "does not take node features 'x'", "Name its first argument x")


def reads(model: torch.nn.Module, name: str) -> bool:
    """Tell whether PyG's ready-made models and layers use an optional argument that they accept."""
    if isinstance(model, BasicGNN):
        if NAMES[name] is Role.GRAPH_IDS:
            return any(_takes_batch(norm) for norm in _norms(model))
        if name == "edge_weight":
            return bool(model.supports_edge_weight)
        if name == "edge_attr":
            return bool(model.supports_edge_attr) and any(_takes_edge_attr(conv) for conv in model.convs)
    if isinstance(model, MessagePassing) and name == "edge_attr":
        return _takes_edge_attr(model)
    return True


def _norms(model: BasicGNN) -> list[torch.nn.Module]:
    return [norm for norm in model.norms or [] if not isinstance(norm, torch.nn.Identity)]


def _takes_batch(norm: torch.nn.Module) -> bool:
    return "batch" in inspect.signature(norm.forward).parameters


def _takes_edge_attr(layer: torch.nn.Module) -> bool:
    return getattr(layer, "edge_dim", 1) is not None


def _from_data(model: torch.nn.Module, name: str, data: GraphData) -> Input:
    role, value = role_of(name), data.inputs[name]
    assert role is not None
    dtype = str(value.dtype).removeprefix("torch.")
    kinds = _kinds(model, role, value, data.name) if role in TYPES else None
    return Input(name, role, dtype, shape_of(role, value.shape[-1] if value.dim() else 1, suffix_of(name)), kinds)


def _kinds(model: torch.nn.Module, role: Role, value: Tensor, where: str) -> int:
    """Return how many types there are: as many as the model knows, else as the data has."""
    present = int(value.max()) + 1 if value.numel() else 1
    known = told_kinds(model, role)
    if known is not None and present > known:
        what = f"{role.value} holds {present - 1}, but {type(model).__name__} knows {known} types, numbered from 0"
        raise DataError.at(where, what, "Use the data that the model was trained on")
    return known or present


def told_kinds(model: torch.nn.Module, role: Role) -> int | None:
    """Return how many types of edges or nodes a model knows, as far as its layers say so; `None` when they do not."""
    counts = [getattr(module, name, None) for module in model.modules() for name in KIND_NAMES.get(role, ())]
    return min((count for count in counts if type(count) is int and count > 0), default=None)


def shape_of(role: Role, width: int, kind: str = "") -> tuple[int | str, ...]:
    """Return the sizes of an input that plays a role, for a kind of nodes or edges; `width` counts for features."""
    shapes: Mapping[Role, tuple[int | str, ...]] = {
        Role.NODE_FEATURES: (NUM_NODES + kind, width),
        Role.EDGE_INDEX: (2, NUM_EDGES + kind),
        Role.EDGE_WEIGHT: (NUM_EDGES + kind,),
        Role.EDGE_FEATURES: (NUM_EDGES + kind, width),
        Role.EDGE_TYPE: (NUM_EDGES,),
        Role.NODE_TYPE: (NUM_NODES,),
        Role.GRAPH_IDS: (NUM_NODES,),
        Role.NUM_GRAPHS: (),
        Role.LABEL_EDGES: (2, NUM_PAIRS),
    }
    return shapes[role]


def _check_width(model: torch.nn.Module, data: GraphData) -> None:
    if data.keys:
        return
    expected, found = input_width(model), data.by_role(Role.NODE_FEATURES).shape[1]
    if expected is not None and expected != found:
        what = f"x has {found} features per node, {type(model).__name__} was trained on {expected}"
        raise DataError.at(data.name, what, "Use the data that the model was trained on")


def _width(module: torch.nn.Module) -> int | None:
    for name in WIDTH_NAMES:
        width = getattr(module, name, None)
        if isinstance(width, tuple | list) and width and width[0] == width[-1]:
            width = width[0]
        if isinstance(width, int) and not isinstance(width, bool) and width > 0:
            return width
    return None
