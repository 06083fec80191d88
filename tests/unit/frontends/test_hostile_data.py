"""Every file here hides code in data: in a list, a tuple, a batch, a split, the file of a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch_geometric.data import Batch, Data

from tests.unit.frontends import hostile
from tests.unit.frontends.test_hostile_files import assert_refused, load, write

Wrap = Callable[[Any, Path], object]

FORMS: dict[str, Wrap] = {
    "list": lambda evil, marker: [hostile.data(), hostile.data(note=evil)],
    "member": lambda evil, marker: [hostile.data(), evil],
    "first": lambda evil, marker: (evil, hostile.data()),
    "split": lambda evil, marker: {"train": [hostile.data()], "test": [hostile.data(note=evil)]},
    "split_key": lambda evil, marker: {"train": [hostile.data()], "extra": evil},
    "lists": lambda evil, marker: ([hostile.data()], [hostile.data()], [evil]),
    "deep": lambda evil, marker: [[[[[hostile.data(note=evil)]]]]],
    "batch": lambda evil, marker: with_note(Batch.from_data_list([hostile.data(), hostile.data()]), evil),
    "slices": lambda evil, marker: ({"x": torch.ones(2, 1), "note": evil}, {"x": torch.tensor([0, 2])}, Data),
    "class": lambda evil, marker: ({"x": torch.ones(2, 1)}, {"x": torch.tensor([0, 2])}, evil),
    "tensors": lambda evil, marker: {"x": torch.ones(2, 1), "edge_index": evil},
    "cached": lambda evil, marker: cached(hostile.data(), evil),
}


def with_note(batch: Any, evil: object) -> object:
    """Put an attribute into a batch."""
    batch.note = evil
    return batch


def cached(graph: Data, evil: object) -> Data:
    """Put something among what PyG caches about a graph, which is never rebuilt."""
    vars(graph._store)["_cached_attr"] = {"node": evil}
    return graph


EVIL: dict[str, tuple[Callable[[Path], object], str]] = {
    "system": (hostile.by_system, ".system'"),
    "evaluated": (hostile.by_eval, "'builtins.eval'"),
}


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Where a file that runs leaves its mark."""
    return tmp_path / "it_ran"


@pytest.mark.parametrize("evil", EVIL)
def test_code_anywhere_in_a_set_is_refused(evil: str, tmp_path: Path, marker: Path) -> None:
    """Wherever a file of graphs asks for a call, the whole file is refused by name and nothing runs."""
    make, words = EVIL[evil]
    paths = write(tmp_path, {name: wrap(make(marker), marker) for name, wrap in FORMS.items()})
    assert_refused(load("data", paths, tmp_path), dict.fromkeys(FORMS, words), marker, mend="Save the arrays as .npz")


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """Loaded as Python does, every one of these files runs its code: so the test above tests something."""
    things = {name: wrap(hostile.by_system(tmp_path / f"{name}.ran"), tmp_path) for name, wrap in FORMS.items()}
    load("trusted", write(tmp_path, things), tmp_path)
    assert sorted(path.stem for path in tmp_path.glob("*.ran")) == sorted(FORMS)


class _Batch:
    """Pickle as PyG pickles a batch, with another class or other graphs."""

    def __init__(self, *classes: object, state: object = None) -> None:
        self._reduced = (_getter(), classes, state)

    def __reduce__(self) -> Any:
        return self._reduced if self._reduced[2] is not None else self._reduced[:2]


def _getter() -> Any:
    from torch_geometric.data.batch import DynamicInheritanceGetter

    return DynamicInheritanceGetter()


def test_a_batch_of_other_things_is_refused(tmp_path: Path, marker: Path) -> None:
    """The call by which PyG makes a batch is not a way to make or name anything else."""
    attacks: dict[str, tuple[object, str]] = {
        "of_modules": (_Batch(Batch, nn.Linear), "makes 'torch_geometric.data.batch.Batch'"),
        "of_evil": (_Batch(Batch, hostile.by_system), "not on the safe list"),
        "by_linear": (_Batch(nn.Linear, Data), "calls something that it computed itself"),
        "called": (_Batch(nn.Linear, 4, 4), "calls something that it computed itself"),
        "without_state": (_Batch(Batch, Data), "holds a Data that torch.save does not write"),
        "in_front": (_Batch(Batch, Data, state={"to": nn.functional.relu}), "in front of its methods"),
        "with_hook": (
            [hostile.data(), hostile.data(net=hostile.with_hook("_forward_hooks"))],
            "_forward_hooks holds a hook",
        ),
        "in_front_of_store": (store_with_method(), "whose storage stands in front of its methods"),
        "module_type": ([hostile.data(net=hostile.gcn_with_code_in_a_type(marker))] * 2, "carries code where a type"),
    }
    paths = write(tmp_path, {name: thing for name, (thing, _) in attacks.items()})
    words = {name: words for name, (_, words) in attacks.items()}
    assert_refused(load("data", paths, tmp_path), words, marker, mend="Save the arrays as .npz")


def store_with_method() -> Data:
    """Make a graph whose storage has something in front of a method."""
    graph = hostile.data()
    vars(graph._store)["keys"] = nn.functional.relu
    return graph
