from __future__ import annotations

from pathlib import Path

import pytest

from gnnexport.pipeline.divergence import blame
from gnnexport.runtime.runner import load
from gnnexport.validate.conformance import run_kit
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
    assert case in str(found.problems("artefact")[0])
