"""List passes and targets with their options, read off their classes."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import typing
from dataclasses import dataclass
from typing import Any

from gnnexport import spec
from gnnexport.registry import pass_classes, target_classes


@dataclass(frozen=True)
class CatalogueEntry:
    """A pass or a target.

    Args:
        stage: of a pass; `target` for a target.
        options: name, type, default and meaning of each.
    """

    name: str
    summary: str
    stage: str
    options: list[tuple[str, str, str, str]]


def list_passes() -> list[CatalogueEntry]:
    """Return every pass, in the order of stages."""
    entries = [_entry(cls, cls.stage.value) for cls in pass_classes().values()]
    order = ["simplify", "compress", "finalise"]
    return sorted(entries, key=lambda entry: (order.index(entry.stage), entry.name))


def list_targets() -> list[CatalogueEntry]:
    """Return every target."""
    return [_entry(cls, "target") for cls in target_classes().values()]


def _entry(cls: type[Any], stage: str) -> CatalogueEntry:
    hints = typing.get_type_hints(cls)
    meanings = _field_docs(cls)
    options = [
        (field.name, _type_name(hints[field.name]), spec.text_of(field.default), meanings.get(field.name, ""))
        for field in dataclasses.fields(cls)
        if field.init
    ]
    return CatalogueEntry(cls.name, (inspect.getdoc(cls) or "").partition("\n")[0], stage, options)


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(map(str, typing.get_args(hint)))
    return str(getattr(hint, "__name__", hint)) if isinstance(hint, type) else str(hint).replace("typing.", "")


def _field_docs(cls: type[Any]) -> dict[str, str]:
    """Return the string that stands below each field in the source, inherited fields included."""
    docs: dict[str, str] = {}
    for parent in reversed(cls.__mro__):
        if dataclasses.is_dataclass(parent):
            docs.update(_own_field_docs(parent))
    return docs


def _own_field_docs(cls: type[Any]) -> dict[str, str]:
    try:
        body = ast.parse(inspect.getsource(cls)).body[0]
    except (OSError, SyntaxError):
        return {}
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            meaning = ast.literal_eval(text.value) if isinstance(text.value, ast.Constant) else None
            if isinstance(meaning, str):
                docs[field.target.id] = " ".join(meaning.split())
    return docs
