"""Specs name a pass or a target with its options: `prune-channels{keep=0.5,multiple=8}`.

The same text stands on the command line, in a recipe and in a report. Options are the fields of
the frozen dataclass that the name stands for.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from gnnexport.errors import SpecError, nearest

T = TypeVar("T")

_SPEC = re.compile(r"^(?P<name>[a-z0-9][a-z0-9_-]*)(?:\{(?P<options>.*)\})?$", re.DOTALL)
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Spec:
    """A name and its options as text, in the order given."""

    name: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        inside = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}{{{inside}}}" if inside else self.name


def parse(text: str, known: Iterable[str] = ()) -> Spec:
    """Parse one spec.

    Args:
        text: `name` or `name{key=value,…}`; a list value is written `[1,2]`.
        known: names that exist, used to recognise what a shell makes of unquoted braces.

    Raises:
        SpecError: if the text is not a spec.
    """
    text = text.strip()
    match = _SPEC.match(text)
    if match is None:
        raise _wrecked(text, known) or SpecError.at(
            f"spec '{text}'", "not of the form name{key=value,…}", 'Write for example "prune-channels{keep=0.5}"'
        )
    options: dict[str, str] = {}
    for item in split(match["options"] or "", ","):
        key, equals, value = item.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key or not value:
            raise SpecError.at(f"spec '{text}'", f"'{item}' is not key=value", "Separate options by commas")
        if key in options:
            raise SpecError.at(f"spec '{text}'", f"option '{key}' is given twice", "Keep one of them")
        options[key] = value
    return Spec(match["name"], options)


def parse_many(texts: Iterable[str], known: Iterable[str] = ()) -> list[Spec]:
    """Parse specs that are separated by `;` or given one by one."""
    known = tuple(known)
    return [parse(item, known) for text in texts for item in split(text, ";")]


def build(cls: type[T], spec: Spec) -> T:
    """Build the dataclass that a spec names, converting each option to its field's type.

    Raises:
        SpecError: on an unknown option or a value of the wrong type; lists the known ones.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is not a dataclass")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, text in spec.options.items():
        field = key.replace("-", "_")
        if field not in fields:
            raise SpecError.at(spec.name, f"unknown option '{key}'", nearest(key, fields))
        values[field] = _convert(text, hints[field], f"{spec.name}: {key}")
    try:
        return cls(**values)
    except ValueError as error:
        raise SpecError.at(spec.name, str(error)) from error


def describe(instance: Any) -> Spec:
    """Give back the spec of a built pass or target with every option that has a value.

    Defaults are spelled out: a record must say the same after they have changed.
    """
    options = {
        field.name: text_of(value)
        for field in dataclasses.fields(instance)
        if field.init and (value := getattr(instance, field.name)) is not None
    }
    return Spec(instance.name, options)


def text_of(value: Any) -> str:
    """Write an option's value as a spec has it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ",".join(text_of(item) for item in value) + "]"
    return str(value)


def _convert(text: str, hint: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        if text.lower() == "none" and len(members) < len(typing.get_args(hint)):
            return None
        return _convert(text, members[0], where)
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if text not in choices:
            raise SpecError.at(where, f"'{text}' is not a choice", nearest(text, choices))
        return text
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        return tuple(_convert(item, inner, where) for item in split(text.strip("[]"), ","))
    if hint is bool:
        if text.lower() not in _BOOLEANS:
            raise SpecError.at(where, f"'{text}' is not true or false", "Write true or false")
        return _BOOLEANS[text.lower()]
    if hint in (int, float):
        try:
            value = hint(text)
        except ValueError:
            raise SpecError.at(where, f"'{text}' is not a number", f"Write {where.split()[-1]}=N") from None
        if value != value or value in (float("inf"), float("-inf")):
            raise SpecError.at(where, f"'{text}' is not a finite number", "Write a finite number")
        return value
    return text


def split(text: str, separator: str) -> list[str]:
    """Split at a separator that stands outside brackets and braces; empty items are dropped."""
    items, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "[{") - (character in "]}")
        if character == separator and depth == 0:
            items.append(text[start:position])
            start = position + 1
    items.append(text[start:])
    return [item.strip() for item in items if item.strip()]


def _wrecked(text: str, known: Iterable[str]) -> SpecError | None:
    """Recognise `prune-channelskeep=0.5`, which is what a shell makes of unquoted braces."""
    for name in sorted(known, key=len, reverse=True):
        if text.startswith(f"{name}{{"):
            return SpecError.at(f"spec '{text}'", "its braces are not closed", f'Write "{text}}}"')
        if text.startswith(name) and "=" in text:
            whole = f'"{name}{{{text[len(name) :]},…}}"'
            mend = f"Quote the spec: {whole}"
            return SpecError.at(f"spec '{text}'", "the shell has expanded the braces of an unquoted spec", mend)
    return None
