"""The commands of `gnnexport` as functions, which return typed objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnnexport.arguments import (
    FilePath,
    Texts,
    budgets_of,
    check_filled,
    existing,
    given_of,
    request_of,
    silent,
    texts,
    timing_s,
    with_default,
)  # fmt: skip
from gnnexport.bundle.reader import open_bundle
from gnnexport.bundle.report_schema import Report
from gnnexport.bundle.summary import summarise
from gnnexport.errors import EXIT_OK, UsageError
from gnnexport.report.markdown import to_markdown
from gnnexport.report.verdict import gravest, judge
from gnnexport.validate.bundle import Validation, bench_bundle, validate_bundle

if TYPE_CHECKING:
    from gnnexport.catalogue import CatalogueEntry
    from gnnexport.diagnosis import DoctorEntry
    from gnnexport.pipeline.request import Request
    from gnnexport.pipeline.source import Given


@dataclass(frozen=True)
class Outcome:
    """What a command measured.

    Args:
        reports: by target.
        bundles: folders written, by target; empty after a dry run, `validate` and `bench`.
        exit_code: of the command line: the gravest of all targets.
    """

    reports: dict[str, Report]
    bundles: dict[str, Path] = field(default_factory=dict)
    exit_code: int = EXIT_OK

    @property
    def report(self) -> Report:
        """The report of the only, or the first, target.

        Raises:
            UsageError: there is none.
        """
        if not self.reports:
            raise UsageError.at("outcome", "there is no report", "Ask for at least one target")
        return next(iter(self.reports.values()))

    @property
    def bundle(self) -> Path:
        """The folder of the only, or the first, target.

        Raises:
            UsageError: none was written, as after a dry run, `validate` or `bench`.
        """
        if not self.bundles:
            mend = "Leave out dry_run, or use the path that was given to validate or bench"
            raise UsageError.at("outcome", "no bundle was written", mend)
        return next(iter(self.bundles.values()))


@dataclass(frozen=True)
class Inspection:
    """What a model or a bundle holds."""

    text: str
    values: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain values."""
        return self.values


