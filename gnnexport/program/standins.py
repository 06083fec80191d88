"""Stand-ins for functions that torch.export cannot follow, while a model is captured.

Each says the same in a way that leaves no number of the data to be asked for. They stand for functions of torch and
utilities of PyG, whoever calls them, not for layers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch_geometric.nn.aggr import Aggregation
from torch_geometric.utils import cumsum, to_dense_batch

from gnnexport.program.counts import COUNTS, one_more_than_largest
from gnnexport.program.dialect import tables as _tables  # noqa: F401  registers the ops
from gnnexport.program.matrices import MATRICES

_AGGREGATE = [Aggregation.__call__]
"""In a list, for by its name it would be replaced here too."""

_CELLS = "_gnnexport_cells"


@contextmanager
def standins(model: nn.Module, least: int = 1) -> Iterator[None]:
    """Let the stand-ins be called instead of what they stand for.

    Args:
        model: of whose modules' code the names are replaced as well, wherever it was loaded from.
        least: how many columns a dense batch has at least.
    """
    instead = {
        to_dense_batch: _dense_batch(least),
        cumsum: _cumsum,
        Aggregation.assert_sorted_index: _accept_any_order,
        Aggregation.__call__: _aggregate,
        **COUNTS,
        **MATRICES,
    }
    replaced = [(owner, name, value) for owner in _owners(model) for name, value in _functions(owner, instead)]
    for owner, name, value in replaced:
        _put(owner, name, instead[value])
    try:
        with _Functions():
            yield
    finally:
        for owner, name, value in replaced:
            _put(owner, name, value)


def _owners(model: nn.Module) -> list[Any]:
    """Return what holds functions: every module that is loaded, the names around each part of a model, PyG's class."""
    modules = [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
    known = {id(vars(module)) for module in modules}
    around = {id(names): names for part in model.modules() if (names := _names_around(part)) is not None}
    return [*modules, *(names for key, names in around.items() if key not in known), Aggregation]


def _names_around(part: nn.Module) -> dict[str, Any] | None:
    return getattr(type(part).forward, "__globals__", None)


def _functions(owner: Any, wanted: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    names = owner if isinstance(owner, dict) else vars(owner)
    return [(name, value) for name, value in list(names.items()) if type(value) is FunctionType and value in wanted]


def _put(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[name] = value
    else:
        setattr(owner, name, value)


def _accept_any_order(self: Aggregation, index: Tensor | None) -> None:
    """Check nothing: what sorts items into a table puts up with any order."""


def _aggregate(self: Aggregation, x: Tensor, index: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    """Aggregate into as many rows as the index needs, unless told."""
    told = kwargs.get("ptr") is not None or kwargs.get("dim_size") is not None
    if index is not None and not args and not told:
        kwargs["dim_size"] = one_more_than_largest(index)
    answer: Tensor = _AGGREGATE[0](self, x, index, *args, **kwargs)
    return answer


def _cumsum(x: Tensor, dim: int = 0) -> Tensor:
    """Put a zero in front of the sums, without writing into parts of a tensor."""
    return torch.cat([torch.zeros_like(x.narrow(dim, 0, 1)), x.cumsum(dim)], dim)


def _dense_batch(least: int) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return what stands for `to_dense_batch`."""

    def dense_batch(
        x: Tensor,
        batch: Tensor | None = None,
        fill_value: float | Tensor = 0.0,
        max_num_nodes: int | None = None,
        batch_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        if batch is None and max_num_nodes is None:
            mask = torch.ones(1, x.size(0), dtype=torch.bool)
            setattr(mask, _CELLS, None)
            return x.unsqueeze(0), mask
        if batch is None:
            batch, batch_size = x.new_zeros(x.size(0), dtype=torch.long), 1
        if batch_size is None:
            batch_size = one_more_than_largest(batch)
        table, cells = torch.ops.gnn.table(batch, batch_size, max_num_nodes or least)
        if max_num_nodes is not None:
            table = table[:, :max_num_nodes]
        fill = x.new_full((1, *x.shape[1:]), 0.0 if isinstance(fill_value, Tensor) else fill_value)
        if isinstance(fill_value, Tensor):
            fill = fill + fill_value.to(x.dtype)
        mask = table < x.size(0)
        if max_num_nodes is None:
            setattr(mask, _CELLS, cells)
        return torch.cat([x, fill])[table], mask

    return dense_batch


def _take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """Gather: `take_along_dim` fixes every size that is open, to broadcast it."""
    if dim is None:
        return input.flatten().gather(0, indices.flatten())
    along = dim % input.dim()
    return _repeated(input, indices, along).gather(along, _repeated(indices, input, along))


def _repeated(values: Tensor, other: Tensor, along: int) -> Tensor:
    """Repeat a single row as often as another tensor has rows, in all dimensions but one."""
    sizes: list[Any] = [-1] * values.dim()
    for axis, (mine, theirs) in enumerate(zip(values.shape, other.shape, strict=False)):
        if axis != along and isinstance(mine, int) and mine == 1:
            sizes[axis] = theirs
    return values.expand(sizes)


def _bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """Count into as many numbers as were asked for: `bincount` gives more where a value is larger than they are."""
    ones = torch.ones_like(input) if weights is None else weights
    return ones.new_zeros(minlength).scatter_add(0, input, ones)


def _select(values: Tensor, index: Any) -> Tensor:
    """Take the rows of the items back out of a dense batch, one for each: a mask gives a number that is not known."""
    cells: Tensor | None = getattr(index, _CELLS)
    rows = values.flatten(0, 1)
    return rows if cells is None else rows.index_select(0, cells)


def _fill(values: Tensor, index: Tensor, number: Any) -> None:
    """Write one number wherever a mask says so."""
    values.masked_fill_(index.view(*index.shape, *[1] * (values.dim() - index.dim())), number)


def _recurrent(name: str) -> Callable[..., Any]:
    """Return what stands for a recurrence over padded sequences; any other is left alone."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != 9 or not isinstance(args[2], list | tuple):
            return getattr(torch, name)(*args, **kwargs)
        input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first = args
        if isinstance(input.shape[1 if batch_first else 0], int) or _projects(hx):
            return getattr(torch, name)(*args)
        options = (has_biases, num_layers, dropout, train and dropout > 0, bidirectional, batch_first)
        return getattr(torch.ops.gnn, name)(input, hx, params, *options)

    return run


def _projects(hx: Any) -> bool:
    """Tell whether an LSTM projects its hidden state, which ONNX cannot say."""
    return isinstance(hx, list | tuple) and hx[0].shape[2] != hx[1].shape[2]


_STANDINS: Mapping[Any, Callable[..., Any]] = {
    torch.take_along_dim: _take_along_dim,
    torch.Tensor.take_along_dim: _take_along_dim,
    torch.lstm: _recurrent("lstm"),
    torch.gru: _recurrent("gru"),
}


class _Functions(TorchFunctionMode):
    """Call the stand-ins of torch's own functions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        standin = _STANDINS.get(func) or self._where(func, args, kwargs)
        return func(*args, **kwargs) if standin is None else standin(*args, **kwargs)

    def _where(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Callable[..., Any] | None:
        """Return what stands for a function on these arguments only."""
        if func in (torch.bincount, torch.Tensor.bincount) and not isinstance(kwargs.get("minlength", 0), Tensor):
            return _bincount if "minlength" in kwargs or len(args) > 2 else None
        if func is torch.Tensor.__getitem__ and hasattr(args[1], _CELLS):
            return _select
        if func is torch.Tensor.__setitem__ and _is_mask(args[1]) and not isinstance(args[2], Tensor):
            return _fill
        return None


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype is torch.bool
