"""Build the kernels' extension for OpenVINO on first use, and keep it.

An extension belongs to one release of OpenVINO, so that it cannot be shipped; its sources are, beside the kernels'
library. It knows that library by name only, which is open before it is loaded.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gnnexport.errors import MissingExtraError
from gnnexport.native.library import ABI, library, library_path

WHERE = "native kernels"
FILE = "extension.so"
FOLDER = "openvino"
SOURCES = ("extension.cpp", "call.hpp", "operators.hpp", "gnnexport/kernels.h")
"""Below this folder beside the library."""

_COMPILERS = ("c++", "g++", "clang++")
_WITHOUT = ". Or make the model with --target='openvino{portable=true}'"
_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden")


def extension(engine: Any) -> Path:
    """Return the extension for an OpenVINO, built now unless it was built before; the kernels' library is open then.

    Args:
        engine: the module `openvino`.

    Raises:
        MissingExtraError: the kernels cannot serve, or the extension cannot be built.
    """
    library()
    return _built(str(engine.__version__), Path(engine.__file__).parent, _cache())


def outlook(engine: Any) -> str:
    """Tell whether the extension for an OpenVINO was built, or what will build it on first use; nothing is built now.

    Args:
        engine: the module `openvino`.

    Raises:
        MissingExtraError: the kernels cannot serve, or the extension cannot be built or kept.
    """
    library()
    package, cache = Path(engine.__file__).parent, _cache()
    path = _place(str(engine.__version__), package, cache)
    if os.path.isfile(path):
        return "built and cached"
    folder = next(parent for parent in path.parents if os.path.exists(parent))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise _not_kept(cache, f"{folder} cannot be written")
    _libraries(package)
    return f"will be built on first use with {shlex.join(_compiler())}"


@functools.cache
def _built(version: str, package: Path, cache: Path) -> Path:
    try:
        path = _place(version, package, cache)
        if not path.is_file():
            _build(path, package)
    except OSError as error:
        raise _not_kept(cache, str(error)) from error
    return path


def _kernels() -> Path:
    kernels = library_path()
    assert kernels is not None
    return kernels


def _place(version: str, package: Path, cache: Path) -> Path:
    return cache / f"openvino-{_key(version, package)}" / FILE


def _not_kept(cache: Path, reason: str) -> MissingExtraError:
    what = f"their extension for openvino cannot be kept in {cache} ({reason})"
    return MissingExtraError.at(WHERE, what, "Set XDG_CACHE_HOME to a folder that can be written")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gnnexport"


def _key(version: str, package: Path) -> str:
    """Name what the extension depends on: the release, and a digest of its build and place, and of all our part."""
    digest = hashlib.sha256(repr((version, str(package), ABI, sys.platform, platform.machine(), _FLAGS)).encode())
    for name in SOURCES:
        path = _kernels().parent / FOLDER / name
        if not path.is_file():
            what = f"{path}, of which their extension for openvino is made, was not installed"
            raise MissingExtraError.at(WHERE, what, "Run: pip install --force-reinstall --no-deps gnnexport")
        digest.update(path.read_bytes())
    return f"{version.partition('-')[0]}-{digest.hexdigest()[:16]}"


def _build(path: Path, package: Path) -> None:
    """Compile beside the place and move there in one step: whoever comes at the same time sees all of it or nothing."""
    kernels = _kernels()
    sources = kernels.parent / FOLDER
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        out = Path(folder) / FILE
        command = [*_compiler(), *_FLAGS, *_of_release(package), f"-I{sources}", "-isystem", str(package / "include")]
        linked = [kernels, *_libraries(package)]
        command += [str(sources / SOURCES[0]), *map(str, linked), f"-Wl,-rpath,{package / 'libs'}", "-o", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode or not out.is_file():
            what = f"{command[0]} cannot build their extension for openvino ({_reason(done)})"
            mend = f"Install GCC or Clang with C++17, or name it in the variable CXX{_WITHOUT}"
            raise MissingExtraError.at(WHERE, what, mend)
        os.replace(out, path)


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CXX", ""))
    command = named or [next((name for name in _COMPILERS if shutil.which(name)), _COMPILERS[0])]
    if shutil.which(command[0]) is None:
        what = f"their extension for openvino is built on first use, and there is no compiler '{command[0]}'"
        mend = f"Install GCC or Clang, or name it in the variable CXX{_WITHOUT}"
        raise MissingExtraError.at(WHERE, what, mend)
    return command


def _of_release(package: Path) -> list[str]:
    """Return what OpenVINO itself was compiled with, where it matters: how strings look in memory."""
    config = package / "cmake" / "OpenVINOConfig.cmake"
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    found = re.search(r'set\(OpenVINO_GLIBCXX_USE_CXX11_ABI "([01])"\)', text)
    return [f"-D_GLIBCXX_USE_CXX11_ABI={found[1]}"] if found else []


def _libraries(package: Path) -> list[Path]:
    """Return OpenVINO's library, its reader's and that of its threads, by the names that this release gives them."""
    patterns = ("libopenvino.*", "libopenvino_onnx_frontend.*", "libtbb.*")
    found = [sorted((package / "libs").glob(pattern)) for pattern in patterns]
    libraries = [path for paths in found for path in paths if ".so" in path.name or path.suffix == ".dylib"]
    if len(libraries) < len(found):
        what = f"{package} lacks the libraries that their extension for openvino is built with"
        raise MissingExtraError.at(WHERE, what, "Run: pip install --force-reinstall openvino")
    return libraries


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[-1] if lines else f"status {done.returncode}")
