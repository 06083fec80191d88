"""Models whose `forward` takes one PyG `Data`, wrapped so that they take its tensors by name.

What a model reads of its `Data` is found by running it once on an object that keeps account. The wrapper's
`forward` then has exactly those tensors as arguments and makes such an object inside, which torch.export
can trace through; it cannot trace through a `Data`.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from gnnexport.errors import DataError, GnnExportError, UnsupportedError, UsageError
from gnnexport.frontends.declared import read_widths, require_widths
from gnnexport.frontends.exported import with_signature
from gnnexport.frontends.refusal import one_line
from gnnexport.program.inputs import NAMES, NUM_GRAPHS

DATA_NAMES = frozenset(
    (
        "data", "batch", "graph", "graphs", "g", "d", "sample", "input", "inputs", "batched_data", "batch_data",
        "data_batch", "graph_data", "pyg_data", "minibatch", "mini_batch", "batch_graph", "graph_batch",
    )
)  # fmt: skip
"""What people call a `Data` among the arguments of `forward`."""

ABSENT = frozenset(("edge_weight", "edge_attr", "batch", "y", "pos", "time", "face"))
"""What a `Data` answers with `None` when it has no such attribute."""

EDGE_SIZES = {"edge_weight": "edge_weight=E", "edge_attr": "edge_attr=E,4"}
"""How a user says without data that the graphs have values on their edges."""


class GraphArguments:
    """Stand for a `Data` or a `Batch` inside `forward`: its tensors, and the sizes that follow from them."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        if name in ABSENT:
            return None
        raise AttributeError(f"the graph has no '{name}'")

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def __contains__(self, name: str) -> bool:
        return getattr(self, name, None) is not None

    @property
    def num_nodes(self) -> Any:
        """Rows of the node features."""
        return self.x.size(0)

    @property
    def num_edges(self) -> Any:
        """Columns of the edge index."""
        return self.edge_index.size(1)

    @property
    def num_node_features(self) -> Any:
        """Columns of the node features."""
        return self.x.size(1)

    @property
    def num_features(self) -> Any:
        """Columns of the node features."""
        return self.x.size(1)

    @property
    def num_edge_features(self) -> Any:
        """Columns of the edge features, 0 without any."""
        return 0 if self.edge_attr is None else self.edge_attr.size(1)

    @property
    def batch_size(self) -> Any:
        """Graphs in the batch."""
        return self.num_graphs

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Stay on the device: a deployed model has one."""
        return self

    def cpu(self) -> Self:
        """Stay on the device."""
        return self

    def clone(self) -> GraphArguments:
        """Return another such object, to be changed freely."""
        return GraphArguments(self.__dict__)


class _Recorder(GraphArguments):
    """Keep account of what is read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__({"_given": dict(values), "_read": [], "_unknown": []})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        given = self.__dict__["_given"]
        if name in given:
            self.__dict__["_read"].append(name)
            return given[name]
        self.__dict__["_unknown"].append(name)
        if name in ABSENT:
            return None
        raise AttributeError(f"the graph has no '{name}'", name=name, obj=self)

    def clone(self) -> GraphArguments:
        return self


class DataForward(nn.Module):
    """Call a model with a graph made of the arguments."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Make the graph and call the model."""
        values = dict(zip(self.names, args, strict=False))
        values.update(kwargs)
        return self.model(GraphArguments(values))


def takes_data(model: nn.Module) -> bool:
    """Tell whether the only argument that `forward` requires is a PyG `Data`, by its type or its name."""
    if hasattr(model, "signature"):
        return False
    required = list(_required(model))
    if len(required) != 1:
        return False
    kind = required[0].annotation
    if isinstance(kind, str):
        kind = kind.rpartition(".")[2].strip("'\"")
        return kind in ("Data", "Batch") or (kind in ("Any", "object") and required[0].name in DATA_NAMES)
    if inspect.isclass(kind) and issubclass(kind, Data | Batch):
        return True
    return kind in (inspect.Parameter.empty, Any) and required[0].name in DATA_NAMES


