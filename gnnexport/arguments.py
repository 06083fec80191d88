"""What is given to a command, by the command line or as arguments, and what it comes to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnnexport.bundle.report_schema import Budgets
from gnnexport.errors import Problem, UsageError, nearest
from gnnexport.measure.budgets import default_budget, parse_budget, parse_bytes, parse_duration, parse_speedup
from gnnexport.validate.bundle import TIME_BUDGET_S

if TYPE_CHECKING:
    from gnnexport.pipeline.request import Request
    from gnnexport.pipeline.source import Given

Texts = str | Sequence[str] | None
FilePath = Path | str

MODES = ("full", "batched", "graphs")
DEFAULT_TARGET = "ort"


def timing_s(time_budget: str | None) -> float:
    """Return the seconds that timing may take."""
    return TIME_BUDGET_S if time_budget is None else parse_duration(time_budget)


def silent(line: str) -> None:
    """Tell nobody what goes on."""
    del line


def request_of(
    model: Path, *, target: Texts, passes: list[str], budgets: Budgets, time_budget: str | None,
    output: FilePath | None, seed: int, force: bool, embed_data: str, store: str | None, decisions: FilePath | None,
    dry_run: bool, progress: Callable[[str], None] | None, memory: str | None = None,
) -> Request:  # fmt: skip
    """Check what a run is asked for; arguments as in `gnnexport.compress`.

    Raises:
        UsageError: something given is wrong.
    """
    from gnnexport.pipeline.request import AUTO, NONE, Request
    from gnnexport.registry import build_passes, build_targets

    if seed < 0:
        raise UsageError.at("--seed", f"{seed} is negative", "Give 0 or more")
    if model.is_dir():
        raise UsageError.at(str(model), "is not a file", "Give the path of a file written by torch.save")
    for option, value in (("--target", target), ("--passes", passes), ("--output", output), ("--decisions", decisions)):
        check_filled(option, value)
    alone = len(passes) == 1 and passes[0] in (AUTO, NONE)
    if not alone and {AUTO, NONE} & set(passes):
        raise UsageError.at("passes", "'auto' and 'none' stand alone", "Give one of them, or name the passes")
    chosen = None if passes == [AUTO] else () if passes == [NONE] else tuple(build_passes(passes))
    return Request(
        model=model,
        targets=tuple(build_targets(texts(target) or [DEFAULT_TARGET])),
        passes=chosen,
        budgets=budgets,
        output=Path(output) if output is not None else model.with_suffix(".bundle"),
        time_budget_s=None if time_budget is None else parse_duration(time_budget),
        seed=seed,
        force=force,
        embed_bytes=parse_bytes(embed_data),
        store_bytes=None if store is None else parse_bytes(store, "--store"),
        memory_bytes=None if memory is None else parse_bytes(memory, "--memory", zero=False),
        decisions=None if decisions is None else _read_decisions(Path(decisions)),
        dry_run=dry_run,
        progress=progress or silent,
    )


def _read_decisions(path: Path) -> dict[str, Any]:
    """Read what an earlier run decided.

    Raises:
        UsageError: no such file, or not one that a bundle holds.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError.at(str(path), f"cannot be read ({error})", "Give decisions.json of a bundle") from error
    if not isinstance(values, dict) or not isinstance(values.get("lowerings", values.get("stages")), dict):
        raise UsageError.at(str(path), "holds no decisions", "Give decisions.json of a bundle")
    return values


def budgets_of(max_drop: str | None, min_speedup: str | float | None, metric: str | None) -> Budgets:
    """Check what a metric may lose and how fast a model has to be, the metric as far as the sidecar names one."""
    if max_drop is not None:
        parse_budget(max_drop, metric)
    speedup = None if min_speedup is None else str(parse_speedup(str(min_speedup)))
    return Budgets(
        max_drop=max_drop,
        max_drop_set=max_drop is not None,
        min_speedup=speedup,
        min_speedup_set=speedup is not None,
    )


def with_default(budgets: Budgets, metric: str, *, labelled: bool) -> Budgets:
    """Check the budget set against the metric that will be judged, or set one that suits it."""
    if budgets.max_drop is None:
        return budgets.model_copy(update={"max_drop": default_budget(metric)})
    if labelled:
        parse_budget(budgets.max_drop, metric)
    return budgets


def texts(value: Texts) -> list[str]:
    """Return one text or several, or none, as a list."""
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def check_filled(option: str, value: FilePath | Texts) -> None:
    """Refuse what is given but empty, as from an unset variable of a shell: that is no wish for the default."""
    texts = [value] if isinstance(value, str | Path) else value or ["-"]
    if all(str(text).strip(" ,;") == "" for text in texts):
        raise UsageError.at(option, "is given, but empty", "Give a value, or leave it out")


def given_of(
    model: Path, data: FilePath | None, mode: str | None, trust: bool, builder: str | None, code: FilePath | None,
    inputs: Texts,
) -> Given:  # fmt: skip
    """Check where model and data are, and how they are to be read; arguments as in `gnnexport.compress`.

    Raises:
        UsageError: something given is wrong.
    """
    from gnnexport.pipeline.source import Given

    if mode is not None and mode not in MODES:
        raise UsageError.at("--mode", f"unknown mode '{mode}'", nearest(mode, MODES))
    script = None if code is None else Path(code)
    for option, value in (("--data", data), ("--builder", builder), ("--code", code)):
        check_filled(option, value)
    source = None if data is None else str(data)
    return Given(model, source, mode, trust, builder, script, tuple(texts(inputs)))


def existing(path: FilePath) -> Path:
    """Return a path that there is something at.

    Raises:
        UsageError: there is not.
    """
    check_filled("MODEL", path)
    path = Path(path)
    if not path.exists():
        raise UsageError(Problem(str(path), "no such file", "Give the path of a saved model or of a bundle"))
    return path
