"""A training stage: read the data, train or resume, write the model folder, metrics, report and curve."""

import os
import platform
import sys
from dataclasses import astuple, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qc.files import file_sha256, write_csv, write_json
from qc.inference.model_folder import save_model
from qc.runtime.device import describe_processor, pick_device, pick_precision, seed_everything
from qc.runtime.process_group import broadcast_object, is_main_process, launched_world_size, process_group
from qc.training.checkpoints import CheckpointFolder
from qc.training.data import TrainingData, load_training_data
from qc.training.live import live_curve
from qc.training.loop import Checkpoint, Epoch
from qc.training.trainer import describe_model, train_model

if TYPE_CHECKING:
    from qc.config.settings import Settings
    from qc.paths import Folders

SAVE_INTERVAL = {"cpu": 0.0, "cuda": 5.0}  # seconds between checkpoints: on a GPU an epoch may take less than one
LIBRARIES = ("numpy", "safetensors", "tokenizers", "torch", "transformers")  # that a result is computed with
ARITHMETIC = (  # prefixes of environment variables that change sums
    "ATEN_", "CUBLAS_", "DNNL_", "MKL_", "NPY_", "NVIDIA_TF32", "ONEDNN_", "OPENBLAS_", "TORCH_ALLOW_",
)  # fmt: skip


def run_training(name: str, settings: "Settings", folders: "Folders") -> None:
    """Train the model NAME and write models/NAME and train_NAME in metrics/, reports/ and plots/.

    A killed run resumes from its last whole epoch. Of several processes the main one writes.
    """
    stage = f"train_{name}"
    seed_everything(settings.seed, settings.threads)
    device = pick_device(settings.device)
    data = load_training_data(name, settings, folders)
    key = run_key(name, data, settings, device)
    log = partial(print, flush=True)
    warn = partial(log, "warning:", file=sys.stderr)
    checkpoints = CheckpointFolder(folders.checkpoints / stage, key, warn, SAVE_INTERVAL[device.type])
    train = partial(train_model, name, data, settings, cache_folder=checkpoints.stage)
    with process_group(device):
        if not is_main_process():
            train(start=broadcast_object(None))
            return
        with checkpoints.locked(), live_curve(folders.live / stage) as show:
            start = broadcast_object(checkpoints.load())
            if start:
                log(f"resuming {stage} from epoch {len(start.curve)}")
                show(start.curve)

            def report(checkpoint: Checkpoint) -> None:
                checkpoints.save(checkpoint)
                show(checkpoint.curve)

            trained = train(start=start, report=report, log=log)
            config = {
                **describe_model(name, data, settings),
                "precision": trained.figures["precision"],
                "temperature": trained.temperature,
                "sizes": trained.model.sizes,
                "files": data.encoder_files,
            }
            save_model(folders.models / name, trained.model, config)
            columns = [field.name for field in fields(Epoch)]
            write_csv(folders.plots / f"{stage}.csv", columns, [astuple(epoch) for epoch in trained.curve])
            write_json(folders.reports / f"{stage}.json", trained.figures)
            write_json(folders.metrics / f"{stage}.json", {"valid_accuracy": trained.figures["valid"]["accuracy"]})
            checkpoints.remove()


def run_key(name: str, data: TrainingData, settings: "Settings", device: torch.device) -> dict[str, Any]:
    """Collect what decides the result of a run: parameters, data, encoder, code, libraries, processes, processor."""
    code = {
        module: file_sha256(Path(loaded.__file__))
        for module, loaded in sys.modules.items()
        if module.startswith("qc.") and not module.startswith("qc.commands") and getattr(loaded, "__file__", None)
    }
    return {
        "model": describe_model(name, data, settings),
        "section": settings.training()[name].model_dump(),
        "seed": settings.seed,
        "threads": torch.get_num_threads(),  # of this process, a share of the machine's
        "precision": pick_precision(settings.precision, device),
        "compile": settings.compile,
        "class_weights": settings.class_weights,
        "processes": launched_world_size(),
        "files": {**data.split_files, **data.encoder_files},
        "code": code,
        "versions": {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}},
        "arithmetic": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(ARITHMETIC)},
        "processor": describe_processor(device),
    }
