"""What is refused, in words that help; after a refusal nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gnnexport.bundle.stages import StructureValue
from gnnexport.errors import UsageError
from gnnexport.runtime.batched import model as served_model
from gnnexport.runtime.batched.model import BatchedModel
from tests.unit.runtime.batched.graphs import CHANNELS, Model, World, gcn, jumping, sage

X = np.zeros((1, CHANNELS), np.float32)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([0, 9], r"node_ids: holds 9, which is none of the 9 nodes. Number them from 0 to 8"),
        ([-1], "holds -1"),
        ([2**40], "holds 1099511627776"),
        ([[1]], r"is int64 \[1, 1\]. Give whole numbers in one dimension"),
        ([0.5], "is float64"),
        ([True], "is bool"),
    ],
)
def test_nodes_that_there_are_not(ids: Any, words: str) -> None:
    """An id has to be the number of a node."""
    with pytest.raises(UsageError, match=words):
        sage().open(World.random(9, 20)).predict(ids)


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint64"])
def test_ids_of_any_type(dtype: str) -> None:
    """Whole numbers of every type are ids."""
    served = sage().open(World.random(9, 20))
    ids = np.array([3, 1])
    np.testing.assert_array_equal(served.predict(ids.astype(dtype))["rows"], served.predict(ids)["rows"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fanout": [3]}, "has 1 numbers, and 2 stages of the model read neighbours. Give one for each"),
        ({"fanout": [3, -2]}, "holds -2. Give 0 or more neighbours, or -1 for all"),
        ({"fanout": [3, 2.5]}, "fanout: holds 2.5. Give whole numbers"),
        ({"fanout": 3}, "fanout: is 3. Give a list of 2 whole numbers"),
        ({"fanout": np.array(3)}, "fanout: is array"),
        ({"fanout": {2: 10, 1: 5}}, "fanout: is {2: 10, 1: 5}"),
        ({"fanout": [True, 2]}, "fanout: holds True. Give whole numbers"),
        ({"seed": "a"}, "seed: holds 'a'"),
        ({"staleness": -1}, "staleness: is -1. Give how many versions old"),
    ],
)
def test_terms_that_do_not_fit(options: dict[str, Any], words: str) -> None:
    """A fan-out has a number for each stage that reads neighbours, and a staleness is a count."""
    with pytest.raises(UsageError, match=words):
        sage().open(World.random(9, 20)).predict([1], **options)


def test_stages_that_draws_would_make_wrong() -> None:
    """A stage that needs every neighbour says why, and takes -1."""
    model = sage()
    (spec, call), second = model.stages
    model.stages = [(spec.model_copy(update={"sampling": "it takes the largest of all"}), call), second]
    served = model.open(World.random(9, 60))
    with pytest.raises(
        UsageError, match=r"stage-1 cannot do with some neighbours: it takes the largest of all\. Give -1"
    ):
        served.predict([1], fanout=[2, 2])
    assert served.predict([1], fanout=[2, -1])["rows"].shape == (1, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"edges": [[0], [9]]}, "edges: holds 9, which is none of the 9 nodes"),
        ({"edges": [[0], [10]], "new_features": X}, "edges: holds 10, which is none of the 10 nodes"),
        ({"edges": [0, 1]}, r"edges: is int64 \[2\]. Give int64 \[2, edges\]"),
        ({"edges": [[0.0], [1.0]]}, "edges: is float64"),
        ({"edges": [[0], [1]], "edge_weight": [1.0]}, "edge_weight: is read by no stage"),
        ({"features": ([0, 0], np.zeros((2, CHANNELS)))}, "features: names a node twice"),
        ({"features": ([9], X)}, "features: holds 9"),
        ({"features": ()}, "features: is tuple, not a pair"),
        ({"features": ([1], X, X)}, "features: is tuple, not a pair"),
        ({"features": {1: X}}, "features: is dict, not a pair"),
        ({"features": ([1], X * np.nan)}, "features: holds NaN or infinity.* Give finite numbers"),
        ({"features": ([1], np.full((1, CHANNELS), 1e300))}, "features: holds NaN or infinity, or more than a float32"),
        ({"new_features": X + np.inf}, "new_features: holds NaN or infinity"),
        ({"features": ([1], X[:, 1:])}, rf"features: is float32 \[1, {CHANNELS - 1}\]. Give float32 \[1, {CHANNELS}\]"),
        ({"features": ([1], X.astype(complex))}, "features: is complex128"),
        ({"new_features": X[0]}, rf"new_features: is float32 \[{CHANNELS}\]. Give float32 \[any, {CHANNELS}\]"),
        ({"removed_edges": [[8], [8]]}, "removed_edges: holds 8 → 8, which is no edge"),
    ],
)
def test_changes_that_do_not_fit(change: dict[str, Any], words: str) -> None:
    """A change is checked as a whole before any of it is made."""
    world, model = World.random(9, 20), sage()
    served = model.open(world)
    before = served.predict(np.arange(9))["rows"]
    with pytest.raises(UsageError, match=words):
        served.update(**{"features": ([3], X + 1), **change})
    assert (served.version, served.num_nodes) == (0, 9)
    again = served.predict(np.arange(9))
    np.testing.assert_array_equal(again["rows"], before)
    assert again.found["stage-1"] == 9


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (gcn("gcn_weighted"), r"edge_weight: is missing. Give float32 \[1\]"),
        (jumping(), r"edge_attr: is missing. Give float32 \[1, 2\]"),
    ],
)
def test_values_that_edges_need(model: Model, words: str) -> None:
    """Edges bring what the model reads of edges."""
    with pytest.raises(UsageError, match=words):
        model.open(World.random(9, 20)).update(edges=[[0], [1]])


def test_an_update_that_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs out of memory half-way leaves nothing that answers wrongly: the model answers no more."""
    served = sage().open(World.random(9, 20))
    served.update(features=([1], X))

    def change(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(served_model, "make_change", change)
    with pytest.raises(MemoryError):
        served.update(features=([1], X + 1))
    monkeypatch.undo()
    for ask in (lambda: served.predict([1]), served.warm, lambda: served.update(features=([1], X))):
        with pytest.raises(UsageError, match=r"an update broke off.* Load the bundle again"):
            ask()
    assert served.version == 1


def test_loops_do_not_leave() -> None:
    """A model that gives every node a loop of its own has none to take away; one that comes changes nothing."""
    served = gcn().open(World.random(9, 20))
    with pytest.raises(UsageError, match="holds a loop, and the model gives every node one of its own"):
        served.update(removed_edges=[[3], [3]])
    served.predict(np.arange(9))
    served.update(edges=[[3], [3]])
    assert served.predict(np.arange(9)).found["stage-1"] == 9


@pytest.mark.parametrize("change", [{"edges": [[0], [1]]}, {"removed_edges": [[0], [1]]}, {"new_features": X}])
@pytest.mark.parametrize("what", ["structure", "value", "weights", "node value"])
def test_graphs_that_cannot_grow(what: str, change: dict[str, Any]) -> None:
    """Where the bundle does not say how the model's values follow from edges, features may change and edges may not."""
    model = gcn("gcn_weighted") if what == "weights" else gcn()
    if what == "weights":
        model.values = model.values[:1]
    world = World.random(9, 20)
    chain = model.chain(world)
    structure = chain.structures["graph"]
    if what == "structure":
        structure._loops = None
    elif what == "value":
        structure._specs["norm"] = StructureValue(name="norm", structure="graph")
    elif what == "node value":
        chain.node_values["degree"] = np.zeros(9, np.float32)
    served = BatchedModel(chain)
    words = "the model reads .*which .* Make the bundle again from the grown graph|a structure that the bundle does not"
    with pytest.raises(UsageError, match=words):
        served.update(**change)
    assert served.update(features=([1], X)) == 1


@pytest.mark.parametrize("ids", [[[0], [1, 2]], [1, [2]]])
def test_rows_of_several_lengths(ids: Any) -> None:
    """What numpy makes no array of is refused like any other array that does not fit."""
    served = sage().open(World.random(9, 20))
    asks: list[Callable[[], object]] = [
        lambda: served.predict(ids),
        lambda: served.warm(ids),
        lambda: served.update(edges=ids),
        lambda: served.update(features=([1], ids)),
        lambda: served.update(new_features=ids),
    ]
    for ask in asks:
        with pytest.raises(UsageError, match=r"is no array .*Give numbers, in rows of one length"):
            ask()


def test_a_fan_out_beyond_every_number() -> None:
    """It draws nothing, as every fan-out above a node's neighbours."""
    served = sage().open(World.random(9, 60))
    every = np.arange(9)
    answer = served.predict(every, fanout=[2**64, 2**64 + 1])
    np.testing.assert_array_equal(answer["rows"], served.predict(every)["rows"])


def test_values_of_no_edges() -> None:
    """Values come with edges: those that come alone were meant for some."""
    with pytest.raises(UsageError, match="edge_weight: is read by no stage"):
        sage().open(World.random(9, 20)).update(edge_weight=[1.0])
    with pytest.raises(UsageError, match=r"edge_weight: is float64 \[1\]. Give float32 \[0\]"):
        gcn("gcn_weighted").open(World.random(9, 20)).update(edge_weight=[1.0])
