"""Types of single values in params.yaml and data/sources.yaml."""

from typing import Annotated

from pydantic import Field

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"

Positive = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Word = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
