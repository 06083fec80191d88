"""`gnnexport.toml` beside a model, and recipes: what a user would otherwise repeat on every command line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from gnnexport.errors import Problem, SpecError, UsageError, nearest
from gnnexport.frontends.refusal import LONGEST_REASON, one_line, quoted
from gnnexport.measure.budgets import parse_bytes
from gnnexport.measure.metrics import METRICS, find
from gnnexport.training.kinds import LossName, TaskKind

SIDECAR_NAME = "gnnexport.toml"
PLAIN_CODE = re.compile(r"(?!-)[\w./-]+(:\w+)?", re.ASCII)
T = TypeVar("T", bound=BaseModel)


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _as_text(value: object) -> object:
    plain_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if plain_number else value


def _known_metric(name: str) -> str:
    try:
        return find(name).name
    except SpecError as error:
        raise ValueError(f"{error.problems[0].what}. {error.problems[0].mend}") from error


def _known_size(text: str) -> str:
    try:
        parse_bytes(text, zero=False)
    except SpecError as error:
        raise ValueError(f"{error.problems[0].what}. {error.problems[0].mend}") from error
    return text


Texts = Annotated[tuple[str, ...], BeforeValidator(_as_tuple, json_schema_input_type=str | list[str])]
"""One text or a list of them."""

Amount = Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | float)]
"""A budget such as `"0.5pp"` or `2`, as text."""


Metric = Annotated[
    str,
    AfterValidator(_known_metric),
    WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(METRICS)}|hits@[1-9][0-9]*)$"}),
]
"""Name of a metric."""

Size = Annotated[str, AfterValidator(_known_size)]
"""A size in memory such as `"4GB"`."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelTable(_Table):
    """How to make the module: both are code, so they need trust.

    Args:
        builder: makes the module when the file holds only weights.
        code: script that defines the module's class.
    """

    builder: str | None = None
    code: str | None = None


class DataTable(_Table):
    """Which data, and which of its splits.

    Args:
        path: a file.
        loader: a function that returns the data, such as `load.py:graphs`; it is code, so it needs trust.
        split: column of masks that hold several splits.
    """

    path: str | None = None
    loader: str | None = None
    split: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.path is not None and self.loader is not None:
            raise ValueError("path and loader both name the data. Leave one of them out")
        return self


class TaskTable(_Table):
    """What the model answers and how that is judged; `None` is inferred from the labels."""

    kind: TaskKind | None = None
    metric: Metric | None = None


class TrainingTable(_Table):
    """How the model was trained, for passes that retrain; `None` where the trainer's default holds.

    `memory` is what a training step may take besides data and model: where the whole graph takes more, training goes
    on in mini-batches.
    """

    loss: LossName | None = None
    lr: float | None = Field(default=None, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)
    epochs: int | None = Field(default=None, ge=0)
    patience: int | None = Field(default=None, ge=1)
    memory: Size | None = None


class CompressTable(_Table):
    """What `compress` does when the command line does not say."""

    passes: Texts | None = None
    target: Texts | None = None
    mode: Literal["full", "batched", "graphs"] | None = None
    max_drop: Amount | None = None
    min_speedup: Amount | None = None


class Sidecar(_Table):
    """The whole file; `folder` is where relative paths start."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    model: ModelTable = ModelTable()
    data: DataTable = DataTable()
    task: TaskTable = TaskTable()
    training: TrainingTable = TrainingTable()
    compress: CompressTable = CompressTable()
    folder: Path = Field(default=Path(), exclude=True)

    @property
    def data_path(self) -> Path | None:
        """The data file, resolved against the sidecar's folder."""
        return None if self.data.path is None else self.folder / self.data.path

    def builder(self, *, trust: bool) -> str | None:
        """Return the builder named here, which is code that came with the model.

        Raises:
            UsageError: there is one, and the user has not said that it may run.
        """
        return self._code("builder", self.model.builder, trust)

    def code(self, *, trust: bool) -> Path | None:
        """Return the script named here; raises as `builder` does."""
        script = self._code("code", self.model.code, trust)
        return None if script is None else self.folder / script

    def loader(self, *, trust: bool) -> str | None:
        """Return the function named here that loads the data; raises as `builder` does."""
        return self._code("data", self.data.loader, trust)

    def _code(self, option: str, value: str | None, trust: bool) -> str | None:
        """Return what is code only where the user has said that it may run."""
        if value is None or trust:
            return value
        name = {"builder": "builder", "code": "script", "data": "loader"}[option]
        what = f"names the {name} {quoted(value)}, which is code"
        # A command line to copy must hold nothing that a shell would run.
        itself = f": --{option} {value}" if PLAIN_CODE.fullmatch(value) else f" with --{option}"
        mend = f"Pass --trust to run it, or give it yourself{itself}"
        raise UsageError.at(str(self.folder / SIDECAR_NAME), what, mend)


