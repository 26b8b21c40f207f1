"""The registry of models. Adding one takes a line here; its class is imported only when it is used.

A model NAME also has a module in this package, a section `train_NAME` of params.yaml with a class in
`qc.models.parameters`, a script `stages/train_NAME.py`, and a stage in dvc.yaml.
"""

import pkgutil
from dataclasses import dataclass

from qc.models.classifier import Classifier


@dataclass(frozen=True)
class ModelType:
    """A kind of model.

    Attributes:
        title: Full name, for tables and figures.
        summary: What it is, in a sentence, for its model card.
        path: `module:class` of its `Classifier`.
    """

    title: str
    summary: str
    path: str

    def load_class(self) -> type[Classifier]:
        """Import the class."""
        return pkgutil.resolve_name(self.path)


MODELS = {
    "scratch": ModelType(
        "transformer from scratch",
        "A transformer encoder trained from scratch (sinusoidal positions, mean of the token vectors, linear head).",
        "qc.models.scratch:ScratchClassifier",
    ),
    "prefix": ModelType(
        "prefix tuning",
        "Prefix tuning: trainable vectors before the question, a frozen pretrained encoder, a linear head.",
        "qc.models.prefix:PrefixClassifier",
    ),
    "distilbert": ModelType(
        "fine-tuned encoder",
        "A pretrained encoder whose last layers, or all of them, were fine-tuned together with a small head.",
        "qc.models.distilbert:DistilbertClassifier",
    ),
}
