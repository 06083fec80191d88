"""From a saved model to answers from packed features and kept rows of 8 bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import GAT, GCN, GraphSAGE

from gnnexport import api
from gnnexport.bundle.packed_rows import map_packed
from gnnexport.errors import UnsupportedError, UsageError
from gnnexport.native.packed import pack, unpack
from gnnexport.native.row_widths import choose_widths
from gnnexport.runtime.runner import load
from tests.road import CHANNELS, CLASSES, NODES, small_graph, write_road

QUICK = "3s"
MODELS: dict[str, Callable[[], nn.Module]] = {
    "GCN": lambda: GCN(CHANNELS, 16, 2, CLASSES),
    "GraphSAGE": lambda: GraphSAGE(CHANNELS, 16, 3, CLASSES),
    "GAT": lambda: GAT(CHANNELS, 16, 2, CLASSES, heads=2),
}


def written(folder: Path, name: str = "GraphSAGE") -> Path:
    """Write a model with its data and return its path."""
    path = write_road(folder)
    torch.manual_seed(1)
    torch.save(MODELS[name]().eval(), path)
    return path


def compressed(folder: Path, name: str = "GraphSAGE", passes: str = "pack-features", **more: object) -> api.Outcome:
    """Compress a model for mode `batched`."""
    path = written(folder, name)
    given = {"passes": passes, "max_drop": "100pp", "time_budget": QUICK, **more}
    return api.compress(path, mode="batched", **given)  # type: ignore[arg-type]


def rounded(x: np.ndarray, bits: int = 8) -> np.ndarray:
    """Round features as a bundle has them."""
    is_signed = bool((x < 0).any())
    return unpack(pack(x, *choose_widths(x, bits, is_signed=is_signed), is_signed=is_signed))


def expected(path: Path, x: np.ndarray) -> np.ndarray:
    """Answer for all nodes in PyTorch."""
    model = torch.load(path, weights_only=False)
    edges = torch.from_numpy(small_graph()["edge_index"]).long()
    with torch.no_grad():
        return model(torch.from_numpy(x), edges).numpy()


def close(answer: np.ndarray, wanted: np.ndarray, share: float = 1e-5) -> None:
    """Hold answers against each other, relative to the largest."""
    np.testing.assert_allclose(answer, wanted, atol=share * max(1.0, float(np.abs(wanted).max(initial=0))))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> api.Outcome:
    """One bundle with packed features and kept rows of 8 bits."""
    return compressed(tmp_path_factory.mktemp("packed"))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", ["ort", "ort{portable=true}"])
def test_answers_are_those_of_the_rounded_features(target: str, name: str, tmp_path: Path) -> None:
    """Features alone packed: 1e-5 from full inference in PyTorch on the features as they come out of the store."""
    outcome = compressed(tmp_path, name, "pack-features{bits=4,hidden=false}", target=target)
    wanted = expected(tmp_path / "model.pt", rounded(small_graph()["x"], 4))
    with load(outcome.bundle, store_bytes=0) as cold, load(outcome.bundle) as warm:
        for nodes in ([5], [3, 59, 3, 0], [], list(range(NODES))):
            close(cold.predict(nodes)["logits"], wanted[nodes])
            close(warm.predict(nodes)["logits"], wanted[nodes])


def test_rows_between_stages_are_rounded(made: api.Outcome) -> None:
    """Whatever the store has room for, answers are near those that nothing between stages is rounded for."""
    wanted = expected(made.bundle.parent / "model.pt", rounded(small_graph()["x"]))
    everything = np.arange(NODES)
    with load(made.bundle, store_bytes=0) as cold, load(made.bundle) as warm, load(made.bundle, store_bits=32) as exact:
        answers = [runner.predict(everything)["logits"] for runner in (cold, warm)]
        close(answers[0], answers[1], 2e-2)
        close(answers[0], wanted, 2e-2)
        assert abs(answers[0] - wanted).max() > 1e-6
        close(exact.predict(everything)["logits"], wanted)
        close(warm.predict(everything, rounded=False)["logits"], wanted)


def test_the_bundle_says_all_of_itself(made: api.Outcome) -> None:
    """Files, their kinds and their bits stand in the manifest, and what they take in the report."""
    manifest = json.loads((made.bundle / "manifest.json").read_text())
    batched = manifest["batched"]
    assert batched["store_bits"] == 8
    assert [(table["file"], table["bits"]) for table in batched["tables"]] == [("features.rows", 8)]
    assert [stage["rows_file"] for stage in batched["stages"]] == ["rows-1.rows", "rows-2.rows", None]
    kinds = {file["path"]: file["kind"] for file in manifest["files"]}
    assert (kinds["features.rows"], kinds["rows-1.rows"]) == ("graph", "data")
    x = small_graph()["x"]
    np.testing.assert_array_equal(unpack(map_packed(made.bundle / "features.rows", "")), rounded(x))
    sizes = made.report.result.sizes
    assert sizes is not None
    files = ["features.rows", "rows-1.rows", "rows-2.rows"]
    assert sizes.features_bytes == sum((made.bundle / file).stat().st_size for file in files)
    (step,) = [step for step in made.report.steps if step.name.startswith("pack-features")]
    assert any("steps and widths included" in note for note in step.notes)
    assert any("rows between stages are kept with 8 bits" in note for note in step.notes)


def test_the_store_begins_with_the_rows_of_the_bundle(made: api.Outcome) -> None:
    """Rows of 8 bits are read into a store of such, and not into one of float32."""
    with load(made.bundle) as runner, load(made.bundle, store_bits=32) as exact:
        assert runner.predict([1, 2, 3]).computed == {"stage-1": 0, "stage-2": 0, "stage-3": 3}
        assert exact.predict([1, 2, 3]).computed["stage-1"] > 0


def test_rows_of_float32_can_be_kept_with_8_bits(tmp_path: Path) -> None:
    """What a bundle brings as float32 is rounded where whoever loads it wants smaller rows."""
    path = written(tmp_path)
    outcome = api.export(path, mode="batched", time_budget=QUICK)
    with load(outcome.bundle, store_bits=8) as runner:
        answer = runner.predict(np.arange(NODES))
        assert answer.computed["stage-1"] == 0
        close(answer["logits"], expected(path, small_graph()["x"]), 2e-2)
    with pytest.raises(UsageError, match=r"store_bits: is 4. Give 8 or 32"):
        load(outcome.bundle, store_bits=4)  # type: ignore[arg-type]


def test_answers_follow_the_graph(tmp_path: Path) -> None:
    """New features and nodes are rounded like those of the bundle, in the columns that neighbours give too."""
    path = written(tmp_path)
    passes = "prune-channels{keep=0.25,multiple=1,retrain=false};pack-features{hidden=false}"
    outcome = api.compress(path, mode="batched", passes=passes, max_drop="100pp", time_budget=QUICK)
    manifest = json.loads((outcome.bundle / "manifest.json").read_text())
    whole, part = manifest["batched"]["tables"]
    assert whole["columns"] is None
    assert 0 < len(part["columns"]) < CHANNELS
    fresh = np.linspace(-1, 1, 2 * CHANNELS, dtype=np.float32).reshape(2, CHANNELS)
    kept = np.concatenate([rounded(row[None]) for row in fresh])
    with load(outcome.bundle) as runner, load(outcome.bundle) as other:
        runner.update(features=([7], fresh[:1]), new_features=fresh[1:], edges=[[NODES, 7], [7, 3]])
        other.update(features=([7], kept[:1]), new_features=kept[1:], edges=[[NODES, 7], [7, 3]])
        everything = np.arange(NODES + 1)
        close(runner.predict(everything)["logits"], other.predict(everything)["logits"])


def test_rows_of_one_bit_leave_others_as_near_as_promised(tmp_path: Path) -> None:
    """Where all rows of a bundle take 1 bit, those that an update brings take what the pass allows."""
    path = write_road(tmp_path, lambda arrays: {**arrays, "x": (arrays["x"] > 0).astype(np.float32)})
    outcome = api.compress(
        path, mode="batched", passes="pack-features{hidden=false}", max_drop="100pp", time_budget=QUICK
    )
    (table,) = json.loads((outcome.bundle / "manifest.json").read_text())["batched"]["tables"]
    assert table["bits"] == 8
    x, fresh = small_graph()["x"] > 0, np.random.default_rng(0).standard_normal((2, CHANNELS)).astype(np.float32)
    assert set(map_packed(outcome.bundle / "features.rows", "").bits) == {1}
    wanted = x.astype(np.float32)
    wanted[[5, 9]] = np.concatenate([rounded(row[None]) for row in fresh])
    with load(outcome.bundle) as runner:
        runner.update(features=([5, 9], fresh))
        close(runner.predict(np.arange(NODES))["logits"], expected(path, wanted))


def test_validate_agrees(made: api.Outcome) -> None:
    """Numbers are held against unrounded rows, accuracy is measured on rounded ones; both as when it was made."""
    report = api.validate(made.bundle, time_budget="1s").report
    assert report.parity is not None
    assert report.parity.max_rel_error < 1e-5
    assert report.result.metric == made.report.result.metric


def test_what_cannot_be_packed_is_refused(tmp_path: Path) -> None:
    """Other modes store no features, features are rounded once, and 1 bit holds no negative numbers."""
    path = written(tmp_path)
    with pytest.raises(UnsupportedError, match=r"mode 'full' stores no features.*--mode batched"):
        api.compress(path, passes="pack-features", time_budget=QUICK)
    with pytest.raises(UnsupportedError, match="the features are rounded already"):
        compressed(tmp_path, passes="pack-features;pack-features{bits=4}")
    with pytest.raises(UsageError, match="bits must be one of 2, 4, 8"):
        compressed(tmp_path, passes="pack-features{bits=1}")


@pytest.mark.parametrize("file", ["features.rows", "rows-1.rows"])
def test_damaged_files_are_told(made: api.Outcome, file: str) -> None:
    """A file whose bytes are others is refused before anything is read from it."""
    path = made.bundle / file
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(UsageError, match=file):
            load(made.bundle)
    finally:
        path.write_bytes(content)
