from __future__ import annotations

import importlib
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import gnnexport
from tests.wheel import LINKED, NO_KERNELS, REPOSITORY, build_wheel


def modules(folder: Path, prefix: str) -> set[str]:
    """Name the modules of a folder as the wheel does."""
    return {prefix + path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}


@pytest.mark.parametrize("name", LINKED)
def test_links_are_relative(name: str) -> None:
    """The packages of passes and targets are links that hold in any clone."""
    link = REPOSITORY / "gnnexport" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert (link / "__init__.py").is_file()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel without kernels, built once."""
    return build_wheel(tmp_path_factory.mktemp("wheel"), NO_KERNELS)


def test_wheel_holds_real_files(wheel: Path) -> None:
    """Every module is in the wheel as a file with content, those behind the links too."""
    expected = modules(REPOSITORY / "gnnexport", "gnnexport/")
    for name in LINKED:
        expected |= modules(REPOSITORY / name, f"gnnexport/{name}/")
    with zipfile.ZipFile(wheel) as archive:
        held = {item.filename: item for item in archive.infolist()}
        assert {name for name in held if name.endswith(".py")} == expected
        assert "gnnexport/py.typed" in held
        is_link = 0o120000
        assert [name for name, item in held.items() if (item.external_attr >> 16) & 0o170000 == is_link] == []
        for name in LINKED:
            assert archive.read(f"gnnexport/{name}/__init__.py") == (REPOSITORY / name / "__init__.py").read_bytes()


def test_wheel_starts(wheel: Path, tmp_path: Path) -> None:
    """The command line runs from the wheel alone."""
    code = f"import sys; sys.path.insert(0, {str(wheel)!r}); import gnnexport; print(gnnexport.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code + "; from gnnexport.cli import app; app.run(['--help'])"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(wheel) in done.stdout
    assert "Commands:" in done.stdout


def test_public_names() -> None:
    """The public names are the commands and `load`; adding one is a decision."""
    assert gnnexport.__all__ == [
        "bench",
        "compress",
        "doctor",
        "export",
        "inspect",
        "load",
        "passes",
        "targets",
        "validate",
    ]


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    """A typing mistake is told as for any module."""
    with pytest.raises(AttributeError, match="module 'gnnexport' has no attribute 'compres'"):
        _ = gnnexport.compres


@pytest.mark.parametrize("name", [*LINKED, "validate"])
def test_a_package_with_the_name_of_a_command_is_called_like_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`gnnexport.validate` is a package and a command, whatever was imported before."""
    package = importlib.import_module(f"gnnexport.{name}")
    api = ModuleType("gnnexport.api")
    setattr(api, name, lambda *args, **options: (args, options))
    monkeypatch.setitem(sys.modules, "gnnexport.api", api)
    assert getattr(gnnexport, name) is package
    assert package("b", data=1) == (("b",), {"data": 1})


def test_importing_gnnexport_imports_nothing_heavy() -> None:
    """A serving machine pays for torch neither on import nor on `load`."""
    code = "import gnnexport, sys; gnnexport.load; print([n for n in ('torch', 'torch_geometric') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
