from __future__ import annotations

from pathlib import Path

import pytest

from gnnexport.errors import SpecError, UsageError
from gnnexport.frontends.sidecar import read_recipe, read_sidecar

WHOLE = """
schema = 1
[model]
builder = "make_model.py:build"
[data]
path = "sub/data.npz"
split = 2
[task]
kind = "node-classification"
metric = "f1-micro"
[training]
loss = "cross-entropy"
lr = 0.01
weight_decay = 0
epochs = 200
patience = 50
[compress]
passes = ["fold-norms", "prune-channels{keep=0.5}"]
target = "ort"
max_drop = "0.5pp"
min_speedup = 2
"""


def sidecar(folder: Path, text: str) -> Path:
    """Write the sidecar and return the path of the model it lies beside."""
    (folder / "gnnexport.toml").write_text(text)
    return folder / "model.pt"


def test_every_key_is_read(tmp_path: Path) -> None:
    """Single texts become lists, budgets stay text, and paths start at the sidecar."""
    found = read_sidecar(sidecar(tmp_path, WHOLE))
    assert found.data_path == tmp_path / "sub" / "data.npz"
    assert (found.data.split, found.task.metric, found.training.patience) == (2, "f1-micro", 50)
    assert (found.training.weight_decay, found.training.lr) == (0.0, 0.01)
    assert found.compress.passes == ("fold-norms", "prune-channels{keep=0.5}")
    assert (found.compress.target, found.compress.max_drop, found.compress.min_speedup) == (("ort",), "0.5pp", "2")


def test_without_a_file_there_are_defaults(tmp_path: Path) -> None:
    """No sidecar means no data, no builder, accuracy."""
    found = read_sidecar(tmp_path / "model.pt")
    assert (found.data_path, found.builder(trust=False), found.task.metric) == (None, None, "accuracy")
    assert found.compress.passes is None


def test_a_builder_in_the_file_needs_trust(tmp_path: Path) -> None:
    """A builder is code that came with the model, so naming it in the file is not enough."""
    found = read_sidecar(sidecar(tmp_path, WHOLE))
    assert found.builder(trust=True) == "make_model.py:build"
    with pytest.raises(UsageError, match=r"which is code. Pass --trust.*--builder make_model.py:build"):
        found.builder(trust=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[data]\npth = 'a'", r"\[data\] pth: no such key. Did you mean 'path'\? Known: path, split"),
        ("[dta]\npath = 'a'", r"dta: no such key. Did you mean 'data'\?"),
        ("folder = 'a'", "folder: no such key"),
        ("[task]\nmetric = 'auc'", r"\[task\] metric: 'auc' is not a choice. Known: 'accuracy' or 'f1-micro'"),
        ("[data]\nsplit = -1", r"\[data\] split: -1 does not fit"),
        ("[data]\nsplit = 'a'", r"\[data\] split: 'a' does not fit"),
        ("data = 3", "data: 3 does not fit"),
        ("[training]\nlr = 0", r"\[training\] lr: .*greater than 0"),
        ("schema = 2", "schema: 2 is not a choice"),
        ("data", "is not TOML"),
    ],
)
def test_what_does_not_exist_is_named(text: str, words: str, tmp_path: Path) -> None:
    """Unknown keys and values name the file, the place and what is known."""
    with pytest.raises(SpecError, match=words) as caught:
        read_sidecar(sidecar(tmp_path, text))
    assert "gnnexport.toml" in str(caught.value)


def test_all_unknown_keys_are_reported_at_once(tmp_path: Path) -> None:
    """One run shows every fault of the file."""
    with pytest.raises(SpecError) as caught:
        read_sidecar(sidecar(tmp_path, "[data]\npth = 'a'\n[task]\nkin = 'b'"))
    assert len(caught.value.problems) == 2


def test_a_recipe_holds_what_compress_does(tmp_path: Path) -> None:
    """A recipe has its schema and the keys of the compress table, at the top."""
    path = tmp_path / "recipe.toml"
    path.write_text('schema = 1\npasses = ["fold-norms"]\ntarget = "ort"\nmax_drop = "1pp"')
    recipe = read_recipe(path)
    assert (recipe.passes, recipe.target, recipe.max_drop, recipe.min_speedup) == (
        ("fold-norms",),
        ("ort",),
        "1pp",
        None,
    )
    path.write_text('passes = ["fold-norms"]')
    with pytest.raises(SpecError, match="schema: missing"):
        read_recipe(path)
    with pytest.raises(SpecError, match="no such recipe"):
        read_recipe(tmp_path / "absent.toml")
