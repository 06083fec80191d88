"""A bundle says which engine it needs; an older one is refused before it sees the model."""

from __future__ import annotations

import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from gnnexport.bundle.manifest import Target
from gnnexport.errors import MissingExtraError, UnsupportedError
from gnnexport.runtime.requirements import check_requirements
from gnnexport.runtime.runner import load
from tests.unit.tiny_bundle import write_tiny_bundle


def target(**changes: Any) -> Target:
    """Describe a target with such requirements or versions."""
    return Target(spec="ort", runtime="ort", model_file="model.onnx", threads=1, **changes)


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Let these be the packages installed; `_` stands for `-`."""

    def version(name: str) -> str:
        if name.replace("-", "_") not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name.replace("-", "_")]

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.parametrize(
    ("installed", "wanted", "fits"),
    [
        ("1.18", ">=1.18", True),
        ("1.18.0", ">=1.18", True),
        ("1.9.9", ">=1.18", False),
        ("1.18.0rc1", ">=1.18", True),
        ("2.0+cpu", ">=1.18,<2", False),
        ("1.31.1", ">= 1.18, < 2", True),
        ("1.18.1", "==1.18", False),
        ("1.19", "!=1.19.0", False),
        ("1.17", "<=1.17", True),
        ("1.17", ">1.17", False),
    ],
)
def test_ranges(monkeypatch: pytest.MonkeyPatch, installed: str, wanted: str, fits: bool) -> None:
    """Versions compare by their numbers, part by part."""
    install(monkeypatch, onnxruntime=installed)
    if fits:
        check_requirements(target(requirements={"onnxruntime": wanted}), "m")
        return
    with pytest.raises(MissingExtraError, match="m: needs onnxruntime") as caught:
        check_requirements(target(requirements={"onnxruntime": wanted}), "m")
    assert f"Run: pip install 'onnxruntime{wanted}'" in str(caught.value)


def test_loading_refuses_an_engine_that_is_too_old(tmp_path: Path) -> None:
    """`load` checks before the engine reads anything."""
    bundle = write_tiny_bundle(tmp_path / "m", target=target(requirements={"onnxruntime": ">=999", "opset": 21}))
    with pytest.raises(MissingExtraError, match=r"needs onnxruntime >=999, and .* is installed"):
        load(bundle)


def test_other_packages_of_an_engine_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The build for graphics cards is the same engine; one that is not there is left to the backend."""
    install(monkeypatch, onnxruntime_gpu="1.17")
    with pytest.raises(MissingExtraError, match=r"1.17 is installed"):
        check_requirements(target(requirements={"onnxruntime": ">=1.18"}), "m")
    install(monkeypatch)
    check_requirements(target(requirements={"onnxruntime": ">=1.18"}), "m")


def test_a_range_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this version cannot read is refused, not ignored."""
    install(monkeypatch, openvino="2026.4")
    with pytest.raises(UnsupportedError, match=r"'~=2026', which this version cannot read. Run: pip install --upgrade"):
        check_requirements(target(requirements={"openvino": "~=2026"}), "m")


def test_older_than_the_maker_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine within the range, but older than the one that made the bundle, runs with a warning."""
    made = target(requirements={"openvino": ">=2025.0"}, versions={"openvino": "2026.4.1"})
    install(monkeypatch, openvino="2025.2")
    with pytest.warns(RuntimeWarning, match=r"made with openvino 2026.4.1, and the older 2025.2"):
        check_requirements(made, "m")
    install(monkeypatch, openvino="2026.4.1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_requirements(made, "m")
