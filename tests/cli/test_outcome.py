from __future__ import annotations

import json
from pathlib import Path

import pytest

from gnnexport.bundle.report_schema import Report
from gnnexport.cli import app
from tests.cli.conftest import FakeApi, FakeOutcome


@pytest.mark.parametrize("code", [0, 3, 4, 7])
@pytest.mark.parametrize("command", ["compress", "export", "validate", "bench"])
def test_exit_code_is_the_verdict(api: FakeApi, command: str, code: int) -> None:
    """The outcome of a finished run decides the exit code."""
    api.answer(command, FakeOutcome(exit_code=code))
    assert app.run([command, "model.pt"]) == code


def test_text_shows_report_and_bundle(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    """A person reads the reasons of the verdict and where the bundle lies."""
    report = Report(target="ort", verdict="pass", reasons=("numbers agree",))
    api.answer("compress", FakeOutcome(reports={"ort": report}))
    app.run(["compress", "model.pt"])
    printed = capsys.readouterr().out
    assert "numbers agree" in printed
    assert printed.endswith("bundle: model.bundle\n")


def test_json_is_the_report(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    """With one target the document on stdout is what report.json holds."""
    app.run(["compress", "model.pt", "--json"])
    assert json.loads(capsys.readouterr().out) == Report(target="ort", verdict="pass").to_dict()


def test_json_of_several_targets_goes_by_name(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    """With several targets the document holds one report for each."""
    reports = {name: Report(target=name) for name in ("onnx", "ort")}
    api.answer("compress", FakeOutcome(reports=reports, bundles={name: Path(name) for name in reports}))
    app.run(["compress", "model.pt", "--json"])
    assert {name: report["target"] for name, report in json.loads(capsys.readouterr().out).items()} == {
        "onnx": "onnx",
        "ort": "ort",
    }


def test_progress_goes_to_stderr_as_plain_lines(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    """Off a terminal each step is one plain line, and stdout stays free for the document."""
    api.answers["compress"] = lambda model, *, progress, **_: (progress("capture [x]"), FakeOutcome())[1]
    app.run(["compress", "model.pt", "--json"])
    streams = capsys.readouterr()
    assert streams.err == "capture [x]\n"
    assert "capture" not in streams.out
