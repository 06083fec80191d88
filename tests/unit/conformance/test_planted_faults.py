from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from gnnexport import api
from gnnexport.bundle.manifest import Tensor
from gnnexport.errors import ParityError
from gnnexport.pipeline import divergence
from gnnexport.pipeline.divergence import blame
from gnnexport.program.graphs import output_node
from gnnexport.program.program import Program
from gnnexport.runtime import request
from gnnexport.runtime.runner import load
from gnnexport.targets.onnx import lower
from gnnexport.targets.onnx.operators import Operator
from gnnexport.targets.onnx.pieces import Pieces
from gnnexport.targets.onnx.tape import Tape, sizes
from gnnexport.validate.bundle import check_conformance
from gnnexport.validate.conformance import run_kit
from tests.road import write_road
from tests.unit.conformance import planted
from tests.unit.conformance.planted import Plant, Workshop

EVERY_LAW = {"node-permutation", "edge-order", "graphs-alone", "int32-indices"}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The model, captured once."""
    return Workshop(tmp_path_factory.mktemp("model"))


def test_nothing_planted_nothing_found(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A right lowering passes every case and every law, and no law is left out: the model obeys them all."""
    with workshop.bundle(tmp_path, monkeypatch, planted.nothing) as (bundle, _), load(bundle) as runner:
        found = run_kit(bundle, runner)
    assert found.failures == ()
    assert {result.law for result in found.laws} == EVERY_LAW
    assert all(result.requests > 0 and result.exempt is None for result in found.laws)
    assert not workshop.notes


@pytest.mark.parametrize(
    ("plant", "case", "module"),
    [
        (planted.max_from_zero, "isolated nodes", "largest"),
        (planted.lost_duplicate, "duplicate edges", "looped"),
        (planted.swapped, "one-way edges", "looped"),
        (planted.loop_twice, "self-loops on some nodes", "looped"),
        (planted.wrong_count, "components", "averaged"),
        (planted.batch_offset, "mixed graphs", "last"),
        (planted.overflow, "many nodes", "looped"),
    ],
)
def test_planted_faults(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Plant, case: str, module: str
) -> None:
    """Each fault is found on the graph made for it, and the module that it first shows in is named."""
    with workshop.bundle(tmp_path, monkeypatch, plant) as (bundle, emission):
        with load(bundle) as runner:
            found = run_kit(bundle, runner)
        assert case in {failure.case for failure in found.failures if failure.law is None}
        blamed = blame(workshop.emitter, emission, bundle, found.failures)
    assert f"outputs first diverge in {module}" in blamed, blamed
    assert case in str(found.error("artefact"))


def test_files_that_were_changed_afterwards(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where lowering once more gives the right numbers, no module is blamed."""
    with workshop.bundle(tmp_path, monkeypatch, planted.swapped) as (bundle, emission):
        with load(bundle) as runner:
            found = run_kit(bundle, runner)
        monkeypatch.undo()
        assert "the files were changed" in blame(workshop.emitter, emission, bundle, found.failures)


def test_a_law_alone_finds_what_no_case_asks(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the answers of the faulty artefact in place of the right ones, a broken law still tells; exit code 5."""
    with workshop.bundle(tmp_path, monkeypatch, planted.batch_offset) as (bundle, _), load(bundle) as runner:
        learned = [replace(case, expected=runner(case.feeds()), rows=None) for case in bundle.golden()]
    monkeypatch.setattr(workshop, "cases", learned)
    with (
        workshop.bundle(tmp_path, monkeypatch, planted.nothing) as (bundle, _),
        load(bundle) as runner,
        pytest.raises(ParityError, match=r"laws that the model obeys .* are broken: .*graphs-alone on") as caught,
    ):
        check_conformance(bundle, runner, [])
    assert caught.value.exit_code == 5
    assert "golden cases differ" not in str(caught.value)


def test_indices_that_a_runner_widens_wrongly(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The law about indices of 32 bits is one about the runner, and finds out one that loses bits of them."""
    right = request._widened

    def wrong(value: np.ndarray, tensor: Tensor) -> np.ndarray:
        return right(value & 15 if value.dtype == np.int32 else value, tensor)

    monkeypatch.setattr(request, "_widened", wrong)
    with workshop.bundle(tmp_path, monkeypatch, planted.nothing) as (bundle, _), load(bundle) as runner:
        found = run_kit(bundle, runner)
    assert [failure.law for failure in found.failures] == ["int32-indices"]


def test_indices_that_a_runner_does_not_widen(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner that refuses indices of 32 bits breaks the law about them: exit code 5, with what it said."""
    monkeypatch.setattr(request, "_widened", lambda value, tensor: value)
    with workshop.bundle(tmp_path, monkeypatch, planted.nothing) as (bundle, _), load(bundle) as runner:
        found = run_kit(bundle, runner)
    assert [(failure.law, failure.gave_up) for failure in found.failures] == [("int32-indices", None)]
    error = found.error("artefact")
    assert error.exit_code == 5
    assert "int32-indices on 'mixed graphs' as" in str(error)
    assert "has dtype int32 (indices of 32 bits give the same answers)" in str(error)


def test_a_law_that_the_program_breaks(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what was captured breaks a law by itself, neither a module's lowering nor anybody's hand is blamed."""

    def by_number(program: Program) -> Program:
        program = program.clone()
        last = output_node(program.body.graph)
        (result,) = last.args
        with program.body.graph.inserting_before(last):
            count = program.body.graph.call_function(torch.ops.aten.sym_size.int, (result, 0))
            last.args = (program.body.graph.call_function(torch.ops.aten.mul.Tensor, (result, count)),)
        program.body.recompile()
        return program

    monkeypatch.setattr(workshop, "final", by_number(workshop.final))
    monkeypatch.setattr(workshop, "_translated", {})
    with workshop.bundle(tmp_path, monkeypatch, planted.nothing) as (bundle, emission):
        with load(bundle) as runner:
            failures = [failure for failure in run_kit(bundle, runner).failures if failure.law is not None]
        assert {failure.law for failure in failures} == {"graphs-alone"}
        blamed = blame(workshop.emitter, emission, bundle, failures)
        assert "what was captured breaks the law by" in blamed
        assert "files were changed" not in blamed
        monkeypatch.setattr(divergence, "error_of_model", lambda source, case, changes: 0.5)
        assert "the model itself breaks the law by 0.5" in blame(workshop.emitter, emission, bundle, failures)


def test_export_names_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lowering for one fixed graph that is wrong stops the export, names case and module, and leaves no bundle."""
    right = lower.lower_ell

    def wrong(op: Operator, pieces: Pieces, tape: Tape, block_bytes: int) -> ir.Value:
        rows = right(op, pieces, tape, block_bytes)
        return tape.like("Mul", [rows, np.array(1.01, np.float32)], sizes(rows))

    monkeypatch.setattr(lower, "lower_ell", wrong)
    model = write_road(tmp_path / "road")
    with pytest.raises(ParityError, match=r"'real' by .*outputs first diverge in convs\.0") as caught:
        api.export(model, target="ort{aggregate=ell}", output=tmp_path / "bundle", time_budget="1s")
    assert caught.value.exit_code == 5
    assert not (tmp_path / "bundle").exists()
