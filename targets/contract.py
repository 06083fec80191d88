"""What a target is: a frozen dataclass whose fields are its options, that turns a model into files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.errors import Problem
from gnnexport.measure.amdahl import ProductShape, Shares
from gnnexport.measure.sparse_speed import Setting, Timed
from gnnexport.program.inputs import Mode
from gnnexport.program.program import Program
from gnnexport.targets.onnx.executed import Operand
from gnnexport.targets.onnx.sparse_weights import Weight

Prepare = Literal["baked", "model", "runtime"]
"""Who computes what depends on the graph alone: nobody any more, the model itself, or the runtime in front of it."""


@dataclass(frozen=True)
class DialectModel:
    """A translated Program, and the structure it is to be baked with where the graph is fixed.

    Args:
        model: holds dialect operators. In mode `full` its inputs are the features, then the structure values; in mode
            `graphs` they are the Program's inputs, with sizes named `num_nodes`, `num_edges` and so on; in mode
            `batched` it is one stage, whose inputs are rows and the structure of a block.
        structure: the structure values by graph input name; empty but in mode `full`.
        mode: how the model is deployed.
        sample: one typical request by input name, for timing and for the sizes to optimise for; may be empty where
            every size is fixed.
        generated: the sample is made up, for want of data, and says nothing about the sizes to come.
    """

    model: ir.Model
    structure: Mapping[str, NDArray[Any]]
    mode: Mode = "full"
    sample: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    generated: bool = False


@dataclass(frozen=True)
class EmitContext:
    """What a target gets besides the model.

    Args:
        threads: that inference may use, and that lowerings are timed with.
        time_budget_s: seconds that choosing by timing may take.
        seed: of everything random.
        note: takes one line for the report.
        decisions: of an earlier run, to be replayed without timing anything.
    """

    threads: int = 2
    time_budget_s: float = 30.0
    seed: int = 0
    note: Callable[[str], None] = field(default=lambda line: None)
    decisions: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Artefact:
    """What a target wrote.

    Args:
        model_file: name of the file a runtime opens, relative to the folder.
        files: names of all files.
        decisions: what timing decided; replaying it gives the same files.
        sizes: bytes by origin: `weights_bytes`, `graph_bytes`, `features_bytes`, `metadata_bytes`.
        lowering: rows of the report's `lowering`.
        requirements: what a machine needs to run this.
        prepare: who computes what depends on the graph alone.
        native: the model calls our own kernels, which have to be installed where it runs.
        inputs: names of what the model reads.
        halves: of each value that the Program rounds to 16 bits, in its order: rows of 16 bits are gathered of it.
        operands: what is quantised, and the arithmetic that each is computed with.
        weights: matrices with what is stored of them, and what becomes of their zeros when the model runs.
    """

    model_file: str
    files: tuple[str, ...]
    decisions: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    lowering: tuple[Mapping[str, Any], ...] = ()
    requirements: Mapping[str, Any] = field(default_factory=dict)
    prepare: Prepare = "baked"
    native: bool = False
    inputs: tuple[str, ...] = ()
    halves: tuple[bool, ...] = ()
    operands: tuple[Operand, ...] = ()
    weights: tuple[Weight, ...] = ()


class Target(ABC):
    """Turn a translated Program into files that a runtime executes."""

    name: ClassVar[str]
    runtime: ClassVar[str] = "ort"
    """The backend of `gnnexport.runtime` that runs what this target writes."""
    sparse_pattern: ClassVar[str | None] = None
    """The one pattern of zeros in weights that the runtime may skip, as `sparsify-weights` has it; `None` where there
    is no such limit."""

    def check(self, program: Program, mode: Mode = "full") -> list[Problem]:
        """Tell what this target cannot do with a Program in a mode; an empty list when nothing."""
        del program, mode
        return []

    def shares(
        self, dialect: DialectModel, feeds: Mapping[str, NDArray[Any]], ctx: EmitContext
    ) -> Shares | None:  # fmt: skip
        """Measure how the time of one inference divides; `None` where that cannot be told.

        Args:
            dialect: the model.
            feeds: a typical request.
            ctx: as for `emit`.
        """
        del dialect, feeds, ctx
        return None

    def time_products(
        self, products: Sequence[ProductShape], setting: Setting, ctx: EmitContext
    ) -> tuple[Timed, ...]:  # fmt: skip
        """Time products with zeros put into their weights; nothing where no kernel here skips any.

        Args:
            products: that `shares` found.
            setting: which numbers become zero.
            ctx: as for `emit`.
        """
        del products, setting, ctx
        return ()

    @abstractmethod
    def emit(self, dialect: DialectModel, folder: Path, ctx: EmitContext) -> Artefact:
        """Write the files of the model into an existing folder."""
