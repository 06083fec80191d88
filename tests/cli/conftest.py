"""An API that records how it is called, and answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gnnexport.bundle.report_schema import Report


@dataclass
class FakeOutcome:
    """What the commands read of an outcome."""

    reports: dict[str, Report] = field(default_factory=lambda: {"ort": Report(target="ort", verdict="pass")})
    bundles: dict[str, Path] = field(default_factory=lambda: {"ort": Path("model.bundle")})
    exit_code: int = 0


@dataclass
class FakeApi:
    """Answers of the API by command, and the calls it got."""

    answers: dict[str, Callable[..., Any]] = field(default_factory=dict)
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def answer(self, command: str, value: object) -> None:
        """Let a command return a value, or raise it if it is an exception."""

        def give(*args: Any, **options: Any) -> object:
            if isinstance(value, BaseException):
                raise value
            return value

        self.answers[command] = give

    def command(self, name: str) -> Callable[..., Any]:
        """Make the function that stands in for a command."""

        def call(*args: Any, **options: Any) -> Any:
            self.calls.append((name, args, options))
            return self.answers[name](*args, **options)

        return call


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    """Put the recording API in the place of the real one."""
    fake = FakeApi()
    module = ModuleType("gnnexport.api")
    for name in ("compress", "export", "inspect", "validate", "bench", "passes", "targets", "doctor"):
        fake.answer(name, FakeOutcome())
        setattr(module, name, fake.command(name))
    monkeypatch.setitem(sys.modules, "gnnexport.api", module)
    monkeypatch.setattr(sys.modules["gnnexport"], "api", module, raising=False)
    return fake
