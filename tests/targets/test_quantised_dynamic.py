"""Steps taken at run time, in files: the numbers of PyTorch, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gnnexport.passes.contract import PassContext
from gnnexport.passes.quantize import Quantize
from gnnexport.runtime.ort import OrtBackend
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx.target import OnnxTarget
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.onnx.translate_graphs import translate_graphs
from tests.small_models import INPUTS, PLAIN, WIDTH, run, split
from tests.targets.requests import prepared, random_edges, request_of

REQUEST = request_of(random_edges(60, 400), 60)


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


@pytest.mark.parametrize("mode", ["full", "graphs"])
def test_a_network(mode: str, tmp_path: Path) -> None:
    """A network whose linear maps read rows rounded at run time answers as in PyTorch, for one graph and for any."""
    program = Quantize(mode="dynamic").run(split("GraphSAGE"), PassContext())
    dialect = translate(program, REQUEST) if mode == "full" else translate_graphs(program, REQUEST)
    OnnxTarget().emit(dialect, tmp_path, EmitContext(time_budget_s=1))
    expected = run(program, REQUEST).numpy()
    rows = np.abs(answer(tmp_path, dict(REQUEST)) - expected).max(1) <= 1e-5 * np.abs(expected).max()
    assert rows.mean() > 0.9
