"""What each op does to the channels of its arguments, and the labels of a whole body by that."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from gnnexport.program.graphs import args_of, argument, module_of, parameter_of
from gnnexport.program.labels import OUTPUT, Atoms, Labelling, template
from gnnexport.program.shapes import SHAPES, rank_of, shape_of, sizes_of

aten = torch.ops.aten
gnn = torch.ops.gnn

Rule = Callable[[Labelling, fx.Node], "Atoms | list[Atoms] | None"]
"""Returns the atoms of a call's result or results, and `None` where it can say nothing of its arguments."""


def label(body: fx.GraphModule, *, whole_heads: bool) -> Labelling:
    """Read an annotated body in graph order.

    Args:
        body: annotated.
        whole_heads: join all channels of an attention head.
    """
    found = Labelling(body, whole_heads=whole_heads)
    for node in body.graph.nodes:
        if node.op == "placeholder" and rank_of(node) >= 1:
            found.of[node] = found.pinned(node, f"they are the input '{node.target}'")
        elif node.op == "output":
            for item in node.all_input_nodes:
                found.pin(found.atoms(item), OUTPUT)
        elif node.op == "call_function":
            _label_call(found, node)
    return found


def _label_call(found: Labelling, node: fx.Node) -> None:
    rule = _RULES.get(node.target, _pointwise if is_pointwise(node) else None)
    result = rule(found, node) if rule is not None else None
    if isinstance(result, list):
        found.parts[node] = result
    elif result is not None:
        found.of[node] = result
    elif not (rank_of(node) == 0 and node.target in _WHOLE):
        _pin_all(found, node)


def _pin_all(found: Labelling, node: fx.Node) -> None:
    """Pin all that an op reads and makes whose effect on channels is not known."""
    name = str(node.target).removesuffix(".default")
    for item in node.all_input_nodes:
        if rank_of(item) >= 1:
            found.pin(found.atoms(item), f"{module_of(node)} reads them by {name}")
    if rank_of(node) >= 1:
        found.of[node] = found.pinned(node, f"{module_of(node)} makes them by {name}")


def is_pointwise(node: fx.Node) -> bool:
    """Tell whether an op acts on every entry by itself."""
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def _pointwise(found: Labelling, node: fx.Node) -> Atoms | None:
    shape = template(node)
    operands = [atoms for item in node.all_input_nodes if (atoms := found.atoms(item)) is not None]
    whole = [atoms for atoms in operands if _padded(atoms, len(shape)) == shape]
    if not whole or any(atoms.ndim > len(shape) for atoms in operands):
        return None
    result = whole[0].reshape(shape)
    for atoms in operands:
        if _padded(atoms, len(shape)) == shape:
            found.join(atoms.reshape(shape), result)
        else:
            found.spread(atoms, result, node)
    return result


def _padded(atoms: Atoms, rank: int) -> tuple[int, ...]:
    return (1,) * (rank - atoms.ndim) + atoms.shape


def _first(found: Labelling, node: fx.Node) -> fx.Node:
    item: fx.Node = args_of(node)[0]
    return item


def _rowwise(found: Labelling, node: fx.Node) -> Atoms | None:
    """Treat an op that moves, sums or drops whole rows."""
    atoms = found.atoms(_first(found, node))
    return atoms if atoms is not None and atoms.shape == template(node) else None


def _index(found: Labelling, node: fx.Node) -> Atoms | None:
    return _rowwise(found, node) if len(args_of(node)[1]) == 1 else None


def _aggregate(found: Labelling, node: fx.Node) -> Atoms | None:
    atoms, weight = _rowwise(found, node), args_of(node)[3]
    if atoms is not None and isinstance(weight, fx.Node):
        given = found.atoms(weight)
        if given is not None and given.size > 1:
            found.spread(given.reshape(*given.shape, *(1,) * (atoms.ndim - given.ndim)), atoms, node)
        else:
            found.pin(given, f"{module_of(node)} spreads each of them over many")
    return atoms


def _index_select(found: Labelling, node: fx.Node) -> Atoms | None:
    source, axis, index = args_of(node)[:3]
    if axis % rank_of(source) == 0:
        return _rowwise(found, node)
    if parameter_of(found.body, index) is None or rank_of(node) != 2:
        return None
    found.pin(found.atoms(source), f"{module_of(node)} picks some of them")
    atoms = found.atoms(index)
    assert atoms is not None
    found.makers.append((node, atoms))
    return atoms.reshape(template(node))


def _batch_norm(found: Labelling, node: fx.Node) -> Atoms | None:
    atoms = found.atoms(_first(found, node))
    if atoms is None or rank_of(node) != 2:
        return None
    for item in args_of(node)[1:5]:
        given = found.atoms(item) if isinstance(item, fx.Node) else None
        if given is not None:
            found.join(given, atoms)
    return atoms


