"""The dialect in float32, which our kernels compute, against the dialect in float64, which torch computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gnnexport.errors import KernelError
from gnnexport.native.library import why_missing
from gnnexport.program.dialect import native, ops
from tests.graph_strategies import edge_indices

pytestmark = pytest.mark.skipif(why_missing() is not None, reason=f"the kernels: {why_missing()}")

REDUCES = ["sum", "mean", "max", "min", "prod"]


@st.composite
def structures(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Draw a CSR, `rowptr` and `col`, and the number of nodes."""
    num_nodes = draw(st.integers(1, 8))
    src, dst = draw(edge_indices(num_nodes))
    rowptr, perm = ops.csr(dst, num_nodes)
    return rowptr, src[perm], num_nodes


def agree(compute: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Check values and gradients of float32 against those of float64."""
    assert native.serves(inputs, [])
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [item.detach().clone().to(dtype).requires_grad_() for item in inputs]
        out = compute(*leaves)
        weigh = torch.linspace(-1, 1, out.numel(), dtype=dtype).reshape(out.shape)
        (out * weigh).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for narrow, wide in zip(*results, strict=True):
        torch.testing.assert_close(narrow.double(), wide, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("reduce", REDUCES)
@settings(max_examples=20)
@given(structure=structures(), trailing=st.sampled_from([(), (1,), (5,), (17,), (2, 3)]))
def test_aggregate(reduce: str, structure: tuple[Tensor, Tensor, int], trailing: tuple[int, ...]) -> None:
    """Reductions of sources' rows agree, with their gradients."""
    rowptr, col, num_nodes = structure
    x = torch.randn(num_nodes, *trailing, generator=torch.Generator().manual_seed(0))
    agree(lambda item: ops.aggregate(item, rowptr, col, None, reduce), x)
    messages = torch.randn(len(col), *trailing, generator=torch.Generator().manual_seed(1))
    agree(lambda item: ops.reduce_edges(item, rowptr, reduce), messages)


@settings(max_examples=20)
@given(structure=structures(), heads=st.sampled_from([0, 1, 2]), channels=st.sampled_from([1, 3, 16]))
def test_weighted_sum(structure: tuple[Tensor, Tensor, int], heads: int, channels: int) -> None:
    """Weighted sums agree, with the gradients of rows and weights; rows need not lie in one piece."""
    rowptr, col, num_nodes = structure
    random = torch.Generator().manual_seed(0)
    shape = (heads, channels) if heads else (channels,)
    x = torch.randn(*shape[::-1], num_nodes, generator=random).permute(*range(len(shape), -1, -1))
    weight = torch.randn(len(col), *shape[:-1], generator=random)
    agree(lambda item, factor: ops.aggregate(item, rowptr, col, factor, "sum"), x, weight)


@settings(max_examples=20)
@given(structure=structures(), trailing=st.sampled_from([(), (1,), (8,), (2, 3)]))
def test_edge_softmax(structure: tuple[Tensor, Tensor, int], trailing: tuple[int, ...]) -> None:
    """Shares agree, with their gradients."""
    rowptr, col, _ = structure
    logits = torch.randn(len(col), *trailing, generator=torch.Generator().manual_seed(0))
    agree(lambda item: ops.edge_softmax(item, rowptr), logits)


@pytest.mark.parametrize(
    ("weight", "reduce"),
    [(torch.ones(1), "sum"), (torch.ones(4, 3), "sum"), (torch.ones(3, 2), "sum"), (torch.ones(4), "mean")],
)
def test_weights_that_do_not_fit(weight: Tensor, reduce: str) -> None:
    """Weights for other slots or heads than there are, or where nothing is summed, are refused."""
    rowptr, col = torch.tensor([0, 2, 4]), torch.tensor([0, 1, 0, 1])
    with pytest.raises(KernelError, match="Pass one weight for each slot"):
        ops.aggregate(torch.ones(2, 2, 5), rowptr, col, weight, reduce)


def test_narrow_indices() -> None:
    """Indices of 32 bits are left to torch, which reads them as they are."""
    rowptr, col = torch.tensor([0, 2, 3], dtype=torch.int32), torch.tensor([0, 1, 1], dtype=torch.int32)
    x = torch.tensor([[1.0], [2.0]])
    assert not native.serves([x], [rowptr, col])
    assert ops.aggregate(x, rowptr, col, None, "sum").tolist() == [[3.0], [2.0]]
