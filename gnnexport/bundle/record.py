"""What every record written as JSON has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """An immutable record.

    Keys it does not know are kept, because a schema may grow within its version. NaN and infinity are
    refused: what was not measured is null.
    """

    model_config = ConfigDict(
        frozen=True, extra="allow", allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )
