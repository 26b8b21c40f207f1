"""What the stages that train on a pretrained encoder share."""

from typing import Any

from qc.errors import QcError
from qc.models.encoder import Encoder
from qc.pretrained import encoder_files, load_encoder
from qc.settings import OnEncoder, Settings
from qc.vocabulary import describe_vocabulary
from stages.entry import ENCODERS
from stages.training import kept_tokens, load_vocabulary


def load_pretrained(settings: Settings, own: OnEncoder, prefix_length: int = 0) -> tuple[Encoder, dict[str, Any]]:
    """The encoder that a training section names.

    Args:
        settings: The whole of params.yaml.
        own: The section.
        prefix_length: Vectors that stand before each question.

    Returns:
        The encoder; what `config.json` says of it.

    Raises:
        QcError: It reads other or fewer token ids than the questions were turned into, or shorter sequences.
    """
    folder = ENCODERS / own.encoder
    vocabulary = load_vocabulary()
    if describe_vocabulary(folder)["sha256"] != vocabulary["sha256"]:
        raise QcError(
            f"params.yaml: encoder: {own.encoder!r} is not possible; allowed: an encoder with the vocabulary of "
            f"{vocabulary['tokenizer']}, which tokenized the questions"
        )
    special = vocabulary["special_ids"]
    encoder = load_encoder(folder)
    if encoder.config.vocab_size < vocabulary["size"]:
        raise QcError(
            f"params.yaml: encoder: {own.encoder!r} is not possible: its tokenizer gives {vocabulary['size']} ids, its "
            f"config.json has {encoder.config.vocab_size}; take one with embeddings for the added tokens"
        )
    max_length = kept_tokens(settings, own)
    longest = encoder.config.max_positions - 2 - prefix_length
    if max_length > longest:
        prefix = f" and a prefix of {prefix_length}" if prefix_length else ""
        raise QcError(
            f"params.yaml: max_length: {max_length} is not possible; allowed: 1 to {longest}, the positions of "
            f"{own.encoder} less two special tokens{prefix}"
        )
    return encoder, {
        "encoder": own.encoder,
        "files": encoder_files(folder),
        "special_ids": [special["before"], special["after"]],
    }
