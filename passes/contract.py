"""What a pass is: a frozen dataclass whose fields are its options, with one method."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from gnnexport.errors import Problem
from gnnexport.measure.amdahl import Shares
from gnnexport.measure.sparse_speed import Speeds
from gnnexport.program.data import GraphData
from gnnexport.program.edge_rules import rules
from gnnexport.program.edge_sets import is_pruned
from gnnexport.program.inputs import Mode
from gnnexport.program.program import Program
from gnnexport.program.quantised import is_quantised
from gnnexport.training.trainer import Trainer

Mark = Literal["sparse edges", "sparse weights", "quantised"]
"""What a pass leaves in a Program that other passes may not stand behind."""


class Stage(enum.Enum):
    """When a pass runs, and what it may change."""

    SIMPLIFY = "simplify"
    """Before compression: keeps every output equal and the Program trainable."""
    COMPRESS = "compress"
    """May change outputs; is judged by the accuracy budget."""
    FINALISE = "finalise"
    """After compression: keeps every inference output equal; the Program need not stay trainable."""


@dataclass(frozen=True)
class PassContext:
    """What a pass gets besides the Program.

    Args:
        data: the graph, with the labels of the test nodes hidden; `None` without data.
        trainer: trains and evaluates on train and validation nodes; `None` without labels.
        seed: seeds every random choice of the pass.
        mode: how the Program will be deployed.
        latency: measures one inference of a Program on the target, in milliseconds; `None` where it cannot run.
        shares: measures how one inference of a Program on the target divides between linear layers, aggregation and all
            else, and returns `None` where that cannot be told; `None` where nothing is measured.
        speeds: gives what times products with zeros put into their weights on the target, for a bounded time; `None`
            where nothing is measured.
        sparse_pattern: the one pattern of zeros in weights that the target's runtime may skip; `None` where there is no
            such limit.
        targets: where there are several, what passes foretell with on each, by its name.
        memory_bytes: that fitting may take besides data and model; by default half of what is free.
        note: takes one line for the report.
    """

    data: GraphData | None = None
    trainer: Trainer | None = None
    seed: int = 0
    mode: Mode = "full"
    latency: Callable[[Program], float] | None = None
    shares: Callable[[Program], Shares | None] | None = None
    speeds: Callable[[], Speeds] | None = None
    sparse_pattern: str | None = None
    targets: Mapping[str, PassContext] = field(default_factory=dict)
    memory_bytes: int | None = None
    note: Callable[[str], None] = field(default=lambda line: None)


class Pass(ABC):
    """Transform a Program. Subclasses are frozen dataclasses; their fields are the options."""

    name: ClassVar[str]
    stage: ClassVar[Stage]
    ladder: ClassVar[tuple[str, ...]] = ()
    """Options that the pipeline `auto` tries in turn until one is kept, the strongest first."""
    turn: ClassVar[int] = 0
    """Passes with a lower number are tried first by `auto`: what makes the model smaller, then narrower numbers."""
    measured: ClassVar[bool] = False
    """Kept only where the target runs measurably faster with it. Such a pass is of the stage `FINALISE`, runs after all
    others, and returns the very Program that it was given, with a note that says why, where it finds nothing to gain.
    """

    def check(self, program: Program, ctx: PassContext) -> list[Problem]:
        """Tell what keeps this pass from running on this Program; an empty list when nothing does."""
        del program, ctx
        return []

    @property
    def leaves(self) -> frozenset[Mark]:
        """What a Program is marked by once this pass ran."""
        return frozenset()

    def check_behind(self, marks: frozenset[Mark]) -> list[Problem]:
        """Tell what keeps this pass from running behind passes that leave these marks; needs no Program."""
        del marks
        return []

    @classmethod
    def settings(cls, sparse_pattern: str | None) -> tuple[str, ...]:
        """Return the options that `auto` tries for a target.

        Args:
            sparse_pattern: see `PassContext`.
        """
        del sparse_pattern
        return cls.ladder

    def foretell(self, program: Program, ctx: PassContext) -> list[str]:
        """Say what this pass can gain in time on the target, before any work is done.

        Takes seconds at most, and leaves the Program as it is.
        """
        del program, ctx
        return []

    def tell_forecast(self, program: Program, ctx: PassContext) -> None:
        """Note what the pass foretells, on each target where there are several."""
        for name, of_target in (ctx.targets or {"": ctx}).items():
            for line in self.foretell(program, of_target):
                ctx.note(f"on {name}: {line}" if name else line)

    @abstractmethod
    def run(self, program: Program, ctx: PassContext) -> Program:
        """Return the transformed Program; the one given is left as it was."""


def marks_of(program: Program) -> frozenset[Mark]:
    """Return the marks of a Program, whoever left them."""
    found: dict[Mark, bool] = {
        "sparse edges": is_pruned(program) or bool(rules(program)),
        "sparse weights": bool(program.sparse_weights),
        "quantised": is_quantised(program),
    }
    return frozenset(mark for mark, is_there in found.items() if is_there)


def check_order(passes: Iterable[Pass]) -> list[Problem]:
    """Tell which passes cannot run behind those in front of them, before any of these has worked for long."""
    problems: list[Problem] = []
    marks: frozenset[Mark] = frozenset()
    for item in passes:
        problems += item.check_behind(marks)
        marks |= item.leaves
    return problems
