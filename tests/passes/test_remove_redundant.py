from __future__ import annotations

from torch import fx

from gnnexport.passes.remove_redundant import RemoveRedundant
from gnnexport.program.program import Program
from tests.passes.checks import apply
from tests.small_models import captured, inputs_of, ops


def with_twin(target: str) -> Program:
    """Capture a model and add a copy of its first call of an op, averaged with the original."""
    program = captured("residual").clone()
    graph = program.body.graph
    node = next(item for item in graph.nodes if target in str(item.target))
    with graph.inserting_after(node):
        twin = graph.node_copy(node)
    readers = [user for user in node.users if user is not twin]
    readers[0].replace_input_with(node, twin)
    program.body = fx.GraphModule(program.body, graph)
    return program


def test_equal_calls_share_a_node() -> None:
    """Two equal products of the same arguments become one."""
    program = with_twin("linear")
    assert ops(program).count("aten.linear") == ops(captured("residual")).count("aten.linear") + 1
    apply(RemoveRedundant(), program, has={"aten.linear": 3})


def test_dropouts_stay_apart() -> None:
    """Two dropouts of one value draw different masks in training."""
    apply(RemoveRedundant(), with_twin("dropout"), has={"aten.dropout": 2 if _readers("dropout") > 1 else 1})


def _readers(target: str) -> int:
    node = next(item for item in captured("residual").body.graph.nodes if target in str(item.target))
    return len(node.users)


def test_lean_program_stays() -> None:
    """A second run finds nothing to remove."""
    once, _ = apply(RemoveRedundant(), captured("GCN"))
    _, notes = apply(RemoveRedundant(), once)
    assert notes == ["removed 0 nodes"]
    assert once.inputs == inputs_of("GCN")
