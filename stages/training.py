"""What the three training stages share: a model in, a model folder, metrics and a learning curve out."""

import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pynvml
import torch
from torch import nn

from qc.artifacts import file_sha256, read_column, read_json, read_table, write_csv, write_json
from qc.batching import Questions, encode
from qc.cards import CardFacts, model_card
from qc.checkpoints import save_model
from qc.frozen import cache_frozen, lower_frozen
from qc.processes import count, is_first, joined, of_first, started
from qc.resume import StateFolder
from qc.settings import OnEncoder, Settings, Training
from qc.sources import RECORD, TOKENIZER
from qc.training import Epoch, Recipe, Result, State, best_epoch, fit, pick_device, pick_precision
from stages.entry import (
    ENCODERS,
    FILES,
    INPUT_IDS,
    LABELS,
    METRICS,
    MODELS,
    PLOTS,
    SPLIT,
    STATES,
    TOKENIZED,
    VOCABULARY,
)
from stages.progress import live_curve

ARITHMETIC = ("ATEN_", "CUBLAS_", "DNNL_", "MKL_", "ONEDNN_", "NVIDIA_TF32")  # variables that steer how sums are made
TRAIN, VALID = SPLIT / "train.parquet", SPLIT / "valid.parquet"


def load_vocabulary(encoder: str) -> dict[str, Any]:
    """What the ids of an encoder's tokenizer are, see `qc.texts.Vocabulary`, and how texts were treated."""
    return read_json(TOKENIZED / encoder / VOCABULARY)


def load_labels() -> dict[str, list]:
    """Names of the coarse classes, and the fine ones as [coarse, fine], each in label order."""
    return read_json(LABELS)


def describe_classes(own: Training) -> dict[str, Any]:
    """How many classes a model tells apart, and in which of them each fine one lies if it has that second task."""
    labels = load_labels()
    coarse_of = [labels["classes"].index(coarse) for coarse, _ in labels["fine_classes"]]
    return {"classes": len(labels["classes"]), "coarse_of": coarse_of if own.fine_weight else []}


def kept_tokens(settings: Settings, own: Training) -> int:
    """The tokens that a model keeps of a question, special tokens not counted."""
    return own.max_length or settings.max_length


def load_split(path: Path, vocabulary: Mapping[str, Any], max_length: int, keep_special: bool) -> Questions:
    """Read a split as the tokenizer of `vocabulary` has it; the rest is as for `encode`."""
    table = read_table(path, "id", "label", "fine").combine_chunks()
    input_ids = read_column(TOKENIZED / vocabulary["tokenizer"] / INPUT_IDS, table["id"].to_numpy(), "input_ids")
    labels = table["label"].to_numpy()
    return encode(
        input_ids,
        labels,
        max_length,
        (len(vocabulary["before"]), len(vocabulary["after"])),
        fine_numbers(labels, table["fine"].chunk(0)),
        keep_special=keep_special,
        pad_id=vocabulary["pad_id"],
    )


def fine_numbers(labels: np.ndarray, fine: pyarrow.StringArray) -> np.ndarray | None:
    """The number (N,) of each question's fine class; None where there are no fine classes.

    Args:
        labels: (N,) numbers of the coarse classes.
        fine: (N,) names of the fine ones.
    """
    names = load_labels()
    if not names["fine_classes"]:
        return None
    fine = fine.dictionary_encode()
    columns = {name: column for column, name in enumerate(fine.dictionary.to_pylist())}
    numbers = np.full((len(names["classes"]), len(columns)), -1)
    for number, (coarse, name) in enumerate(names["fine_classes"]):
        if name in columns:
            numbers[names["classes"].index(coarse), columns[name]] = number
    return numbers[labels, fine.indices.to_numpy()]


def recipe_of(own: Training) -> Recipe:
    """How a section says to train."""
    return Recipe(**{field.name: getattr(own, field.name) for field in fields(Recipe)})


