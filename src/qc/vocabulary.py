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
    """Size, special ids and hash of the vocabulary of the encoder in `folder`.

    The hash is the SHA-256 of the tokens in id order, a line each: that of the published vocab.txt.

    Raises:
        QcError: tokenizer.json is no WordPiece tokenizer, or has no id for a special token.
    """
    try:
        vocabulary = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))["model"]["vocab"]
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        special = {use: vocabulary[token] for use, token in SPECIAL_TOKENS.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QcError(f"{folder / TOKENIZER}: not a BERT tokenizer: {error!r}; run the fetch stage again") from None
    content = "".join(f"{token}\n" for token in tokens).encode()
    return {"size": len(tokens), "special_ids": special, "sha256": hashlib.sha256(content).hexdigest()}
