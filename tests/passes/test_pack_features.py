"""What `pack-features` does to a Program, and what is read back of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gnnexport.errors import SpecError
from gnnexport.native.packed import unpack
from gnnexport.passes.contract import PassContext
from gnnexport.passes.pack_features import PackFeatures
from gnnexport.program.data import GraphData
from gnnexport.program.program import Program
from gnnexport.program.stages import cut_program
from gnnexport.program.stored import Stored, read_stored, round_features
from gnnexport.program.verify import verify
from gnnexport.registry import build_passes
from tests.small_models import WIDTH, split

NODES = 40


def features(*, negative: bool = True) -> torch.Tensor:
    """Make rows of noise, of 0 and 1, and of whole multiples of their smallest."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(NODES, WIDTH, generator=generator)
    x[::4] = (x[::4] > 0).float()
    x[1::4] = (x[1::4] * 2).round().clamp(-3, 3)
    x[1::4, 0] = 1
    return x if negative else x.abs()


def context(x: torch.Tensor, notes: list[str] | None = None) -> PassContext:
    """A graph with these features, to be served in mode `batched`."""
    edges = torch.randint(0, NODES, (2, 90), generator=torch.Generator().manual_seed(1))
    data = GraphData("small", {"x": x, "edge_index": edges}, None, {})
    return PassContext(data=data, mode="batched", note=([] if notes is None else notes).append)


def packed(item: PackFeatures, x: torch.Tensor, notes: list[str] | None = None) -> tuple[Program, Program]:
    """Return a Program before and after the pass."""
    given = split("GCN batch norm")
    assert item.check(given, context(x)) == []
    return given, item.run(given, context(x, notes))


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_program_reads_rounded_features(bits: int, negative: bool) -> None:
    """Its answers are those of the model on the rows that the store gives back, bit for bit."""
    x = features(negative=negative)
    notes: list[str] = []
    given, after = packed(PackFeatures(bits=bits), x, notes)
    assert verify(after) == []
    inputs = context(x).data.inputs  # type: ignore[union-attr]
    plain, stored = read_stored(after)
    assert stored is not None
    rounded = stored.rounded(x)
    assert (rounded - x).abs().max() > 0
    with torch.no_grad():
        torch.testing.assert_close(after(inputs), given({**inputs, "x": rounded}), rtol=0, atol=0)
        torch.testing.assert_close(plain(inputs), given(inputs), rtol=0, atol=0)
    rows = stored.packed(rounded)
    np.testing.assert_array_equal(unpack(rows), rounded.numpy())
    assert rows.is_signed == negative
    assert after.clone().feature_bits == bits
    assert notes[0].startswith(f"features take {rows.nbytes:,} of {x.numel() * 4:,} bytes")


def test_rows_of_few_values_are_exact() -> None:
    """A row of 0 and 1 takes 2 bits where others are negative, else 1, and one of multiples is exact."""
    notes: list[str] = []
    for negative, bits in ((True, 2), (False, 1)):
        x = features(negative=negative)
        _, after = packed(PackFeatures(), x, notes)
        stored = read_stored(after)[1]
        assert stored is not None
        assert set(stored.bits[::4].tolist()) <= {1.0, float(bits)}
        torch.testing.assert_close(stored.rounded(x)[::4], x[::4])
        torch.testing.assert_close(stored.rounded(x)[1::4], x[1::4])
        assert f" of {bits} bits" in notes[-2]


def test_kept_rows() -> None:
    """Rows between stages are kept with 8 bits unless told; a Program says so, and so do its copies."""
    x = features()
    assert packed(PackFeatures(), x)[1].clone().store_bits == 8
    assert packed(PackFeatures(hidden=False), x)[1].store_bits == 32
    assert packed(PackFeatures(), x)[0].store_bits == 32


def test_stages_read_features_as_they_are_stored() -> None:
    """The quantiser is no part of any stage: the features come out of the store rounded."""
    _, after = packed(PackFeatures(), features())
    cut = cut_program(after)
    assert cut.stored is not None
    assert "quantize" not in str(cut.program.body.graph)
    assert cut_program(split("GCN batch norm")).stored is None


def test_widths_between_containers() -> None:
    """Rows of 3 or 5 bits, as training may leave them, are stored in the next container, unchanged."""
    x = features()
    program = split("GCN batch norm").clone()
    bits = torch.tensor([1.0, 2.2, 3.4, 5.0, 6.6, 8.0, 9.0, 0.2]).repeat(NODES // 8)
    round_features(program, Stored(torch.full((NODES,), 0.1), bits, signed=True))
    stored = read_stored(program)[1]
    assert stored is not None
    rows = stored.packed(stored.rounded(x))
    assert rows.bits[:8].tolist() == [1, 2, 4, 8, 8, 8, 8, 1]
    np.testing.assert_array_equal(unpack(rows), stored.rounded(x).numpy())


def test_one_step_for_all_is_no_table() -> None:
    """A quantiser with one step for all rows is a part of the model."""
    program = split("GCN batch norm").clone()
    round_features(program, Stored(torch.tensor([0.1]), torch.tensor([8.0]), signed=True))
    assert read_stored(program)[1] is None


def test_what_is_refused() -> None:
    """Other modes, no data, and features that are rounded already."""
    x, item, program = features(), PackFeatures(), split("GCN batch norm")
    (problem,) = item.check(program, PassContext(data=context(x).data, mode="full"))
    assert "mode 'full' stores no features" in problem.what
    (problem,) = item.check(program, PassContext(mode="batched"))
    assert problem.mend == "Give data with --data"
    (problem,) = item.check(packed(item, x)[1], context(x))
    assert problem.what == "the features are rounded already"
    for wrong in (0, 1, 3, 16):
        with pytest.raises(SpecError, match="bits must be one of 2, 4, 8"):
            build_passes([f"pack-features{{bits={wrong}}}"])


def test_passes_that_quantise_come_first() -> None:
    """Behind it they are refused, and say so rather than call the model quantised."""
    _, after = packed(PackFeatures(), features())
    for item in build_passes(["a2q", "quantize", "quantize{mode=dynamic}"]):
        (problem,) = item.check(after, context(features()))
        assert (problem.what, problem.mend) == ("the features are packed already", "Put pack-features behind this pass")
