"""What a tokenizer's ids are: the content of vocabulary.json, which models keep."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from qc.files import read_json


@dataclass(frozen=True)
class Vocabulary:
    """The ids of a tokenizer, and how texts are treated before it: the content of vocabulary.json.

    Attributes:
        tokenizer: Name of the encoder that it belongs to.
        size: Number of ids, added tokens included.
        pad_id: Id of padding.
        unknown_id: Id of an unknown token; the padding id where the tokenizer has a token for everything.
        before: Ids of the special tokens before a text.
        after: Ids of the special tokens after a text.
        tokenizer_sha256: SHA-256 of tokenizer.json.
        lowercase: Whether texts are lower-cased first.
        include_fine_label: Whether the fine label stands before the question.
    """

    tokenizer: str
    size: int
    pad_id: int
    unknown_id: int
    before: list[int]
    after: list[int]
    tokenizer_sha256: str
    lowercase: bool = False
    include_fine_label: bool = False

    @property
    def special_counts(self) -> tuple[int, int]:
        """Number of special tokens before and after a text."""
        return len(self.before), len(self.after)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read vocabulary.json."""
        return cls(**read_json(path))

    def record(self) -> dict[str, Any]:
        """Content of vocabulary.json."""
        return asdict(self)
