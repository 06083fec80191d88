"""What every test of a pass asks: structure, numbers, and an input left alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gnnexport.passes.contract import Pass, PassContext
from gnnexport.program.program import Program
from gnnexport.program.text import to_text
from gnnexport.program.verify import TOLERANCE, largest_error, verify
from tests.small_models import ops, run


def apply(
    item: Pass, program: Program, *, has: Mapping[str, int] | None = None, keeps: bool = True
) -> tuple[Program, list[str]]:
    """Run a pass and check that the result is well formed and the Program given is left as it was.

    Args:
        item: the pass.
        program: to run it on.
        has: how often each op stands in the result.
        keeps: the outputs must stay equal.

    Returns:
        The new Program and the notes of the pass.
    """
    notes: list[str] = []
    before, state = to_text(program), {key: value.clone() for key, value in program.state_dict().items()}
    after = item.run(program, PassContext(note=notes.append))
    assert to_text(program) == before
    assert all(torch.equal(value, state[key]) for key, value in program.state_dict().items())
    assert verify(after) == []
    for op, count in (has or {}).items():
        assert ops(after).count(op) == count, (op, ops(after))
    if keeps:
        assert largest_error(program, after) <= TOLERANCE
    return after, notes


def assert_equal_on(program: Program, inputs: Mapping[str, Tensor], expected: Tensor) -> None:
    """Check a Program's output to a relative error that reordered sums in float32 explain."""
    actual = run(program, inputs)
    assert actual.shape == expected.shape
    assert torch.equal(actual.isnan(), expected.isnan())
    scale = float(expected.nan_to_num().abs().max().clamp(min=1e-3)) if expected.numel() else 1.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE * scale, equal_nan=True)
