"""A model with every kind of aggregation, and lowerings of it with a fault planted in each."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from gnnexport.bundle import layout
from gnnexport.bundle.golden import GoldenCase, Laws, write_golden
from gnnexport.bundle.reader import Bundle, open_bundle
from gnnexport.bundle.writer import BundleWriter
from gnnexport.frontends.sidecar import read_sidecar
from gnnexport.pipeline.emission import Emission, Emitter
from gnnexport.pipeline.golden_cases import golden_cases
from gnnexport.pipeline.law_checks import law_checks
from gnnexport.pipeline.run import simplify
from gnnexport.pipeline.source import Given, load_source
from gnnexport.pipeline.steps import finalise
from gnnexport.program.program import Program
from gnnexport.targets.contract import DialectModel
from gnnexport.targets.onnx import request, tables, target
from gnnexport.targets.onnx.open_tape import INT64, OpenTape, numbers
from gnnexport.targets.ort import OrtTarget

MODEL = """
import torch
from torch_geometric.nn import GCNConv, SAGEConv, global_add_pool

class Mixed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.looped = GCNConv(6, 8)
        self.averaged = SAGEConv(8, 8, aggr="mean")
        self.largest = SAGEConv(8, 8, aggr="max")
        self.last = torch.nn.Linear(8, 3)

    def forward(self, x, edge_index, batch, num_graphs):
        x = self.looped(x, edge_index).tanh()
        x = self.averaged(x, edge_index).tanh() - 2
        x = self.largest(x, edge_index).tanh()
        return self.last(global_add_pool(x, batch, size=num_graphs))
"""

Plant = Callable[[pytest.MonkeyPatch], None]


class Workshop:
    """A captured model that can be lowered again and again; what does not depend on the lowering is made once."""

    def __init__(self, folder: Path) -> None:
        """Capture the model and ask it about the golden cases."""
        (folder / "made.py").write_text(MODEL)
        scope: dict[str, type[torch.nn.Module]] = {}
        exec(MODEL, scope)
        torch.manual_seed(3)
        torch.save(scope["Mixed"]().state_dict(), folder / "model.pt")
        given = Given(folder / "model.pt", builder=f"{folder / 'made.py'}:Mixed", inputs=("x=N,6",))
        self.source = load_source(given, read_sidecar(folder / "model.pt"))
        program = simplify(self.source).program
        self.emitter = Emitter(self.source, OrtTarget(aggregate="ell", threads=1), 1, 1.0, 0, 0)
        self.final = finalise(program, self.source.data).program
        self.notes: list[str] = []
        self.cases: list[GoldenCase] = golden_cases(self.source, program, self.notes.append, with_real=True, seed=0)
        self.laws: Laws = law_checks(self.source, program, self.cases, seed=0)
        self._translated: dict[str, DialectModel] = {}

    @contextmanager
    def bundle(self, folder: Path, monkeypatch: pytest.MonkeyPatch, plant: Plant) -> Iterator[tuple[Bundle, Emission]]:
        """Lower the model with a fault planted, and yield its bundle."""
        translated, known = Emitter._translated, self._translated

        def once(emitter: Emitter, program: Program) -> DialectModel:
            assert program.prepare is not None
            key = f"{program.prepare.graph}{program.body.graph}"
            if key not in known:
                known[key] = translated(emitter, program)
            return replace(known[key], model=known[key].model.clone())

        monkeypatch.setattr(Emitter, "_translated", once)
        plant(monkeypatch)
        with BundleWriter(folder / "model.bundle") as writer:
            write_golden(writer.folder / layout.GOLDEN, self.cases, self.laws)
            artefact = self.emitter.write_model(self.final, writer, {})
            yield open_bundle(writer.folder), Emission(self.final, (), artefact, None, 0, ())


def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave everything as it should be."""


