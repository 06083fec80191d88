import pytest

from gnnexport.measure.timing import compare, ratio


class Machine:
    """A clock that moves only when something runs or rests."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def takes(self, name: str, *seconds: float):
        """Make a contender whose runs take these seconds in turn."""
        runs = iter(seconds[:-1])

        def run() -> None:
            self.now += next(runs, seconds[-1])
            self.log.append(name)

        return run

    def compare(self, contenders, **options):
        """Compare on this clock."""
        return compare(contenders, clock=lambda: self.now, sleep=self.rest, **options)

    def rest(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.log.append("rest")


def test_blocks_alternate_with_rests():
    """Blocks of ten alternate, rest before each, and every other round is reversed."""
    machine = Machine()
    machine.compare({"a": machine.takes("a", 0.01), "b": machine.takes("b", 0.02)}, budget_s=1.4, min_blocks=2)
    rounds = machine.log[4:]
    assert rounds[:22] == ["rest", *"a" * 10, "rest", *"b" * 10]
    assert rounds[22:44] == ["rest", *"b" * 10, "rest", *"a" * 10]


def test_first_runs_of_a_block_are_dropped():
    """What the first two runs of a block took is not counted."""
    machine = Machine()
    timing = machine.compare({"a": machine.takes("a", 0.01, 0.01, 9, 9, 0.01)}, budget_s=1, min_blocks=1)["a"]
    assert timing.p99_ms == pytest.approx(10)
    assert timing.runs % 8 == 0


def test_slow_contenders_get_short_blocks():
    """A contender of half a second runs three times a block, one of them dropped, at least three blocks."""
    machine = Machine()
    timing = machine.compare({"slow": machine.takes("s", 0.5), "fast": machine.takes("f", 0.001)}, budget_s=5)
    assert timing["slow"].runs == 2 * len(timing["slow"].block_medians_ms)
    assert len(timing["slow"].block_medians_ms) >= 3
    assert timing["fast"].runs == 8 * len(timing["fast"].block_medians_ms)


def test_very_slow_contenders_run_once_a_block():
    """A run of many seconds is its own warm-up."""
    machine = Machine()
    timing = machine.compare({"slow": machine.takes("s", 20.0)}, budget_s=10)["slow"]
    assert timing.runs == 3
    assert machine.now < 85


def test_budget_bounds_the_rounds():
    """Rounds stop before the budget is exceeded."""
    machine = Machine()
    timing = machine.compare({"a": machine.takes("a", 0.01)}, budget_s=10)["a"]
    assert 9 < machine.now <= 10
    assert timing.runs > 400


def test_ratio_of_medians():
    """The ratio tells how many times faster the second is."""
    machine = Machine()
    timing = machine.compare({"a": machine.takes("a", 0.04), "b": machine.takes("b", 0.01)}, budget_s=2)
    interval = ratio(timing["a"], timing["b"])
    assert interval.value == pytest.approx(4)
    assert interval.low == pytest.approx(4)


def test_no_contenders():
    """Nothing to time takes no time."""
    assert compare({}) == {}