def _layer_norm(found: Labelling, node: fx.Node) -> Atoms | None:
    atoms = found.atoms(_first(found, node))
    if atoms is None or len(args_of(node)[1]) != 1 or rank_of(node) != 2:
        return None
    for item in args_of(node)[2:4]:
        given = found.atoms(item) if isinstance(item, fx.Node) else None
        if given is not None:
            found.join(given, atoms)
    return atoms


def _linear(found: Labelling, node: fx.Node) -> Atoms:
    source, weight, bias = _first(found, node), args_of(node)[1], argument(node, 2, "bias")
    read, made = found.atoms(source), found.fresh(template(node))
    blocker = ""
    if parameter_of(found.body, weight) is None or _reader_count(found.body, weight) > 1:
        blocker = f"the weight of {module_of(node)} is computed or shared"
    elif rank_of(node) != 2:
        blocker = f"{module_of(node)} makes them for more than one thing at each node"
    if bias is not None:
        given = found.atoms(bias)
        if given is not None and given.size == made.size:
            found.join(given, made)
        if parameter_of(found.body, bias) is None:
            blocker = blocker or f"the bias of {module_of(node)} is computed"
    if blocker:
        found.pin(made, blocker)
        found.pin(read, blocker)
    elif read is not None:
        found.readers.append((node, read.reshape(-1)))
    found.makers.append((node, made.reshape(-1)))
    return made


def _embedding(found: Labelling, node: fx.Node) -> Atoms | None:
    weight = args_of(node)[0]
    if parameter_of(found.body, weight) is None or _reader_count(found.body, weight) > 1 or rank_of(node) != 2:
        return None
    made = found.fresh(template(node))
    found.makers.append((node, made.reshape(-1)))
    return made


def _reader_count(body: fx.GraphModule, node: fx.Node) -> int:
    """Count the readers of a parameter under any of its names: tied weights have several."""
    value = parameter_of(body, node)
    return sum(len(other.users) for other in body.graph.nodes if parameter_of(body, other) is value)


def _reshape(found: Labelling, node: fx.Node) -> Atoms | None:
    source = _first(found, node)
    atoms, shape = found.atoms(source), template(node)
    if atoms is None or atoms.size != int(np.prod(shape)) or not _rows_stay(source, node):
        return None
    return atoms.reshape(shape)


def _rows_stay(source: fx.Node, node: fx.Node) -> bool:
    """Tell whether only the first size of two values grows with the graph, and is the same."""
    for value in (source, node):
        if any(len(set(sizes_of(value, axis) or ())) > 1 for axis in range(1, rank_of(value))):
            return False
    rows = sizes_of(source, 0)
    return rows == sizes_of(node, 0) or len(set(rows or ())) == len(set(sizes_of(node, 0) or ())) == 1


def _axis(node: fx.Node, value: fx.Node, position: int, default: int = 0) -> int:
    rank = rank_of(value)
    return int(argument(node, position, "dim", default)) % rank if rank else 0


def _cat(found: Labelling, node: fx.Node) -> Atoms | None:
    parts = [found.atoms(item) for item in args_of(node)[0]]
    axis = _axis(node, node, 1)
    if any(atoms is None for atoms in parts):
        return None
    arrays = [atoms for atoms in parts if atoms is not None]
    if axis > 0:
        joined: Atoms = np.concatenate(arrays, axis)
        return joined if joined.shape == template(node) else None
    if any(atoms.shape != template(node) for atoms in arrays):
        return None
    for atoms in arrays[1:]:
        found.join(atoms, arrays[0])
    return arrays[0]


def _stack(found: Labelling, node: fx.Node) -> Atoms | None:
    parts = [found.atoms(item) for item in args_of(node)[0]]
    axis = _axis(node, node, 1)
    if axis == 0 or any(atoms is None for atoms in parts):
        return None
    return np.stack([atoms for atoms in parts if atoms is not None], axis)


def _slice(found: Labelling, node: fx.Node) -> Atoms | None:
    source = _first(found, node)
    atoms, axis = found.atoms(source), _axis(node, source, 1)
    start, end, step = argument(node, 2, "start"), argument(node, 3, "end"), argument(node, 4, "step", 1)
    if atoms is None or rank_of(node) != 2:
        return None
    if axis == 0:
        return atoms if atoms.shape == template(node) else None
    bounds_known = all(item is None or isinstance(item, int) for item in (start, end))
    return atoms[:, start:end] if bounds_known and step == 1 else None


def _split_with_sizes(found: Labelling, node: fx.Node) -> list[Atoms] | None:
    source, sizes = args_of(node)[:2]
    atoms = found.atoms(source)
    if atoms is None or rank_of(source) != 2 or _axis(node, source, 2) != 1:
        return None
    return list(np.split(atoms, np.cumsum(sizes)[:-1], 1))


def _getitem(found: Labelling, node: fx.Node) -> Atoms | None:
    source, position = args_of(node)
    parts = found.parts.get(source)
    return parts[position] if parts is not None and isinstance(position, int) else None


