"""The dialect's ops against loops over plain numpy, with their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from gnnexport.program.dialect import ops
from tests.graph_strategies import edge_indices

REDUCES = ["sum", "mean", "max", "min", "prod"]
NUMPY = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min, "prod": np.prod}


@st.composite
def structures(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int]:
    """Draw a CSR: `rowptr`, `col`, the destination of each slot, and the number of nodes."""
    num_nodes = draw(st.integers(1, 6))
    src, dst = draw(edge_indices(num_nodes))
    rowptr, perm = ops.csr(dst, num_nodes)
    return rowptr, src[perm], dst[perm], num_nodes


def values(*shape: int, seed: int = 0) -> Tensor:
    """Draw distinct numbers: maxima have no ties."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reduced(messages: NDArray[Any], rowptr: Tensor, reduce: str) -> NDArray[Any]:
    """Reduce the slots of each row in a loop; a row without slots gives zero, or one where that is neutral."""
    out = np.full((len(rowptr) - 1, *messages.shape[1:]), float(reduce == "prod"))
    for row, (start, end) in enumerate(zip(rowptr[:-1].tolist(), rowptr[1:].tolist(), strict=True)):
        if end > start:
            out[row] = NUMPY[reduce](messages[start:end], axis=0)
    return out


@given(data=st.data())
def test_csr_is_stable(data: st.DataObject) -> None:
    """Slots are sorted by destination and keep the order in which their edges came."""
    num_nodes = data.draw(st.integers(1, 8))
    dst = data.draw(edge_indices(num_nodes))[1]
    rowptr, perm = ops.csr(dst, num_nodes)
    assert rowptr.tolist() == [int((dst < row).sum()) for row in range(num_nodes + 1)]
    expected = sorted(range(len(dst)), key=lambda edge: (int(dst[edge]), edge))
    assert perm.tolist() == expected


@pytest.mark.parametrize("reduce", REDUCES)
@settings(max_examples=25)
@given(structure=structures(), trailing=st.sampled_from([(), (3,), (2, 3)]))
def test_aggregate(reduce: str, structure: tuple[Tensor, Tensor, Tensor, int], trailing: tuple[int, ...]) -> None:
    """Unweighted aggregation reduces the sources' rows."""
    rowptr, col, _, num_nodes = structure
    x = values(num_nodes, *trailing)
    actual = ops.aggregate(x, rowptr, col, None, reduce)
    np.testing.assert_allclose(actual.numpy(), reduced(x.numpy()[col.numpy()], rowptr, reduce), atol=1e-12)


@settings(max_examples=25)
@given(structure=structures(), heads=st.sampled_from([0, 1, 2]))
def test_weighted_aggregate(structure: tuple[Tensor, Tensor, Tensor, int], heads: int) -> None:
    """A weight for each slot, or each slot and head, scales the source's row."""
    rowptr, col, _, num_nodes = structure
    x = values(num_nodes, heads, 3) if heads else values(num_nodes, 3)
    weight = values(len(col), heads, seed=1) if heads else values(len(col), seed=1)
    actual = ops.aggregate(x, rowptr, col, weight, "sum")
    expected = reduced(x.numpy()[col.numpy()] * weight.numpy()[..., None], rowptr, "sum")
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("reduce", REDUCES)
@settings(max_examples=25)
@given(structure=structures())
def test_reduce_edges(reduce: str, structure: tuple[Tensor, Tensor, Tensor, int]) -> None:
    """Messages in slot order are reduced by row."""
    rowptr, col, _, _ = structure
    messages = values(len(col), 2, 3)
    actual = ops.reduce_edges(messages, rowptr, reduce)
    np.testing.assert_allclose(actual.numpy(), reduced(messages.numpy(), rowptr, reduce), atol=1e-12)


@settings(max_examples=25)
@given(structure=structures())
def test_edge_softmax(structure: tuple[Tensor, Tensor, Tensor, int]) -> None:
    """Slots of a row sum to one, also for logits that overflow on their own."""
    rowptr, col, row, _ = structure
    logits = 1000 * values(len(col), 2)
    actual = ops.edge_softmax(logits, rowptr).numpy()
    expected = np.zeros_like(actual)
    for start, end in zip(rowptr[:-1].tolist(), rowptr[1:].tolist(), strict=True):
        if end > start:
            shifted = np.exp(logits[start:end].numpy() - logits[start:end].numpy().max(0))
            expected[start:end] = shifted / shifted.sum(0)
    np.testing.assert_allclose(actual, expected, atol=1e-12)
    assert len(row) == len(actual)


