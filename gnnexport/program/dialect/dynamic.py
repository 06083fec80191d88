"""The dialect's ops of plain quantisation: steps taken from what is rounded, and nodes that training leaves alone.

Protection is that of Degree-Quant (Tailor, Fernandez-Marques, Lane, ICLR 2021).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gnnexport.program.dialect.quantize import LEAST_STEP, levels


def dynamic_step(x: Tensor, bits: int, signed: bool, by: str) -> Tensor:
    """Return the step with which the largest magnitude of each row, or of all of them, is the largest level.

    Returns:
        [rows, 1, ...] by `rows`, [1, 1, ...] by `tensor`.
    """
    top = 2 ** (bits - int(signed)) - 1
    flat = x.reshape(1 if by == "tensor" else x.shape[0], math.prod(x.shape if by == "tensor" else x.shape[1:]))
    largest = flat.abs().amax(1) if flat.shape[1] else x.new_zeros(flat.shape[0])
    step: Tensor = (largest / top).clamp(min=LEAST_STEP)
    return step.view(-1, *[1] * (x.dim() - 1))


@torch.library.custom_op("gnn::quantize_dynamic", mutates_args=(), device_types="cpu")
def quantize_dynamic(x: Tensor, bits: int, signed: bool, by: str, name: str = "") -> Tensor:
    """Round to the levels of a step that is the largest magnitude over the largest level.

    Args:
        x: [rows, ...].
        bits: 2 to 8.
        signed: whether levels below zero exist.
        by: `rows`, each with a step of its own, or `tensor`.
        name: of the operand, for reports.
    """
    del name
    step = dynamic_step(x, bits, signed, by)
    return levels(x, step, torch.tensor(float(bits)), signed) * step


@quantize_dynamic.register_fake
def _(x: Tensor, bits: int, signed: bool, by: str, name: str = "") -> Tensor:
    return torch.empty_like(x)


def _straight_through(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
    """Hand the gradient on: nothing is beyond the largest level."""
    return grad, None, None, None, None


quantize_dynamic.register_autograd(_straight_through)


@torch.library.custom_op("gnn::protect", mutates_args=(), device_types="cpu", tags=(torch.Tag.nondeterministic_seeded,))
def protect(x: Tensor, rounded: Tensor, rowptr: Tensor, chance: Tensor, training: bool) -> tuple[Tensor, Tensor]:
    """Leave rows of some nodes as they are in training, drawn with a chance that depends on their in-degree.

    Args:
        x: [rows, ...].
        rounded: the same rounded, which is what an inference reads.
        rowptr: int64 [rows + 1], of the structure that tells the degrees.
        chance: float32, by in-degree; the last entry stands for all higher ones.
        training: whether any are left.

    Returns:
        The rows, and float32 [rows, 1, ...], one where a row was left as it was.
    """
    shape = (x.shape[0], *[1] * (x.dim() - 1))
    if not training:
        return rounded.clone(), x.new_zeros(shape)
    drawn = torch.bernoulli(chance[rowptr.diff().clamp(max=len(chance) - 1)]).view(shape)
    return torch.where(drawn > 0, x, rounded), drawn


@protect.register_fake
def _(x: Tensor, rounded: Tensor, rowptr: Tensor, chance: Tensor, training: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rounded), x.new_empty((x.shape[0], *[1] * (x.dim() - 1)))


def _keep_drawn(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])


def _to_either(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor, None, None, None]:
    (drawn,) = ctx.saved_tensors
    return grad * drawn, grad * (1 - drawn), None, None, None


protect.register_autograd(_to_either, setup_context=_keep_drawn)
