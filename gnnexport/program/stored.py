"""Features that mode `batched` stores rounded: in a Program, a quantiser by rows in front of all that reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx

from gnnexport.native.packed import PackedRows, pack
from gnnexport.native.packed_numpy import WIDTHS
from gnnexport.program.dialect.quantize import LEAST_STEP, whole_bits
from gnnexport.program.graphs import args_of, parameter_of, rebuild
from gnnexport.program.program import Program
from gnnexport.program.quantised import Operand, insert
from gnnexport.program.shapes import shape_of

aten = torch.ops.aten
gnn = torch.ops.gnn


@dataclass(frozen=True)
class Stored:
    """How features are rounded; row i takes entry i.

    Args:
        step: float32 [nodes].
        bits: float32 [nodes].
        signed: levels below zero exist.
    """

    step: Tensor
    bits: Tensor
    signed: bool

    def rounded(self, x: Tensor) -> Tensor:
        """Return features as they are read."""
        with torch.no_grad():
            result: Tensor = gnn.quantize_rows(x, self.step, self.bits, self.signed, False)
        return result

    def packed(self, rounded: Tensor) -> PackedRows:
        """Return rounded features, or some of their columns, as they are stored: in the next container."""
        bits = whole_bits(self.bits.detach()).numpy().astype(np.int64)
        containers = np.array(WIDTHS)[np.searchsorted(WIDTHS, bits)]
        step = self.step.detach().clamp(min=LEAST_STEP).numpy().astype(np.float32)
        return pack(np.ascontiguousarray(rounded.numpy()), step, containers, is_signed=self.signed)


def round_features(program: Program, stored: Stored) -> None:
    """Let everything read rounded features; the Program, which is changed, is split."""
    program.annotate()
    x = _features(program)
    readers = tuple(user for user in x.users if user.target is not aten.sym_size.int)
    width = (shape_of(x) or (0, 0))[1]
    name = f"{x.target}_stored"
    operand = Operand("input", name, x, readers, stored.signed, width, of_nodes=True, raw=True)
    insert(program, operand, stored.step, stored.bits, by="rows", signed=stored.signed)


def read_stored(program: Program) -> tuple[Program, Stored | None]:
    """Return a Program that reads features as they come out of the store, and how they are rounded there.

    A Program that reads features otherwise too, or by a step for all of them, is returned as it is.
    """
    call = _quantiser(program)
    if call is None:
        return program, None
    step, bits = (parameter_of(program.body, item) for item in args_of(call)[1:3])
    assert step is not None
    assert bits is not None
    twin = program.clone()
    place = list(program.body.graph.nodes).index(call)
    found: fx.Node = list(twin.body.graph.nodes)[place]
    found.replace_all_uses_with(_features(twin))
    twin.body.graph.erase_node(found)
    twin.body = rebuild(twin.body, twin.body.graph)
    return twin, Stored(step.detach(), bits.detach(), args_of(call)[3])


def is_packed(program: Program) -> bool:
    """Tell whether all that reads features reads them rounded by steps of nodes."""
    return _quantiser(program) is not None


def _features(program: Program) -> fx.Node:
    name = program.features[0].name
    found: fx.Node = next(node for node in program.body.graph.find_nodes(op="placeholder") if node.target == name)
    return found


def _quantiser(program: Program) -> fx.Node | None:
    """Return the quantiser by the rows of nodes that alone reads the features."""
    if len(program.features) != 1 or program.prepare is None:
        return None
    readers = [user for user in _features(program).users if user.target is not aten.sym_size.int]
    if len(readers) != 1 or readers[0].target is not gnn.quantize_rows.default:
        return None
    tables = [parameter_of(program.body, item) for item in args_of(readers[0])[1:3]]
    counts = {None if table is None else len(table) for table in tables}
    return None if None in counts or counts == {1} or len(counts) > 1 else readers[0]
