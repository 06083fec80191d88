"""Files that the user trusts, unpickled as Python does, with the classes of the user's own code at hand."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch_geometric.nn import Sequential

from gnnexport.errors import UsageError, nearest
from gnnexport.frontends.code import functions_of, import_script, importable
from gnnexport.frontends.refusal import one_line, quoted, require_file
from gnnexport.frontends.weights import BUILDER_MEND

MAIN = "__main__"
CODE_MEND = f"Give the script that defines it: --trust --code train.py. Or save a state dict. {BUILDER_MEND}"
_ABSENT = re.compile(r"Can't get attribute '(?P<name>[^']+)' on <module '(?P<module>[^']+)'")


def load_trusted(path: Path, code: Path | None = None) -> object:
    """Unpickle a file, running whatever it holds.

    Classes are looked for among the installed modules, in the current folder, beside the file, and with
    `code` in that script, which is imported for it, and beside the script.

    Args:
        path: written by `torch.save`.
        code: the training script; its classes stand for those that the file names in `__main__`, and in a
            module of the script's name.

    Raises:
        UsageError: a missing or damaged file, a class that is not found, or code in it that fails.
    """
    require_file(path, "Give the path of a file written by torch.save")
    script = None if code is None else import_script(_found(code, path.parent))
    try:
        with _classes_at_hand(script, code, path.parent), warnings.catch_warnings():
            # torch and PyG warn of files of other versions; that is the user's to know already, not an error.
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=False)
    except AttributeError as error:
        raise _absent_class(error, path, script, code) from error
    except ImportError as error:
        what = f"its classes cannot be found ({quoted(str(error))})"
        mend = f"Run the command where that module can be imported. {CODE_MEND}"
        raise UsageError.at(str(path), what, mend) from error
    except (Exception, SystemExit) as error:
        what = f"cannot be loaded ({type(error).__name__}: {one_line(error)})"
        raise UsageError.at(str(path), what, "Copy it again, or write it again with torch.save") from error
    if script is not None and isinstance(loaded, torch.nn.Module):
        _name_script(loaded, script)
    return loaded


def _found(code: Path, folder: Path) -> Path:
    beside = folder / code
    return beside if not code.is_file() and beside.is_file() else code


@contextmanager
def _classes_at_hand(script: ModuleType | None, code: Path | None, folder: Path) -> Iterator[None]:
    """Let a script stand for `__main__` and for the module of its name, and own packages be importable."""
    stands_in: dict[str, ModuleType] = {}
    if script is not None and code is not None:
        stands_in[MAIN] = script
        if code.stem not in sys.stdlib_module_names and code.stem not in sys.modules:
            stands_in[code.stem] = script
    before = {name: sys.modules.get(name) for name in stands_in}
    beside = [] if script is None else [Path(str(script.__file__)).parent]
    with importable(*beside, Path.cwd(), last=folder):
        sys.modules.update(stands_in)
        try:
            yield
        finally:
            for name, module in before.items():
                if module is None:
                    sys.modules.pop(name, None)
                else:
                    sys.modules[name] = module


def _absent_class(error: AttributeError, path: Path, script: ModuleType | None, code: Path | None) -> UsageError:
    match = _ABSENT.search(str(error))
    if match is None:
        what = f"cannot be loaded (AttributeError: {one_line(error)})"
        return UsageError.at(str(path), what, "Its code does not work with the versions installed here")
    name, module = match["name"], match["module"]
    # A program started with `python -m` shows the whole name of its main module.
    in_main = module.rpartition(".")[2] == MAIN
    if script is not None and (in_main or module == script.__name__):
        what = f"defines no {quoted(name)}, which {path.name} is made of"
        return UsageError.at(f"--code {code}", what, nearest(name, functions_of(script)))
    where = "the training script" if in_main else f"the module {quoted(module)}"
    what = f"its class {quoted(name)} cannot be found: it was defined in {where}"
    return UsageError.at(str(path), what, CODE_MEND)


def _name_script(model: torch.nn.Module, script: ModuleType) -> None:
    """Tell each `Sequential` what its script is called here: a copy of one imports from there."""
    for module in model.modules():
        if isinstance(module, Sequential) and (
            module._caller_module == MAIN or module._caller_module not in sys.modules
        ):
            vars(module)["_caller_module"] = script.__name__
