from __future__ import annotations

import io
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from gnnexport.errors import GnnExportError, SpecError, UsageError
from gnnexport.frontends import memory
from gnnexport.frontends.data import build_data, load_data
from gnnexport.frontends.graph_sets import KNOWN
from gnnexport.frontends.npz import CSR
from gnnexport.frontends.plain import arrays_of as arrays_of_graphs
from gnnexport.frontends.sidecar import read_sidecar
from tests.fuzz_loaders import GIB, LOADERS, assert_sound, fuzz, read_data
from tests.mutations import mutate
from tests.unit.tiny_bundle import write_tiny_bundle

DTYPES = (
    "float32",
    "float64",
    "float16",
    "int64",
    "int32",
    "int8",
    "uint8",
    "uint64",
    "bool",
    "complex64",
    "<U3",
    "S2",
)
KINDS = (None, "node-classification", "graph-classification", "node-regression", "graph-regression", "link-prediction")
SHAPES = st.one_of(
    st.sampled_from([(4,), (4, 2), (2, 4), (2, 0), (2, 3), (3,), (5,), (0,), (), (4, 1), (1,), (2,), (4, 2, 2)]),
    arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
)


@st.composite
def wild_arrays(draw: st.DrawFn) -> np.ndarray:
    """Draw an array of any type and shape, often of small whole numbers, as indices are."""
    dtype, shape = np.dtype(draw(st.sampled_from(DTYPES))), draw(SHAPES)
    small = st.integers(0, 4) if dtype.kind in "iufc" else None
    if dtype.kind == "i":
        small = st.integers(-1, 5)
    return draw(arrays_of.arrays(dtype, shape, elements=draw(st.sampled_from([small, None]))))


