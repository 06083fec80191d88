from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gnnexport.errors import UsageError
from gnnexport.frontends.code import call_function, import_script

SCRIPT = """
import sibling

class Net:
    size = sibling.SIZE

def load():
    return Net()

if __name__ == "__main__":
    raise RuntimeError("trains")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A training script with a module beside it."""
    (tmp_path / "train_d.py").write_text(SCRIPT)
    (tmp_path / "sibling.py").write_text("SIZE = 3\n")
    yield tmp_path
    sys.modules.pop("sibling", None)


def test_a_function_is_found_in_a_script_beside_the_model(folder: Path) -> None:
    """The script imports from its own folder, and the search path is left as it was."""
    before = list(sys.path)
    assert call_function("train_d.py:load", folder, "builder", "").size == 3
    assert sys.path == before


def test_a_function_may_import_when_it_is_called(folder: Path) -> None:
    """An import inside the function finds what lies beside its script."""
    (folder / "late_d.py").write_text("def load():\n    from sibling import SIZE\n    return SIZE\n")
    assert call_function("late_d.py:load", folder, "data", "") == 3
    sys.modules.pop("sibling")
    assert call_function("late_d:load", folder, "data", "") == 3


@pytest.mark.parametrize("text", ["made_d:build", "made_d.py:build", "kit_d.made:build"])
def test_code_of_the_same_name_in_another_folder_is_not_mistaken(text: str, tmp_path: Path) -> None:
    """The second model gets its own builder, and what that imports, not the first one's."""
    for number, place in enumerate(("first", "second")):
        (tmp_path / place / "kit_d").mkdir(parents=True)
        (tmp_path / place / "parts_d.py").write_text(f"SIZE = {number}\n")
        for home in (tmp_path / place, tmp_path / place / "kit_d"):
            (home / "made_d.py").write_text("from parts_d import SIZE\ndef build():\n    return SIZE\n")
        (tmp_path / place / "kit_d" / "made.py").write_text((tmp_path / place / "made_d.py").read_text())
    found = [call_function(text, tmp_path / place, "builder", "") for place in ("first", "second", "first")]
    assert found == [0, 1, 0]
    (tmp_path / "third").mkdir()
    with pytest.raises(UsageError, match=r"cannot be imported|there is no file"):
        call_function(text, tmp_path / "third", "builder", "")


def test_modules_on_the_path_are_not_imported_again(folder: Path) -> None:
    """A file beside a model that has the name of an installed module does not push that one out."""
    (folder / "pytest.py").write_text("def load(): return 'not the installed one'\n")
    before = dict(sys.modules)
    call_function("train_d.py:load", folder, "data", "")
    assert all(sys.modules[name] is module for name, module in before.items())


def test_an_absent_function_names_the_nearest(folder: Path) -> None:
    """The mend lists what the script defines itself, not what it imports."""
    with pytest.raises(UsageError, match=r"has no function 'laod'. Did you mean 'load'\? Known: Net, load\."):
        call_function("train_d.py:laod", folder, "builder", "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("load", r"--data package.module:function or file.py:function"),
        ("absent_d.py:load", "there is no file"),
        ("no_such_module_d:load", "ModuleNotFoundError"),
    ],
)
def test_a_wrong_name_is_a_usage_error(text: str, words: str, folder: Path) -> None:
    """Every fault of the option is named with how to give it."""
    with pytest.raises(UsageError, match=words):
        call_function(text, folder, "data", "")


def test_a_script_runs_without_its_main_guard(folder: Path) -> None:
    """The training under the guard does not run."""
    module = import_script(folder / "train_d.py")
    assert module.__name__ != "__main__"
    assert module.Net.size == 3


def test_a_script_keeps_its_name_however_it_is_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path and an absolute one are the same script, whose module is replaced and not joined by another."""
    monkeypatch.chdir(folder)
    names = [import_script(path).__name__ for path in (Path("train_d.py"), folder / "train_d.py", Path("train_d.py"))]
    assert len(set(names)) == 1


def test_two_scripts_of_one_name_stay_apart(folder: Path) -> None:
    """The module of a script does not take the place of another script's."""
    (folder / "other").mkdir()
    (folder / "other" / "train_d.py").write_text("class Net: size = 4")
    first, second = import_script(folder / "train_d.py"), import_script(folder / "other" / "train_d.py")
    assert (first.Net.size, second.Net.size) == (3, 4)
    assert sys.modules[first.__name__] is first
    assert sys.modules[second.__name__] is second


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise ValueError('no data here')", r"ValueError: no data here\. Put the training under `if __name__"),
        ("import sys; sys.exit(3)", r"ends the program \(SystemExit 3\)"),
        ("def broken(:", "SyntaxError"),
        ("import absent_module_d", "No module named 'absent_module_d'"),
    ],
)
def test_a_script_that_fails_says_how_to_make_it_importable(text: str, words: str, tmp_path: Path) -> None:
    """A failing import is the user's to mend: the message shows the error and names the main guard."""
    (tmp_path / "bad_d.py").write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        import_script(tmp_path / "bad_d.py")
    assert caught.value.exit_code == 2
    assert "gnnexport_code_bad_d" not in sys.modules


def test_what_is_not_a_script_is_named(tmp_path: Path) -> None:
    """A missing file and a file of another kind are told apart."""
    with pytest.raises(UsageError, match="no such file"):
        import_script(tmp_path / "absent.py")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match="is not a Python file"):
        import_script(tmp_path / "notes.txt")
