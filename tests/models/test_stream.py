"""Requests and updates from several threads at once are answered as if each had the graph to itself."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from gnnexport.runtime.batched.chain import Chain
from gnnexport.runtime.batched.model import BatchedModel
from tests.unit.runtime.batched.graphs import MODELS, Model, World, random_update

STEPS, THREADS = 10_000, 4
NODES, EDGES = 60, 200
ASKED = 6
UPDATES, DRAWN = 0.2, 0.1
"""Shares of the steps that change the graph, and of the requests that draw neighbours."""

CHECKED = 0.1
"""Share of the exact requests that are held against a computation from scratch."""


@dataclass
class Stream:
    """What threads do to a served model, and what they see.

    Args:
        served: that they ask and change.
        model: of which it was made.
        world: the graph as it is.
        updates: by the version each made.
        answers: version, ids and rows of some requests.
        errors: of threads.
    """

    served: BatchedModel
    model: Model
    world: World
    updates: dict[int, dict[str, Any]] = field(default_factory=dict)
    answers: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    turn: threading.Lock = field(default_factory=threading.Lock)

    def run(self, seed: int) -> None:
        """Take the steps of one thread."""
        rng, dice = np.random.default_rng(seed), random.Random(seed)
        try:
            for _ in range(STEPS // THREADS):
                if dice.random() < UPDATES:
                    self._update(rng)
                else:
                    self._ask(rng, dice)
        except BaseException as error:
            self.errors.append(error)

    def _update(self, rng: np.random.Generator) -> None:
        # Each is drawn for the graph as it is, so no other may come between.
        with self.turn:
            change = random_update(self.world, self.model, rng)
            self.world.update(**change)
            self.updates[self.served.update(**change)] = change

    def _ask(self, rng: np.random.Generator, dice: random.Random) -> None:
        ids = rng.integers(0, self.served.num_nodes, ASKED)
        if dice.random() < DRAWN:
            reading = sum(spec.structure is not None for spec, _ in self.model.stages)
            self.served.predict(ids, fanout=[3] * reading, seed=dice.randrange(100))
            return
        answer = self.served.predict(ids)
        if dice.random() < CHECKED:
            self.answers.append((answer.version, ids, answer["rows"]))


@pytest.mark.parametrize(
    ("name", "budget", "concurrent"),
    [("sage", 1 << 24, True), ("gcn, weighted", 5_000, True), ("jumping", 1 << 24, False)],
)
def test_a_stream_of_requests_and_updates(name: str, budget: int, concurrent: bool) -> None:
    """Every answer is that of the graph in the version it tells, and memory stays within what is there."""
    world, model = World.random(NODES, EDGES), MODELS[name]()
    chain = model.chain(world, budget, concurrent=concurrent)
    stream = Stream(BatchedModel(chain), model, world.copy())
    threads = [threading.Thread(target=stream.run, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not stream.errors, stream.errors[0]
    assert sorted(stream.updates) == list(range(1, stream.served.version + 1))
    check_answers(stream, world)
    check_memory(stream, chain, budget)


def check_answers(stream: Stream, world: World) -> None:
    """Make the updates one after the other, and compute from scratch what was answered meanwhile."""
    for version in range(stream.served.version + 1):
        world.update(**stream.updates.get(version, {}))
        asked = [(ids, rows) for told, ids, rows in stream.answers if told == version]
        expected = stream.model.scratch(world) if asked else np.empty(0)
        for ids, rows in asked:
            np.testing.assert_allclose(rows, expected[ids], rtol=1e-5, atol=1e-5)
    everything = np.arange(world.num_nodes)
    answer = stream.served.predict(everything)["rows"]
    np.testing.assert_allclose(answer, stream.model.scratch(world), rtol=1e-5, atol=1e-5)


def check_memory(stream: Stream, chain: Chain, budget: int) -> None:
    """Bound what is kept by the budget, and by the size of the graph."""
    assert stream.served.store_bytes <= budget
    slots, nodes = int(chain.structures["graph"].adjacency.length.sum()), stream.world.num_nodes
    assert len(chain.structures["graph"].adjacency.col) < 6 * (slots + nodes) + 2_000
    assert len(stream.served._marks._free) <= THREADS + 1
