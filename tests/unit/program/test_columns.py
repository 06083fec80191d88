from __future__ import annotations

import pytest
import torch

from gnnexport.passes.contract import PassContext
from gnnexport.passes.order_propagation import OrderPropagation
from gnnexport.program.columns import close_columns, hops_to_output, is_read_from_afar, open_columns
from gnnexport.program.graphs import args_of
from gnnexport.program.program import Program
from gnnexport.program.verify import verify
from tests.small_models import ops, run, split

SELECTION = "aten.index_select"


def readers(program: Program) -> set[str]:
    """Name the weights that read the selected columns."""
    (selection,) = [node for node in program.body.graph.nodes if str(node.target).startswith(SELECTION)]
    found, reached = set(), [selection]
    for node in reached:
        for user in node.users:
            if str(user.target).startswith("aten.linear"):
                found.add(str(args_of(user)[1].target))
            else:
                reached.append(user)
    return found


@pytest.mark.parametrize("reorder", [False, True])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GraphSAGE", {"convs.0.lin_l.weight"}),
        ("GraphSAGE project", {"convs.0.lin.weight"}),
        ("GCN", {"convs.0.lin.weight"}),
        ("GIN", {"convs.0.nn.lins.0.weight"}),
        ("GAT", {"convs.0.lin.weight"}),
    ],
)
def test_what_reads_the_farthest_nodes_reads_a_selection(name: str, expected: set[str], reorder: bool) -> None:
    """The neighbour branch of the first layer reads selected columns, in either order of propagation; output stays."""
    program = split(name).clone()
    if reorder:
        program = OrderPropagation().run(program, PassContext())
    before = run(program, program.example(17))
    open_columns(program)
    assert verify(program) == []
    assert readers(program) == expected
    torch.testing.assert_close(run(program, program.example(17)), before)


def test_a_selection_of_everything_is_removed() -> None:
    """Closing brings back the ops of before; a selection of some columns stays."""
    program = split("GraphSAGE").clone()
    before = sorted(ops(program))
    open_columns(program)
    close_columns(program)
    assert sorted(ops(program)) == before
    open_columns(program)
    (index,) = [node for node in program.body.graph.nodes if str(node.target).startswith("columns")]
    setattr(program.body, str(index.target), torch.arange(5))
    close_columns(program)
    assert any(op.startswith(SELECTION) for op in ops(program))


def test_columns_are_opened_once() -> None:
    """Features that are read by a selection already are left as they are."""
    program = split("GCN").clone()
    open_columns(program)
    before = ops(program)
    open_columns(program)
    assert ops(program) == before


def test_hops_count_gathers_of_rows() -> None:
    """Two layers gather twice; the weights of edges do not count."""
    program = split("GAT").clone()
    program.annotate()
    hops = hops_to_output(program.body.graph)
    found = {str(node.target): hops[node] for node in program.body.graph.nodes if node.op == "placeholder"}
    assert found["x"] == 2


def test_who_reads_a_layer() -> None:
    """What the last layer makes is read by the nodes asked for only, what an earlier one makes by their neighbours."""
    program = split("GCN jumping knowledge").clone()
    program.annotate()
    hops = hops_to_output(program.body.graph)
    linear = [node for node in program.body.graph.nodes if str(node.target).startswith("aten.linear")]
    assert [is_read_from_afar([node], hops) for node in linear] == [True, False, False]
    assert args_of(linear[0])[0].name == "x"
