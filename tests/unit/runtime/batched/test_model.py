"""Answers for some nodes are those of the whole graph, whatever was asked and changed before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnexport.errors import UsageError
from tests.unit.runtime.batched.graphs import (
    CHANNELS,
    CLASSES,
    MODELS,
    NARROW,
    World,
    gcn,
    jumping,
    random_update,
    sage,
)

TOLERANCE = 1e-5
BUDGETS = {"none": 0, "little": 1_500, "all": 1 << 24}


def check(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare answers."""
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_the_whole_graph(name: str, budget: str) -> None:
    """Whether the store has room for all, for some or for nothing, and whatever was asked before."""
    world, model = World.random(40, 150), MODELS[name]()
    served, expected = model.open(world, BUDGETS[budget]), model.scratch(world)
    rng = np.random.default_rng(0)
    for count in (1, 5, 40, 13, 40):
        ids = rng.integers(0, 40, count)
        answer = served.predict(ids)
        check(answer["rows"], expected[ids])
        assert answer.version == 0


@given(
    st.sampled_from(list(MODELS)),
    st.sampled_from(list(BUDGETS)),
    st.integers(0, 2**32),
    st.lists(st.booleans(), max_size=14),
)
@settings(max_examples=60)
def test_any_order_of_requests_and_updates(name: str, budget: str, seed: int, steps: list[bool]) -> None:
    """After any updates the answers are those of a model made of the graph as it is then."""
    rng = np.random.default_rng(seed)
    world, model = World.random(int(rng.integers(1, 25)), int(rng.integers(0, 60)), seed), MODELS[name]()
    served = model.open(world, BUDGETS[budget])
    world = world.copy()
    versions = 0
    for is_update in steps:
        if is_update:
            change = random_update(world, model, rng)
            world.update(**change)
            versions += 1
            assert served.update(**change) == versions
        else:
            ids = rng.integers(0, world.num_nodes, rng.integers(0, 12))
            check(served.predict(ids)["rows"], model.scratch(world)[ids])
    check(served.predict(np.arange(world.num_nodes))["rows"], model.scratch(world))
    assert served.version == versions
    assert served.store_bytes <= BUDGETS[budget]


@pytest.mark.parametrize("name", MODELS)
def test_exactly_what_depends_on_a_change_is_computed_again(name: str) -> None:
    """A stored row is computed again if and only if what it is computed from is another after an update."""
    world, model = World.random(200, 300, seed=3), MODELS[name]()
    served = model.open(world)
    everything = np.arange(200)
    served.predict(everything)
    assert sum(list(served.predict(everything).computed.values())[:-1]) == 0
    rng = np.random.default_rng(1)
    for _ in range(12):
        before = model.rows(world)
        change = random_update(world, model, rng)
        world = world.copy()
        world.update(**change)
        served.update(**change)
        after = model.rows(world)
        computed = served.predict(np.arange(world.num_nodes)).computed
        for spec, _ in model.stages[:-1]:
            rows = f"stage-{spec.depth}"
            known = len(before[rows])
            others = int((abs(before[rows] - after[rows][:known]) > 1e-10).any(axis=1).sum()) + world.num_nodes - known
            assert computed[rows] == others


def test_work_is_counted() -> None:
    """A request tells of each stage how many rows were there and how many it computed."""
    served = sage(3).open(World.random(40, 0))
    first = served.predict([1, 2, 2])
    assert first.computed == {"stage-1": 2, "stage-2": 2, "stage-3": 2}
    assert first.found == {"stage-1": 0, "stage-2": 0}
    second = served.predict(np.array([2, 3], np.int32))
    assert second.computed == {"stage-1": 1, "stage-2": 1, "stage-3": 2}
    assert second.found == {"stage-1": 0, "stage-2": 1}


def test_no_nodes() -> None:
    """Nothing asked is nothing answered, of the width of an answer."""
    assert sage().open(World.random(5, 5)).predict([])["rows"].shape == (0, CLASSES)


@pytest.mark.parametrize("budget", [0, 1_500, 1 << 24])
def test_drawn_neighbours(budget: int) -> None:
    """Drawn rows depend on the seed, are never kept, and are exact where a fan-out leaves nothing out."""
    world, model = World.random(60, 900), sage(2)
    served, expected = model.open(world, budget), model.scratch(world)
    ids = np.arange(60)
    drawn = served.predict(ids, fanout=[2, 2], seed=1)["rows"]
    assert abs(drawn - expected).max() > 1e-2
    np.testing.assert_array_equal(drawn, served.predict(ids, fanout=[2, 2], seed=1)["rows"])
    assert (drawn != served.predict(ids, fanout=[2, 2], seed=2)["rows"]).any()
    check(served.predict(ids)["rows"], expected)
    check(served.predict(ids, fanout=[-1, -1])["rows"], expected)
    check(served.predict(ids, fanout=[1_000, 1_000])["rows"], expected)


def test_draws_of_a_sum_are_fair() -> None:
    """Where values of slots scale with what was left out, the mean over many draws is the exact sum."""
    world, model = World.random(30, 400), gcn(layers=1)
    served = model.open(world)
    sums = [served.predict([0, 1, 2], fanout=[8], seed=seed)["rows"].astype(float) for seed in range(2_000)]
    error = np.std(sums, axis=0) / np.sqrt(len(sums))
    assert (abs(np.mean(sums, axis=0) - model.scratch(world)[:3]) < 5 * error + 1e-6).all()