@settings(max_examples=25)
@given(structure=structures())
def test_gathers(structure: tuple[Tensor, Tensor, Tensor, int]) -> None:
    """Slots take their source's row, or their destination's."""
    rowptr, col, row, num_nodes = structure
    x = values(num_nodes, 3)
    assert torch.equal(ops.gather_source(x, rowptr, col), x[col])
    assert torch.equal(ops.gather_destination(x, rowptr, row), x[row])


@pytest.mark.parametrize("reduce", REDUCES)
@settings(max_examples=8)
@given(structure=structures())
def test_gradients_of_reductions(reduce: str, structure: tuple[Tensor, Tensor, Tensor, int]) -> None:
    """Gradients agree with finite differences."""
    rowptr, col, _, num_nodes = structure
    x = values(num_nodes, 2).requires_grad_()
    messages = values(len(col), 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda item: ops.aggregate(item, rowptr, col, None, reduce), (x,))
    assert torch.autograd.gradcheck(lambda item: ops.reduce_edges(item, rowptr, reduce), (messages,))


@settings(max_examples=8)
@given(structure=structures(), heads=st.sampled_from([0, 2]))
def test_gradients_of_weights(structure: tuple[Tensor, Tensor, Tensor, int], heads: int) -> None:
    """Gradients reach features and weights of a weighted sum."""
    rowptr, col, _, num_nodes = structure
    x = (values(num_nodes, heads, 2) if heads else values(num_nodes, 2)).requires_grad_()
    weight = (values(len(col), heads, seed=1) if heads else values(len(col), seed=1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda *item: ops.aggregate(item[0], rowptr, col, item[1], "sum"), (x, weight))


@settings(max_examples=8)
@given(structure=structures())
def test_gradients_of_gathers_and_softmax(structure: tuple[Tensor, Tensor, Tensor, int]) -> None:
    """Gradients of gathers sum over slots; those of softmax agree with finite differences."""
    rowptr, col, row, num_nodes = structure
    x, logits = values(num_nodes, 2).requires_grad_(), values(len(col), 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda item: ops.gather_source(item, rowptr, col), (x,))
    assert torch.autograd.gradcheck(lambda item: ops.gather_destination(item, rowptr, row), (x,))
    assert torch.autograd.gradcheck(lambda item: ops.edge_softmax(item, rowptr), (logits,))


def test_gradient_follows_the_structure_not_the_columns() -> None:
    """The same columns under other row pointers have another gradient."""
    col = torch.tensor([0, 1, 0])
    weight = torch.tensor([[1.0], [10.0]])
    grads = []
    for rowptr in (torch.tensor([0, 2, 3]), torch.tensor([0, 1, 3])):
        x = torch.zeros(2, 1, requires_grad=True)
        (ops.aggregate(x, rowptr, col, None, "sum") * weight).sum().backward()
        assert x.grad is not None
        grads.append(x.grad.flatten().tolist())
    assert grads == [[11.0, 1.0], [11.0, 10.0]]


def test_ties_share_the_gradient() -> None:
    """Equal maxima get equal shares, as in PyTorch's own scatter."""
    x = torch.ones(2, 1, requires_grad=True)
    ops.aggregate(x, torch.tensor([0, 2]), torch.tensor([0, 1]), None, "max").sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0.5, 0.5]


def test_gradient_of_a_product_with_zeros() -> None:
    """A factor's gradient is the product of the others, also where one or several of them are zero."""
    messages = torch.tensor([[2.0], [0.0], [3.0], [0.0], [0.0], [5.0]], dtype=torch.float64, requires_grad=True)
    rowptr = torch.tensor([0, 3, 5, 5, 6])
    out = ops.reduce_edges(messages, rowptr, "prod")
    assert out.flatten().tolist() == [0.0, 0.0, 1.0, 5.0]
    out.sum().backward()
    assert messages.grad is not None
    assert messages.grad.flatten().tolist() == [0.0, 6.0, 0.0, 0.0, 0.0, 1.0]
