"""A trained model, from its folder: whatever its family, something that maps (inputs, mask) to logits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qc.checkpoints import CONFIG, WEIGHTS, fill, read_config, read_weights, verify
from qc.errors import QcError
from qc.models.distilbert import DistilbertClassifier
from qc.models.prefix import PrefixClassifier
from qc.models.scratch import ScratchClassifier, ScratchConfig
from qc.pretrained import load_encoder

VOCABULARY_KEYS = ("tokenizer", "special_ids", "lowercase", "include_fine_label")


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

    @property
    def pad_id(self) -> int:
        """The tokenizer's id of padding."""
        return self.vocabulary["special_ids"]["pad"]


def load_classifier(folder: Path, encoders: Path) -> Classifier:
    """Rebuild a trained model.

    Args:
        folder: A model folder.
        encoders: The folder that holds a folder for each pretrained encoder.

    Raises:
        QcError: The folder is broken or of an unknown family, or a file is not the one that it was trained with.
    """
    config = read_config(folder)
    try:
        verify(folder, config, encoders)
        trained = read_weights(folder / WEIGHTS)
        model = _BUILDERS[config["model"]](config, trained, encoders)
        special_ids = tuple(config["special_ids"]) if config["special_ids"] else None
        vocabulary = {key: config["vocabulary"][key] for key in VOCABULARY_KEYS}
        classifier = Classifier(model, config["labels"]["classes"], config["max_length"], special_ids, vocabulary)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise QcError(f"{folder / CONFIG}: not a model of this version: {error!r}; `dvc repro` makes it anew") from None
    fill(model, trained, folder / WEIGHTS)
    return classifier


def _scratch(config: Mapping[str, Any], trained: Mapping[str, Tensor], encoders: Path) -> nn.Module:
    sizes = ScratchConfig(**config["sizes"])
    rows = trained.get("rows")
    kept = None if rows is None else (rows != rows[sizes.unknown_id]).nonzero()[:, 0].tolist()
    return ScratchClassifier(sizes, kept)


def _prefix(config: Mapping[str, Any], trained: Mapping[str, Tensor], encoders: Path) -> nn.Module:
    return PrefixClassifier(load_encoder(encoders / config["encoder"]), **config["sizes"])


def _distilbert(config: Mapping[str, Any], trained: Mapping[str, Tensor], encoders: Path) -> nn.Module:
    return DistilbertClassifier(load_encoder(encoders / config["encoder"]), **config["sizes"])


_BUILDERS = {"scratch": _scratch, "prefix": _prefix, "distilbert": _distilbert}
