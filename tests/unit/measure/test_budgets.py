import pytest

from gnnexport.errors import SpecError
from gnnexport.measure.budgets import (
    Budget,
    SpeedupBudget,
    default_budget,
    parse_budget,
    parse_bytes,
    parse_duration,
    parse_speedup,
)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("0.5pp", Budget(0.005, "pp")),
        ("2 %", Budget(0.02, "%")),
        ("0pp", Budget(0.0, "pp")),
        ("1PP", Budget(0.01, "pp")),
    ],
)
def test_drop_budgets(text, budget):
    """Shares are written in percentage points, errors in percent."""
    assert parse_budget(text) == budget


def test_budgets_round_trip():
    """A budget written as text reads as itself."""
    assert parse_budget(str(parse_budget("0.5pp"))) == Budget(0.005, "pp")
    assert str(parse_budget("0.5pp")) == "0.5pp"
    assert parse_speedup(str(parse_speedup("2.5x-exported"))) == SpeedupBudget(2.5, "exported")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.5", "no unit.*Write 0.5pp"),
        ("-1pp", "out of range"),
        ("lots", "not a budget"),
        ("1e999pp", "out of range"),
    ],
)
def test_wrong_drop_budgets(text, words):
    """A budget without unit, below zero or not a number says how to write it."""
    with pytest.raises(SpecError, match=words):
        parse_budget(text)


def test_unit_has_to_suit_the_metric():
    """Accuracy is not judged in relative percent."""
    with pytest.raises(SpecError, match=r"does not suit accuracy.*Write 2pp"):
        parse_budget("2%", "accuracy")


@pytest.mark.parametrize(
    ("text", "budget"),
    [("2", SpeedupBudget(2.0)), ("1.5x", SpeedupBudget(1.5)), ("2x-exported", SpeedupBudget(2.0, "exported"))],
)
def test_speedup_budgets(text, budget):
    """A speedup is against the original unless it says against the export."""
    assert parse_speedup(text) == budget


@pytest.mark.parametrize("text", ["0", "-2", "fast", "2x-torch"])
def test_wrong_speedup_budgets(text):
    """A speedup has to be a positive number."""
    with pytest.raises(SpecError, match="--min-speedup"):
        parse_speedup(text)


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("90s", 90), ("90", 90), ("1.5h", 5400), ("500ms", 0.5)])
def test_durations(text, seconds):
    """Durations take a unit; without one they are seconds."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["soon", "0s", "-1m", "10 weeks"])
def test_wrong_durations(text):
    """A duration has to be positive and of a known unit."""
    with pytest.raises(SpecError, match="--time-budget"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("64MB", 64_000_000), ("1GiB", 1 << 30), ("0", 0), ("12", 12), ("1.5k", 1500), ("2 KiB", 2048)]
)
def test_sizes(text, size):
    """Sizes take powers of 1000, or of 1024 with an i."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["big", "-1MB", "3 parsecs", "1e308TB"])
def test_wrong_sizes(text):
    """A size has to be zero or more and of a known unit."""
    with pytest.raises(SpecError, match="--embed-data"):
        parse_bytes(text)


def test_the_budget_nobody_set_suits_the_metric():
    """Shares may lose half a point, errors may grow by two in a hundred."""
    assert default_budget("hits@20") == "0.5pp"
    assert default_budget("rmse") == "2%"
    assert parse_budget(default_budget("mae"), "mae").value == pytest.approx(0.02)
