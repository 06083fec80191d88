"""What passes foretell by measuring on a target."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from gnnexport.measure.amdahl import ProductShape
from gnnexport.measure.sparse_speed import Setting, Timed
from gnnexport.pipeline.shares import PRODUCTS_S, SETTING_S, Known, speeds_on

SHAPE = ProductShape(10, 20, 30)
SETTING = Setting("unstructured", 0.9)


def emitter(time: Any) -> Any:
    """Return as much of an emitter as times products."""
    return SimpleNamespace(time_products=time)


def test_timing_ends() -> None:
    """Settings have their seconds each, all together theirs, and then nothing is timed any more."""
    given: list[float] = []

    def time(products: list[ProductShape], setting: Setting, budget_s: float) -> list[Timed]:
        given.append(budget_s)
        return [Timed(SHAPE, 1.0, 1.0)]

    clock: Iterator[float] = iter([0.0, 0.0, PRODUCTS_S - 0.5, PRODUCTS_S + 1])
    speeds = speeds_on(emitter(time), lambda line: None, {}, lambda: next(clock))
    found = [bool(speeds([SHAPE], Setting("unstructured", share))) for share in (0.9, 0.95, 0.98)]
    assert found == [True, True, False]
    assert given == [SETTING_S, pytest.approx(0.5)]


def test_nothing_is_timed_twice() -> None:
    """A setting that one pass timed is known to the next, also when its time is up."""
    given: list[Setting] = []

    def time(products: list[ProductShape], setting: Setting, budget_s: float) -> list[Timed]:
        given.append(setting)
        return [Timed(SHAPE, 1.0, 1.0)]

    known: Known = {}
    clock: Iterator[float] = iter([0.0, 1.0, 0.0, PRODUCTS_S + 1])
    found = [speeds_on(emitter(time), print, known, lambda: next(clock))([SHAPE], SETTING) for _ in range(2)]
    assert found[0] == found[1]
    assert given == [SETTING]


def test_an_engine_that_fails_says_why() -> None:
    """A recommendation is not worth failing for."""

    def time(*_: object) -> list[Timed]:
        raise RuntimeError("no such operator\nmore about it")

    lines: list[str] = []
    assert speeds_on(emitter(time), lines.append, {})([SHAPE], SETTING) == ()
    assert lines == ["what zeros do to products is not known: no such operator"]
