from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from gnnexport import api
from gnnexport.bundle.report_schema import Report, Step
from gnnexport.errors import Problem, UnsupportedError
from gnnexport.measure.intervals import Interval
from gnnexport.passes.contract import Pass, PassContext, Stage
from gnnexport.pipeline import measured
from gnnexport.pipeline import run as pipeline
from gnnexport.pipeline.measured import Measured, verdict
from gnnexport.pipeline.steps import Stepped
from gnnexport.program.program import Program
from tests.road import write_road
from tests.small_models import split

FASTER = Interval(1.5, 1.4, 1.6, "a trial")
ALIKE = Interval(1.01, 0.98, 1.04, "a trial")


@dataclass(frozen=True)
class Moves(Pass):
    """Return another Program, or the one given."""

    name: ClassVar[str] = "moves"
    stage: ClassVar[Stage] = Stage.FINALISE
    measured: ClassVar[bool] = True
    what: str = "something"

    def check(self, program: Program, ctx: PassContext) -> list[Problem]:
        """Refuse to move everything."""
        return [Problem(self.name, "cannot move everything", "Move less")] if self.what == "everything" else []

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Do as the class says."""
        ctx.note(f"moves {self.what}")
        return program if self.what == "nothing" else program.clone()


@dataclass
class Bench:
    """What a trial is done with, and what was written for it."""

    monkeypatch: pytest.MonkeyPatch
    written: list[Program]

    def times(
        self, *results: Interval | str, deadline: float = math.inf, decisions: dict[str, Any] | None = None
    ) -> Measured:
        """Return what measures with these results, one after the other."""
        left = list(results)
        self.monkeypatch.setattr(measured, "speedup", lambda *_: left.pop(0))
        emitter: Any = SimpleNamespace(decisions=decisions)
        return Measured(emitter, PassContext(), deadline, lambda line: None)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Write nothing."""
    written: list[Program] = []

    @contextmanager
    def scratch(_: object, program: Program) -> Iterator[Program]:
        written.append(program)
        yield program

    monkeypatch.setattr(measured, "scratch_form", scratch)
    return Bench(monkeypatch, written)


def outcomes(found: Stepped) -> list[tuple[bool, str]]:
    """Return of each step whether it was kept, and its last note."""
    return [(step.kept, step.notes[-1]) for step in found.steps]


@pytest.mark.parametrize(
    ("found", "kept", "reason"),
    [
        (FASTER, True, "kept: faster (1.50 times, 1.40-1.60)"),
        (ALIKE, False, "dropped: not measurably faster (1.01 times, 0.98-1.04)"),
        (Interval(0.9, 0.8, 0.95, "a trial"), False, "dropped: not measurably faster (0.90 times, 0.80-0.95)"),
        (
            Interval(2.0, None, None, "a trial"),
            False,
            "dropped: too few runs to tell whether it is faster (2.00 times)",
        ),
        ("no GPU", False, "dropped: latency not measured: no GPU"),
    ],
)
def test_only_what_is_surely_faster_is_kept(found: Interval | str, kept: bool, reason: str) -> None:
    """The lower end of the interval has to be above one."""
    assert verdict(found) == (kept, reason)


def test_a_named_pass_is_kept_when_faster(bench: Bench) -> None:
    """Old and new form are written, and the new Program goes on."""
    start = Stepped(split("GCN"))
    found = bench.times(FASTER).named(start, [Moves()])
    assert outcomes(found) == [(True, "kept: faster (1.50 times, 1.40-1.60)")]
    assert bench.written == [start.program, found.program]
    assert found.program is not start.program


def test_a_named_pass_is_dropped_when_not(bench: Bench) -> None:
    """The Program from before goes on, and the note of the pass stays."""
    start = Stepped(split("GCN"))
    found = bench.times(ALIKE).named(start, [Moves()])
    assert found.program is start.program
    assert found.steps[0].notes == ("moves something", "dropped: not measurably faster (1.01 times, 0.98-1.04)")


def test_what_gains_nothing_is_not_measured(bench: Bench) -> None:
    """A pass that returns the Program it was given costs no trial."""
    found = bench.times().named(Stepped(split("GCN")), [Moves("nothing")])
    assert outcomes(found) == [(False, "moves nothing")]
    assert bench.written == []


