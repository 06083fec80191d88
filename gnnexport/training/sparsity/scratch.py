"""Forget what a Program has learned: every parameter as before training, by what reads it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from gnnexport.program.graphs import args_of, calls, parameter_of
from gnnexport.program.program import Program

aten = torch.ops.aten

_NORMS = {aten.batch_norm.default: 1, aten.layer_norm.default: 2, aten.group_norm.default: 2}
"""Place of the scale among a normalisation's arguments."""

_STATISTICS = (3, 4)

_VIEWS = (aten.view.default, aten.unsqueeze.default, aten.expand.default, aten.index_select.default)


def reset(program: Program, seed: int) -> None:
    """Draw all parameters that are learned anew; the Program is changed.

    Matrices are drawn as by Glorot, vectors that scale are one, those that are added zero. A single number, such as a
    temperature, and slopes of activations stay as they are, for nothing tells what they were.
    """
    generator = torch.Generator().manual_seed(seed)
    ones, statistics = _of_norms(program)
    ones |= _factors(program)
    slopes = _read_at(program, aten.prelu.default, 1)
    embeddings = _read_at(program, aten.embedding.default, 0)
    with torch.no_grad():
        for value in program.body.parameters():
            if not value.requires_grad or value.numel() <= 1 or id(value) in slopes:
                continue
            if id(value) in ones:
                value.fill_(1.0)
            elif id(value) in embeddings:
                value.normal_(generator=generator)
            elif value.dim() == 1:
                value.zero_()
            else:
                bound = math.sqrt(6 / (value.shape[-1] + value.shape[-2]))
                value.uniform_(-bound, bound, generator=generator)
        for statistic, start in statistics:
            statistic.fill_(start)


def _of_norms(program: Program) -> tuple[set[int], list[tuple[Tensor, float]]]:
    """Return the ids of scales, and running means and variances with where they start."""
    ones: set[int] = set()
    statistics: list[tuple[Tensor, float]] = []
    for node in calls(program.body.graph, *_NORMS):
        target: Any = node.target
        scale = parameter_of(program.body, _at(node, _NORMS[target]))
        if scale is not None:
            ones.add(id(scale))
        if target is aten.batch_norm.default:
            for place, start in zip(_STATISTICS, (0.0, 1.0), strict=True):
                value = parameter_of(program.body, _at(node, place))
                if value is not None:
                    statistics.append((value, start))
    return ones, statistics


def _read_at(program: Program, target: Any, place: int) -> set[int]:
    """Return the ids of the parameters that ops have at a place of their arguments."""
    return {id(parameter_of(program.body, args_of(node)[place])) for node in calls(program.body.graph, target)}


def _factors(program: Program) -> set[int]:
    """Return the ids of vectors that do nothing but multiply, as the scales of norms that are written out."""
    found = set()
    for node in program.body.graph.nodes:
        value = parameter_of(program.body, node)
        if value is not None and value.dim() == 1 and node.users and all(map(_is_product, node.users)):
            found.add(id(value))
    return found


def _is_product(node: fx.Node) -> bool:
    if node.target in _VIEWS:
        return bool(node.users) and all(map(_is_product, node.users))
    return node.target is aten.mul.Tensor


def _at(node: fx.Node, place: int) -> Any:
    given = args_of(node)
    return given[place] if len(given) > place else None
