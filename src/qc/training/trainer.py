"""Training a model: data and settings in, a trained model, its curve and its figures out. No paths."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from torch import Tensor, nn

from qc.config.settings import Settings
from qc.inference.batches import pack_ids
from qc.inference.logits import predict
from qc.models.common import Classifier, Task
from qc.models.parameters import EncoderTrainingConfig
from qc.models.registry import MODELS
from qc.runtime.device import pick_device, pick_precision, seed_everything
from qc.runtime.process_group import is_main_process, world_size
from qc.training.data import TrainingData
from qc.training.loop import Checkpoint, Epoch, balanced_weights, fit
from qc.training.precomputed import cast_frozen, precompute_frozen


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        model: It holds the weights of the best epoch.
        curve: One row an epoch.
        figures: Content of reports/train_NAME.json.
        predict_valid: Computes the logits (N, classes) of the validation split, in its order.
    """

    model: Classifier
    curve: list[Epoch]
    figures: dict[str, Any]
    predict_valid: Callable[[], Tensor]


def train_model(
    name: str,
    data: TrainingData,
    settings: Settings,
    *,
    start: Checkpoint | None = None,
    report: Callable[[Checkpoint], None] = lambda checkpoint: None,
    log: Callable[[str], None] = lambda line: None,
    cache_folder: Path | None = None,
) -> Trained:
    """Train the model NAME of the registry.

    Args:
        name: Its name in the registry.
        data: Splits, class names, vocabulary and encoder.
        settings: All of params.yaml; the section `train_NAME` says how to train.
        start: Checkpoint to resume from.
        report: Called after every epoch with a checkpoint.
        log: Called with a line of text at the start and after every epoch.
        cache_folder: Folder for features that do not fit in memory; None: the system's folder for temporary files.

    Raises:
        QcError: The loss is not finite, or the settings do not fit this machine.
    """
    config, max_length = settings.training()[name], settings.max_length_of(name)
    seed_everything(settings.seed, settings.threads)
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    model_class, vocabulary = MODELS[name].load_class(), data.vocabulary
    train, valid = (
        pack_ids(
            vocabulary,
            split.input_ids,
            split.labels,
            max_length,
            keep_special=model_class.special_tokens,
            fine_labels=split.fine_labels,
        )
        for split in (data.train, data.valid)
    )
    task = Task(
        classes=len(data.labels.classes),
        coarse_of=data.labels.coarse_of() if config.fine_weight else [],
        max_length=max_length,
        vocab_size=vocabulary.size,
        unknown_id=vocabulary.unknown_id,
        pad_id=vocabulary.pad_id,
        token_counts=torch.bincount(train.values),
    )
    model = model_class.create(config, task, data.encoder).to(device)
    parameters = count_parameters(model)
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    log(
        f"{name}: {parameters['trainable']:,} trainable parameters, {len(train)} questions, {device.type}, {precision}"
        f"{processes}"
    )
    cast_frozen(model, precision)
    train, valid = train.to(device), valid.to(device)
    if isinstance(config, EncoderTrainingConfig) and config.cache_frozen and model.has_frozen_part:
        folder = cache_folder or Path(gettempdir())
        train, valid = (
            precompute_frozen(model, split, precision, config.cache_memory, folder) for split in (train, valid)
        )

    def report_epoch(checkpoint: Checkpoint) -> None:
        report(checkpoint)
        log(_epoch_line(checkpoint.curve[-1], checkpoint.best))

    result = fit(
        model,
        train,
        valid,
        config,
        settings.seed,
        precision,
        class_weights=balanced_weights(train.labels, task.classes) if settings.class_weights else None,
        compiled=settings.compile,
        start=start,
        report=report_epoch if is_main_process() else lambda checkpoint: None,
    )
    figures = {
        "parameters": parameters,
        "epochs": len(result.curve),
        "best_epoch": result.best.epoch,
        "valid": {
            "accuracy": result.best.valid_accuracy,
            "macro_f1": result.best.valid_macro_f1,
            "loss": result.best.valid_loss,
        },
        "precision": precision,
        "padding_share": result.padding_share,
    }
    return Trained(model, result.curve, figures, partial(predict, model, valid, precision))


def describe_model(name: str, data: TrainingData, settings: Settings) -> dict[str, Any]:
    """Content of config.json that is known before training: all but `sizes` and `files`."""
    config = settings.training()[name]
    on_encoder = isinstance(config, EncoderTrainingConfig)
    return {
        "model": name,
        "labels": data.labels.record(),
        "max_length": settings.max_length_of(name),
        **({"encoder": config.encoder, "upper_layers": config.upper_layers} if on_encoder else {}),
        "vocabulary": data.vocabulary.record(),
    }


def count_parameters(model: nn.Module) -> Mapping[str, int]:
    """Count all parameters, and those that are trained."""
    parameters = list(model.parameters())
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return {"total": sum(parameter.numel() for parameter in parameters), "trainable": trainable}


def _epoch_line(epoch: Epoch, best: int) -> str:
    return (
        f"epoch {epoch.epoch:3d}  train loss {epoch.train_loss:.4f}  valid loss {epoch.valid_loss:.4f}  "
        f"valid accuracy {epoch.valid_accuracy:.4f}{'  *' if epoch.epoch == best else ''}"
    )
