"""Write recurrent cells as the linear maps and gates they are made of, which every later step knows."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from gnnexport.program.graphs import args_of

aten = torch.ops.aten

Call = Callable[..., fx.Node]


def expand_cells(graph: fx.Graph) -> int:
    """Replace each call of a GRU, LSTM or simple recurrent cell by its equations; returns how many there were."""
    found = [node for node in graph.nodes if node.target in _CELLS]
    for node in found:
        with graph.inserting_before(node):
            result = _CELLS[node.target](_caller(graph, node), *args_of(node), *node.kwargs.values())
        if isinstance(result, tuple):
            for user in list(node.users):
                user.replace_all_uses_with(result[int(args_of(user)[1])])
                graph.erase_node(user)
        else:
            node.replace_all_uses_with(result)
        graph.erase_node(node)
    return len(found)


def _caller(graph: fx.Graph, node: fx.Node) -> Call:
    """Return what adds a call to a graph as if it came from the same module."""

    def call(target: Any, *arguments: Any) -> fx.Node:
        added = graph.call_function(target, arguments)
        added.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
        return added

    return call


def _gates(call: Call, x: Any, weight: Any, bias: Any, count: int) -> list[fx.Node]:
    """Compute the linear parts of several gates at once and cut them apart."""
    together = call(aten.linear.default, x, weight, bias)
    return list(_parts(call, together, count))


def _parts(call: Call, value: fx.Node, count: int) -> list[fx.Node]:
    parts = call(aten.chunk.default, value, count, -1)
    return [call(operator.getitem, parts, number) for number in range(count)]


def _gru(call: Call, x: Any, h: Any, w_x: Any, w_h: Any, b_x: Any = None, b_h: Any = None) -> fx.Node:
    """Cho et al. 2014, as `torch.nn.GRUCell` writes it: `h' = n + z (h - n)`."""
    (reset_x, update_x, new_x), (reset_h, update_h, new_h) = (
        _gates(call, x, w_x, b_x, 3), _gates(call, h, w_h, b_h, 3)
    )  # fmt: skip
    reset = call(aten.sigmoid.default, call(aten.add.Tensor, reset_x, reset_h))
    update = call(aten.sigmoid.default, call(aten.add.Tensor, update_x, update_h))
    new = call(aten.tanh.default, call(aten.add.Tensor, new_x, call(aten.mul.Tensor, reset, new_h)))
    return call(aten.add.Tensor, new, call(aten.mul.Tensor, update, call(aten.sub.Tensor, h, new)))


def _lstm(
    call: Call, x: Any, state: Any, w_x: Any, w_h: Any, b_x: Any = None, b_h: Any = None
) -> tuple[fx.Node, fx.Node]:
    """Hochreiter and Schmidhuber 1997, as `torch.nn.LSTMCell` writes it."""
    h, c = state
    total = call(
        aten.add.Tensor, call(aten.linear.default, x, w_x, b_x), call(aten.linear.default, h, w_h, b_h)
    )  # fmt: skip
    gates = _parts(call, total, 4)
    let, forget, out = (call(aten.sigmoid.default, gates[number]) for number in (0, 1, 3))
    new = call(aten.mul.Tensor, let, call(aten.tanh.default, gates[2]))
    cell = call(aten.add.Tensor, call(aten.mul.Tensor, forget, c), new)
    return call(aten.mul.Tensor, out, call(aten.tanh.default, cell)), cell


def _simple(activation: Any) -> Callable[..., fx.Node]:
    def cell(call: Call, x: Any, h: Any, w_x: Any, w_h: Any, b_x: Any = None, b_h: Any = None) -> fx.Node:
        """Elman 1990, as `torch.nn.RNNCell` writes it."""
        total = call(
            aten.add.Tensor, call(aten.linear.default, x, w_x, b_x), call(aten.linear.default, h, w_h, b_h)
        )  # fmt: skip
        return call(activation, total)

    return cell


_CELLS: dict[Any, Callable[..., Any]] = {
    aten.gru_cell.default: _gru,
    aten.lstm_cell.default: _lstm,
    aten.rnn_tanh_cell.default: _simple(aten.tanh.default),
    aten.rnn_relu_cell.default: _simple(aten.relu.default),
}
