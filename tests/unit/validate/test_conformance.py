from pathlib import Path

import numpy as np
import pytest

from gnnexport.bundle.golden import LawCheck, Laws
from gnnexport.bundle.manifest import Tensor
from gnnexport.errors import ParityError, UnsupportedError, UsageError
from gnnexport.report.markdown import to_markdown
from gnnexport.runtime.ort import OrtBackend
from gnnexport.validate.bundle import validate_bundle
from tests.unit.tiny_bundle import CHANNELS, NODES, write_tiny_bundle

SHORT_S = 0.01
INPUTS = (Tensor(name="x", dtype="float32", shape=(NODES, CHANNELS), role="node_features"),)


def write(path: Path, still: list[int], law: str = "row-locality", case: str = "noise") -> Path:
    """Write a bundle that says which rows stay when node 0 changes."""
    check = LawCheck(law, case, node=0, still=np.array(still))
    return write_tiny_bundle(path, laws=Laws((check,), {"edge-order": "it sorts"}), inputs=INPUTS)


def test_laws_stand_in_the_report(tmp_path: Path) -> None:
    """What was checked is counted; what the model breaks itself is told and not checked."""
    report = validate_bundle(write(tmp_path / "m", [1, 2, 4]), time_budget_s=SHORT_S).report
    exempt, checked = report.laws
    assert (checked.law, checked.requests, checked.max_rel_error, checked.exempt) == ("row-locality", 1, 0.0, None)
    assert (exempt.law, exempt.requests, exempt.max_rel_error, exempt.exempt) == ("edge-order", 0, None, "it sorts")
    text = to_markdown(report)
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


def test_an_engine_that_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A case that cannot be run is a failure of the artefact, with the engine's reason."""

    def fail(*_: object) -> None:
        raise UnsupportedError.at("model.onnx", "index out of bounds", "")

    monkeypatch.setattr(OrtBackend, "run", fail)
    with pytest.raises(ParityError, match="'real' cannot be run: index out of bounds"):
        validate_bundle(write_tiny_bundle(tmp_path / "m"), time_budget_s=SHORT_S)
