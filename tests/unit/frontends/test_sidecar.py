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
kind = "link-prediction"
metric = "hits@20"
[training]
loss = "cross-entropy"
lr = 0.01
weight_decay = 0
epochs = 200
patience = 50
[compress]
passes = ["fold-norms", "prune-channels{keep=0.5}"]
target = "ort"
mode = "graphs"
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
    assert (found.data.split, found.task.metric, found.training.patience) == (2, "hits@20", 50)
    assert (found.training.weight_decay, found.training.lr) == (0.0, 0.01)
    assert (found.task.kind, found.compress.mode) == ("link-prediction", "graphs")
    assert found.compress.passes == ("fold-norms", "prune-channels{keep=0.5}")
    assert (found.compress.target, found.compress.max_drop, found.compress.min_speedup) == (("ort",), "0.5pp", "2")


def test_without_a_file_there_are_defaults(tmp_path: Path) -> None:
    """No sidecar means no data, no builder, and a metric that the labels decide."""
    found = read_sidecar(tmp_path / "model.pt")
    assert (found.data_path, found.builder(trust=False), found.task.metric) == (None, None, None)
    assert (found.task.kind, found.code(trust=False), found.loader(trust=False)) == (None, None, None)
    assert found.compress.passes is None


def test_a_builder_in_the_file_needs_trust(tmp_path: Path) -> None:
    """A builder is code that came with the model, so naming it in the file is not enough."""
    found = read_sidecar(sidecar(tmp_path, WHOLE))
    assert found.builder(trust=True) == "make_model.py:build"
    with pytest.raises(UsageError, match=r"which is code. Pass --trust.*--builder make_model.py:build"):
        found.builder(trust=False)


@pytest.mark.parametrize(
    ("table", "method", "value"),
    [("model", "code", "train.py"), ("data", "loader", "load.py:graphs")],
)
def test_scripts_and_loaders_need_trust(table: str, method: str, value: str, tmp_path: Path) -> None:
    """A script and a loader are code, too; a script's path starts at the sidecar."""
    found = read_sidecar(sidecar(tmp_path, f"[{table}]\n{method} = '{value}'"))
    named = getattr(found, method)
    assert named(trust=True) == (tmp_path / value if method == "code" else value)
    option = "--code" if method == "code" else "--data"
    with pytest.raises(UsageError, match=rf"'{value}', which is code. Pass --trust.*{option} {value}"):
        named(trust=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[data]\npth = 'a'", r"\[data\] pth: no such key. Did you mean 'path'\? Known: loader, path, split"),
        ("[dta]\npath = 'a'", r"dta: no such key. Did you mean 'data'\?"),
        ("folder = 'a'", "folder: no such key"),
        ("[task]\nmetric = 'auc'", r"\[task\] metric: unknown name 'auc'. .*Known: accuracy, .*hits@K"),
        ("[task]\nmetric = 'hits@0'", r"\[task\] metric: 'hits@0' does not say how many"),
        ("[task]\nkind = 'edge-regression'", r"\[task\] kind: 'edge-regression' is not a choice. Known: 'node-class"),
        ("[training]\nloss = 'hinge'", r"\[training\] loss: 'hinge' is not a choice. Known: .*'bce'"),
        ("[compress]\nmode = 'stream'", r"\[compress\] mode: 'stream' is not a choice"),
        ("[data]\npath = 'a.npz'\nloader = 'l.py:f'", r"data: path and loader both name the data. Leave one"),
        ("[data]\nsplit = -1", r"\[data\] split: -1 does not fit"),
        ("[data]\nsplit = 'a'", r"\[data\] split: 'a' does not fit"),
        ("data = 3", "data: 3 does not fit"),
        ("[training]\nlr = 0", r"\[training\] lr: .*greater than 0"),
        ("schema = 2", "schema: 2 is not a choice"),
        ("data", "is not TOML"),
        (f"[data]\nsplit = {'9' * 5000}", "is not TOML"),
    ],
)
def test_what_does_not_exist_is_named(text: str, words: str, tmp_path: Path) -> None:
    """Unknown keys and values name the file, the place and what is known."""
    with pytest.raises(SpecError, match=words) as caught:
        read_sidecar(sidecar(tmp_path, text))
    assert "gnnexport.toml" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '"\\u001b[31mkey" = 1',
        '[model]\n"a\\u001b[2J" = 1',
        '[task]\nmetric = "\\u001b[31m"',
        '[task]\nkind = "\\u001b[31m"',
        '[data]\nsplit = ["\\u001b[31m\\u202e"]',
        '[model]\nbuilder = "make.py:\\u001b[31mbuild"',
    ],
)
def test_text_of_a_sidecar_is_made_safe_to_print(text: str, tmp_path: Path) -> None:
    """A sidecar that came with a model writes no control characters to the terminal."""
    with pytest.raises(UsageError) as caught:
        read_sidecar(sidecar(tmp_path, text)).builder(trust=False)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", ["a:b; rm -rf x", "$(id):f", "--trust", "a b:c", "a\nb:c"])
def test_no_command_line_is_made_of_odd_text(value: str, tmp_path: Path) -> None:
    """Only the plain name of a function is suggested for copying; other text stands in quotes."""
    escaped = value.replace("\n", "\\n")
    found = read_sidecar(sidecar(tmp_path, f'[model]\nbuilder = "{escaped}"'))
    with pytest.raises(UsageError, match=r"give it yourself with --builder\.$") as caught:
        found.builder(trust=False)
    assert repr(value) in str(caught.value)


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
