"""The forms in which people keep graphs, told apart: one, many, many by split, a data set's own file, pairs by split.

A graph is here the mapping of its attributes, whether it came from a file that was read safely, from one that
was trusted, or from a loader function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnexport.errors import DataError, UnsupportedError
from gnnexport.frontends.graph_sets import (
    COUNTS,
    GRAPH_MEND,
    MASKS,
    PAIRS,
    SPLITS,
    Arrays,
    join,
    known_arrays,
    unused_note,
)
from gnnexport.frontends.hetero import KindAttributes, is_of_kind, kind_arrays
from gnnexport.frontends.memory import require_memory
from gnnexport.program.data import Split

SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
KINDS_MEND = "Give one HeteroData, or graphs with one type of nodes and edges: data.to_homogeneous()"
MESSAGES = ("x", "edge_index", "edge_weight", "edge_attr", "edge_type", "node_type")


def arrays_of(loaded: Any, where: str) -> Arrays:
    """Take the arrays of one graph or one disjoint union out of whatever was given.

    Args:
        loaded: a graph, a list of graphs, lists of graphs by split, the tuple that `InMemoryDataset.save`
            writes, or the three graphs that `RandomLinkSplit` returns.
        where: names the source in messages.

    Raises:
        DataError: something else, or graphs that do not go together.
    """
    if isinstance(loaded, KindAttributes):
        return kind_arrays(loaded, where, loaded.kinds)
    if isinstance(loaded, Mapping):
        if "edge_index" not in loaded and any(is_of_kind(str(key)) for key in loaded):
            return kind_arrays(loaded, where)
        if loaded and all(key in SPLIT_NAMES for key in loaded):
            return _by_split({SPLIT_NAMES[key]: value for key, value in loaded.items()}, len(loaded), where)
        return _one(loaded, where)
    if not isinstance(loaded, list | tuple):
        raise DataError.at(where, f"holds a {type(loaded).__name__}, not a graph", GRAPH_MEND)
    if any(isinstance(graph, KindAttributes) for graph in loaded):
        if len(loaded) == 1:
            return arrays_of(loaded[0], where)
        raise UnsupportedError.at(where, "holds several graphs of several kinds of nodes", KINDS_MEND)
    if _is_dataset_file(loaded):
        return _dataset_file(loaded[0], loaded[1], where)
    if loaded and all(isinstance(graph, Mapping) for graph in loaded):
        return _listed(loaded, where)
    if len(loaded) in (2, 3) and all(_is_list(part) for part in loaded):
        names: tuple[Split, ...] = SPLITS if len(loaded) == 3 else ("train", "test")
        return _by_split(dict(zip(names, loaded, strict=True)), len(loaded), where)
    if not loaded:
        raise DataError.at(where, "holds no graph", GRAPH_MEND)
    kinds = ", ".join(dict.fromkeys("graph" if isinstance(part, Mapping) else type(part).__name__ for part in loaded))
    raise DataError.at(where, f"holds several objects, not one graph or a list of graphs ({kinds[:120]})", GRAPH_MEND)


def _one(attributes: Mapping[Any, Any], where: str) -> Arrays:
    tensors, ignored = known_arrays(attributes, where)
    if not tensors:
        raise DataError.at(where, "holds no graph: none of its entries is known", GRAPH_MEND)
    return Arrays(_paired(tensors, where), notes=unused_note(ignored))


def _listed(graphs: Sequence[Mapping[Any, Any]], where: str) -> Arrays:
    if len(graphs) == 3 and all(_is_paired(graph) for graph in graphs) and _is_one_graph(graphs):
        return _pairs_by_split(dict(zip(SPLITS, graphs, strict=True)), where)
    if len(graphs) == 1:
        # The one graph of a data set such as Cora, unless its labels are about the graph.
        tensors, _ = known_arrays(graphs[0], f"{where}: graph 0")
        about_graph = "y" in tensors and tensors["y"].dim() in (0, 2) and tensors["y"].numel() == 1
        about_graph |= "y" in tensors and tensors["y"].dim() >= 1 and len(tensors["y"]) == 1
        if not about_graph:
            return _one(graphs[0], where)
    return join([_with_pairs(graph, f"{where}: graph {number}") for number, graph in enumerate(graphs)], where)


def _with_pairs(graph: Mapping[Any, Any], where: str) -> Mapping[Any, Any]:
    return _paired(known_arrays(graph, where)[0], where) if PAIRS[1] in graph else graph


def _by_split(parts: Mapping[Split, Any], count: int, where: str) -> Arrays:
    """Join lists of graphs, of which each is a split."""
    if len(parts) != count:
        raise DataError.at(where, "names a split twice", "Name the splits train, val and test")
    if all(isinstance(part, Mapping) for part in parts.values()):
        if all(_is_paired(part) for part in parts.values()) and _is_one_graph(list(parts.values())):
            return _pairs_by_split(parts, where)
        parts = {name: [part] for name, part in parts.items()}
    for name, part in parts.items():
        if not _is_list(part) or not all(isinstance(graph, Mapping) for graph in part):
            raise DataError.at(where, f"its {name} split is not a list of graphs", GRAPH_MEND)
    graphs = [graph for name in SPLITS for graph in parts.get(name, ())]
    own = sorted({key for graph in graphs for key in graph if key in MASKS})
    arrays = join([{key: value for key, value in graph.items() if key not in MASKS} for graph in graphs], where)
    owner = torch.cat([torch.full((len(parts.get(name, ())),), place) for place, name in enumerate(SPLITS)])
    arrays.graph_masks = {name: owner == place for place, name in enumerate(SPLITS) if name in parts}
    if own:
        arrays.notes.append(f"data: the lists are the splits, so {', '.join(own)} are not used")
    return arrays


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _is_paired(graph: Mapping[Any, Any]) -> bool:
    return any(isinstance(graph.get(name), Tensor) for name in PAIRS[:2])


def _is_one_graph(graphs: Sequence[Mapping[Any, Any]]) -> bool:
    """Tell whether graphs have the same nodes, as the parts of a split by pairs have."""
    features = [graph.get("x") for graph in graphs]
    if all(isinstance(x, Tensor) for x in features):
        return all(_same(x, features[0]) for x in features)
    counts = [_count(graph.get("num_nodes")) for graph in graphs]
    return counts[0] is not None and all(count == counts[0] for count in counts)


def _count(value: Any) -> int | None:
    """Return a number of nodes, as a number or an array of one; `None` for anything else."""
    single = isinstance(value, Tensor | np.ndarray | np.generic) and math.prod(value.shape) == 1
    number = value.item() if single and not getattr(value, "is_meta", False) else value
    return number if type(number) is int else None


def _same(first: Any, second: Any) -> bool:
    if any(part.is_meta or part.layout is not torch.strided for part in (first, second)):
        return False
    return first.shape == second.shape and first.dtype == second.dtype and bool(torch.equal(first, second))


def _paired(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Join positive and negative pairs, which `RandomLinkSplit(split_labels=True)` keeps apart, with labels.

    It stores the labels too, such as the ratings of the positive pairs; 1 and 0 stand for labels that are missing.
    """
    if PAIRS[1] not in tensors:
        return tensors
    found = [name for name in PAIRS[1:] if name in tensors]
    for name in found:
        if tensors[name].dim() != 2 or tensors[name].shape[0] != 2:
            raise DataError.at(where, f"{name} has shape {list(tensors[name].shape)}", "Give it as [2, num_pairs]")
    rest = {name: value for name, value in tensors.items() if not name.startswith(("pos_", "neg_", "edge_label"))}
    labels = [_pair_labels(tensors, name, where) for name in found]
    pairs = torch.cat([tensors[name] for name in found], dim=1)
    return {**rest, "edge_label_index": pairs, "edge_label": torch.cat(labels)}


