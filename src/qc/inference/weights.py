"""Reading and writing weights as safetensors."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qc.errors import QcError


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file; OSError where it cannot be written."""
    try:
        save_file(dict(tensors), path, metadata)
    except SafetensorError as error:
        raise OSError(str(error).removeprefix("Error while serializing: I/O error: ")) from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; QcError where it is missing or broken."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise QcError(f"{path}: cannot be read: {error}; run `dvc repro` to recreate it") from None


def load_trained_weights(model: nn.Module, trained: Mapping[str, Tensor], path: Path) -> None:
    """Load trained tensors into a model of the same configuration.

    Args:
        model: The rebuilt model.
        trained: Tensors by name.
        path: Their file, for messages.

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
