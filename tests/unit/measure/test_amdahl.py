"""What a pass can gain at most."""

from __future__ import annotations

import math

import pytest

from gnnexport.measure.amdahl import Shares, at_most, prediction

SHARES = Shares(linear=0.2, aggregation=0.7, other=0.1, latency_ms=3.14159, engine="onnxruntime")


@pytest.mark.parametrize(
    ("share", "left", "times"),
    [(0.5, 0.5, 4 / 3), (0.9, 0.1, 1 / 0.19), (0.0, 0.0, 1.0), (1.0, 0.25, 4.0), (0.3, 1.0, 1.0), (1.0, 0.0, math.inf)],
)
def test_what_stays_takes_as_long_as_before(share: float, left: float, times: float) -> None:
    """Only the share shrinks, so that what is left bounds the gain."""
    assert at_most(share, left) == pytest.approx(times)


@pytest.mark.parametrize(("share", "left"), [(-0.1, 0.5), (0.5, 1.1), (math.nan, 0.5)])
def test_shares_are_shares(share: float, left: float) -> None:
    """Anything else is told."""
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        at_most(share, left)


def test_a_pass_that_will_hardly_pay_is_told() -> None:
    """Of a fifth of the time, half the work gives at most 1.11 times, and three quarters less than a tenth."""
    assert prediction(SHARES, {"linear": 0.5}) == (
        "can be at most 1.11 times faster: linear layers take 20 % of 3.14 ms on onnxruntime, and 50 % of that work is "
        "left"
    )
    assert prediction(SHARES, {"linear": 0.75}).endswith(
        "75 % of that work is left; below 1.1 times it will hardly pay in time"
    )
    assert prediction(SHARES, {"aggregation": 0.0}).startswith(
        "can be at most 3.33 times faster: aggregation takes 70 %"
    )


def test_two_kinds_of_work_shrink_at_once() -> None:
    """Half of seven tenths and a tenth of two tenths are left beside what neither is: 1 / (0.35 + 0.02 + 0.1)."""
    assert prediction(SHARES, {"aggregation": 0.5, "linear": 0.1}) == (
        "can be at most 2.13 times faster: aggregation takes 70 % of 3.14 ms on onnxruntime, and 50 % of that work is "
        "left; linear layers take 20 %, and 10 % of that work is left"
    )


def test_nothing_left_of_everything_has_no_bound() -> None:
    """A model that does nothing else has no largest factor."""
    alone = Shares(linear=1.0, aggregation=0.0, other=0.0, latency_ms=1.0, engine="openvino")
    assert "without bound" in prediction(alone, {"linear": 0.0})


def test_shares_are_written_for_people() -> None:
    """Operators that do both at once are told."""
    assert str(SHARES) == "of 3.14 ms on onnxruntime: linear layers 20 %, aggregation 70 %, other 10 %"
    both = Shares(linear=0.4, aggregation=0.5, other=0.1, latency_ms=2.0, engine="openvino", divided=0.8)
    assert str(both).endswith("; 80 % do both at once, divided as they run apart")
