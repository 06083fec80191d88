"""What goes wrong with the files that come in: each case is made, run, and its message written into the documentation.

    python -c 'from tests.docs.bad_inputs import main; main()'

writes the table of `docs/inputs.md`. Run as a script it would call its own class `__main__.Handmade`.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCN, GCNConv

from gnnexport.cli import app
from tests.road import CHANNELS, CLASSES, Arrays, small_graph, write_road
from tests.unit.frontends.hostile import by_system, torchscript

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "inputs.md"
BEGIN, END = "<!-- cases -->\n", "<!-- end of cases -->\n"


class Handmade(nn.Module):
    """A class that a reader of files does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(CHANNELS, CLASSES)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Answer for nodes."""
        return self.conv(x, edge_index)


@dataclass(frozen=True)
class Case:
    """Something wrong.

    Args:
        kind: what comes in: model, weights, data or bundle.
        name: what is wrong with it, in a few words.
        make: spoils the folder, where `model.pt`, `data.npz` and `gnnexport.toml` lie.
        arguments: of the command line, after `export` unless they begin with another command.
    """

    kind: str
    name: str
    make: Callable[[Path], object]
    arguments: str = "export model.pt"


def arrays(change: Callable[[Arrays], dict[str, Any]]) -> Callable[[Path], None]:
    """Write the data with some arrays changed; `None` leaves one out."""

    def make(folder: Path) -> None:
        graph = small_graph()
        changed = {**graph, **change(graph)}
        np.savez(folder / "data.npz", **{name: value for name, value in changed.items() if value is not None})

    return make


def model(thing: Callable[[Path], object]) -> Callable[[Path], None]:
    """Save something as the model."""
    return lambda folder: torch.save(thing(folder), folder / "model.pt")


def weights(change: Callable[[dict[str, Tensor]], object], build: str = "GCN(6, 8, 2, 3)") -> Callable[[Path], None]:
    """Save a state dict as the model, with a builder beside it."""

    def make(folder: Path) -> None:
        torch.save(change(GCN(CHANNELS, 8, 2, CLASSES).state_dict()), folder / "model.pt")
        code = f"from torch_geometric.nn import GCN\n\n\ndef build():\n    return {build}\n"
        (folder / "train.py").write_text(code)

    return make


def edited(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Change a file of a bundle."""

    def make(folder: Path) -> None:
        _run(folder, "export model.pt --target=onnx --time-budget=1s")
        path = folder / "model.bundle" / name
        path.write_bytes(edit(path.read_bytes()))

    return make


def _spoilt(value: float) -> Callable[[Path], object]:
    def make(_: Path) -> object:
        gcn = GCN(CHANNELS, 8, 2, CLASSES)
        with torch.no_grad():
            next(gcn.parameters()).fill_(value)
        return gcn

    return make


def _cached(_: Path) -> object:
    """Make a layer that answers from what it remembers; no clearing of caches finds that."""
    network = Handmade()
    network.register_buffer("kept", torch.ones(60, CLASSES))
    network.__class__ = _Remembers
    return network


class _Remembers(Handmade):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.kept * x.sum()  # type: ignore[operator]


def _newer(content: bytes) -> bytes:
    return json.dumps({**json.loads(content), "schema": 99}).encode()


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


BUILDER = "export model.pt --builder train.py:build"
TRUST = "export model.pt --trust"
BUNDLE = "validate model.bundle --time-budget=1s"

