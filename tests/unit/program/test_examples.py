"""Examples of graphs that passes are checked with."""

from __future__ import annotations

from gnnexport.program.inputs import Input, Role
from gnnexport.program.program import EXAMPLE_NODES, example_inputs


def edges(name: str) -> Input:
    """Return one kind of edges."""
    return Input(f"edge_index__{name}", Role.EDGE_INDEX, "int64", (2, f"num_edges__{name}"))


KINDS = tuple(
    Input(f"x__{kind}", Role.NODE_FEATURES, "float32", (f"num_nodes__{kind}", 2)) for kind in ("author", "paper")
)
RELATIONS = (
    *(edges(f"author__r{number}__paper") for number in range(9)),
    *(edges(f"author__r{number}__author") for number in range(9)),
)


def test_no_two_kinds_have_equally_many() -> None:
    """Sizes tell kinds of nodes and of edges apart, however many there are."""
    for num_nodes in EXAMPLE_NODES:
        example = example_inputs((*KINDS, *RELATIONS), num_nodes)
        counts = [value.shape[0 if name.startswith("x") else 1] for name, value in example.items()]
        assert len(set(counts)) == len(KINDS) + len(RELATIONS)
