"""The whole way from a saved model to a bundle for OpenVINO."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from gnnexport import api
from gnnexport.runtime.runner import load
from tests.road import small_graph, write_road

pytest.importorskip("openvino")
QUICK = "4s"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> api.Outcome:
    """One export for two targets."""
    model = write_road(tmp_path_factory.mktemp("road"))
    return api.export(model, target="ort,openvino", time_budget=QUICK)


def test_two_engines_one_answer(both: api.Outcome) -> None:
    """Each bundle runs on its own engine, says so in its report, and both give the same numbers."""
    runners = {name: report.result.runner for name, report in both.reports.items()}
    assert runners == {"ort": "onnxruntime", "openvino": "openvino"}
    assert both.reports["openvino"].exported.runner == "openvino"
    assert both.exit_code == 0
    answers = []
    for path in both.bundles.values():
        with load(path) as run:
            answers.append(run({"x": small_graph()["x"]})["logits"])
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)


def test_the_bundle_validates_without_onnx(both: api.Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity and accuracy are proved from the bundle alone, by OpenVINO alone."""
    for module in ("onnx", "onnx_ir", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
    bundle = both.bundles["openvino"]
    report = api.validate(bundle, time_budget="1s").report
    assert report.result.runner == "openvino"
    assert report.result.metric == both.reports["openvino"].result.metric
    assert report.parity is not None
    assert not list(bundle.glob("*.onnx"))


def test_decisions_replay_to_the_same_digest(both: api.Outcome, tmp_path: Path) -> None:
    """Two runs with a forced lowering give bundles of the same digest."""
    model = both.bundle.parents[1] / "model.pt"
    digests = set()
    for name in ("one", "two"):
        target = "openvino{aggregate=ell,threads=1}"
        bundle = api.export(model, target=target, output=tmp_path / name, time_budget=QUICK).bundle
        manifest = json.loads((bundle / "manifest.json").read_text())
        assert (manifest["target"]["runtime"], manifest["target"]["threads"]) == ("openvino", 1)
        assert manifest["target"]["requirements"] == {"openvino": ">=2025.0"}
        digests.add(manifest["digest"])
    assert len(digests) == 1