def wrap_data_forward(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[nn.Module, list[str]]:
    """Return a module that takes tensors by name, the model itself where it does so already, and what to tell.

    Args:
        model: in evaluation mode.
        inputs: the tensors of a graph, or a batch of graphs, by the names of `NAMES`; the model is run on them.

    Raises:
        UnsupportedError: the model reads something that is not among the known names.
        DataError: it reads a known one that the graph lacks, or cannot run on it.
    """
    return _wrapped(model, inputs, NAMES) if takes_data(model) else (model, [])


def wrap_without_data(model: nn.Module, widths: Mapping[str, int | None]) -> tuple[nn.Module, list[str]]:
    """Do as `wrap_data_forward` where there is no data, on a small batch of graphs of a width that runs.

    Args:
        model: in evaluation mode.
        widths: of the inputs that the user named, such as `{"x": 16}`; `x` is tried out where it is not given.

    Raises:
        UsageError: no width runs, or one takes more memory than there is.
        UnsupportedError: the model reads something that is not among the known names, whatever the width.
    """
    if not takes_data(model):
        return model, []
    given = widths.get("x")
    strange: UnsupportedError | None = None
    for width in dict.fromkeys([given] if given else read_widths(model)):
        batch = _small_batch({**widths, "x": width})
        try:
            # Nobody knows here which edge values the graphs have, so these are told of too.
            return _wrapped(model, batch, frozenset(NAMES) - {"edge_weight", "edge_attr"})
        except DataError:
            continue
        except UnsupportedError as error:
            # A wrong width can be behind this as well: only where none runs is it the reason.
            strange = strange or error
    if strange is not None:
        raise strange
    what = f"nothing tells how wide 'x' of {type(model).__name__} is, and no data is given"
    mend = "Give it with --input x=N,16, or give the graph with --data FILE"
    raise UsageError.at("model", what, mend)


def _wrapped(model: nn.Module, inputs: Mapping[str, Tensor], settled: Collection[str]) -> tuple[nn.Module, list[str]]:
    """Wrap a model, and tell which attributes other than the settled ones it read in vain."""
    name = type(model).__name__
    names, vain = _read_by(model, inputs, name)
    if "x" not in names:
        mend = "Let forward read data.x, or wrap the model in a module that takes x and edge_index"
        raise UnsupportedError.at(f"{name}.forward", "reads no node features 'x' of its Data", mend)
    forward = with_signature(DataForward.forward, [(argument, True) for argument in names])
    wrapper: nn.Module = type(name, (DataForward,), {"forward": forward})(model, names)
    notes = [_vain_note(name, read) for read in dict.fromkeys(vain) if read not in settled]
    return wrapper.train(model.training), notes


def _vain_note(name: str, read: str) -> str:
    what = f"model: {name}.forward asks for '{read}' of its Data and was captured without it"
    if read in EDGE_SIZES:
        return f"{what}; if its graphs have it, give --input {EDGE_SIZES[read]}, or --data"
    return f"{what}; only {', '.join(NAMES)} are handed to a model"


def _small_batch(widths: Mapping[str, int | None]) -> dict[str, Tensor]:
    """Make two graphs of three and two nodes, side by side."""
    require_widths([width for width in widths.values() if width])
    edge_index = torch.tensor([[0, 1, 2, 3], [1, 2, 0, 4]])
    values = {"x": torch.ones(5, widths["x"] or 1), "edge_index": edge_index}
    if "edge_weight" in widths:
        values["edge_weight"] = torch.ones(4)
    if "edge_attr" in widths:
        values["edge_attr"] = torch.ones(4, widths["edge_attr"] or 1)
    return {**values, "batch": torch.tensor([0, 0, 0, 1, 1]), NUM_GRAPHS: torch.tensor(2)}


def _required(model: nn.Module) -> Iterator[inspect.Parameter]:
    for parameter in inspect.signature(model.forward).parameters.values():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if not variadic and parameter.default is parameter.empty:
            yield parameter


def _read_by(model: nn.Module, inputs: Mapping[str, Tensor], name: str) -> tuple[tuple[str, ...], list[str]]:
    """Run the model and return what it read, in the order of `NAMES`, and what it read in vain."""
    values: dict[str, Any] = {key: value for key, value in inputs.items() if key in NAMES}
    if NUM_GRAPHS in values:
        values[NUM_GRAPHS] = int(values[NUM_GRAPHS])
    recorder = _Recorder(values)
    fields = vars(recorder)
    try:
        with torch.inference_mode():
            model(recorder)
    except (Exception, SystemExit) as error:
        raise _explained(error, recorder, name) from error
    return tuple(argument for argument in NAMES if argument in fields["_read"]), fields["_unknown"]


def _explained(error: BaseException, graph: _Recorder, name: str) -> GnnExportError:
    """Say why a model cannot run on the graph.

    Many models ask for attributes that they can do without, so one that was read in vain is blamed only where
    the error is about it: the graph's own complaint, or what Python says of a `None` in a tensor's place.
    """
    missing: list[str] = vars(graph)["_unknown"]
    reason = f"{type(error).__name__}: {one_line(error)}"
    refused = error.name if isinstance(error, AttributeError) and error.obj is graph else None
    blamed = refused or (missing[-1] if missing and isinstance(error, AttributeError | TypeError) else None)
    if blamed is not None and blamed not in NAMES:
        what = f"reads '{blamed}' of its Data, whose meaning is not known ({reason})"
        mend = f"Let it read only {', '.join(NAMES)}, or make '{blamed}' of these inside the model"
        return UnsupportedError.at(f"{name}.forward", what, mend)
    if refused is not None:
        return DataError.at("data", f"has no '{refused}', which {name}.forward reads", f"Add {refused} to the data")
    without = f"; it reads {', '.join(dict.fromkeys(missing))} too, which the data lacks" if missing else ""
    what = f"{name} cannot run on it ({reason}{without})"
    return DataError.at("data", what, "Use the data that the model was trained on")
