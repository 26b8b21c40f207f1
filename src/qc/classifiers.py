"""A trained model, from its folder: whatever its family, something that maps (inputs, mask) to logits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qc.artifacts import file_sha256
from qc.checkpoints import CONFIG, WEIGHTS, fill, read_config, read_weights
from qc.errors import QcError
from qc.models.distilbert import DistilbertClassifier
from qc.models.encoder import Encoder
from qc.models.prefix import PrefixClassifier
from qc.models.scratch import ScratchClassifier, ScratchConfig
from qc.pretrained import check_record, encoder_sha256, load_encoder

VOCABULARY_KEYS = ("tokenizer", "sha256", "lowercase", "include_fine_label")


@dataclass(frozen=True)
class Classifier:
    """A trained model and what it expects.

    Attributes:
        model: Maps (inputs, mask) to logits (B, classes).
        classes: Class names in label order.
        max_length: Tokens kept of a question.
        special_ids: Ids before and after each question; None for none.
        vocabulary: How its questions were tokenized: the `VOCABULARY_KEYS`.
    """

    model: nn.Module
    classes: list[str]
    max_length: int
    special_ids: tuple[int, int] | None
    vocabulary: Mapping[str, Any]


def load_classifier(folder: Path, encoders: Path) -> Classifier:
    """Rebuild a trained model.

    Args:
        folder: A model folder.
        encoders: The folder that holds a folder for each pretrained encoder.

    Raises:
        QcError: The folder is broken or of an unknown family, or the encoder has other weights than it was trained on.
    """
    config = read_config(folder)
    trained = read_weights(folder / WEIGHTS)
    try:
        _check(folder / WEIGHTS, config["weights_sha256"])
        model = _BUILDERS[config["model"]](config, trained, encoders)
        special_ids = tuple(config["special_ids"]) if config["special_ids"] else None
        vocabulary = {key: config["vocabulary"][key] for key in VOCABULARY_KEYS}
        classifier = Classifier(model, config["labels"]["classes"], config["max_length"], special_ids, vocabulary)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise QcError(f"{folder / CONFIG}: not a model of this version: {error!r}; `dvc repro` makes it anew") from None
    fill(model, trained, folder / WEIGHTS)
    return classifier


def _check(path: Path, sha256: str) -> None:
    """Refuse other weights than `config.json` says were saved."""
    found = file_sha256(path)
    if found != sha256:
        raise QcError(
            f"{path}: SHA-256 {found}, but config.json has {sha256}: the bytes were changed since training; `make "
            "cache` finds damaged copies in DVC's cache, then `dvc pull` or `dvc repro` brings the model back"
        )


def _scratch(config: Mapping[str, Any], trained: Mapping[str, Tensor], encoders: Path) -> nn.Module:
    sizes = ScratchConfig(**config["sizes"])
    rows = trained.get("rows")
    kept = None if rows is None else (rows != rows[sizes.unknown_id]).nonzero()[:, 0].tolist()
    return ScratchClassifier(sizes, kept)


def _prefix(config: Mapping[str, Any], trained: Mapping[str, Tensor], encoders: Path) -> nn.Module:
    return PrefixClassifier(_encoder(config, encoders), **config["sizes"])


def _distilbert(config: Mapping[str, Any], trained: Mapping[str, Tensor], encoders: Path) -> nn.Module:
    return DistilbertClassifier(_encoder(config, encoders), **config["sizes"])


_BUILDERS = {"scratch": _scratch, "prefix": _prefix, "distilbert": _distilbert}


def _encoder(config: Mapping[str, Any], encoders: Path) -> Encoder:
    folder = encoders / config["encoder"]
    if not folder.is_dir():
        raise QcError(f"{folder}: no such encoder; name it under fetch.encoders in params.yaml and run `dvc repro`")
    found = encoder_sha256(folder)
    if found != config["encoder_sha256"]:
        raise QcError(
            f"{folder / WEIGHTS}: SHA-256 {found}, but the model was trained on {config['encoder_sha256']}; "
            "`dvc repro` trains it on the encoder that is there"
        )
    check_record(folder, CONFIG)
    return load_encoder(folder)
