"""The summary of the channel pruning benchmark."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.channel_pruning import Row, summary

ROW = Row(
    data="cora", model="GCN", layers=2, seed=0, before=0.8, after=0.79, drop_pp=1.0, macs_linear_before=100,
    macs_linear_after=50, macs_aggregation_before=10, macs_aggregation_after=10, speedup_against_exported=1.5,
    speedup_against_baseline=3.0, weights_bytes=1000,
)  # fmt: skip


def test_a_seed_without_latency_does_not_count() -> None:
    """The median is over the seeds that were timed."""
    unmeasured = replace(ROW, seed=1, speedup_against_exported=None)
    assert summary([ROW, unmeasured, replace(unmeasured, seed=2)]).endswith("1.50 times faster than unpruned")
    assert summary([unmeasured]).endswith("latency not measured")


def test_seeds_that_differ_in_work_are_a_mistake() -> None:
    """One ratio stands for all seeds only where it is the same."""
    with pytest.raises(AssertionError, match="seeds differ in work"):
        summary([ROW, replace(ROW, macs_linear_after=51)])
