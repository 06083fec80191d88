import sys

import numpy as np
import pytest

from gnnexport.bundle.manifest import KERNELS, NativeLibrary, Target
from gnnexport.bundle.processor import Processor
from gnnexport.errors import MissingExtraError, UnsupportedError, UsageError
from gnnexport.native.library import ABI
from gnnexport.runtime import runner
from gnnexport.runtime.runner import load
from tests.unit.tiny_bundle import CHANNELS, NODES, WEIGHT, X, write_tiny_bundle


@pytest.fixture
def bundle(tmp_path):
    """A sound bundle."""
    return write_tiny_bundle(tmp_path / "m.bundle")


def test_named_arrays_in_and_out(bundle):
    """A runner maps named arrays to named arrays, called or by `run`, and knows what it takes and gives."""
    with load(bundle) as runner:
        np.testing.assert_allclose(runner({"x": X})["logits"], X @ WEIGHT, rtol=1e-6)
        np.testing.assert_array_equal(runner.run({"x": X})["logits"], runner({"x": X})["logits"])
        assert [(t.name, t.dtype, t.shape) for t in runner.inputs] == [("x", "float32", (NODES, CHANNELS))]
        assert [t.name for t in runner.outputs] == ["logits"]
        assert runner.name == "onnxruntime"


def test_arrays_of_any_layout(bundle):
    """A transposed or strided array is copied, not misread."""
    with load(str(bundle)) as runner:
        np.testing.assert_allclose(runner({"x": np.asfortranarray(X)})["logits"], X @ WEIGHT, rtol=1e-6)


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, r"input 'x': is missing. Give a float32 array \[5, 4\]"),
        ({"X": X, "x": X}, r"unknown input 'X'"),
        ({"x": X.astype(np.float64)}, r"has dtype float64. Give x.astype\('float32'\)"),
        ({"x": X[:3]}, r"has shape \[3, 4\]. Give \[5, 4\]"),
        ({"x": X[0]}, r"has shape \[4\]"),
        ({"x": X.tolist()}, r"is a list. Give a numpy array"),
    ],
)
def test_wrong_inputs(bundle, feeds, words):
    """Inputs that do not fit are refused with what to give instead."""
    with load(bundle) as runner, pytest.raises(UsageError, match=words):
        runner(feeds)


def test_all_problems_at_once(bundle):
    """Every wrong input is named in one error."""
    with load(bundle) as runner, pytest.raises(UsageError) as caught:
        runner({"y": X})
    assert len(caught.value.problems) == 2


def test_a_closed_runner(bundle):
    """A closed runner says so; closing twice is fine."""
    runner = load(bundle)
    runner.close()
    runner.close()
    with pytest.raises(UsageError, match="closed"):
        runner({"x": X})


def test_another_processor_is_warned_of(tmp_path):
    """Lowerings chosen elsewhere still run, with a warning."""
    path = write_tiny_bundle(tmp_path / "m", decided_on=Processor(name="Z80"))
    with pytest.warns(RuntimeWarning, match="chosen on Z80"):
        load(path).close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"native_library": NativeLibrary(name="kernels", abi=1)}, "needs the kernel library 'kernels'"),
        ({"native_library": NativeLibrary(name=KERNELS, abi=99)}, "with interface 99; this version has"),
        (
            {"target": Target(spec="tvm", runtime="tvm", model_file="model.onnx")},
            "needs the runtime 'tvm'; this version has ort",
        ),
    ],
)
def test_bundles_this_version_cannot_run(tmp_path, changes, words):
    """What cannot be run is refused with the reason."""
    path = write_tiny_bundle(tmp_path / "m", **changes)
    with pytest.raises(UnsupportedError, match=words):
        load(path)


def test_without_the_kernels(tmp_path, monkeypatch):
    """A model that calls our kernels is not loaded where they are missing: why, and what helps."""
    path = write_tiny_bundle(tmp_path / "m", native_library=NativeLibrary(name=KERNELS, abi=ABI))
    monkeypatch.setattr(runner, "why_missing", lambda: "they were not built with this installation")
    with pytest.raises(MissingExtraError, match=r"calls the native kernels, and they were not built.*portable=true"):
        load(path)


def test_without_the_engine(bundle, monkeypatch):
    """A missing engine is answered with the pip line."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gnnexport\[ort\]'"):
        load(bundle)


def test_a_model_the_engine_refuses(tmp_path):
    """A file that is no ONNX model is refused by path."""
    path = write_tiny_bundle(tmp_path / "m", target=Target(spec="ort", runtime="ort", model_file="decisions.json"))
    with pytest.raises(UsageError, match=r"decisions.json.*onnxruntime .* cannot load it"):
        load(path)
