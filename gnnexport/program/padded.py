"""Models that ask how wide a padded batch is: they are captured for one that is wide enough, if that changes nothing.

Which way `if num_columns >= k` goes, only the values of a request tell. With k columns at least it goes one way, and a
row that has fewer items is padded further. Whether a model minds is tried out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from gnnexport.errors import UnsupportedError
from gnnexport.program.calling import call
from gnnexport.program.graphs import args_of, calls, module_of
from gnnexport.program.inputs import NUM_EDGES, NUM_GRAPHS, NUM_NODES, OF, Input, Role
from gnnexport.program.program import arguments_of, example_inputs, placeholder_names
from gnnexport.program.standins import standins

MOST_COLUMNS = 4096
"""No row is padded to more items than this."""

_TOLERANCE = 1e-4
_NODES = 5
_ASKED = re.compile(r"data-dependent expression u\d+ (>=|<|>|<=) (\d+)\b")


def columns_asked(error: BaseException) -> int | None:
    """Return how many columns decide a question that stopped torch.export, or `None` where none do."""
    found = _ASKED.search(str(error))
    if found is None:
        # What handles an error may meet another.
        before = error.__cause__ or error.__context__
        return columns_asked(before) if before is not None else None
    columns = int(found[2]) + (found[1] in (">", "<="))
    return columns if columns <= MOST_COLUMNS else None


def check_padding(model: nn.Module, body: fx.GraphModule, inputs: Sequence[Input]) -> None:
    """Compare a captured graph with its model on sets of one item, which are padded.

    Raises:
        UnsupportedError: padding changes the answer.
    """
    padded = [node for node in calls(body.graph, torch.ops.gnn.table.default) if args_of(node)[2] > 1]
    if padded and not _right_on_single_items(model, body, inputs):
        columns = max(args_of(node)[2] for node in padded)
        what = f"computes something else for sets of fewer than {columns} items, which cannot be told beforehand"
        mend = "Leave out the `if` on the size of a padded batch, or give it a fixed size (max_num_nodes)"
        raise UnsupportedError.at(module_of(padded[0]), what, mend)


def columns_needed(model: nn.Module, body: fx.GraphModule, inputs: Sequence[Input]) -> int:
    """Return how many columns a captured graph takes for granted, where it pads nothing and should: two, else one.

    While a model is captured a padded batch has two columns or more, as torch.export has no open size that may be one.
    So `if num_columns >= 2` is never asked, and what comes of it is wrong where every set has one item.
    """
    narrow = any(args_of(node)[2] < 2 for node in calls(body.graph, torch.ops.gnn.table.default))
    return 2 if narrow and not _right_on_single_items(model, body, inputs) else 1


def _right_on_single_items(model: nn.Module, body: fx.GraphModule, inputs: Sequence[Input]) -> bool:
    """Tell whether a graph gives what its model gives on sets of one item each, if that can run on them."""
    example = {NUM_GRAPHS: torch.tensor(_NODES), **one_item_each(inputs)}
    arguments = arguments_of(example, [item.name for item in inputs])
    given = {item.name: value for item, value in zip(inputs, arguments, strict=True)}
    with torch.no_grad():
        try:
            with standins(model):
                expected = call(model, given)
        except Exception:  # a model may refuse a graph by raising anything
            return True
        try:
            found = body(*arguments_of(example, placeholder_names(body)))
        except (RuntimeError, IndexError):
            return False
    same = found.shape == expected.shape
    return same and torch.allclose(found, expected, _TOLERANCE, _TOLERANCE, equal_nan=True)


def one_item_each(inputs: Sequence[Input]) -> Mapping[str, Tensor]:
    """Make a small graph with one edge into each node but the last, and one node in each graph."""
    example = example_inputs(inputs, _NODES)
    sizes = {NUM_NODES: _NODES, NUM_EDGES: _NODES - 1, NUM_GRAPHS: _NODES}
    made = {}
    for item in inputs:
        value = example[item.name]
        for axis, size in enumerate(item.shape):
            kind = str(size).partition(OF)[0]
            if kind in sizes:
                value = value.narrow(axis, 0, sizes[kind])
        if item.role is Role.EDGE_INDEX:
            first = torch.arange(_NODES - 1)
            value = torch.stack([first + 1, first])
        elif item.role is Role.GRAPH_IDS:
            value = torch.arange(_NODES)
        elif item.role is Role.NUM_GRAPHS:
            value = torch.tensor(_NODES)
        made[item.name] = value
    return made
