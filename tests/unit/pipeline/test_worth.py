from __future__ import annotations

import pytest

from gnnexport.measure.intervals import Interval
from gnnexport.passes.contract import Stage
from gnnexport.passes.sparsify_weights import SparsifyWeights
from gnnexport.pipeline.compression import worth
from gnnexport.pipeline.trials import ladders
from gnnexport.targets.contract import Target
from gnnexport.targets.onnx.target import OnnxTarget
from gnnexport.targets.ort import OrtTarget
from gnnexport.targets.trt.target import TrtTarget


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
    listed = ladders(Stage.COMPRESS, OrtTarget())
    turns = [settings[0].turn for settings in listed if settings]
    assert turns == sorted(turns)
    names = [settings[0].name for settings in listed if settings]
    assert names.index("prune-channels") < names.index("cast")


@pytest.mark.parametrize(
    ("target", "patterns"),
    [(TrtTarget(), ["2:4"]), (OrtTarget(), ["16x1", "unstructured", "16x1"])],
    ids=["trt", "ort"],
)
def test_zeros_are_tried_that_the_target_can_skip(target: Target, patterns: list[str]) -> None:
    """A GPU has sparse kernels for one pattern alone; the ladders of other passes are the same everywhere."""
    listed = ladders(Stage.COMPRESS, target)
    weights = [item for settings in listed for item in settings if isinstance(item, SparsifyWeights)]
    assert [item.pattern for item in weights] == patterns
    others = [[item for item in settings if not isinstance(item, SparsifyWeights)] for settings in listed]
    assert [settings for settings in others if settings] == [
        settings
        for settings in ladders(Stage.COMPRESS, OnnxTarget())
        if settings and not isinstance(settings[0], SparsifyWeights)
    ]
