"""Every file here tries to run code; each family is loaded in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.unit.frontends import hostile

LOADER = """
import json, sys, warnings
from pathlib import Path
from gnnexport.errors import GnnExportError
from gnnexport.frontends.data import load_data
from gnnexport.frontends.model import load_model
import torch

torch.set_num_threads(1)
verdicts = {}
for path in map(Path, sys.argv[2:]):
    try:
        if sys.argv[1] == "trusted":
            torch.load(path, weights_only=False)
        elif sys.argv[1] == "data":
            load_data(path)
        else:
            model = load_model(path)
            if sys.argv[1] == "run":
                model(torch.ones(3, 4), torch.tensor([[0, 1, 2], [1, 2, 0]]))
        verdicts[path.stem] = ["loaded", 0, ""]
    except GnnExportError as error:
        verdicts[path.stem] = [type(error).__name__, error.exit_code, str(error)]
    except Exception as error:
        verdicts[path.stem] = [type(error).__name__, -1, str(error)]
print(json.dumps(verdicts))
"""

Verdicts = dict[str, tuple[str, int, str]]


def load(how: str, paths: list[Path], folder: Path) -> Verdicts:
    """Load files in a fresh process and return the error class, exit code and message of each."""
    command = [sys.executable, "-c", LOADER, how, *map(str, paths)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {name: tuple(verdict) for name, verdict in json.loads(done.stdout.splitlines()[-1]).items()}


def write(folder: Path, objects: dict[str, object]) -> list[Path]:
    """Save each object under its name."""
    paths = []
    for name, thing in objects.items():
        path = folder / f"{name}.pt"
        path.write_bytes(hostile.saved(thing))
        paths.append(path)
    return paths


MEND = "--builder package.module:function"


def assert_refused(verdicts: Verdicts, words: dict[str, str], marker: Path, mend: str = MEND) -> None:
    """Every file of the family was refused with its words and a mend, and none ran."""
    assert not marker.exists()
    assert verdicts.keys() == words.keys()
    for name, (kind, exit_code, message) in verdicts.items():
        assert (kind, exit_code) == ("UnsafeFileError", 2), f"{name}: {kind}: {message}"
        assert words[name] in message, f"{name}: {message}"
        assert mend in message
        assert "--trust" in message


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Where a file that runs leaves its mark."""
    return tmp_path / "it_ran"


CALLS: dict[str, tuple[Callable[[Path], object], str]] = {
    "system": (hostile.by_system, ".system'"),
    "evaluated": (hostile.by_eval, "'builtins.eval'"),
    "system_inside": (lambda marker: hostile.with_attribute("note", hostile.by_system(marker)), ".system'"),
    "evaluated_inside": (lambda marker: nn.Sequential(nn.ReLU(), _holding(hostile.by_eval(marker))), "'builtins.eval'"),
    "sequential_called": (hostile.sequential_made_by_call, "calls 'torch_geometric.nn.sequential.Sequential'"),
}

RENDERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "gcn_type": (hostile.gcn_with_code_in_a_type, "carries code where a type should stand"),
    "gat_name": (hostile.gat_with_code_in_a_default_name, "where a variable's name should stand"),
    "sage_return": (hostile.sage_with_code_in_a_return_type, "carries code where a type should stand"),
    "caller": (hostile.sequential_with_code_in_its_caller, "carries code in the name of its script"),
    "step": (hostile.sequential_with_code_in_a_step, "reads the unknown variable"),
    "argument": (hostile.sequential_with_code_in_an_argument_type, "carries code where a type should stand"),
}


def _holding(value: object) -> nn.Module:
    module = nn.Identity()
    vars(module)["note"] = value
    return module


@pytest.mark.parametrize("family", [CALLS, RENDERED], ids=["calls", "rendered"])
def test_files_that_carry_code_are_refused_and_run_nothing(
    family: dict[str, tuple[Callable[[Path], object], str]], tmp_path: Path, marker: Path
) -> None:
    """A pickled call, and code in the text from which PyG renders methods, are refused by name."""
    paths = write(tmp_path, {name: make(marker) for name, (make, _) in family.items()})
    assert_refused(load("model", paths, tmp_path), {name: words for name, (_, words) in family.items()}, marker)


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """Loaded as Python does, each kind of file runs its code: so the tests above test something."""
    kinds = {
        "system": hostile.by_system,
        "evaluated": hostile.by_eval,
        "called": hostile.sequential_made_by_call,
        "gcn_type": hostile.gcn_with_code_in_a_type,
        "sage_return": hostile.sage_with_code_in_a_return_type,
        "caller": hostile.sequential_with_code_in_its_caller,
    }
    paths = write(tmp_path, {name: make(tmp_path / f"{name}.ran") for name, make in kinds.items()})
    load("trusted", paths, tmp_path)
    assert sorted(path.stem for path in tmp_path.glob("*.ran")) == sorted(kinds)


