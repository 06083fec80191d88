"""The kernels' dispatch paths, each used where this processor has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gnnexport.native import kernels, library


@pytest.fixture(scope="module")
def native() -> None:
    """Skip where the kernels cannot serve."""
    reason = library.why_missing()
    if reason:
        pytest.skip(f"native kernels: {reason}")


@pytest.fixture(scope="module", params=library.PATHS[::-1])
def path(request: pytest.FixtureRequest, native: None) -> Iterator[str]:
    """Use one instruction set, and afterwards what was in use before."""
    before = library.path_name()
    if not kernels.use_path(request.param):
        pytest.skip(f"this processor lacks {request.param}")
    yield request.param
    kernels.use_path(before)
