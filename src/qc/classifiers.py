"""A trained model, from its folder: whatever its family, something that maps (inputs, mask) to logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from torch import Tensor, nn

from qc.batching import Questions, encode
from qc.checkpoints import CONFIG, WEIGHTS, fill, read_config, read_weights, verify
from qc.errors import QcError
from qc.models.distilbert import DistilbertClassifier
from qc.models.prefix import PrefixClassifier
from qc.models.scratch import ScratchClassifier, ScratchConfig
from qc.pretrained import load_encoder
from qc.texts import Vocabulary


@dataclass(frozen=True)
class Classifier:
    """A trained model and what it expects.

    Attributes:
        model: Maps (inputs, mask) to logits (B, classes).
        classes: Class names in label order.
        max_length: Tokens kept of a question, special tokens not counted.
        special_tokens: Whether it takes the tokenizer's special tokens around a question.
        vocabulary: What its token ids are.
        lowercase: Whether questions are lower-cased first.
        include_fine_label: Whether it was trained with the fine label before each question.
    """

    model: nn.Module
    classes: list[str]
    max_length: int
    special_tokens: bool
    vocabulary: Vocabulary
    lowercase: bool
    include_fine_label: bool

    def encode(self, input_ids: Sequence[Sequence[int]] | pyarrow.Array, labels: Sequence[int]) -> Questions:
        """Token ids of questions, special tokens included, and their class numbers as the model takes them."""
        vocabulary = self.vocabulary
        return encode(
            input_ids,
            labels,
            self.max_length,
            (len(vocabulary.before), len(vocabulary.after)),
            keep_special=self.special_tokens,
            pad_id=vocabulary.pad_id,
        )


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
        about = dict(config["vocabulary"])
        treatment = {key: about.pop(key) for key in ("lowercase", "include_fine_label")}
        classifier = Classifier(
            model,
            config["labels"]["classes"],
            config["max_length"],
            config["special_tokens"],
            Vocabulary(**about),
            **treatment,
        )
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
    return DistilbertClassifier(
        load_encoder(encoders / config["encoder"], config["trainable_layers"]), **config["sizes"]
    )


_BUILDERS = {"scratch": _scratch, "prefix": _prefix, "distilbert": _distilbert}