def test_hooks_and_shadowed_methods_are_refused(tmp_path: Path, marker: Path) -> None:
    """State that would be called, or stands in front of a method, is refused even if it is on the safe list."""
    attacks: dict[str, tuple[object, str]] = {
        "forward_hook": (hostile.with_hook("_forward_hooks"), "_forward_hooks holds a hook"),
        "pre_hook": (hostile.with_hook("_forward_pre_hooks"), "_forward_pre_hooks holds a hook"),
        "message_hook": (hostile.with_hook("_message_forward_hooks"), "_message_forward_hooks holds a hook"),
        "load_hook": (hostile.with_hook("_load_state_dict_post_hooks"), "_load_state_dict_post_hooks holds a hook"),
        "message": (hostile.with_attribute("message", nn.functional.relu), "stands in front of SAGEConv.message"),
        "forward": (hostile.with_attribute("forward", nn.functional.relu), "stands in front of SAGEConv.forward"),
        "propagate": (hostile.with_attribute("propagate", nn.functional.relu), "stands in front of"),
        "collect": (hostile.with_attribute("collect", nn.functional.relu), "stands in front of SAGEConv.collect"),
        "dunder": (hostile.with_attribute("__class__", "Linear"), "has the attribute '__class__'"),
        "child": (hostile.with_entry("_modules", "message", nn.Identity()), "has an entry 'message'"),
        "fx_child": (hostile.with_entry("_modules", f'a", {hostile.code(marker)})#', nn.Identity()), "has an entry"),
        "fx_parameter": (
            hostile.with_entry("_parameters", f'a", {hostile.code(marker)})#', nn.Parameter(torch.ones(1))),
            "has an entry",
        ),
        "not_a_module": (hostile.with_entry("_modules", "extra", nn.functional.relu), "is not a Module"),
    }
    paths = write(tmp_path, {name: thing for name, (thing, _) in attacks.items()})
    words = {name: words for name, (_, words) in attacks.items()}
    # torch.save leaves this attribute out, so it is written under another name and renamed in the pickle.
    other = write(tmp_path, {"other": hostile.with_attribute("Xcompiled_call_impl", nn.functional.relu)})[0]
    hostile.rename_in_pickle(other, tmp_path / "compiled.pt", b"Xcompiled_call_impl", b"_compiled_call_impl")
    paths, words["compiled"] = [*paths, tmp_path / "compiled.pt"], "stands in front of SAGEConv._compiled_call_impl"
    assert_refused(load("run", paths, tmp_path), words, marker)


def test_hostile_data_is_refused(tmp_path: Path, marker: Path) -> None:
    """A data file is read as carefully as a model."""
    attacks: dict[str, tuple[object, str]] = {
        "system": (hostile.data(note=hostile.by_system(marker)), ".system'"),
        "evaluated": (hostile.data(y2=hostile.by_eval(marker)), "'builtins.eval'"),
        "called": (hostile.data(net=hostile.sequential_made_by_call(marker)), "calls 'torch_geometric.nn.sequential"),
        "gcn_type": (hostile.data(net=hostile.gcn_with_code_in_a_type(marker)), "carries code where a type"),
        "caller": (hostile.data(net=hostile.sequential_with_code_in_its_caller(marker)), "carries code in the name"),
        "shadow": (hostile.data_with_state(to=nn.functional.relu), "in front of its methods"),
        "hook": (hostile.data(net=hostile.with_hook("_forward_hooks")), "_forward_hooks holds a hook"),
    }
    paths = write(tmp_path, {name: thing for name, (thing, _) in attacks.items()})
    words = {name: words for name, (_, words) in attacks.items()}
    assert_refused(load("data", paths, tmp_path), words, marker, mend="Save the arrays as .npz")


def test_a_script_named_in_a_file_is_not_imported(tmp_path: Path, marker: Path) -> None:
    """A `Sequential` names the script that made it; a module of that name beside the file is left alone."""
    (tmp_path / "trap.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    paths = write(tmp_path, {"honest_looking": hostile.sequential_from_a_sibling("trap")})
    assert load("run", paths, tmp_path)["honest_looking"] == ("loaded", 0, "")
    assert not marker.exists()
