"""The registry of models. Adding one takes a line here; what it names is imported only when it is used.

A model NAME also has a module NAME.py in this package with NAME_parameters.py beside it, a section `train_NAME` of
params.yaml, a script `stages/train_NAME.py`, and a stage in dvc.yaml.
"""

import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qc.models.common import Classifier
    from qc.models.parameters import TrainingConfig


@dataclass(frozen=True)
class ModelType:
    """A kind of model.

    Attributes:
        title: Full name, for tables and figures.
        summary: What it is, in a sentence, for its model card.
        parameters: `module:class` of its section of params.yaml; settings need no torch, and predicting no pydantic.
        network: `module:class` of its `Classifier`.
    """

    title: str
    summary: str
    parameters: str
    network: str

    def load_parameters(self) -> "type[TrainingConfig]":
        """Import the class of its parameters."""
        return pkgutil.resolve_name(self.parameters)

    def load_class(self) -> "type[Classifier]":
        """Import the class of the network."""
        return pkgutil.resolve_name(self.network)


MODELS = {
    "scratch": ModelType(
        "transformer from scratch",
        "A transformer encoder trained from scratch (sinusoidal positions, mean of the token vectors, linear head).",
        "qc.models.scratch_parameters:ScratchTrainingConfig",
        "qc.models.scratch:ScratchClassifier",
    ),
    "prefix": ModelType(
        "prefix tuning",
        "Prefix tuning: a trainable prefix that the last layers of a frozen encoder attend to, and a linear head.",
        "qc.models.prefix_parameters:PrefixTrainingConfig",
        "qc.models.prefix:PrefixClassifier",
    ),
    "distilbert": ModelType(
        "fine-tuned encoder",
        "A pretrained encoder whose last layers, or all of them, were fine-tuned together with a small head.",
        "qc.models.distilbert_parameters:DistilbertTrainingConfig",
        "qc.models.distilbert:DistilbertClassifier",
    ),
}
