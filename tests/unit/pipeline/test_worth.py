from __future__ import annotations

import pytest

from gnnexport.measure.intervals import Interval
from gnnexport.passes.contract import Stage
from gnnexport.pipeline.compression import worth
from gnnexport.pipeline.trials import ladders


def times(low: float | None, value: float, high: float | None) -> Interval:
    """Say how many times faster a setting is."""
    return Interval(value, low, high, "test")


@pytest.mark.parametrize(
    ("faster", "new_bytes", "kept", "reason"),
    [
        (times(1.5, 2.0, 2.5), 900, True, "kept: 2.00 times faster"),
        (times(1.5, 2.0, 2.5), 1000, True, "kept: 2.00 times faster"),
        (times(0.9, 1.0, 1.1), 900, True, "kept: not measurably faster, but smaller: 1000 to 900 bytes"),
        (times(None, 0.8, None), 900, True, "kept: not measurably faster, but smaller: 1000 to 900 bytes"),
        (times(1.5, 2.0, 2.5), 1001, False, "dropped: larger (2.00 times, 1000 to 1001 bytes)"),
        (times(0.7, 0.8, 0.9), 900, False, "dropped: measurably slower (0.80 times, 1000 to 900 bytes)"),
        (times(0.7, 0.8, 0.9), 1100, False, "dropped: measurably slower (0.80 times, 1000 to 1100 bytes)"),
        (times(0.9, 1.0, 1.1), 1000, False, "dropped: neither measurably faster nor smaller (1.00 times, 1000 to 1000"),
        ("no engine", 900, True, "kept: smaller: 1000 to 900 bytes; judged by size only"),
        ("no engine", 1000, False, "dropped: not smaller: 1000 to 1000 bytes; judged by size only"),
    ],
)
def test_slower_or_larger_is_never_recommended(faster: Interval | str, new_bytes: int, kept: bool, reason: str) -> None:
    """A setting is kept where it is faster or smaller and neither got worse; the report says why not."""
    found, said = worth(faster, 1000, new_bytes)
    assert found == kept
    assert said.startswith(reason)


def test_passes_are_tried_in_their_turn() -> None:
    """Smaller models first, narrower numbers last, whatever the passes are called."""
    turns = [settings[0].turn for settings in ladders(Stage.COMPRESS) if settings]
    assert turns == sorted(turns)
    names = [settings[0].name for settings in ladders(Stage.COMPRESS) if settings]
    assert names.index("prune-channels") < names.index("cast")
