from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gnnexport.bundle.golden import write_golden
from gnnexport.bundle.layout import GOLDEN
from gnnexport.bundle.manifest import Target
from gnnexport.bundle.writer import BundleWriter
from gnnexport.errors import MissingExtraError, UnsupportedError, UsageError
from gnnexport.runtime.openvino import OpenVinoBackend, import_openvino, reason
from gnnexport.runtime.peak import peak_memory_bytes
from gnnexport.runtime.runner import load
from gnnexport.validate.bundle import validate_bundle
from tests.unit.tiny_bundle import CHANNELS, CLASSES, NODES, WEIGHT, X, golden_cases, manifest

pytest.importorskip("openvino")


def write_bundle(path: Path, operator: str = "MatMul") -> Path:
    """Write `logits = x @ weight` as an OpenVINO bundle, the product under any name."""
    openvino = import_openvino("test")
    from openvino import opset13 as ops

    x = ops.parameter([NODES, CHANNELS], np.float32, name="x")
    product = ops.matmul(x, ops.constant(WEIGHT), False, False)
    model = openvino.Model([product], [x], "tiny")
    model.inputs[0].get_tensor().set_names({"x"})
    model.outputs[0].get_tensor().set_names({"logits"})
    with BundleWriter(path) as writer:
        openvino.save_model(model, writer.folder / "model.xml", compress_to_fp16=False)
        text = (writer.folder / "model.xml").read_text()
        (writer.folder / "model.xml").write_text(text.replace('type="MatMul"', f'type="{operator}"'))
        writer.write_decisions({"lowering": "dense"})
        write_golden(writer.folder / GOLDEN, golden_cases())
        writer.seal(manifest(target=Target(spec="openvino", runtime="openvino", model_file="model.xml", threads=1)))
        return writer.commit()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A sound bundle."""
    return write_bundle(tmp_path / "m.bundle")


@pytest.mark.parametrize("threads", [1, 2])
def test_an_operator_that_fails_is_an_error(threads: int, tmp_path: Path) -> None:
    """On a single thread, too, where OpenVINO's own `infer` would answer with what was in memory."""
    openvino = import_openvino("test")
    from openvino import opset13 as ops

    left, right = (ops.parameter(openvino.PartialShape([-1]), np.float32, name=name) for name in ("a", "b"))
    model = openvino.Model([ops.add(left, right)], [left, right])
    for port, name in zip((*model.inputs, *model.outputs), ("a", "b", "sum"), strict=True):
        port.get_tensor().set_names({name})
    openvino.save_model(model, tmp_path / "model.xml")
    backend = OpenVinoBackend(tmp_path / "model.xml", threads)
    with pytest.raises(UnsupportedError, match="openvino failed while running it"):
        backend.run({"a": np.ones(3, np.float32), "b": np.ones(4, np.float32)})


def test_named_arrays_in_and_out(bundle: Path) -> None:
    """A bundle for OpenVINO runs by the same runner, and its outputs outlive the next run."""
    with load(bundle) as runner:
        first = runner({"x": X})["logits"]
        runner({"x": X * 2})
        np.testing.assert_allclose(first, X @ WEIGHT, rtol=1e-6)
        assert [(t.name, t.dtype, t.shape) for t in runner.inputs] == [("x", "float32", (NODES, CHANNELS))]
        assert [(t.name, t.dtype, t.shape) for t in runner.outputs] == [("logits", "float32", (NODES, CLASSES))]
        assert runner.name == "openvino"


def test_arrays_that_may_not_be_written(bundle: Path) -> None:
    """Features read from a file are taken as they are."""
    frozen = X.copy()
    frozen.flags.writeable = False
    with load(bundle) as runner:
        np.testing.assert_allclose(runner({"x": frozen})["logits"], X @ WEIGHT, rtol=1e-6)


def test_float32_everywhere(bundle: Path) -> None:
    """A processor with bfloat16 does not lower the precision by itself, and threads are those asked for."""
    backend = OpenVinoBackend(bundle / "model.xml", threads=1)
    compiled = backend._request.get_compiled_model()
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_validate(bundle: Path) -> None:
    """Golden cases, latency and memory are measured on OpenVINO."""
    outcome = validate_bundle(bundle, time_budget_s=0.01)
    assert outcome.report.result.runner == "openvino"
    assert outcome.parity is not None
    assert outcome.parity.max_rel_error < 1e-6
    assert (peak_memory_bytes(bundle) or 0) > 10_000_000


def test_without_the_engine(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing engine is answered with the pip line."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"model.xml: needs openvino.*pip install 'gnnexport\[openvino\]'"):
        load(bundle)


def test_a_model_the_engine_refuses(tmp_path: Path) -> None:
    """A file with an operator that this OpenVINO does not know is refused by path, with its reason."""
    path = write_bundle(tmp_path / "m", "MatMull")
    with pytest.raises(UsageError, match=r"model.xml: openvino .* cannot load it \(.*MatMull"):
        load(path)


def test_results_of_known_sizes(bundle: Path) -> None:
    """Results stay what they were when the model runs again: each run writes arrays of its own."""
    with load(bundle) as runner:
        first = runner({"x": X})
        kept = {name: array.copy() for name, array in first.items()}
        again = runner({"x": X + 1})
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)
        assert first[name].flags.writeable
        assert not np.shares_memory(first[name], again[name])


def test_a_run_that_fails(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure while running names the file and a way out."""

    class Request:
        def set_output_tensor(self, place: int, tensor: object) -> None:
            pass

        def start_async(self, feeds: object, share_inputs: bool) -> None:
            raise RuntimeError("Exception from src/infer.cpp:1:\nnot enough memory\n")

    with load(bundle) as runner:
        monkeypatch.setattr(runner._backend, "_request", Request())
        with pytest.raises(UnsupportedError, match=r"failed while running it \(not enough memory\). Free some memory"):
            runner({"x": X})


def test_reasons() -> None:
    """The telling line of a message is the last that names no source file of OpenVINO."""
    assert (
        reason(RuntimeError("Exception from a.cpp:1:\nCheck 'x' failed at b.cpp:2:\nno such op.\n\n")) == "no such op"
    )
    assert reason(RuntimeError("Exception from a.cpp:1:")) == "Exception from a.cpp:1:"
    assert reason(RuntimeError()) == "RuntimeError"


RUN = """
import os, sys
import gnnexport, numpy
with gnnexport.load(sys.argv[1]) as run:
    run({"x": numpy.zeros((5, 4), numpy.float32)})
assert "openvino" in sys.modules
assert "openvino_telemetry" not in sys.modules
assert not {"torch", "onnx", "onnxruntime", "onnx_ir"} & set(sys.modules)
assert os.listdir(os.environ["HOME"]) == []
"""


def test_a_serving_machine(bundle: Path, tmp_path: Path) -> None:
    """Loading needs neither torch nor ONNX, reports to nobody, and leaves the home folder alone."""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(bundle)], capture_output=True, text=True, check=False, env={"HOME": str(home)}
    )
    assert done.returncode == 0, done.stderr
