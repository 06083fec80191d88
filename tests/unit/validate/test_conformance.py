from pathlib import Path

import numpy as np
import pytest

from gnnexport.bundle.golden import GoldenCase, LawCheck, Laws
from gnnexport.bundle.manifest import Tensor
from gnnexport.bundle.report_schema import LawResult
from gnnexport.conformance.laws import Derived
from gnnexport.errors import ParityError, UnsupportedError, UsageError
from gnnexport.report.markdown import to_markdown
from gnnexport.runtime.ort import OrtBackend
from gnnexport.validate.bundle import validate_bundle
from gnnexport.validate.conformance import law_error
from tests.unit.tiny_bundle import CHANNELS, NODES, WEIGHT, X, write_tiny_bundle

SHORT_S = 0.01
INPUTS = (Tensor(name="x", dtype="float32", shape=(NODES, CHANNELS), role="node_features"),)
OPEN = (Tensor(name="x", dtype="float32", shape=("num_nodes", CHANNELS), role="node_features"),)


def write(path: Path, still: list[int], law: str = "row-locality", case: str = "noise") -> Path:
    """Write a bundle that says which rows stay when node 0 changes."""
    check = LawCheck(law, case, node=0, still=np.array(still))
    laws = Laws((check,), {"edge-order": "it sorts"}, {"graphs-alone": "golden case 'mixed graphs' was left out"})
    return write_tiny_bundle(path, laws=laws, inputs=INPUTS)


def test_laws_stand_in_the_report(tmp_path: Path) -> None:
    """What was checked is counted; what the model breaks itself, and what could not be checked, is told."""
    report = validate_bundle(write(tmp_path / "m", [1, 2, 4]), time_budget_s=SHORT_S).report
    exempt, unchecked, checked = report.laws
    assert (checked.law, checked.requests, checked.max_rel_error, checked.exempt) == ("row-locality", 1, 0.0, None)
    assert (exempt.law, exempt.requests, exempt.max_rel_error, exempt.exempt) == ("edge-order", 0, None, "it sorts")
    assert (unchecked.law, unchecked.requests, unchecked.exempt) == ("graphs-alone", 0, None)
    text = to_markdown(report)
    assert "| graphs-alone | not checked |  | golden case 'mixed graphs' was left out |" in text
    assert "| row-locality | 1 | 0 |" in text
    assert "| edge-order | not demanded |  | the model itself does not obey it: it sorts |" in text


def test_a_broken_law_is_no_pass(tmp_path: Path) -> None:
    """A row that had to stay and does not is named with its law and its case; the golden cases are right."""
    with pytest.raises(
        ParityError, match=r"row-locality on 'noise' by .*\(features of a node reach no further"
    ) as caught:
        validate_bundle(write(tmp_path / "m", [0, 1]), time_budget_s=SHORT_S)
    assert caught.value.exit_code == 5
    assert "golden cases" not in str(caught.value)


@pytest.mark.parametrize(
    ("law", "case", "words"),
    [("gravity", "noise", "the law 'gravity', which this version"), ("row-locality", "gone", "the golden case 'gone'")],
)
def test_laws_that_cannot_be_checked(tmp_path: Path, law: str, case: str, words: str) -> None:
    """A law of a later version, or about a case that is not there, is refused: left out it would look passed."""
    with pytest.raises(UsageError, match=words):
        validate_bundle(write(tmp_path / "m", [1], law, case), time_budget_s=SHORT_S)


@pytest.mark.parametrize(
    "check",
    [
        LawCheck("row-locality", "noise", still=np.array([1])),
        LawCheck("row-locality", "noise", node=0),
        LawCheck("row-locality", "noise", node=NODES, still=np.array([1])),
        LawCheck("row-locality", "noise", node=-NODES - 1, still=np.array([1])),
        LawCheck("row-locality", "noise", node=0, still=np.array([1]), features="gone"),
        LawCheck("graphs-alone", "noise"),
        LawCheck("edge-order", "noise"),
    ],
    ids=str,
)
def test_laws_that_do_not_fit_their_case(tmp_path: Path, check: LawCheck) -> None:
    """A law that finds nothing to change in the case it names is refused: left out it would look passed."""
    path = write_tiny_bundle(tmp_path / "m", laws=Laws((check,)), inputs=INPUTS)
    with pytest.raises(UsageError, match=f"asks for {check.law} on the golden case 'noise', which it does not fit"):
        validate_bundle(path, time_budget_s=SHORT_S)


