"""Many read, or one writes."""

from __future__ import annotations

from threading import Barrier, Event, Thread

import pytest

from gnnexport.runtime.batched.lock import ReadersWriter

WAIT = 10.0
"""Seconds after which a thread that should have gone on is taken for stuck."""


def test_readers_share() -> None:
    """Several read at once: each waits inside for the others."""
    lock, inside = ReadersWriter(), Barrier(3, timeout=WAIT)

    def read() -> None:
        with lock.reading():
            inside.wait()

    threads = [Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert not inside.broken


def test_a_waiting_writer_goes_before_new_readers() -> None:
    """A reader that comes after a writer reads what was written."""
    lock, reading, leave = ReadersWriter(), Event(), Event()
    order: list[str] = []

    def first() -> None:
        with lock.reading():
            reading.set()
            leave.wait(WAIT)
            order.append("first reader")

    def write() -> None:
        with lock.writing():
            order.append("writer")

    def second() -> None:
        with lock.reading():
            order.append("second reader")

    threads = [Thread(target=first)]
    threads[0].start()
    assert reading.wait(WAIT)
    threads.append(Thread(target=write))
    threads[1].start()
    while not lock._waiting:
        pass
    threads.append(Thread(target=second))
    threads[2].start()
    leave.set()
    for thread in threads:
        thread.join(WAIT)
    assert order == ["first reader", "writer", "second reader"]


def test_errors_leave_no_lock_behind() -> None:
    """After an error inside, others read and write."""
    lock = ReadersWriter()
    for enter in (lock.reading, lock.writing):
        with pytest.raises(KeyError), enter():
            raise KeyError
    with lock.writing():
        pass
    with lock.reading():
        pass
