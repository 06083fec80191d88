"""The dialect's quantisers against plain numpy, and their gradients against finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from gnnexport.program.dialect import quantize
from gnnexport.program.dialect.quantize import LEAST_STEP

gnn = torch.ops.gnn

SHAPES = [(5, 4), (1, 3), (0, 4), (6, 2, 3), (7,)]


def values(*shape: int, seed: int = 0, signed: bool = True) -> Tensor:
    """Draw numbers, non-negative where there is no sign to store."""
    drawn = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn if signed else drawn.relu()


def steps(count: int, seed: int = 1) -> Tensor:
    """Draw step sizes."""
    return 0.01 + torch.rand(count, generator=torch.Generator().manual_seed(seed))


def widths(count: int, seed: int = 2) -> Tensor:
    """Draw widths between whole numbers, some out of range."""
    return 9 * torch.rand(count, generator=torch.Generator().manual_seed(seed))


def expected(x: NDArray[Any], step: NDArray[Any], bits: NDArray[Any], *, signed: bool) -> NDArray[Any]:
    """Compute what the levels are defined to be, in float32."""
    step = np.maximum(step.astype(np.float32), np.float32(LEAST_STEP))
    whole = np.round(np.clip(bits, 1, 8))
    top = (2 ** (whole - 1 if signed else whole) - 1).astype(np.float32)
    z = x * (np.float32(1) / step)
    half = np.float32(0.5)
    if signed:
        n = np.sign(z) * np.floor(np.minimum(np.abs(z), top) + half)
    else:
        n = np.floor(np.minimum(np.maximum(z, np.float32(0)), top) + half)
    result: NDArray[Any] = n * step
    return result


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 3, 7, 50])
def test_rows_take_their_entries_in_turn(shape: tuple[int, ...], count: int, signed: bool) -> None:
    """Row i is rounded with entry i modulo the number of entries, to the last bit."""
    x, step, bits = values(*shape, signed=signed), steps(count), widths(count)
    index = np.arange(shape[0]) % count
    columns = (-1, *[1] * (len(shape) - 1))
    wanted = expected(
        x.numpy(), step.numpy()[index].reshape(columns), bits.numpy()[index].reshape(columns), signed=signed
    )
    assert np.array_equal(gnn.quantize_rows(x, step, bits, signed, False).numpy(), wanted)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) > 1])
@pytest.mark.parametrize("one", [True, False])
def test_columns_have_their_own_steps(shape: tuple[int, ...], signed: bool, one: bool) -> None:
    """Column j is rounded with step j, or all with the same, to the last bit."""
    x, bits = values(*shape, signed=signed), torch.tensor([4.0])
    step = steps(1 if one else math.prod(shape[1:]))
    flat = step.numpy() if one else step.numpy().reshape(shape[1:])
    wanted = expected(x.numpy(), flat, bits.numpy(), signed=signed)
    assert np.array_equal(gnn.quantize_columns(x, step, bits, signed, False).numpy(), wanted)


@pytest.mark.parametrize("signed", [True, False])
@given(data=st.data())
def test_nearest_group_is_found_as_by_looking_at_all(signed: bool, data: st.DataObject) -> None:
    """Binary search finds what comparing with every group finds; ties go to the lower reach, then the lower index."""
    count = data.draw(st.integers(1, 12))
    sixteenths = st.integers(1, 40).map(lambda n: n / 16)
    step = torch.tensor(data.draw(st.lists(sixteenths, min_size=count, max_size=count)))
    bits = torch.tensor(data.draw(st.lists(st.integers(1, 8).map(float), min_size=count, max_size=count)))
    rows = data.draw(st.lists(st.integers(0, 200).map(lambda n: n / 16), min_size=1, max_size=10))
    x = torch.tensor(rows)[:, None] * torch.tensor([0.5, 1.0 if signed else 0.25, -1.0 if signed else 1.0])
    reach = quantize.reach(step, bits, signed)
    largest = x.abs().amax(1)
    order = sorted(range(count), key=lambda k: (float(reach[k]), k))
    best = [min(order, key=lambda k: abs(float(value) - float(reach[k]))) for value in largest]
    assert quantize.nearest_groups(x, step, bits, signed).tolist() == best
    rounded = gnn.quantize_nearest(x, step, bits, signed, False)
    assert torch.equal(rounded, gnn.quantize_rows(x, step[best], bits[best], signed, False))


@pytest.mark.parametrize("signed", [True, False])
def test_rounding_twice_is_rounding_once(signed: bool) -> None:
    """Levels are their own nearest levels."""
    x, step, bits = values(200, 16, signed=signed), steps(200), widths(200)
    once = gnn.quantize_rows(x, step, bits, signed, False)
    assert torch.equal(gnn.quantize_rows(once, step, bits, signed, False), once)


@pytest.mark.parametrize("signed", [True, False])
def test_eight_bits_are_close(signed: bool) -> None:
    """Within the range, no value moves by more than half a step."""
    x = values(50, 20, signed=signed)
    bits = torch.full((50,), 8.0)
    step = x.abs().amax(1) / quantize.largest_level(bits, signed)
    moved = (gnn.quantize_rows(x, step, bits, signed, False) - x).abs()
    assert bool((moved <= 0.5001 * step[:, None]).all())


def test_one_signed_bit_is_zero() -> None:
    """Of the levels of one signed bit there is only zero, and its error pushes for more bits."""
    x = values(4, 5)
    bits = torch.ones(4, requires_grad=True)
    out = gnn.quantize_rows(x, torch.ones(4), bits, True, True)
    out.sum().backward()
    assert not out.any()
    assert bits.grad is not None
    assert bool((bits.grad < 0).all())


def surrogate(x: Tensor, step: Tensor, bits: Tensor, *, signed: bool) -> Any:
    """Return the quantised values as a function of step and bits, with the rounding of this point held fixed.

    Rounding has no derivative; straight through it, `round(z)` is `z` plus what it added here. Q is taken of the bits
    as they are, between whole numbers too.
    """
    with torch.no_grad():
        n = quantize.levels(x, step, bits, signed)
        z = x / step
        top = quantize.largest_level(bits, signed)
        inside = (z.abs() <= top) if signed else (z <= top)
        added = n - z

    def at(step: Tensor, bits: Tensor) -> Tensor:
        top = torch.exp2(bits - (1 if signed else 0)) - 1
        return torch.where(inside, x + added * step, x.sign() * top * step)

    return at


def numeric(function: Any, at: Tensor) -> Tensor:
    """Return the gradient of a function of a vector, by central differences."""
    grad, width = torch.zeros_like(at), 1e-6
    for k in range(len(at)):
        shift = torch.zeros_like(at)
        shift[k] = width
        grad[k] = (function(at + shift) - function(at - shift)) / (2 * width)
    return grad


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("clipped", [True, False])
def test_gradients_of_rows(signed: bool, local: bool, clipped: bool) -> None:
    """Gradients of step and bits are those of the rows' own error, or of the loss, on clipped and unclipped rows."""
    x = values(6, 5, seed=3, signed=signed).double()
    step = (torch.rand(6, generator=torch.Generator().manual_seed(5)) * 0.2 + (0.05 if clipped else 3)).double()
    bits, probe = torch.full((6,), 3.0).double(), values(6, 5, seed=4).double()
    at = surrogate(x, step[:, None], bits[:, None], signed=signed)

    def loss(step: Tensor, bits: Tensor) -> Tensor:
        out = at(step[:, None], bits[:, None])
        total: Tensor = (out - x).abs().mean(1).sum() if local else (out * probe).sum()
        return total

    given = [item.clone().requires_grad_() for item in (x, step, bits)]
    (gnn.quantize_rows(*given, signed, local) * probe).sum().backward()
    torch.testing.assert_close(given[1].grad, numeric(lambda item: loss(item, bits), step), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(given[2].grad, numeric(lambda item: loss(step, item), bits), rtol=1e-5, atol=1e-7)
    inside = (x.abs() <= step[:, None] * quantize.largest_level(bits, signed)[:, None]).double()
    torch.testing.assert_close(given[0].grad, probe * inside)
    assert bool((given[2].grad != 0).any()) == clipped  # type: ignore[union-attr]


@pytest.mark.parametrize("local", [True, False])
def test_gradients_of_columns(local: bool) -> None:
    """A column's step learns from its column, and the width from all of them."""
    x, step, bits = values(6, 5, seed=3).double(), steps(5).double(), torch.tensor([3.0]).double()
    probe = values(6, 5, seed=4).double()
    at = surrogate(x, step, bits, signed=True)

    def loss(step: Tensor, bits: Tensor) -> Tensor:
        out = at(step, bits)
        total: Tensor = (out - x).abs().mean(0).sum() if local else (out * probe).sum()
        return total

    given = [item.clone().requires_grad_() for item in (step, bits)]
    (gnn.quantize_columns(x, *given, True, local) * probe).sum().backward()
    torch.testing.assert_close(given[0].grad, numeric(lambda item: loss(item, bits), step), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(given[1].grad, numeric(lambda item: loss(step, item), bits), rtol=1e-5, atol=1e-7)


def test_groups_learn_from_the_rows_that_chose_them() -> None:
    """The gradient of a group is the sum over its rows; one that no row chose has none."""
    x = torch.tensor([[0.1, 0.2], [0.15, 0.1], [5.0, 4.0]])
    step, bits = torch.tensor([0.1, 5.0, 100.0]), torch.tensor([2.0, 2.0, 2.0])
    given = [item.clone().requires_grad_() for item in (step, bits)]
    gnn.quantize_nearest(x, *given, True, False).sum().backward()
    apart = [item.clone().requires_grad_() for item in (step, bits)]
    gnn.quantize_rows(x, apart[0][[0, 0, 1]], apart[1][[0, 0, 1]], True, False).sum().backward()
    for one, other in zip(given, apart, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert given[0].grad is not None
    assert given[0].grad[2] == 0


@pytest.mark.parametrize("count", [1, 3, 8])
def test_shared_entries_sum_their_rows(count: int) -> None:
    """An entry that several rows take has the sum of their gradients."""
    x, probe = values(8, 3), values(8, 3, seed=9)
    step = steps(count).requires_grad_()
    (gnn.quantize_rows(x, step, torch.full((count,), 3.0), True, False) * probe).sum().backward()
    apart = steps(count)[torch.arange(8) % count].requires_grad_()
    (gnn.quantize_rows(x, apart, torch.full((8,), 3.0), True, False) * probe).sum().backward()
    assert step.grad is not None
    assert apart.grad is not None
    wanted = torch.zeros(count).index_add(0, torch.arange(8) % count, apart.grad)
    torch.testing.assert_close(step.grad, wanted)


@pytest.mark.parametrize("op", ["quantize_rows", "quantize_columns", "quantize_nearest"])
def test_torch_accepts_the_ops(op: str) -> None:
    """Schema, shapes and registration of gradients agree with what the ops do."""
    count = 4 if op == "quantize_columns" else 6
    width = 1 if op == "quantize_columns" else 6
    arguments = (values(6, 4), steps(count).requires_grad_(), widths(width), True, False)
    torch.library.opcheck(getattr(gnn, op).default, arguments, test_utils=("test_schema", "test_faketensor"))
