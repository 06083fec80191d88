from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCN, GCNConv, SGConv

from gnnexport.errors import UnsafeFileError, UsageError
from gnnexport.frontends.model import load_model, model_digest

X, EDGES = torch.ones(3, 4), torch.tensor([[0, 1, 2], [1, 2, 0]])

BUILDER = """
from torch_geometric.nn import GCN

def build():
    return GCN(4, 8, 2, 3)

def wider():
    return GCN(4, 16, 2, 3)

def text():
    return "no module"

def fails():
    raise RuntimeError("no data here")
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A state dict with its builder beside it."""
    (tmp_path / "make_model.py").write_text(BUILDER)
    torch.save(GCN(4, 8, 2, 3).state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


class Local(nn.Module):
    """A class that no other process knows by this name."""


def test_a_model_comes_in_eval_mode_without_caches(tmp_path: Path) -> None:
    """What layers with `cached=True` remember of the training graph is forgotten, so another graph works."""
    model = nn.ModuleList([GCNConv(4, 4, cached=True), SGConv(4, 4, cached=True)]).train()
    for layer in model:
        layer(X, EDGES)
    assert model[0]._cached_edge_index is not None
    torch.save(model, tmp_path / "model.pt")
    for trust in (False, True):
        loaded = load_model(tmp_path / "model.pt", trust=trust)
        assert isinstance(loaded, nn.ModuleList)
        assert not loaded.training
        assert not any(module.training for module in loaded.modules())
        assert (loaded[0]._cached_edge_index, loaded[0]._cached_adj_t, loaded[1]._cached_x) == (None, None, None)


@pytest.mark.parametrize("builder", ["make_model:build", "make_model.py:build"])
def test_a_builder_makes_the_module_of_a_state_dict(builder: str, weights: Path) -> None:
    """The function is found beside the model, by module name or by file."""
    loaded = load_model(weights, builder=builder)
    expected = torch.load(weights)
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_a_file_beside_the_model_does_not_stand_in_for_a_module(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder and installed modules come first: a downloaded folder cannot take their names."""
    here = weights.parent / "here"
    here.mkdir()
    (here / "own_builder.py").write_text(BUILDER)
    (weights.parent / "own_builder.py").write_text("raise RuntimeError('the wrong one')")
    (weights.parent / "json.py").write_text(BUILDER)
    monkeypatch.chdir(here)
    assert isinstance(load_model(weights, builder="own_builder:build"), GCN)
    with pytest.raises(UsageError, match="'json' has no function 'build'"):
        load_model(weights, builder="json:build")
    assert isinstance(load_model(weights, builder="json.py:build"), GCN)
    assert "gnnexport_code_json" in sys.modules
    assert hasattr(sys.modules["json"], "loads")


def test_weights_inside_a_training_checkpoint_are_found(weights: Path) -> None:
    """A checkpoint with `state_dict` beside an epoch count is taken."""
    torch.save({"epoch": 3, "state_dict": torch.load(weights)}, weights)
    assert isinstance(load_model(weights, builder="make_model:build"), GCN)


@pytest.mark.parametrize(
    ("builder", "words"),
    [
        ("make_model", "not of the form package.module:function"),
        ("no_such_module:build", "cannot be imported: ModuleNotFoundError"),
        ("no_such_file.py:build", "there is no file"),
        ("make_model.py:absent", "has no function 'absent'"),
        ("make_model.py:text", "returned a str, not a torch.nn.Module"),
        ("make_model.py:fails", "raised RuntimeError: no data here"),
        ("make_model.py:wider", r"is \[8, 4\], the module wants \[16, 4\]"),
    ],
)
def test_a_wrong_builder_is_named_with_its_fault(builder: str, words: str, weights: Path) -> None:
    """Every way a builder can be wrong is a usage error that names it."""
    with pytest.raises(UsageError, match=words):
        load_model(weights, builder=builder)


def test_missing_and_unknown_weights_are_listed(weights: Path) -> None:
    """Weights that do not fit say which are missing and which are too many."""
    state = torch.load(weights)
    state["extra.weight"] = state.pop("convs.0.bias")
    torch.save(state, weights)
    with pytest.raises(UsageError, match=r"lacks 'convs\.0\.bias'; has 'extra\.weight', which the module does not"):
        load_model(weights, builder="make_model:build")


def test_what_is_not_a_model_says_what_it_is(weights: Path, tmp_path: Path) -> None:
    """A state dict alone, a list, an exported program: each with its mend."""
    with pytest.raises(UsageError, match=r"state dict: weights without their module.*--builder"):
        load_model(weights)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UsageError, match=r"holds a list, not a model.*torch.save\(model"):
        load_model(tmp_path / "list.pt")
    with pytest.raises(UsageError, match="no state dict"):
        load_model(tmp_path / "list.pt", builder=f"{weights.parent / 'make_model.py'}:build")


def test_a_class_of_the_users_own_needs_the_builder(tmp_path: Path) -> None:
    """A class that is not torch's or PyG's is refused by name, and found when the user trusts the file."""
    torch.save(Local(), tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError, match=r"test_model\.Local' *, which is not on the safe list"):
        load_model(tmp_path / "model.pt")
    assert isinstance(load_model(tmp_path / "model.pt", trust=True), Local)


def test_trust_cannot_find_a_class_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of the training script is not in the file: the message says so and names the builder."""
    torch.save(Local(), tmp_path / "model.pt")
    monkeypatch.delitem(globals(), "Local")
    with pytest.raises(UsageError, match=r"cannot be found.*--builder"):
        load_model(tmp_path / "model.pt", trust=True)


def test_a_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    """The digest is SHA-256 in hexadecimal."""
    (tmp_path / "model.pt").write_bytes(b"abc")
    assert model_digest(tmp_path / "model.pt").startswith("ba7816bf8f01cfea")