def max_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pad neighbours with zeros, which are larger than negative messages."""
    monkeypatch.setitem(request.NEUTRAL, "max", 0.0)


def wrong_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the node itself among its neighbours when dividing for the mean."""
    right = request.finished

    def finished(tape: OpenTape, op: request.Reduction, found: tables.Tables, out: ir.Value) -> ir.Value:
        if op.reduce == "mean":
            found = replace(found, degree=tape.add("Add", found.degree, numbers(1)))
        return right(tape, op, found, out)

    monkeypatch.setattr(request, "finished", finished)


def overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sort edges by one key of 32 bits made of destination and place."""

    def narrow(tape: OpenTape, value: ir.Value) -> ir.Value:
        return tape.add("Cast", value, dtype=ir.DataType.INT32, to=int(ir.DataType.INT32))

    def by_key(tape: OpenTape, dst: ir.Value, count: ir.Value, branches: bool) -> tuple[ir.Value, ir.Value]:
        del branches
        place = tables._range(tape, count)
        first = tape.add("Mul", narrow(tape, dst), narrow(tape, count), dtype=ir.DataType.INT32)
        key = tape.add("Add", first, narrow(tape, place), dtype=ir.DataType.INT32)
        types = [ir.DataType.INT32, INT64]
        _, perm = tape.record("TopK", [key, count], types, None, axis=0, largest=0, sorted=1)
        return tape.add("Gather", dst, perm, axis=0), perm

    monkeypatch.setattr(tables, "_sorted", by_key)


def on_input(name: str, make: Callable[[ir.Value], list[ir.Node]]) -> Plant:
    """Return a fault that changes an input before anything reads it; the last node made gives what is read."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        right = target.write

        def write(model: ir.Model, folder: Path) -> tuple[str, ...]:
            (given,) = (value for value in model.graph.inputs if value.name == name)
            users = list(given.uses())
            nodes = make(given)
            for node in reversed(nodes):
                model.graph.insert_before(model.graph[0], node)
            for user, place in users:
                user.replace_input_with(place, nodes[-1].outputs[0])
            given_constants = (value for node in nodes for value in node.inputs if value and value.const_value)
            for value in {id(value): value for value in given_constants}.values():
                model.graph.register_initializer(value)
            return right(model, folder)

        monkeypatch.setattr(target, "write", write)

    return plant


def constant(name: str, array: np.ndarray) -> ir.Value:
    """Return an initialiser."""
    return ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.Tensor(array, name=name),
    )  # fmt: skip


def _unique(edges: ir.Value) -> list[ir.Node]:
    return [ir.node("Unique", [edges], {"axis": 1, "sorted": 1}, num_outputs=1)]


def _swap(edges: ir.Value) -> list[ir.Node]:
    return [ir.node("Gather", [edges, constant("planted", np.array([1, 0]))], {"axis": 0})]


def _shift(ids: ir.Value) -> list[ir.Node]:
    """Begin each graph one node too late."""
    ends = [constant(f"planted_{number}", np.array([number])) for number in (0, -1)]
    cut = ir.node("Slice", [ids, ends[0], ends[1], constant("planted_axis", np.array([0]))])
    first = ir.node("Gather", [ids, ends[0]], {"axis": 0})
    return [cut, first, ir.node("Concat", [first.outputs[0], cut.outputs[0]], {"axis": 0})]


lost_duplicate = on_input("edge_index", _unique)
swapped = on_input("edge_index", _swap)
batch_offset = on_input("batch", _shift)


def loop_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Append self-loops, and their weights, a second time."""
    right = Emitter._translated

    def translated(emitter: Emitter, program: Program) -> DialectModel:
        program = program.clone()
        assert program.prepare is not None
        for node in program.prepare.graph.nodes:
            if node.target is torch.ops.aten.cat.default:
                parts = list(node.args[0])
                node.args = ([*parts, parts[-1]], *node.args[1:])
                with program.prepare.graph.inserting_after(node):
                    count = program.prepare.graph.call_function(torch.ops.aten.sym_size.int, (node, 1))
            elif node.target is operator.add:
                node.replace_all_uses_with(count)
        program.prepare.recompile()
        return right(emitter, program)

    monkeypatch.setattr(Emitter, "_translated", translated)
