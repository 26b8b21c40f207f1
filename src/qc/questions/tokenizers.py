"""Text to token ids, in training and in use.

Notable:
- ids come from the encoder's own tokenizer.json, which also decides case, accents and special tokens
- ids are not truncated here; each model cuts what it does not need
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

from qc.errors import QcError
from qc.files import CONFIG, TOKENIZER, read_json

PADDING = ("[PAD]", "<pad>", "<|padding|>")  # names of the padding token in published tokenizers
PROBES = ("a", "1", "?")  # any tokenizer has a token for one of them


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

    @classmethod
    def of_encoder(
        cls, folder: Path, tokenizer: Tokenizer, lowercase: bool = False, include_fine_label: bool = False
    ) -> Self:
        """Describe the tokenizer of the encoder in `folder`.

        Raises:
            QcError: No padding id is to be found.
        """
        content = (folder / TOKENIZER).read_bytes()
        described, known = json.loads(content), tokenizer.get_vocab(with_added_tokens=True)
        pad_id = _find_padding(described, read_json(folder / CONFIG), known)
        if pad_id is None:
            raise QcError(
                f"{folder / TOKENIZER}: no padding id; write it into {folder / CONFIG} as "
                f"pad_token_id, or name the token one of {', '.join(PADDING)}"
            )
        model = described["model"]
        unknown_id = model["unk_id"] if model.get("unk_id") is not None else known.get(model.get("unk_token"), pad_id)
        before, after = _special_ids(tokenizer)
        size, digest = max(known.values()) + 1, hashlib.sha256(content).hexdigest()
        return cls(folder.name, size, pad_id, unknown_id, before, after, digest, lowercase, include_fine_label)


def _find_padding(tokenizer: dict[str, Any], config: dict[str, Any], known: dict[str, int]) -> int | None:
    """Find the padding id in the encoder's configuration, the tokenizer's, or by the token's name."""
    named = (known[token] for token in PADDING if token in known)
    candidates = (config.get("pad_token_id"), (tokenizer.get("padding") or {}).get("pad_id"), *named)
    return next((found for found in candidates if type(found) is int and 0 <= found <= max(known.values())), None)


def _special_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Find the ids of the special tokens before and after a text."""
    for probe in PROBES:
        found = tokenizer.encode(probe)
        special = found.special_tokens_mask
        if 0 in special:
            before = sum(1 for _ in takewhile(bool, special))
            after = sum(1 for _ in takewhile(bool, reversed(special)))
            return found.ids[:before], found.ids[len(found.ids) - after :]
    raise QcError(f"the tokenizer has no token for any of {', '.join(PROBES)}; take an encoder with another")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of the encoder in `folder`, without truncation and padding.

    Raises:
        QcError: It is missing or broken.
    """
    path = folder / TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower type
        raise QcError(f"{path}: cannot be read: {error}; run the fetch stage again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], vocabulary: Vocabulary) -> list[list[int]]:
    """Tokenize texts, special tokens included; a text without any token becomes the unknown token."""
    before, after = vocabulary.before, vocabulary.after
    nothing = [*before, vocabulary.unknown_id, *after]
    found = tokenizer.encode_batch_fast(list(texts), add_special_tokens=True)
    return [one.ids if len(one.ids) > len(before) + len(after) else nothing for one in found]
