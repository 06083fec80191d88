"""Training in mini-batches on what it is for: memory of a whole process, and a real graph."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.real_data import find, reason, require
from benchmarks.training import build_model
from gnnexport.frontends.data import load_data
from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.inputs import NUM_EDGES, NUM_NODES, Input, Role
from gnnexport.program.program import Program, example_inputs
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 200_000_000
CORA_LIMIT = 2_500_000
SEEDS = range(5)
NOISE = 0.02
"""Means of five seeds on 500 validation nodes differ by this."""

MEASURED = """
import json, resource, sys, threading, time
from dataclasses import replace
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer
from tests.small_models import split
from tests.unit.training.test_minibatch import data

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def watched(given, limit):
    over, top = threading.Event(), [0]
    before = resident()
    def watch():
        while not over.is_set():
            top[0] = max(top[0], resident() - before)
            time.sleep(0.001)
    thread = threading.Thread(target=watch)
    thread.start()
    _, history = Trainer(given, Task(epochs=1), memory_bytes=limit).fit(split("GAT"), seed=0)
    over.set()
    thread.join()
    # What `prepare` makes of the graph is data.
    structure = split("GAT").structure(given.inputs)
    return top[0] - sum(getattr(value, "nbytes", 0) for value in structure), history.note

watched(data(), 10**10)  # what libraries set up once is no part of a step
given = data(600_000, 300_000)
print(json.dumps(watched(given, int(sys.argv[1]))))
"""


def peak_of(limit: int) -> tuple[int, str]:
    """Return by how much training makes a process of its own grow besides data, and how it was done."""
    done = subprocess.run([sys.executable, "-c", MEASURED, str(limit)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    grown, note = json.loads(done.stdout)
    return grown, note


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell what a process holds")
def test_a_process_grows_by_no_more_than_the_limit() -> None:
    """Resident memory stays within the limit, where training on the whole graph takes clearly more."""
    grown, note = peak_of(LIMIT)
    assert note.startswith("in mini-batches")
    assert grown <= LIMIT
    whole, note = peak_of(10**11)
    assert note == ""
    assert whole > 2 * LIMIT


def untrained(seed: int) -> Program:
    """Return a GraphSAGE for Cora that has learned nothing."""
    data, _ = load_data(require("cora"), split=0)
    features = data.inputs["x"].shape[1]
    inputs = (
        Input("x", Role.NODE_FEATURES, "float32", (NUM_NODES, features)),
        Input("edge_index", Role.EDGE_INDEX, "int64", (2, NUM_EDGES)),
    )
    model = build_model("GraphSAGE", data, layers=2, hidden=16, seed=seed)
    return run_passes(capture(model.eval(), inputs, example_inputs(inputs)), CANONICAL, PassContext()).program


@pytest.mark.slow
def test_mini_batches_on_cora_get_as_far_as_the_whole_graph() -> None:
    """Over five seeds the mean validation accuracy is that of training on the whole graph, within noise."""
    if find("cora") is None:
        pytest.skip(reason("cora"))
    data, _ = load_data(require("cora"), split=0)
    best: dict[int, list[float]] = {CORA_LIMIT: [], 10**11: []}
    for seed in SEEDS:
        program = untrained(seed)
        for limit, found in best.items():
            _, history = Trainer(data, Task(epochs=60), memory_bytes=limit).fit(program, seed=seed)
            assert history.note.startswith("in mini-batches") == (limit == CORA_LIMIT)
            found.append(history.best)
    parts, whole = (statistics.mean(found) for found in best.values())
    assert whole > 0.7
    assert parts == pytest.approx(whole, abs=NOISE)
