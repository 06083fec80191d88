"""Find passes and targets by name: the file name is the registration."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import gnnexport.passes
import gnnexport.targets
from gnnexport.errors import Problem, SpecError, nearest
from gnnexport.passes.contract import Pass
from gnnexport.spec import Spec, build, parse_many, split
from gnnexport.targets.contract import Target

_NOT_A_NAME = "contract"


@cache
def pass_classes() -> dict[str, type[Pass]]:
    """Return every pass by name."""
    return _classes(gnnexport.passes, Pass)


@cache
def target_classes() -> dict[str, type[Target]]:
    """Return every target by name."""
    return _classes(gnnexport.targets, Target)


def build_passes(texts: Iterable[str]) -> list[Pass]:
    """Build the passes that specs name.

    Raises:
        SpecError: unknown names and options, all of them at once.
    """
    return _build_all(parse_many(texts, pass_classes()), pass_classes(), "passes")


def build_targets(texts: Iterable[str]) -> list[Target]:
    """Build the targets that specs name; several may stand in one text, separated by commas.

    Raises:
        SpecError: unknown names and options, all of them at once, or a target given twice.
    """
    specs = parse_many([part for text in texts for part in split(text, ",")], target_classes())
    built = _build_all(specs, target_classes(), "targets")
    names = [target.name for target in built]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError.at("targets", f"'{twice}' is given twice", "Name each target once")
    return built


def _build_all(specs: Sequence[Spec], classes: dict[str, type[Any]], where: str) -> list[Any]:
    problems: list[Problem] = []
    built = []
    for spec in specs:
        if spec.name not in classes:
            problems.append(Problem(where, f"unknown name '{spec.name}'", nearest(spec.name, classes)))
            continue
        try:
            built.append(build(classes[spec.name], spec))
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(*problems)
    return built


def _classes(package: Any, kind: type[Any]) -> dict[str, type[Any]]:
    found = {}
    for module_info in pkgutil.iter_modules(package.__path__):
        if module_info.name == _NOT_A_NAME:
            continue
        module = importlib.import_module(f"{package.__name__}.{module_info.name}")
        if module_info.ispkg:
            module = importlib.import_module(f"{module.__name__}.target")
        for value in vars(module).values():
            concrete = inspect.isclass(value) and issubclass(value, kind) and dataclasses.is_dataclass(value)
            if concrete and value.__module__ == module.__name__:
                found[value.name] = value
    return dict(sorted(found.items()))