def test_graphs_of_other_sizes_than_the_case(tmp_path: Path) -> None:
    """Sizes of graphs that a case does not have are bad input, not a bug."""
    cases = [GoldenCase("noise", {"x": X}, {"logits": X @ WEIGHT}, sizes=(NODES, 3))]
    path = write_tiny_bundle(
        tmp_path / "m", laws=Laws((LawCheck("node-permutation", "noise"),)), cases=cases, inputs=OPEN
    )
    with pytest.raises(UsageError, match="asks for node-permutation on the golden case 'noise', which it does not fit"):
        validate_bundle(path, time_budget_s=SHORT_S)


@pytest.mark.parametrize(
    ("answered", "words"), [(0, "'real': out of memory, 'noise': "), (6, "row-locality on 'noise'")]
)
def test_an_engine_that_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answered: int, words: str) -> None:
    """What the engine cannot run, a case or a request of a law, is no wrong number: exit code 6, with its reason."""
    right, runs = OrtBackend.run, []

    def fail(backend: OrtBackend, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        runs.append(feeds)
        if len(runs) > answered:
            raise UnsupportedError.at("model.onnx", "out of memory", "Free some")
        return right(backend, feeds)

    monkeypatch.setattr(OrtBackend, "run", fail)
    with pytest.raises(UnsupportedError, match=f"the engine gave up on requests: {words}") as caught:
        validate_bundle(write(tmp_path / "m", [1]), time_budget_s=SHORT_S)
    assert caught.value.exit_code == 6
    assert "broken" not in str(caught.value)
    assert str(caught.value).endswith("Free some.")


def test_an_engine_that_gives_up_for_two_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way out is told with the requests that it is of."""
    right = OrtBackend.run

    def fail(backend: OrtBackend, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not feeds["x"].any():
            raise UnsupportedError.at("model.onnx", "out of memory", "Free some")
        if np.array_equal(feeds["x"], X):
            raise UnsupportedError.at("model.onnx", "no such kernel", "Take another")
        return right(backend, feeds)

    monkeypatch.setattr(OrtBackend, "run", fail)
    with pytest.raises(UnsupportedError) as caught:
        validate_bundle(write_tiny_bundle(tmp_path / "m"), time_budget_s=SHORT_S)
    told = {problem.mend: problem.what for problem in caught.value.problems}
    assert told == {
        "Take another": "the engine gave up on requests: 'real': no such kernel",
        "Free some": "the engine gave up on requests: 'zeros': out of memory",
    }


def test_wrong_numbers_and_an_engine_that_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are told, and the code is that of what cannot be run, which comes first."""
    right = OrtBackend.run

    def fail(backend: OrtBackend, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not feeds["x"].any():
            raise UnsupportedError.at("model.onnx", "out of memory", "Free some")
        return right(backend, feeds)

    monkeypatch.setattr(OrtBackend, "run", fail)
    with pytest.raises(UnsupportedError, match=r"'zeros': out of memory\. Free some\.\n.*'real' by") as caught:
        validate_bundle(write_tiny_bundle(tmp_path / "m", weight=WEIGHT + 1), time_budget_s=SHORT_S)
    assert caught.value.exit_code == 6


def test_the_report_says_which_law_is_about_the_runner(tmp_path: Path) -> None:
    """No artefact can break the law about indices of 32 bits."""
    report = validate_bundle(write(tmp_path / "m", [1]), time_budget_s=SHORT_S).report
    law = LawResult(law="int32-indices", requests=1, max_rel_error=0.0)
    about = "tests the runner, which widens indices before the artefact sees them"
    assert f"| int32-indices | 1 | 0 | {about} |" in to_markdown(report.model_copy(update={"laws": (law,)}))
    partly = law.model_copy(update={"unchecked": "golden case 'mixed graphs' was left out"})
    text = to_markdown(report.model_copy(update={"laws": (partly,)}))
    assert f"| int32-indices | 1 | 0 | {about}; golden case 'mixed graphs' was left out |" in text


def test_a_graph_whose_answers_lie_near_zero() -> None:
    """The error of a law is relative to all answers, not to those of the one graph that was asked about alone."""
    base = {"logits": np.array([[2.0], [1e-6]])}
    alone = Derived({}, base=np.array([1]))
    assert law_error(alone, base, {"logits": np.array([[2e-6]])}) == pytest.approx(5e-7)
    assert law_error(alone, base, {"logits": np.array([[1.0]])}) == pytest.approx(0.5, rel=1e-3)


def test_answers_that_lack_rows() -> None:
    """A law is broken where rows that have to agree are not there, before or after."""
    two, one = {"logits": np.ones((2, 1))}, {"logits": np.ones((1, 1))}
    second = Derived({}, base=np.array([1]), rows=np.array([1]))
    assert law_error(second, two, one) == np.inf
    assert law_error(second, one, two) == np.inf
    assert law_error(second, two, two) == 0
