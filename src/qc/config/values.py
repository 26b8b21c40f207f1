"""Types of single values in params.yaml and data/sources.yaml."""

from typing import Annotated

from pydantic import AfterValidator, Field

from qc.config.references import NAME, check_corrections, check_encoder, check_questions

Positive = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Word = Annotated[str, Field(min_length=1)]
QuestionsReference = Annotated[str, AfterValidator(check_questions)]
Corrections = Annotated[str, AfterValidator(check_corrections)]
EncoderReference = Annotated[str, AfterValidator(check_encoder)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
