from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import gnnexport
from gnnexport import api
from gnnexport.errors import ParityError, UnsupportedError, UsageError
from tests.road import write_road

QUICK = "4s"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small trained model with its data and sidecar beside it."""
    return write_road(tmp_path_factory.mktemp("api"))


def fresh(model: Path) -> Path:
    """Remove the bundle of an earlier test."""
    shutil.rmtree(model.with_suffix(".bundle"), ignore_errors=True)
    return model


def test_export_computes_what_the_model_computes(model: Path) -> None:
    """The bundle is called with named arrays and gives the logits of the model."""
    outcome = gnnexport.export(fresh(model), time_budget=QUICK)
    data = np.load(model.with_name("data.npz"))
    original = torch.load(model, weights_only=False)
    with torch.no_grad():
        expected = original(torch.from_numpy(data["x"]), torch.from_numpy(data["edge_index"]).long()).numpy()
    with gnnexport.load(outcome.bundle) as run:
        logits = run({"x": data["x"]})["logits"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_command_line_beats_recipe_beats_sidecar(model: Path, tmp_path: Path) -> None:
    """Passes and budgets are taken from the nearest place that names them."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('schema = 1\npasses = ["none"]\nmax_drop = "50pp"\n')
    report = api.compress(fresh(model), recipe=recipe, max_drop="60pp", time_budget=QUICK).report
    assert report.budgets.max_drop == "60pp"
    assert not any(step.name.startswith("prune") for step in report.steps)
    dry = api.compress(fresh(model), dry_run=True)
    assert "prune-channels" in "".join(dry.report.notes)
    assert dry.report.budgets.max_drop == "100pp"


def test_the_mode_of_a_recipe_counts(model: Path, tmp_path: Path) -> None:
    """A recipe names the mode as it names the target, and the option beats it."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('schema = 1\npasses = ["none"]\ntarget = "trt"\nmode = "batched"\n')
    with pytest.raises(UnsupportedError, match="builds no engines for the blocks of mode batched"):
        api.compress(fresh(model), recipe=recipe, dry_run=True)
    assert api.compress(fresh(model), recipe=recipe, mode="full", dry_run=True).exit_code in (0, 7)


def test_several_targets_get_a_folder_each(model: Path, tmp_path: Path) -> None:
    """`--target onnx,ort` writes two bundles below the output folder."""
    outcome = api.export(model, target="onnx,ort", output=tmp_path / "both", time_budget=QUICK)
    assert {name: path.name for name, path in outcome.bundles.items()} == {"onnx": "onnx", "ort": "ort"}
    assert all((path / "model.onnx").is_file() for path in outcome.bundles.values())


def test_decisions_replay_to_the_same_digest(model: Path, tmp_path: Path) -> None:
    """What timing decided is taken over: also a lowering that timing would hardly choose."""
    first = api.export(model, output=tmp_path / "first", time_budget=QUICK).bundle
    decided = json.loads((first / "decisions.json").read_text())
    digest = json.loads((first / "manifest.json").read_text())["digest"]
    again = api.export(model, output=tmp_path / "again", decisions=first / "decisions.json", time_budget=QUICK).bundle
    assert json.loads((again / "manifest.json").read_text())["digest"] == digest
    other = {**decided, "lowerings": dict.fromkeys(decided["lowerings"], "scatter")}
    (tmp_path / "other.json").write_text(json.dumps(other))
    odd = api.export(model, output=tmp_path / "odd", decisions=tmp_path / "other.json", time_budget=QUICK).bundle
    replayed = json.loads((odd / "decisions.json").read_text())["lowerings"]
    # Where our kernels were decided for, their sums are others than those of standard operators, which come on top.
    assert replayed.items() >= other["lowerings"].items()


def test_missed_speed_budget_exits_4_and_keeps_the_bundle(model: Path) -> None:
    """A verdict is not an error: the bundle stays, with the verdict in it."""
    outcome = api.export(fresh(model), min_speedup=1e6, time_budget=QUICK)
    assert outcome.exit_code == 4
    assert json.loads((outcome.bundle / "report.json").read_text())["verdict"] == "fail"


def test_missed_accuracy_budget_exits_3(model: Path) -> None:
    """One channel of sixteen, not retrained, cannot tell three classes apart."""
    spec = "prune-channels{keep=0.01,multiple=1,retrain=false}"
    outcome = api.compress(fresh(model), passes=spec, max_drop="1pp", time_budget=QUICK)
    assert outcome.exit_code == 3
    assert json.loads((outcome.bundle / "report.json").read_text())["verdict"] == "fail"


def test_keep_one_changes_no_output(model: Path) -> None:
    """keep=1 skips refit and retraining."""
    report = api.compress(fresh(model), passes="prune-channels{keep=1}", time_budget=QUICK).report
    assert report.result.parameters == report.exported.parameters
    assert report.drop is not None
    assert report.drop.value == 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"mode": "batched", "target": "trt"}, UnsupportedError, "builds no engines"),
        ({"mode": "fast"}, UsageError, "Known: batched, full, graphs"),
        ({"target": "ort,ort"}, UsageError, "given twice"),
        ({"target": "tensorrt"}, UsageError, "unknown name 'tensorrt'"),
        ({"target": "ort{threads=1025}"}, UsageError, "threads=1025 are too many. Give at most 1024"),
        ({"passes": ["auto", "prune-channels"]}, UsageError, "stand alone"),
        ({"passes": "prune-chanels"}, UsageError, "Did you mean 'prune-channels'"),
        ({"passes": "prune-channels{kep=0.5}"}, UsageError, "unknown option 'kep'"),
        ({"passes": "prune-channels{keep=2}"}, UsageError, "keep must be in"),
        ({"max_drop": "2%"}, UsageError, "pp"),
        ({"seed": -1}, UsageError, "negative"),
        ({"data": ""}, UsageError, "--data: is given, but empty"),
        ({"output": ""}, UsageError, "--output: is given, but empty"),
        ({"recipe": ""}, UsageError, "--recipe: is given, but empty"),
        ({"target": ""}, UsageError, "--target: is given, but empty"),
        ({"target": ","}, UsageError, "--target: is given, but empty"),
        ({"passes": [""]}, UsageError, "--passes: is given, but empty"),
        ({"decisions": "nothing.json"}, UsageError, "cannot be read"),
    ],
)
def test_options_that_cannot_be(model: Path, options: dict[str, str], error: type[Exception], words: str) -> None:
    """Each mistake is named together with its mend, and nothing is written."""
    with pytest.raises(error, match=words):
        api.compress(fresh(model), **options)
    assert not model.with_suffix(".bundle").exists()


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    """A folder, the current one too, is told before a name is made of its name."""
    for folder in (Path(), tmp_path):
        with pytest.raises(UsageError, match="is not a file"):
            api.export(folder)


def test_wrong_artefact_is_caught(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that computes something else ends in exit code 5 and leaves no bundle."""
    from gnnexport.runtime.runner import Runner

    honest = Runner.run

    def run(self: Runner, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: value + 1 for name, value in honest(self, feeds).items()}

    monkeypatch.setattr(Runner, "run", run)
    monkeypatch.setattr(Runner, "__call__", run)
    with pytest.raises(ParityError) as caught:
        api.export(fresh(model), time_budget=QUICK)
    assert caught.value.exit_code == 5
    assert not model.with_suffix(".bundle").exists()


