"""What the manifest of a bundle in mode `batched` says besides: tables of rows, structures, stages of the model.

A model of L message-passing steps is cut into stages. Stage s computes, for some target nodes, the rows that depend on
s hops; the rows of the nodes around them come from the stage before, or from the features. The runtime finds the
neighbours, looks rows up or has them computed, and runs each stage on one block.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gnnexport.bundle.record import Record

NODE_IDS = "node_ids"
"""Name of the one input of a request: int64 [num_targets], the nodes it asks about."""

NUM_TARGETS = "num_targets"

STORE_BYTES = 256_000_000
"""Memory for rows that are kept between requests, unless told."""

Part = Literal["source", "target", "rowptr", "col", "row", "slot_values", "source_values", "target_values"]
"""What an input of a stage holds.

`source`: float32 [num_sources, width], rows of a table; `target`: float32 [num_targets, width], rows of a table for the
nodes that are computed. `rowptr`: int64 [num_targets + 1]; `col`: int64 [num_slots], row of `source` that each slot
reads; `row`: int64 [num_slots], target of each slot. `slot_values`: values of the structure's slots, [num_slots, …];
`source_values` and `target_values`: values of nodes, [num_sources, …] and [num_targets, …]."""

Loops = Literal["kept", "replaced"]
"""How a structure comes from the edge index: every edge in the order given, or self-loops left out and one loop for
each node behind its other edges."""

Form = Literal["gcn", "gcn_weighted", "mean", "edge_weight", "edge_attr"]
"""What a value of a structure is, so that it can be brought up to date when edges are added.

With d_i the number of slots of row i (for `gcn_weighted` the sum of their weights) and j the source of a slot:
`gcn` 1 / sqrt(d_i d_j); `gcn_weighted` w / sqrt(d_i d_j); `mean` 1 / d_i; `edge_weight` w and `edge_attr` the features
of the slot's edge, and for an added loop one number, `fill`. Where d is 0 the value is 0."""


StoreBits = Literal[8, 32]
"""Bits of a number in rows that are kept between requests: 8, with a step for each row, or those of float32."""

FeatureBits = Literal[2, 4, 8]
"""Most bits of a number of packed features: a row takes fewer where they are as good."""


class FeatureTable(Record):
    """Rows of node features, float32 [nodes, width], in a `.npy` file that is mapped into memory, or packed rows.

    Args:
        name: that stages call it by.
        file: path inside the bundle.
        width: columns.
        columns: which of the features these are; `None` for all of them in order.
        bits: the file holds packed rows (`bundle.packed_rows`), and this is the most bits that a number of a row had
            when they were chosen, and has in rows which `update` brings; `None` for float32.
    """

    name: str
    file: str
    width: int = Field(ge=0)
    columns: tuple[int, ...] | None = None
    bits: FeatureBits | None = None


class Structure(Record):
    """Neighbours by destination: `NAME.rowptr` int64 [nodes + 1] and `NAME.col` int64 [slots] in `graph.npz`.

    Args:
        name: that stages call it by.
        loops: how it comes from the edge index; `None` where that is not known, so that no edge can be added.
    """

    name: str
    loops: Loops | None = None


class StructureValue(Record):
    """A value of the graph, by its name in `graph.npz`.

    Args:
        name: that stages call it by.
        structure: of whose slots it is a value, [slots, …]; `None` for a value of nodes, [nodes, …].
        form: how it comes from the graph; `None` where that is not known, so that no edge can be added.
        fill: of the loops that were added.
        scales: under a fan-out, multiply by slots over slots drawn, so that a sum over those drawn stays fair.
    """

    name: str
    structure: str | None = None
    form: Form | None = None
    fill: float = 1.0
    scales: bool = False


class StageInput(Record):
    """One input of a stage's model, by its name there.

    Args:
        value: which table, structure value or, of `source` and `target`, `stage-N` for the rows that stage N gives;
            empty for `rowptr`, `col` and `row`.
    """

    name: str
    part: Part
    value: str = ""


class Stage(Record):
    """One model of the chain.

    Args:
        model_file: path inside the bundle.
        depth: how many hops its rows depend on; 0 reads nothing but target rows. Stage `stage-N` is the one of depth N.
        output: name of the model's result, float32 [num_targets, width].
        width: columns of the result.
        structure: the neighbours it reduces over; `None` at depth 0.
        direct: `source` is read through `col` alone and there are no `source_values`, so that a whole table may stand
            there in place of the rows of a block.
        sampling: why a fan-out would give wrong rows; `None` where drawn neighbours stand fairly for all of them.
        inputs: of the model.
        rows_file: path of its rows for all nodes when the bundle was made, float32 [nodes, width] in a `.npy` file or
            packed rows of 8 bits, with which the store begins; `None` where it begins empty.
    """

    model_file: str
    depth: int = Field(ge=0)
    output: str
    width: int = Field(ge=1)
    structure: str | None = None
    direct: bool = False
    sampling: str | None = None
    inputs: tuple[StageInput, ...]
    rows_file: str | None = None


class Batched(Record):
    """All that mode `batched` needs to know.

    Args:
        features: name, in the model, of the features that `update` may change.
        feature_width: how many features a node has; `None` where a table holds all of them.
        tables: of features.
        structures: of the graph.
        values: of the graph.
        stages: by depth, ascending; the last gives the model's output.
        store_bytes: memory for rows of stages that are kept between requests, unless told.
        store_bits: of a number of such a row. With 8, rows are rounded when they are computed, so that answers do not
            hang on what was kept.
    """

    features: str = "x"
    feature_width: int | None = Field(None, ge=0)
    tables: tuple[FeatureTable, ...]
    structures: tuple[Structure, ...]
    values: tuple[StructureValue, ...] = ()
    stages: tuple[Stage, ...] = Field(min_length=1)
    store_bytes: int = Field(STORE_BYTES, ge=0)
    store_bits: StoreBits = 32
