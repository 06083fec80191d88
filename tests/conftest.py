"""Settings for every test."""

from __future__ import annotations

import os

# More threads than a small machine has cores make torch and ONNX Runtime wait for each other. The product asks for a
# thread for each core, in every process that runs tests; those of torch are not to spin while they wait. Both are read
# when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from collections.abc import Iterator

import pytest
from hypothesis import settings
from torch_geometric.nn import Sequential

# The same examples on every run; how long one takes says nothing about the code.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50, print_blob=True)
settings.load_profile("repeatable")

_FORWARD = Sequential.forward


def pytest_itemcollected(item: pytest.Item) -> None:
    """Refuse tests that are named after a set, whose order is another in each process that looks for tests.

    Raises:
        pytest.UsageError: A test is named after a set.
    """
    params = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    if any(isinstance(value, set | frozenset) and str(value) in item.name for value in params):
        raise pytest.UsageError(f"{item.nodeid} is named after a set, which has no order: use a tuple, or give ids")


@pytest.fixture(autouse=True)
def _sequential_forgets() -> Iterator[None]:
    """Undo what PyG's Sequential does to its class: the code generated for one model, run by all without their own."""
    Sequential.forward = _FORWARD
    yield
    Sequential.forward = _FORWARD


@pytest.fixture(scope="session", autouse=True)
def _short_timings() -> Iterator[None]:
    """Time models no longer than it takes to report a latency: no test asks how fast one is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gnnexport.pipeline.run.TIMING_S", 0.5)
        patch.setattr("gnnexport.pipeline.trials.TRIAL_S", 0.5)
        yield