class Recipe(CompressTable):
    """A `compress` table in a file of its own, for `--recipe`."""

    schema_: Literal[1] = Field(alias="schema")


def read_sidecar(model_path: Path) -> Sidecar:
    """Read `gnnexport.toml` in the folder of a model; the defaults when there is none.

    Raises:
        SpecError: it is not TOML, or holds a key or a value that does not exist.
    """
    folder = Path(model_path).parent
    path = folder / SIDECAR_NAME
    if not path.is_file():
        return Sidecar(folder=folder)
    return _parse(Sidecar, path, _read(path)).model_copy(update={"folder": folder})


def read_recipe(path: Path) -> Recipe:
    """Read the recipe of `--recipe`: `schema = 1`, `passes`, `target`, `mode`, `max_drop`, `min_speedup`.

    Raises:
        SpecError: it is missing, not TOML, or holds a key or a value that does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise SpecError.at(str(path), "no such recipe", 'Write a file with schema = 1 and passes = ["…"]')
    return _parse(Recipe, path, _read(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        # Not only what tomllib calls an error: a number of too many digits is refused by Python itself.
        raise SpecError.at(str(path), f"is not TOML ({_shown(one_line(error))})", "Correct the line named") from error
    except RecursionError as error:
        raise SpecError.at(str(path), "is nested too deeply", "Write it without nested lists") from error
    except OSError as error:
        raise SpecError.at(str(path), f"cannot be read ({error.strerror})", "Check its permissions") from error


def _parse(cls: type[T], path: Path, values: dict[str, Any]) -> T:
    problems = _unknown_keys(cls, path, values)
    if problems:
        raise SpecError(*problems)
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise SpecError(*(_problem(path, dict(item)) for item in error.errors())) from error


def _keys(cls: type[BaseModel]) -> dict[str, Any]:
    return {
        field.alias or name: field.annotation for name, field in cls.model_fields.items() if field.exclude is not True
    }


def _unknown_keys(cls: type[BaseModel], path: Path, values: dict[str, Any], table: str = "") -> list[Problem]:
    known, problems = _keys(cls), []
    for key, value in values.items():
        where = f"{path}: {f'[{table}] ' if table else ''}{_shown(key)}"
        if key not in known:
            problems.append(Problem(where, "no such key", nearest(key, known)))
        elif isinstance(value, dict) and isinstance(known[key], type) and issubclass(known[key], BaseModel):
            problems += _unknown_keys(known[key], path, value, key)
    return problems


def _problem(path: Path, item: dict[str, Any]) -> Problem:
    keys = [_shown(str(part)) for part in item["loc"] if not isinstance(part, int)]
    where = f"{path}: " + (f"[{keys[0]}] {keys[1]}" if len(keys) > 1 else keys[0] if keys else "file")
    if item["type"] == "literal_error":
        return Problem(where, f"{_repr(item['input'])} is not a choice", f"Known: {item['ctx']['expected']}")
    if item["type"] == "value_error":
        what, _, mend = str(item["ctx"]["error"]).rstrip(".").partition(". ")
        return Problem(where, _shown(what), _shown(mend))
    if item["type"] == "missing":
        return Problem(where, "missing", f"Write {where.rpartition(': ')[2]} = 1")
    message = str(item["msg"]).rstrip(".")
    return Problem(where, f"{_repr(item['input'])} does not fit", message)


def _shown(text: str) -> str:
    """Make text from a file safe to print: a terminal obeys the control characters in it."""
    safe = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return safe if len(safe) <= LONGEST_REASON else f"{safe[:LONGEST_REASON]}…"


def _repr(value: object) -> str:
    return quoted(value) if isinstance(value, str) else _shown(repr(value))
