"""Text to token ids: the one place that says how a question is treated, in training and in use.

Notable:
- ids come from an encoder's own tokenizer.json, read as it stands: what it does with case and accents is in there, and
  which special tokens stand around a text
- they come without a limit; each model cuts what it does not need
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

from qc.artifacts import read_json
from qc.errors import QcError
from qc.sources import CONFIG, TOKENIZER

PADDING = ("[PAD]", "<pad>", "<|padding|>")  # what published tokenizers call it
PROBES = ("a", "1", "?")  # texts of which one at least has a token in any tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer's ids are.

    Attributes:
        tokenizer: Name of the encoder that it belongs to.
        size: Ids that it can give, added tokens among them.
        pad_id: Id of padding.
        unknown_id: Id of what has no token; that of padding where a tokenizer has a token for everything.
        before: Ids of the special tokens before a text.
        after: Ids of those after it.
        tokenizer_sha256: Of tokenizer.json.
    """

    tokenizer: str
    size: int
    pad_id: int
    unknown_id: int
    before: list[int]
    after: list[int]
    tokenizer_sha256: str

    def record(self) -> dict[str, Any]:
        """As it is written to vocabulary.json."""
        return asdict(self)

    @classmethod
    def of_encoder(cls, folder: Path, tokenizer: Tokenizer) -> Self:
        """That of the encoder in `folder`, whose tokenizer is from `load_tokenizer`.

        Raises:
            QcError: Nothing tells its id of padding.
        """
        content = (folder / TOKENIZER).read_bytes()
        described, known = json.loads(content), tokenizer.get_vocab(with_added_tokens=True)
        pad_id = _find_padding(described, read_json(folder / CONFIG), known)
        if pad_id is None:
            raise QcError(
                f"{folder / TOKENIZER}: nothing tells its id of padding; write it into {folder / CONFIG} as "
                f"pad_token_id, or name the token one of {', '.join(PADDING)}"
            )
        model = described["model"]
        unknown_id = model["unk_id"] if model.get("unk_id") is not None else known.get(model.get("unk_token"), pad_id)
        before, after = _special_ids(tokenizer)
        size, digest = max(known.values()) + 1, hashlib.sha256(content).hexdigest()
        return cls(folder.name, size, pad_id, unknown_id, before, after, digest)


def _find_padding(tokenizer: dict[str, Any], config: dict[str, Any], known: dict[str, int]) -> int | None:
    """The id of padding, by the encoder's configuration, the tokenizer's, or the token's name."""
    named = (known[token] for token in PADDING if token in known)
    candidates = (config.get("pad_token_id"), (tokenizer.get("padding") or {}).get("pad_id"), *named)
    return next((found for found in candidates if type(found) is int and 0 <= found <= max(known.values())), None)


def _special_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids of the special tokens that the tokenizer's post-processor puts before and after a text."""
    for probe in PROBES:
        found = tokenizer.encode(probe)
        special = found.special_tokens_mask
        if 0 in special:
            before = sum(1 for _ in takewhile(bool, special))
            after = sum(1 for _ in takewhile(bool, reversed(special)))
            return found.ids[:before], found.ids[len(found.ids) - after :]
    raise QcError(f"the tokenizer has no token for any of {', '.join(PROBES)}; take an encoder with another")


def model_text(text: str, lowercase: bool, fine: str | None = None) -> str:
    """A question as the models see it; `fine`, a fine label, stands before it where that is asked for."""
    text = text if fine is None else f"{fine} {text}"
    return text.lower() if lowercase else text


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of the encoder in `folder`, without truncation and padding; QcError where there is none."""
    path = folder / TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower type
        raise QcError(f"{path}: cannot be read: {error}; run the fetch stage again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], vocabulary: Vocabulary) -> list[list[int]]:
    """Token ids of texts, special tokens around them: unknown where there is nothing that a token stands for."""
    before, after = vocabulary.before, vocabulary.after
    nothing = [*before, vocabulary.unknown_id, *after]
    found = tokenizer.encode_batch_fast(list(texts), add_special_tokens=True)
    return [one.ids if len(one.ids) > len(before) + len(after) else nothing for one in found]
