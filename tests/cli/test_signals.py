"""Requests to end are heard wherever they come."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import signal, time
from gnnexport.cli import failure, signals

signal.signal(signal.SIGINT, signal.default_int_handler)
signals.listen()

class Deaf:
    def __del__(self):
        signal.raise_signal(signal.{name})

try:
    Deaf()
    for _ in range(100):
        time.sleep(0.1)
    print("not heard")
except (KeyboardInterrupt, failure.Terminated) as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(("name", "raised"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "Terminated")])
def test_a_request_in_a_finaliser_is_not_lost(name: str, raised: str) -> None:
    """Python drops what is raised there; the request is made again."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(name=name)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == raised
    assert done.stderr == ""


def test_other_exceptions_are_still_told() -> None:
    """What is dropped besides is reported as Python reports it."""
    script = "from gnnexport.cli import signals\nsignals.listen()\nclass Bad:\n  def __del__(self): 1 / 0\nBad()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "ZeroDivisionError" in done.stderr