CASES = (
    Case("model", "no such file", lambda folder: (folder / "model.pt").unlink()),
    Case("model", "an empty file", lambda folder: (folder / "model.pt").write_bytes(b"")),
    Case("model", "another kind of file", lambda folder: (folder / "model.pt").write_text("import torch")),
    Case("model", "the end of the file is lost", lambda folder: _cut(folder / "model.pt")),
    Case("model", "a pickle that calls `os.system`", model(lambda folder: by_system(folder / "marker"))),
    Case("model", "a class of one's own", model(lambda _: Handmade())),
    Case("model", "TorchScript", lambda folder: torchscript(folder / "model.pt")),
    Case("model", "a graph instead", lambda folder: _graph(folder / "model.pt")),
    Case("model", "weights that are NaN", model(_spoilt(float("nan")))),
    Case("model", "on the device `meta`", model(lambda _: GCN(CHANNELS, 8, 2, CLASSES).to("meta"))),
    Case("model", "answers from memory, not from the graph", model(_cached), TRUST),
    Case("weights", "no builder", weights(lambda state: state)),
    Case("weights", "of another width", weights(lambda state: state, "GCN(6, 9, 2, 3)"), BUILDER),
    Case("weights", "some are missing", weights(lambda state: dict(list(state.items())[1:])), BUILDER),
    Case("weights", "a pickle that calls `os.system`", weights(lambda _: by_system(Path("marker"))), BUILDER),
    Case(
        "weights", "a builder that is not there", weights(lambda state: state), "export model.pt --builder train.py:b"
    ),
    Case("data", "no such file", lambda folder: (folder / "data.npz").unlink()),
    Case(
        "data", "a pickle that calls `os.system`", lambda folder: _evil_data(folder), "export model.pt --data data.pt"
    ),
    Case("data", "edge index of floats", arrays(lambda g: {"edge_index": g["edge_index"].astype(float)})),
    Case("data", "negative edge index", arrays(lambda g: {"edge_index": g["edge_index"] - 60})),
    Case("data", "edge index out of range", arrays(lambda g: {"edge_index": g["edge_index"] + 1})),
    Case("data", "edge index as rows of pairs", arrays(lambda g: {"edge_index": g["edge_index"].T})),
    Case("data", "no edge index", arrays(lambda g: {"edge_index": None})),
    Case("data", "features and edges swapped", arrays(lambda g: {"x": g["edge_index"], "edge_index": g["x"]})),
    Case("data", "complex features", arrays(lambda g: {"x": g["x"].astype(complex)})),
    Case("data", "features that are text", arrays(lambda g: {"x": g["x"].astype(str)})),
    Case("data", "features that are NaN", arrays(lambda g: {"x": g["x"] * np.nan})),
    Case("data", "features of another width", arrays(lambda g: {"x": g["x"][:, :5]})),
    Case("data", "an empty graph", arrays(lambda g: {"x": g["x"][:0], "edge_index": g["edge_index"][:, :0]})),
    Case("data", "a mask of the wrong length", arrays(lambda g: {"test_mask": g["test_mask"][1:]})),
    Case("data", "no masks", arrays(lambda g: dict.fromkeys(("train_mask", "val_mask", "test_mask")))),
    Case("data", "a node in two masks", arrays(lambda g: {"train_mask": g["train_mask"] | g["test_mask"]})),
    Case("data", "more classes than the model has", arrays(lambda g: {"y": g["y"] * 2})),
    Case("data", "too few labels", arrays(lambda g: {"y": g["y"][1:]})),
    Case("data", "edge weights too few", arrays(lambda g: {"edge_weight": np.ones(3, np.float32)})),
    Case("data", "graph ids that descend", arrays(lambda g: {"batch": np.arange(60)[::-1].copy()})),
    Case(
        "data",
        "a set of graphs in mode batched",
        arrays(lambda g: {"batch": np.zeros(60, np.int64), "num_graphs": np.array(1)}),
        "export model.pt --mode batched",
    ),
    Case(
        "data",
        "no edges, of which some are to be left out",
        arrays(lambda g: {"edge_index": g["edge_index"][:, :0]}),
        "compress model.pt --passes sparsify-edges",
    ),
    Case("bundle", "one byte of the model changed", edited("model.onnx", _flip), BUNDLE),
    Case("bundle", "one byte of the vectors changed", edited("golden.npz", _flip), BUNDLE),
    Case("bundle", "of a newer schema", edited("manifest.json", _newer), BUNDLE),
    Case("bundle", "a file is missing", lambda folder: _without(folder, "golden.npz"), BUNDLE),
    Case("bundle", "not a bundle", lambda folder: (folder / "model.bundle").mkdir(), BUNDLE),
    Case("bundle", "one is there already", lambda folder: _run(folder, "export model.pt --time-budget=1s")),
    Case("bundle", "the place holds other files", lambda folder: _occupied(folder), "export model.pt -o mine"),
)


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def _graph(path: Path) -> None:
    from tests.unit.frontends.hostile import data

    torch.save(data(), path)


def _evil_data(folder: Path) -> None:
    torch.save(by_system(folder / "marker"), folder / "data.pt")


def _without(folder: Path, name: str) -> None:
    _run(folder, "export model.pt --time-budget=1s")
    (folder / "model.bundle" / name).unlink()


def _occupied(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("")


def _run(folder: Path, arguments: str) -> tuple[int, str]:
    """Run a command in a folder; return its exit code and what it says on stderr."""
    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = app.run(arguments.split())
    return code, said.getvalue().replace(f"{folder}/", "").replace(f"{__name__}.", "mine.")


def outcome(case: Case, folder: Path) -> tuple[int, str]:
    """Make a case in an empty folder, run it, and return its exit code and message."""
    write_road(folder)
    case.make(folder)
    before = sorted(folder.rglob("*"))
    code, said = _run(folder, case.arguments)
    assert sorted(folder.rglob("*")) == before, f"{case.name}: something was left behind"
    errors = [line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: ")]
    return code, " ".join(errors) or said


def row(case: Case, code: int, message: str) -> str:
    """Render one line of the table."""
    told = message.replace("|", r"\|")
    return f"| {case.kind} | {case.name} | {code} | {told} |\n"


def table() -> str:
    """Run every case."""
    lines = ["| what comes in | what is wrong | exit code | message |\n", "|---|---|---|---|\n"]
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(row(case, *outcome(case, Path(folder))))
    return "".join(lines)


def main() -> None:
    """Write the table into the document."""
    text = DOCUMENT.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    DOCUMENT.write_text(before + BEGIN + table() + END + after)