def compress(
    model: FilePath,
    *,
    target: Texts = None,
    passes: Texts = None,
    recipe: FilePath | None = None,
    data: FilePath | None = None,
    inputs: Texts = None,
    mode: str | None = None,
    max_drop: str | None = None,
    min_speedup: str | float | None = None,
    time_budget: str | None = None,
    output: FilePath | None = None,
    seed: int = 0,
    force: bool = False,
    trust: bool = False,
    builder: str | None = None,
    code: FilePath | None = None,
    embed_data: str = "64MB",
    store: str | None = None,
    memory: str | None = None,
    decisions: FilePath | None = None,
    dry_run: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """Compress a trained model, lower it, and prove the result.

    What is not given comes from the recipe, then from `gnnexport.toml` beside the model, then from the
    defaults.

    Args:
        model: a module saved with `torch.save`, or with `builder` its state dict.
        target: specs such as `ort{threads=2}`.
        passes: specs of compressing passes; `auto` chooses, `none` compresses nothing.
        recipe: TOML file with passes, target and budgets.
        data: `.npz`, or PyG's `Data`, a list of them or a data set as `.pt`; or `file.py:function` that returns it.
        inputs: sizes of inputs such as `x=N,16`, where there is no data and the model does not tell.
        mode: `full` for one graph, which is baked in, `batched` for requests about some nodes of one graph that grows,
            or `graphs` for new ones in every request; by default `full` for data of one graph, and `graphs` for a set,
            or without data.
        max_drop: largest drop of the metric, such as `0.5pp`.
        min_speedup: `2`, or `2x-exported` against the uncompressed export.
        time_budget: such as `10m`.
        output: folder of the bundle.
        seed: of every random choice.
        force: replace an existing bundle.
        trust: let the model, data and sidecar files run their code.
        builder: `package.module:function` or `file.py:function` that makes the module.
        code: script that defines the model's class; only with `trust`.
        embed_data: features and labels of the test go into the bundle up to this size.
        store: memory such as `256MB` for hidden rows that a bundle of mode `batched` keeps between requests.
        memory: such as `4GB`, which training and fitting may take besides data and model; where the whole graph takes
            more they go on in mini-batches. By default half of what is free.
        decisions: `decisions.json` of an earlier bundle, to be replayed without timing anything.
        dry_run: check everything, say what would run, and write nothing.
        progress: takes a line for each step.

    Raises:
        GnnExportError: nothing is left behind; its `exit_code` is that of the command line.
    """
    from gnnexport.frontends.sidecar import read_recipe, read_sidecar

    model_path = existing(model)
    check_filled("--recipe", recipe)
    sidecar = read_sidecar(model_path)
    chosen = read_recipe(Path(recipe)) if recipe is not None else None
    tables = [table for table in (chosen, sidecar.compress) if table is not None]

    def first(option: Any, name: str) -> Any:
        return option if option is not None else next((v for t in tables if (v := getattr(t, name)) is not None), None)

    given = given_of(model_path, data, first(mode, "mode"), trust, builder, code, inputs)
    request = request_of(
        model_path,
        target=first(target, "target"),
        passes=texts(first(passes, "passes")) or ["auto"],
        budgets=budgets_of(first(max_drop, "max_drop"), first(min_speedup, "min_speedup"), sidecar.task.metric),
        time_budget=time_budget, output=output, seed=seed, force=force, embed_data=embed_data, store=store,
        memory=memory if memory is not None else sidecar.training.memory, decisions=decisions, dry_run=dry_run,
        progress=progress,
    )  # fmt: skip
    return _run(request, sidecar, given)


def export(
    model: FilePath,
    *,
    target: Texts = None,
    data: FilePath | None = None,
    inputs: Texts = None,
    mode: str | None = None,
    min_speedup: str | float | None = None,
    time_budget: str | None = None,
    output: FilePath | None = None,
    seed: int = 0,
    force: bool = False,
    trust: bool = False,
    builder: str | None = None,
    code: FilePath | None = None,
    embed_data: str = "64MB",
    store: str | None = None,
    decisions: FilePath | None = None,
    dry_run: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """Lower a trained model as it is, and prove the result; arguments as in `compress`."""
    from gnnexport.frontends.sidecar import read_sidecar

    model_path = existing(model)
    given = given_of(model_path, data, mode, trust, builder, code, inputs)
    sidecar = read_sidecar(model_path)
    request = request_of(
        model_path,
        target=target if target is not None else sidecar.compress.target,
        passes=["none"],
        budgets=budgets_of(None, min_speedup, sidecar.task.metric),
        time_budget=time_budget, output=output, seed=seed, force=force, embed_data=embed_data, store=store,
        decisions=decisions, dry_run=dry_run,
        progress=progress,
    )  # fmt: skip
    return _run(request, sidecar, given)


def inspect(
    path: FilePath,
    *,
    data: FilePath | None = None,
    inputs: Texts = None,
    mode: str | None = None,
    trust: bool = False,
    builder: str | None = None,
    code: FilePath | None = None,
    progress: Callable[[str], None] | None = None,
) -> Inspection:
    """Show a model's Program, cost and message passing, or what a bundle's manifest says.

    Args:
        path: a model or a bundle.
        data: as in `compress`.
        inputs: as in `compress`.
        mode: as in `compress`.
        trust: as in `compress`.
        builder: as in `compress`.
        code: as in `compress`.
        progress: takes a line for each step.
    """
    path = existing(path)
    tell = progress or silent
    tell(f"reading {path}")
    if path.is_dir():
        bundle = open_bundle(path)
        values: dict[str, Any] = bundle.manifest.model_dump(mode="json", by_alias=True)
        return Inspection(summarise(bundle), values)
    from gnnexport.frontends.sidecar import read_sidecar
    from gnnexport.pipeline.inspection import inspect_program, inspection_text
    from gnnexport.pipeline.run import simplify
    from gnnexport.pipeline.source import load_source

    given = given_of(path, data, mode, trust, builder, code, inputs)
    with _going_on():
        source = load_source(given, read_sidecar(path))
        tell(f"capturing {source.class_name}")
        program = simplify(source).program
    tell("asking the targets")
    found = inspect_program(source, program)
    return Inspection(inspection_text(found), found)


def validate(
    bundle: FilePath,
    *,
    data: FilePath | None = None,
    time_budget: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """Prove a bundle on this machine: its numbers, its accuracy, its latency. Needs no torch.

    Args:
        bundle: its folder.
        data: `.npz` with features and labels, when the bundle holds none or others are wanted.
        time_budget: of the timing, such as `10s`.
        progress: takes a line for each step.

    Raises:
        ParityError: the numbers differ from those stored in the bundle.
    """
    check_filled("--data", data)
    check_filled("BUNDLE", bundle)
    given = None if data is None else Path(data)
    seconds = timing_s(time_budget)
    return _judged(validate_bundle(Path(bundle), data=given, time_budget_s=seconds, progress=progress or silent))


def bench(
    bundle: FilePath, *, time_budget: str | None = None, progress: Callable[[str], None] | None = None
) -> Outcome:
    """Measure latency and throughput of a bundle on this machine; only speed is judged. Needs no torch.

    Args:
        bundle: its folder.
        time_budget: of the timing, such as `10s`.
        progress: takes a line for each step.
    """
    check_filled("BUNDLE", bundle)
    return _judged(bench_bundle(Path(bundle), time_budget_s=timing_s(time_budget), progress=progress or silent))


def passes() -> list[CatalogueEntry]:
    """List the passes with their options."""
    from gnnexport.catalogue import list_passes

    return list_passes()


def targets() -> list[CatalogueEntry]:
    """List the targets with their options."""
    from gnnexport.catalogue import list_targets

    return list_targets()


def doctor() -> list[DoctorEntry]:
    """Tell what works on this machine, and what to install for the rest."""
    from gnnexport.diagnosis import examine

    return examine()


def _run(request: Request, sidecar: Any, given: Given) -> Outcome:
    from gnnexport.pipeline.run import run
    from gnnexport.pipeline.source import load_source

    codes: list[int] = []

    def judged(report: Report) -> tuple[Report, str]:
        verdict = judge(report)
        codes.append(verdict.exit_code)
        report = verdict.write_into(report)
        return report, to_markdown(report)

    with _going_on():
        source = load_source(given, sidecar)
        budgets = with_default(request.budgets, source.task.metric, labelled=source.labelled)
        product = run(replace(request, budgets=budgets), source, judged)
    return Outcome(product.reports, product.bundles, gravest(codes))


@contextmanager
def _going_on() -> Iterator[None]:
    """Refuse code of the model or of the data that ends the program: it has no say in the exit code.

    Raises:
        UsageError: it did; nothing of ours ends the program in here.
    """
    try:
        yield
    except SystemExit as error:
        mend = 'Take sys.exit out of what is called, or put it under `if __name__ == "__main__":`'
        what = f"code of the model or of the data ends the program (SystemExit {error.code})"
        raise UsageError.at("gnnexport", what, mend) from error


def _judged(validation: Validation) -> Outcome:
    verdict = judge(validation.report)
    report = verdict.write_into(validation.report)
    return Outcome({report.target or "bundle": report}, {}, verdict.exit_code)
