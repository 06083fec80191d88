"""Count the bits of a quantised Program: as papers do, as stored, as executed, as simulated, and in true bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from gnnexport.bundle.report_schema import Bits, QuantisedOperand
from gnnexport.program.containers import STEP_BYTES, container_of, index_bytes, row_bytes
from gnnexport.program.dialect.quantize import nearest_groups, whole_bits
from gnnexport.program.graphs import args_of, argument, calls, module_of, parameter_of
from gnnexport.program.halves import DTYPES, FEWEST, half_of, matrices
from gnnexport.program.program import Program
from gnnexport.program.quantised import Quantiser, quantisers, raw_values
from gnnexport.program.values import observe
from gnnexport.targets.contract import Artefact
from gnnexport.targets.onnx.executed import Operand as Executed

gnn = torch.ops.gnn

SIMULATED = "float32, rounded only"

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


def _rows(value: Tensor, bits: Tensor) -> _Rows:
    return _Rows(len(value), math.prod(value.shape[1:]), bits)


def _look(item: Quantiser) -> tuple[fx.Node, Callable[[Tensor], _Rows]]:
    """Return a value that tells the rows of a quantiser, and how: groups are told by what is rounded."""
    bits = whole_bits(item.bits.detach())
    if item.by == "nearest":
        step = item.step.detach()
        return args_of(item.node)[0], lambda x: _rows(x, bits[nearest_groups(x, step, bits, item.signed)])
    if len(bits) == 1:
        return item.node, lambda x: _rows(x, bits)
    return item.node, lambda x: _rows(x, bits[torch.arange(len(x)) % len(bits)])


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
    looks = {item.name: _look(item) for item in known}
    found = observe(program, inputs, dict(looks.values()) | dict.fromkeys((*dynamic, *halves), _of_one_width))
    executed = {} if artefact is None else {item.name: item for item in artefact.operands}
    operands = [_quantised(item, found[looks[item.name][0]], executed.get(item.name)) for item in known]
    raw = raw_values(program)
    operands += [_dynamic(node, found[node], executed, raw=args_of(node)[0] in raw) for node in dynamic]
    gathered = iter(() if artefact is None else artefact.halves)
    operands += [_half(node, found[node], next(gathered, False)) for node in halves]
    operands += [_rounded(program, node) for node in rounded]
    return _summed(operands)


def _quantised(item: Quantiser, rows: _Rows, executed: Executed | None) -> QuantisedOperand:
    bits = rows.bits
    containers = container_of(bits)
    own = item.by == "nearest" or (item.by == "rows" and len(item.step) > 1)
    payload = _payload(containers, rows)
    kind = "features" if item.raw and item.what == "input" else _FEATURES[item.what]
    size = payload + STEP_BYTES * (rows.count if own else len(item.step))
    if len(containers) > 1:
        size += index_bytes(rows.count)
    stored = float(containers.mean())
    if item.what == "weight":
        stored = 32 if executed is None else executed.stored_bits
        size = math.ceil(rows.count * rows.width * stored / 8) + (0 if stored == 32 else STEP_BYTES * len(item.step))
    per = _PER.get(item.by) or _per_row(item)
    return QuantisedOperand(
        name=item.name, kind=kind, per=per, count=rows.count * rows.width, bits=float(bits.mean()), stored=stored,
        **_told(executed), size_bytes=size,
    )  # fmt: skip


def _per_row(item: Quantiser) -> str:
    if len(item.step) == 1:
        return "tensor"
    return {"weight": "channel", "attention": "head"}.get(item.what, "node" if item.of_nodes else "row")


def _payload(containers: Tensor, rows: _Rows) -> int:
    """Return the bytes of packed rows."""
    return int(row_bytes(containers, rows.width).expand(rows.count).sum())


def _dynamic(
    node: fx.Node, rows: _Rows, executed: Mapping[str, Executed], *, raw: bool
) -> QuantisedOperand:  # fmt: skip
    _, bits, _, by = args_of(node)[:4]
    name = argument(node, 4, "name") or node.name
    container = container_of(torch.tensor([float(bits)]))
    steps = rows.count if by == "rows" else 1
    return QuantisedOperand(
        name=name, kind="features" if raw else "input", per="row" if by == "rows" else "tensor",
        count=rows.count * rows.width, bits=bits, stored=float(container), **_told(executed.get(name)),
        size_bytes=_payload(container, rows) + STEP_BYTES * steps,
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


def _of_one_width(value: Tensor) -> _Rows:
    return _rows(value, torch.full((1,), 16.0))


def _summed(operands: Sequence[QuantisedOperand]) -> Bits:
    features = [item for item in operands if item.kind not in ("weight", "attention")]
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