def train(name: str, model: nn.Module, config: dict[str, Any], settings: Settings, own: Training) -> None:
    """Train a model and write models/NAME, metrics/train_NAME.json and plots/train_NAME.csv.

    A run that was killed goes on from its last whole epoch. Of several processes the first keeps states and writes.

    Args:
        name: The model's name, `train_NAME` being the stage.
        model: Untrained.
        config: What `config.json` says of it beside what is common to all models.
        settings: The whole of params.yaml.
        own: The stage's section.
    """
    stage = f"train_{name}"
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    max_length, vocabulary = kept_tokens(settings, own), config["vocabulary"]
    splits = [load_split(path, vocabulary, max_length, config["special_tokens"]) for path in (TRAIN, VALID)]
    tokenizer = {f"{vocabulary['tokenizer']}/{TOKENIZER}": vocabulary["tokenizer_sha256"]}
    config = {
        "model": name,
        "labels": load_labels(),
        "max_length": max_length,
        **config,
        "files": {**tokenizer, **config["files"]},
    }
    states = StateFolder(STATES / stage, _run_key(config, settings, own, device, precision), _warn)

    def train_from(start: State | None, report: Callable[[State], None] = lambda state: None) -> Result:
        """What every process does."""
        start = of_first(start)
        model.to(device)
        lower_frozen(model, precision)
        prepared = [split.to(device) for split in splits]
        if isinstance(own, OnEncoder) and own.cache_frozen and model.keeps_frozen:
            prepared = [cache_frozen(model, split, precision, own.cache_memory, states.stage) for split in prepared]
        return fit(
            model,
            *prepared,
            recipe_of(own),
            settings.seed,
            precision,
            compiled=settings.compile,
            start=start,
            report=report,
        )

    with joined(device):
        if not is_first():
            train_from(None)
            return
        side_by_side = f", {count()} processes" if count() > 1 else ""
        print(
            f"{name}: {_sizes(model)['trainable']:,} trainable parameters, {len(splits[0])} questions, {device.type}, "
            f"{precision}{side_by_side}",
            flush=True,
        )
        with states.locked(), live_curve(stage) as show:
            start = states.load()
            if start:
                print(f"resuming {stage} from epoch {len(start.curve)}", flush=True)
                show(start.curve)

            def report(state: State) -> None:
                states.save(state)
                show(state.curve)
                _print_epoch(state.curve)

            result = train_from(start, report)
            metrics = {
                "parameters": _sizes(model),
                "epochs": len(result.curve),
                "best_epoch": result.best.epoch,
                "valid": {"accuracy": result.best.valid_accuracy, "loss": result.best.valid_loss},
                "precision": precision,
                "padding_share": result.padding_share,
            }
            training = {"seed": settings.seed, "threads": settings.threads, **own.model_dump()}
            sizes = {path.stem: len(split) for path, split in zip((TRAIN, VALID), splits, strict=True)}
            save_model(MODELS / name, model, config, model_card(_card_facts(name, config, metrics, training, sizes)))
            columns = [field.name for field in fields(Epoch)]
            write_csv(PLOTS / f"{stage}.csv", columns, [astuple(epoch) for epoch in result.curve])
            write_json(METRICS / f"{stage}.json", metrics)
            states.remove()


def _sizes(model: nn.Module) -> dict[str, int]:
    """How many parameters a model has, and how many of them are trained."""
    parameters = list(model.parameters())
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return {"total": sum(parameter.numel() for parameter in parameters), "trainable": trainable}


def _card_facts(
    name: str, config: dict[str, Any], metrics: dict[str, Any], training: dict[str, Any], sizes: dict[str, int]
) -> CardFacts:
    """What the model card tells; `sizes` holds the questions of each split, the rest is as for `CardFacts`."""
    return CardFacts(
        name,
        config,
        metrics,
        files=read_json(FILES),
        splits={split: (size, file_sha256(SPLIT / f"{split}.parquet")) for split, size in sizes.items()},
        encoder=read_json(ENCODERS / config["encoder"] / RECORD) if "encoder" in config else None,
        training=training,
    )


def _run_key(
    config: dict[str, Any], settings: Settings, own: Training, device: torch.device, precision: str
) -> dict[str, Any]:
    """Everything that decides a run's result: parameters, data, encoder, code, libraries, processes and processor.

    Of the encoder and the tokenizer, `files` in the model's config has the SHA-256 of each file.
    """
    code = {
        name: file_sha256(Path(module.__file__))
        for name, module in sys.modules.items()
        if name.split(".")[0] in ("qc", "stages", "__main__") and getattr(module, "__file__", None)
    }
    return {
        "config": config,
        "section": own.model_dump(),
        "seed": settings.seed,
        "threads": torch.get_num_threads(),  # of this process, which shares the machine's with others
        "precision": precision,
        "compile": settings.compile,
        "processes": started(),
        "data": [file_sha256(path) for path in (TRAIN, VALID)],
        "code": code,
        "versions": [platform.python_version(), torch.__version__, np.__version__],
        "arithmetic": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(ARITHMETIC)},
        "processor": _describe_gpu() if device.type == "cuda" else dict(torch.cpu.get_capabilities()),
    }


def _describe_gpu() -> dict[str, Any]:
    """What of a GPU and the software below PyTorch decides the bits of a result."""
    pynvml.nvmlInit()
    return {
        "name": torch.cuda.get_device_name(),
        "driver": pynvml.nvmlSystemGetDriverVersion(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


def _print_epoch(curve: list[Epoch]) -> None:
    epoch = curve[-1]
    print(
        f"epoch {epoch.epoch:3d}  train loss {epoch.train_loss:.4f}  valid loss {epoch.valid_loss:.4f}  "
        f"valid accuracy {epoch.valid_accuracy:.4f}{'  *' if best_epoch(curve) is epoch else ''}",
        flush=True,
    )
