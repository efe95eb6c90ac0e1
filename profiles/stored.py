"""The base of everything that is stored."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Stored(BaseModel):
    """Immutable, closed to unknown fields: the classes are the schema."""

    model_config = ConfigDict(frozen=True, extra="forbid")
