"""What every record written as JSON has in common."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gnnexport.errors import UsageError

T = TypeVar("T", bound="Record")


class Record(BaseModel):
    """An immutable record.

    Keys it does not know are kept, because a schema may grow within its version. NaN and infinity are
    refused: what was not measured is null.
    """

    model_config = ConfigDict(
        frozen=True, extra="allow", allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )


def parse_record(cls: type[T], text: str, where: str, *, schema: int, mend: str) -> T:
    """Parse a versioned record from JSON.

    Args:
        cls: what it is to be.
        text: the file.
        where: its name, for messages.
        schema: newest version this installation reads.
        mend: how to get a whole file.

    Raises:
        UsageError: not JSON, no such record, or of a newer schema.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError.at(where, "not JSON; the file is damaged", mend) from None
    version = values.get("schema") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise UsageError.at(where, "has no schema number; it is not a file of gnnexport", mend)
    if version > schema:
        what = f"schema {version} is newer than {schema}, the newest this installation reads"
        raise UsageError.at(where, what, "Run 'pip install --upgrade gnnexport'")
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError.at(where, f"{key}: {first['msg']}", mend) from None
