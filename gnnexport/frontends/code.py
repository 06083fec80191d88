"""The user's own code: functions by `package.module:function` or `file.py:function`, and training scripts.

Importing is running: call these only with what the user gave on the command line, or with `--trust`.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from gnnexport.errors import UsageError, nearest
from gnnexport.frontends.refusal import one_line


def import_function(text: str, folder: Path, what: str) -> Callable[..., Any]:
    """Import a function that the user named.

    Args:
        text: `package.module:function` or `file.py:function`.
        folder: where a module or file is looked for when it is neither in the current folder nor installed:
            beside the model or the sidecar.
        what: names the option in messages, such as `builder`.

    Raises:
        UsageError: another form, a module that cannot be imported, or no such function in it.
    """
    where = f"{what} '{text}'"
    mend = form_mend(what)
    source, colon, name = text.rpartition(":")
    if not colon or not source or not name.isidentifier():
        raise UsageError.at(where, "is not of the form package.module:function", mend)
    module = _import(source, where, mend, folder)
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key in functions_of(module) if not key.startswith("_")]
        raise UsageError.at(where, f"'{source}' has no function '{name}'", nearest(name, own))
    return function  # type: ignore[no-any-return]


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


def _import(source: str, where: str, mend: str, folder: Path) -> ModuleType:
    """Import a module or script, with its own folder importable meanwhile.

    A module is looked for in the current folder and among the installed ones, and only then beside the
    model: a file that came with a downloaded model must not stand in for a module the user meant.
    """
    script = Path(source) if source.endswith(".py") else None
    if script is not None and not script.is_absolute() and not script.is_file():
        script = folder / script
    if script is not None and not script.is_file():
        raise UsageError.at(where, f"there is no file '{source}'", mend)
    with _importable(script.parent if script else Path.cwd()):
        try:
            if script is not None:
                return run_script(script)
            if importlib.util.find_spec(source.partition(".")[0]) is None:
                sys.path.append(str(folder.resolve()))
            return importlib.import_module(source)
        except (Exception, SystemExit) as error:
            raise UsageError.at(where, f"cannot be imported: {_reason(error)}", mend) from error


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
    with _importable(path.parent):
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
def _importable(folder: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path[:] = before


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it ends the program (SystemExit {error.code})"
    return f"{type(error).__name__}: {one_line(error)}"
