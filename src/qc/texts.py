"""Text to token ids: the one place that says how a question is treated, in training and in use.

Notable:
- ids come from an encoder's own tokenizer.json, read as it stands: what it does with case and accents is in there
- they come without special tokens and without a limit; each model adds and cuts what it needs
"""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from qc.errors import QcError
from qc.sources import TOKENIZER
from qc.vocabulary import SPECIAL_TOKENS


def model_text(text: str, lowercase: bool, fine: str | None = None) -> str:
    """A question as the models see it; `fine`, a fine label, stands before it where that is asked for."""
    text = text if fine is None else f"{fine} {text}"
    return text.lower() if lowercase else text


def load_tokenizer(folder: Path) -> Tokenizer:
    """The WordPiece tokenizer of the encoder in `folder`; QcError where there is none."""
    path = folder / TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower type
        raise QcError(f"{path}: cannot be read: {error}; run the fetch stage again") from None
    kind = type(tokenizer.model).__name__
    if kind != "WordPiece":
        raise QcError(f"{path}: its tokenizer is {kind}; allowed: WordPiece")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, at least one of each: [UNK] where there is nothing that a token stands for."""
    unknown = tokenizer.token_to_id(SPECIAL_TOKENS["unknown"])
    return [found.ids or [unknown] for found in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
