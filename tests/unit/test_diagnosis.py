"""What `gnnexport doctor` says of a machine that lacks something."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from gnnexport import diagnosis
from gnnexport.diagnosis import DoctorEntry, examine
from gnnexport.errors import MissingExtraError

ENGINES = {"onnxruntime", "openvino"}


def without(missing: set[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, DoctorEntry]:
    """Examine a machine on which only these modules cannot be imported."""

    def find(name: str) -> ModuleType:
        if name in missing:
            raise ModuleNotFoundError(name)
        return ModuleType(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", find)
        return {entry.name: entry for entry in examine()}


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The native kernels serve, whether or not this installation has them."""
    monkeypatch.setattr(diagnosis, "why_missing", lambda: None)
    monkeypatch.setattr(diagnosis, "path_name", lambda: "avx2")
    monkeypatch.setattr(diagnosis, "outlook", lambda engine: "built and cached")


def test_everything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every library each job works, but the one that this version cannot do anywhere."""
    found = without(set(), monkeypatch)
    assert [name for name, entry in found.items() if not entry.ok] == ["bench (trt)"]
    assert "validate proves all but their speed" in found["bench (trt)"].mend


def test_engines_are_built_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any TensorRT builds; the one to install is the one that needs no GPU, and what proves its model is needed too."""
    either = {"tensorrt", "tensorrt_rtx"}
    for module in either:
        assert without({module}, monkeypatch)["target trt"].ok
    missing = without(either, monkeypatch)
    assert missing["target trt"].mend == "It needs what builds engines: pip install 'gnnexport[trt]'"
    assert "tensorrt" not in missing
    assert missing["validate (trt)"].ok
    assert not without({"onnxruntime"}, monkeypatch)["target trt"].ok


def test_proving_needs_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target onnx writes for any runtime, but its proof runs on ONNX Runtime, and the mend says so."""
    entry = without({"onnxruntime"}, monkeypatch)["target onnx"]
    assert not entry.ok
    assert entry.mend == "It needs onnxruntime to prove the result with: pip install 'gnnexport[ort]'"


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_one_engine_is_enough(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressing works with either engine, and its mend without both names both."""
    found = without(ENGINES - {engine}, monkeypatch)
    assert found["compress and export"].ok
    assert found["target openvino"].ok == (engine == "openvino")
    assert found["validate and bench (onnx, ort)"].ok == (engine == "onnxruntime")
    neither = without(ENGINES, monkeypatch)["compress and export"]
    assert not neither.ok
    assert "pip install 'gnnexport[ort]' or pip install 'gnnexport[openvino]'" in neither.mend


def test_what_makes_bundles_is_needed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch nothing is compressed, and bundles still run."""
    found = without({"torch"}, monkeypatch)
    assert found["compress and export"].mend == "pip install 'gnnexport[compress]'"
    assert found["validate and bench (onnx, ort)"].ok


def test_native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The instructions in use are named; without kernels the rest works, and the reason and the mend are told."""
    assert without(set(), monkeypatch)["native kernels"] == DoctorEntry("native kernels", True, "avx2")
    monkeypatch.setattr(diagnosis, "why_missing", lambda: "they were not built")
    monkeypatch.setattr(diagnosis, "how_to_mend", lambda: "Install a compiler")
    found = without(set(), monkeypatch)
    mend = "Other lowerings serve. Install a compiler"
    assert found["native kernels"] == DoctorEntry("native kernels", False, "they were not built", mend)
    assert [name for name, entry in found.items() if not entry.ok] == ["native kernels", "bench (trt)"]


def test_native_kernels_in_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their extension has an entry where kernels and OpenVINO are there, with the mend where it cannot be built."""
    name = "native kernels (openvino)"
    assert without(set(), monkeypatch)[name] == DoctorEntry(name, True, "built and cached")
    assert name not in without({"openvino"}, monkeypatch)

    def refuse(engine: ModuleType) -> str:
        raise MissingExtraError.at("native kernels", f"no compiler for {engine.__name__}", "Install one")

    monkeypatch.setattr(diagnosis, "outlook", refuse)
    assert without(set(), monkeypatch)[name] == DoctorEntry(name, False, "no compiler for openvino", "Install one")
    monkeypatch.setattr(diagnosis, "why_missing", lambda: "they were not built")
    assert name not in without(set(), monkeypatch)
