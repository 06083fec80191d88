"""Models over several kinds of nodes, which take dictionaries, wrapped so that they take tensors by name.

What `to_hetero` and `HeteroConv` make has a `forward(x_dict, edge_index_dict)` that returns a dictionary. The
wrapper takes `x__paper`, `edge_index__author__writes__paper` and so on, and returns what the model says of the one
kind of nodes that is asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnnexport.errors import DataError, GnnExportError, UnsupportedError
from gnnexport.frontends.exported import with_signature
from gnnexport.frontends.signature import Argument, arguments_of
from gnnexport.program.data import GraphData, Kind
from gnnexport.program.inputs import NUM_NODES, OF, ends_of, suffix_of

DICT = "_dict"
SIDES = ("x_src", "x_dst")
BASES = ("x", "edge_index", "edge_weight", "edge_attr")
MEND = "Let forward take x_dict and edge_index_dict, or the tensors by name, such as x__paper"
"""The way in for a model over several kinds of nodes."""


class HeteroForward(nn.Module):
    """Call a model with dictionaries made of the arguments."""

    def __init__(
        self, model: nn.Module, arguments: tuple[str, ...], keys: Mapping[str, Kind], target: Kind | None
    ) -> None:
        """Wrap a model.

        Args:
            model: takes dictionaries.
            arguments: what its `forward` calls them.
            keys: the key of each tensor in its dictionary, by its name.
            target: the kind of nodes whose answer counts; `None` where the model returns one tensor.
        """
        super().__init__()
        self.model, self.arguments, self.keys, self.target = model, arguments, dict(keys), target
        self.options_given = _options(model, [item.removesuffix(DICT) for item in arguments])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Make the dictionaries and call the model."""
        values = dict(zip(self.keys, args, strict=False))
        values.update(kwargs)
        made = {argument: self._dictionary(argument.removesuffix(DICT), values) for argument in self.arguments}
        answer = self.model(**made)
        return answer[self.target] if isinstance(answer, dict) and self.target in answer else answer

    def _dictionary(self, base: str, values: Mapping[str, Any]) -> dict[Kind, Any]:
        return {self.keys[name]: value for name, value in values.items() if name.partition(OF)[0] == base}


def takes_dictionaries(model: nn.Module) -> bool:
    """Tell whether `forward` takes dictionaries by kind, by its names or its types; one for one kind takes tensors."""
    if isinstance(model, torch.fx.GraphModule) or any(type(item).__name__ == "HeteroConv" for item in model.modules()):
        return all(argument.name.removesuffix(DICT) in BASES for argument in _required(model))
    required = _required(model)
    return bool(required) and all(
        argument.name.endswith(DICT) and argument.name.removesuffix(DICT) in BASES for argument in required
    )


def option_notes(wrapper: nn.Module) -> list[str]:
    """Tell which arguments a model is called with that it can do without: whatever the data has of them."""
    given: tuple[str, ...] = getattr(wrapper, "options_given", ())
    name = type(wrapper).__name__
    return [f"{name}.forward, which can do without '{option}', was given what the data has of it" for option in given]


def wrap_hetero_forward(model: nn.Module, data: GraphData) -> tuple[nn.Module, GraphData]:
    """Return a module that takes tensors by name, the model itself where it does so, and the data with its target.

    Args:
        model: in evaluation mode.
        data: a graph of several kinds.

    Raises:
        UnsupportedError: the model takes neither dictionaries nor known names, or answers for several kinds.
        DataError: the model takes something that the data has of no kind.
    """
    arguments, required = arguments_of(model), _required(model)
    if required and all(argument.name in data.inputs for argument in required):
        return model, data
    name = type(model).__name__
    if {argument.name for argument in required} & set(SIDES):
        return _bipartite(model, data, arguments), data
    bases = {argument.name.removesuffix(DICT) for argument in required}
    if not required or not bases <= set(BASES):
        listed = ", ".join(item.name for item in required) or "nothing by name"
        raise UnsupportedError.at(f"{name}.forward", f"takes {listed}", MEND)
    held = {full.partition(OF)[0] for full in data.keys}
    if bases - held:
        base = min(bases - held)
        mend = f"Add {base} to the kinds of edges that had it in training"
        raise DataError.at(data.name, f"has no '{base}' of any kind, which {name}.forward takes", mend)
    taken = tuple(item.name for item in arguments if item.name.removesuffix(DICT) in held)
    bases = {item.removesuffix(DICT) for item in taken}
    keys = {full: key for full, key in data.keys.items() if full.partition(OF)[0] in bases}
    forward = with_signature(HeteroForward.forward, [(full, True) for full in keys])
    make: Any = type(name, (HeteroForward,), {"forward": forward})
    target = next((key for full, key in data.keys.items() if data.target and suffix_of(full) == data.target), None)
    wrapper: nn.Module = make(model, taken, keys, target).train(model.training)
    return (wrapper, data) if data.target else _found_target(wrapper, data)


