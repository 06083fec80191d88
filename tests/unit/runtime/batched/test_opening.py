"""Bundles in mode `batched`: what `load` makes of them, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnnexport.bundle.reader import open_bundle
from gnnexport.bundle.stages import (
    NODE_IDS,
    NUM_TARGETS,
    Batched,
    FeatureTable,
    Stage,
    StageInput,
    StructureValue,
)
from gnnexport.errors import UsageError
from gnnexport.native.packed import PackedRows, pack, pack_bytes, unpack
from gnnexport.native.row_widths import choose_widths
from gnnexport.runtime.batched import opening
from gnnexport.runtime.batched.opening import _rows
from gnnexport.runtime.runner import Runner, load
from tests.unit.runtime.batched.batched_bundle import (
    BATCHED,
    CHANNELS,
    COL,
    NODES,
    ROWPTR,
    STAGES,
    WEIGHT,
    WIDTH,
    X,
    whole,
    write_bundle,
)
from tests.unit.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound bundle."""
    return write_bundle(tmp_path_factory.mktemp("batched") / "m.bundle")


def test_a_runner_in_mode_batched(bundle: Path) -> None:
    """It is called as any other, with the ids of nodes, and asked for more besides."""
    ids = np.array([NODES - 1, 0, NODES - 2, NODES - 1])
    with load(bundle) as runner:
        assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in runner.inputs] == [
            (NODE_IDS, "int64", (NUM_TARGETS,))
        ]
        assert [(tensor.name, tensor.shape) for tensor in runner.outputs] == [("logits", (NUM_TARGETS, WIDTH))]
        assert runner.name == "onnxruntime"
        np.testing.assert_allclose(runner({NODE_IDS: ids})["logits"], whole()[ids], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(runner.predict(ids, fanout=[-1])["logits"], whole()[ids], rtol=1e-5, atol=1e-6)
        assert runner({NODE_IDS: ids[:0]})["logits"].shape == (0, WIDTH)
        assert runner.request_sizes({NODE_IDS: ids}) == {NUM_TARGETS: 4}
        assert runner.warm([7]) == 1
        with pytest.raises(UsageError, match="node_ids: holds 300000"):
            runner({NODE_IDS: ids + 1})


def test_the_bundle_never_changes(bundle: Path) -> None:
    """What `update` writes stays in memory: the next one who loads the bundle finds what is in the files."""
    with load(bundle) as runner:
        assert isinstance(runner, Runner)
        assert runner.version == 0
        other = np.full((1, CHANNELS), 7, np.float32)
        assert runner.update(features=([5], other)) == runner.version == 1
        changed = X.copy()
        changed[5] = 7
        ids = np.array([5, NODES - 1])
        np.testing.assert_allclose(runner.predict(ids)["logits"], whole(changed)[ids], rtol=1e-5, atol=1e-5)
        assert runner.update(new_features=other, edges=[[NODES], [0]]) == 2
        wanted = (changed[0] + other[0]) @ WEIGHT
        np.testing.assert_allclose(runner.predict([0])["logits"][0], wanted, rtol=1e-5, atol=1e-5)
    open_bundle(bundle)
    np.testing.assert_array_equal(np.load(bundle / "x.npy"), X)


def test_the_budget_of_the_store(bundle: Path) -> None:
    """It is told by the bundle, unless told at loading."""
    with load(bundle, store_bytes=100) as runner:
        runner.predict([1, 2])
        assert runner.predict([1, 2]).computed["stage-0"] == 2
    with load(bundle) as runner:
        runner.predict([1, 2])
        assert runner.predict([1, 2]).computed["stage-0"] == 0
    with pytest.raises(UsageError, match=r"store_bytes: is -1\. Give 0 or more bytes"):
        load(bundle, store_bytes=-1)
    for wrong in ("1MB", 1.5, float("nan"), True):
        with pytest.raises(UsageError, match=r"store_bytes: holds .*Give whole numbers"):
            load(bundle, store_bytes=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [0, -1, 10**6, 1.5, "2", True])
def test_threads_that_there_cannot_be(bundle: Path, threads: Any) -> None:
    """A number of threads is checked before any of them is started."""
    with pytest.raises(UsageError, match=r"threads: .*(Give whole numbers|Give 1 to 1024 threads)"):
        load(bundle, threads=threads)


VALUE = StructureValue(name="d")
WITH_ROWS = BATCHED.model_copy(update={"stages": (STAGES[0].model_copy(update={"rows_file": "rows.npy"}), STAGES[1])})


@pytest.mark.parametrize("budget", [400_000 * 48, 5_000_000])
def test_rows_that_a_bundle_brings(tmp_path: Path, bundle: Path, budget: int) -> None:
    """A store begins with them, as far as there is room: first those that others read."""
    with load(bundle) as runner:
        rows = runner._batched().rows("stage-0", np.arange(NODES))
        with pytest.raises(UsageError, match="unknown stage 'stage-7'"):
            runner._batched().rows("stage-7", [0])
    np.testing.assert_allclose(rows, X @ WEIGHT, rtol=1e-5, atol=1e-6)
    path = write_bundle(tmp_path / "m", rows=rows, batched=WITH_ROWS)
    with load(path, store_bytes=budget) as runner:
        read = np.unique(COL)
        answer = runner.predict(read)
        assert answer.found["stage-0"] >= len(read)
        np.testing.assert_allclose(answer["logits"], whole()[read], rtol=1e-5, atol=1e-5)
        assert runner.warm() == 0


def test_rows_that_most_others_read_stay_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the rows that a bundle brings, those that nobody reads make room first."""
    monkeypatch.setattr(opening, "_FILLED_ROWS", 1 << 12)
    path = write_bundle(tmp_path / "m", rows=(X @ WEIGHT).astype(np.float32), batched=WITH_ROWS)
    with load(path, store_bytes=5_000_000) as runner:
        model, read = runner._batched(), np.unique(COL)
        others = np.setdiff1d(np.arange(NODES), read)
        assert len(read) < 1 << 12 < model.store_capacity()["stage-0"] // 8
        model.rows("stage-0", others[-100:])
        assert model.evicted
        assert runner.predict(read).found["stage-0"] == len(read)


def test_what_other_modes_do_not_have(tmp_path: Path) -> None:
    """Runners of other modes say what they answer instead, and keep no rows."""
    tiny = write_tiny_bundle(tmp_path / "m")
    asks: list[Callable[[Runner], object]] = [
        lambda runner: runner.predict([0]),
        lambda runner: runner.update(features=([0], np.zeros((1, 4)))),
        lambda runner: runner.warm(),
        lambda runner: runner.version,
    ]
    with load(tiny) as runner:
        for ask in asks:
            with pytest.raises(UsageError, match=r"answers for the whole graph.*--mode batched"):
                ask(runner)
    with pytest.raises(UsageError, match="is closed"):
        runner.predict([0])
    with pytest.raises(UsageError, match=r"mode 'full' keeps no rows between requests\. Leave store_bytes out"):
        load(tiny, store_bytes=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batched": None}, "says nothing of stages"),
        ({"left_out": "graph.col"}, "lacks 'graph.col'"),
        ({"x": X[:-1]}, r"tables and graph have \[299999, 300000\] nodes"),
        ({"x": X.astype(np.float64)}, "is float64"),
        ({"x": X[:, :1]}, r"x.npy: is float32 \[300000, 1\] where the manifest says float32 \[nodes, 2\]"),
        ({"col": np.array([0, 1, NODES])}, "the structure 'graph' is none"),
        ({"col": np.array([0, 1])}, "the structure 'graph' is none"),
        ({"rowptr": ROWPTR[::-1].copy()}, "the structure 'graph' is none"),
        ({"col": np.array([[0], [1], [2]])}, "the structure 'graph' is none"),
        ({"rowptr": np.stack([ROWPTR, ROWPTR])}, "the structure 'graph' is none"),
        ({"col": np.array([0.0, 1.0, 2.0])}, "the structure 'graph' is none"),
        ({"col": np.array(3)}, r"graph.npz: 'graph.col' is int64 \[\]"),
        ({"batched": WITH_ROWS, "rows": X[:5]}, r"rows.npy: is float32 \[5, 2\] where the manifest says"),
        ({"batched": WITH_ROWS, "rows": X[:5] @ WEIGHT}, "rows.npy: has 5 rows for the 300000 nodes"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """A bundle whose files do not fit each other is refused at loading."""
    with pytest.raises(UsageError, match=rf"{words}.*Make the bundle again"):
        load(write_bundle(tmp_path / "m", **changes))


PACKED = (BATCHED.tables[0].model_copy(update={"file": "x.rows", "bits": 8}),)


@pytest.mark.parametrize(
    ("rows", "stages", "words"),
    [
        (pack_bytes(X), STAGES, None),
        (pack_bytes(X[:, :1].copy()), STAGES, r"x.rows: has rows of 1 numbers where the manifest says 2"),
        (pack_bytes(X[:5]), STAGES, r"tables and graph have \[5, 300000\] nodes"),
        (None, STAGES, "x.rows: is no file of packed rows"),
        (pack_bytes(X), WITH_ROWS.stages, r"rows.npy: does not hold rows of 8 bits with a sign each"),
    ],
)
def test_packed_files(tmp_path: Path, rows: PackedRows | None, stages: tuple[Stage, ...], words: str | None) -> None:
    """Packed features and rows are read, and refused where they are not what the manifest says."""
    batched = BATCHED.model_copy(update={"tables": PACKED, "stages": stages, "store_bits": 8})
    of_table = pack(X[:, :1].repeat(WIDTH, 1), *choose_widths(X, 8, is_signed=True), is_signed=True)
    path = write_bundle(tmp_path / "m", batched=batched, packed={"x.rows": rows, "rows.npy": of_table})
    if words is not None:
        with pytest.raises(UsageError, match=rf"{words}.*Make the bundle again"):
            load(path)
        return
    ids = np.array([NODES - 1, 3, NODES - 2])
    with load(path, store_bits=32) as runner:
        np.testing.assert_allclose(runner.predict(ids)["logits"], whole(unpack(pack_bytes(X)))[ids], atol=1e-5)
        with pytest.raises(UsageError, match=r"mode 'full' keeps no rows between requests\. Leave store_bits out"):
            load(write_tiny_bundle(tmp_path / "tiny"), store_bits=8)


def changed(**changes: Any) -> Batched:
    """The manifest's part with other values, those of the last stage among them."""
    whole = {name: value for name, value in changes.items() if name in Batched.model_fields}
    last = STAGES[1].model_copy(update={name: value for name, value in changes.items() if name not in whole})
    return BATCHED.model_copy(update={"stages": (STAGES[0], last), **whole})


def near(**changes: Any) -> tuple[StageInput, ...]:
    """The last stage's inputs, the second one changed."""
    inputs = STAGES[1].inputs
    return (inputs[0], inputs[1].model_copy(update=changes), *inputs[2:])


@pytest.mark.parametrize(
    ("batched", "words"),
    [
        (changed(stages=STAGES[::-1]), "stage-1: 'own' reads 'stage-0', which there is not"),
        (changed(depth=0), "a stage of depth 0 comes after one of depth 0"),
        (changed(stages=STAGES[:1]), r"the last stage gives 'rows' of width 3, not 'logits' \['num_targets', 3\]"),
        (changed(stages=STAGES[1:]), "stage-1: 'own' reads 'stage-0', which there is not"),
        (changed(inputs=near(value="stage-1")), "stage-1: 'near' reads 'stage-1', which there is not"),
        (changed(inputs=near(part="slot_values")), "stage-1: 'near' reads 'stage-0', which there is not"),
        (changed(inputs=near(part="source_values", value="x")), "'near' reads 'x', which there is not"),
        (changed(inputs=near(name="own")), "two of its inputs are called 'own'"),
        (changed(structure=None), "'near' is of neighbours, and the stage has none"),
        (changed(structure="other"), "reads the structure 'other', which there is not"),
        (changed(tables=()), "there is no table of features"),
        (changed(tables=BATCHED.tables * 2), "two of the tables are called 'x'"),
        (
            changed(tables=(FeatureTable(name="x", file="../x.npy", width=2),)),
            "'../x.npy' is not among the files listed",
        ),
        (changed(model_file="/stage.onnx"), "'/stage.onnx' is not among the files listed"),
        (changed(rows_file="rows.npy"), "'rows.npy' is not among the files listed"),
        (changed(feature_width=7), "the table 'x' has 2 of 7 features"),
        (
            changed(tables=(FeatureTable(name="x", file="x.npy", width=2, columns=(0, -1)),)),
            "the table 'x' holds features that there are not",
        ),
        (
            changed(tables=(FeatureTable(name="x", file="x.npy", width=2, columns=(0,)),)),
            "the table 'x' has 1 columns and the width 2",
        ),
        (
            changed(values=(StructureValue(name="w", structure="other"),)),
            "'w' is of the structure 'other', which there is not",
        ),
        (changed(direct=True, inputs=near(part="source_values", value="d"), values=(VALUE,)), "is direct, and reads"),
    ],
)
def test_manifests_that_do_not_fit(tmp_path: Path, batched: Batched, words: str) -> None:
    """Stages, tables and files have to be there and in order before anything is loaded."""
    with pytest.raises(UsageError, match=rf"manifest.json: .*{words}.*Make the bundle again"):
        load(write_bundle(tmp_path / "m", batched=batched))


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ((STAGES[0].model_copy(update={"output": "others"}), STAGES[1]), "stage-0/model.onnx: does not give 'others'"),
        ((STAGES[0].model_copy(update={"width": 4}), STAGES[1]), "and the manifest says a width of 4"),
        ((STAGES[0], STAGES[1].model_copy(update={"inputs": STAGES[1].inputs[1:]})), "stage-1/model.onnx: reads 'own'"),
    ],
)
def test_models_that_do_not_fit(tmp_path: Path, stages: tuple[Stage, ...], words: str) -> None:
    """The model of a stage reads and gives what the manifest says."""
    with pytest.raises(UsageError, match=rf"{words}.*Make the bundle again"):
        load(write_bundle(tmp_path / "m", batched=changed(stages=stages)))


@pytest.mark.parametrize("shape", ["(10**9, 2)", "(1000000000000, 2)", "(60, 99999999999999999999)", "(-1, 2)"])
def test_headers_that_promise_more_than_there_is(tmp_path: Path, shape: str) -> None:
    """A `.npy` file may say it holds more than any memory has room for."""
    path = write_bundle(tmp_path / "m", batched=WITH_ROWS, rows=X[:5])
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    content = (path / "rows.npy").read_bytes()
    (path / "rows.npy").write_bytes(content[:10] + header.ljust(117) + b"\n" + content[128:])
    with pytest.raises(UsageError, match=r"rows\.npy: cannot be read .*Make the bundle again"):
        _rows(path, "rows.npy", WIDTH)
