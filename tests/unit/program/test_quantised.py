from __future__ import annotations

import pytest
import torch

from gnnexport.passes.cast import Cast
from gnnexport.passes.contract import PassContext
from gnnexport.passes.order_propagation import OrderPropagation
from gnnexport.pipeline.steps import FINAL
from gnnexport.program.cost import measure_cost
from gnnexport.program.program import Program
from gnnexport.program.quantised import Operand, find_operands, insert, quantisers
from gnnexport.program.verify import verify
from tests.small_models import BUILDERS, run, split

PLACED = ["GCN batch norm", "GraphSAGE max", "GIN", "GAT edge features", "GATv2", "PNA", "residual"]


def ordered(name: str) -> Program:
    """Return a model after the canonical passes, annotated."""
    program = OrderPropagation().run(split(name), PassContext()).clone()
    program.annotate()
    return program


def wide(operand: Operand) -> int:
    """Return how many steps an operand takes."""
    return operand.rows or (operand.width if operand.what in ("sum", "scores") else 5)


def quantised(name: str, *, bits: float = 8, step: float = 1e-3) -> Program:
    """Round every operand of a model."""
    program = ordered(name)
    for operand in find_operands(program):
        columns = operand.what in ("sum", "scores")
        insert(
            program, operand, torch.full((wide(operand),), step), torch.full((1,), bits),
            by="columns" if columns else "rows", signed=operand.signed,
        )  # fmt: skip
    program.annotate()
    return program


def operands(name: str) -> dict[str, Operand]:
    """List what can be rounded, by name."""
    return {item.name: item for item in find_operands(ordered(name))}


def test_operands_of_gcn() -> None:
    """The products' operands by node, the sums' by column, the weights by output channel; raw ones are told."""
    found = operands("GCN")
    assert {(item.what, item.signed, item.raw, item.width, item.rows) for item in found.values()} == {
        ("sum", True, True, 6, 0),
        ("input", True, True, 6, 0),
        ("input", False, False, 16, 0),
        ("sum", True, False, 3, 0),
        ("weight", True, False, 6, 16),
        ("weight", True, False, 16, 3),
    }


def test_operands_of_attention() -> None:
    """What is scored and summed is rounded for both; the vectors by head, and the scores of nodes."""
    found = operands("GAT")
    assert [len(item.readers) for item in found.values() if item.what == "sum"] == [3, 3]
    vectors = [item for item in found.values() if item.what == "attention"]
    assert [(item.rows, item.width) for item in vectors] == [(2, 8), (2, 8), (2, 3), (2, 3)]
    assert len([item for item in found.values() if item.what == "scores"]) == 4


@pytest.mark.parametrize(
    ("name", "unsigned"),
    [
        ("GraphSAGE max", {"convs_1_lin_r_input", "convs_1_aggr_module_sum", "convs_1_lin_l_input"}),
        ("residual", {"model_sum", "middle_input", "last_input"}),
        ("GCN jumping knowledge", {"convs_1_lin_input", "lin_input"}),
        ("Sequential", {"module_3_lin_r_input", "module_3_aggr_module_sum", "module_3_lin_l_input"}),
        ("multiplied", {"model_sum", "last_input"}),
    ],
)
def test_signs(name: str, unsigned: set[str]) -> None:
    """After ReLU, through sums, means, maxima, concatenation and dropout nothing is negative; trained factors may be.

    GIN's second layer multiplies by 1 + eps, which training can turn.
    """
    assert {item.name for item in operands(name).values() if not item.signed} == unsigned


def test_what_is_called_unsigned_is_never_negative() -> None:
    """On examples, no operand that needs no sign has a negative entry."""
    from gnnexport.program.values import body_values

    for name in BUILDERS:
        program = ordered(name)
        unsigned = [item.value for item in find_operands(program) if not item.signed]
        example = program.example()
        values = body_values(program, example, unsigned, program.structure(example))
        assert all(bool((value >= 0).all()) for value in values.values()), name


def test_rows_of_16_bits_keep_their_sign() -> None:
    """What cannot be negative cannot be so after a cast."""
    cast = Cast().run(ordered("GraphSAGE max"), PassContext())
    cast.annotate()
    found = {item.name: item.signed for item in find_operands(cast) if item.what == "sum" and not item.raw}
    assert found == {"convs_1_aggr_module_sum": False}


@pytest.mark.parametrize("name", PLACED)
def test_fine_levels_change_little(name: str) -> None:
    """With a small step and all bits the output is nearly the same, and the Program well-formed."""
    before, after = ordered(name), quantised(name, step=0.05)
    assert verify(after) == []
    example = before.example()
    error = (run(after, example) - run(before, example)).abs().max() / run(before, example).abs().max()
    assert 0 < error < 0.3
    assert {item.name for item in quantisers(after)} == set(operands(name))
    known = operands(name)
    for item in quantisers(after):
        operand = known[item.name]
        assert (item.what, item.signed, item.width) == (operand.what, operand.signed, operand.width)
        assert (item.of_nodes, item.raw) == (operand.of_nodes, operand.raw) or item.what in ("weight", "attention")


@pytest.mark.parametrize("name", PLACED)
def test_final_passes_leave_quantisers(name: str) -> None:
    """Passes that come last neither move anything through a quantiser nor take one out."""
    program = quantised(name, step=0.05)
    final = program
    for item in FINAL:
        final = item.run(final, PassContext())
    final.annotate()
    assert sorted(item.name for item in quantisers(final)) == sorted(item.name for item in quantisers(program))
    example = program.example()
    torch.testing.assert_close(run(final, example), run(program, example))


@pytest.mark.parametrize("name", PLACED)
def test_products_are_still_counted(name: str) -> None:
    """Multiply-accumulates are those of the model."""
    before, after = ordered(name), quantised(name)
    example = before.example()
    for kind in ("linear", "aggregation"):
        assert measure_cost(after, example).macs(kind) == measure_cost(before, example).macs(kind)  # type: ignore[arg-type]


def test_dropout_comes_behind() -> None:
    """What is rounded is the same in training and in an inference: dropout reads levels."""
    program = quantised("GCN batch norm")
    for node in program.body.graph.nodes:
        if str(node.target) == "aten.dropout.default":
            assert "quantize" in str(node.args[0].target)
            assert not any("quantize" in str(user.target) for user in node.users)


def test_readers_share_a_dropout() -> None:
    """Two linear maps that read the same dropout do so still."""
    program = quantised("GraphSAGE")
    dropouts = [node for node in program.body.graph.nodes if str(node.target) == "aten.dropout.default"]
    assert [len(node.users) for node in dropouts] == [2]
