"""Which zeros are recommended, by what products take with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from gnnexport.measure.amdahl import ProductShape, Shares
from gnnexport.measure.sparse_speed import Setting, Speeds, Timed, gain, recommend

WIDE, NARROW = ProductShape(2708, 1433, 64), ProductShape(2708, 64, 7)
SHARES = Shares(0.5, 0.4, 0.1, 3.0, "onnxruntime", products=(WIDE, NARROW))
ASKED = Setting("unstructured", 0.9)


def as_fast(speeds: dict[str, float], asked: list[str] | None = None) -> Speeds:
    """Return what times the wide product alone, so many times as fast by setting; any other takes twice as long."""

    def time(products: Sequence[ProductShape], setting: Setting) -> list[Timed]:
        assert tuple(products) == SHARES.products
        if asked is not None:
            asked.append(str(setting))
        return [Timed(WIDE, 4.0, speeds.get(str(setting), 0.5))]

    return time


def test_only_what_was_timed_shrinks() -> None:
    """The rest of the linear layers, by multiply-accumulates, and all else take as long as before."""
    wide = WIDE.macs / (WIDE.macs + NARROW.macs)
    assert gain(SHARES, [Timed(WIDE, 4.0, 2.0)]) == pytest.approx(1 / (1 - 0.5 * wide / 2))
    both = [Timed(WIDE, 3.0, 3.0), Timed(NARROW, 1.0, 2.0)]
    assert gain(SHARES, both) == pytest.approx(1 / (0.5 + 0.5 * (3 / 3 + 1 / 2) / 4))
    assert gain(SHARES, [Timed(WIDE, 4.0, 0.5)]) == pytest.approx(1)  # such a product stays dense


def test_products_count_as_often_as_they_are_there() -> None:
    """Three hidden layers of one shape weigh three times one."""
    hidden = ProductShape(100, 64, 64, count=3)
    shares = replace(SHARES, products=(hidden, NARROW))
    found = gain(shares, [Timed(hidden, 1.0, 2.0), Timed(NARROW, 1.0, 1.0)])
    assert found == pytest.approx(1 / (0.5 + 0.5 * (3 / 2 + 1) / 4))
    assert str(hidden) == "3 × 100×64→64"


def test_what_pays_as_asked_is_not_looked_beyond() -> None:
    """The mildest setting that pays is recommended, and nothing after it is timed."""
    asked: list[str] = []
    told = recommend(SHARES, ASKED, as_fast({"sparsity=0.9": 2.0}, asked))
    assert asked == ["sparsity=0.9"]
    assert told == [
        "products timed here with zeros at random, times as fast as with all numbers: sparsity=0.9: 2708×1433→64 2.00, "
        "the model 1.33",
        "recommendation: as asked, which makes the model about 1.33 times faster",
    ]


@pytest.mark.parametrize(
    ("fast", "recommended"),
    [
        ("sparsity=0.9,pattern=16x1", "sparsify-weights{sparsity=0.9,pattern=16x1}"),
        ("sparsity=0.95", "sparsify-weights{sparsity=0.95}"),
        ("sparsity=0.98,pattern=16x1", "sparsify-weights{sparsity=0.98,pattern=16x1}"),
    ],
)
def test_the_mildest_that_pays_is_recommended(fast: str, recommended: str) -> None:
    """Blocks of the same share come before more zeros."""
    lines = recommend(SHARES, ASKED, as_fast({fast: 3.0}))
    assert lines[1].startswith(f"recommendation: {recommended}, which makes the model about 1.5")
    assert f"; {fast}: 2708×1433→64 3.00, the model 1.5" in lines[0]


def test_where_none_pays_channels_are_recommended() -> None:
    """The best of what was timed is told."""
    lines = recommend(SHARES, ASKED, as_fast({"sparsity=0.98": 1.1}))
    assert lines[1].startswith("recommendation: prune-channels for speed: these zeros make the model 1.05 times faster")
    assert lines[0].count("; ") == 5


def test_nothing_is_timed_in_vain() -> None:
    """Where linear layers take hardly any time, or nothing that runs them skips zeros."""
    asked: list[str] = []
    little = replace(SHARES, linear=0.05, aggregation=0.85)
    assert "without any linear layer the model would be 1.05 times faster" in recommend(
        little, ASKED, as_fast({}, asked)
    )[0]  # fmt: skip
    (line,) = recommend(replace(SHARES, products=()), ASKED, as_fast({}, asked))
    assert line.startswith("recommendation: prune-channels: nothing that runs this model here skips zeros")
    assert not asked


def test_when_time_is_up_what_was_timed_counts() -> None:
    """And without a single timing there is nothing to say."""
    assert recommend(SHARES, ASKED, lambda products, setting: ()) == []
    left = iter([[Timed(WIDE, 1.0, 1.0)], ()])
    lines = recommend(SHARES, ASKED, lambda products, setting: next(left))
    assert lines[0].endswith("sparsity=0.9: 2708×1433→64 1.00, the model 1.00")


@pytest.mark.parametrize(
    ("asked", "tried"),
    [
        (Setting("2:4", 0.5), "sparsity=0.5,pattern=16x1 sparsity=0.75 sparsity=0.75,pattern=16x1 sparsity=0.9 "
                              "sparsity=0.9,pattern=16x1"),
        (Setting("16x1", 0.95), "sparsity=0.98,pattern=16x1"),
        (Setting("8x4", 0.95), "sparsity=0.95,pattern=16x1 sparsity=0.98,pattern=8x4 sparsity=0.98,pattern=16x1"),
        (Setting("unstructured", 0.99), "sparsity=0.99,pattern=16x1"),
    ],
)  # fmt: skip
def test_what_is_tried_beyond_is_stronger(asked: Setting, tried: str) -> None:
    """Blocks, then more zeros in two steps, each anywhere and in blocks."""
    assert [str(item) for item in asked.stronger()] == tried.split()
    assert str(Setting("2:4", 0.5)) == "pattern=2:4"
