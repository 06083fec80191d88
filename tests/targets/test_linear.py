"""A reduction and the linear layers behind it as one operator: what is fused, what is not, and that numbers stay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gnnexport.native import kernels, library
from gnnexport.runtime import ort as runtime
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx import choice
from gnnexport.targets.onnx.batches import repeat_for_batches
from gnnexport.targets.onnx.native import native_graphs
from gnnexport.targets.openvino import OpenVinoTarget
from gnnexport.targets.ort import OrtTarget
from tests.targets.reduced_layers import (
    CASES,
    ENGINES,
    GRAPHS,
    Build,
    Layers,
    both,
    close,
    expected,
    own_read_twice,
    request,
    request_of,
)

pytestmark = pytest.mark.skipif(library.why_missing() is not None, reason=f"the kernels: {library.why_missing()}")


def fused(build: Build, folder: Path, made_for: str) -> Path:
    """Write a network of open sizes as the kernels get it on a processor with this instruction set."""
    m = Layers(GRAPHS["hub"], fixed=False)
    model = native_graphs(m.finish(build(m)).model, made_for, edges=False)
    repeat_for_batches(model.graph)  # as the target for OpenVINO does
    path = folder / "model.onnx"
    path.write_bytes(ir.to_proto(model).SerializeToString())
    return path


def operators(path: Path) -> Counter[str]:
    """Count the operators of a model by name."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def unread(path: Path) -> set[str]:
    """Name the constants of a model that nobody reads."""
    graph = onnx.load(path).graph
    return {item.name for item in graph.initializer} - {value for node in graph.node for value in node.input}


def layers(counts: Counter[str]) -> int:
    """Count layers that stand alone."""
    return counts["Gemm"] + counts["MatMul"] + counts["Linear"]


@pytest.mark.parametrize("made_for", ["avx2", "amx"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_fused(name: str, made_for: str, tmp_path: Path) -> None:
    """A layer that alone reads what is reduced joins in, then one of the rows' own; no matrix is stored for nobody."""
    case = CASES[name]
    path = fused(case.build, tmp_path, made_for)
    counts = operators(path)
    assert (counts["AggregateLinear"], counts["Aggregate"], layers(counts)) == (
        case.fused,
        case.reductions,
        case.layers,
    )
    assert not unread(path)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("made_for", ["avx2", "amx"])
@pytest.mark.parametrize("name", CASES)
def test_graphs_of_any_size(name: str, made_for: str, engine: str, tmp_path: Path) -> None:
    """One file answers on every graph as the network that was written does."""
    build = CASES[name].build
    backend = ENGINES[engine](fused(build, tmp_path, made_for))
    for graph in GRAPHS.values():
        (answer,) = backend.run(request_of(build, graph)).values()
        assert close(answer, expected(build, graph))


@pytest.mark.parametrize("target", [OrtTarget(aggregate="native"), OpenVinoTarget(aggregate="native")])
@pytest.mark.parametrize("name", CASES)
def test_one_graph(name: str, target: OrtTarget | OpenVinoTarget, tmp_path: Path) -> None:
    """So does a file for one graph."""
    if target.name == "openvino":
        pytest.importorskip("openvino")
    build = CASES[name].build
    for graph in GRAPHS.values():
        m = Layers(graph, fixed=True)
        path = tmp_path / target.emit(m.finish(build(m)), tmp_path, EmitContext(threads=1)).model_file
        assert target.name == "openvino" or not unread(path)
        (answer,) = ENGINES[target.name](path).run(request(m)).values()
        assert close(answer, expected(build, graph))


@pytest.mark.parametrize("made_for", library.PATHS)
def test_the_processor_decides(made_for: str, tmp_path: Path) -> None:
    """Without vectors the engine multiplies, and nothing is fused; with tiles the kernels multiply in every layer."""
    counts = operators(fused(own_read_twice, tmp_path, made_for))
    assert counts["Aggregate"] == (made_for == "portable")
    assert counts["AggregateLinear"] == (made_for != "portable")
    assert counts["Gemm"] == {"portable": 2, "amx": 0}.get(made_for, 1)
    assert counts["Linear"] == (made_for == "amx")


@pytest.mark.parametrize("target", [OrtTarget(aggregate="native"), OpenVinoTarget(aggregate="native")])
def test_no_edges_no_kernels(
    target: OrtTarget | OpenVinoTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of which no reduction is left runs without the kernels, its layers included."""
    if target.name == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.setattr(choice, "path_name", lambda: "amx")
    m = Layers(GRAPHS["no edges"], fixed=True)
    artefact = target.emit(m.finish(both(m)), tmp_path, EmitContext(threads=1))
    assert not artefact.native
    monkeypatch.setattr(runtime, "offer_kernels", lambda options: None)
    backend = ENGINES[target.name](tmp_path / artefact.model_file)
    (answer,) = backend.run(request(m)).values()
    assert close(answer, expected(both, m.graph))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("made_for", ["avx2", "amx"])
@pytest.mark.parametrize("path", library.PATHS)
def test_any_processor_runs_it(path: str, made_for: str, engine: str, tmp_path: Path) -> None:
    """A file answers alike whatever instruction set runs it and whichever it was made for."""
    before = library.path_name()
    if not kernels.use_path(path):
        pytest.skip(f"this processor lacks {path}")
    try:
        backend = ENGINES[engine](fused(own_read_twice, tmp_path, made_for))
        for graph in GRAPHS.values():
            (answer,) = backend.run(request_of(own_read_twice, graph)).values()
            assert close(answer, expected(own_read_twice, graph))
    finally:
        kernels.use_path(before)


RUN = """
import sys
from pathlib import Path
import numpy as np
from gnnexport.native import library
from gnnexport.runtime.ort import OrtBackend
folder = Path(sys.argv[1])
with np.load(folder / "request.npz") as request:
    np.save(folder / "answer.npy", OrtBackend(folder / "model.onnx", 2).run(dict(request))["logits"])
print(library.path_name(), end="")
"""


def runs_here(path: str) -> bool:
    """Tell whether this processor has an instruction set."""
    before = library.path_name()
    found = kernels.use_path(path)
    kernels.use_path(before)
    return found


@pytest.mark.parametrize("path", ["avx2", "portable"])
def test_who_names_an_instruction_set(path: str, tmp_path: Path) -> None:
    """`GNNEXPORT_KERNELS` slows a fused model down, and its answers stay."""
    if not runs_here(path):
        pytest.skip(f"this processor lacks {path}")
    build, graph = CASES["own layer"].build, GRAPHS["hub"]
    fused(build, tmp_path, "amx")
    np.savez(tmp_path / "request.npz", **request_of(build, graph))
    environment = {**os.environ, "GNNEXPORT_KERNELS": path}
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == path
    assert close(np.load(tmp_path / "answer.npy"), expected(build, graph))
