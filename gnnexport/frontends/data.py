"""Data files: one graph with its features, labels and masks, checked before anything computes with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gnnexport.errors import DataError, GnnExportError, UnsupportedError
from gnnexport.frontends.arrays import read_arrays
from gnnexport.frontends.refusal import quoted
from gnnexport.program.data import UNLABELLED, GraphData, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")
VALIDATION_SHARE = 4
"""One in so many training nodes validates when a set has no validation mask."""

SEVERAL = ("node_ptr", "edge_ptr", "batch", "ptr")
"""Arrays that only a set of several graphs has."""

KNOWN = ("x", "edge_index", "edge_weight", "edge_attr", "y", "num_nodes", *(f"{split}_mask" for split in SPLITS))


def load_data(path: Path, *, split: int = 0, trust: bool = False) -> tuple[GraphData, list[str]]:
    """Load one graph from an `.npz` of arrays or a `.pt` of a PyG `Data`, and what there is to tell about it.

    Args:
        path: the file.
        split: which column of masks [num_nodes, splits] to use.
        trust: unpickle a `.pt` as Python does, running whatever it holds.

    Raises:
        DataError: arrays that are missing, of the wrong shape, out of range or not finite.
        UnsupportedError: a set of several graphs.
        UnsafeFileError: a pickle that names something not on the safe list.
    """
    path = Path(path)
    arrays = read_arrays(path, trust=trust)
    check = _Checker(path)
    check.one_graph(arrays)
    x = check.features(arrays)
    edge_index = check.edge_index(arrays, len(x))
    inputs = {"x": x, "edge_index": edge_index, **check.edge_values(arrays, edge_index.shape[1])}
    y = check.labels(arrays, len(x))
    masks = check.masks(arrays, len(x), split)
    notes: list[str] = []
    if y is not None:
        masks = _labelled_only(masks, y, notes)
    if "train" in masks and "test" in masks and "val" not in masks:
        masks = _with_validation(masks, notes)
    ignored = sorted(name for name in arrays if name not in KNOWN)
    if ignored:
        notes.append(f"data: not used: {', '.join(quoted(name) for name in ignored)}")
    return GraphData(name=path.stem, inputs=inputs, y=y, masks=masks), notes


def check_task(data: GraphData, task: str = "node-classification") -> list[str]:
    """Check that a graph can train and judge a model of a task; returns what is worth a note.

    Raises:
        DataError: labels or a mask are missing or empty.
    """
    if task != "node-classification":
        raise DataError.at("task", f"unknown kind '{task}'", "Known: node-classification")
    if data.y is None:
        mend = "Add y: one integer per node, -1 where unknown"
        raise DataError.at(data.name, "has no labels, so accuracy cannot be measured", mend)
    for split in SPLITS:
        if split not in data.masks:
            mend = f"Add {split}_mask: one boolean per node"
            raise DataError.at(data.name, f"has no {split} mask, so accuracy cannot be measured", mend)
        if not data.masks[split].any():
            raise DataError.at(data.name, f"its {split} mask selects no labelled node", f"Fill {split}_mask")
    unseen = set(data.y[data.masks["test"]].tolist()) - set(data.y[data.masks["train"]].tolist())
    if unseen:
        return [f"data: classes {sorted(unseen)} are tested but never trained"]
    return []


class _Checker:
    """Check the arrays of one file, naming the file in every message."""

    def __init__(self, path: Path) -> None:
        self._where = str(path)

    def error(self, what: str, mend: str) -> GnnExportError:
        return DataError.at(self._where, what, mend)

    def one_graph(self, arrays: Mapping[str, Tensor]) -> None:
        found = [name for name in SEVERAL if name in arrays]
        if found:
            mend = "Give a set of one graph, with one label per node"
            raise UnsupportedError.at(self._where, f"holds several graphs ('{found[0]}')", mend)

    def features(self, arrays: Mapping[str, Tensor]) -> Tensor:
        if "x" not in arrays:
            raise self.error("has no node features 'x'", "Add x: float32 [num_nodes, channels]")
        x = arrays["x"]
        if x.dim() != 2 or 0 in x.shape:
            what = f"x has shape {list(x.shape)}" + (": the graph is empty" if 0 in x.shape else "")
            raise self.error(what, "Give x as [num_nodes, channels], neither of them 0")
        if x.is_complex():
            raise self.error("x is complex", "Give x as float32")
        count = arrays.get("num_nodes")
        if count is not None and (count.numel() != 1 or count.item() != len(x)):
            raise self.error(f"num_nodes does not agree with the {len(x)} rows of x", "Make them equal")
        return self._finite("x", x.to(torch.float32).contiguous())

    def edge_index(self, arrays: Mapping[str, Tensor], num_nodes: int) -> Tensor:
        if "edge_index" not in arrays:
            mend = "Add edge_index: int64 [2, num_edges], row 0 source, row 1 destination"
            raise self.error("has no edges 'edge_index'", mend)
        edges = arrays["edge_index"]
        if edges.is_floating_point() or edges.is_complex() or edges.dtype is torch.bool:
            what = f"edge_index is {_name(edges.dtype)}, not an integer type"
            raise self.error(what, "Write edge_index as int64")
        if edges.dim() != 2 or edges.shape[0] != 2:
            turned = edges.dim() == 2 and edges.shape[1] == 2
            mend = "Transpose it" if turned else "Give it as [2, num_edges]"
            raise self.error(f"edge_index has shape {list(edges.shape)}", mend)
        edges = edges.to(torch.int64).contiguous()
        if edges.numel():
            low, high = int(edges.min()), int(edges.max())
            if low < 0 or high >= num_nodes:
                wrong = low if low < 0 else high
                what = f"edge index {wrong} out of range for {num_nodes} nodes"
                raise self.error(what, f"Number the nodes from 0 to {num_nodes - 1}, as the rows of x")
        return edges

    def edge_values(self, arrays: Mapping[str, Tensor], num_edges: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name in ("edge_weight", "edge_attr"):
            if name not in arrays:
                continue
            value = arrays[name].to(torch.float32)
            if name == "edge_weight" and value.dim() == 2 and value.shape[1] == 1:
                value = value[:, 0]
            if name == "edge_attr" and value.dim() == 1:
                value = value[:, None]
            if value.dim() != (1 if name == "edge_weight" else 2) or value.shape[0] != num_edges:
                what = f"{name} has shape {list(arrays[name].shape)} for {num_edges} edges"
                raise self.error(what, "Give one row per column of edge_index")
            found[name] = self._finite(name, value.contiguous())
        return found

    def labels(self, arrays: Mapping[str, Tensor], num_nodes: int) -> Tensor | None:
        y = arrays.get("y")
        if y is None:
            return None
        if y.dim() == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.dim() != 1 or len(y) != num_nodes:
            what = f"y has shape {list(y.shape)} for {num_nodes} nodes"
            raise self.error(what, "Give one class per node; several labels per node are not supported")
        if y.is_floating_point() and not bool((y == y.round()).all()):
            raise self.error("y is not made of whole numbers", "Give classes 0, 1, …; regression is not supported")
        y = y.to(torch.int64).contiguous()
        if int(y.min()) < UNLABELLED:
            raise self.error(f"y holds the label {int(y.min())}", "Number classes from 0; -1 means unlabelled")
        return y

    def masks(self, arrays: Mapping[str, Tensor], num_nodes: int, split: int) -> dict[Split, Tensor]:
        masks: dict[Split, Tensor] = {}
        for name in SPLITS:
            if f"{name}_mask" in arrays:
                masks[name] = self._mask(f"{name}_mask", arrays[f"{name}_mask"], num_nodes, split)
        for first, second in (("train", "test"), ("val", "test"), ("train", "val")):
            if first in masks and second in masks:
                both = int((masks[first] & masks[second]).sum())
                if both:
                    what = f"{both} nodes are in both the {first} and the {second} mask"
                    raise self.error(what, "Let every node be in one of them at most")
        return masks

    def _mask(self, name: str, mask: Tensor, num_nodes: int, split: int) -> Tensor:
        if mask.dim() not in (1, 2) or mask.shape[0] != num_nodes:
            what = f"{name} has shape {list(mask.shape)} for {num_nodes} nodes"
            raise self.error(what, "Give one boolean per node, or [num_nodes, splits]")
        if mask.dtype is not torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
            raise self.error(f"{name} is {_name(mask.dtype)} with values besides 0 and 1", "Write it as boolean")
        if mask.dim() == 2:
            if not 0 <= split < mask.shape[1]:
                what = f"there is no split {split} in {name}"
                raise self.error(what, f"Choose a split from 0 to {mask.shape[1] - 1}")
            mask = mask[:, split]
        return mask.to(torch.bool).contiguous()

    def _finite(self, name: str, values: Tensor) -> Tensor:
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            first = torch.nonzero(~finite)[0].tolist()
            what = f"{name} holds {int((~finite).sum())} values that are NaN or infinite, the first at {first}"
            raise self.error(what, "Replace them by numbers, for example 0")
        return values


def _labelled_only(masks: Mapping[Split, Tensor], y: Tensor, notes: list[str]) -> dict[Split, Tensor]:
    labelled = y != UNLABELLED
    for name, mask in masks.items():
        dropped = int((mask & ~labelled).sum())
        if dropped:
            notes.append(f"data: {dropped} unlabelled nodes left out of the {name} mask")
    return {name: mask & labelled for name, mask in masks.items()}


def _with_validation(masks: Mapping[Split, Tensor], notes: list[str]) -> dict[Split, Tensor]:
    """Take a seeded quarter of the training nodes for validation."""
    train = torch.nonzero(masks["train"])[:, 0]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    chosen = train[order[: len(train) // VALIDATION_SHARE]]
    val = torch.zeros_like(masks["train"])
    val[chosen] = True
    notes.append(f"data: no validation mask; {len(chosen)} of {len(train)} training nodes validate (seed 0)")
    return {"train": masks["train"] & ~val, "val": val, "test": masks["test"]}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
