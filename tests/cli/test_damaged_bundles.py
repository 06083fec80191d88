"""What becomes of a bundle that somebody changed, and of one that can no longer be written."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gnnexport.cli import app
from gnnexport.targets.onnx import target as onnx_target
from tests.road import write_road


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle to be damaged in copies."""
    folder = tmp_path_factory.mktemp("road")
    assert app.run(["export", str(write_road(folder)), "--time-budget", "4s"]) == 0
    return folder / "model.bundle"


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "eval.npz", "decisions.json"])
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_one_byte_changed(
    bundle: Path, name: str, where: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One changed byte of any file is found before the file is used."""
    copy = shutil.copytree(bundle, tmp_path / "copy.bundle")
    content = bytearray((copy / name).read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    (copy / name).write_bytes(content)
    for command in ("validate", "bench"):
        assert app.run([command, str(copy), "--time-budget", "1s"]) == 2
        streams = capsys.readouterr()
        assert name in streams.err
        assert "Traceback" not in streams.err


@pytest.mark.parametrize("name", ["manifest.json", "report.json"])
def test_a_newer_schema(bundle: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of a newer schema is refused with the advice to upgrade."""
    copy = shutil.copytree(bundle, tmp_path / "copy.bundle")
    values = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps({**values, "schema": 99}))
    assert app.run(["validate", str(copy), "--time-budget", "1s"]) == 2
    error = capsys.readouterr().err
    assert "99" in error
    assert "upgrade" in error


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_can_no_longer_be_written(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Permission or room lost while the model is written: exit 2, the mend, and no half of a bundle."""
    model = write_road(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    def refused(written: Any, folder: Path) -> Any:
        (folder / "half.onnx").write_bytes(b"half")
        raise OSError(number, "refused", str(folder / "model.onnx"))

    monkeypatch.setattr(onnx_target, "write", refused)
    assert app.run(["export", str(model), "--time-budget", "4s"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "-o" in error
    assert sorted(tmp_path.rglob("*")) == before