class BipartiteForward(nn.Module):
    """Call a model over two kinds of nodes by the names of its own arguments."""

    def __init__(self, model: nn.Module, names: Mapping[str, str]) -> None:
        """Wrap a model.

        Args:
            model: takes `x_src`, `x_dst` and `edge_index`.
            names: of the tensor that is given for each argument.
        """
        super().__init__()
        self.model, self.names = model, dict(names)
        self.options_given = _options(model, list(names))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        values = dict(zip(dict.fromkeys(self.names.values()), args, strict=False))
        values.update(kwargs)
        return self.model(**{argument: values[full] for argument, full in self.names.items()})


def _bipartite(model: nn.Module, data: GraphData, arguments: list[Argument]) -> nn.Module:
    """Wrap a model that takes the two sides of one kind of edges, which may be of one kind of nodes."""
    name = type(model).__name__
    kinds = sorted({suffix_of(full) for full, key in data.keys.items() if not isinstance(key, str)})
    if len(kinds) != 1:
        what = f"takes the two sides of one kind of edges, where {data.name} has {len(kinds)} kinds"
        raise UnsupportedError.at(f"{name}.forward", what, MEND)
    (kind,) = kinds
    sides = dict(zip(SIDES, (suffix_of(end) for end in ends_of(f"edge_index{kind}")), strict=True))
    names = {item.name: f"x{sides[item.name]}" if item.name in sides else f"{item.name}{kind}" for item in arguments}
    lacking = [item.name for item in arguments if item.required and names[item.name] not in data.inputs]
    if lacking:
        raise DataError.at(data.name, f"has no '{lacking[0]}', which {name}.forward takes", "Add it to the data")
    names = {argument: full for argument, full in names.items() if full in data.inputs}
    forward = with_signature(BipartiteForward.forward, [(full, True) for full in dict.fromkeys(names.values())])
    make: Any = type(name, (BipartiteForward,), {"forward": forward})
    wrapper: nn.Module = make(model, names).train(model.training)
    return wrapper


def _found_target(wrapper: nn.Module, data: GraphData) -> tuple[nn.Module, GraphData]:
    """Ask the model which kind of nodes it answers for, where no labels say so."""
    assert isinstance(wrapper, HeteroForward)
    try:
        with torch.inference_mode():
            answer = wrapper(**{name: data.inputs[name] for name in wrapper.keys})
    except GnnExportError:
        raise
    except Exception:
        # What is wrong with it is told by the run that follows.
        return wrapper, data
    if isinstance(answer, dict) and len(answer) > 1:
        listed = ", ".join(str(key)[:40] for key in answer)
        what = f"answers for several kinds of nodes ({listed}), and no labels tell which is meant"
        raise UnsupportedError.at(type(wrapper).__name__, what, "Return the answer for one kind")
    if isinstance(answer, dict) and answer:
        ((wrapper.target, answer),) = answer.items()
    kinds = {suffix_of(full): key for full, key in data.keys.items() if isinstance(key, str)}
    # What is no row for each node is told of by the run that follows.
    rows = len(answer) if isinstance(answer, Tensor) and answer.dim() else None
    chosen = [suffix for suffix, key in kinds.items() if key == wrapper.target]
    chosen += [suffix for suffix in kinds if data.sizes[NUM_NODES + suffix] == rows]
    return wrapper, GraphData(data.name, data.inputs, target=chosen[0] if chosen else "", keys=data.keys)


def _options(model: nn.Module, taken: Sequence[str]) -> tuple[str, ...]:
    """Return what is taken of the data though the model can do without, such as `edge_attr`."""
    given = (item.name.removesuffix(DICT) for item in arguments_of(model) if not item.required)
    return tuple(name for name in given if name in taken)


def _required(model: nn.Module) -> list[Argument]:
    return [argument for argument in arguments_of(model) if argument.required]
