"""Training data: everything that a model is trained on, read from data/split/NAME and data/encoders/NAME."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qc.errors import QcError
from qc.files import TOKENIZER, encoder_files, file_sha256
from qc.models.parameters import EncoderTrainingConfig
from qc.models.registry import MODELS
from qc.questions.labels import Labels
from qc.questions.tables import TRAIN, VALID, VOCABULARY, QuestionTable
from qc.questions.vocabulary import Vocabulary

if TYPE_CHECKING:
    from qc.config.settings import Settings
    from qc.models.encoder import Encoder
    from qc.paths import Folders

COLUMNS = ("label", "fine", "group", "input_ids")


@dataclass(frozen=True)
class TrainingData:
    """Everything that a model is trained on.

    Attributes:
        train: Training split.
        valid: Validation split.
        labels: Class names.
        vocabulary: The token ids.
        encoder: The pretrained encoder, whose trained layers training changes; None for none.
        encoder_files: SHA-256 of the files that the model stands on, by `NAME/FILE` in data/encoders.
        split_files: SHA-256 of the files of the splits, by name.
    """

    train: QuestionTable
    valid: QuestionTable
    labels: Labels
    vocabulary: Vocabulary
    encoder: "Encoder | None"
    encoder_files: Mapping[str, str]
    split_files: Mapping[str, str]


def load_training_data(name: str, settings: "Settings", folders: "Folders") -> TrainingData:
    """Read what the model NAME is trained on.

    Raises:
        QcError: A file is missing or broken, or the encoder does not fit the section `train_NAME`.
    """
    config, model_class = settings.training()[name], MODELS[name].load_class()
    split, encoder_folder = folders.split / config.tokenizer_name, folders.encoders / config.tokenizer_name
    train, valid = (QuestionTable.read(split / file, *COLUMNS) for file in (TRAIN, VALID))
    vocabulary = Vocabulary.read(split / VOCABULARY)
    files, encoder = {f"{encoder_folder.name}/{TOKENIZER}": vocabulary.tokenizer_sha256}, None
    if isinstance(config, EncoderTrainingConfig):
        layers_key = f"params.yaml: train_{name}.{config.layers_key}"
        encoder = model_class.load_encoder(encoder_folder, config.upper_layers, layers_key)
        model_class.check_encoder(config, encoder)
        prefix = model_class.prefix_positions(config)
        key = f"train_{name}.max_length" if config.max_length else "max_length"
        _check_encoder(encoder, vocabulary, name, prefix, key, config.tokens_kept(settings.max_length))
        names = [file for file in encoder_files([path.name for path in encoder_folder.iterdir()]) if file != TOKENIZER]
        files |= {f"{encoder_folder.name}/{file}": file_sha256(encoder_folder / file) for file in names}
    return TrainingData(
        train=train,
        valid=valid,
        labels=train.class_names,
        vocabulary=vocabulary,
        encoder=encoder,
        encoder_files=files,
        split_files={file: file_sha256(split / file) for file in (TRAIN, VALID, VOCABULARY)},
    )


def _check_encoder(
    encoder: "Encoder", vocabulary: Vocabulary, name: str, prefix: int, key: str, max_length: int
) -> None:
    """Raise QcError where an encoder has fewer word vectors or positions than a model needs; `key` sets the length."""
    if encoder.vocab_size < vocabulary.size:
        raise QcError(
            f"params.yaml: train_{name}.encoder: invalid value {vocabulary.tokenizer!r}: its tokenizer has "
            f"{vocabulary.size} ids, its config.json {encoder.vocab_size}; expected an encoder with embeddings for the "
            "added tokens"
        )
    special = sum(vocabulary.special_counts)
    longest = encoder.longest(max_length + special, prefix)
    if longest is not None and max_length > longest - special:
        before = f" and a prefix of {prefix}" if longest < encoder.max_positions else ""
        raise QcError(
            f"params.yaml: {key}: invalid value {max_length}; expected 1 to {longest - special}, the positions of "
            f"{vocabulary.tokenizer} less {special} special tokens{before}"
        )
