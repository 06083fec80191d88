"""Tell which values have a row for each node or each edge, and whether every operator treats rows alike.

Where it does, rows may be renumbered once for the whole model instead of around every aggregation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx_ir as ir

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.quantisers import PER_NODE
from gnnexport.targets.onnx.tape import sizes

_ELEMENTWISE = """
Abs Add And Cast Ceil Clip Cos Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity
LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Sigmoid Sign Sin
Softplus Softsign Sqrt Sub Sum Tanh ThresholdedRelu Where Xor
"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
"""Operators whose result in a row depends on the same row of their operands."""

_OF_ATTRIBUTE_AXIS = {"ArgMax", "ArgMin", "Concat", "Hardmax", "LayerNormalization", "LogSoftmax", "Softmax", "Split"}
_REDUCTIONS = {f"Reduce{kind}" for kind in ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")}
_OF_INPUT_AXES = {*_REDUCTIONS, "Squeeze", "Unsqueeze"}
_DEFAULT_AXIS = {"ArgMax": 0, "ArgMin": 0, "Split": 0}


class NotRowWiseError(Exception):
    """An operator mixes rows, or this module does not know that it does not."""


@dataclass(frozen=True)
class Role:
    """What a row of a value stands for: a node, or a slot of the structure with these pointers."""

    rowptr: ir.Value | None = None


NODES = Role()


@dataclass
class Roles:
    """The values that have rows, and the constants that are met row by row.

    Args:
        of: role by value; a value without rows is absent.
        constants: node and input position of each constant that has a row for each node or slot.
        lookups: nodes that pick rows of node values by number; what they give has no rows of the graph.
    """

    of: dict[ir.Value, Role] = field(default_factory=dict)
    constants: dict[tuple[ir.Node, int], Role] = field(default_factory=dict)
    lookups: set[ir.Node] = field(default_factory=set)


def infer(graph: ir.Graph) -> Roles:
    """Find the roles of all values of a baked graph in the dialect.

    Raises:
        NotRowWiseError: rows may not be renumbered in this model.
    """
    roles = Roles()
    counts = {count for node in graph if node.domain == schemas.DOMAIN for count in _counts(node)}
    if len(counts) != 1:
        raise NotRowWiseError(f"structures of {sorted(counts)} nodes")
    for value in graph.inputs:
        if not all(isinstance(size, int) for size in value.shape or ()):
            continue
        if _static(value)[:1] != tuple(counts):
            raise NotRowWiseError(f"input '{value.name}' has no row for each node")
        roles.of[value] = NODES
    roles.of.update((value, NODES) for value in graph.initializers.values() if value.meta.get(PER_NODE))
    pairs = _pairs(graph)
    for node in graph:
        role = _of_dialect(node, roles, pairs) if node.domain == schemas.DOMAIN else _of_standard(node, roles)
        if role is not None:
            roles.of.update(dict.fromkeys(node.outputs, role))
    return roles


def _pairs(graph: ir.Graph) -> dict[ir.Value, ir.Value]:
    """Return the pointers that belong to each list of sources: those it is aggregated with, else the only ones."""
    nodes = [node for node in graph if node.domain == schemas.DOMAIN]
    pairs = {node.inputs[2]: node.inputs[1] for node in nodes if node.op_type == schemas.AGGREGATE}
    pointers = {node.inputs[1] for node in nodes if node.op_type != schemas.GATHER_SOURCE}
    if len(pointers) == 1:
        (only,) = pointers
        pairs |= {node.inputs[1]: only for node in nodes if node.op_type == schemas.GATHER_SOURCE}
    return {col: rowptr for col, rowptr in pairs.items() if col is not None and rowptr is not None}


def _counts(node: ir.Node) -> set[int]:
    """Return the numbers of nodes an operator of the dialect reads and writes."""
    x = node.inputs[0]
    assert x is not None
    found = set() if node.op_type == schemas.REDUCE_EDGES else {_static(x)[0]}
    if node.op_type != schemas.GATHER_SOURCE and node.inputs[1] is not None:
        found.add(_static(node.inputs[1])[0] - 1)
    return found


def _of_dialect(node: ir.Node, roles: Roles, pairs: dict[ir.Value, ir.Value]) -> Role:
    x = node.inputs[0]
    if node.op_type == schemas.GATHER_SOURCE:
        _expect(node, 0, NODES, roles)
        rowptr = pairs.get(node.inputs[1]) if node.inputs[1] is not None else None
        if rowptr is None:
            raise NotRowWiseError(f"'{node.name}' gathers for edges that no aggregation names")
        return Role(rowptr)
    slots = Role(node.inputs[1])
    if node.op_type == schemas.REDUCE_EDGES:
        _expect(node, 0, slots, roles)
        return NODES
    assert x is not None
    _expect(node, 0, NODES, roles)
    if node.op_type == schemas.GATHER_DESTINATION:
        return slots
    if len(node.inputs) > 3 and node.inputs[3] is not None and node.inputs[3].const_value is None:
        _expect(node, 3, slots, roles)
    return NODES


def _of_standard(node: ir.Node, roles: Roles) -> Role | None:
    """Return the role of a standard operator's results; `None` where no operand has rows."""
    found = {roles.of[value] for value in node.inputs if value in roles.of}
    if not found:
        return None
    if len(found) > 1:
        raise NotRowWiseError(f"'{node.name}' meets rows of different kinds")
    role = found.pop()
    if _looks_up(node, role, roles):
        roles.lookups.add(node)
        return None
    if node.op_type in ELEMENTWISE:
        _check_broadcast(node, range(len(node.inputs)), role, roles)
    else:
        check = _CHECKS.get(node.op_type)
        if check is None or not check(node, role, roles):
            raise NotRowWiseError(f"'{node.op_type}' may mix rows")
    for value in node.outputs:
        _static(value)
    return role


def _looks_up(node: ir.Node, role: Role, roles: Roles) -> bool:
    """Tell whether a node picks whole rows of node values, by numbers that have no rows of the graph themselves."""
    if node.op_type not in ("Gather", "GatherND") or role != NODES or node.inputs[1] in roles.of:
        return False
    if node.op_type == "Gather":
        return _integer(node, "axis", 0) == 0
    shape = node.inputs[1].shape if node.inputs[1] is not None else None
    return _integer(node, "batch_dims", 0) == 0 and shape is not None and shape[-1] == 1


def _check_broadcast(node: ir.Node, positions: range, role: Role, roles: Roles) -> bool:
    """Check that rows of all operands meet; a constant of as many rows is noted."""
    out = _static(node.outputs[0])
    for position in positions:
        value = node.inputs[position]
        if value is None or (len(_static(value)) < len(out) and value not in roles.of):
            continue
        if len(_static(value)) == len(out) and _static(value)[0] == 1 and out[0] != 1 and value not in roles.of:
            continue
        if len(_static(value)) != len(out) or _static(value)[0] != out[0]:
            raise NotRowWiseError(f"'{node.name}' broadcasts rows")
        _expect(node, position, role, roles)
    return True


def _expect(node: ir.Node, position: int, role: Role, roles: Roles) -> None:
    """Check the role of an operand, or note that it is a constant met row by row."""
    value = node.inputs[position]
    assert value is not None
    if value in roles.of:
        if roles.of[value] != role:
            raise NotRowWiseError(f"'{node.name}' meets rows of different kinds")
    elif value.const_value is not None:
        roles.constants[node, position] = role
    else:
        raise NotRowWiseError(f"'{node.name}' computes rows from weights alone")


def _matmul(node: ir.Node, role: Role, roles: Roles) -> bool:
    left, right = node.inputs[:2]
    assert left is not None
    assert right is not None
    return left in roles.of and right not in roles.of and len(_static(left)) >= 2 and len(_static(right)) <= 2


def _gemm(node: ir.Node, role: Role, roles: Roles) -> bool:
    fitting = _integer(node, "transA", 0) == 0 and node.inputs[0] in roles.of and node.inputs[1] not in roles.of
    return fitting and _check_broadcast(node, range(2, len(node.inputs)), role, roles)


def _keeps_leading_size(node: ir.Node, role: Role, roles: Roles) -> bool:
    value = node.inputs[0]
    assert value is not None
    before, after = _static(value), _static(node.outputs[0])
    same_rank = node.op_type == "Reshape" or len(before) == len(after)
    return value in roles.of and same_rank and before[:1] == after[:1] and before[0] > 1


def _transpose(node: ir.Node, role: Role, roles: Roles) -> bool:
    order = node.attributes.get("perm")
    return order is not None and list(order.as_ints())[:1] == [0]


def _batch_norm(node: ir.Node, role: Role, roles: Roles) -> bool:
    return len(node.outputs) == 1 and all(value not in roles.of for value in node.inputs[1:])


def _attribute_axis(node: ir.Node, role: Role, roles: Roles) -> bool:
    value = node.inputs[0]
    assert value is not None
    axis = _integer(node, "axis", _DEFAULT_AXIS.get(node.op_type, -1))
    if axis % len(_static(value)) == 0:
        return False
    if node.op_type == "Concat":
        for position in range(len(node.inputs)):
            _expect(node, position, role, roles)
    return True


def _input_axes(node: ir.Node, role: Role, roles: Roles) -> bool:
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is None or axes.const_value is None or node.inputs[0] not in roles.of:
        return False
    rank = len(_static(node.outputs[0] if node.op_type == "Unsqueeze" else node.inputs[0]))
    return all(int(axis) % rank for axis in axes.const_value.numpy().reshape(-1))


def _gather(node: ir.Node, role: Role, roles: Roles) -> bool:
    data, index = node.inputs
    assert data is not None
    if data.const_value is not None and data not in roles.of and index in roles.of:
        return _integer(node, "axis", 0) == 0
    return data in roles.of and index not in roles.of and _integer(node, "axis", 0) % len(_static(data)) != 0


def _slice(node: ir.Node, role: Role, roles: Roles) -> bool:
    value = node.inputs[0]
    assert value is not None
    axes = node.inputs[3] if len(node.inputs) > 3 else None
    return (
        axes is not None
        and axes.const_value is not None
        and all(int(axis) % len(_static(value)) for axis in axes.const_value.numpy().reshape(-1))
    )


def _static(value: ir.Value) -> tuple[int, ...]:
    """Return the shape of a value.

    Raises:
        NotRowWiseError: a size is open, such as the number of pairs, so that rows cannot be told apart.
    """
    if value.shape is None or not all(isinstance(size, int) for size in value.shape):
        raise NotRowWiseError(f"the size of '{value.name}' is open")
    return sizes(value)


def _integer(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


_Check = Callable[[ir.Node, Role, Roles], bool]
_CHECKS: dict[str, _Check] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "Gemm": _gemm,
    "Reshape": _keeps_leading_size,
    "Flatten": _keeps_leading_size,
    "Expand": _keeps_leading_size,
    "Tile": _keeps_leading_size,
    "Transpose": _transpose,
    "BatchNormalization": _batch_norm,
    "Gather": _gather,
    "Slice": _slice,
    **dict.fromkeys(_OF_ATTRIBUTE_AXIS, _attribute_axis),
    **dict.fromkeys(_OF_INPUT_AXES, _input_axes),
}
