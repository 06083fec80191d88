from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gnnexport.cli import app
from tests.cli.conftest import FakeApi, FakeOutcome

DEFAULTS: dict[str, Any] = {
    "target": None,
    "data": None,
    "inputs": None,
    "mode": None,
    "min_speedup": None,
    "time_budget": None,
    "output": None,
    "seed": 0,
    "force": False,
    "trust": False,
    "builder": None,
    "code": None,
    "embed_data": "64MB",
    "store": None,
    "decisions": None,
    "dry_run": False,
}


def last_call(api: FakeApi) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Return the latest call without the function that shows progress."""
    command, arguments, options = api.calls[-1]
    options.pop("progress", None)
    return command, arguments, options


def test_compress_leaves_the_choice_to_the_sidecar(api: FakeApi) -> None:
    """Without options everything is unset, so that gnnexport.toml decides."""
    assert app.run(["compress", "model.pt"]) == 0
    unset = {**DEFAULTS, "passes": None, "recipe": None, "max_drop": None, "memory": None}
    assert last_call(api) == ("compress", ("model.pt",), unset)


def test_compress_hands_every_option_on(api: FakeApi) -> None:
    """Each option of the command line reaches the function."""
    line = (
        "compress m.pt --target ort,onnx --passes a{k=1} --passes b --recipe r.toml --data d.npz "
        "--input x=N,4 --mode full --max-drop 0.5pp --min-speedup 2 --time-budget 10m -o out --seed 3 --force --trust "
        "--builder pkg:make --code train.py --embed-data 1MB --store 2MB --memory 3GB "
        "--decisions old/decisions.json --dry-run"
    )
    assert app.run(line.split()) == 0
    assert last_call(api)[2] == {
        "target": ["ort,onnx"],
        "passes": ["a{k=1}", "b"],
        "recipe": "r.toml",
        "data": "d.npz",
        "inputs": ["x=N,4"],
        "mode": "full",
        "max_drop": "0.5pp",
        "min_speedup": "2",
        "time_budget": "10m",
        "output": "out",
        "seed": 3,
        "force": True,
        "trust": True,
        "builder": "pkg:make",
        "code": "train.py",
        "embed_data": "1MB",
        "store": "2MB",
        "memory": "3GB",
        "decisions": "old/decisions.json",
        "dry_run": True,
    }


def test_export_has_no_compression_options(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    """`export` takes what `compress` takes, less what compresses."""
    assert app.run(["export", "model.pt"]) == 0
    assert last_call(api) == ("export", ("model.pt",), DEFAULTS)
    assert app.run(["export", "model.pt", "--passes", "none"]) == 2
    assert "--passes" in capsys.readouterr().err


def test_no_embed_stores_nothing(api: FakeApi) -> None:
    """`--no-embed` sets the limit of stored data to zero."""
    assert app.run(["compress", "model.pt", "--no-embed"]) == 0
    assert last_call(api)[2]["embed_data"] == "0MB"


@pytest.mark.parametrize("command", ["validate", "bench", "inspect"])
def test_every_long_command_shows_its_steps(api: FakeApi, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What takes longer than a moment tells on stderr what it is doing."""
    answer = SimpleNamespace(text="", to_dict=dict) if command == "inspect" else FakeOutcome()
    api.answers[command] = lambda path, *, progress, **_: (progress("timing"), answer)[1]
    assert app.run([command, "b", "--json"]) == 0
    assert capsys.readouterr().err == "timing\n"


def test_validate_and_bench(api: FakeApi) -> None:
    """The commands on bundles hand on what they take."""
    assert app.run(["validate", "b", "--data", "d.npz", "--time-budget", "5s"]) == 0
    assert last_call(api) == ("validate", ("b",), {"data": "d.npz", "time_budget": "5s"})
    assert app.run(["bench", "b"]) == 0
    assert last_call(api) == ("bench", ("b",), {"time_budget": None})
