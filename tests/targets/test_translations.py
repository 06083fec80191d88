"""Translations of ours, against torch, in ONNX Runtime and OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from gnnexport.program.dialect import tables as _tables  # noqa: F401  registers the ops
from gnnexport.targets.onnx.translate import export
from tests.targets.sketch import Array

ENGINES = ("onnxruntime", "openvino")
ROWS = 6

gnn = torch.ops.gnn


class Table(nn.Module):
    """Lays items out and returns both results in one."""

    def forward(self, index: Tensor) -> Tensor:
        """Return the items in the cells, then the cells of the items."""
        table, cells = gnn.table(index, ROWS, 2)
        return torch.cat([table.flatten(), cells])


class Recurrent(nn.Module):
    """Runs sequences of any length through two layers in both directions."""

    def __init__(self, name: str, bias: bool) -> None:
        super().__init__()
        self.name, self.bias = name, bias
        self.layers = getattr(nn, name.upper())(3, 4, 2, bias=bias, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the state after each step."""
        state = x.new_zeros(4, x.size(0), 4)
        states = [state, state] if self.name == "lstm" else state
        weights = [getattr(self.layers, name) for names in self.layers._all_weights for name in names]
        return getattr(gnn, self.name)(x, states, weights, self.bias, 2, 0.0, False, True, True)[0]


class StableSort(nn.Module):
    """Sorts columns and returns where each value came from."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the places in descending order of the values."""
        return torch.sort(x, dim=0, descending=True, stable=True)[1]


class Attention(nn.Module):
    """Attends among the items of a set whose first number is above zero, if there are any."""

    def __init__(self, mask: torch.dtype) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        """Return what each item sees, [sets, items, channels]."""
        seen = (x[:, :, 0] > 0)[:, None, None, :]
        if self.mask is not torch.bool:
            seen = torch.zeros_like(seen, dtype=self.mask).masked_fill(~seen, float("-inf"))
        items = x.unsqueeze(1)
        return nn.functional.scaled_dot_product_attention(items, items, items, seen).squeeze(1)


def translated(module: nn.Module, example: Tensor, axes: Sequence[int]) -> ir.Model:
    """Translate a module of one input, of which some sizes stay open."""
    body = fx.symbolic_trace(module.eval())
    return export(body, {"x": example}, "out", [dict.fromkeys(axes, Dim.DYNAMIC)])


def engine_of(name: str, model: ir.Model) -> Callable[[Array], Array]:
    """Load a model in an engine."""
    text = ir.to_proto(model).SerializeToString()
    if name == "onnxruntime":
        session = onnxruntime.InferenceSession(text, providers=["CPUExecutionProvider"])
        return lambda x: np.asarray(session.run(None, {"x": x})[0])
    openvino: Any = pytest.importorskip("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(text), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: np.array(compiled([x])[0])


@pytest.mark.parametrize("engine", ENGINES)
def test_table(engine: str) -> None:
    """Items stand in their rows in the order given, also where a row is long, and where there are none."""
    module = Table()
    run = engine_of(engine, translated(module, torch.tensor([0, 1, 1, 4]), [0]))
    long = torch.repeat_interleave(torch.arange(ROWS), torch.tensor([9, 0, 40, 1, 0, 3]))
    for index in (torch.tensor([0, 1, 1, 4]), long, torch.tensor([5]), torch.zeros(0, dtype=torch.int64)):
        np.testing.assert_array_equal(run(index.numpy()), module(index).numpy())


def test_table_of_items_in_any_order() -> None:
    """ONNX Runtime keeps the order of items whose rows come in any order."""
    module = Table()
    run = engine_of("onnxruntime", translated(module, torch.tensor([0, 1, 1, 4]), [0]))
    index = torch.randint(0, ROWS, (200,), generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(run(index.numpy()), module(index).numpy())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "bias"), [("lstm", True), ("gru", True), ("lstm", False), ("gru", False)])
def test_recurrence(engine: str, name: str, bias: bool) -> None:
    """A recurrence runs over as many steps as a request has."""
    torch.manual_seed(0)
    module = Recurrent(name, bias)
    run = engine_of(engine, translated(module, torch.randn(5, 7, 3), [0, 1]))
    for shape in ((5, 7, 3), (2, 1, 3), (1, 9, 3)):
        x = torch.randn(shape)
        with torch.no_grad():
            np.testing.assert_allclose(run(x.numpy()), module(x).numpy(), atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_stable_sort(engine: str) -> None:
    """Equal values keep their order."""
    x = torch.randint(0, 3, (50, 2), generator=torch.Generator().manual_seed(0)).float()
    run = engine_of(engine, translated(StableSort(), torch.randn(8, 2), [0]))
    np.testing.assert_array_equal(run(x.numpy()), StableSort()(x).numpy())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mask", [torch.bool, torch.float32])
def test_attention_to_nothing(engine: str, mask: torch.dtype) -> None:
    """Where a mask leaves nothing, as of an empty graph, the answer is zero and not NaN."""
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    x[1, :, 0] = -1
    module = Attention(mask)
    answer = engine_of(engine, translated(module, torch.randn(3, 6, 3), [0, 1]))(x.numpy())
    assert not answer[1].any()
    np.testing.assert_allclose(answer, module(x).numpy(), atol=1e-6)
