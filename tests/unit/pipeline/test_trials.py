from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from gnnexport.pipeline import trials
from gnnexport.pipeline.emission import Emitter
from gnnexport.pipeline.trials import ScratchForms
from tests.small_models import split


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Programs whose forms lie on the disk, in the order in which they were written."""
    found: list[Any] = []

    @contextmanager
    def scratch(emitter: Emitter, program: Any) -> Iterator[object]:
        found.append(program)
        yield object()
        found.remove(program)

    monkeypatch.setattr(trials, "scratch_form", scratch)
    return found


def test_a_form_is_written_once(lying: list[Any]) -> None:
    """What is kept is not written again; what is not goes away at once, and all of it at the end."""
    first, second = (split(name) for name in ("GCN", "GIN"))
    with ScratchForms(cast("Emitter", None)) as forms:
        form = forms.form(first)
        forms.form(second)
        assert lying == [first, second]
        forms.keep(first)
        assert lying == [first]
        assert forms.form(first) is form
        assert forms.form(second) is not form
        forms.keep(second)
        assert lying == [second]
    assert lying == []


def test_nothing_is_left_behind_after_an_error(lying: list[Any]) -> None:
    """Forms go away however the trials end."""

    def give_up() -> None:
        with ScratchForms(cast("Emitter", None)) as forms:
            forms.form(split("GCN"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        give_up()
    assert lying == []
