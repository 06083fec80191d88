"""Ways to answer for some nodes: ours, and the PyTorch model on what PyG, DGL or our own search finds around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, repeat
from typing import Any

import numpy as np
import torch
import torch_geometric.typing
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.loader import NeighborLoader

from benchmarks.aggregation_ways import import_dgl
from benchmarks.paper_sage import PaperSage
from benchmarks.room import LeftOut
from gnnexport.frontends.neighbour_baseline import Neighbourhood
from gnnexport.program.data import GraphData
from gnnexport.program.inputs import Input
from gnnexport.runtime.runner import Runner

DEPTH = 2
"""Layers of the model, and so hops that an answer depends on."""

Rows = NDArray[np.float32]
Way = Callable[[], Rows]
"""Answer the next request: float32 [nodes, classes]."""

Block = tuple[Tensor, int]
"""An edge index whose rows of a layer are wanted, and how many rows: the first of the nodes."""


@dataclass(frozen=True)
class Asked:
    """Requests of one size, which every way is asked in the same order, over and over.

    Args:
        nodes: int64 [requests, size], distinct within a request.
        fanout: most neighbours that are read, those of the nodes asked about first; `None` for all.
    """

    nodes: NDArray[np.int64]
    fanout: tuple[int, ...] | None

    @property
    def size(self) -> int:
        """Nodes of a request."""
        return int(self.nodes.shape[1])

    @property
    def counts(self) -> list[int]:
        """Return the fan-out as PyG and DGL take it: -1 for all."""
        return [-1] * DEPTH if self.fanout is None else list(self.fanout)


def ours(runner: Runner, asked: Asked) -> Way:
    """Return what asks a bundle; each request draws its own neighbours."""
    (output,) = (tensor.name for tensor in runner.outputs)
    turn = cycle(enumerate(asked.nodes))

    def answer() -> Rows:
        number, nodes = next(turn)
        return runner.predict(nodes, fanout=asked.fanout, seed=number)[output]

    return answer


def pyg(model: PaperSage, data: GraphData, asked: Asked, *, trimmed: bool) -> Way:
    """Return what runs the model on the batches of PyG's `NeighborLoader`.

    Args:
        model: in evaluation mode.
        data: the graph.
        asked: becomes the nodes that one loader is made for.
        trimmed: each layer gives only the rows that the next one reads.

    Raises:
        LeftOut: neither library that the loader can sample with is installed.
    """
    if not (torch_geometric.typing.WITH_PYG_LIB or torch_geometric.typing.WITH_TORCH_SPARSE):
        raise LeftOut("not installed; torch_sparse and torch_scatter, or pyg_lib, on PYTHONPATH are enough")
    graph = Data(x=data.inputs["x"], edge_index=data.inputs["edge_index"])
    wanted = torch.from_numpy(asked.nodes.reshape(-1))
    loader = NeighborLoader(graph, num_neighbors=asked.counts, input_nodes=wanted, batch_size=asked.size)
    batches: Iterator[Any] = chain.from_iterable(repeat(loader))

    def answer() -> Rows:
        batch = next(batches)
        return _answers(model, batch.x, batch.edge_index, asked.size, trimmed)

    return _inferring(answer)


def own_search(
    model: PaperSage, data: GraphData, inputs: tuple[Input, ...], asked: Asked, *, trimmed: bool
) -> Way:  # fmt: skip
    """Return what runs the model on the neighbourhoods that reports take their baseline on.

    Raises:
        LeftOut: the requests read some neighbours only.
    """
    if asked.fanout is not None:
        raise LeftOut("it reads all neighbours")
    around = Neighbourhood(data, inputs, DEPTH)
    turn = cycle(torch.from_numpy(asked.nodes))

    def answer() -> Rows:
        part = around.of(next(turn)).inputs
        return _answers(model, part["x"], part["edge_index"], asked.size, trimmed)

    return _inferring(answer)


def dgl(model: PaperSage, data: GraphData, asked: Asked, threads: int) -> Way:
    """Return what runs the model's branches on DGL's blocks, which are trimmed by their nature.

    Raises:
        LeftOut: DGL cannot be imported.
    """
    library = import_dgl()
    library.utils.set_num_threads(threads)
    source, destination = data.inputs["edge_index"]
    graph = library.graph((source, destination), num_nodes=data.num_nodes).formats("csc")
    turn = cycle(torch.from_numpy(asked.nodes))

    def answer() -> Rows:
        nodes, blocks = next(turn), []
        for count in asked.counts:
            blocks.append(library.to_block(library.sampling.sample_neighbors(graph, nodes, count), nodes))
            nodes = blocks[-1].srcdata[library.NID]
        rows = data.inputs["x"][nodes]
        for layer, block in zip((model.first, model.second), reversed(blocks), strict=True):
            block.srcdata["rows"] = rows
            block.update_all(library.function.copy_u("rows", "row"), library.function.mean("row", "mean"))
            own = layer.own(rows[: block.num_dst_nodes()])
            rows = torch.cat([own, layer.neighbours(block.dstdata["mean"])], 1)
        return _classified(model, rows)

    return _inferring(answer)


def _answers(model: PaperSage, x: Tensor, edge_index: Tensor, size: int, trimmed: bool) -> Rows:
    """Run the model on a neighbourhood whose first nodes are those asked about."""
    if not trimmed:
        logits: Rows = model(x, edge_index)[:size].numpy()
        return logits
    return _run_blocks(model, x, _trim(edge_index, size))


def _trim(edge_index: Tensor, size: int) -> Sequence[Block]:
    """Tell what each layer has to give; nodes are numbered hop by hop, so that their neighbours come next."""
    inner = edge_index[:, edge_index[1] < size]
    reached = max(size, int(inner[0].max()) + 1) if inner.shape[1] else size
    return (edge_index[:, edge_index[1] < reached], reached), (inner, size)


def _run_blocks(model: PaperSage, rows: Tensor, blocks: Sequence[Block]) -> Rows:
    for layer, (edge_index, count) in zip((model.first, model.second), blocks, strict=True):
        mean = layer.mean(rows.index_select(0, edge_index[0]), edge_index[1], dim_size=count)
        rows = torch.cat([layer.own(rows[:count]), layer.neighbours(mean)], 1)
    return _classified(model, rows)


def _classified(model: PaperSage, rows: Tensor) -> Rows:
    logits: Rows = model.classifier(torch.nn.functional.normalize(rows)).numpy()
    return logits


def _inferring(way: Way) -> Way:
    def answer() -> Rows:
        with torch.inference_mode():
            return way()

    return answer
