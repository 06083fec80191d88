"""What an installation holds, with a compiler and without one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gnnexport.errors import MissingExtraError
from gnnexport.native import library
from gnnexport.native.openvino_extension import SOURCES
from tests.road import write_road
from tests.wheel import LINKED, NO_KERNELS, QUICK_KERNELS, REPOSITORY, build_wheel

needs_compiler = pytest.mark.skipif(
    shutil.which("cmake") is None or not any(map(shutil.which, ("c++", "g++", "clang++"))),
    reason="no CMake or no C++ compiler on this machine",
)

HIDDEN = {"compiler": {"CXX": os.devnull}, "everything": {"PATH": ""}}
"""Variables that hide what compiles: CMake is there and cannot compile; CMake is not there either."""


def contents(wheel: Path) -> set[str]:
    """Name the files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def run(*command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command where nothing of this repository is on the path but what the variables name."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "GNNEXPORT_KERNELS")}
    return subprocess.run(command, cwd=cwd, env=kept | variables, capture_output=True, text=True)


def call_backend(call: str, folder: Path) -> Path:
    """Call the build backend as pip does and return what it made in a folder."""
    code = f"import backend; print(backend.{call})"
    paths = {"PYTHONPATH": str(REPOSITORY / "kernels"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = run(sys.executable, "-c", code, cwd=REPOSITORY, **paths)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@needs_compiler
def test_wheel_holds_the_library(tmp_path: Path) -> None:
    """The wheel has the library, and the sources of its extension, beside what opens them, for this platform."""
    wheel = build_wheel(tmp_path, QUICK_KERNELS)
    assert [name for name in contents(wheel) if "libgnnexport" in name or "gnnexport.dll" in name] == [
        f"gnnexport/native/{library.FILE}"
    ]
    assert {f"gnnexport/native/openvino/{name}" for name in SOURCES} <= contents(wheel)
    interpreter, abi, platform = wheel.stem.split("-")[-3:]
    assert (interpreter, abi) == ("py3", "none")
    assert platform != "any"


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
def test_without_a_compiler_the_wheel_is_for_all_platforms(hidden: dict[str, str], tmp_path: Path) -> None:
    """Where nothing can be compiled a wheel is built all the same, without the library and for any platform."""
    wheel = build_wheel(tmp_path, **hidden)
    assert wheel.name.endswith("-py3-none-any.whl")
    held = contents(wheel)
    assert "gnnexport/native/library.py" in held
    assert f"gnnexport/native/{library.FILE}" not in held


def test_kernels_that_are_demanded(tmp_path: Path) -> None:
    """Who asks for the kernels by name gets an error where they cannot be built, not a wheel without them."""
    call = f"build_wheel({str(tmp_path)!r}, {{'wheel.cmake': 'true'}})"
    paths = {"PYTHONPATH": str(REPOSITORY / "kernels"), "PYTHONDONTWRITEBYTECODE": "1", "CXX": os.devnull}
    done = run(sys.executable, "-c", f"import backend; backend.{call}", cwd=REPOSITORY, **paths)
    assert done.returncode != 0
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def pure(tmp_path: Path) -> Path:
    """A folder with an installation that has no kernels."""
    installed = tmp_path / "installed"
    with zipfile.ZipFile(build_wheel(tmp_path, NO_KERNELS)) as archive:
        archive.extractall(installed)
    return installed


def test_kernels_of_another_installation_do_not_serve(pure: Path, tmp_path: Path) -> None:
    """An installation without kernels says so, whatever other installation lies further down the path."""
    code = "from gnnexport.native import library; print(library.why_missing())"
    asked = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(pure))
    assert asked.stdout == "they were not built with this installation\n", asked.stderr


@pytest.mark.slow
def test_without_kernels_doctor_says_so_and_it_exports(pure: Path, tmp_path: Path) -> None:
    """Without kernels `doctor` names the mend, and `export` finds other lowerings and proves the result."""
    gnnexport = (sys.executable, "-m", "gnnexport")
    examined = run(*gnnexport, "doctor", "--json", cwd=tmp_path, PYTHONPATH=str(pure))
    (entry,) = [entry for entry in json.loads(examined.stdout) if entry["name"] == "native kernels"]
    assert not entry["ok"]
    assert entry["version"] == "they were not built with this installation"
    assert entry["mend"].startswith("Other lowerings serve. Install a C++17 compiler")
    model = write_road(tmp_path / "road")
    options = ("--target=ort", "--time-budget=5s", "--json")
    exported = run(*gnnexport, "export", str(model), *options, cwd=tmp_path, PYTHONPATH=str(pure))
    assert exported.returncode == 0, exported.stderr
    assert json.loads(exported.stdout)["verdict"] == "pass"


def test_editable_wheel_leads_to_the_sources(tmp_path: Path) -> None:
    """An editable installation is a line on the path, so that what comes earlier on it wins, as it does for others."""
    wheel = call_backend(f"build_editable({str(tmp_path)!r}, {{'wheel.cmake': 'false'}})", tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("gnnexport.pth").decode() == f"{REPOSITORY}\n"
    assert [name for name in contents(wheel) if name.endswith(".py")] == []


def test_source_distribution_builds_elsewhere(tmp_path: Path) -> None:
    """A source distribution holds what compiles the kernels, and files in the place of links."""
    archive = call_backend(f"build_sdist({str(tmp_path)!r})", tmp_path)
    with tarfile.open(archive) as opened:
        held = {member.name.partition("/")[2]: member for member in opened.getmembers()}
    assert not [name for name, member in held.items() if member.issym() or member.islnk()]
    sources = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "kernels" / "src").iterdir()}
    linked = {f"gnnexport/{name}/__init__.py" for name in LINKED}
    assert held.keys() >= sources | linked | {"kernels/CMakeLists.txt", "kernels/backend.py", "gnnexport/py.typed"}


@pytest.fixture
def reopened() -> Iterator[None]:
    """Forget the opened library before a test and after it."""
    library._opened.cache_clear()
    yield
    library._opened.cache_clear()


@pytest.mark.usefixtures("reopened")
class TestReasons:
    """Why the kernels do not serve, and what helps."""

    def test_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the user set is named, and the mend is to unset it."""
        monkeypatch.setenv("GNNEXPORT_KERNELS", library.DISABLE)
        assert library.why_missing() == "GNNEXPORT_KERNELS=none leaves them out"
        assert library.how_to_mend() == "Unset GNNEXPORT_KERNELS"

    def test_unknown_instructions(self, tmp_path: Path) -> None:
        """Instructions that the processor lacks or nobody knows are refused when the library is opened."""
        if library.why_missing() is not None:
            pytest.skip(str(library.why_missing()))
        code = "from gnnexport.native import library; print(library.why_missing()); print(library.how_to_mend())"
        done = run(sys.executable, "-c", code, cwd=tmp_path, GNNEXPORT_KERNELS="mmx")
        assert done.stdout.splitlines() == [
            "GNNEXPORT_KERNELS=mmx names no instruction set of this processor",
            "Set it to one of amx, avx512, avx2, portable that the processor has, to none, or unset it",
        ]

    def test_not_built(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An installation without the library tells what to install, with the exact pip line."""
        monkeypatch.setattr(library, "library_path", lambda: None)
        with pytest.raises(MissingExtraError, match=r"they were not built.* compiler .*: pip install .* gnnexport"):
            library.library()

    def test_cannot_be_opened(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that is no library is a reason, not a crash."""
        broken = tmp_path / library.FILE
        broken.write_text("no library")
        monkeypatch.setattr(library, "library_path", lambda: broken)
        assert str(library.why_missing()).startswith(f"{library.FILE} cannot be opened (")


@pytest.mark.slow
@needs_compiler
def test_a_wheel_runs_in_a_fresh_environment(tmp_path: Path) -> None:
    """With the base installation only, the kernels of the wheel compute; pip needs a network."""
    wheel = build_wheel(tmp_path)
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", str(environment), cwd=tmp_path).check_returncode()
    python = str(environment / ("Scripts" if os.name == "nt" else "bin") / "python")
    installed = run(python, "-m", "pip", "install", "--quiet", str(wheel), cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    code = """
import numpy as np
from gnnexport.native.kernels import Csr, aggregate
from gnnexport.native.library import library_path
rowptr, col = np.array([0, 2, 2, 3]), np.array([0, 2, 1])
x, out = np.arange(6, dtype=np.float32).reshape(3, 2), np.empty((3, 2), np.float32)
aggregate(Csr(rowptr.ctypes.data, col.ctypes.data, 3, 3, 3), x.ctypes.data, 2, out.ctypes.data)
print(library_path(), out.tolist())
"""
    computed = run(python, "-c", code, cwd=tmp_path)
    assert computed.returncode == 0, computed.stderr
    path, _, sums = computed.stdout.strip().partition(" ")
    assert Path(path).is_relative_to(environment)
    assert sums == "[[4.0, 6.0], [0.0, 0.0], [2.0, 3.0]]"
