"""What a user asks for, gathered from the command line, a recipe and the sidecar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnnexport.bundle.report_schema import Budgets
from gnnexport.passes.contract import Pass
from gnnexport.targets.contract import Target

AUTO = "auto"
NONE = "none"


@dataclass(frozen=True)
class Request:
    """One run of `compress` or `export`.

    Args:
        model: file of the model.
        targets: at least one.
        passes: compressing passes in order; `None` lets the pipeline choose.
        budgets: what the result is judged against.
        output: folder of the bundle, or of one subfolder per target when there are several.
        time_budget_s: seconds for choosing passes and lowerings and for timing; `None` for the defaults.
        embed_bytes: features and labels go into the bundle up to this size.
        store_bytes: memory for hidden rows between requests, in mode `batched`; `None` for the default.
        memory_bytes: that training and fitting may take besides data and model; `None` for half of what is free.
        decisions: what timing decided in an earlier run, to be replayed instead of timing again.
        dry_run: check everything and write nothing.
        progress: takes a line for each step.
    """

    model: Path
    targets: tuple[Target, ...]
    passes: tuple[Pass, ...] | None
    budgets: Budgets
    output: Path
    time_budget_s: float | None = None
    seed: int = 0
    force: bool = False
    embed_bytes: int = 64_000_000
    store_bytes: int | None = None
    memory_bytes: int | None = None
    decisions: Mapping[str, Any] | None = None
    dry_run: bool = False
    progress: Callable[[str], None] = field(default=lambda line: None)

    def folder(self, target: Target) -> Path:
        """Return where the bundle of a target goes."""
        return self.output if len(self.targets) == 1 else self.output / target.name
