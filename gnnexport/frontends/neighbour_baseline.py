"""The original model in PyTorch on requests about some nodes: the graph around them, or the whole graph."""

from __future__ import annotations

import copy
import statistics
import time

import numpy as np
import torch
from torch import Tensor

from gnnexport.frontends.baseline import TOLERANCE, Baseline
from gnnexport.frontends.model import settle
from gnnexport.frontends.signature import call_arguments
from gnnexport.native.neighbours import expand, number
from gnnexport.program.data import GraphData
from gnnexport.program.inputs import Input, Role

TRIALS = 3


def best_on_targets(
    model: torch.nn.Module, data: GraphData, inputs: tuple[Input, ...], targets: Tensor, depth: int, whole: Baseline
) -> Baseline:  # fmt: skip
    """Return the faster of two ways to answer for some nodes exactly; the model itself is untouched.

    Args:
        model: the original.
        data: the graph.
        inputs: the arguments of the model.
        targets: int64 [num_targets].
        depth: hops that an answer depends on.
        whole: the best way to run it on the whole graph.
    """
    twin = settle(copy.deepcopy(model))
    around = Neighbourhood(data, inputs, depth)

    def run() -> Tensor:
        with torch.inference_mode():
            output: Tensor = twin(**call_arguments(around.of(targets), inputs))
            return output[: len(targets)]

    found = Baseline("pytorch-neighbours", run)
    expected = whole.run()[targets]
    try:
        answer = run()
    except Exception:
        return whole  # a model that cannot run on a part of the graph fails in ways of its own
    scale = float(expected.abs().max()) or 1.0
    if float((answer - expected).abs().max()) > TOLERANCE * scale:
        return whole  # degrees at the rim are not those of the whole graph
    return min((found, whole), key=_seconds)


class Neighbourhood:
    """Cut out the graph that the answers for some nodes depend on."""

    def __init__(self, data: GraphData, inputs: tuple[Input, ...], depth: int) -> None:
        self.data, self.depth = data, depth
        self.roles = {item.name: item.role for item in inputs}
        (self.index,) = (item.name for item in inputs if item.role is Role.EDGE_INDEX)
        source, destination = data.inputs[self.index].numpy()
        self.order = np.argsort(destination, kind="stable")
        degree = np.bincount(destination, minlength=data.num_nodes)
        self.length = degree.astype(np.int64)
        self.start = np.cumsum(degree) - degree
        self.source = np.ascontiguousarray(source[self.order])
        self.marks = np.full(data.num_nodes, -1, np.int32)

    def of(self, targets: Tensor) -> GraphData:
        """Return the neighbourhood; its first nodes are the targets, each once."""
        nodes = frontier = targets.numpy()
        slots, rows = [], []
        for _ in range(self.depth):
            block = expand(self.start, self.length, self.source, frontier)
            slots.append(block.slots)
            rows.append(np.repeat(frontier, np.diff(block.rowptr)))
            known = len(nodes)
            nodes, _ = number(np.concatenate([nodes, block.col]), self.marks)
            frontier = nodes[known:]
        taken = np.concatenate(slots)
        ends = np.concatenate([nodes, self.source[taken], np.concatenate(rows)])
        _, places = number(ends, self.marks)
        edge_index = torch.from_numpy(places[len(nodes) :].astype(np.int64).reshape(2, -1))
        edges, kept = torch.from_numpy(self.order[taken]), torch.from_numpy(nodes)
        values = {name: self._part(name, value, kept, edges) for name, value in self.data.inputs.items()}
        return GraphData(self.data.name, {**values, self.index: edge_index})

    def _part(self, name: str, value: Tensor, nodes: Tensor, edges: Tensor) -> Tensor:
        role = self.roles.get(name)
        if role in (Role.EDGE_WEIGHT, Role.EDGE_FEATURES, Role.EDGE_TYPE):
            return value[edges]
        return value[nodes] if role in (Role.NODE_FEATURES, Role.NODE_TYPE) else value


def _seconds(contender: Baseline) -> float:
    seconds = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        contender.run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
