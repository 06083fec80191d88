"""The user's own code: functions by `package.module:function` or `file.py:function`, and training scripts.

Importing is running: call these only with what the user gave on the command line, or with `--trust`.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from gnnexport.errors import UsageError, nearest
from gnnexport.frontends.refusal import one_line


def call_function(text: str, folder: Path, what: str, mend: str) -> Any:
    """Import a function that the user named and call it without arguments, its folder importable throughout.

    Args:
        text: `package.module:function` or `file.py:function`.
        folder: where a module or file is looked for when it is neither in the current folder nor installed:
            beside the model or the sidecar.
        what: names the option in messages, such as `builder`.
        mend: what such a function must do, for where this one fails.

    Raises:
        UsageError: another form, a module that cannot be imported, no such function in it, or one that fails.
    """
    where = f"{what} '{text}'"
    source, colon, name = text.rpartition(":")
    if not colon or not source or not name.isidentifier():
        raise UsageError.at(where, "is not of the form package.module:function", form_mend(what))
    with _imported(source, where, form_mend(what), folder) as module:
        function = getattr(module, name, None)
        if not callable(function):
            own = [key for key in functions_of(module) if not key.startswith("_")]
            raise UsageError.at(where, f"'{source}' has no function '{name}'", nearest(name, own))
        try:
            return function()
        except (Exception, SystemExit) as error:
            raised = f"raised {type(error).__name__}: {one_line(error)}"
            raise UsageError.at(where, raised, mend) from error


def form_mend(what: str) -> str:
    """Say how a function is named."""
    return f"Name a function with --{what} package.module:function or file.py:function"


def functions_of(module: ModuleType) -> list[str]:
    """List the functions and classes that a module itself defines."""
    return sorted(
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    )


@contextmanager
def _imported(source: str, where: str, mend: str, folder: Path) -> Iterator[ModuleType]:
    """Import a module or script, with its own folder importable meanwhile.

    A module is looked for in the current folder and among the installed ones, and only then beside the
    model: a file that came with a downloaded model must not stand in for a module the user meant.
    """
    script = Path(source) if source.endswith(".py") else None
    if script is not None and not script.is_absolute() and not script.is_file():
        script = folder / script
    if script is not None and not script.is_file():
        raise UsageError.at(where, f"there is no file '{source}'", mend)
    with importable(script.parent if script else Path.cwd()):
        try:
            if script is not None:
                module = run_script(script)
            else:
                head = source.partition(".")[0]
                forget_strangers([head])
                if importlib.util.find_spec(head) is None:
                    sys.path.append(str(folder.resolve()))
                    forget_strangers(_names_in(folder))
                module = importlib.import_module(source)
        except (Exception, SystemExit) as error:
            raise UsageError.at(where, f"cannot be imported: {_reason(error)}", mend) from error
        yield module


def import_script(path: Path) -> ModuleType:
    """Run a training script for its classes, under a name of our own: its main guard does not hold.

    Raises:
        UsageError: no such file, or the script fails when it is imported.
    """
    where = f"--code {path}"
    if not path.is_file():
        raise UsageError.at(where, "no such file", "Give the Python file in which the model's class stands")
    if path.suffix != ".py":
        raise UsageError.at(where, "is not a Python file", "Give the .py file in which the model's class stands")
    with importable(path.parent):
        try:
            return run_script(path)
        except (Exception, SystemExit) as error:
            mend = 'Put the training under `if __name__ == "__main__":`; only the classes are needed'
            raise UsageError.at(where, f"cannot be imported: {_reason(error)}", mend) from error


def run_script(script: Path) -> ModuleType:
    """Import a script under a name that no installed module has.

    Raises:
        Exception: whatever the script raises.
    """
    script = script.resolve()
    name = _free_name(script)
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise
    return module


def _free_name(script: Path) -> str:
    """Name the module of a script so that it stands in nobody's place; the same script keeps its name."""
    name = f"gnnexport_code_{re.sub(r'[^0-9A-Za-z_]', '_', script.stem)}"
    while name in sys.modules and getattr(sys.modules[name], "__file__", None) != str(script):
        name += "_"
    return name


@contextmanager
def importable(*folders: Path, last: Path | None = None) -> Iterator[None]:
    """Let code import from folders first, and from the last one where nothing else has the module."""
    before = list(sys.path)
    sys.path[:0] = [str(folder.resolve()) for folder in folders]
    sys.path += [] if last is None else [str(last.resolve())]
    try:
        for folder in (*folders, *([] if last is None else [last])):
            forget_strangers(_names_in(folder))
        yield
    finally:
        sys.path[:] = before


def forget_strangers(names: Iterable[str]) -> None:
    """Forget modules that came from a folder which is no longer on the path, so that each is looked for again.

    Two folders with models often have modules of one name; the second model must not get the first one's. What
    is installed, or imported from a folder that is still searched, stays.
    """
    importlib.invalidate_caches()
    searched = {Path(entry).resolve() for entry in sys.path}
    for name in names:
        module = sys.modules.get(name)
        home = None if module is None or name == "__main__" else _home(module)
        if module is None or home is None or home in searched:
            continue
        del sys.modules[name]
        found = importlib.util.find_spec(name)
        if found is not None and found.origin == getattr(module, "__file__", None) is not None:
            # Installed in a way that is not on the path.
            sys.modules[name] = module
            continue
        for part in [part for part in sys.modules if part.startswith(f"{name}.")]:
            del sys.modules[part]


def _home(module: ModuleType) -> Path | None:
    """Return the folder from which a module of the first level was imported; `None` for one without a file."""
    file, folders = getattr(module, "__file__", None), list(getattr(module, "__path__", ()))
    if folders:
        return Path(folders[0]).resolve().parent
    return None if file is None else Path(file).resolve().parent


def _names_in(folder: Path) -> list[str]:
    """List the modules that can be imported from a folder."""
    try:
        entries = [entry for entry in folder.iterdir() if entry.suffix == ".py" or entry.is_dir()]
    except OSError:
        return []
    return sorted({entry.stem for entry in entries if entry.stem.isidentifier()})


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it ends the program (SystemExit {error.code})"
    return f"{type(error).__name__}: {one_line(error)}"
