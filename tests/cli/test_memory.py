"""The option `--memory` and the key of the sidecar that stands for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gnnexport import api
from gnnexport.errors import SpecError
from gnnexport.pipeline.request import Request
from gnnexport.training.memory import default_limit, free_bytes


class Stopped(Exception):
    """Ends a run where the request is known."""


@pytest.mark.parametrize("text", ["0", "-1GB", "much", "1TX"])
def test_sizes_that_are_none(tmp_path: Path, text: str) -> None:
    """A size that cannot be read, or none at all, is refused on the command line and in the sidecar."""
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(SpecError, match="--memory: '"):
        api.compress(tmp_path / "model.pt", memory=text)
    (tmp_path / "gnnexport.toml").write_text(f'[training]\nmemory = "{text}"\n')
    with pytest.raises(SpecError, match=r"\[training\] memory: '.*' is (not a size|out of range)"):
        api.compress(tmp_path / "model.pt")


@pytest.mark.parametrize(("options", "size"), [({}, 3 * 10**9), ({"memory": "512MiB"}, 512 << 20)])
def test_the_command_line_goes_before_the_sidecar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], size: int
) -> None:
    """What is not given on the command line comes from the sidecar."""
    (tmp_path / "model.pt").write_bytes(b"")
    (tmp_path / "gnnexport.toml").write_text('[training]\nmemory = "3GB"\n')
    found: list[Request] = []

    def stop(request: Request, sidecar: object, given: object) -> None:
        found.append(request)
        raise Stopped

    monkeypatch.setattr(api, "_run", stop)
    with pytest.raises(Stopped):
        api.compress(tmp_path / "model.pt", **options)  # type: ignore[arg-type]
    assert found[0].memory_bytes == size


def test_free_memory_is_what_system_and_group_allow(tmp_path: Path) -> None:
    """The smaller of the two counts; what does not say anything does not count."""
    system = tmp_path / "meminfo"
    system.write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert free_bytes(system, tmp_path) == 8000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert free_bytes(system, tmp_path) == 8000 * 1024
    (tmp_path / "memory.max").write_text("5100\n")
    assert free_bytes(system, tmp_path) == 5000
    assert free_bytes(tmp_path / "none", tmp_path / "none") is None
    assert (default_limit() is None) == (free_bytes() is None)
