"""From a saved model to answers for some nodes of its graph, in few bits, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.nn import GraphSAGE

from gnnexport.cli import app
from gnnexport.native import library
from gnnexport.runtime.runner import load
from tests.road import CHANNELS, CLASSES, NODES, write_road

FLOAT, HALVES = "float32, rounded only", "float32 sums of rows of bf16"


def compressed(folder: Path, passes: str, target: str) -> tuple[Path, dict[str, Any]]:
    """Compress a model for mode `batched`; return the bundle and its report."""
    path = write_road(folder)
    torch.manual_seed(1)
    torch.save(GraphSAGE(CHANNELS, 16, 3, CLASSES, jk="cat").eval(), path)
    told = ["compress", str(path), "--mode", "batched", "--passes", passes, "--target", target]
    assert app.run([*told, "--max-drop", "100pp", "--time-budget", "3s"]) == 0
    bundle = folder / "model.bundle"
    return bundle, json.loads((bundle / "report.json").read_text())


WHOLE = {"input": ["u8xs8"] * 5, "aggregated": ["u4 sums"] * 2}
BYTES = {"input": ["u8xu8"] * 5, "aggregated": [FLOAT] * 3}


@pytest.mark.parametrize(
    ("passes", "target", "executed"),
    [
        ("a2q{bits=4,epochs=2}", "ort{quantised=narrow}", WHOLE),
        ("quantize{bits=8}", "ort{portable=true,quantised=integer}", BYTES),
        ("quantize{mode=dynamic}", "ort{portable=true,quantised=integer}", {**BYTES, "aggregated": []}),
        ("cast{to=bf16}", "ort{aggregate=native}", {"aggregated": [FLOAT, HALVES, HALVES]}),
    ],
)
def test_answers_for_some_nodes(passes: str, target: str, executed: dict[str, list[str]], tmp_path: Path) -> None:
    """A node's answer is the same whoever else is asked about; the report tells of every stage what is executed."""
    if "portable" not in target and library.why_missing() is not None:
        pytest.skip(f"the kernels: {library.why_missing()}")
    bundle, report = compressed(tmp_path, passes, target)
    assert report["parity"]["max_rel_error"] <= report["parity"]["tolerance"]
    operands = report["result"]["bits"]["operands"]
    found = {kind: [item["arithmetic"] for item in operands if item["kind"] == kind] for kind in executed}
    assert found == executed
    with load(bundle, store_bytes=0) as cold, load(bundle) as warm:
        everything = cold.predict(np.arange(NODES))["logits"]
        for nodes in ([5], [3, 59, 3, 0], []):
            for runner in (cold, warm):
                np.testing.assert_allclose(runner.predict(nodes)["logits"], everything[nodes], atol=1e-5)
