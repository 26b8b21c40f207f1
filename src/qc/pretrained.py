"""Pretrained encoders, from the folders that the fetch stage fills."""

from pathlib import Path

from qc.artifacts import file_sha256, read_json
from qc.checkpoints import read_weights
from qc.errors import QcError, reason
from qc.models.encoder import Encoder, EncoderConfig
from qc.sources import CONFIG, WEIGHTS


def load_encoder(folder: Path) -> Encoder:
    """Build the pretrained encoder in `folder`; QcError where its files are missing, broken or unsupported."""
    published, weights = read_json(folder / CONFIG), read_weights(folder / WEIGHTS)
    try:
        encoder = Encoder(EncoderConfig.from_published(published))
        encoder.load_published(weights)
    except QcError as error:
        raise QcError(f"{folder}/{error}") from None
    return encoder


def encoder_files(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that make the network of the encoder in `folder`, by `NAME/FILE`."""
    found = {}
    for name in (CONFIG, WEIGHTS):
        path = folder / name
        try:
            found[f"{folder.name}/{name}"] = file_sha256(path)
        except OSError as error:
            raise QcError(f"{path}: {reason(error)}; `dvc checkout` or the fetch stage brings it back") from None
    return found
