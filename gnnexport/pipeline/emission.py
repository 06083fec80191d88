"""Write a Program for a target as a complete bundle folder, ready to be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gnnexport import spec
from gnnexport.bundle import layout
from gnnexport.bundle.digest import structure_digest
from gnnexport.bundle.evaluation import EvalData, write_eval
from gnnexport.bundle.golden import GoldenCase, make_features, sample_rows, write_golden
from gnnexport.bundle.manifest import TOLERANCE, AppliedPass, Graph, Manifest, SourceModel, Tensor
from gnnexport.bundle.manifest import Target as TargetRecord
from gnnexport.bundle.processor import this_processor
from gnnexport.bundle.report_schema import Lowering, Sizes, Step
from gnnexport.bundle.writer import BundleWriter
from gnnexport.errors import UnsupportedError
from gnnexport.pipeline.source import Source
from gnnexport.pipeline.steps import finalise
from gnnexport.program.data import GraphData
from gnnexport.program.inputs import NUM_EDGES, NUM_NODES
from gnnexport.program.program import Program
from gnnexport.program.verify import relative_error
from gnnexport.targets.contract import Artefact, EmitContext, Target
from gnnexport.targets.onnx.translate import translate

EXTREME = 10.0
"""Features this many times larger than the data's are checked only where float32 can represent the answer."""


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
    """

    source: Source
    target: Target
    threads: int
    lowering_budget_s: float
    seed: int
    embed_bytes: int
    decisions: Mapping[str, Any] | None = None
    applied: tuple[str, ...] = ()

    def emit(self, program: Program, writer: BundleWriter) -> Emission:
        """Lower a simplified Program into the writer's folder and seal it.

        Raises:
            UnsupportedError: what the target cannot do.
        """
        data = self.source.data
        final = finalise(program, data)
        problems = self.target.check(final.program)
        if problems:
            raise UnsupportedError(*problems)
        notes: list[str] = []
        ctx = EmitContext(self.threads, self.lowering_budget_s, self.seed, notes.append, self.decisions)
        artefact = self.target.emit(translate(final.program, data.inputs), writer.folder, ctx)
        size = sum((writer.folder / name).stat().st_size for name in artefact.files)
        evaluation = self._evaluation()
        features_stay = data.inputs["x"].nbytes > self.embed_bytes
        if evaluation is not None:
            kept = write_eval(writer.folder / layout.EVAL, evaluation, limit_bytes=self.embed_bytes)
            features_stay = kept.x is None
        write_golden(writer.folder / layout.GOLDEN, self._golden(program, notes, with_real=not features_stay))
        writer.write_decisions({**artefact.decisions, "threads": self.threads, "passes": list(self.applied)})
        writer.seal(self._manifest(program, artefact))
        return Emission(final.program, final.steps, artefact, evaluation, size, tuple(notes))

    def _golden(self, program: Program, notes: list[str], *, with_real: bool) -> list[GoldenCase]:
        """Run the Program in PyTorch on the features that the artefact will be checked with."""
        data = self.source.data
        name = program.features[0].name
        real = data.inputs[name].numpy()
        structure = program.structure(data.inputs)
        features = make_features(real.shape, real if with_real else None, seed=self.seed)
        width = self.source.logits.shape[1] * np.dtype(np.float32).itemsize
        rows = sample_rows(data.num_nodes, width, len(features), seed=self.seed, always=_telling_rows(data))
        usual = float(np.abs(real).max(initial=1.0))
        cases = []
        for case, value in features.items():
            x = torch.from_numpy(value if isinstance(value, np.ndarray) else value.make())
            with torch.no_grad():
                output = program.run_body({**data.inputs, name: x}, structure)
            if float(x.abs().max()) > EXTREME * usual:
                error = relative_error(_in_float64(program, x, structure), output)
                if error > TOLERANCE / 10:
                    notes.append(f"golden case '{case}' left out: float32 itself is off by {error:.2g} there")
                    continue
            kept = output.numpy() if rows is None else output.numpy()[rows]
            cases.append(GoldenCase(case, {name: value}, {program.output: kept}, rows))
        return cases

    def _evaluation(self) -> EvalData | None:
        """Return the test split with what the original model answers there."""
        if not self.source.labelled or self.source.data.y is None:
            return None
        data = self.source.data
        rows = torch.nonzero(data.masks["test"]).flatten()
        return EvalData(
            metric=self.source.task.metric,
            rows=rows.numpy(),
            baseline=self.source.logits[rows].argmax(1).numpy(),
            y=self.source.data.y[rows].numpy(),
            x=data.inputs["x"].numpy(),
        )

    def _manifest(self, program: Program, artefact: Artefact) -> Manifest:
        data = self.source.data
        sizes = {NUM_NODES: data.num_nodes, NUM_EDGES: data.num_edges}
        inputs = tuple(
            Tensor(name=item.name, dtype=item.dtype, shape=tuple(sizes.get(str(size), size) for size in item.shape),
                   role=item.role.value)
            for item in program.features
        )  # fmt: skip
        classes = self.source.logits.shape[1]
        outputs = (Tensor(name=program.output, dtype="float32", shape=(data.num_nodes, classes)),)
        edges = structure_digest(data.inputs["edge_index"].numpy())
        return Manifest(
            model=SourceModel(
                name=self.source.path.name, class_name=self.source.class_name, sha256=self.source.digest()
            ),
            task=self.source.task.kind,
            inputs=inputs,
            outputs=outputs,
            graph=Graph(nodes=data.num_nodes, edges=data.num_edges, edge_index_sha256=edges),
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
            decided_on=this_processor(),
        )


def _in_float64(program: Program, x: torch.Tensor, structure: Sequence[Any]) -> torch.Tensor:
    """Run the body in double precision: attention on large logits amplifies the rounding of its inputs."""
    wide = [value.double() if torch.is_tensor(value) and value.is_floating_point() else value for value in structure]
    body = program.clone().body.double()
    with torch.no_grad():
        result: torch.Tensor = body(x.double(), *wide)
    return result


def _telling_rows(data: GraphData, count: int = 8) -> list[int]:
    """Return the nodes most likely to go wrong: the largest hubs, isolated nodes, and both ends."""
    degree = torch.bincount(data.inputs["edge_index"][1], minlength=data.num_nodes)
    hubs = torch.topk(degree, min(count, data.num_nodes)).indices.tolist()
    isolated = torch.nonzero(degree == 0).flatten()[:count].tolist()
    return sorted({0, data.num_nodes - 1, *hubs, *isolated})