def test_inspect_describes_model_and_bundle(model: Path) -> None:
    """A model shows ops, cost and support; a bundle shows its manifest."""
    inspection = api.inspect(model)
    assert "gnn.aggregate" in inspection.text
    assert inspection.to_dict()["targets"] == {"onnx": [], "openvino": [], "ort": [], "trt": []}
    bundle = api.export(fresh(model), time_budget=QUICK).bundle
    assert "mode full" in api.inspect(bundle).text


def test_no_embed_ships_no_features(model: Path, tmp_path: Path) -> None:
    """With nothing embedded, no array of the bundle holds the features or the labels."""
    bundle = api.export(model, output=tmp_path / "bare", embed_data="0MB", time_budget=QUICK).bundle
    data = np.load(model.with_name("data.npz"))
    for path in bundle.glob("*.npz"):
        for name, array in np.load(path).items():
            assert array.shape != data["x"].shape or not np.array_equal(array, data["x"]), f"{path.name}: {name}"
            assert name != "y"


def test_a_failing_target_leaves_no_bundle_of_another(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bundles of several targets appear together or not at all."""
    from gnnexport.targets.ort import OrtTarget

    def fail(*_: object) -> None:
        raise UnsupportedError.at("ort", "cannot do this", "Use another target")

    monkeypatch.setattr(OrtTarget, "emit", fail)
    with pytest.raises(UnsupportedError, match="cannot do this"):
        api.export(model, target="onnx,ort", output=tmp_path / "both", time_budget=QUICK)
    assert list(tmp_path.iterdir()) == []


def test_several_targets_stay_out_of_a_single_bundle(model: Path, tmp_path: Path) -> None:
    """A finished bundle is no folder for the bundles of several targets."""
    bundle = api.export(model, output=tmp_path / "one", time_budget=QUICK).bundle
    with pytest.raises(UsageError, match="one folder for each target"):
        api.export(model, target="onnx,ort", output=bundle, force=True, time_budget=QUICK)


def test_costs_are_those_of_the_files(model: Path) -> None:
    """MACs are counted on the Program as lowered, with propagation in its final order."""
    report = api.compress(fresh(model), passes="prune-channels{keep=0.5}", time_budget=QUICK).report
    assert [step.name.partition("{")[0] for step in report.steps][-3:] == [
        "order-propagation",
        "fold-norms",
        "remove-redundant",
    ]
    assert report.result.macs_linear == report.exported.macs_linear // 2  # type: ignore[operator]


def test_against_itself_the_speedup_is_one(model: Path) -> None:
    """A budget against the uncompressed export is missed when nothing was compressed."""
    outcome = api.compress(fresh(model), passes="none", min_speedup="2x-exported", time_budget=QUICK)
    assert outcome.exit_code == 4
