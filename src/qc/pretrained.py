"""Pretrained encoders, from the folders that the fetch stage fills."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from qc.artifacts import file_sha256, read_json
from qc.errors import QcError, explain, reason
from qc.models.encoder import Encoder, TrainableLayers
from qc.schema import LONGEST_SHOWN
from qc.sources import CONFIG, WEIGHTS


def load_encoder(folder: Path, trainable_layers: TrainableLayers = 0) -> Encoder:
    """Build the pretrained encoder in `folder`, in fp32 and evaluation mode.

    Args:
        folder: With config.json and model.safetensors.
        trainable_layers: How many of its last layers are trained, or all of it, see `Encoder`.

    Raises:
        QcError: Its files are missing or broken, or it is none that `transformers` reads without code of its own.
    """
    published = read_json(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise QcError(f"{folder / WEIGHTS}: no such file; `dvc checkout` or the fetch stage brings it back")
    # Imported here: it takes as long as the rest of a stage's start, and scratch does without.
    from transformers import AutoModel
    from transformers.utils import logging

    check_family(published, folder / CONFIG)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):  # whatever it draws, what follows draws the same
            model, found = AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, SafetensorError) as error:
        raise QcError(f"{folder / WEIGHTS}: cannot be read: {error}; the fetch stage brings it back") from None
    except Exception as error:  # a configuration can be wrong in as many ways as there are families
        if explain(error):  # no memory, say
            raise
        words = " ".join(str(error).split())[:LONGEST_SHOWN]
        raise QcError(f"{folder / CONFIG}: transformers cannot build this encoder: {words}") from None
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise QcError(
            f"{folder / WEIGHTS}: no weights for {', '.join(missing[:3])} ({len(missing)} missing in all); take an "
            "encoder whose config.json and weights belong together"
        )
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # memory of its own, not a part of the file
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # not used here
    return Encoder(model.eval(), trainable_layers)


def check_family(published: Mapping[str, Any], path: Path) -> None:
    """Refuse what is no encoder of `transformers`.

    Args:
        published: The content of config.json.
        path: Where it is, for messages.

    Raises:
        QcError: It is a decoder, an encoder-decoder, or of a family that takes code from its repository.
    """
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    family = published.get("model_type")
    if family not in CONFIG_MAPPING:
        fault = "takes code of its own repository, which is never run"
        if "auto_map" not in published:
            fault = "is unknown to this version of transformers"
    elif published.get("is_encoder_decoder", CONFIG_MAPPING[family].is_encoder_decoder):
        fault = "is an encoder-decoder"
    elif published.get("is_decoder") or family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        fault = "is a decoder, or does not read text"
    else:
        return
    raise QcError(
        f"{path}: model_type {family!r} {fault}; take an encoder such as BERT, RoBERTa, MPNet, DeBERTa or ModernBERT"
    )


def encoder_files(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that make the network of the encoder in `folder`, by `NAME/FILE`."""
    found = {}
    for name in (CONFIG, WEIGHTS):
        path = folder / name
        try:
            found[f"{folder.name}/{name}"] = file_sha256(path)
        except OSError as error:
            raise QcError(f"{path}: {reason(error)}; `dvc checkout` or the fetch stage brings it back") from None
    return found
