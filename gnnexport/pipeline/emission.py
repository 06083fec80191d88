"""Write a Program for a target as a complete bundle folder, ready to be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gnnexport import spec
from gnnexport.bundle import layout
from gnnexport.bundle.digest import structure_digest
from gnnexport.bundle.evaluation import EvalData, write_eval
from gnnexport.bundle.golden import Laws, write_golden
from gnnexport.bundle.manifest import KERNELS, AppliedPass, Graph, Manifest, NativeLibrary, SourceModel, Tensor
from gnnexport.bundle.manifest import Target as TargetRecord
from gnnexport.bundle.processor import this_processor
from gnnexport.bundle.report_schema import Lowering, Sizes, Step
from gnnexport.bundle.stages import NODE_IDS, NUM_TARGETS, STORE_BYTES, Batched
from gnnexport.bundle.writer import BundleWriter
from gnnexport.errors import UnsupportedError
from gnnexport.measure.amdahl import ProductShape, Shares
from gnnexport.measure.sparse_speed import Setting, Timed
from gnnexport.native.library import ABI
from gnnexport.pipeline.batched_cases import batched_cases
from gnnexport.pipeline.golden_cases import golden_cases
from gnnexport.pipeline.judged import judged_split
from gnnexport.pipeline.law_checks import law_checks
from gnnexport.pipeline.source import Source
from gnnexport.pipeline.stage_emission import refusals, write_batched
from gnnexport.pipeline.steps import finalise
from gnnexport.program.inputs import NUM_GRAPHS, Input, Role, ends_of, role_of
from gnnexport.program.program import Program
from gnnexport.targets.contract import Artefact, DialectModel, EmitContext, Target
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.onnx.translate_graphs import translate_graphs

SHARES_S = 2.0
"""Seconds that choosing lowerings may take before operators are timed."""


@dataclass(frozen=True)
class Emission:
    """What was written of a Program.

    Args:
        program: as it was lowered.
        steps: passes that ran last, on the way to it.
        artefact: as the target wrote it.
        evaluation: test split with labels and features, whether or not it was stored; `None` without labels.
        size_bytes: of the model's files.
        notes: of the target.
    """

    program: Program
    steps: tuple[Step, ...]
    artefact: Artefact
    evaluation: EvalData | None
    size_bytes: int
    notes: tuple[str, ...]

    @property
    def sizes(self) -> Sizes:
        """Where the bytes go."""
        return Sizes(**self.artefact.sizes)

    @property
    def lowering(self) -> tuple[Lowering, ...]:
        """The lowerings chosen, as the report has them."""
        return tuple(Lowering.model_validate(row) for row in self.artefact.lowering)


@dataclass(frozen=True)
class Emitter:
    """Write Programs of one source for one target.

    Args:
        threads: that inference may use.
        lowering_budget_s: seconds for choosing lowerings.
        decisions: of an earlier run, to be replayed.
        applied: compressing passes that shaped the Program.
        store_bytes: memory for rows between requests, in mode `batched`.
    """

    source: Source
    target: Target
    threads: int
    lowering_budget_s: float
    seed: int
    embed_bytes: int
    decisions: Mapping[str, Any] | None = None
    applied: tuple[str, ...] = ()
    store_bytes: int = STORE_BYTES

    def emit(self, program: Program, writer: BundleWriter) -> Emission:
        """Lower a simplified Program into the writer's folder and seal it.

        Raises:
            UnsupportedError: what the target cannot do.
        """
        data = self.source.data
        final = finalise(program, data, self.source.mode)
        problems = refusals(self.target, final.program, self.source.mode)
        if problems:
            raise UnsupportedError(*problems)
        notes: list[str] = []
        ctx = EmitContext(self.threads, self.lowering_budget_s, self.seed, notes.append, self.decisions)
        artefact, batched = self._lowered(final.program, writer.folder, ctx)
        size = sum((writer.folder / name).stat().st_size for name in artefact.files)
        evaluation = judged_split(self.source, [item.name for item in self._read(program)])
        features = [value for name, value in data.inputs.items() if role_of(name) is Role.NODE_FEATURES]
        features_stay = sum(value.nbytes for value in features) > self.embed_bytes
        if evaluation is not None:
            kept = write_eval(writer.folder / layout.EVAL, evaluation, limit_bytes=self.embed_bytes)
            features_stay = kept.inputs is None
        self._write_golden(program, writer, notes, with_real=not features_stay)
        writer.write_decisions({**artefact.decisions, "threads": self.threads, "passes": list(self.applied)})
        writer.seal(self._manifest(program, artefact, batched))
        return Emission(final.program, final.steps, artefact, evaluation, size, tuple(notes))

    def shares(self, program: Program) -> Shares | None:
        """Measure how the time of one inference of a simplified Program divides; `None` where that cannot be told.

        In mode `batched` it cannot: what is left of a request differs from one to the next.

        Raises:
            GnnExportError: the target cannot do the Program here.
        """
        if self.source.mode == "batched":
            return None
        final = finalise(program, self.source.data, self.source.mode).program
        ctx = EmitContext(self.threads, min(self.lowering_budget_s, SHARES_S), self.seed)
        feeds = self.source.feeds(item.name for item in self._read(final))
        return self.target.shares(self._translated(final), feeds, ctx)

    def time_products(
        self, products: Sequence[ProductShape], setting: Setting, budget_s: float
    ) -> tuple[Timed, ...]:  # fmt: skip
        """Time products with zeros put into their weights, in about so many seconds."""
        return self.target.time_products(products, setting, EmitContext(self.threads, budget_s, self.seed))

    def write_model(self, program: Program, writer: BundleWriter, decisions: Mapping[str, Any]) -> Artefact:
        """Write the model of a Program that is ready to be lowered, and nothing to prove it by; seal the bundle.

        Args:
            program: finalised.
            writer: of a bundle that nobody keeps.
            decisions: of the run that lowered it before.
        """
        ctx = EmitContext(self.threads, self.lowering_budget_s, self.seed, decisions=decisions)
        artefact, batched = self._lowered(program, writer.folder, ctx)
        writer.seal(self._manifest(program, artefact, batched))
        return artefact

    def _lowered(self, program: Program, folder: Path, ctx: EmitContext) -> tuple[Artefact, Batched | None]:
        if self.source.mode == "batched":
            written = write_batched(program, self.source.data.inputs, self.target, folder, ctx, self.store_bytes)
            return written.artefact, written.batched
        return self.target.emit(self._translated(program), folder, ctx), None

    def _write_golden(self, program: Program, writer: BundleWriter, notes: list[str], *, with_real: bool) -> None:
        """Write what the numbers of the bundle are checked on."""
        laws = Laws()
        if self.source.mode == "batched":
            cases = batched_cases(self.source, program, seed=self.seed)
        else:
            same = not self.applied
            cases = golden_cases(self.source, program, notes.append, with_real=with_real, seed=self.seed, same=same)
            laws = law_checks(self.source, program, cases, seed=self.seed)
        write_golden(writer.folder / layout.GOLDEN, cases, laws)

    def _translated(self, program: Program) -> DialectModel:
        if self.source.mode == "graphs":
            dialect = translate_graphs(program, self.source.request.inputs)
            return replace(dialect, generated=self.source.generated)
        return translate(program, self.source.data.inputs)

    def _manifest(self, program: Program, artefact: Artefact, batched: Batched | None) -> Manifest:
        inputs, output, graph = self._interface(program)
        return Manifest(
            model=SourceModel(
                name=self.source.path.name, class_name=self.source.class_name, sha256=self.source.digest()
            ),
            task=self.source.task.kind,
            mode=self.source.mode,
            inputs=inputs,
            outputs=(output,),
            prepare=artefact.prepare,
            graph=graph,
            batched=batched,
            passes=tuple(AppliedPass(spec=text, seed=self.seed) for text in self.applied),
            seed=self.seed,
            target=TargetRecord(
                spec=str(spec.describe(self.target)),
                runtime=self.target.runtime,
                model_file=artefact.model_file,
                threads=self.threads,
                versions=dict(artefact.requirements.get("versions", {})),
                requirements={key: value for key, value in artefact.requirements.items() if key != "versions"},
            ),
            native_library=NativeLibrary(name=KERNELS, abi=ABI) if artefact.native else None,
            decided_on=this_processor(),
        )

    def _read(self, program: Program) -> tuple[Input, ...]:
        """Return what a request holds: features where the graph is baked in, else every input."""
        return program.inputs if self.source.mode == "graphs" else program.features

    def _interface(self, program: Program) -> tuple[tuple[Tensor, ...], Tensor, Graph | None]:
        """Describe what a request holds and what comes back, and the graph where there is one for all requests."""
        data = self.source.data
        graph, fixed = None, {}
        if self.source.mode != "graphs":
            fixed = {**data.sizes, NUM_GRAPHS: data.num_graphs}
            edges = None if data.keys else structure_digest(data.inputs["edge_index"].numpy())
            graph = Graph(nodes=data.num_nodes, edges=data.num_edges, edge_index_sha256=edges)

        def sizes(shape: Sequence[int | str]) -> tuple[int | str, ...]:
            return tuple(fixed.get(str(size)) or size for size in shape)

        def ends(item: Input) -> tuple[int | str, ...] | None:
            return sizes(ends_of(item.name)) if item.role is Role.EDGE_INDEX and data.keys else None

        inputs = tuple(
            Tensor(
                name=item.name,
                dtype=item.dtype,
                shape=sizes(item.shape),
                role=item.role.value,
                types=item.types,
                ends=ends(item),
            )
            for item in self._read(program)
        )
        channels = () if self.source.classes is None else (self.source.classes,)
        if self.source.mode == "batched":
            ids = Tensor(name=NODE_IDS, dtype="int64", shape=(NUM_TARGETS,), role=NODE_IDS)
            return (ids,), Tensor(name=program.output, dtype="float32", shape=(NUM_TARGETS, *channels)), graph
        shape = sizes((program.rows, *channels))
        return inputs, Tensor(name=program.output, dtype="float32", shape=shape), graph
