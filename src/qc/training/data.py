"""Training data: the tokenized train and validation splits, and the encoder, as a model takes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow

from qc.config.settings import Settings
from qc.errors import QcError, reason
from qc.files import CONFIG, WEIGHTS, file_sha256
from qc.models.registry import MODELS
from qc.paths import INPUT_IDS, LABELS, VOCABULARY, Folders
from qc.questions.labels import Labels
from qc.questions.parquet import read_column, read_table
from qc.questions.tokenizers import Vocabulary

if TYPE_CHECKING:
    from qc.models.encoder import Encoder


@dataclass(frozen=True)
class TokenizedSplit:
    """The questions of a split, as one tokenizer has them.

    Attributes:
        input_ids: (N,) lists of token ids, special tokens included.
        labels: (N,) numbers of the coarse classes.
        fine_labels: (N,) numbers of the fine classes; None for none.
        groups: (N,) numbers of the groups of equal questions.
    """

    input_ids: pyarrow.ListArray
    labels: np.ndarray
    fine_labels: np.ndarray | None
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Self:
        """Select questions by row number."""
        fine_labels = None if self.fine_labels is None else self.fine_labels[rows]
        return type(self)(self.input_ids.take(rows), self.labels[rows], fine_labels, self.groups[rows])

    def join(self, other: Self) -> Self:
        """Append the questions of another split."""
        fine_labels = None if self.fine_labels is None else np.concatenate((self.fine_labels, other.fine_labels))
        return type(self)(
            pyarrow.concat_arrays((self.input_ids, other.input_ids)),
            np.concatenate((self.labels, other.labels)),
            fine_labels,
            np.concatenate((self.groups, other.groups)),
        )


@dataclass(frozen=True)
class TrainingData:
    """Everything that a model is trained on.

    Attributes:
        train: Training split.
        valid: Validation split.
        labels: Class names.
        vocabulary: The token ids.
        encoder: The pretrained encoder, whose trained layers training changes; None for none.
    """

    train: TokenizedSplit
    valid: TokenizedSplit
    labels: Labels
    vocabulary: Vocabulary
    encoder: "Encoder | None"


def load_training_data(name: str, settings: Settings, folders: Folders) -> TrainingData:
    """Read what the model NAME is trained on.

    Raises:
        QcError: A file is missing or broken, or the encoder does not fit the section `train_NAME`.
    """
    config = settings.training()[name]
    tokenized = folders.tokenized / config.tokenizer_name
    labels = Labels.read(folders.tokenized / LABELS.name)
    train, valid = (load_split(folders.split / f"{split}.parquet", tokenized, labels) for split in ("train", "valid"))
    vocabulary = Vocabulary.read(tokenized / VOCABULARY)
    model_class = MODELS[name].load_class()
    encoder = model_class.load_encoder(folders.encoders / config.tokenizer_name, config.upper_layers)
    if encoder:
        _check_encoder(
            encoder, vocabulary, name, model_class.prefix_positions(config), settings.max_length_of(name)
        )
    return TrainingData(train, valid, labels, vocabulary, encoder)


def load_split(path: Path, tokenized: Path, labels: Labels) -> TokenizedSplit:
    """Read the questions of a split.

    Args:
        path: A file of data/split.
        tokenized: Folder of the tokenizer in data/tokenized.
        labels: Class names.
    """
    table = read_table(path, "id", "label", "fine", "group").combine_chunks()
    numbers = table["label"].to_numpy()
    return TokenizedSplit(
        read_column(tokenized / INPUT_IDS, table["id"].to_numpy(), "input_ids"),
        numbers,
        labels.fine_numbers(numbers, table["fine"].chunk(0)),
        table["group"].to_numpy(),
    )


def hash_encoder(folder: Path) -> dict[str, str]:
    """SHA-256 of config and weights of the encoder in `folder`, by `NAME/FILE`."""
    found = {}
    for name in (CONFIG, WEIGHTS):
        path = folder / name
        try:
            found[f"{folder.name}/{name}"] = file_sha256(path)
        except OSError as error:
            raise QcError(f"{path}: {reason(error)}; `dvc checkout` or the fetch stage brings it back") from None
    return found


def _check_encoder(encoder: "Encoder", vocabulary: Vocabulary, name: str, prefix: int, max_length: int) -> None:
    """Raise QcError where an encoder has fewer word vectors or positions than a model needs."""
    if encoder.vocab_size < vocabulary.size:
        raise QcError(
            f"params.yaml: train_{name}.encoder: invalid value {vocabulary.tokenizer!r}: its tokenizer has "
            f"{vocabulary.size} ids, its config.json {encoder.vocab_size}; expected an encoder with embeddings for the "
            "added tokens"
        )
    special = sum(vocabulary.special_counts)
    positions = encoder.longest(max_length + special, prefix)
    if positions is not None:
        longest = positions - special
        if max_length > longest:
            before = f" and a prefix of {prefix}" if positions < encoder.max_positions else ""
            raise QcError(
                f"params.yaml: max_length: invalid value {max_length}; expected 1 to {longest}, the positions of "
                f"{vocabulary.tokenizer} less {special} special tokens{before}"
            )
