from __future__ import annotations

import pytest
from torch import fx

from gnnexport.passes.contract import PassContext
from gnnexport.passes.split_structure import SplitStructure
from tests.passes.checks import apply
from tests.small_models import BUILDERS, captured, ops, raised, run, split


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("GCN", ("rowptr_0", "col_0", "weight_0")),
        ("GraphSAGE", ("rowptr_0", "col_0")),
        ("GAT", ("rowptr_0", "col_0", "row_0")),
    ],
)
def test_graph_values_leave_the_body(name: str, structure: tuple[str, ...]) -> None:
    """The body reads features and structure values; normalisation and sorting are gone from it."""
    after, _ = apply(SplitStructure(), raised(name), has={"gnn.csr": 0, "aten.scatter_add": 0, "aten.cat": 0})
    assert set(after.structure_names) >= set(structure)
    assert after.prepare is not None


def test_structure_is_computed_once_for_many_features() -> None:
    """Structure values taken from one run serve features of another."""
    program = split("GCN")
    one, other = program.example(17, seed=1), program.example(17, seed=1)
    other["x"] = one["x"] * 2 + 1
    assert run(program, other).equal(program.run_body(other, program.structure(one)).detach())


def test_dropout_on_edges_stays_in_the_body() -> None:
    """Dropout differs from step to step, so what it makes does not belong to the graph."""
    after, _ = apply(SplitStructure(), raised("edge_dropout"), has={"aten.dropout": 1})
    assert isinstance(after.prepare, fx.GraphModule)
    assert not any("dropout" in str(node.target) for node in after.prepare.graph.nodes)


def test_unraised_program_is_split_too() -> None:
    """A Program with scatters splits as well and keeps its numbers."""
    after, _ = apply(SplitStructure(), captured("GCN"))
    assert "aten.scatter_add" in ops(after)


@pytest.mark.parametrize("name", ["views", "Sequential", "PNA"])
def test_sizes_come_from_the_graph(name: str) -> None:
    """Numbers of nodes in views are right on graphs of every size."""
    assert name in BUILDERS
    apply(SplitStructure(), raised(name))


def test_second_split_is_refused() -> None:
    """A split Program is not split again, and the message says why."""
    problems = SplitStructure().check(split("GCN"), PassContext())
    assert [str(problem) for problem in problems] == [
        "split-structure: the Program is split already. Run this pass once."
    ]
