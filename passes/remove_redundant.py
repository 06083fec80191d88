"""Remove dead nodes, duplicates and copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gnnexport.passes.contract import Pass, PassContext, Stage
from gnnexport.program.graphs import rebuild
from gnnexport.program.program import Program
from gnnexport.program.simplify import drop_dead, drop_identities, merge_duplicates


@dataclass(frozen=True)
class RemoveRedundant(Pass):
    """Let equal computations share one node and drop what nothing reads."""

    name: ClassVar[str] = "remove-redundant"
    stage: ClassVar[Stage] = Stage.SIMPLIFY

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Return the Program without dead nodes, duplicates and copies."""
        program = program.clone()
        graph = program.body.graph
        erased = drop_identities(graph) + merge_duplicates(graph) + drop_dead(graph)
        program.body = rebuild(program.body, graph)
        ctx.note(f"removed {erased} nodes")
        return program
