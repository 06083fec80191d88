"""Hear Ctrl-C and SIGTERM wherever they come, so that the command ends and removes what is half-written."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

from gnnexport.cli.failure import Terminated

RETRY_S = 0.05
"""After so long a request to end is made again that came where Python drops exceptions."""

_REQUESTS = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}


def listen() -> None:
    """Turn SIGTERM into an exception, as Python does with Ctrl-C, and let neither get lost.

    Python drops what is raised in `__del__` or in the callback of a weak reference, of which torch has many.
    """
    signal.signal(signal.SIGTERM, _end)
    sys.unraisablehook = _ask_again


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Leave like on Ctrl-C, so that half-written files are removed; a second request does not stop that."""
    signal.signal(number, signal.SIG_IGN)
    raise Terminated


def _ask_again(dropped: Any) -> None:
    number = _REQUESTS.get(dropped.exc_type)
    if number is None:
        sys.__unraisablehook__(dropped)
        return
    if number == signal.SIGTERM:
        signal.signal(number, _end)
    timer = threading.Timer(RETRY_S, _thread.interrupt_main, [number])
    timer.daemon = True
    timer.start()
