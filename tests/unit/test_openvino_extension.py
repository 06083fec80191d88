"""The kernels' extension for OpenVINO is built once, and who lacks a compiler is told."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gnnexport.errors import MissingExtraError
from gnnexport.native import openvino_extension as module
from gnnexport.native.openvino_extension import FILE, SOURCES, extension, outlook

LIBRARIES = ("libs/libopenvino.so.2641", "libs/libopenvino_onnx_frontend.so.2641", "libs/libtbb.so.12")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An OpenVINO, kernels with their sources, and an empty cache, all made up."""
    package, kernels = tmp_path / "openvino", tmp_path / "native"
    (package / "libs").mkdir(parents=True)
    for name in (*LIBRARIES, "__init__.py"):
        (package / name).touch()
    (package / "cmake").mkdir()
    (package / "cmake/OpenVINOConfig.cmake").write_text('set(OpenVINO_GLIBCXX_USE_CXX11_ABI "0")\n')
    for name in SOURCES:
        (kernels / "openvino" / name).parent.mkdir(parents=True, exist_ok=True)
        (kernels / "openvino" / name).write_text(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(module, "library", lambda: None)
    monkeypatch.setattr(module, "library_path", lambda: kernels / "libgnnexport.so")
    module._built.cache_clear()
    yield SimpleNamespace(__version__="2026.4.1-22982-abc", __file__=str(package / "__init__.py"))
    module._built.cache_clear()


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Compile by touching what was asked for; return the commands."""
    made: list[str] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        made.append(" ".join(command))
        Path(command[command.index("-o") + 1]).touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    return made


Change = Callable[[Any, pytest.MonkeyPatch], None]


def test_what_was_built_is_kept(engine: Any, commands: list[str], tmp_path: Path) -> None:
    """A second process finds it, and nothing else is left in the cache."""
    path = extension(engine)
    assert path.name == FILE
    assert path.parent.parent == tmp_path / "cache/gnnexport"
    assert path.parent.name.startswith("openvino-2026.4.1-")
    module._built.cache_clear()
    assert extension(engine) == path
    assert len(commands) == 1
    assert [item.name for item in path.parent.iterdir()] == [FILE]


def test_it_is_built_as_openvino_was(engine: Any, commands: list[str]) -> None:
    """Strings look in memory as OpenVINO's own do, and its libraries are named as the release names them."""
    extension(engine)
    for part in ("-D_GLIBCXX_USE_CXX11_ABI=0", *LIBRARIES, "libgnnexport.so"):
        assert part in commands[0]


def _newer(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.__version__ = "2026.4.1-22983-abd"


def _next_interface(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ABI", 99)


def _other_sources(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = module.library_path()
    assert kernels is not None
    (kernels.parent / "openvino" / SOURCES[1]).write_text("changed")


def _elsewhere(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(engine.__file__).parent
    engine.__file__ = str(package.rename(package.with_name("moved")) / "__init__.py")


@pytest.mark.parametrize("change", [_newer, _elsewhere, _next_interface, _other_sources])
def test_what_it_depends_on(change: Change, engine: Any, commands: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another build of OpenVINO, another place, another interface and other sources have an extension of their own."""
    first = extension(engine)
    change(engine, monkeypatch)
    module._built.cache_clear()
    assert extension(engine) != first
    assert len(commands) == 2


def test_without_a_compiler(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(MissingExtraError, match=r"no compiler 'no-such-compiler'. Install GCC or Clang"):
        extension(engine)


def test_a_compiler_that_fails(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message holds the compiler's, and nothing half-made is left."""
    compiler = tmp_path / "broken"
    compiler.write_text(
        "#!/bin/sh\necho 'In file included from x' >&2\necho 'x.hpp:1: error: no such thing' >&2\nexit 1\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(MissingExtraError, match=r"cannot build .*\(x.hpp:1: error: no such thing\). Install GCC"):
        extension(engine)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_cache_that_cannot_be_written(engine: Any, commands: list[str], tmp_path: Path) -> None:
    """Where the cache would lie stands something else."""
    (tmp_path / "cache").write_text("")
    with pytest.raises(MissingExtraError, match="Set XDG_CACHE_HOME to a folder that can be written"):
        extension(engine)
    assert not commands


def test_sources_that_were_not_installed(engine: Any, commands: list[str]) -> None:
    """An installation from before there was an extension says which file is missing."""
    kernels = module.library_path()
    assert kernels is not None
    os.remove(kernels.parent / "openvino" / SOURCES[0])
    with pytest.raises(MissingExtraError, match=r"extension.cpp, of which .* was not installed"):
        extension(engine)


def test_kernels_left_out(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is built for kernels that may not be used."""

    def refuse() -> None:
        raise MissingExtraError.at("native kernels", "GNNEXPORT_KERNELS=none leaves them out", "Unset it")

    monkeypatch.setattr(module, "library", refuse)
    with pytest.raises(MissingExtraError, match="leaves them out"):
        extension(engine)


def test_outlook(engine: Any, commands: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to come is told without building anything, and what was built is known."""
    assert outlook(engine) == "will be built on first use with c++"
    monkeypatch.setenv("CXX", "ccache g++")
    assert outlook(engine) == "will be built on first use with ccache g++"
    assert not commands
    assert not (tmp_path / "cache").exists()
    extension(engine)
    assert outlook(engine) == "built and cached"


def _no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: None)


def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("")


def _no_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openvino" / LIBRARIES[0]).unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_no_compiler, r"there is no compiler 'c\+\+'\. Install GCC or Clang"),
        (_no_cache, "cannot be written.*Set XDG_CACHE_HOME"),
        (_no_libraries, "lacks the libraries"),
    ],
)
def test_outlook_of_what_cannot_be_built(
    change: Callable[[Path, pytest.MonkeyPatch], None],
    words: str,
    engine: Any,
    commands: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody has to try in order to learn what is missing."""
    change(tmp_path, monkeypatch)
    with pytest.raises(MissingExtraError, match=words):
        outlook(engine)
