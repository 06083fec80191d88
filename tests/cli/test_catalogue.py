from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from gnnexport.cli import app
from tests.cli.conftest import FakeApi

ENTRY = SimpleNamespace(
    name="prune-channels",
    summary="Remove hidden channels.",
    stage="compress",
    options=[("keep", "float", "0.5", "Share of the channels that stays.")],
)


@pytest.mark.parametrize("command", ["passes", "targets"])
def test_catalogue_lists_options(api: FakeApi, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each entry shows its summary and its options with type and default."""
    api.answer(command, [ENTRY])
    assert app.run([command]) == 0
    printed = capsys.readouterr().out
    assert "prune-channels" in printed
    assert "Remove hidden channels." in printed
    assert "keep=0.5  float  Share of the channels that stays." in printed


@pytest.mark.parametrize("command", ["passes", "targets"])
def test_catalogue_as_json(api: FakeApi, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON names the parts of an option."""
    api.answer(command, [ENTRY])
    assert app.run([command, "--json"]) == 0
    option = {"name": "keep", "type": "float", "default": "0.5", "doc": "Share of the channels that stays."}
    assert json.loads(capsys.readouterr().out)[0]["options"] == [option]


def test_doctor_says_what_to_install(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    """What works shows its version, what does not shows the mend; neither is an error."""
    works = SimpleNamespace(name="onnxruntime", ok=True, version="1.31", mend="")
    lacks = SimpleNamespace(name="openvino", ok=False, version=None, mend="pip install 'gnnexport[openvino]'")
    api.answer("doctor", [works, lacks])
    assert app.run(["doctor"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["ok", "onnxruntime", "1.31"]
    assert second.endswith("pip install 'gnnexport[openvino]'")
    assert app.run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[1]["ok"] is False


def test_inspect_prints_text_or_json(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    """`inspect` shows the same thing to a person and to a program."""
    api.answer("inspect", SimpleNamespace(text="program", to_dict=lambda: {"macs": 1}))
    assert app.run(["inspect", "model.pt"]) == 0
    assert capsys.readouterr().out == "program\n"
    assert app.run(["inspect", "model.pt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"macs": 1}
