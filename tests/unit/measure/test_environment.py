import json

import pytest

from gnnexport.measure.environment import busy_note, describe_environment


def test_environment_is_plain_and_complete():
    """The environment can be written as JSON and names processor, cores, memory and versions."""
    environment = json.loads(json.dumps(describe_environment()))
    assert environment["processor"]
    assert environment["cores"] >= 1
    assert environment["memory_bytes"] > 0
    assert "numpy" in environment["versions"]


def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load well above the number of cores makes timings doubtful, and the report says so."""
    monkeypatch.setattr("os.getloadavg", lambda: (100.0, 0.0, 0.0))
    (note,) = busy_note(2)
    assert "load 100.0" in note
    monkeypatch.setattr("os.getloadavg", lambda: (0.5, 0.0, 0.0))
    assert busy_note(2) == []
