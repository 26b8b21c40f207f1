"""Pretrained encoders, from the folders that the fetch stage fills."""

from pathlib import Path

from qc.artifacts import file_sha256, read_json
from qc.checkpoints import CONFIG, WEIGHTS, read_weights
from qc.models.encoder import Encoder, EncoderConfig


def load_encoder(folder: Path) -> Encoder:
    """Build the pretrained encoder in `folder`; QcError where its files are missing, broken or unsupported."""
    encoder = Encoder(EncoderConfig.from_published(read_json(folder / CONFIG)))
    encoder.load_published(read_weights(folder / WEIGHTS))
    return encoder


def encoder_sha256(folder: Path) -> str:
    """What the `config.json` of a model names its encoder by: the hash of the encoder's weights."""
    return file_sha256(folder / WEIGHTS)
