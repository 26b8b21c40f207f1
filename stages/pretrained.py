"""What the stages that train on a pretrained encoder share."""

from typing import Any

from qc.errors import QcError
from qc.models.encoder import Encoder, TrainableLayers
from qc.pretrained import encoder_files, load_encoder
from qc.settings import OnEncoder, Settings
from stages.entry import ENCODERS, PARAMS
from stages.training import kept_tokens, load_vocabulary


def load_pretrained(
    settings: Settings, own: OnEncoder, trainable_layers: TrainableLayers = 0, prefix_length: int = 0
) -> tuple[Encoder, dict[str, Any]]:
    """The encoder that a training section names.

    Args:
        settings: The whole of params.yaml.
        own: The section.
        trainable_layers: How many of its last layers are trained.
        prefix_length: Vectors that stand before each question.

    Returns:
        The encoder; what `config.json` says of it.

    Raises:
        QcError: It has fewer layers, word vectors or positions than are asked of it.
    """
    folder = ENCODERS / own.encoder
    vocabulary = load_vocabulary(own.encoder)
    encoder = load_encoder(folder, trainable_layers)
    if encoder.vocab_size < vocabulary["size"]:
        raise QcError(
            f"{PARAMS}: encoder: {own.encoder!r} is not possible: its tokenizer gives {vocabulary['size']} ids, its "
            f"config.json has {encoder.vocab_size}; take one with embeddings for the added tokens"
        )
    if encoder.max_positions is not None:
        special = len(vocabulary["before"]) + len(vocabulary["after"])
        longest = encoder.max_positions - special - prefix_length
        if kept_tokens(settings, own) > longest:
            prefix = f" and a prefix of {prefix_length}" if prefix_length else ""
            raise QcError(
                f"{PARAMS}: max_length: {kept_tokens(settings, own)} is not possible; allowed: 1 to {longest}, the "
                f"positions of {own.encoder} less {special} special tokens{prefix}"
            )
    return encoder, {
        "encoder": own.encoder,
        "files": encoder_files(folder),
        "vocabulary": vocabulary,
        "special_tokens": True,
        "trainable_layers": trainable_layers,
    }
