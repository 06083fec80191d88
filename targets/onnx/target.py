"""The targets `onnx` and `ort`: standard operators, for any runtime and for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.errors import Problem
from gnnexport.measure.amdahl import ProductShape, Shares
from gnnexport.measure.sparse_speed import Setting, Timed
from gnnexport.program.inputs import Mode
from gnnexport.program.program import Program
from gnnexport.targets.contract import Artefact, DialectModel, EmitContext, Target
from gnnexport.targets.onnx.bake import bake
from gnnexport.targets.onnx.choice import NATIVE, Choices, Lowering, Timer
from gnnexport.targets.onnx.ell import BLOCK_BYTES
from gnnexport.targets.onnx.empty import fill_empty
from gnnexport.targets.onnx.files import MODEL_FILE, sizes_by_origin, write
from gnnexport.targets.onnx.halves import gathered_halves
from gnnexport.targets.onnx.lower import lower
from gnnexport.targets.onnx.native import goes_native, keep_native
from gnnexport.targets.onnx.product_speeds import products_of, time_products
from gnnexport.targets.onnx.quantised_forms import (
    PACKED,
    Form,
    Formed,
    forms_for,
    is_quantised,
    lower_quantised,
    take_form,
)
from gnnexport.targets.onnx.request_choice import dense_refused, lower_chosen
from gnnexport.targets.onnx.shares import Profiler, divide
from gnnexport.targets.onnx.softmax import expand_softmax
from gnnexport.targets.onnx.sparse_products import skipped_zeros
from gnnexport.targets.onnx.sparse_weights import weights_of
from gnnexport.targets.onnx.support import unsupported


@dataclass(frozen=True)
class OnnxTarget(Target):
    """An ONNX model in standard operators, for one graph or for any; runs in any runtime."""

    name: ClassVar[str] = "onnx"
    runtime: ClassVar[str] = "ort"
    engine: ClassVar[str] = "onnxruntime"
    """What runs models here to be timed."""

    branches: ClassVar[bool] = True
    """Whether the engine can be trusted with `If`."""

    block_bytes: ClassVar[int] = BLOCK_BYTES
    """Bytes of gathered rows that the engine should work on at a time."""

    aggregate: Lowering = "auto"
    """Lowering of aggregation; `auto` picks by timing where ONNX Runtime is installed, else by estimate."""
    threads: int | None = None
    """Threads that inference may use; all of the machine's by default."""
    quantised: Literal["auto", "float", "integer", "narrow", "narrow-sums"] = "auto"
    """How quantised operands are computed with: as the floats that they stand for, as whole numbers in the products of
    layers, or by our kernels as packed rows of whole numbers; `auto` picks by timing."""

    has_kernels: ClassVar[bool] = False
    """Whether the runtime can call our own kernels."""

    forms: ClassVar[tuple[Form, ...]] = ("float", "integer")
    """Forms of a quantised model that the runtime computes as they say."""

    prepares_edges: ClassVar[bool] = False
    """Whether it can call those that prepare the edges of a request in one go."""

    def __post_init__(self) -> None:
        if self.aggregate == NATIVE and not self.has_kernels:
            raise ValueError("aggregate=native needs a runtime that can call our kernels, as ort can")
        if self.quantised not in ("auto", *self.forms):
            raise ValueError(f"quantised={self.quantised} is not computed here; write auto, {', '.join(self.forms)}")
        if self.threads is not None and self.threads < 1:
            raise ValueError("threads must be at least 1")

    def check(self, program: Program, mode: Mode = "full") -> list[Problem]:
        """Name each op that has no ONNX translation: of the body, and of `prepare` where the model computes it too."""
        refused = [dense_refused()] if mode != "full" and self.aggregate == "dense" else []
        return refused + unsupported(program, mode)

    def emit(self, dialect: DialectModel, folder: Path, ctx: EmitContext) -> Artefact:
        """Bake the graph in where it is fixed, lower the dialect, write and check the file.

        Raises:
            UnsupportedError: an input has no size although the graph is fixed, or the lowering cannot serve the mode.
        """
        model, choices = self.lowered(dialect, ctx)
        files = write(model, folder)
        return Artefact(
            model_file=MODEL_FILE,
            files=files,
            decisions=choices.record(self.threads or ctx.threads),
            sizes=sizes_by_origin([model], folder, files, dialect.mode),
            lowering=choices.report,
            requirements={
                "opset": model.graph.opset_imports[""],
                "ir_version": model.ir_version,
                "versions": {name: version(name) for name in ("onnx", "onnxruntime") if find_spec(name)},
            },
            prepare="baked" if dialect.mode == "full" else "model",
            native=choices.calls_kernels,
            inputs=tuple(str(value.name) for value in model.graph.inputs),
            halves=gathered_halves(model.graph),
            operands=choices.operands,
            weights=weights_of([model], choices.sparse),
        )

    def lowered(self, dialect: DialectModel, ctx: EmitContext) -> tuple[ir.Model, Choices]:
        """Return the model in standard operators and how its lowerings were chosen."""
        native = self.may_go_native(dialect.model.graph, ctx.note)
        packed = native and self.quantised in PACKED and is_quantised(dialect.model.graph)
        aggregate: Lowering = "native" if packed and self.aggregate == "auto" else self.aggregate
        choices = Choices(aggregate, ctx, self.timer(self.threads or ctx.threads), native, self.quantised)
        if dialect.mode == "full":
            model = self._baked(dialect, choices)
        else:
            can = {"branches": self.branches, "edges": self.prepares_edges}
            model = lower_chosen(dialect, choices, self.forms, **can)
        choices.sparse = skipped_zeros(model.graph)
        return model, choices

    def _baked(self, dialect: DialectModel, choices: Choices) -> ir.Model:
        """Return the model of one graph, lowered."""
        model = bake(dialect)
        if choices.native:
            fill_empty(model.graph)
        if is_quantised(model.graph):
            return self._lowered_quantised(model, dialect, choices)
        self._finish(model, choices, choices.native and goes_native(model.graph, choices), choices.ctx.note)
        return model

    def _finish(self, model: ir.Model, choices: Choices, kernels: bool, note: Callable[[str], None]) -> None:
        """Lower a baked model without quantisers, in place."""
        if kernels:
            keep_native(model.graph, choices.kernels, choices)
            return
        expand_softmax(model.graph)
        lower(model.graph, choices, note, self.block_bytes)

    def _lowered_quantised(self, model: ir.Model, dialect: DialectModel, choices: Choices) -> ir.Model:
        """Return a baked model in the form of its quantised operands that is fastest."""
        plain = model.clone()
        take_form(plain.graph, "float", native=choices.native)
        kernels = choices.native and goes_native(plain.graph, choices)
        told: dict[str, None] = {}

        def build(form: Form) -> tuple[ir.Model, Formed]:
            copy = model.clone()
            formed = take_form(copy.graph, form, native=kernels)
            self._finish(copy, choices, kernels, lambda line: told.setdefault(line))
            return copy, formed

        forms = forms_for(self.forms, native=kernels)
        lowered = lower_quantised(model, choices, forms, build, dialect.sample)
        for line in told:
            choices.ctx.note(line)
        return lowered

    def may_go_native(self, graph: ir.Graph, note: Callable[[str], None]) -> bool:
        """Tell whether our own kernels may and can run what a model holds of the dialect."""
        del graph, note
        return False

    def shares(
        self, dialect: DialectModel, feeds: Mapping[str, NDArray[Any]], ctx: EmitContext
    ) -> Shares | None:  # fmt: skip
        """Profile the lowered model on this target's engine.

        Raises:
            UnsupportedError: the model cannot be lowered.
        """
        profile = self.profiler(self.threads or ctx.threads)
        if profile is None:
            return None
        model, choices = self.lowered(dialect, ctx)
        wanted = {str(value.name): feeds[str(value.name)] for value in model.graph.inputs}
        found = divide(model, profile, wanted, self.engine)
        return None if found is None else replace(found, products=products_of(model.graph, choices))

    def time_products(
        self, products: Sequence[ProductShape], setting: Setting, ctx: EmitContext
    ) -> tuple[Timed, ...]:  # fmt: skip
        """Time products on this target's engine, by our kernels where they skip zeros."""
        run = self.timer(self.threads or ctx.threads)
        return () if run is None else time_products(products, setting, run, ctx.seed, ctx.time_budget_s)

    def profiler(self, threads: int) -> Profiler | None:
        """Return what tells the time of each operator on the engine of this target; `None` where there is none here."""
        if find_spec("onnxruntime") is None:
            return None
        from gnnexport.targets.onnx.session import profile_model

        return lambda model, feeds: profile_model(model, threads, feeds)

    def timer(self, threads: int) -> Timer | None:
        """Return what opens a model to be timed on the engine of this target; `None` where it is not installed."""
        if find_spec("onnxruntime") is None:
            return None
        from gnnexport.targets.onnx.session import open_model

        return lambda model, feeds: open_model(model, threads, feeds)
