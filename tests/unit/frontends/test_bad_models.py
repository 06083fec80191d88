"""The table of wrong things given as a model: every one is an error with its exit code, its words and a mend."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch_geometric.nn import GCN

from gnnexport.errors import GnnExportError
from gnnexport.frontends.model import load_model
from tests.unit.frontends import hostile

BUILDERS = """
from torch_geometric.nn import GCN

class Net(GCN):
    pass

def build():
    return GCN(4, 8, 2, 3)

def text():
    return "no module"

def sized(width):
    return GCN(4, width, 2, 3)

def stops():
    raise SystemExit("no")

NUMBER = 3
"""


def written(content: bytes) -> Callable[[Path], None]:
    """Write bytes where the model should be."""
    return lambda path: _none(path.write_bytes(content))


def saved(thing: Callable[[], object], **options: Any) -> Callable[[Path], None]:
    """Save something else than a model."""
    return lambda path: torch.save(thing(), path, **options)


def cut(share: float) -> Callable[[Path], None]:
    """Save a model and lose the end of the file."""
    return lambda path: _none(path.write_bytes((whole := hostile.saved(GCN(4, 8, 2, 3)))[: int(share * len(whole))]))


def swapped(path: Path) -> None:
    """Exchange two storages of different size."""
    path.write_bytes(hostile.saved(GCN(4, 8, 2, 3)))
    good = path.with_name("good")
    path.rename(good)
    contents: dict[str, bytes] = {}
    hostile.rewrite(good, path, lambda name, content: _none(contents.update({name: content})) or content)
    folder = next(iter(contents)).partition("/")[0]
    one, two = f"{folder}/data/0", f"{folder}/data/1"
    exchanged = {one: contents[two], two: contents[one]}
    hostile.rewrite(good, path, lambda name, content: exchanged.get(name, content))


def _none(value: object) -> None:
    del value


FILES: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "missing": (lambda path: None, 2, "no such file"),
    "empty": (written(b""), 2, "is empty"),
    "text": (written(b"import torch\n"), 2, "is not a zip file"),
    "folder": (lambda path: path.mkdir(), 2, "is not a file"),
    "pipe": (lambda path: os.mkfifo(path), 2, "is not a file"),
    "endless": (lambda path: path.symlink_to("/dev/zero"), 2, "is not a file"),
    "truncated": (cut(0.7), 2, "is truncated or damaged"),
    "legacy": (saved(lambda: GCN(4, 8, 2, 3), _use_new_zipfile_serialization=False), 2, "is not a zip file"),
    "numpy": (lambda path: np.save(path.open("wb"), np.ones(3)), 2, "is not a zip file"),
    "arrays": (lambda path: np.savez(path.open("wb"), x=np.ones(3)), 2, "outside a folder"),
    "tensor": (saved(lambda: torch.ones(3)), 2, "holds a Tensor, not a model"),
    "list": (saved(lambda: [nn.Linear(2, 2)]), 2, "holds a list, not a model"),
    "function": (saved(lambda: functional.relu), 2, "holds a function, not a model"),
    "number": (saved(lambda: 3), 2, "holds a int, not a model"),
    "nothing": (saved(lambda: None), 2, "holds a NoneType, not a model"),
    "dictionary": (saved(lambda: {"epoch": 3}), 2, "holds a dict, not a model"),
    "graph": (saved(lambda: hostile.data()), 2, "holds a graph, not a model.*--data"),
    "weights": (saved(lambda: GCN(4, 8, 2, 3).state_dict()), 2, "weights without their module"),
    "swapped": (swapped, 2, "not what its tensors need"),
    "scripted": (hostile.torchscript, 2, "TorchScript"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_model_is_an_error(name: str, tmp_path: Path) -> None:
    """Whatever lies there, one sentence says what it is, and the exit code is that of bad input."""
    make, code, words = FILES[name]
    make(tmp_path / "model.pt")
    assert_fails(tmp_path / "model.pt", code, words)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("name", sorted(set(FILES) - {"legacy", "swapped"}))
def test_trust_does_not_make_it_a_model(name: str, tmp_path: Path) -> None:
    """The same with `--trust`: an error of the same kind, and neither a hang nor a bug."""
    FILES[name][0](tmp_path / "model.pt")
    assert_fails(tmp_path / "model.pt", 6 if name == "scripted" else 2, "model.pt", trust=True)


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "form": ({"builder": "build"}, "not of the form package.module:function"),
    "no file": ({"builder": "absent.py:build"}, "there is no file 'absent.py'"),
    "no function": ({"builder": "makers.py:bild"}, "Did you mean 'build'"),
    "no callable": ({"builder": "makers.py:NUMBER"}, "has no function 'NUMBER'"),
    "raises": ({"builder": "makers.py:stops"}, "raised SystemExit: no"),
    "arguments": ({"builder": "makers.py:sized"}, "missing 1 required positional argument.*without arguments"),
    "type": ({"builder": "makers.py:text"}, "returned a str, not a torch.nn.Module"),
    "untrusted code": ({"code": "makers.py"}, "is given without --trust"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_wrong_option_is_an_error(name: str, tmp_path: Path) -> None:
    """A builder of any wrong kind, and code without trust."""
    options, words = OPTIONS[name]
    (tmp_path / "makers.py").write_text(BUILDERS)
    torch.save(GCN(4, 8, 2, 3).state_dict(), tmp_path / "model.pt")
    assert_fails(tmp_path / "model.pt", 2, words, **options)


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost permission is bad input, not a bug."""
    torch.save(GCN(4, 8, 2, 3), tmp_path / "model.pt")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert_fails(tmp_path / "model.pt", 2, "Permission denied")


def assert_fails(path: Path, expected: int, words: str, **options: Any) -> None:
    """Loading fails with this code, these words, and a mend."""
    with pytest.raises(GnnExportError, match=words) as caught:
        load_model(path, **options)
    assert caught.value.exit_code == expected
    assert all(problem.mend for problem in caught.value.problems)
    assert str(caught.value).isprintable()
