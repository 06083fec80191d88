"""Steps taken at run time, in files: the numbers of PyTorch, bit for bit."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from gnnexport.native import library
from gnnexport.passes.contract import PassContext
from gnnexport.passes.quantize import Quantize
from gnnexport.pipeline.bits import count_bits
from gnnexport.program.program import Program
from gnnexport.runtime.ort import OrtBackend
from gnnexport.targets.contract import Artefact, EmitContext
from gnnexport.targets.onnx.target import OnnxTarget
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.onnx.translate_graphs import translate_graphs
from gnnexport.targets.ort import OrtTarget
from gnnexport.training.plain_quantisation import Per
from tests.small_models import CLASSES, INPUTS, PLAIN, WIDTH, run, split
from tests.targets.requests import prepared, random_edges, request_of

REQUEST = request_of(random_edges(60, 400), 60)
INPUT_NAMES = [f"convs_{layer}_lin_{side}_input" for layer in (0, 1) for side in "lr"]


class Rounded(nn.Module):
    """Rounds its features at run time, and nothing else."""

    def __init__(self, signed: bool, by: str) -> None:
        super().__init__()
        self.signed, self.by = signed, by

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return the rounded features, and a number of the edges that is zero."""
        x = x if self.signed else x.relu()
        rounded: Tensor = torch.ops.gnn.quantize_dynamic(x, 4, self.signed, self.by)
        return rounded + (edge_index[0, :1] * 0).to(rounded.dtype)


def answer(folder: Path, request: dict[str, Tensor]) -> np.ndarray:
    """Run what was written."""
    backend = OrtBackend(folder / "model.onnx", 1)
    (found,) = backend.run({tensor.name: request[tensor.name].numpy() for tensor in backend.inputs}).values()
    return found


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("by", ["rows", "tensor"])
def test_the_same_bits_as_in_pytorch(signed: bool, by: str, tmp_path: Path) -> None:
    """Every number is that of the op, also of rows that are zero or reach over orders of magnitude."""
    program = prepared(Rounded(signed, by).eval(), tuple(INPUTS[name] for name in PLAIN))
    x = torch.randn(60, WIDTH, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 60)[:, None]
    x[5] = 0
    request = {**REQUEST, "x": x}
    OnnxTarget().emit(translate(program, request), tmp_path, EmitContext(time_budget_s=1))
    assert np.array_equal(answer(tmp_path, request), run(program, request).numpy())


@functools.cache
def network(per: Per | None = None) -> Program:
    """Return a network whose linear maps read rows rounded at run time."""
    return Quantize(mode="dynamic", per=per).run(split("GraphSAGE"), PassContext())


def emitted(target: OnnxTarget, folder: Path, mode: str = "full", per: Per | None = None) -> Artefact:
    """Write the network, and hold its answers against PyTorch: rows that lie on a border may differ."""
    program = network(per)
    dialect = translate(program, REQUEST) if mode == "full" else translate_graphs(program, REQUEST)
    artefact = target.emit(dialect, folder, EmitContext(time_budget_s=1))
    expected = run(program, REQUEST).numpy()
    rows = np.abs(answer(folder, dict(REQUEST)) - expected).max(1) <= 1e-5 * np.abs(expected).max()
    assert rows.mean() > 0.9
    return artefact


def multiplied(folder: Path) -> int:
    """Count products of whole numbers."""
    return sum(node.op_type == "MatMulInteger" for node in onnx.load(folder / "model.onnx").graph.node)


@pytest.mark.parametrize("form", ["float", "integer"])
@pytest.mark.parametrize("mode", ["full", "graphs"])
def test_a_network(mode: str, form: Any, tmp_path: Path) -> None:
    """Products of rows rounded at run time are those of PyTorch, of floats and of whole numbers, for any graph."""
    artefact = emitted(OnnxTarget(quantised=form), tmp_path, mode)
    whole = form == "integer"
    assert multiplied(tmp_path) == 4 * whole
    told = {item.name: item.arithmetic for item in artefact.operands if item.kind == "rows"}
    assert told == dict.fromkeys(INPUT_NAMES, "u8xu8" if whole else "float")


def test_one_step_for_all_rows(tmp_path: Path) -> None:
    """The step of a whole tensor is taken at run time too."""
    artefact = emitted(OnnxTarget(quantised="integer"), tmp_path, per="tensor")
    assert {item.arithmetic for item in artefact.operands if item.kind == "tensor"} == {"u8xu8"}


@pytest.mark.skipif(library.why_missing() is not None, reason=f"the kernels: {library.why_missing()}")
def test_beside_kernels(tmp_path: Path) -> None:
    """Kernels sum, standard operators multiply whole numbers; forms of packed rows come to nothing and are left out."""
    artefact = emitted(OrtTarget(aggregate="native"), tmp_path)
    (row,) = [row for row in artefact.lowering if row["op"] == "quantised operands"]
    assert {item["name"] for item in row["candidates"]} == {"float", "integer"}
    again = emitted(OrtTarget(aggregate="native", quantised="integer"), tmp_path)
    assert again.native
    assert multiplied(tmp_path) == 4


def test_the_report_tells_what_is_executed(tmp_path: Path) -> None:
    """Of each operand with steps taken at run time it is told what arithmetic runs on it."""
    bits = count_bits(network(), REQUEST, emitted(OnnxTarget(quantised="integer"), tmp_path))
    assert bits is not None
    assert bits.executed == 8
    assert bits.simulated is None
    assert {item.name for item in bits.operands if item.kind != "weight"} == set(INPUT_NAMES)


def test_a_request_without_nodes(tmp_path: Path) -> None:
    """Nothing has no largest magnitude."""
    request = {"x": torch.empty(0, WIDTH), "edge_index": torch.empty((2, 0), dtype=torch.int64)}
    for per in ("row", "tensor"):
        OnnxTarget(quantised="integer").emit(translate_graphs(network(per), REQUEST), tmp_path, EmitContext())
        assert answer(tmp_path, request).shape == (0, CLASSES)
