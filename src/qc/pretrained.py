"""Pretrained encoders, from the folders that the fetch stage fills."""

from pathlib import Path

from qc.artifacts import file_sha256, read_json
from qc.checkpoints import read_weights
from qc.errors import QcError, reason
from qc.models.encoder import Encoder, EncoderConfig
from qc.sources import CONFIG, RECORD, WEIGHTS


def load_encoder(folder: Path) -> Encoder:
    """Build the pretrained encoder in `folder`; QcError where its files are missing, broken or unsupported."""
    published, weights = read_json(folder / CONFIG), read_weights(folder / WEIGHTS)
    try:
        encoder = Encoder(EncoderConfig.from_published(published))
        encoder.load_published(weights)
    except QcError as error:
        raise QcError(f"{folder}/{error}") from None
    return encoder


def check_record(folder: Path, name: str) -> None:
    """Refuse a file of the encoder in `folder` that is not the one which was fetched."""
    try:
        recorded = read_json(folder / RECORD)["files"][name]["sha256"]
    except (LookupError, TypeError):
        raise QcError(f"{folder / RECORD}: has no SHA-256 of {name}; run the fetch stage again") from None
    if recorded != _sha256(folder / name):
        raise QcError(
            f"{folder / name}: not the file that {RECORD} beside it names; `dvc checkout` or the fetch stage "
            "brings it back"
        )


def encoder_sha256(folder: Path) -> str:
    """What the `config.json` of a model names its encoder by: the hash of the encoder's weights."""
    return _sha256(folder / WEIGHTS)


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise QcError(f"{path}: {reason(error)}; `dvc checkout` or the fetch stage brings it back") from None