@st.composite
def tame_arrays(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Draw the arrays of a good graph or set, some of which the wild ones replace."""
    nodes, edges = draw(st.integers(1, 6)), draw(st.integers(0, 8))
    ends = arrays_of.arrays(np.int64, (2, edges), elements=st.integers(0, nodes - 1))
    found: dict[str, np.ndarray] = {
        "x": draw(arrays_of.arrays(np.float32, (nodes, 2), elements=st.floats(-3, 3, width=32))),
        "edge_index": draw(ends),
        "y": draw(arrays_of.arrays(np.int64, nodes, elements=st.integers(-1, 2))),
    }
    if draw(st.booleans()):
        found["batch"] = np.sort(draw(arrays_of.arrays(np.int64, nodes, elements=st.integers(0, 3))))
    place = draw(arrays_of.arrays(np.int64, nodes, elements=st.integers(0, 3)))
    if draw(st.booleans()):
        found |= {f"{name}_mask": place == number for number, name in enumerate(("train", "val", "test"))}
    return found


def assert_refused_or_sound(outcome: Any) -> None:
    """Loading ended in an error with a mend, or in a graph that everything after it can use."""
    if isinstance(outcome, GnnExportError):
        assert outcome.exit_code in (2, 6)
        assert all(problem.mend for problem in outcome.problems)
    else:
        assert_sound(outcome)


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loaders believe in a machine of 1 GiB."""
    monkeypatch.setattr(memory, "memory_bytes", lambda: GIB)


@given(
    tame=tame_arrays(),
    wild=st.dictionaries(st.sampled_from(sorted(KNOWN | set(CSR))), wild_arrays(), max_size=4),
    dropped=st.sets(st.sampled_from(["x", "edge_index", "y", "batch"]), max_size=2),
    kind=st.sampled_from(KINDS),
)
@settings(deadline=None, max_examples=200, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_arrays_are_refused_or_a_sound_graph(
    tmp_path_factory: pytest.TempPathFactory, tame: dict[str, Any], wild: dict[str, Any], dropped: set[str], kind: Any
) -> None:
    """Whatever arrays stand under the known names, loading is an error with a mend or gives a sound graph."""
    path = tmp_path_factory.getbasetemp() / "wild.npz"
    np.savez(path, **{name: value for name, value in {**tame, **wild}.items() if name not in dropped - wild.keys()})
    outcome: Any
    try:
        outcome, _ = load_data(path, kind=kind)
    except GnnExportError as error:
        outcome = error
    assert_refused_or_sound(outcome)


@given(
    tame=st.lists(tame_arrays(), min_size=1, max_size=3),
    wild=st.dictionaries(st.sampled_from(sorted(KNOWN)), wild_arrays(), max_size=4),
    dropped=st.sets(st.sampled_from(["x", "y", "batch"]), max_size=3),
    form=st.sampled_from(["list", "same", "split"]),
    kind=st.sampled_from(KINDS),
)
@settings(deadline=None, max_examples=200, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_graphs_are_refused_or_a_sound_set(
    tame: list[dict[str, Any]], wild: dict[str, Any], dropped: set[str], form: str, kind: Any
) -> None:
    """Whatever arrays the graphs of a list hold, in one of them or in all, it is refused or gives a sound set."""
    changed = {name: torch.from_numpy(value) if value.dtype.kind in "biufc" else value for name, value in wild.items()}
    graphs = [
        {name: torch.from_numpy(value) for name, value in graph.items() if name not in dropped} | changed
        for graph in (tame[:1] * 3 if form == "same" else tame)
    ]
    thing = {name: [graph] for name, graph in zip(("train", "val", "test"), graphs, strict=False)}
    outcome: Any
    try:
        outcome, _ = build_data(arrays_of_graphs(thing if form == "split" else graphs, "wild"), "wild", "wild", 0, kind)
    except GnnExportError as error:
        outcome = error
    assert_refused_or_sound(outcome)


@pytest.mark.parametrize("name", sorted(LOADERS))
def test_damaged_files_are_refused_or_load(name: str, tmp_path: Path) -> None:
    """Flipped, cut, moved and exchanged bytes of honest files: no crash, no hang, no great memory, never no mend."""
    outcomes = fuzz(name, runs=250, seed=1, keep=tmp_path)
    assert not [kind for kind in outcomes if kind.startswith("CRASH") or "mend" in kind], list(tmp_path.iterdir())
    assert outcomes["loaded"]
    assert outcomes.total() > outcomes["loaded"]


def test_the_fuzzer_sees_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that crashes on damage is reported with its file and traceback: so the test above tests something."""

    def fragile(path: Path) -> object:
        try:
            return read_data(path)
        except GnnExportError as error:
            raise KeyError("lost") from error

    broken = LOADERS["data"].__class__(LOADERS["data"].seeds, fragile)
    monkeypatch.setitem(LOADERS, "data", broken)
    outcomes = fuzz("data", runs=20, seed=1, keep=tmp_path)
    assert outcomes["CRASH KeyError"]
    kept = next(tmp_path.iterdir())
    assert "lost" in (kept / "traceback.txt").read_text()
    assert len(list(kept.iterdir())) == 2


def test_damage_is_repeatable() -> None:
    """The same seed damages the same way, so that a seed in a report is enough to see it again."""
    content = bytes(range(256)) * 4
    first, second = (mutate(content, [content], random.Random("a")) for _ in range(2))
    assert first == second
    assert mutate(content, [content], random.Random("b")) != content


def test_what_fuzzing_found_stays_mended(tmp_path: Path) -> None:
    """Deeply nested text, an old name of a type in a header, and text that is not UTF-8 are errors of our tree."""
    (tmp_path / "gnnexport.toml").write_text(f"schema = {'[' * 5000}")
    with pytest.raises(SpecError, match="nested too deeply"):
        read_sidecar(tmp_path / "model.pt")
    bundle = write_tiny_bundle(tmp_path / "bundle")
    for name, content, words in (
        ("decisions.json", b"\xff", "not UTF-8"),
        ("decisions.json", b"{", "is not JSON"),
        ("decisions.json", b"[" * 100_000, "is not JSON"),
        ("report.json", b"\xff", "not UTF-8"),
        ("report.json", b"[" * 100_000, "not JSON"),
        ("eval.npz", b"PK", "cannot be read"),
        ("eval.npz", npz_with(b"|a4"), "cannot be read"),
        ("golden.npz", npz_with(b"(("), "cannot be read"),
    ):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
        (copy / name).write_bytes(content)
        LOADERS["bundle"].settle(copy)
        with pytest.raises(UsageError, match=words):
            LOADERS["bundle"].load(copy)


def npz_with(kind: bytes) -> bytes:
    """Return an `.npz` whose only array has a header with another kind of numbers."""
    buffer = io.BytesIO()
    np.savez(buffer, description=np.zeros(4, dtype="<f4"))
    with zipfile.ZipFile(buffer) as old:
        content = old.read("description.npy").replace(b"'<f4'", b"'" + kind + b"'")
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as new:
        new.writestr("description.npy", content)
    return made.getvalue()
