"""What all sections of the settings are made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen; a name that it does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
