"""Bits of quantised Programs, counted by hand."""

from __future__ import annotations

import math

import pytest
import torch

from gnnexport.bundle.report_schema import Bits, QuantisedOperand, Ratio
from gnnexport.passes.cast import Cast
from gnnexport.passes.contract import PassContext
from gnnexport.passes.quantize import Quantize
from gnnexport.pipeline.bits import SIMULATED, count_bits
from gnnexport.pipeline.proof import worse
from gnnexport.program.data import GraphData
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.quantised import find_operands, insert
from gnnexport.targets.contract import Artefact
from gnnexport.targets.onnx.executed import Operand
from tests.small_models import HIDDEN, WIDTH, inputs_of, split

NODES = 100
INPUTS = example_inputs(inputs_of("GraphSAGE"), NODES)
DATA = PassContext(data=GraphData("small", INPUTS))


def rounded(name: str, bits: torch.Tensor, what: str = "input") -> Program:
    """Return a Program whose hidden input of linear maps has these bits, a step for each."""
    program = split(name).clone()
    program.annotate()
    operand = next(item for item in find_operands(program) if item.what == what and not item.raw)
    insert(program, operand, torch.full_like(bits, 0.1), bits, by="rows", signed=operand.signed)
    return program


def found(program: Program, artefact: Artefact | None = None) -> Bits:
    """Count the bits of a Program on the graph."""
    bits = count_bits(program, INPUTS, artefact)
    assert bits is not None
    return bits


def by_kind(bits: Bits, kind: str) -> list[QuantisedOperand]:
    """Return the operands of a kind."""
    return [item for item in bits.operands if item.kind == kind]


def test_a_plain_program_has_none() -> None:
    """Where nothing is quantised there is nothing to count."""
    assert count_bits(split("GraphSAGE"), INPUTS) is None


