"""Prediction: text in, probabilities out, with the same treatment of text as in training.

    from qc import load
    load("models/distilbert").predict(["Who wrote Hamlet ?"])[0].label

Notable:
- nothing is downloaded: model and encoder are folders
- a process that has loaded a model must not be forked: PyTorch's threads do not survive `os.fork()`, and `predict`
  waits for them for ever in the child; load the model in each worker process, or start the workers by `spawn`
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from qc.errors import QcError, from_the_top
from qc.files import CONFIG
from qc.inference.model_folder import TrainedModel, load_model
from qc.questions.text import fault_of_text, model_text
from qc.questions.tokenizers import load_tokenizer, token_ids
from qc.runtime.device import pick_device


@dataclass(frozen=True)
class Prediction:
    """Prediction for a text."""

    text: str
    label: str  # the most probable class
    probabilities: dict[str, float]  # of each class, in the order of the class numbers; they sum to 1
    truncated: bool  # the text was longer than the model reads


class Predictor:
    """A trained model with its tokenizer.

    Args:
        trained: The model.
        tokenizer: The tokenizer of its vocabulary.
        device: `auto`, `cpu` or `cuda`.
    """

    temperature = 1.0  # of the softmax; set to `trained.temperature`, it calibrates the probabilities

    def __init__(self, trained: TrainedModel, tokenizer: Tokenizer, device: str = "auto") -> None:
        self.device = pick_device(device)
        self.trained, self.tokenizer = trained, tokenizer
        self.model = trained.model.to(self.device)

    @property
    def classes(self) -> list[str]:
        """Class names in the order of their numbers."""
        return self.trained.classes

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts as in training."""
        vocabulary = self.trained.vocabulary
        return token_ids(self.tokenizer, [model_text(text, vocabulary.lowercase) for text in texts], vocabulary)

    def predict(self, texts: Iterable[str]) -> list[Prediction]:
        """Classify the texts of a list, generator, array or column, in their order.

        Raises:
            QcError: `texts` is a single text, or one of them is empty or not a text.
        """
        texts = check_texts(texts)
        if not texts:
            return []
        ids = self.tokenize(texts)
        longest = self.trained.max_length + sum(self.trained.vocabulary.special_counts)
        questions = self.trained.pack(ids, [0] * len(ids)).to(self.device)
        probabilities = (self.trained.predict(questions).double() / self.temperature).softmax(dim=1).numpy()
        return [
            Prediction(
                text=text,
                label=self.classes[int(np.argmax(row))],
                probabilities=dict(zip(self.classes, row.tolist(), strict=True)),
                truncated=len(tokens) > longest,
            )
            for text, row, tokens in zip(texts, probabilities, ids, strict=True)
        ]


def check_texts(texts: Iterable[str]) -> list[str]:
    """List texts; QcError where one is empty or not a text, or `texts` is no one-dimensional collection."""
    several = isinstance(texts, Iterable) and not isinstance(texts, (str, bytes, Mapping))
    if not several or getattr(texts, "ndim", 1) != 1:
        raise QcError(
            f"texts: a {type(texts).__name__}; expected a list of texts, such as predict(['Who wrote Hamlet ?'])"
        )
    checked = list(texts)
    for number, text in enumerate(checked, start=1):
        if fault := fault_of_text(text):
            raise QcError(f"text {number} {fault}; correct it, or leave it out")
    return list(map(str, checked))  # plain ones, of NumPy's


def load(folder: str | Path, encoders: str | Path | None = None, device: str = "auto") -> Predictor:
    """Load a trained model.

    Args:
        folder: A model folder, such as models/distilbert.
        encoders: The folder with a folder for each pretrained encoder; None: data/encoders beside the models.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        QcError: The device is absent; the model or its encoder is missing, broken, or not the one that it was trained
            on.
    """
    folder = Path(folder)
    encoders = folder.resolve().parent.parent / "data/encoders" if encoders is None else Path(encoders)
    if not (folder / CONFIG).is_file():
        raise QcError(f"{folder}: no such model; `dvc repro` trains one, `dvc pull` fetches one{from_the_top()}")
    trained = load_model(folder, encoders)
    if trained.vocabulary.include_fine_label:
        raise QcError(
            f"{folder}: trained with the fine label before each question (tokenize.include_fine_label), which a new "
            "text does not have; set it to false and run `dvc repro`"
        )
    return Predictor(trained, load_tokenizer(encoders / trained.vocabulary.tokenizer), device)
