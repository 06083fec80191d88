"""Data: one graph, a set of graphs or a graph with pairs, from a file or a loader function, checked throughout."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gnnexport.frontends.arrays import read_arrays
from gnnexport.frontends.columns import Columns
from gnnexport.frontends.graph_sets import Arrays
from gnnexport.frontends.hetero import build_hetero
from gnnexport.frontends.labels import LEVELS, Labels, graph_split, labelled_only, with_validation
from gnnexport.frontends.loader import call_loader, is_loader
from gnnexport.frontends.memory import require_memory
from gnnexport.frontends.task import check_task
from gnnexport.program.data import GraphData, Split
from gnnexport.program.inputs import NUM_GRAPHS, Level

__all__ = ["check_task", "load_data"]


def load_data(
    source: Path | str,
    *,
    split: int = 0,
    trust: bool = False,
    kind: str | None = None,
    folder: Path | None = None,
    code: Path | None = None,
) -> tuple[GraphData, list[str]]:
    """Load a graph or a set of graphs, and what there is to tell about it.

    Args:
        source: an `.npz` of arrays, a `.pt` of PyG graphs, or as text a loader function, `file.py:function` or
            `package.module:function`. A function is code: pass as text only what the user gave, or trusts. A
            `Path` is always a file, so that the path in a sidecar cannot run code.
        split: which column of masks [rows, splits] to use.
        trust: unpickle a `.pt` as Python does, running whatever it holds.
        kind: the kind of task, which decides what labels alone leave open.
        folder: where a loader is looked for besides the current folder; by default there.
        code: the script that defines classes of the graphs in a `.pt`, imported for them; only with `trust`.

    Raises:
        DataError: arrays that are missing, of the wrong shape, out of range or not finite.
        UnsupportedError: several graphs with several types of nodes, or one with times.
        UnsafeFileError: a pickle that names something not on the safe list.
        UsageError: a loader function that does not exist or fails.
    """
    if isinstance(source, str) and is_loader(source):
        name = source.rpartition(":")[2]
        return build_data(call_loader(source, folder or Path()), f"data '{source}'", name, split, kind)
    path = Path(source)
    return build_data(read_arrays(path, trust=trust, code=code), str(path), path.stem, split, kind)


def build_data(
    arrays: Arrays, where: str, name: str, split: int = 0, kind: str | None = None
) -> tuple[GraphData, list[str]]:
    """Check what a source gave, and make the graph or the set of graphs of it.

    Raises:
        DataError: as `load_data`.
    """
    if arrays.kinds:
        return build_hetero(arrays, where, name, split, kind)
    notes: list[str] = []
    tensors = dict(arrays.tensors)
    columns = Columns(tensors, where)
    x = columns.features()
    num_nodes = columns.num_nodes() if x is None else len(x)
    edge_index = columns.edge_index(num_nodes)
    if x is None:
        x = _degrees(edge_index, num_nodes, where)
        notes.append("data: no node features; x is the in-degree of each node, float32 [num_nodes, 1]")
    inputs = {"x": x, "edge_index": edge_index, **columns.edge_values(edge_index.shape[1])}
    inputs |= columns.node_types(num_nodes)
    rows: dict[Level, int] = {"node": num_nodes}
    graphs = columns.graphs(edge_index, num_nodes) or _single(tensors, num_nodes, kind)
    if graphs is not None:
        inputs["batch"], inputs[NUM_GRAPHS] = graphs[0], torch.tensor(graphs[1])
        rows["graph"] = graphs[1]
    if "edge_label_index" in tensors:
        pairs = columns.edge_index(num_nodes, "edge_label_index")
        rows["pair"] = pairs.shape[1]
    labels = Labels(tensors, rows, kind, where)
    level = labels.level()
    if level == "pair":
        if not pairs.shape[1]:
            raise columns.error("edge_label_index holds no pairs", "Give the pairs to judge, or leave it out")
        inputs["edge_label_index"] = pairs
    y = labels.labels(level)
    masks = labels.masks(level, split) or _graph_masks(arrays, graphs, level, y, notes)
    if y is not None:
        masks = labelled_only(masks, y, level, notes)
    if "train" in masks and "test" in masks and "val" not in masks:
        masks = with_validation(masks, level, notes)
    return GraphData(name=name, inputs=inputs, y=y, masks=masks, level=level), notes + arrays.notes


def _single(tensors: dict[str, Tensor], num_nodes: int, kind: str | None) -> tuple[Tensor, int] | None:
    """See a graph with one label as a set of one graph, if the task is about graphs."""
    y = tensors.get("y")
    if LEVELS.get(kind or "") != "graph" or (y is not None and y.dim() > 0 and len(y) != 1):
        return None
    return torch.zeros(num_nodes, dtype=torch.int64), 1


def _degrees(edge_index: Tensor, num_nodes: int, where: str) -> Tensor:
    require_memory(8 * num_nodes, where, f"the degrees of {num_nodes} nodes")
    return torch.bincount(edge_index[1], minlength=num_nodes).to(torch.float32)[:, None]


def _graph_masks(
    arrays: Arrays, graphs: tuple[Tensor, int] | None, level: Level, y: Tensor | None, notes: list[str]
) -> dict[Split, Tensor]:
    """Split a set by graphs: as its lists say, else by a seeded order; nodes follow their graph."""
    if graphs is None or level == "pair":
        return {}
    masks = arrays.graph_masks
    if not masks and y is not None:
        masks = graph_split(graphs[1], notes)
    return {name: mask if level == "graph" else mask[graphs[0]] for name, mask in masks.items()}