def test_rows_with_widths_of_their_own() -> None:
    """Packed rows, a step each, two bits that tell the width, and where every 64th row begins: all are counted."""
    bits = torch.tensor([1.0, 2.0, 3.0, 8.0]).repeat(NODES // 4)
    (operand,) = found(rounded("GraphSAGE", bits)).operands
    assert (operand.kind, operand.per, operand.count) == ("input", "node", NODES * HIDDEN)
    assert operand.bits == pytest.approx(3.5)
    assert operand.stored == pytest.approx((1 + 2 + 4 + 8) / 4)
    payload = NODES // 4 * sum(HIDDEN * wide // 8 for wide in (1, 2, 4, 8))
    assert operand.size_bytes == payload + 4 * NODES + math.ceil(2 * NODES / 8) + 2 * 8
    summed = found(rounded("GraphSAGE", bits))
    assert summed.average_paper == pytest.approx(3.5)
    assert summed.ratio_paper == pytest.approx(32 / 3.5)
    assert summed.feature_bytes == operand.size_bytes
    assert summed.ratio_bytes == pytest.approx(4 * NODES * HIDDEN / operand.size_bytes)
    assert summed.executed == 32
    assert summed.simulated == pytest.approx(3.5)


def test_columns_weights_and_raw_features() -> None:
    """A step a column, one for all, and one a channel; raw features do not count in the paper's average."""
    program = Quantize(bits=4).run(split("GraphSAGE"), DATA)
    bits = found(program)
    (raw,) = by_kind(bits, "features")[:1]
    assert (raw.per, raw.bits, raw.size_bytes) == ("tensor", 4, NODES * math.ceil(WIDTH * 4 / 8) + 4)
    sums = by_kind(bits, "aggregated")
    assert [item.per for item in sums] == ["column", "column"]
    assert sums[1].size_bytes == NODES * HIDDEN // 2 + 4 * HIDDEN
    weights = by_kind(bits, "weight")
    assert [(item.per, item.stored) for item in weights] == [("channel", 32)] * 4
    assert bits.average_paper == 4
    assert bits.stored == 4
    features = [item for item in bits.operands if item.kind != "weight"]
    assert bits.feature_bytes == sum(item.size_bytes for item in features)


def test_what_is_executed_is_told_by_the_target() -> None:
    """Bits that arithmetic runs on come from the artefact; simulated are those that it computes in float."""
    program = Quantize(bits=8).run(split("GraphSAGE"), DATA)
    names = [item.name for item in found(program).operands]
    summed = [name for name in names if name.endswith("_sum")]
    told = tuple(
        Operand(name, "columns" if name in summed else "rows", 1, 8, 8, "u8 sums" if name in summed else "float")
        for name in names
    )
    bits = found(program, Artefact("model.onnx", ("model.onnx",), operands=told))
    features = [item for item in bits.operands if item.kind != "weight"]
    assert {item.arithmetic for item in by_kind(bits, "aggregated")} == {"u8 sums"}
    count = sum(item.count for item in features)
    expected = sum(item.count * (8 if item.kind == "aggregated" else 32) for item in features) / count
    assert bits.executed == pytest.approx(expected)
    assert bits.simulated == 8
    assert [item.stored for item in by_kind(bits, "weight")] == [8] * 4
    first = next(item for item in bits.operands if item.name == "convs_0_lin_l_weight")
    assert first.size_bytes == HIDDEN * WIDTH + 4 * HIDDEN


def test_steps_taken_at_run_time() -> None:
    """Dynamic rows bring a step each, which nothing stores beforehand but whoever packs them."""
    bits = found(Quantize(mode="dynamic").run(split("GraphSAGE"), PassContext()))
    rows = by_kind(bits, "input")
    assert rows
    assert {item.per for item in rows} == {"row"}
    assert rows[0].size_bytes == rows[0].count + 4 * NODES


def test_groups_count_by_the_rows_that_take_them() -> None:
    """Of nearest groups, the width of each row is that of the group it takes."""
    program = split("GraphSAGE").clone()
    program.annotate()
    operand = next(item for item in find_operands(program) if item.what == "input" and not item.raw)
    step, bits = torch.tensor([1e-6, 1e6]), torch.tensor([2.0, 8.0])
    insert(program, operand, step, bits, by="nearest", signed=operand.signed)
    (item,) = found(program).operands
    assert (item.per, item.bits) == ("group", 2)


def test_vectors_of_attention_are_no_features() -> None:
    """They are parameters, as weights are: listed, and left out of what features take."""
    program = split("GAT").clone()
    program.annotate()
    for operand in [item for item in find_operands(program) if item.what == "attention"]:
        insert(program, operand, torch.full((operand.rows,), 0.1), torch.tensor([4.0]), by="rows")
    bits = found(program)
    assert len(by_kind(bits, "attention")) == 4
    assert (bits.feature_bytes, bits.stored, bits.simulated) == (None, None, None)


def test_no_rows_take_no_bytes() -> None:
    """Without nodes only the step is left."""
    program = split("GraphSAGE").clone()
    program.annotate()
    operand = next(item for item in find_operands(program) if item.what == "input" and not item.raw)
    insert(program, operand, torch.tensor([0.1]), torch.tensor([4.0]), by="rows", signed=operand.signed)
    empty = {"x": torch.zeros(0, WIDTH), "edge_index": torch.zeros(2, 0, dtype=torch.int64)}
    bits = count_bits(program, empty)
    assert bits is not None
    assert bits.feature_bytes == 4


@pytest.mark.parametrize(
    ("gathered", "stored", "told"), [((True, True), 16, "sums of rows of bf16"), ((), 32, SIMULATED)]
)
def test_casts(gathered: tuple[bool, ...], stored: int, told: str) -> None:
    """Rows of 16 bits are stored so where kernels gather them, and simulated elsewhere; arithmetic is float32."""
    program = Cast().run(split("GraphSAGE"), DATA)
    bits = found(program, Artefact("model.onnx", ("model.onnx",), halves=gathered))
    rows = by_kind(bits, "aggregated")
    assert len(rows) == 2
    assert all(item.stored == stored and told in item.arithmetic and item.executed == 32 for item in rows)
    assert bits.average_paper is None
    assert bits.simulated == (None if gathered else 16)


def test_weights_too_few_to_be_stored_in_16_bits_are_not_listed() -> None:
    """A file keeps small matrices in 32 bits, so that the report does not claim otherwise."""
    assert by_kind(found(Cast().run(split("GraphSAGE"), DATA)), "weight") == []


def test_slower_and_larger_results_are_said_to_be() -> None:
    """A setting that the user named is kept, and the report says what is worse than without it."""
    slow = Ratio(value=0.8, ci95=(0.7, 0.9))
    assert worse(slow, 1000, 1100) == [
        "slower than the uncompressed export: 0.80 times as fast",
        "larger than the uncompressed export: 1,000 to 1,100 bytes",
    ]
    assert worse(Ratio(value=0.9, ci95=(0.8, 1.1)), 1000, 1000) == []
    assert worse(None, None, 5) == []
