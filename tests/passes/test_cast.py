from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gnnexport.errors import UnsupportedError
from gnnexport.passes.cast import Cast
from gnnexport.passes.contract import PassContext
from gnnexport.program.data import GraphData
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.quantised import find_operands, insert
from gnnexport.program.verify import largest_error
from tests.passes.checks import apply
from tests.small_models import captured, inputs_of, ops, split


def halved(values: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Round to 16 bits and back."""
    return values.to(dtype).float()


@pytest.mark.parametrize("to", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["GCN", "GraphSAGE", "GIN", "GAT"])
def test_weights_and_rows_have_16_bits(name: str, to: str) -> None:
    """Matrices hold numbers of 16 bits afterwards, each aggregation reads rounded rows, and little changes."""
    after, notes = apply(Cast(to=to), split(name), keeps=False)
    dtype = torch.bfloat16 if to == "bf16" else torch.float16
    assert all(torch.equal(halved(value, dtype), value) for value in after.body.parameters() if value.dim() > 1)
    aggregated = [node.args[0] for node in after.body.graph.nodes if "aggregate" in str(node.target)]
    assert ops(after).count("aten._to_copy") >= 2 * len(set(aggregated))
    assert all(value.args[0].kwargs["dtype"] == dtype for value in aggregated)
    assert 0 < largest_error(split(name), after) < 0.02
    assert [word in notes[-1] for word in ("rounded to", to, "float32")] == [True] * 3


def test_norms_are_folded_first() -> None:
    """A normalisation folded into rounded weights afterwards would make them numbers of 32 bits again."""
    after, _ = apply(Cast(), split("GCN batch norm"), has={"aten.batch_norm": 0}, keeps=False)
    assert all(torch.equal(halved(value), value) for value in after.body.parameters() if value.dim() > 1)


def test_rows_or_weights_alone() -> None:
    """Each half of the pass can be left out, and then nothing of it happens."""
    only_weights, _ = apply(Cast(rows=False), split("GCN"), has={"aten._to_copy": 0}, keeps=False)
    assert any(torch.equal(halved(value), value) for value in only_weights.body.parameters() if value.dim() > 1)
    only_rows, _ = apply(Cast(weights=False), split("GCN"), has={"aten._to_copy": 4}, keeps=False)
    assert all(torch.equal(only_rows.state_dict()[key], value) for key, value in split("GCN").state_dict().items())


def test_what_others_read_stays_in_32_bits() -> None:
    """GraphSAGE's own branch reads the rows that were not rounded."""
    after, _ = apply(Cast(weights=False), split("GraphSAGE"), keeps=False)
    read = [node.args[0].name for node in after.body.graph.nodes if str(node.target) == "aten.linear.default"]
    assert not any("_to_copy" in name for name in read)


def test_a_second_cast_finds_nothing() -> None:
    """Rows that are rounded already are not rounded again."""
    once = Cast(weights=False).run(split("GCN"), PassContext())
    assert "nothing in 32 bits" in str(Cast(weights=False).check(once, PassContext())[0])


def scaled(factor: float) -> Program:
    """Return a GCN whose layers make large values."""
    program = split("GCN").clone()
    with torch.no_grad():
        for weight in program.body.parameters():
            weight.mul_(factor)
    return program


def test_what_fp16_cannot_hold_is_refused() -> None:
    """Rows beyond 65,504 are found on the data, weights without; bf16 takes both."""
    inputs = example_inputs(inputs_of("GCN"), 20)
    ctx = PassContext(data=GraphData("small", inputs))
    with pytest.raises(UnsupportedError, match=r"reaches .*, which fp16 cannot hold\. Use to=bf16"):
        Cast(to="fp16").run(scaled(1e4), ctx)
    assert "fp16 cannot hold" in str(Cast(to="fp16").check(scaled(1e6), PassContext())[0])
    assert Cast(to="bf16").check(scaled(1e6), PassContext()) == []
    Cast(to="bf16").run(scaled(1e6), ctx)


def test_what_cannot_be_cast_is_refused() -> None:
    """A Program that is not split, and options that leave nothing to do."""
    assert "not split" in str(Cast().check(captured("GCN"), PassContext())[0])
    with pytest.raises(ValueError, match="leave nothing to cast"):
        Cast(weights=False, rows=False)


def test_quantised_vectors_of_attention_stay() -> None:
    """What is rounded to levels, heads laid out in rows in front, is not rounded to other numbers."""
    program = split("GAT").clone()
    program.annotate()
    vectors = [item for item in find_operands(program) if item.what == "attention"]
    for item in vectors:
        insert(program, item, torch.full((item.rows,), 0.1), torch.tensor([4.0]), by="rows")
    after = Cast(rows=False).run(program, PassContext())
    names = [str(item.value.target) for item in vectors]
    assert len(names) == 4
    assert all(torch.equal(after.body.get_parameter(name), program.body.get_parameter(name)) for name in names)
