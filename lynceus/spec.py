"""The base of every specification that travels in a bundle."""

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """An immutable, validated set of parameters that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
