"""Training a model: data and settings in, a trained model, its curve and its figures out. No paths."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qc.inference.batches import pack
from qc.inference.logits import predict
from qc.inference.temperature import fit_temperature
from qc.models.common import Classifier, Task
from qc.models.parameters import EncoderTrainingConfig
from qc.models.registry import MODELS
from qc.runtime.device import pick_device, pick_precision, seed_everything
from qc.runtime.process_group import is_main_process, world_size
from qc.training.data import TrainingData
from qc.training.loop import Checkpoint, Epoch, balanced_weights, fit
from qc.training.precomputed import OnFeatures, cast_frozen, precompute_features

if TYPE_CHECKING:
    from qc.config.settings import Settings


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        model: It holds the weights of the best epoch.
        curve: One row an epoch.
        figures: Content of reports/train_NAME.json.
        valid_logits: (N, classes) of the validation split, in its order.
        temperature: Softmax temperature fitted on them; None where it cannot be told.
    """

    model: Classifier
    curve: list[Epoch]
    figures: dict[str, Any]
    valid_logits: Tensor
    temperature: float | None


def train_model(
    name: str,
    data: TrainingData,
    settings: "Settings",
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
    config = settings.training()[name]
    max_length = config.tokens_kept(settings.max_length)
    seed_everything(settings.seed, settings.threads)
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    model_class, vocabulary = MODELS[name].load_class(), data.vocabulary
    train, valid = (
        pack(
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
    parameters = {
        "total": sum(weights.numel() for weights in model.parameters()),
        "trainable": sum(weights.numel() for weights in model.parameters() if weights.requires_grad),
    }
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    log(
        f"{name}: {parameters['trainable']:,} trainable parameters, {len(train)} questions, {device.type}, {precision}"
        f"{processes}"
    )
    cast_frozen(model, precision)
    train, valid, forward = train.to(device), valid.to(device), None
    if isinstance(config, EncoderTrainingConfig) and config.cache_frozen and model.has_frozen_part:
        folder = cache_folder or Path(gettempdir())
        train, valid = (
            precompute_features(model, split, precision, config.cache_memory, folder) for split in (train, valid)
        )
        forward = OnFeatures(model)

    def report_epoch(checkpoint: Checkpoint) -> None:
        report(checkpoint)
        epoch = checkpoint.curve[-1]
        log(
            f"epoch {epoch.epoch:3d}  train loss {epoch.train_loss:.4f}  valid loss {epoch.valid_loss:.4f}  "
            f"valid accuracy {epoch.valid_accuracy:.4f}{'  *' if epoch.epoch == checkpoint.best else ''}"
        )

    end = fit(
        model,
        train,
        valid,
        config,
        settings.seed,
        precision,
        class_weights=balanced_weights(train.labels, task.classes) if settings.class_weights else None,
        forward=forward,
        compiled=settings.compile,
        start=start,
        report=report_epoch if is_main_process() else lambda checkpoint: None,
    )
    best = end.curve[end.best - 1]
    figures = {
        "parameters": parameters,
        "epochs": len(end.curve),
        "best_epoch": end.best,
        "valid": {"accuracy": best.valid_accuracy, "macro_f1": best.valid_macro_f1, "loss": best.valid_loss},
        "precision": precision,
        "padding_share": sum(end.padding_shares) / len(end.padding_shares),
    }
    valid_logits = predict(model, valid, precision, forward)
    return Trained(model, end.curve, figures, valid_logits, fit_temperature(valid_logits, valid.labels.cpu()))


def describe_model(name: str, data: TrainingData, settings: "Settings") -> dict[str, Any]:
    """Content of config.json that is known before training."""
    config = settings.training()[name]
    on_encoder = isinstance(config, EncoderTrainingConfig)
    return {
        "model": name,
        "labels": data.labels.record(),
        "max_length": config.tokens_kept(settings.max_length),
        **({"encoder": config.encoder, "upper_layers": config.upper_layers} if on_encoder else {}),
        "vocabulary": data.vocabulary.record(),
    }
