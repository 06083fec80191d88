"""Write each stage of a Program as a graph of its own."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from gnnexport.bundle.stages import StageInput
from gnnexport.errors import UnsupportedError
from gnnexport.program.draws import unfair
from gnnexport.program.graphs import args_of, module_of, rebuild
from gnnexport.program.hops import STEPS, Space
from gnnexport.program.program import EXAMPLE_NODES
from gnnexport.program.shapes import NUMBERS, rank_of, shape_of, sizes_of
from gnnexport.program.stages import FEATURES, STRUCTURE, CutProgram, Record, source_table, stage_inputs, width_of

aten = torch.ops.aten
gnn = torch.ops.gnn


@dataclass(frozen=True)
class StageProgram:
    """One stage.

    Args:
        depth: hops its rows depend on.
        body: takes the inputs in order and returns [num_targets, width], or the model's output in the last stage.
        inputs: of the body.
        width: columns of the result.
        direct: see `bundle.stages.Stage`.
        sampling: why a fan-out would give wrong rows; `None` where it is fair.
        scaled: slot values that a fan-out has to scale.
    """

    depth: int
    body: fx.GraphModule
    inputs: tuple[StageInput, ...]
    width: int
    direct: bool
    sampling: str | None
    scaled: frozenset[str]

    @property
    def structure(self) -> str | None:
        """Name of the neighbours it reduces over."""
        return STRUCTURE if self.depth else None


def write_stages(cut: CutProgram) -> list[StageProgram]:
    """Return the stages by depth, ascending.

    Raises:
        UnsupportedError: a stage needs a number that only the whole graph has.
    """
    return [_Writer(cut, depth).write() for depth in sorted(cut.records)]


Side = Callable[[fx.Node], Any]


class _Writer:
    """Write the graph of one stage: what depends on the targets, their neighbours, and the slots between."""

    def __init__(self, cut: CutProgram, depth: int) -> None:
        self.cut, self.depth = cut, depth
        self.space = cut.hops.space
        self.graph = fx.Graph()
        self.inputs = stage_inputs(cut, depth)
        self.given = {item.name: self.graph.placeholder(item.name) for item in self.inputs}
        self.made: dict[tuple[str, fx.Node], Any] = {}
        self.last = depth == cut.depth

    def write(self) -> StageProgram:
        """Return the stage with the inputs that it reads."""
        record = self.cut.records[self.depth]
        values = [self.target(value) for value in record.values]
        if self.last:
            result = values[0]
        else:
            flat = [self._call(aten.reshape.default, value, [-1, width_of(node)]) if rank_of(node) != 2 else value
                    for value, node in zip(values, record.values, strict=True)]  # fmt: skip
            result = flat[0] if len(flat) == 1 else self._call(aten.cat.default, flat, 1)
        self.graph.output(result)
        self.graph.eliminate_dead_code()
        # A lowering may want the targets of slots that the body does not ask for.
        read = tuple(item for item in self.inputs if self.given[item.name].users or item.part == "row")
        for item in self.inputs:
            if item not in read:
                self.graph.erase_node(self.given[item.name])
        body = rebuild(self.cut.program.body, self.graph)
        unfair, scaled = self._sampling()
        return StageProgram(
            self.depth, body, read, width=record.width, direct=self._direct(), sampling=unfair, scaled=scaled
        )

    def target(self, node: fx.Node) -> Any:
        """Return a value of rows for the targets."""
        return self._once("target", node, self._new_target)

    def source(self, node: fx.Node) -> Any:
        """Return a value of rows for the neighbours."""
        return self._once("source", node, self._new_source)

    def slot(self, node: fx.Node) -> Any:
        """Return a value of slots."""
        return self._once("slot", node, self._new_slot)

    def _once(self, side: str, node: fx.Node, make: Side) -> Any:
        if (side, node) not in self.made:
            self.made[side, node] = make(node)
        return self.made[side, node]

    def _new_target(self, node: fx.Node) -> Any:
        known = self._known_target(node)
        if known is not None:
            return known
        if node.target in STEPS:
            return self._step(node)
        return self._copy(node, self.target, "targets")

    def _known_target(self, node: fx.Node) -> Any:
        """Return what a table, a record or the graph has of a value already."""
        if node.op == "placeholder" and not self.cut.hops.is_features(node):
            return self.given[f"{node.target}_target"]
        places = [item.value for item in self.inputs if item.part == "target"]
        for table in self.cut.tables:
            if table.node is node:
                return self.given[f"target_{places.index(table.name)}"]
        for depth, record in self.cut.records.items():
            if depth < self.depth and node in record.values:
                return self._column(self.given[f"target_{places.index(f'stage-{depth}')}"], record, node)
        return None

    def _new_source(self, node: fx.Node) -> Any:
        if node.op == "placeholder" and not self.cut.hops.is_features(node):
            return self.given[f"{node.target}_source"]
        table = source_table(self.cut, self.depth)
        for item in self.cut.tables:
            if item.node is node and item.name == table:
                return self.given["source"]
        record = self.cut.records.get(self.depth - 1)
        if record is not None and node in record.values:
            return self._column(self.given["source"], record, node)
        if record is None and node.op == "placeholder" and table != FEATURES:
            raise UnsupportedError.at("mode batched", f"{module_of(node)} reads features twice", "Use --mode full")
        return self._copy(node, self.source, "sources")

    def _new_slot(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.given[str(node.target)]
        return self._step(node) if node.target in STEPS else self._copy(node, self.slot, "slots")

    def _step(self, node: fx.Node) -> Any:
        """Copy an op of the dialect with the structure of the block."""
        args = list(args_of(node))
        for part, place in STEPS[node.target].items():
            args[place] = self.given[part]
        source = self.cut.hops.source_read(node)
        if source is not None:
            args[0] = self.source(source)
        elif node.target is gnn.gather_destination.default:
            args[0] = self.target(args[0])
        else:
            args[0] = self.slot(args[0])
        if node.target is gnn.aggregate.default and isinstance(args[3], fx.Node):
            args[3] = self.slot(args[3])
        return self._like(node, args, node.kwargs)

    def _copy(self, node: fx.Node, side: Side, count: str) -> Any:
        """Copy an op that works on each row by itself."""

        def value(item: fx.Node) -> Any:
            if NUMBERS in item.meta or item.target is aten.sym_size.int:
                return self._number(item, count)
            return side(item) if self.space[item] is not Space.NONE else self._fixed(item, count)

        if node.op != "call_function":
            raise UnsupportedError.at("mode batched", f"'{node.target}' is not known in a block", "Use --mode full")
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
        return self._like(node, args, kwargs)

    def _fixed(self, item: fx.Node, count: str) -> Any:
        """Copy a parameter, or what is made of parameters alone."""
        if item.op == "get_attr":
            return self._once("fixed", item, lambda node: self.graph.node_copy(node))
        return self._once("fixed", item, lambda node: self._copy(node, self.target, count))

    def _number(self, item: fx.Node, count: str) -> Any:
        """Return a size as the block has it."""
        sizes = tuple(item.meta.get(NUMBERS, ())) or sizes_of(args_of(item)[0], args_of(item)[1])
        if sizes and len(set(sizes)) == 1:
            return sizes[0]
        rows = sizes == EXAMPLE_NODES
        if rows and count == "sources":
            return self._call(aten.sym_size.int, self.given["source"], 0)
        if rows and self.depth:
            return self._call(operator.sub, self._call(aten.sym_size.int, self.given["rowptr"], 0), 1)
        if rows:
            return self._call(aten.sym_size.int, self.given["target_0"], 0)
        if count == "slots":
            return self._call(aten.sym_size.int, self.given["col"], 0)
        raise UnsupportedError.at(
            "mode batched", f"{module_of(item)} reads a size of the whole graph", "Use --mode full"
        )

    def _column(self, rows: fx.Node, record: Record, node: fx.Node) -> Any:
        """Take a value out of a record."""
        start, end = record.columns(node)
        part = rows if (start, end) == (0, record.width) else self._call(aten.slice.Tensor, rows, 1, start, end)
        tail = list((shape_of(node) or (0,))[1:])
        return part if len(tail) == 1 else self._call(aten.reshape.default, part, [-1, *tail])

    def _call(self, target: Any, *args: Any) -> fx.Node:
        return self.graph.call_function(target, args)

    def _like(self, node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> fx.Node:
        target: Any = node.target
        copied = self.graph.call_function(target, tuple(args), dict(kwargs))
        copied.meta = {key: value for key, value in node.meta.items() if key == "nn_module_stack"}
        return copied

    def _direct(self) -> bool:
        """Tell whether neighbours are read through `col` alone."""
        if "source" not in self.given or any(item.part == "source_values" for item in self.inputs):
            return False
        users = self.given["source"].users
        return bool(users) and all(self.cut.hops.source_read(user) is self.given["source"] for user in users)

    def _sampling(self) -> tuple[str | None, frozenset[str]]:
        """Tell whether sums over neighbours drawn at random stand for the whole sums, and which weights to scale."""
        scaled: set[str] = set()
        for node in self.graph.nodes:
            reason = unfair(node, scaled)
            if reason is not None:
                return reason, frozenset()
        return None, frozenset(scaled)
