"""Labels and masks: what a row is about, in which form the labels come, and which rows train, validate and test."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gnnexport.errors import DataError
from gnnexport.frontends.columns import LARGEST, type_name
from gnnexport.frontends.graph_sets import SPLITS
from gnnexport.program.data import UNLABELLED, Split, labelled_rows
from gnnexport.program.inputs import Level

VALIDATION_SHARE = 4
"""One in so many training rows validates when a set has no validation mask."""

SPLIT_SHARE = 10
"""One in so many graphs validates, and as many test, when a set has no split."""

NAMES: Mapping[Level, str] = {"node": "nodes", "graph": "graphs", "pair": "pairs"}
LEVELS: Mapping[str, Level] = {
    "node-classification": "node",
    "graph-classification": "graph",
    "node-regression": "node",
    "graph-regression": "graph",
    "link-prediction": "pair",
}
"""What the labels of each kind of task are about."""


class Labels:
    """Check labels and masks of one source of data.

    Args:
        arrays: as read.
        rows: how many rows there are at each level that the data has.
        kind: the task, where it is known; it decides what the labels alone leave open.
        where: names the source in messages.
    """

    def __init__(self, arrays: Mapping[str, Tensor], rows: Mapping[Level, int], kind: str | None, where: str) -> None:
        self._arrays = arrays
        self._rows = rows
        self._kind = kind
        self._where = where

    def error(self, what: str, mend: str) -> DataError:
        """Build the error for a fault."""
        return DataError.at(self._where, what, mend)

    def level(self) -> Level:
        """Tell what the labels are about: by their number, then by the task, then graphs before nodes."""
        wanted = LEVELS.get(self._kind or "")
        if "pair" in self._rows and (wanted == "pair" or (wanted is None and "edge_label" in self._arrays)):
            return "pair"
        if "y" not in self._arrays:
            if wanted is not None and wanted in self._rows:
                return wanted
            return next(level for level in ("pair", "graph", "node") if level in self._rows)
        fitting = [level for level in self._fitting() if not (level == "graph" and self._rows["graph"] == 1)]
        if wanted is not None and wanted in self._fitting():
            return wanted
        return fitting[0] if fitting else next(iter(self._fitting()), "graph" if "graph" in self._rows else "node")

    def _fitting(self) -> list[Level]:
        y = self._arrays["y"]
        length = 1 if y.dim() == 0 else len(y)
        return [level for level in ("graph", "node", "pair") if self._rows.get(level) == length]

    def labels(self, level: Level) -> Tensor | None:
        """Return the labels in one of the three forms of `GraphData.y`."""
        named = "edge_label" if level == "pair" and "edge_label" in self._arrays else "y"
        y = self._arrays.get(named)
        if y is None:
            return None
        y = y[None] if y.dim() == 0 else y
        if y.dim() == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.dim() > 2 or 0 in y.shape[1:] or len(y) != self._rows[level]:
            counts = " and ".join(f"{count} {NAMES[kind]}" for kind, count in self._rows.items())
            mend = "Give one label for each node" + (" or graph" if "graph" in self._rows else "")
            if "graph" in self._rows:
                mend += ", several as [1, labels], and num_graphs if the last graphs are empty"
            raise self.error(f"{named} has shape {list(self._arrays[named].shape)} for {counts}", mend)
        if y.is_complex():
            raise self.error(f"{named} is complex", "Give classes as int64, or targets as float32")
        if y.is_floating_point():
            return self._real(named, y, level)
        return self._several(y) if y.dim() == 2 else self._classes(named, y.to(torch.int64).contiguous())

    def _classes(self, named: str, y: Tensor) -> Tensor:
        if self._is_regression():
            return y.to(torch.float32)
        if y.numel() and int(y.min()) < UNLABELLED:
            what, mend = f"{named} holds the label {int(y.min())}", "Number classes from 0; -1 means unlabelled"
            raise self.error(what, f"{mend}; targets of regression are float32")
        if y.numel() and int(y.max()) > LARGEST:
            raise self.error(f"{named} holds the label {int(y.max())}", "Number classes from 0, without gaps")
        return y

    def _real(self, named: str, y: Tensor, level: Level) -> Tensor:
        y = y.to(torch.float32).contiguous()
        if bool(y.isinf().any()):
            raise self.error(f"{named} holds infinite values", "Replace them, or write NaN where none is known")
        whole = bool(((y == y.round()) & (y.abs() < 2**24) | y.isnan()).all())
        classes = level == "pair" or (self._kind is not None and not self._is_regression())
        if y.dim() == 1 and whole and classes:
            # Classes that came as floats, as the labels of RandomLinkSplit and of many chemical sets do.
            return self._classes(named, y.nan_to_num(nan=UNLABELLED).to(torch.int64))
        return y

    def _several(self, y: Tensor) -> Tensor:
        if self._is_regression():
            return y.to(torch.float32)
        values = y.to(torch.int64)
        if bool(((values < UNLABELLED) | (values > 1)).any()):
            wrong = int(values.max()) if int(values.max()) > 1 else int(values.min())
            what = f"y is {type_name(y.dtype)} {list(y.shape)} with the value {wrong}"
            mend = "Several labels are 0 or 1, and -1 where unknown; targets of regression are float32"
            raise self.error(what, mend)
        real = values.to(torch.float32)
        real[values == UNLABELLED] = float("nan")
        return real

    def _is_regression(self) -> bool:
        return self._kind is not None and self._kind.endswith("regression")

    def masks(self, level: Level, split: int) -> dict[Split, Tensor]:
        """Return the masks that the data has, bool [rows], of which no two share a row."""
        masks: dict[Split, Tensor] = {}
        for name in SPLITS:
            if f"{name}_mask" in self._arrays:
                masks[name] = self._mask(f"{name}_mask", self._arrays[f"{name}_mask"], level, split)
        for first, second in (("train", "test"), ("val", "test"), ("train", "val")):
            if first in masks and second in masks:
                both = int((masks[first] & masks[second]).sum())
                if both:
                    rows = NAMES[level]
                    what = f"{both} {rows} are in both the {first} and the {second} mask"
                    raise self.error(what, f"Let every {rows[:-1]} be in one of them at most")
        return masks

    def _mask(self, name: str, mask: Tensor, level: Level, split: int) -> Tensor:
        rows = NAMES[level]
        if mask.dim() not in (1, 2) or mask.shape[0] != self._rows[level]:
            what = f"{name} has shape {list(mask.shape)} for {self._rows[level]} {rows}"
            raise self.error(what, f"Give one boolean per {rows[:-1]}, or [num_{rows}, splits]")
        if mask.dtype is not torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
            what = f"{name} is {type_name(mask.dtype)} with values besides 0 and 1"
            raise self.error(what, "Write it as boolean")
        if mask.dim() == 2:
            if not 0 <= split < mask.shape[1]:
                what = f"there is no split {split} in {name}"
                mend = f"Choose a split from 0 to {mask.shape[1] - 1}" if mask.shape[1] else "Give it a column"
                raise self.error(what, mend)
            mask = mask[:, split]
        return mask.to(torch.bool).contiguous()


def labelled_only(masks: Mapping[Split, Tensor], y: Tensor, level: Level, notes: list[str]) -> dict[Split, Tensor]:
    """Take rows without a label out of the masks."""
    labelled = labelled_rows(y)
    for name, mask in masks.items():
        dropped = int((mask & ~labelled).sum())
        if dropped:
            notes.append(f"data: {dropped} unlabelled {NAMES[level]} left out of the {name} mask")
    return {name: mask & labelled for name, mask in masks.items()}


def with_validation(masks: Mapping[Split, Tensor], level: Level, notes: list[str]) -> dict[Split, Tensor]:
    """Take a seeded quarter of the training rows for validation."""
    train = torch.nonzero(masks["train"])[:, 0]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    chosen = train[order[: len(train) // VALIDATION_SHARE]]
    val = torch.zeros_like(masks["train"])
    val[chosen] = True
    rows = NAMES[level]
    notes.append(f"data: no validation mask; {len(chosen)} of {len(train)} training {rows} validate (seed 0)")
    return {"train": masks["train"] & ~val, "val": val, "test": masks["test"]}


def graph_split(num_graphs: int, notes: list[str]) -> dict[Split, Tensor]:
    """Split graphs 80/10/10 in a seeded order: their own order follows the label in many sets."""
    if num_graphs < len(SPLITS):
        return {}
    part = max(1, num_graphs // SPLIT_SHARE)
    place = torch.empty(num_graphs, dtype=torch.int64)
    place[torch.randperm(num_graphs, generator=torch.Generator().manual_seed(0))] = torch.arange(num_graphs)
    sizes = f"{num_graphs - 2 * part} graphs train, {part} validate, {part} test"
    notes.append(f"data: no split; {sizes} (80/10/10, seed 0)")
    first = num_graphs - 2 * part
    return {"train": place < first, "val": (place >= first) & (place < first + part), "test": place >= first + part}
