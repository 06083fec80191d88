"""Models on fewer edges, exported and proven."""

from __future__ import annotations

from pathlib import Path

import pytest

from gnnexport import api
from tests.road import write_road


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_other_passes_work_on_what_is_left(tmp_path: Path, target: str) -> None:
    """Fewer channels, then fewer edges, then fewer bits: what is exported is held to the Program each time."""
    passes = ["prune-channels{keep=0.5,epochs=1}", "sparsify-edges{sparsity=0.5,epochs=1}", "quantize{bits=8}"]
    made = api.compress(write_road(tmp_path), passes=passes, target=target, output=tmp_path / "small", time_budget="2s")
    assert made.exit_code == 0
    assert made.report.result.sparsity is not None
    assert made.report.result.bits is not None


def test_a_bundle_computes_what_the_frozen_model_computes(tmp_path: Path) -> None:
    """`compress` proves the exported model against the Program on fewer edges, and the graph takes fewer bytes."""
    path = write_road(tmp_path)
    small = api.compress(
        path, passes=["sparsify-edges{sparsity=0.9,epochs=2}"], target="ort{aggregate=ell}",
        output=tmp_path / "small", time_budget="2s",
    )  # fmt: skip
    whole = api.export(path, target="ort{aggregate=ell}", output=tmp_path / "whole", time_budget="2s")
    assert small.exit_code == 0
    found = small.report.result.sparsity
    assert found is not None
    assert found.edges == pytest.approx(0.9, abs=0.01)
    assert [layer.total for layer in found.layers] == [found.layers[0].total] * 2
    assert found.weights_stored is None
    (step,) = (step for step in small.report.steps if step.name.startswith("sparsify-edges"))
    assert step.notes[0].startswith("can be at most ")
    sizes = [outcome.report.result.sizes.graph_bytes for outcome in (small, whole)]
    assert sizes[0] < sizes[1]
