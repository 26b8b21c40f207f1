"""A training stage: read the data, train or resume, write the model folder, metrics, report and curve."""

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import astuple, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qc.config.settings import Settings
from qc.files import TOKENIZER, file_sha256, write_csv, write_json
from qc.inference.model_folder import save_model
from qc.paths import Folders
from qc.runtime.device import describe_processor, pick_device, pick_precision, seed_everything
from qc.runtime.process_group import broadcast_object, is_main_process, launched_world_size, process_group
from qc.training.checkpoints import CheckpointFolder
from qc.training.data import hash_encoder, load_training_data
from qc.training.live import live_curve
from qc.training.loop import Checkpoint, Epoch
from qc.training.trainer import describe_model, train_model

SAVE_INTERVAL = {"cpu": 0.0, "cuda": 5.0}  # seconds between checkpoints: on a GPU an epoch may take less than one
ARITHMETIC = ("ATEN_", "CUBLAS_", "DNNL_", "MKL_", "ONEDNN_", "NVIDIA_TF32")  # environment variables that change sums


def run_training(name: str, settings: Settings, folders: Folders) -> None:
    """Train the model NAME and write models/NAME and train_NAME in metrics/, reports/ and plots/.

    A killed run resumes from its last whole epoch. Of several processes the main one writes.
    """
    stage = f"train_{name}"
    seed_everything(settings.seed, settings.threads)
    device = pick_device(settings.device)
    data = load_training_data(name, settings, folders)
    described = describe_model(name, data, settings)
    files = {f"{data.vocabulary.tokenizer}/{TOKENIZER}": data.vocabulary.tokenizer_sha256}
    if "encoder" in described:
        files |= hash_encoder(folders.encoders / described["encoder"])
    key = run_key({**described, "files": files}, settings, device, folders.split)
    checkpoints = CheckpointFolder(folders.checkpoints / stage, key, _warn, SAVE_INTERVAL[device.type])
    train = partial(train_model, name, data, settings, cache_folder=checkpoints.stage)
    with process_group(device):
        if not is_main_process():
            train(start=broadcast_object(None))
            return
        with checkpoints.locked(), live_curve(folders.live / stage) as show:
            start = broadcast_object(checkpoints.load())
            if start:
                _log(f"resuming {stage} from epoch {len(start.curve)}")
                show(start.curve)

            def report(checkpoint: Checkpoint) -> None:
                checkpoints.save(checkpoint)
                show(checkpoint.curve)

            trained = train(start=start, report=report, log=_log)
            save_model(
                folders.models / name, trained.model, {**described, "sizes": trained.model.sizes, "files": files}
            )
            columns = [field.name for field in fields(Epoch)]
            write_csv(folders.plots / f"{stage}.csv", columns, [astuple(epoch) for epoch in trained.curve])
            write_json(folders.reports / f"{stage}.json", trained.figures)
            write_json(folders.metrics / f"{stage}.json", {"valid_accuracy": trained.figures["valid"]["accuracy"]})
            checkpoints.remove()


def run_key(described: Mapping[str, Any], settings: Settings, device: torch.device, split: Path) -> dict[str, Any]:
    """Everything that decides the result of a run: parameters, data, encoder, code, libraries, processes, processor.

    Args:
        described: The model, and the SHA-256 of the encoder's files.
        settings: All of params.yaml.
        device: Of the run.
        split: Folder of the splits.
    """
    code = {
        name: file_sha256(Path(module.__file__))
        for name, module in sys.modules.items()
        if name.split(".")[0] in ("qc", "stages", "__main__") and getattr(module, "__file__", None)
    }
    return {
        "model": described,
        "section": settings.training()[described["model"]].model_dump(),
        "seed": settings.seed,
        "threads": torch.get_num_threads(),  # of this process, a share of the machine's
        "precision": pick_precision(settings.precision, device),
        "compile": settings.compile,
        "class_weights": settings.class_weights,
        "processes": launched_world_size(),
        "data": [file_sha256(split / f"{name}.parquet") for name in ("train", "valid")],
        "code": code,
        "versions": [platform.python_version(), torch.__version__, np.__version__],
        "arithmetic": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(ARITHMETIC)},
        "processor": describe_processor(device),
    }


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


def _log(line: str) -> None:
    print(line, flush=True)
