"""Model folders: a trained model on disk.

model.safetensors   the trained tensors
config.json         everything that rebuilding the model needs; `files` holds the SHA-256 of every file it depends on,
                    its own weights and the encoder's files, and `content_sha256` that of its own content
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from qc.errors import QcError, reason
from qc.files import CONFIG, WEIGHTS, file_sha256, new_folder, read_json, round_floats, write_json
from qc.inference.batches import PackedDataset, pack
from qc.inference.logits import predict
from qc.inference.weights import write_weights
from qc.models.common import Classifier
from qc.models.registry import MODELS
from qc.questions.vocabulary import Vocabulary
from qc.runtime.device import Precision

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class TrainedModel:
    """A trained model and the input it expects.

    Attributes:
        model: Maps (inputs, mask) to logits (B, classes).
        classes: Class names in the order of their numbers.
        max_length: Tokens kept of a question, special tokens not counted.
        vocabulary: Its token ids.
        precision: Of the matrix products in training.
        temperature: Softmax temperature fitted on validation; None where none could be fitted.
    """

    model: Classifier
    classes: list[str]
    max_length: int
    vocabulary: Vocabulary
    precision: Precision
    temperature: float | None

    def pack(self, input_ids: "Sequence[Sequence[int]] | pyarrow.ListArray", labels: Sequence[int]) -> PackedDataset:
        """Pack token ids, special tokens included, and class numbers."""
        return pack(self.vocabulary, input_ids, labels, self.max_length, keep_special=self.model.special_tokens)

    def predict(self, questions: PackedDataset, precision: Precision = "fp32") -> Tensor:
        """Compute the logits (N, classes) of packed questions, see `logits.predict`."""
        return predict(self.model, questions, precision)


def save_model(folder: Path, model: nn.Module, config: Mapping[str, Any]) -> None:
    """Write the trained parameters and the persistent buffers of a model, and its config, as a model folder."""
    frozen = _frozen(model)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items() if name not in frozen}
    with new_folder(folder) as temporary:
        write_weights(temporary / WEIGHTS, tensors)
        files = {WEIGHTS: file_sha256(temporary / WEIGHTS), **config["files"]}
        write_config(temporary, {**config, "files": files})


def load_model(folder: Path, encoders: Path) -> TrainedModel:
    """Rebuild a trained model.

    Args:
        folder: A model folder.
        encoders: The folder with a folder for each pretrained encoder.

    Raises:
        QcError: The folder is broken, its model unknown, or a file is not the one that it was trained with.
    """
    config = read_config(folder)
    try:
        verify_files(folder, config, encoders)
        trained = load_file(folder / WEIGHTS)
        model_class = MODELS[config["model"]].load_class()
        encoder = model_class.load_encoder(encoders / config.get("encoder", ""), config.get("upper_layers"))
        model = model_class.rebuild(config["sizes"], trained, encoder)
        missing, unknown = model.load_state_dict(trained, strict=False)
        if unknown or not _frozen(model).issuperset(missing):
            raise ValueError(f"{WEIGHTS} lacks {missing}, has {unknown}")
        return TrainedModel(
            model=model,
            classes=config["labels"]["classes"],
            max_length=config["max_length"],
            vocabulary=Vocabulary(**config["vocabulary"]),
            precision=config["precision"],
            temperature=config["temperature"],
        )
    except (LookupError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise QcError(
            f"{folder / CONFIG}: not a model of this version: {error!r}; run `dvc repro` to retrain"
        ) from None


def _frozen(model: nn.Module) -> set[str]:
    """Names of the parameters that are not trained."""
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the config of a model folder, with a hash of its content."""
    write_json(folder / CONFIG, {**config, "content_sha256": _content_sha256(config)})


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config of a model folder.

    Raises:
        QcError: It is missing, broken, or changed since it was written.
    """
    config = read_json(folder / CONFIG)
    recorded = config.pop("content_sha256", None)
    if recorded != _content_sha256(config):
        raise QcError(
            f"{folder / CONFIG}: not a model of this version, or changed since training: its content_sha256 is not "
            "that of its content; `dvc checkout` or `dvc repro` restores the model"
        )
    return config


def verify_files(folder: Path, config: Mapping[str, Any], encoders: Path) -> None:
    """Compare every file that a model depends on with the SHA-256 in its config.

    In `files` of the config a bare name is a file of the model folder, `NAME/FILE` one of an encoder.

    Raises:
        QcError: A file is missing, or is not the one that the model was trained with.
    """
    for name, expected in config["files"].items():
        path = (encoders if "/" in name else folder) / name
        if path.parent != folder and not path.parent.is_dir():
            raise QcError(
                f"{path.parent}: no such encoder; name it under fetch.encoders in params.yaml and run `dvc repro`"
            )
        try:
            digest = file_sha256(path)
        except OSError as error:
            raise QcError(f"{path}: {reason(error)}; `dvc checkout`, `dvc pull` or `dvc repro` restores it") from None
        if digest != expected:
            raise QcError(
                f"{path}: SHA-256 {digest}, but {folder / CONFIG} was trained with {expected}; `dvc checkout` or `dvc "
                "pull` restores that file (`qc doctor` first, if a disk damaged it), `dvc repro` trains on the "
                "present one"
            )


def _content_sha256(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config as canonical JSON."""
    return hashlib.sha256(json.dumps(round_floats(config), sort_keys=True).encode()).hexdigest()