def _select(found: Labelling, node: fx.Node) -> Atoms | None:
    source, _, position = args_of(node)
    atoms, axis = found.atoms(source), _axis(node, source, 1)
    if atoms is None or axis == 0:
        return None
    picked: Atoms = np.take(atoms, position, axis)
    if atoms.shape[axis] > 1:
        found.pin(picked, f"{module_of(node)} picks them by their place")
    return picked


def _reduce(found: Labelling, node: fx.Node) -> Atoms | None:
    """Treat a reduction over rows, over several values laid side by side, or over the channels of a head."""
    source = _first(found, node)
    atoms, rank = found.atoms(source), rank_of(source)
    given: Any = argument(node, 2 if node.target in _ORDERS else 1, "dim")
    if atoms is None or given is None:
        return None
    axes = [given % rank] if isinstance(given, int) else [axis % rank for axis in given]
    for axis in (axis for axis in axes if axis > 0 and atoms.shape[axis] > 1):
        if _mixes(found, node, source, axis):
            return _statistic(found, node, source)
        found.join(np.take(atoms, [0], axis), atoms)
    kept = atoms
    for axis in axes:
        kept = np.take(kept, [0], axis)
    return kept.reshape(template(node))


def _mixes(found: Labelling, node: fx.Node, source: fx.Node, axis: int) -> bool:
    """Tell whether a reduction makes one number of channels that need not all be there."""
    if node.target in _LARGEST or source.target is aten.stack.default or axis != rank_of(source) - 1:
        return False
    return rank_of(source) == 2 or not found.whole_heads


def _statistic(found: Labelling, node: fx.Node, source: fx.Node) -> Atoms | None:
    squares = source.target is aten.pow.Tensor_Scalar and args_of(source)[1] == 2
    if rank_of(source) == 2 and node.target is aten.sum.dim_IntList and not squares:
        return None
    return found.pinned(node, f"{module_of(node)} makes them of all channels")


def _largest(found: Labelling, node: fx.Node) -> list[Atoms] | None:
    source = _first(found, node)
    atoms, axis = found.atoms(source), _axis(node, source, 1)
    if atoms is None or axis == 0:
        return None
    found.join(np.take(atoms, [0], axis), atoms)
    kept: Atoms = np.take(atoms, [0], axis) if argument(node, 2, "keepdim", False) else np.take(atoms, 0, axis)
    return [kept, found.fresh(kept.shape)]


def _created(found: Labelling, node: fx.Node) -> Atoms | None:
    return found.fresh(template(node)) if SHAPES in node.meta and shape_of(node) else None


_ORDERS = {aten.linalg_vector_norm.default}
"""Reductions with another argument before their axes."""

_LARGEST = {aten.amax.default, aten.amin.default}

_WHOLE = {aten.mean.default, aten.sum.default, aten.std.default, aten.std.correction, aten.var.default,
          aten.var.correction, aten.sym_size.int}  # fmt: skip
"""Ops that make a single number of all channels or of how many there are."""

CREATIONS = {aten.zeros.default: 0, aten.ones.default: 0, aten.full.default: 0, aten.new_zeros.default: 1,
             aten.new_ones.default: 1, aten.new_full.default: 1}  # fmt: skip
"""Ops that make a value of a written size, and the position of the size."""

RESHAPES = {aten.view.default, aten.reshape.default, aten._unsafe_view.default}

_RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        (aten.dropout.default, aten.detach.default, aten.alias.default, aten.clone.default, aten.contiguous.default,
         aten._to_copy.default, aten.to.dtype, aten.zeros_like.default, aten.ones_like.default,
         aten.repeat.default, gnn.gather_source.default,
         gnn.gather_destination.default, gnn.reduce_edges.default, gnn.edge_softmax.default), _rowwise),
    **dict.fromkeys(
        (*RESHAPES, aten.flatten.using_ints, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims,
         aten.unsqueeze.default), _reshape),
    **dict.fromkeys(
        (aten.sum.dim_IntList, aten.mean.dim, aten.var.correction, aten.std.correction, aten.var.dim, aten.std.dim,
         aten.linalg_vector_norm.default, *_LARGEST), _reduce),
    **dict.fromkeys((aten.max.dim, aten.min.dim), _largest),
    **dict.fromkeys(CREATIONS, _created),
    gnn.aggregate.default: _aggregate,
    aten.index_select.default: _index_select,
    aten.batch_norm.default: _batch_norm,
    aten.layer_norm.default: _layer_norm,
    aten.linear.default: _linear,
    aten.embedding.default: _embedding,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten.slice.Tensor: _slice,
    aten.split_with_sizes.default: _split_with_sizes,
    aten.select.int: _select,
    aten.index.Tensor: _index,
    operator.getitem: _getitem,
}  # fmt: skip
