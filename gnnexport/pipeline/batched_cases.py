"""Golden cases of mode `batched`: requests about nodes of every kind, with the rows that the whole graph gives."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gnnexport.bundle.golden import GoldenCase, sample_rows
from gnnexport.bundle.stages import NODE_IDS
from gnnexport.pipeline.level_flips import find_flips
from gnnexport.pipeline.source import Source
from gnnexport.program.data import GraphData
from gnnexport.program.inputs import Role
from gnnexport.program.program import Program

HUBS = 8
"""Nodes of the largest degree, and as many of the smallest, that are asked about in any case."""


def batched_cases(source: Source, program: Program, *, seed: int) -> list[GoldenCase]:
    """Make the cases; the first is a typical request.

    Args:
        source: with the data.
        program: simplified, not yet lowered; its answers for the whole graph are what must come out.
        seed: of what is drawn.
    """
    assert source.targets is not None
    inputs = source.data.inputs
    structure = program.structure(inputs)
    with torch.no_grad():
        output = program.run_body(inputs, structure)
    answers, flips = output.numpy(), find_flips(program, inputs, structure, output, seed=seed)
    width = int(np.prod(answers.shape[1:])) * answers.itemsize
    extremes = _extremes(source.data)
    many = sample_rows(len(answers), width, 1, seed=seed, always=extremes.tolist())
    some = source.targets.numpy()
    asked: dict[str, NDArray[np.int64]] = {
        "typical": some,
        "one node": some[:1],
        "hubs and isolated nodes": extremes,
        "nodes asked about twice, in another order": np.concatenate([some[::-1], some[:3]]),
        "many nodes": np.arange(len(answers)) if many is None else many,
        "no node": some[:0],
    }
    return [
        GoldenCase(name, {NODE_IDS: ids}, {program.output: answers[ids]}, flips=flips) for name, ids in asked.items()
    ]


def _extremes(data: GraphData) -> NDArray[np.int64]:
    """Return the nodes with the most and with the fewest edges that lead to them."""
    degree = np.bincount(data.by_role(Role.EDGE_INDEX)[1].numpy(), minlength=data.num_nodes)
    order = np.argsort(degree, kind="stable")
    return np.unique(np.concatenate([order[:HUBS], order[-HUBS:]]))
