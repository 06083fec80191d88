"""Cut a split Program into stages, one for each message-passing step, for requests about some nodes of a large graph.

Stage s computes for some target nodes what depends on s hops. It reads rows of the nodes around them, which stage s - 1
computed before (its *record*), or features. A record holds the narrowest values that all later stages can be computed
from. What a request costs is then the work of each stage on the nodes it needs, and records may be kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from gnnexport.bundle.stages import StageInput
from gnnexport.errors import Problem, UnsupportedError
from gnnexport.program.cut import narrowest_cut
from gnnexport.program.graphs import args_of, module_of, output_node, parameter_of
from gnnexport.program.hops import Hops, Space, find_hops
from gnnexport.program.inputs import Role
from gnnexport.program.program import Program
from gnnexport.program.shapes import shape_of
from gnnexport.program.stored import Stored, read_stored

aten = torch.ops.aten
gnn = torch.ops.gnn

FEATURES = "features"
STRUCTURE = "graph"
PRODUCT = 8
"""How many times wider a value counts from which a product is left to be computed for every neighbour."""

MEND = "Use --mode full or graphs"


@dataclass(frozen=True)
class Table:
    """Rows of features that stages read.

    Args:
        name: that stage inputs call it by.
        node: of the body that computes them: the features, or some columns of them.
        columns: which; `None` for all.
    """

    name: str
    node: fx.Node
    columns: tuple[int, ...] | None


@dataclass(frozen=True)
class Record:
    """What a stage gives for each target: values side by side.

    Args:
        values: of the body, in graph order.
    """

    values: tuple[fx.Node, ...]

    @property
    def width(self) -> int:
        """Columns of all values together."""
        return sum(width_of(value) for value in self.values)

    def columns(self, value: fx.Node) -> tuple[int, int]:
        """Return the first column of a value and the one behind its last."""
        start = sum(width_of(item) for item in self.values[: self.values.index(value)])
        return start, start + width_of(value)


@dataclass(frozen=True)
class CutProgram:
    """How a Program falls into stages.

    Args:
        program: whose body's nodes are meant; annotated.
        hops: of each value.
        tables: of features, the whole first.
        records: by depth; there is none at depth 0 where features are read at once.
        depth: of the output.
        rowptr: structure value by name.
        col: structure value by name.
        row: structure value by name, where one is read.
        stored: how the features are stored; `None` as they are. The Program then reads them as they come out.
    """

    program: Program
    hops: Hops
    tables: tuple[Table, ...]
    records: dict[int, Record]
    depth: int
    rowptr: str
    col: str
    row: str | None
    stored: Stored | None = None

    @property
    def output(self) -> fx.Node:
        """The value that the body returns."""
        found: fx.Node = args_of(output_node(self.program.body.graph))[0]
        return found


def width_of(node: fx.Node) -> int:
    """Return the channels of a value, all its dimensions but the first together."""
    return math.prod((shape_of(node) or ())[1:])


def check_stages(program: Program) -> list[Problem]:
    """Tell why a Program cannot be cut into stages; an empty list when it can."""
    try:
        cut_program(program)
    except UnsupportedError as error:
        return list(error.problems)
    return []


def hops_of(program: Program) -> int:
    """Return on how many hops an answer of a split Program depends; raises as `cut_program` does."""
    return cut_program(program).depth


def cut_program(program: Program) -> CutProgram:
    """Find the stages of a split Program.

    Raises:
        UnsupportedError: rows depend on more than the neighbourhood, or the graph is not of a single kind; names the
            module.
    """
    _check_inputs(program)
    program, stored = read_stored(program)
    program = program.clone().train(False)
    program.annotate()
    hops = find_hops(program)
    output: fx.Node = args_of(output_node(program.body.graph))[0]
    depth = hops.depth[output]
    if hops.space[output] is not Space.ROWS or depth == 0:
        raise _refused("the answer does not depend on neighbours", "Use --mode full")
    rowptr, col, row = _structure(program, hops)
    tables = _tables(program, hops)
    records = {boundary: _record(program, hops, boundary, tables) for boundary in range(depth)}
    if all(value in {table.node for table in tables} for value in records[0].values):
        del records[0]
    records[depth] = Record((output,))
    return CutProgram(program, hops, tables, records, depth, rowptr, col, row, stored)


def _refused(what: str, mend: str = MEND) -> UnsupportedError:
    return UnsupportedError.at("mode batched", what, mend)


def _check_inputs(program: Program) -> None:
    if program.prepare is None:
        raise _refused("the Program is not split yet", "Run raise-messages and split-structure first")
    if program.level != "node" or program.target:
        raise _refused(f"answers for each {program.level}{program.target.replace('__', ' ')}, not for each node")
    features = [item.name for item in program.features]
    if len(features) != 1:
        raise _refused(f"reads {', '.join(features) or 'no features'} where one table of node features is needed")
    others = {Role.GRAPH_IDS, Role.NUM_GRAPHS} & {item.role for item in program.inputs}
    if others or sum(item.role is Role.EDGE_INDEX for item in program.inputs) != 1:
        raise _refused("is for one graph with one kind of edges")


def _structure(program: Program, hops: Hops) -> tuple[str, str, str | None]:
    """Return the names of the one structure that all steps reduce over."""
    found: dict[str, set[str]] = {"rowptr": set(), "col": set(), "row": set()}
    for node in hops.steps:
        for part, value in hops.parts(node).items():
            if value.op != "placeholder":
                raise _refused(f"{module_of(node)} computes the neighbours it reduces over from features")
            found[part].add(str(value.target))
    if len(found["rowptr"]) != 1 or len(found["col"]) > 1 or len(found["row"]) > 1:
        raise _refused(f"its layers reduce over {len(found['rowptr'])} different structures")
    if not found["col"]:
        raise _refused("no layer reads its neighbours' rows")
    return found["rowptr"].pop(), found["col"].pop(), found["row"].pop() if found["row"] else None


def _tables(program: Program, hops: Hops) -> tuple[Table, ...]:
    """Return the features, and each set of their columns that is read."""
    x = next(node for node in program.body.graph.nodes if node.op == "placeholder" and hops.is_features(node))
    tables = [Table(FEATURES, x, None)]
    for node in x.users:
        columns = _columns(program, node, x)
        if columns is not None:
            tables.append(Table(f"{FEATURES}-{len(tables)}", node, columns))
    return tuple(tables)


def _columns(program: Program, node: fx.Node, x: fx.Node) -> tuple[int, ...] | None:
    if node.target is not aten.index_select.default or args_of(node)[0] is not x or args_of(node)[1] not in (1, -1):
        return None
    index = parameter_of(program.body, args_of(node)[2])
    return None if index is None else tuple(int(column) for column in index)


def _record(program: Program, hops: Hops, boundary: int, tables: Sequence[Table]) -> Record:
    """Return the narrowest values of depth up to `boundary` that all later stages can be computed from.

    A value that neighbours' rows still have to be multiplied from counts as wider: each would be in every request.

    Neighbours are read only as the stage before knows them, so that it also hands on what is shallower. Of the targets
    themselves a later stage takes from this record what has just this depth; it has the rest from features and from
    earlier records.
    """
    rows = [n for n in program.body.graph.nodes if hops.space.get(n) is Space.ROWS and hops.depth[n] <= boundary]
    of_sources: dict[fx.Node, None] = {}
    of_targets: dict[fx.Node, None] = {}
    for read in hops.reads():
        if read.stage == boundary + 1 and read.source:
            of_sources[read.value] = None
        elif read.stage > boundary > 0 and not read.source and hops.depth[read.value] == boundary:
            of_targets[read.value] = None
    if boundary == 0:
        made = {table.node for table in tables}
    else:
        made = {node for node in rows if hops.depth[node] < boundary or hops.is_made_by_step(node)}
    reads = {node: [] if node in made else [item for item in node.all_input_nodes if item in rows] for node in rows}
    needed = _behind(of_sources, reads)
    for node in rows:
        if node not in needed:
            reads[node] = [item for item in reads[node] if hops.depth[item] == boundary]
    products = [item for node in needed if node.target is aten.linear.default for item in reads[node]]
    before = _behind(products, reads) & needed
    widths: dict[fx.Node, int | None] = {
        # Several results at once are no value that could be kept.
        node: None if shape_of(node) is None else width_of(node) * (PRODUCT if node in before else 1)
        for node in rows
    }
    return Record(tuple(narrowest_cut(widths, reads, made, [*of_sources, *of_targets])))


def _behind(wanted: Iterable[fx.Node], reads: Mapping[fx.Node, Sequence[fx.Node]]) -> set[fx.Node]:
    """Return values with all that they are computed from."""
    found, waiting = set(wanted), list(wanted)
    while waiting:
        fresh = [item for item in reads[waiting.pop()] if item not in found]
        found.update(fresh)
        waiting += fresh
    return found


def stage_inputs(cut: CutProgram, depth: int) -> list[StageInput]:
    """Return all that a stage may read; what it does not is left out of its model."""
    targets = [table.name for table in cut.tables] + [f"stage-{at}" for at in cut.records if at < depth]
    inputs = [StageInput(name=f"target_{place}", part="target", value=name) for place, name in enumerate(targets)]
    values = cut.hops.structure_values
    of_nodes = [name for name, space in values.items() if space is Space.ROWS]
    inputs += [StageInput(name=f"{name}_target", part="target_values", value=name) for name in of_nodes]
    if depth == 0:
        return inputs
    inputs.append(StageInput(name="source", part="source", value=source_table(cut, depth)))
    inputs += [StageInput(name=part, part=part) for part in ("rowptr", "col", "row")]
    inputs += [StageInput(name=f"{name}_source", part="source_values", value=name) for name in of_nodes]
    of_slots = [name for name, space in values.items() if space is Space.SLOTS]
    return inputs + [StageInput(name=name, part="slot_values", value=name) for name in of_slots]


def source_table(cut: CutProgram, depth: int) -> str:
    """Return which table the neighbours' rows of a stage come from."""
    if depth - 1 in cut.records:
        return f"stage-{depth - 1}"
    read = [table.name for table in cut.tables if table.node in _sources_of_first(cut)]
    return read[0] if len(read) == 1 else FEATURES


def _sources_of_first(cut: CutProgram) -> set[fx.Node]:
    """Return the tables that neighbours are read from in the first stage."""
    tables = {table.node for table in cut.tables}
    found: set[fx.Node] = set()
    waiting = [read.value for read in cut.hops.reads() if read.stage == 1 and read.source]
    while waiting:
        node = waiting.pop()
        if node in tables:
            found.add(node)
        else:
            waiting += [item for item in node.all_input_nodes if cut.hops.space.get(item) is Space.ROWS]
    return found