def test_stages_that_draws_do_not_reach_are_kept() -> None:
    """With a fan-out for the last stage alone, the rows of the others are exact, and kept."""
    served = sage(3).open(World.random(40, 300))
    served.predict(np.arange(40), fanout=[3, -1, -1])
    found = served.predict(np.arange(40)).found
    assert found["stage-2"] == 40


def test_staleness() -> None:
    """Rows may be as old as a request allows, and never older; 0 allows none."""
    world, model = World.random(30, 100), sage(2)
    served = model.open(world)
    ids = np.arange(30)
    served.predict(ids)
    for _ in range(3):
        world.x += np.float32(0.5)
        served.update(features=(ids, world.x.copy()))
    old = served.predict(ids, staleness=3)
    assert old.computed["stage-1"] == 0
    assert abs(old["rows"] - model.scratch(world)).max() > 1e-3
    assert served.predict(ids, staleness=2).computed["stage-1"] == 30
    check(served.predict(ids, staleness=3)["rows"], model.scratch(world))
    served.update(features=(ids[:4], world.x[:4] + 1))
    world.update(features=(ids[:4], world.x[:4] + 1))
    assert served.predict(ids, staleness=1).computed["stage-1"] == 0
    check(served.predict(ids)["rows"], model.scratch(world))


def test_what_is_computed_from_old_rows_is_not_kept() -> None:
    """A row that was computed from one that is out of date does not pass for an up-to-date one later."""
    world, model = World.random(20, 80), sage(3)
    served = model.open(world)
    served.predict(np.arange(10))
    features = (np.arange(20), world.x + 1)
    served.update(features=features)
    world.update(features=features)
    served.predict(np.arange(20), staleness=1)
    check(served.predict(np.arange(20))["rows"], model.scratch(world))


@pytest.mark.parametrize("budget", [3_000, 1 << 24])
def test_warm(budget: int) -> None:
    """A warm store has the rows that most nodes read, as far as there is room."""
    world, model = World.random(100, 400), sage(2)
    served = model.open(world, budget)
    assert served.warm() == min(100, served.store_capacity()["stage-1"])
    assert served.warm() == 0
    reads = np.bincount(world.edges[0], minlength=100)
    assert served.predict([int(np.argmax(reads))]).found["stage-1"] > 0
    check(served.predict(np.arange(100))["rows"], model.scratch(world))
    assert served.evicted == 0 or budget == 3_000


def test_warm_of_some_nodes() -> None:
    """Nodes that are told are computed, and what their rows depend on."""
    served = sage(2).open(World.random(50, 0))
    assert served.warm([3, 4]) == 2
    assert served.predict([3, 4, 5]).found == {"stage-1": 2}
    with pytest.raises(UsageError, match="warm: holds 50"):
        served.warm([50])


def test_new_nodes_join() -> None:
    """Nodes that come are answered for, alone and with the edges that came with them."""
    world, model = World.random(10, 30), jumping()
    served = model.open(world)
    change = {
        "new_features": np.ones((2, CHANNELS), np.float32),
        "edges": np.array([[10, 11, 3, 10], [11, 10, 10, 4]]),
        "edge_attr": np.ones((4, 2), np.float32),
    }
    served.predict(np.arange(10))
    assert served.update(**change) == 1
    world.update(**change)
    assert served.num_nodes == 12
    check(served.predict(np.arange(12))["rows"], model.scratch(world))


def test_features_that_nobody_reads() -> None:
    """Who reads some features does not depend on the others, nor anybody on features that stay the same."""
    world = World.random(30, 0)
    world.edges = np.array([[1, 1], [2, 3]])
    served = sage(2).open(world)
    ids = np.arange(30)
    served.predict(ids)
    served.update(features=(ids, world.x.copy()))
    assert served.predict(ids).computed["stage-1"] == 0
    row = world.x[[1]].copy()
    row[0, 0] += 1
    served.update(features=([1], row))
    assert served.predict(ids).computed["stage-1"] == 1
    row[0, NARROW[0]] += 1
    served.update(features=([1], row))
    assert served.predict(ids).computed["stage-1"] == 3


def test_degrees_that_stay_the_same() -> None:
    """An edge that comes for one that goes leaves degrees as they are, so that who reads the node does not notice."""
    world = World.random(30, 0)
    world.edges = np.array([[1, 2], [2, 3]])
    served = gcn(layers=2).open(world)
    served.predict(np.arange(30))
    served.update(removed_edges=[[1], [2]], edges=[[4], [2]])
    assert served.predict(np.arange(30)).computed["stage-1"] == 1
    served.update(edges=[[5], [2]])
    assert served.predict(np.arange(30)).computed["stage-1"] == 2


def test_stages_draw_each_for_itself() -> None:
    """What one stage draws for a node says nothing of what another does."""
    world, model = World.random(101, 0), sage(2)
    world.edges = np.array([np.arange(1, 101), np.zeros(100, int)])
    (spec, call), second = model.stages
    seen: list[tuple[float, float]] = []

    def watch(feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        # The targets are the neighbour that the second stage drew, and node 0, for which this one drew its only source.
        seen.append((feeds["own"][0, NARROW[0]], feeds["near"][0, 0]))
        return call(feeds)

    model.stages = [(spec.model_copy(update={"direct": False}), watch), second]
    served = model.open(world, 0)
    for seed in range(20):
        served.predict([0], fanout=[1, 1], seed=seed)
    assert len({drawn for drawn, _ in seen}) > 10
    assert sum(own == near for own, near in seen) < 5
