"""Text to token ids, in training and in use.

Notable:
- ids come from the encoder's own tokenizer.json, which also decides case, accents and special tokens
- ids are not truncated here; each model cuts what it does not need
"""

import hashlib
import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from qc.errors import QcError
from qc.files import CONFIG, TOKENIZER, read_json
from qc.questions.vocabulary import Vocabulary

PADDING = ("[PAD]", "<pad>", "<|padding|>")  # names of the padding token in published tokenizers
PROBES = ("a", "1", "?")  # any tokenizer has a token for one of them


def describe_tokenizer(
    folder: Path, tokenizer: Tokenizer, lowercase: bool = False, include_fine_label: bool = False
) -> Vocabulary:
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
    return Vocabulary(folder.name, size, pad_id, unknown_id, before, after, digest, lowercase, include_fine_label)


def _find_padding(tokenizer: dict[str, Any], config: dict[str, Any], known: dict[str, int]) -> int | None:
    """Find the padding id in the encoder's configuration, the tokenizer's, or by the token's name."""
    named = (known[token] for token in PADDING if token in known)
    candidates = (config.get("pad_token_id"), (tokenizer.get("padding") or {}).get("pad_id"), *named)
    return next((pad for pad in candidates if type(pad) is int and 0 <= pad <= max(known.values())), None)


def _special_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Find the ids of the special tokens before and after a text."""
    for probe in PROBES:
        encoding = tokenizer.encode(probe)
        special = encoding.special_tokens_mask
        if 0 in special:
            before = sum(1 for _ in takewhile(bool, special))
            after = sum(1 for _ in takewhile(bool, reversed(special)))
            return encoding.ids[:before], encoding.ids[len(encoding.ids) - after :]
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
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=True)
    return [encoding.ids if len(encoding.ids) > len(before) + len(after) else nothing for encoding in encodings]
