"""The whole way, from saved files to a verdict, through the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnnexport.cli import app
from tests.road import NODES, Arrays, write_road


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model, data, sidecar and the bundle that `compress` made of them with nothing else given."""
    folder = tmp_path_factory.mktemp("road")
    model = write_road(folder)
    assert app.run(["compress", str(model), "--time-budget", "5s"]) == 0
    return folder


def run_json(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    """Run a command with --json and return its exit code and document."""
    capsys.readouterr()
    code = app.run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_sidecar_is_enough(road: Path) -> None:
    """`compress model.pt` with a sidecar beside it makes a bundle with every promised file."""
    report = json.loads((road / "model.bundle" / "report.json").read_text())
    assert report["verdict"] == "pass"
    assert "prune-channels" in [step["pass"].partition("{")[0] for step in report["steps"] if step["kept"]]
    held = {path.name for path in (road / "model.bundle").iterdir()}
    assert held >= {"manifest.json", "decisions.json", "golden.npz", "eval.npz", "report.json", "report.md"}


def test_validate_agrees(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`validate` measures the accuracy that `compress` reported, from the bundle alone."""
    code, report = run_json(["validate", str(road / "model.bundle"), "--time-budget", "1s"], capsys)
    made = json.loads((road / "model.bundle" / "report.json").read_text())
    assert code == 0
    assert report["result"]["metric"] == made["result"]["metric"]
    assert report["parity"]["max_rel_error"] <= report["parity"]["tolerance"]


def test_validate_needs_no_torch(road: Path) -> None:
    """`validate` and `bench` never import torch."""
    code = (
        "import sys; from gnnexport.cli import app;"
        f"app.run(['validate', {str(road / 'model.bundle')!r}, '--time-budget', '1s']);"
        f"app.run(['bench', {str(road / 'model.bundle')!r}, '--time-budget', '1s']);"
        "print([n for n in ('torch', 'torch_geometric', 'onnx') if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_bench_and_inspect(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`bench` times a bundle; `inspect` shows models and bundles, as text and as JSON."""
    code, report = run_json(["bench", str(road / "model.bundle"), "--time-budget", "1s"], capsys)
    assert code == 0
    assert report["result"]["latency_ms"]["runs"] > 0
    for path in ("model.pt", "model.bundle"):
        code, document = run_json(["inspect", str(road / path)], capsys)
        assert code == 0
        assert isinstance(document, dict)
        assert app.run(["inspect", str(road / path)]) == 0
        assert capsys.readouterr().out.strip()


def test_a_missed_budget_keeps_the_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A speed budget that nothing meets exits 4, and the bundle holds the verdict."""
    model = write_road(tmp_path)
    code, report = run_json(
        ["compress", str(model), "--passes", "none", "--min-speedup", "1000000", "--time-budget", "5s"], capsys
    )
    assert code == 4
    assert report["verdict"] == "fail"
    assert json.loads((tmp_path / "model.bundle" / "report.json").read_text()) == report


def test_an_existing_bundle_needs_force(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bundle is not replaced by accident."""
    before = (road / "model.bundle" / "manifest.json").read_bytes()
    assert app.run(["compress", str(road / "model.pt")]) == 2
    assert "--force" in capsys.readouterr().err
    assert (road / "model.bundle" / "manifest.json").read_bytes() == before


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    """`--dry-run` leaves the folder as it was."""
    model = write_road(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert app.run(["compress", str(model), "--dry-run"]) == 0
    assert sorted(tmp_path.iterdir()) == before


def test_dry_run_foretells_what_zeros_gain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before any training: the bound, and a recommendation; the folder stays as it was."""
    model = write_road(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert app.run(["compress", str(model), "--dry-run", "--passes", "sparsify-weights{sparsity=0.75}", "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any("sparsify-weights: can be at most " in note for note in notes)
    assert any("sparsify-weights: recommendation: " in note for note in notes)
    assert sorted(tmp_path.iterdir()) == before


def test_several_targets_get_a_forecast_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each by its own engine."""
    model = write_road(tmp_path)
    asked = ["compress", str(model), "--dry-run", "--passes", "sparsify-weights{sparsity=0.75}", "--json"]
    assert app.run([*asked, "--target", "ort,openvino"]) == 0
    reports = json.loads(capsys.readouterr().out)
    for name, engine in (("ort", "onnxruntime"), ("openvino", "openvino")):
        (told,) = (note for note in reports[name]["notes"] if "can be at most" in note)
        assert f"ms on {engine}" in told


def test_catalogues_are_real(capsys: pytest.CaptureFixture[str]) -> None:
    """The catalogue holds the passes and targets that documents name."""
    _, passes = run_json(["passes"], capsys)
    _, targets = run_json(["targets"], capsys)
    _, doctor = run_json(["doctor"], capsys)
    assert "prune-channels" in {entry["name"] for entry in passes}
    assert {entry["name"] for entry in targets} >= {"onnx", "ort"}
    assert {entry["name"] for entry in doctor if entry["ok"]} >= {"torch", "onnxruntime"}


def narrow(arrays: Arrays) -> Arrays:
    """Take a feature away."""
    return {**arrays, "x": arrays["x"][:, :-1]}


def out_of_range(arrays: Arrays) -> Arrays:
    """Let an edge end at a node that does not exist."""
    edges = arrays["edge_index"].copy()
    edges[1, 0] = NODES
    return {**arrays, "edge_index": edges}


def not_a_number(arrays: Arrays) -> Arrays:
    """Put a NaN among the features."""
    x = arrays["x"].copy()
    x[3, 1] = np.nan
    return {**arrays, "x": x}


def without_masks(arrays: Arrays) -> Arrays:
    """Forget which nodes are for what."""
    return {name: array for name, array in arrays.items() if not name.endswith("_mask")}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(narrow, "5"), (out_of_range, f"{NODES}"), (not_a_number, "x"), (without_masks, "mask")],
)
def test_data_that_does_not_fit(
    tmp_path: Path, spoil: Callable[[Arrays], Arrays], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong data exits 2, is named with its mend, and leaves nothing behind."""
    model = write_road(tmp_path, spoil)
    code, document = run_json(["compress", str(model)], capsys)
    assert code == 2, document
    (problem, *_) = document["error"]["problems"]
    assert words in problem["what"]
    assert problem["mend"]
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "data.npz", "gnnexport.toml"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--passes", "prune-chanels"], "Did you mean 'prune-channels'"),
        (["--passes", "prune-channels{kep=0.5}"], "Did you mean 'keep'"),
        (["--passes", "prune-channelskeep=0.5"], "Quote the spec"),
        (["--target", "ortt"], "Did you mean 'ort'"),
        (["--target", "ort{aggregate=elll}"], "Did you mean 'ell'"),
        (["--max-drop", "much"], "much"),
        (["--min-speedup", "fast"], "fast"),
        (["--time-budget", "soon"], "soon"),
        (["--data", "nothing.npz"], "nothing.npz"),
        (["--recipe", "nothing.toml"], "nothing.toml"),
        (["--output", "gnnexport.toml/sub"], "gnnexport.toml"),
        (["--mode", "sideways"], "sideways"),
    ],
)
def test_options_that_make_no_sense(
    tmp_path: Path,
    options: Sequence[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong option exits 2 with a mend before anything is written."""
    monkeypatch.chdir(tmp_path)
    write_road(tmp_path)
    assert app.run(["compress", "model.pt", *options]) == 2
    assert words in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "data.npz", "gnnexport.toml"}


def test_one_graph_cannot_be_baked_in_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model alone, to be deployed for one graph, exits 2 and names the way to give data."""
    model = write_road(tmp_path)
    (tmp_path / "gnnexport.toml").unlink()
    assert app.run(["compress", str(model), "--mode=full"]) == 2
    assert "--data" in capsys.readouterr().err


def test_a_missing_or_truncated_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there or not whole exits 2."""
    model = write_road(tmp_path)
    model.write_bytes(model.read_bytes()[:-500])
    assert app.run(["compress", str(model)]) == 2
    assert "model.pt" in capsys.readouterr().err
    assert app.run(["compress", str(tmp_path / "modle.pt")]) == 2
    assert "modle.pt" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupting_leaves_nothing(
    number: signal.Signals, code: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Ctrl-C or the time limit of a CI job in the middle has its exit code and leaves the folder as it was."""
    model = write_road(tmp_path)
    before = sorted(tmp_path.iterdir())
    # Jobs in the background of a shell ignore Ctrl-C, and so would the command that they start.
    restored = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, restored))
    with subprocess.Popen(
        [sys.executable, "-m", "gnnexport", "compress", str(model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        lines = [running.stderr.readline(), running.stderr.readline()]
        running.send_signal(number)
        rest = running.communicate()[1]
    assert running.returncode == code, "".join(lines) + rest
    assert "Traceback" not in rest
    assert sorted(tmp_path.iterdir()) == before
