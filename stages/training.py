"""What the three training stages share: a model in, a model folder, metrics and a learning curve out."""

from dataclasses import astuple, fields
from typing import Any

from torch import nn

from qc.artifacts import read_json, read_table, write_csv, write_json
from qc.batching import Questions, encode
from qc.checkpoints import save_model
from qc.settings import Settings, Training
from qc.training import (
    Epoch,
    Recipe,
    cache_frozen,
    fit,
    lower_frozen,
    pick_device,
    pick_precision,
)
from stages.entry import METRICS, MODELS, PLOTS, SPLIT, TOKENIZED


def load_vocabulary() -> dict[str, Any]:
    """What the questions were tokenized with."""
    return read_json(TOKENIZED / "vocabulary.json")


def load_labels() -> dict[str, list[str]]:
    """Names of the coarse and the fine classes, each in label order."""
    return read_json(TOKENIZED / "labels.json")


def count_classes(own: Training) -> dict[str, int]:
    """How many classes a model tells apart, and how many fine ones in its second task, if it has one."""
    labels = load_labels()
    return {
        "classes": len(labels["classes"]),
        "fine_classes": len(labels["fine_classes"]) if own.fine_weight else 0,
    }


def load_split(name: str, max_length: int, special_ids: tuple[int, int] | None) -> Questions:
    """Read a split; arguments are as for `encode`."""
    columns = read_table(SPLIT / f"{name}.parquet", "input_ids", "label", "coarse", "fine").to_pydict()
    numbers = {fine: number for number, fine in enumerate(load_labels()["fine_classes"])}
    fine_labels = [numbers[f"{coarse}:{fine}"] for coarse, fine in zip(columns["coarse"], columns["fine"], strict=True)]
    return encode(columns["input_ids"], columns["label"], max_length, special_ids, fine_labels)


def train(name: str, model: nn.Module, config: dict[str, Any], settings: Settings, own: Training) -> None:
    """Train a model and write models/NAME, metrics/train_NAME.json and plots/train_NAME.csv.

    Args:
        name: The model's name, `train_NAME` being the stage.
        model: Untrained.
        config: What `config.json` says of it beside what is common to all models.
        settings: The whole of params.yaml.
        own: The stage's section.
    """
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    special_ids = tuple(config["special_ids"]) if config["special_ids"] else None
    train_split, valid_split = (
        load_split(split, settings.max_length, special_ids).to(device) for split in ("train", "valid")
    )
    config = {
        "model": name,
        "labels": load_labels(),
        "vocabulary": load_vocabulary(),
        "max_length": settings.max_length,
        **config,
    }
    model.to(device)
    lower_frozen(model, precision)
    if getattr(own, "cache_frozen", False):
        train_split, valid_split = (cache_frozen(model, split, precision) for split in (train_split, valid_split))

    parameters = list(model.parameters())
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    print(f"{name}: {trainable:,} trainable parameters, {len(train_split)} questions, {device.type}, {precision}")
    recipe = Recipe(**{field.name: getattr(own, field.name) for field in fields(Recipe)})
    result = fit(model, train_split, valid_split, recipe, settings.seed, precision, _print_epoch)

    save_model(MODELS / name, model, config)
    write_csv(
        PLOTS / f"train_{name}.csv", [field.name for field in fields(Epoch)], [astuple(epoch) for epoch in result.curve]
    )
    write_json(
        METRICS / f"train_{name}.json",
        {
            "parameters": {"total": sum(parameter.numel() for parameter in parameters), "trainable": trainable},
            "epochs": len(result.curve),
            "best_epoch": result.best.epoch,
            "valid": {"accuracy": result.best.valid_accuracy, "loss": result.best.valid_loss},
            "precision": precision,
            "padding_share": result.padding_share,
        },
    )


def _print_epoch(epoch: Epoch, best: bool) -> None:
    print(
        f"epoch {epoch.epoch:3d}  train loss {epoch.train_loss:.4f}  valid loss {epoch.valid_loss:.4f}  "
        f"valid accuracy {epoch.valid_accuracy:.4f}{'  *' if best else ''}",
        flush=True,
    )
