"""Options of the targets, and what they ask of a machine."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from gnnexport.errors import SpecError
from gnnexport.registry import build_targets, target_classes
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx.target import OnnxTarget
from gnnexport.targets.ort import OrtTarget
from tests.targets.graphs import from_degrees
from tests.targets.networks import CHANNELS, network
from tests.targets.sketch import normal

GRAPH = from_degrees([2, 1, 0, 3])


@pytest.mark.parametrize("threads", [0, -2])
@pytest.mark.parametrize("name", sorted(target_classes()))
def test_threads_start_at_one(name: str, threads: int) -> None:
    """Fewer are a mistake in the spec, not a bug."""
    with pytest.raises(SpecError, match=f"{name}: threads must be at least 1"):
        build_targets([f"{name}{{threads={threads}}}"])


@pytest.mark.parametrize("texts", [["ort{threads=2,aggregate=ell},onnx"], ["ort{threads=2,aggregate=ell}", "onnx"]])
def test_several_targets_in_one_text(texts: list[str]) -> None:
    """Commas part targets outside braces and options inside."""
    assert build_targets(texts) == [OrtTarget(threads=2, aggregate="ell"), OnnxTarget()]


def test_requirements_name_what_made_the_file_and_what_reads_it(tmp_path: Path) -> None:
    """IR version 10 is read by ONNX Runtime from 1.18 on."""
    dialect, _ = network("gcn", GRAPH, normal((GRAPH.num_nodes, CHANNELS)))
    made = {"onnx": version("onnx"), "onnxruntime": version("onnxruntime")}
    onnx = OnnxTarget().emit(dialect, tmp_path, EmitContext()).requirements
    assert onnx == {"opset": 20, "ir_version": 10, "versions": made}
    ort = OrtTarget().emit(dialect, tmp_path, EmitContext()).requirements
    assert ort == {**onnx, "onnxruntime": ">=1.18"}
