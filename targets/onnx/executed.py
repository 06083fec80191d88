"""Tell with what arithmetic each quantised operand is computed, and how wide it lies where it is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.quantisers import quantise_nodes, read_quantiser

FLOAT = "float"
"""Levels that are computed with as the float32 numbers that they stand for."""

EXECUTED_BITS = {"u4 sums": 4, "u8 sums": 8, "u8xs8": 8, "u8xu8": 8, FLOAT: 32}
"""Bits that each kind of arithmetic runs on."""

WEIGHT = "weight"


@dataclass(frozen=True)
class Operand:
    """A quantised operand of a model.

    Args:
        name: as it is called in the Program.
        kind: what shares a step of features, as `Quantiser.by` says it, or `weight`.
        width: numbers of a row; of weights all of them.
        bits: of its levels, on average over rows or entries.
        stored_bits: of a number as it lies in the file, or in memory between two operators; 0 where it never does.
        arithmetic: one of `EXECUTED_BITS`.
    """

    name: str
    kind: str
    width: int
    bits: float
    stored_bits: int
    arithmetic: str = FLOAT

    @property
    def executed_bits(self) -> int:
        """Bits that the arithmetic runs on."""
        return EXECUTED_BITS[self.arithmetic]

    def row(self) -> dict[str, Any]:
        """Return the row of the report's `lowering`."""
        return {
            "op": f"operand {self.name}: {self.kind}, {self.bits:.3g} bits",
            "chosen": f"{self.arithmetic}, stored as {self.stored_bits} bits" if self.stored_bits else self.arithmetic,
            "candidates": [],
        }


def operands_of(dialect: ir.Graph) -> list[Operand]:
    """List the operands of a model that still holds its quantisers, all of them simulated."""
    found = []
    for node in quantise_nodes(dialect):
        quantiser = read_quantiser(node)
        sizes = [int(size) for size in list(quantiser.x.shape or ())[1:] if isinstance(size, int)]
        weights = None if quantiser.dynamic else quantiser.x.const_value
        kind = quantiser.by if weights is None else WEIGHT
        width = math.prod(sizes) if weights is None else weights.size
        found.append(Operand(quantiser.name, kind, width, float(quantiser.bits.mean()), 32))
    return found


def executed(
    operands: list[Operand], lowered: ir.Graph, arithmetic: Mapping[str, str], packed: Mapping[str, int]
) -> tuple[Operand, ...]:
    """Say of each operand what a lowered model does with it.

    Args:
        operands: as `operands_of` lists them.
        lowered: the model as it is written.
        arithmetic: of operands that are features, by name; float where nothing is said.
        packed: bits of their numbers as they lie in memory, by name; 32 where nothing is said.
    """
    weights: dict[str, list[ir.Value]] = {}
    for value in lowered.initializers.values():
        for name in value.meta.get(schemas.OPERAND, ()) if value.uses() else ():
            weights.setdefault(name, []).append(value)
    found = []
    for item in operands:
        if item.kind != WEIGHT:
            how, stored = arithmetic.get(item.name, FLOAT), packed.get(item.name, item.stored_bits)
        elif item.name in weights:
            told = {_arithmetic_of(value) for value in weights[item.name]}
            how = FLOAT if len(told) > 1 else told.pop()
            stored = max(int(_type_of(value).itemsize * 8) for value in weights[item.name])
        else:
            how, stored = FLOAT, item.stored_bits
        found.append(Operand(item.name, item.kind, item.width, item.bits, stored, how))
    return tuple(found)


def _arithmetic_of(weights: ir.Value) -> str:
    """Tell how weights are multiplied."""
    readers = {use.node.op_type for use in weights.uses()}
    if readers - {schemas.NARROW_LINEAR, schemas.NARROW_AGGREGATE_LINEAR, "MatMulInteger"}:
        return FLOAT
    return "u8xu8" if _type_of(weights) is ir.DataType.UINT8 else "u8xs8"


def _type_of(weights: ir.Value) -> ir.DataType:
    """Return the element type, which a model that is written says nowhere else."""
    assert weights.const_value is not None
    return weights.const_value.dtype