def _pair_labels(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    count = tensors[name].shape[1]
    stored = tensors.get(name.removesuffix("_index"))
    if stored is None:
        return torch.full((count,), 1 if name == PAIRS[1] else 0)
    if stored.dim() != 1 or len(stored) != count:
        what = f"{name.removesuffix('_index')} has shape {list(stored.shape)} for {count} pairs"
        raise DataError.at(where, what, "Give one label for each pair")
    return stored


def _pairs_by_split(parts: Mapping[Split, Mapping[Any, Any]], where: str) -> Arrays:
    """Join the pairs of graphs that differ in their pairs, and perhaps in the edges that messages take.

    `RandomLinkSplit` gives the test graph the validation edges too. One model has one graph, so pairs of
    every split are then predicted from the training edges, which leaks nothing.
    """
    taken = {name: known_arrays(part, f"{where}: {name}") for name, part in parts.items()}
    graphs = {name: _paired(tensors, f"{where}: {name}") for name, (tensors, _) in taken.items()}
    ignored = set().union(*(unused for _, unused in taken.values()))
    if "train" not in graphs:
        raise DataError.at(where, "has pairs but no train split", "Give the training graph too")
    notes = unused_note(ignored)
    messages = {name: value for name, value in graphs["train"].items() if name in MESSAGES}
    for name, graph in graphs.items():
        if any(key not in graph or not _same(graph[key], value) for key, value in messages.items()):
            notes.append(f"data: the {name} graph has other edges; its pairs are predicted from the training edges")
        shape = list(graph["edge_label_index"].shape)
        labels = graph.get("edge_label")
        if len(shape) != 2 or shape[0] != 2 or (labels is not None and list(labels.shape) != shape[1:]):
            what = f"edge_label_index has shape {shape} and edge_label {None if labels is None else list(labels.shape)}"
            raise DataError.at(f"{where}: {name}", what, "Give [2, num_pairs] and one label for each pair")
    joined = {name: value for name, value in graphs["train"].items() if name not in (*MASKS, "y")}
    joined["edge_label_index"] = torch.cat([graph["edge_label_index"] for graph in graphs.values()], dim=1)
    joined.pop("edge_label", None)
    if all("edge_label" in graph for graph in graphs.values()):
        joined["edge_label"] = torch.cat([graph["edge_label"] for graph in graphs.values()])
    lengths = torch.tensor([graph["edge_label_index"].shape[1] for graph in graphs.values()])
    owner = torch.repeat_interleave(torch.arange(len(graphs)), lengths)
    for place, name in enumerate(graphs):
        joined[f"{name}_mask"] = owner == place
    return Arrays(joined, notes=notes)


def _is_dataset_file(loaded: Sequence[Any]) -> bool:
    """Tell the tuple that a PyG data set saves, (attributes, slices[, sizes][, class]), from a list of graphs."""
    if not 2 <= len(loaded) <= 4 or not isinstance(loaded[0], Mapping) or isinstance(loaded, list):
        return False
    slices = loaded[1]
    if slices is None:
        return True
    tensors = isinstance(slices, Mapping) and all(isinstance(value, Tensor) for value in slices.values())
    return (
        tensors
        and bool(slices)
        and all(value.dim() == 1 for value in slices.values())
        and set(slices) <= set(loaded[0])
    )


def _dataset_file(data: Mapping[Any, Any], slices: Mapping[str, Tensor] | None, where: str) -> Arrays:
    """Cut the attributes of a data set at its slices; edges count from 0 in each graph there."""
    if slices is None:
        return _one(data, where)
    known, ignored = known_arrays(data, where)
    kept = {name: cuts for name, cuts in slices.items() if name in known and name not in COUNTS}
    uncut = sorted(known.keys() - kept.keys() - set(COUNTS))
    if uncut:
        what = f"has no slices for {', '.join(uncut)}, so it is not known which part belongs to which graph"
        raise DataError.at(where, what, "Process the data set again")
    count = max((len(cuts) - 1 for cuts in kept.values()), default=0)
    if count < 1:
        raise DataError.at(where, "holds no graph", GRAPH_MEND)
    require_memory(count * 1024, where, f"a set of {count} graphs")
    graphs: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, cuts in kept.items():
        value = known[name]
        axis = value.dim() - 1 if "index" in name else 0
        ends = cuts.tolist()
        whole = all(type(end) is int for end in ends) and ends == sorted(ends) and len(ends) == count + 1
        if not whole or ends[0] != 0 or value.dim() == 0 or ends[-1] != value.shape[axis]:
            what = f"the slices of {name} do not cut it into {count} graphs"
            raise DataError.at(where, what, "Process the data set again")
        for graph, start, end in zip(graphs, ends, ends[1:], strict=False):
            graph[name] = value.narrow(axis, start, end - start)
    sizes = data.get("_num_nodes")
    if isinstance(sizes, list | tuple) and len(sizes) == count:
        for graph, size in zip(graphs, sizes, strict=True):
            graph["num_nodes"] = size
    arrays = join(graphs, where)
    arrays.notes += unused_note(ignored)
    return arrays