def test_settings_are_tried_until_one_pays(bench: Bench) -> None:
    """The form from before is written once for all of them; what is refused says why."""
    start = Stepped(split("GCN"))
    settings = [Moves("everything"), Moves("a little"), Moves("much"), Moves("more")]
    found = bench.times(ALIKE, FASTER).first_faster(start, settings)
    assert [step.name for step in found.steps] == ["moves{what=everything}", "moves{what=a little}", "moves{what=much}"]
    assert [step.kept for step in found.steps] == [False, False, True]
    assert "cannot move everything" in found.steps[0].notes[0]
    assert len(bench.written) == 3
    assert bench.written[0] is start.program


def test_a_named_pass_that_refuses_is_an_error(bench: Bench) -> None:
    """What the user asked for and cannot have is not passed over."""
    with pytest.raises(UnsupportedError, match="cannot move everything"):
        bench.times().named(Stepped(split("GCN")), [Moves("everything")])


@pytest.mark.parametrize(
    ("passes", "kept"), [(["moves{what=something}"], True), (["moves{what=much}"], False), ([], False)]
)
def test_decisions_are_replayed(bench: Bench, passes: list[str], kept: bool) -> None:
    """With the decisions of an earlier run nothing is timed: what it kept is kept."""
    start = Stepped(split("GCN"))
    found = bench.times(decisions={"passes": passes}).named(start, [Moves()])
    assert [step.kept for step in found.steps] == [kept]
    assert (found.program is start.program) is not kept
    assert bench.written == []


def test_nothing_is_tried_once_the_time_is_spent(bench: Bench) -> None:
    """Past the deadline the first setting is said to be skipped."""
    late = bench.times(deadline=time.perf_counter() - 1)
    found = late.first_faster(Stepped(split("GCN")), [Moves("a little"), Moves("much")])
    assert outcomes(found) == [(False, "not tried: the time budget is spent")]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose lowerings briefly: a budget might be spent on a busy machine before anything is tried."""
    monkeypatch.setattr(pipeline, "LOWERING_S", 1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small trained model with its data and sidecar beside it."""
    return write_road(tmp_path_factory.mktemp("measured"))


def compress(model: Path, passes: str, **options: Any) -> Report:
    """Compress, and return the report."""
    shutil.rmtree(model.with_suffix(".bundle"), ignore_errors=True)
    outcome = api.compress(model, passes=passes, **options)
    assert outcome.exit_code == 0
    return outcome.report


def reordered(report: Report) -> list[Step]:
    """Return the steps of reorder-nodes."""
    return [step for step in report.steps if step.name.startswith("reorder-nodes")]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("target", ["ort", "ort{portable=true}"])
def test_a_kept_order_ships(model: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle names the pass, and its answers are still those of the model, with rows in the order of the graph."""
    monkeypatch.setattr(measured, "speedup", lambda *_: FASTER)
    report = compress(model, "reorder-nodes{cache_kib=0}", target=target)
    (step,) = reordered(report)
    assert step.kept
    assert report.parity is not None
    assert report.parity.max_rel_error < 1e-5
    manifest = json.loads((model.with_suffix(".bundle") / "manifest.json").read_text())
    assert [item["spec"] for item in manifest["passes"]] == ["reorder-nodes{order=rcm,cache_kib=0}"]
    assert api.validate(model.with_suffix(".bundle"), time_budget="1s").exit_code == 0


@pytest.mark.usefixtures("hasty")
def test_a_dropped_order_does_not_ship(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not faster leaves the export as it is, also after passes that are kept and named behind it."""
    monkeypatch.setattr(measured, "speedup", lambda *_: ALIKE)
    report = compress(model, "reorder-nodes{cache_kib=0}; prune-channels{keep=0.5,retrain=false}")
    names = [step.name.partition("{")[0] for step in report.steps if not step.kept or step.metric is not None]
    assert names == ["prune-channels", "reorder-nodes"]
    manifest = json.loads((model.with_suffix(".bundle") / "manifest.json").read_text())
    assert [item["spec"].partition("{")[0] for item in manifest["passes"]] == ["prune-channels"]


@pytest.mark.usefixtures("hasty")
def test_auto_tries_it_without_labels(tmp_path: Path) -> None:
    """Nothing is lost in accuracy, so no labels are needed; a graph of sixty nodes is not worth a trial."""
    model = write_road(tmp_path, lambda arrays: {"x": arrays["x"], "edge_index": arrays["edge_index"]})
    text = (tmp_path / "gnnexport.toml").read_text()
    (tmp_path / "gnnexport.toml").write_text(text.replace('max_drop = "100pp"', ""))
    steps = reordered(compress(model, "auto"))
    assert [step.kept for step in steps] == [False, False]
    assert all(step.notes[-1].startswith("not tried: rows are gathered from ") for step in steps)
