"""Count the bits of a quantised Program: as papers do, as stored, as executed, as simulated, and in true bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from gnnexport.bundle.report_schema import Bits, QuantisedOperand
from gnnexport.program.dialect.quantize import nearest_groups, whole_bits
from gnnexport.program.graphs import args_of, argument, calls, module_of, parameter_of
from gnnexport.program.halves import DTYPES, FEWEST, half_of, matrices
from gnnexport.program.program import Program
from gnnexport.program.quantised import Quantiser, quantisers, raw_values
from gnnexport.targets.contract import Artefact
from gnnexport.targets.onnx.executed import Operand as Executed

gnn = torch.ops.gnn

CONTAINERS = (1, 2, 4, 8)
"""Bits that a number may take where rows are packed."""

SIMULATED = "float32, rounded only"

_STEP_BYTES = 4
_CODE_BITS = 2
_ANCHOR_BYTES, _ANCHORED_ROWS = 8, 64
"""Of rows that have widths of their own: the width of each, and where every so many of them begin."""

_FEATURES = {"input": "input", "sum": "aggregated", "attention": "attention", "scores": "scores", "weight": "weight"}
_PER = {"columns": "column", "nearest": "group"}


@dataclass(frozen=True)
class _Rows:
    """What a value is like on the data.

    Args:
        count: rows.
        width: numbers of a row.
        bits: of each row, float32 [rows], or [1] for all.
    """

    count: int
    width: int
    bits: Tensor


class _Observer(fx.Interpreter):
    """Run a body and keep how many rows some of its values have, and the width of each row."""

    def __init__(self, module: fx.GraphModule, wanted: Mapping[fx.Node, Quantiser | None]) -> None:
        super().__init__(module)
        self._wanted = wanted
        self.found: dict[fx.Node, _Rows] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self._wanted:
            quantiser = self._wanted[n]
            rows, width = len(result), math.prod(result.shape[1:])
            bits = torch.full((1,), 16.0) if quantiser is None else self._bits(n, quantiser, rows)
            self.found[n] = _Rows(rows, width, bits)
        return result

    def _bits(self, node: fx.Node, quantiser: Quantiser, rows: int) -> Tensor:
        bits = whole_bits(quantiser.bits)
        if quantiser.by == "nearest":
            value = self.env[args_of(node)[0]]
            return bits[nearest_groups(value, quantiser.step, quantiser.bits, quantiser.signed)]
        return bits if len(bits) == 1 else bits[torch.arange(rows) % len(bits)]


def count_bits(program: Program, inputs: Mapping[str, Tensor], artefact: Artefact | None = None) -> Bits | None:
    """Return the bits of all that is quantised or cast, on some data; `None` where nothing is.

    Args:
        program: as it was lowered.
        inputs: of the whole data, by name.
        artefact: that says what is executed; without it everything counts as simulated.
    """
    program = program.clone().train(False)
    program.annotate()
    known = quantisers(program)
    dynamic = list(calls(program.body.graph, gnn.quantize_dynamic.default))
    halves = [node for node in program.body.graph.nodes if half_of(node) is not None]
    rounded = [node for node in matrices(program) if _is_half(parameter_of(program.body, node))]
    if not (known or dynamic or halves or rounded):
        return None
    wanted: dict[fx.Node, Quantiser | None] = {item.node: item for item in known}
    observer = _Observer(program.body, wanted | dict.fromkeys((*dynamic, *halves)))
    with torch.no_grad():
        observer.run(*(inputs[item.name] for item in program.features), *program.structure(inputs))
    executed = {} if artefact is None else {item.name: item for item in artefact.operands}
    operands = [_quantised(item, observer.found[item.node], executed.get(item.name)) for item in known]
    raw = raw_values(program)
    operands += [_dynamic(node, observer.found[node], executed, raw=args_of(node)[0] in raw) for node in dynamic]
    gathered = iter(() if artefact is None else artefact.halves)
    operands += [_half(node, observer.found[node], next(gathered, False)) for node in halves]
    operands += [_rounded(program, node) for node in rounded]
    return _summed(operands)


def _quantised(item: Quantiser, rows: _Rows, executed: Executed | None) -> QuantisedOperand:
    bits = rows.bits
    containers = _containers(bits)
    own = item.by == "nearest" or (item.by == "rows" and len(item.step) > 1)
    payload = _payload(containers, rows)
    kind = "features" if item.raw and item.what == "input" else _FEATURES[item.what]
    size = payload + _STEP_BYTES * (rows.count if own else len(item.step))
    if len(containers) > 1:
        size += math.ceil(rows.count * _CODE_BITS / 8) + math.ceil(rows.count / _ANCHORED_ROWS) * _ANCHOR_BYTES
    stored = float(containers.mean())
    if item.what == "weight":
        stored = 32 if executed is None else executed.stored_bits
        size = math.ceil(rows.count * rows.width * stored / 8) + (0 if stored == 32 else _STEP_BYTES * len(item.step))
    per = _PER.get(item.by) or _per_row(item)
    return QuantisedOperand(
        name=item.name, kind=kind, per=per, count=rows.count * rows.width, bits=float(bits.mean()), stored=stored,
        **_told(executed), size_bytes=size,
    )  # fmt: skip


def _per_row(item: Quantiser) -> str:
    if len(item.step) == 1:
        return "tensor"
    return {"weight": "channel", "attention": "head"}.get(item.what, "node" if item.of_nodes else "row")


def _containers(bits: Tensor) -> Tensor:
    """Return the container of each width."""
    sizes = torch.tensor(CONTAINERS, dtype=torch.float32)
    return sizes[torch.searchsorted(sizes, bits)]


def _payload(containers: Tensor, rows: _Rows) -> int:
    """Return the bytes of packed rows; each begins at a byte of its own."""
    row_bytes = (containers.double() * rows.width / 8).ceil()
    return int(row_bytes.sum()) * (1 if len(containers) > 1 or rows.count == 0 else rows.count)


def _dynamic(
    node: fx.Node, rows: _Rows, executed: Mapping[str, Executed], *, raw: bool
) -> QuantisedOperand:  # fmt: skip
    _, bits, _, by = args_of(node)[:4]
    name = argument(node, 4, "name") or node.name
    container = _containers(torch.tensor([float(bits)]))
    steps = rows.count if by == "rows" else 1
    return QuantisedOperand(
        name=name, kind="features" if raw else "input", per="row" if by == "rows" else "tensor",
        count=rows.count * rows.width, bits=bits, stored=float(container), **_told(executed.get(name)),
        size_bytes=_payload(container, rows) + _STEP_BYTES * steps,
    )  # fmt: skip


def _told(executed: Executed | None) -> dict[str, Any]:
    """Say what arithmetic runs on an operand."""
    if executed is None or executed.executed_bits == 32:
        return {"executed": 32, "arithmetic": SIMULATED}
    return {"executed": executed.executed_bits, "arithmetic": executed.arithmetic}


def _half(node: fx.Node, rows: _Rows, gathered: bool) -> QuantisedOperand:
    half = half_of(node)
    told = f"float32 sums of rows of {half}" if gathered else SIMULATED
    stored = 16 if gathered else 32
    count = rows.count * rows.width
    return QuantisedOperand(
        name=f"{module_of(node)}: {node.name}", kind="aggregated", per="number", count=count, bits=16, stored=stored,
        executed=32, arithmetic=told, size_bytes=count * stored // 8,
    )  # fmt: skip


def _rounded(program: Program, node: fx.Node) -> QuantisedOperand:
    value = parameter_of(program.body, node)
    assert value is not None
    count = value.numel()
    return QuantisedOperand(
        name=str(node.target), kind="weight", per="number", count=count, bits=16, stored=16, executed=32,
        arithmetic="float32", size_bytes=2 * count,
    )  # fmt: skip


def _is_half(value: Tensor | None) -> bool:
    """Tell whether the file holds weights in 16 bits."""
    if value is None or value.numel() < FEWEST:
        return False
    value = value.detach()
    return any(bool((value.to(dtype).float() == value).all()) for dtype in DTYPES.values())


def _summed(operands: Sequence[QuantisedOperand]) -> Bits:
    features = [item for item in operands if item.kind != "weight"]
    hidden = [item.bits for item in features if item.kind == "input" and item.per != "number"]
    simulated = [item for item in features if item.arithmetic == SIMULATED]
    average = sum(hidden) / len(hidden) if hidden else None
    size = sum(item.size_bytes for item in features)
    return Bits(
        average_paper=average,
        ratio_paper=32 / average if average else None,
        stored=_mean(features, "stored"),
        executed=_mean(features, "executed"),
        simulated=_mean(simulated, "bits"),
        feature_bytes=size if features else None,
        ratio_bytes=4 * sum(item.count for item in features) / size if size else None,
        operands=tuple(operands),
    )


def _mean(operands: Sequence[QuantisedOperand], name: str) -> float | None:
    """Return the mean over all numbers."""
    count = sum(item.count for item in operands)
    return sum(getattr(item, name) * item.count for item in operands) / count if count else None
