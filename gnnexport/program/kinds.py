"""Several kinds of nodes and edges: what a model for one kind does not read of the others."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from gnnexport.program.inputs import NUM_NODES, Input, Role, ends_of, suffix_of


def without_unread_kinds(body: fx.GraphModule, inputs: Sequence[Input]) -> tuple[Input, ...]:
    """Drop the inputs of kinds that the answer does not depend on: data has them, and the last layers skip some.

    Features stay where edges that are read count their nodes.
    """
    placeholders = {str(node.target): node for node in body.graph.nodes if node.op == "placeholder"}
    read = [item for item in inputs if placeholders[item.name].users or not suffix_of(item.name)]
    counted = {end for item in read if item.role is Role.EDGE_INDEX for end in ends_of(item.name)}
    counting = [
        item for item in inputs if item.role is Role.NODE_FEATURES and NUM_NODES + suffix_of(item.name) in counted
    ]
    kept = tuple(item for item in inputs if item in read or item in counting)
    for item in inputs:
        if item not in kept:
            body.graph.erase_node(placeholders[item.name])
    body.recompile()
    return kept
