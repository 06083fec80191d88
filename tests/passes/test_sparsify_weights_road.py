"""What is shipped after `sparsify-weights` is the masked model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.bit_trials import accuracy
from gnnexport.cli import app
from gnnexport.frontends.data import load_data
from gnnexport.frontends.signature import match_inputs
from gnnexport.passes.contract import PassContext
from gnnexport.passes.sparsify_weights import SparsifyWeights
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.program import example_inputs
from gnnexport.runtime.runner import load
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.road import write_road

PASSES = "sparsify-weights{sparsity=0.75}"


@pytest.mark.parametrize("target", ["ort", "ort{portable=true}"])
def test_the_bundle_answers_as_the_masked_model(target: str, tmp_path: Path) -> None:
    """The pass run on its own gives the same weights, and the files the same answers and accuracy."""
    path = write_road(tmp_path)
    told = ["compress", str(path), "--passes", PASSES, "--target", target, "--max-drop", "100pp", "--seed", "3"]
    assert app.run([*told, "--time-budget", "20s"]) == 0
    data, _ = load_data(tmp_path / "data.npz")
    model = torch.load(path, weights_only=False)
    inputs = match_inputs(model, data)
    program = run_passes(capture(model, inputs, example_inputs(inputs)), CANONICAL, PassContext(data=data)).program
    trainer = Trainer(data.hide("test"), Task(epochs=5))
    masked = SparsifyWeights(sparsity=0.75).run(program, PassContext(data.hide("test"), trainer, seed=3))
    with torch.no_grad():
        expected = masked(data.inputs).numpy()
    with load(tmp_path / "model.bundle") as runner:
        answers = runner({"x": data.inputs["x"].numpy()})["logits"]
    np.testing.assert_allclose(answers, expected, atol=1e-4)
    report = json.loads((tmp_path / "model.bundle" / "report.json").read_text())
    assert report["result"]["metric"]["value"] == pytest.approx(accuracy(masked, data, "test"))
    (step,) = [step for step in report["steps"] if step["pass"].startswith("sparsify-weights")]
    notes = " ".join(step["notes"])
    assert "25.0%" in notes
    assert "counted, not saved" in notes
