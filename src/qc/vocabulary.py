"""What an encoder's vocabulary is: enough to know whether two encoders read the same ids.

Importing this is cheap, unlike the tokenizer itself: training stages need no more than this.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from qc.errors import QcError
from qc.sources import TOKENIZER

SPECIAL_TOKENS = {"pad": "[PAD]", "unknown": "[UNK]", "before": "[CLS]", "after": "[SEP]"}


def describe_vocabulary(folder: Path) -> dict[str, Any]:
    """What is to be known of the vocabulary of the encoder in `folder`.

    Returns:
        size: ids that the tokenizer can give, added tokens among them; special_ids: those of `SPECIAL_TOKENS`; sha256:
        of the tokens in id order, a line each, which is that of the published vocab.txt; tokenizer_sha256: of the file.

    Raises:
        QcError: tokenizer.json is no WordPiece tokenizer, or has no id for a special token.
    """
    try:
        content = (folder / TOKENIZER).read_bytes()
        tokenizer = json.loads(content)
        vocabulary = {**tokenizer["model"]["vocab"]}
        vocabulary |= {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        special = {use: vocabulary[token] for use, token in SPECIAL_TOKENS.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QcError(f"{folder / TOKENIZER}: not a BERT tokenizer: {error!r}; run the fetch stage again") from None
    listed = "".join(f"{token}\n" for token in tokens).encode()
    return {
        "size": max(vocabulary.values()) + 1,
        "special_ids": special,
        "sha256": hashlib.sha256(listed).hexdigest(),
        "tokenizer_sha256": hashlib.sha256(content).hexdigest(),
    }
