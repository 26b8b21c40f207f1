"""Model folders.

model.safetensors   what was trained, and nothing else
config.json         all it takes to rebuild the model around it; `files` holds the SHA-256 of every file it stands on,
                    its own weights and the encoder's files, and `content_sha256` that of its own content
README.md           its model card
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qc.artifacts import file_sha256, new_folder, read_json, rounded, write_json
from qc.errors import QcError, reason
from qc.sources import CARD, CONFIG, WEIGHTS


def save_model(folder: Path, model: nn.Module, config: Mapping[str, Any], card: str) -> None:
    """Write the trained parameters and the persistent buffers of a model, its config and its card as a model folder."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items() if name not in frozen}
    with new_folder(folder) as temporary:
        write_weights(temporary / WEIGHTS, tensors)
        files = {WEIGHTS: file_sha256(temporary / WEIGHTS), **config["files"]}
        write_config(temporary, {**config, "files": files})
        (temporary / CARD).write_text(card, encoding="utf-8")


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the config of a model folder, and a hash of its content with it."""
    write_json(folder / CONFIG, {**config, "content_sha256": _content_sha256(config)})


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a model folder; QcError where it is missing, broken, or changed since it was written."""
    config = read_json(folder / CONFIG)
    recorded = config.pop("content_sha256", None)
    if recorded != _content_sha256(config):
        raise QcError(
            f"{folder / CONFIG}: not a model of this version, or changed since training: its content_sha256 is not "
            "that of its content; `dvc checkout` or `dvc repro` brings the model back"
        )
    return config


def verify(folder: Path, config: Mapping[str, Any], encoders: Path) -> None:
    """Check every file that a model stands on against the SHA-256 that its config has of it.

    Args:
        folder: The model folder.
        config: Its config; of `files`, a bare name is a file of the model folder, `NAME/FILE` one of an encoder.
        encoders: The folder that holds a folder for each pretrained encoder.

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
            found = file_sha256(path)
        except OSError as error:
            raise QcError(
                f"{path}: {reason(error)}; `dvc checkout`, `dvc pull` or `dvc repro` brings it back"
            ) from None
        if found != expected:
            raise QcError(
                f"{path}: SHA-256 {found}, but {folder / CONFIG} was trained with {expected}; `dvc checkout` or `dvc "
                "pull` brings that file back (`make cache` first, if a disk damaged it), `dvc repro` trains on what is "
                "there"
            )


def _content_sha256(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config as JSON in one form."""
    return hashlib.sha256(json.dumps(rounded(config), sort_keys=True).encode()).hexdigest()


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file; OSError where the system does not let it."""
    try:
        save_file(dict(tensors), path, metadata)
    except SafetensorError as error:
        raise OSError(str(error).removeprefix("Error while serializing: I/O error: ")) from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; QcError where it is missing or broken."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise QcError(f"{path}: cannot be read: {error}; `dvc repro` makes it anew") from None


def fill(model: nn.Module, trained: Mapping[str, Tensor], path: Path) -> None:
    """Put trained tensors into a model built from the same configuration.

    Args:
        model: What `save_model` was given, with other values in its trained parameters.
        trained: Tensors by name.
        path: Where they were read from, for messages.

    Raises:
        QcError: Names or shapes are not those of the model.
    """
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    state = model.state_dict()
    expected = state.keys() - frozen
    if expected != trained.keys():
        different = sorted(expected ^ trained.keys())
        raise QcError(f"{path}: does not fit its config.json: {different[0]} and {len(different) - 1} more differ")
    for name in expected:
        if state[name].shape != trained[name].shape:
            raise QcError(f"{path}: {name} has shape {tuple(trained[name].shape)}, not {tuple(state[name].shape)}")
    model.load_state_dict(dict(trained), strict=False)
