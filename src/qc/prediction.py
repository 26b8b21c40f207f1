"""A trained model put to use: text in, probabilities out, with the same treatment of text as in training.

    from qc import load
    load("models/distilbert").predict(["Who wrote Hamlet ?"])[0].label

Notable:
- the encoder's tokenizer.json is read directly: the same ids as in training, in a tenth of the start-up
- nothing is ever fetched: model and encoder are folders
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from qc.checkpoints import CONFIG
from qc.classifiers import Classifier, load_classifier
from qc.errors import QcError, from_the_top
from qc.questions import fault_of_text
from qc.texts import load_tokenizer, model_text, token_ids
from qc.training import pick_device, predict


@dataclass(frozen=True)
class Prediction:
    """What a model says of a question.

    Attributes:
        text: The question.
        label: The most probable class.
        probabilities: Of each class, in label order; they sum to 1.
        truncated: Whether the question was longer than the model reads, and cut.
    """

    text: str
    label: str
    probabilities: dict[str, float]
    truncated: bool


class Predictor:
    """A trained model, its tokenizer, and how its questions were treated.

    Args:
        classifier: The model.
        tokenizer: Of the encoder that its questions were tokenized with.
        device: `auto`, `cpu` or `cuda`.
    """

    def __init__(self, classifier: Classifier, tokenizer: Tokenizer, device: str = "auto") -> None:
        self.device = pick_device(device)
        self.classifier, self.tokenizer = classifier, tokenizer
        self.model = classifier.model.to(self.device)

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        return self.classifier.classes

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of questions, as in training."""
        treated = [model_text(text, self.classifier.lowercase) for text in texts]
        return token_ids(self.tokenizer, treated, self.classifier.vocabulary)

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Classify questions, in their order.

        Raises:
            QcError: One of them holds no word, or is no text.
        """
        if not texts:
            return []
        for number, text in enumerate(texts, start=1):
            if fault := fault_of_text(text):
                raise QcError(f"question {number} {fault}; give it some words, or leave it out")
        classifier = self.classifier
        ids = self.tokenize(texts)
        longest = classifier.max_length + len(classifier.vocabulary.before) + len(classifier.vocabulary.after)
        questions = classifier.encode(ids, [0] * len(ids)).to(self.device)
        probabilities = predict(self.model, questions).double().softmax(dim=1).numpy()
        return [
            Prediction(
                text=text,
                label=self.classes[int(np.argmax(row))],
                probabilities=dict(zip(self.classes, row.tolist(), strict=True)),
                truncated=len(found) > longest,
            )
            for text, row, found in zip(texts, probabilities, ids, strict=True)
        ]


def load(folder: str | Path, encoders: str | Path | None = None, device: str = "auto") -> Predictor:
    """Make a trained model ready for use.

    Args:
        folder: A model folder, such as models/distilbert.
        encoders: The folder with a folder for each pretrained encoder; None: data/encoders beside the models.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        QcError: The model or an encoder of it is missing, broken, or not the one that it was trained on.
    """
    folder = Path(folder)
    encoders = folder.resolve().parent.parent / "data/encoders" if encoders is None else Path(encoders)
    if not (folder / CONFIG).is_file():
        raise QcError(f"{folder}: no model is here; `dvc repro` trains one, `dvc pull` fetches one{from_the_top()}")
    classifier = load_classifier(folder, encoders)
    if classifier.include_fine_label:
        raise QcError(
            f"{folder}: trained with the fine label before each question (tokenize.include_fine_label), which a new "
            "question has not; train one without: dvc repro"
        )
    return Predictor(classifier, load_tokenizer(encoders / classifier.vocabulary.tokenizer), device)
